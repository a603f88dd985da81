import json
import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.decode import EARLIEST_MS, LATEST_MS, MAX_SCENES, Decoder
from stream.encode import encode_event
from stream.events import EventSchema
from stream.ids import hash_text
from stream.position import Partition
from stream.scan import PIECE

HERE = Partition("impressions", 0)
SCHEMA = EventSchema(
    ids=("category", "a name of 20 bytes..", "ü"),
    numbers=("age", "", "a name of 20 bytes,."),
    lists=(("topics", 3), ("none", 0), ("user_id", 2)),
    actions=("click", "buy", "purchase it", "click"),
)
BARE = EventSchema()
SHOWN = {"impression_id": "i1", "user_id": "u1", "item_id": "a1", "ts": 1_700_000_000_000}
CLICK = {"impression_id": "i1", "user_id": "u1", "ts": 1_700_000_060_000, "action": "click"}


def pair(schema=SCHEMA, **options):
    """Return two decoders: one that scans, and one that leaves every line to msgspec."""
    return Decoder(schema, **options), Decoder(schema, scan=False, **options)


def assert_same(messages, schema=SCHEMA, **options):
    """Check that both ways give the same bits; return how many lines were plain."""
    decoders = pair(schema, **options)
    assert_both_give_the_same(decoders, messages)
    assert 0 == decoders[1].lines_plain
    return decoders[0].lines_plain


def assert_both_give_the_same(decoders, messages):
    """Decode some messages by both ways and compare all that comes out."""
    offsets = 100 + np.arange(len(messages))
    scanned, expected = (d.decode(messages, offsets, 2, HERE) for d in decoders)
    assert expected.rejected == scanned.rejected
    assert expected.names == scanned.names
    for name, column in expected.events.columns().items():
        found = scanned.events.columns()[name]
        assert (column.dtype, column.shape) == (found.dtype, found.shape), name
        assert column.tobytes() == found.tobytes(), name


PLAIN_LINES = [
    encode_event(SHOWN),
    encode_event(CLICK),
    b' \t{ "ts" :1700000000000 , "user_id":"u","impression_id": -7 ,"item_id":0} \r',
    encode_event(SHOWN | {"scene": "Füße", "position": -1, "request_id": "", "value": 1}),
    encode_event(SHOWN | {"scene": None, "position": None, "request_id": None, "action": None}),
    encode_event(SHOWN | {"features": None, "value": None}),
    encode_event(SHOWN | {"features": {}, "scene": 7, "request_id": 2**59, "value": True}),
    encode_event(SHOWN | {"unknown": [1, {"deep": [None, [], {}, {"": [[]]}]}], "x": "ü€𝄞\x7f"}),
    encode_event(SHOWN | {"features": {"category": "x" * 128, "ü": True, "other": {"a": 1}}}),
    encode_event(SHOWN | {"features": {"a name of 20 bytes..": 7, "a name of 20 bytes,.": 7}}),
    encode_event(SHOWN | {"features": {"age": 2.5, "": 1e-7, "category": None, "ü": False}}),
    encode_event(SHOWN | {"features": {"age": 0.12345678901234567, "": 10**17 + 1}}),
    encode_event(SHOWN | {"features": {"age": True, "": False, "a name of 20 bytes,.": None}}),
    encode_event(SHOWN | {"features": {"topics": [1, "two", None, True, "", -3], "none": [1]}}),
    encode_event(SHOWN | {"features": {"topics": None, "none": [], "user_id": ["07", "7"]}}),
    encode_event(CLICK | {"features": {"age": 1, "category": 2, "topics": [3]}, "item_id": ""}),
    encode_event(CLICK | {"action": "purchase it", "value": 9.99, "position": 3}),
    encode_event(CLICK | {"action": "share", "value": False}),
    encode_event(CLICK | {"action": "", "value": -0.5e-3}),
]


def test_plain_lines_are_read_without_python_for_each():
    """What every producer writes must take the fast way, or the learner waits for the ingest."""
    assert len(PLAIN_LINES) == assert_same(PLAIN_LINES)
    assert len(PLAIN_LINES) == assert_same([b"\n".join(PLAIN_LINES)])
    assert len(PLAIN_LINES) == assert_same(PLAIN_LINES, schema=BARE)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"{}",
        b"[]",
        b'{"ts":1}',
        encode_event(SHOWN)[:-1],
        encode_event(SHOWN) + b" 1",
        encode_event(SHOWN)[:-1] + b',"ts":1700000000000}',
        encode_event(SHOWN)[:-1] + b",}",
        encode_event(SHOWN)[:-1] + b',"x":[1,]}',
        encode_event(SHOWN)[:-1] + b',"x":' + b"[" * 33 + b"]" * 33 + b"}",
        encode_event(SHOWN)[:-1] + b',"x":01}',
        encode_event(SHOWN)[:-1] + b',"x":.5}',
        encode_event(SHOWN)[:-1] + b',"x":1.}',
        encode_event(SHOWN)[:-1] + b',"x":1e}',
        encode_event(SHOWN)[:-1] + b',"x":-}',
        encode_event(SHOWN)[:-1] + b',"x":nul}',
        encode_event(SHOWN)[:-1] + b',"features":{"age":1,"age":2}}',
        encode_event(SHOWN)[:-1] + b',"features":{"age":-0}}',
        encode_event(SHOWN)[:-1] + b',"features":{"category":-0}}',
        encode_event(SHOWN)[:-1] + b',"features":{"category":1e2}}',
        encode_event(SHOWN)[:-1] + b',"position":0.0}',
        encode_event(SHOWN)[:-1] + b',"scene":true}',
        encode_event(SHOWN | {"scene": 'a "quote"'}),
        encode_event(SHOWN | {"scene": "x" * 129}),
        encode_event(SHOWN | {"ts": LATEST_MS}),
        encode_event(SHOWN | {"ts": EARLIEST_MS - 1}),
        encode_event(SHOWN | {"item_id": ""}),
        encode_event(SHOWN | {"item_id": None}),
        encode_event(SHOWN | {"user_id": 10**18}),
        encode_event(SHOWN | {"position": 2**31}),
        encode_event(SHOWN | {"features": []}),
        encode_event(SHOWN | {"features": {"age": 3.5e38}}),
        encode_event(SHOWN | {"features": {"age": "7"}}),
        encode_event(SHOWN | {"features": {"topics": ["a", 0.5]}}),
        encode_event(SHOWN | {"features": {"topics": "a"}}),
        encode_event(SHOWN)[:-1] + b',"scene":"\xc0\xaf"}',  # too long a form
        encode_event(SHOWN)[:-1] + b',"scene":"\xed\xa0\x80"}',  # half a surrogate pair
        encode_event(SHOWN)[:-1] + b',"scene":"\xf4\x90\x80\x80"}',  # past the last character
        encode_event(SHOWN)[:-1] + b',"scene":"\xe2\x82"}',
        encode_event(SHOWN)[:-1] + b',"scene":"\t"}',
    ],
)
def test_what_is_odd_is_left_to_the_judge(line):
    """The scanner decides nothing: what it does not understand, msgspec does, or refuses."""
    assert 2 == assert_same([PLAIN_LINES[0], line, PLAIN_LINES[1]])


def test_a_line_past_the_bound_is_not_plain():
    """The bound on a line holds however fast it is read."""
    line = encode_event(SHOWN)

    assert 1 == assert_same([line], max_line_bytes=len(line))
    assert 0 == assert_same([line], max_line_bytes=len(line) - 1)


def spelled(value, chance):
    """Return JSON text of a value, with the freedom that JSON leaves."""
    if isinstance(value, dict):
        items = [f"{_text(k, chance)}{_gap(chance)}:{spelled(v, chance)}" for k, v in value.items()]
        chance.shuffle(items)
        if items and chance.random() < 0.02:
            items.append(chance.choice(items))
        return "{" + _gap(chance) + f"{_gap(chance)},".join(items) + _gap(chance) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_gap(chance) + spelled(v, chance) for v in value) + "]"
    if isinstance(value, str):
        return _gap(chance) + _text(value, chance)
    return _gap(chance) + json.dumps(value) + _gap(chance)


def _text(text, chance):
    return json.dumps(text, ensure_ascii=chance.random() < 0.02)


def _gap(chance):
    return chance.choice(("", "", "", "", "", " ", "\t", " \r"))


def mostly(usual, odd):
    """Return a strategy for what is usual, and one time in twenty odd: a line has many values."""
    return st.integers(0, 19).flatmap(lambda k: odd if k == 13 else usual)


USUAL_TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters='"\\'), max_size=20
)
IDS = mostly(
    st.one_of(st.integers(0, 9), st.integers(0, 9).map(str), st.integers(-99, 10**17), USUAL_TEXT),
    st.one_of(
        st.text(max_size=20),
        st.integers(-(10**19), 10**20),
        st.sampled_from(["", "07", "-0", "x" * 128, "é" * 65, 10**18 - 1, 10**18, -(10**18)]),
    ),
)
NUMBERS = mostly(
    st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.floats(-100, 100),
        st.integers(-999, 999),
        st.booleans(),
        st.none(),
    ),
    st.one_of(
        st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False), IDS
    ),
)
ANYTHING = st.recursive(
    st.one_of(IDS, NUMBERS, st.sampled_from(["click", "buy", "purchase it"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=6,
)
SOME_ID = st.one_of(IDS, st.none(), st.booleans())
LIST = st.one_of(st.none(), st.lists(SOME_ID, max_size=5))
FEATURES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(SCHEMA.ids, SOME_ID),
        **dict.fromkeys(SCHEMA.numbers, NUMBERS),
        **{name: LIST for name, _ in SCHEMA.lists},
        "other": ANYTHING,
    },
)
FIELDS = {
    "scene": st.one_of(IDS, st.none()),
    "request_id": st.one_of(IDS, st.none()),
    "position": st.one_of(st.none(), st.integers(-1, 50)),
    "value": NUMBERS,
    "features": st.one_of(FEATURES, st.none()),
    "unknown": ANYTHING,
}
KEY = IDS.filter(lambda key: key != "")
EVENT = st.one_of(
    st.fixed_dictionaries(
        {"impression_id": KEY, "user_id": KEY, "item_id": IDS, "ts": st.just(EARLIEST_MS)},
        optional=FIELDS,
    ),
    st.fixed_dictionaries(
        {
            "impression_id": KEY,
            "user_id": KEY,
            "ts": st.integers(EARLIEST_MS, LATEST_MS - 1),
            "action": st.sampled_from(["click", "buy", "purchase it", "share", "", None]),
        },
        optional=FIELDS | {"item_id": IDS},
    ),
    st.dictionaries(
        st.sampled_from(["impression_id", "user_id", "item_id", "ts", *FIELDS, "action"]), ANYTHING
    ).map(lambda odd: SHOWN | odd),
    st.dictionaries(st.sampled_from(["age", "ü", "topics", ""]), ANYTHING).map(
        lambda odd: SHOWN | {"features": odd}
    ),
)


@st.composite
def lines(draw):
    """Draw a line: an event in any spelling, now and then broken."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    line = spelled(draw(EVENT), chance).encode(errors="surrogatepass")
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        a, b = sorted((chance.randrange(len(line) + 1), chance.randrange(len(line) + 1)))
        piece = chance.choice(
            [b"", b'"', b"\\", b"{", b"}", b"]", b",", b":", b"0", b"-", b".", b"e5", b"\xc3",
             b"\n", b"null", b"1e400", b"9" * 30, b'"ts":1,', b'"action":"buy",', b"\0", b"\x80"]
        )  # fmt: skip
        line = line[:a] + piece + line[chance.choice((a, a, a + 1, b)) :]
    return line


def test_both_ways_give_the_same_bits():
    """The fast way is a way to read, not another opinion of what an event is."""
    plain = total = 0

    @settings(max_examples=400)
    @given(st.lists(lines(), max_size=8), st.integers(1, 4), st.sampled_from([SCHEMA, BARE]))
    @example([b"\n", b"", b"\n\n"], 2, SCHEMA)
    def check(some, per_message, schema):
        nonlocal plain, total
        messages = [b"\n".join(some[i : i + per_message]) for i in range(0, len(some), per_message)]
        plain, total = plain + assert_same(messages, schema), total + len(some)
        assert_same(messages, schema, max_line_bytes=120)

    check()
    assert 0.1 * total < plain < 0.9 * total  # both ways were taken


@settings(max_examples=300)
@given(st.binary(max_size=60), st.sampled_from(PLAIN_LINES), st.integers(0, 400))
def test_bytes_of_any_kind_give_the_same_bits(some, line, place):
    """Damage is found in both ways, wherever it lies."""
    assert_same([some, line[:place] + some[:3] + line[place:], some + line, line[:place], line])


@settings(max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.floats(allow_nan=False, allow_infinity=False).map(repr),
            st.floats(-1000, 1000).map(repr),
            st.decimals(-1, 1, allow_nan=False, places=17).map(lambda d: f"{d:f}"),
            st.tuples(st.integers(-(10**18), 10**18), st.integers(-70, 70)).map(
                lambda pair: f"{pair[0]}e{pair[1]}"
            ),
            st.floats(width=32, allow_nan=False, allow_infinity=False).map(
                lambda x: repr((x + float(np.nextafter(np.float32(x), np.float32(0)))) / 2)
            ),
            st.from_regex(r"-?[0-9]{1,4}(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_numbers_become_the_nearest_float_of_the_nearest(numbers):
    """A number is rounded twice, to 64 bits and then to 32: any shortcut must end at the same."""
    head = encode_event(SHOWN)[:-1]
    assert_same([head + b',"features":{"age":' + text.encode() + b"}}" for text in numbers])


def test_halves_between_two_floats_are_left_to_the_judge():
    """There, and nowhere else, the last bit of the longer number decides about the shorter."""
    head = encode_event(SHOWN)[:-1]
    half = 1 + 2.0**-24
    texts = [repr(x) for x in (math.nextafter(half, 0), half, math.nextafter(half, 2))]
    rows = [head + b',"features":{"age":' + text.encode() + b"}}" for text in texts]

    assert 0 == assert_same(rows)
    assert 2 == assert_same([head + b',"features":{"age":1.00000005}}', rows[0], PLAIN_LINES[0]])


def test_pieces_join_without_a_seam():
    """A message of very many lines is read in pieces, so that its columns have a bound."""
    line = encode_event(SHOWN)
    long = b"\n".join([line] * (PIECE + 5) + [b"{"] + [line] * PIECE)
    decoders = pair()
    assert_both_give_the_same(decoders, [line, long, line])
    assert 2 * PIECE + 7 == decoders[0].lines_plain


def test_names_of_scenes_are_told_once_by_both_ways_in_the_order_of_the_lines():
    """Which scenes have names when there are too many depends on the log, not on the way."""
    decoders = pair(BARE)
    for first in range(0, MAX_SCENES + 4000, 2000):
        texts = [f"s{(first + i) // 2}" + ("\\" if i % 3 else "") for i in range(2000)]
        assert_both_give_the_same(decoders, [encode_event(SHOWN | {"scene": t}) for t in texts])
    known, unknown = (encode_event(SHOWN | {"scene": s}) for s in ("s0", "never seen"))
    offsets = np.arange(2)

    decoded = decoders[0].decode([known, unknown], offsets, 0, HERE)
    assert {} == decoded.names
    assert [hash_text("s0"), hash_text("never seen")] == decoded.events.scene.tolist()
