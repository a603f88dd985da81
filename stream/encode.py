"""Events to messages: NDJSON values of one or many events."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import orjson


def encode_event(event: Mapping[str, Any]) -> bytes:
    """Return an event as one line, without its newline.

    >>> encode_event({"impression_id": 7, "user_id": "u", "ts": 1684393200000, "action": "click"})
    b'{"impression_id":7,"user_id":"u","ts":1684393200000,"action":"click"}'
    """
    return orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)


def pack(events: Iterable[Mapping[str, Any] | bytes], per_message: int = 1) -> Iterator[bytes]:
    r"""Yield message values of ``per_message`` events each, the last of what is left.

    >>> list(pack([{"a": 1}, {"b": 2}, b'{"c":3}'], per_message=2))
    [b'{"a":1}\n{"b":2}', b'{"c":3}']
    """
    lines = (e if isinstance(e, bytes) else encode_event(e) for e in events)
    while some := list(islice(lines, per_message)):
        yield b"\n".join(some)
