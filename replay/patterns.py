"""What columns are usually called: patterns of names, searched in any case, the surest first."""

from typing import Final

USER: Final = r"^(user|uid|customer|visitor|member|account|client|reviewer|person|viewer)_?(id)?$"
USER_LIKE: Final = r"(user|customer|visitor|cookie).*id$|^(ip|device_id|session_id)$"
ITEM: Final = (
    r"^(item|article|product|movie|ad|news|video|song|track|book|doc|asin|sku|goods)_?(id)?$"
)
ITEM_LIKE: Final = r"(item|article|product|movie|creative|campaign|video).*id$|^app(_id)?$"
TIME: Final = r"^(ts|time|timestamp|datetime|date|(impression|event|click|show|view|request)_time)$"
TIME_LIKE: Final = r"time|date|(^|_)ts$|_at$"
LABEL: Final = (
    r"^(is_)?(click(ed)?|label|target|attributed|convert(ed)?|conversion|purchased?|installed|y)$"
)
RATING: Final = r"^(rating|stars|score|overall)$"
REQUEST: Final = r"impression|request|slate|query|search|auction|page_?view|(^|_)list_id$"
SCENE: Final = r"scen(e|ario)|placement|surface|^page(_type)?$|(^|_)domain|(^|_)tab$|section"
POSITION: Final = r"^(position|pos|rank|slot)$|_(position|rank)$"
AFTERWARDS: Final = (
    r"^next_|_after$|^after_|(^|_)clicked(_|$)|attributed|conver|dwell|read_?time|scroll|watch|"
    r"play_?time|duration"
)
ID_NAME: Final = r"(^|_)(id|code|type|category|class)$"
