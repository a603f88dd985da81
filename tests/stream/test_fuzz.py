import random

import numpy as np

from stream.deadletters import REASONS
from stream.decode import Decoder
from stream.encode import encode_event
from stream.events import EventColumns, EventSchema
from stream.position import Partition

HERE = Partition("impressions", 0)
SCHEMA = EventSchema(ids=("category", "city"), numbers=("age",), lists=(("topics", 4),))
SHOWN = {
    "impression_id": "i-12", "user_id": 7, "item_id": "a1", "ts": 1_700_000_000_000,
    "scene": "Füße", "request_id": "r1", "position": 3, "other": [{"a": None}, 1.5e-3, "\n"],
    "features": {"category": "news", "city": True, "age": 2.5, "topics": ["x", 7, None, "\u2028"]},
}  # fmt: skip
CLICK = {
    "impression_id": 12, "user_id": "u", "ts": 1_700_000_000_001, "action": "click", "value": 1
}  # fmt: skip
GOOD = [encode_event(SHOWN), encode_event(CLICK)]
TOKENS = [
    b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\n", b"\r\n", b"\0", b"\xff", b"\xc3",
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"0.5", b"9" * 40, b"1" * 400,
    b'"\\ud800"', b'"\\ud83d\\ude00"', b'""', b"{}", b"[]", b"[[[[", b'{"ts":1}', b'"action":"x",',
    b'"item_id":null,', b'"ts":1700000000000,', b'"features":null,', b" ", b"\t", b"\xef\xbb\xbf",
]  # fmt: skip


def mutated(line: bytes, chance: random.Random) -> bytes:
    """Return a line with one to three changes: bytes, tokens, pieces of it moved or gone."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        a, b = sorted((chance.randrange(len(line) + 1), chance.randrange(len(line) + 1)))
        match chance.randrange(6):
            case 0:
                line = line[:a] + chance.randbytes(1) + line[a + 1 :]
            case 1:
                line = line[:a] + chance.choice(TOKENS) + line[a:]
            case 2:
                line = line[:a] + chance.choice(TOKENS) + line[min(b, a + 9) :]
            case 3:
                line = line[:a] + line[b:]
            case 4:
                line = line[:b] + line[a:]
            case _:
                line = line[:a]
    return line


def test_no_message_stops_the_stream_and_none_vanishes():
    """100,000 broken messages: each line is an event or a dead letter, and its neighbours stand."""
    chance = random.Random(20_240_229)
    decoder = Decoder(SCHEMA)
    whole = decoder.decode(GOOD, np.arange(2), 0, HERE).events
    kept = refused = 0
    reasons: set[str] = set()
    for first in range(0, 100_000, 5000):
        inner = [mutated(GOOD[chance.random() < 0.3], chance) for _ in range(5000)]
        messages = [b"\n".join([GOOD[0], line, GOOD[1]]) for line in inner]
        lines = np.array([line.count(b"\n") + 1 for line in inner])
        filled = sum(bool(piece.strip(b" \t\r")) for line in inner for piece in line.split(b"\n"))
        offsets = first + np.arange(5000, dtype=np.int64)
        events, rejected, _ = decoder.decode(messages, offsets, 0, HERE)

        assert len(events) + len(rejected) == 2 * 5000 + filled
        for row, expected in (
            (np.zeros(5000), whole.take(slice(0, 1))),
            (lines + 1, whole.take(slice(1, 2))),
        ):
            at_row = row[events.offset - first]
            found = events.take(events.row == at_row)
            assert_all_are(expected, found, offsets)
        for letter in rejected:
            line = messages[letter.offset - first].split(b"\n")[letter.row]
            assert letter.raw == line[:4096]
            reasons.add(letter.reason)
        assert np.isfinite(events.ts).all()
        assert (events.impression != 0).all()
        assert (events.user != 0).all()
        kept, refused = kept + len(events) - 10_000, refused + len(rejected)

    assert reasons <= REASONS.keys()
    assert {"bad_json", "bad_utf8", "bad_time", "missing_field", "wrong_type"} <= reasons
    assert min(kept, refused) > 5_000  # the mutations are neither all harmless nor all deadly


def assert_all_are(expected: EventColumns, found: EventColumns, offsets: np.ndarray) -> None:
    """Check that of each message one event was found, equal to the one expected."""
    assert found.offset.tolist() == offsets.tolist()
    for name, column in expected.columns().items():
        if name not in ("offset", "row"):
            values = found.columns()[name]
            np.testing.assert_array_equal(values, np.broadcast_to(column, values.shape), name)


def test_garbage_is_all_dead_letters():
    """A file that is no log at all, fed by mistake, is refused line by line."""
    chance = random.Random(3)
    messages = [chance.randbytes(chance.randrange(1, 200)) for _ in range(2000)]
    filled = sum(bool(p.strip(b" \t\r")) for m in messages for p in m.split(b"\n"))
    events, rejected, _ = Decoder(SCHEMA).decode(messages, np.arange(2000), 0, HERE)

    assert len(events) == 0
    assert len(rejected) == filled
