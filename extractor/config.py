"""What is extracted, how much of it, and how it is refreshed: without torch."""

from dataclasses import dataclass
from typing import Final

RESULTS: Final = (  # keys that decide what the network learns; the others come after
    "item_fields", "user_fields", "category", "width", "interaction_width",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExtractorConfig:
    """What the model "keep" learns, what is taken from it, and when."""

    item_fields: tuple[str, ...] = ()  # id features that belong to the item, as a publisher
    user_fields: tuple[str, ...] = ()  # and to the user, as a country
    category: str = ""  # the item's, for kind "interaction"; empty: clusters of items
    width: int = 32  # of kinds "user" and "item": 30 factors and two biases
    interaction_width: int = 16  # of kind "interaction": users × categories are many
    clusters: int = 32  # where there is no category: as many as a site has sections
    active_h: float | None = 72.0  # event time; who was not seen since keeps the vector there is
    max_entities: int = 1_000_000  # of a kind, the latest seen first: 0.4 GB with item states
    max_pairs: int = 2_000_000  # users × categories, the latest users first: 0.15 GB; 0: none
    refresh_every_s: float | None = None  # event time; None: at the end of what is read
    time_limit_s: float | None = None  # of training in one refresh, wall time; None: all there is
    lag_s: float = 30.0  # what a refresh may take: a backfill's generations count from then on
    min_seen: int = 5  # impressions; rarer entities do not take part in the alignment
    smooth: float = 0.0  # weight of the last vectors; it calms a switch and costs freshness
    tolerance: float = 0.01  # a vector is written if it has changed by more, relative: float16's
    rebuild_every: int = 144  # generations; every other one only adds to the one before: a day
    keep: int | None = None  # generations, the newest; None: all, so that any time can be replayed
    min_cosine: float = 0.7  # mean, to the last generation; production sees .87 after a month
    max_loss_rise: float = 0.1  # of an hour's loss: hours differ by some percent, a wreck by more

    def __post_init__(self) -> None:
        if self.width < 3:
            raise ValueError(f"width is {self.width}: two of it are biases. Set it to 3 or more.")
        least = {"interaction_width": 1, "clusters": 1, "max_entities": 1, "max_pairs": 0}
        for name, value in {**least, "min_seen": 1, "rebuild_every": 1}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}. Set it to {value} or more.")
        for name in ("active_h", "refresh_every_s", "time_limit_s"):
            if (limit := getattr(self, name)) is not None and not limit > 0:
                raise ValueError(f'{name} is {limit}. Set it above 0, or "off".')
        if not 0 <= self.smooth < 1 or self.tolerance < 0 or self.lag_s < 0:
            raise ValueError("smooth lies between 0 and 1; tolerance and lag_s are 0 or more")
        if self.keep is not None and self.keep < 1:
            raise ValueError(f'keep is {self.keep}. Set it to 1 or more, or "off".')
        if not -1 <= self.min_cosine < 1 or not self.max_loss_rise >= 0:
            raise ValueError("min_cosine lies between -1 and 1, max_loss_rise is 0 or more")
        fields = (*self.item_fields, *self.user_fields)
        if len(set(fields)) < len(fields):
            raise ValueError(f"{list(fields)}: a field belongs to the item or the user, once")

    @property
    def all_item_fields(self) -> tuple[str, ...]:
        """The item's fields, its category among them."""
        return tuple(dict.fromkeys((*self.item_fields, *([self.category] * bool(self.category)))))
