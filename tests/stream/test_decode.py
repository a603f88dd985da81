import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.deadletters import REASONS
from stream.decode import EARLIEST_MS, LATEST_MS, MAX_SCENES, Decoder, SchemaError
from stream.encode import encode_event, pack
from stream.events import FEEDBACK, IMPRESSION, OTHER_ACTION, EventColumns, EventSchema
from stream.ids import hash_ids, hash_text
from stream.position import Partition

HERE = Partition("impressions", 0)
SCHEMA = EventSchema(
    ids=("category",), numbers=("age",), lists=(("topics", 3),), actions=("click", "buy")
)
SHOWN = {"impression_id": "i1", "user_id": "u1", "item_id": "a1", "ts": 1_700_000_000_000}
CLICK = {"impression_id": "i1", "user_id": "u1", "ts": 1_700_000_060_000, "action": "click"}


def decode(*messages, schema=SCHEMA, **options):
    """Decode messages: bytes, or dicts of an event each."""
    values = [m if isinstance(m, bytes) else encode_event(m) for m in messages]
    return Decoder(schema, **options).decode(values, 100 + np.arange(len(values)), 2, HERE)


def reasons(decoded):
    """Return the reasons of what was rejected."""
    return [r.reason for r in decoded.rejected]


def same(expected: EventColumns, actual: EventColumns) -> bool:
    """Whether all columns are equal, NaN to NaN."""
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and a.dtype == b.dtype
        for a, b in zip(expected.columns().values(), actual.columns().values(), strict=True)
    )


def test_an_impression_becomes_a_row_of_columns():
    """Everything downstream reads columns only: each field must land in its own."""
    event = SHOWN | {
        "scene": "home",
        "request_id": "r1",
        "position": 4,
        "features": {"category": "news", "age": 2.5, "topics": ["x", 7, "z", "old"], "other": {}},
        "unknown": [1, {"deep": None}],
    }
    events, rejected, names = decode(event)

    assert rejected == []
    assert names == {hash_text("home"): "home"}
    assert (events.kind[0], events.action[0], events.position[0]) == (IMPRESSION, OTHER_ACTION, 4)
    assert (SHOWN["ts"], SHOWN["ts"]) == (events.ts[0], events.at[0])
    assert (events.partition[0], events.offset[0], events.row[0]) == (2, 100, 0)
    columns = ("impression", "user", "item", "request", "scene")
    expected = hash_ids(["i1", "u1", "a1", "r1", "home"]).tolist()
    assert expected == [int(getattr(events, c)[0]) for c in columns]
    assert hash_ids(["news"]).tolist() == events.ids[0].tolist()
    assert events.numbers.tolist() == [[2.5]]
    assert hash_ids(["x", "7", "z"]).tolist() == events.lists[0].tolist()
    assert np.isnan(events.value[0])


def test_feedback_is_what_has_an_action():
    """Impressions and feedback may share a topic."""
    events, rejected, _ = decode(CLICK, CLICK | {"action": "buy", "value": 9}, SHOWN)

    assert rejected == []
    assert events.kind.tolist() == [FEEDBACK, FEEDBACK, IMPRESSION]
    assert events.action.tolist() == [0, 1, OTHER_ACTION]
    assert (events.value == 9).tolist() == [False, True, False]
    assert (events.item == 0).tolist() == [True, True, False]


def test_an_action_that_is_not_asked_for_is_feedback_all_the_same():
    """A log holds actions that this model does not learn from."""
    events, rejected, _ = decode(CLICK | {"action": "share"}, CLICK | {"action": ""})

    assert rejected == []
    assert events.action.tolist() == [OTHER_ACTION, OTHER_ACTION]
    assert events.kind.tolist() == [FEEDBACK, FEEDBACK]


def test_what_is_absent_has_its_mark():
    """Zeros and NaN mean "absent" to every part that follows; null is absent."""
    nulls = {"scene": None, "request_id": None, "position": None, "action": None, "value": None}
    features = {"category": None, "age": None, "topics": None}
    bare = decode(SHOWN).events
    events, rejected, names = decode(
        SHOWN | nulls, SHOWN | {"features": features}, SHOWN | {"features": None}
    )

    assert (rejected, names) == ([], {})
    for i in range(3):
        row = events.take(np.array([i]))
        row.offset[:] = 100
        assert same(bare, row)
    assert bare.impression.tolist() == bare.request.tolist()
    assert [int(bare.scene[0]), int(bare.position[0])] == [0, -1]
    assert np.isnan(bare.numbers).all()
    assert bare.lists.tolist() == [[0, 0, 0]]


def test_an_id_is_its_text_whatever_its_type():
    """Producers differ in whether they quote an id; a table turns integers into floats."""
    quoted = SHOWN | {"user_id": "12", "features": {"category": "7", "topics": ["1", "true"]}}
    plain = SHOWN | {"user_id": 12, "features": {"category": 7.0, "topics": [1, True]}}
    mixed = decode(quoted, plain).events

    assert mixed.user[0] == mixed.user[1]
    assert mixed.ids[0].tolist() == mixed.ids[1].tolist()
    assert mixed.lists[0].tolist() == mixed.lists[1].tolist()


def test_a_truth_value_counts():
    """Flags are features too."""
    events = decode(SHOWN | {"features": {"age": True}}, SHOWN | {"features": {"age": 3}}).events

    assert events.numbers.tolist() == [[1.0], [3.0]]


@pytest.mark.parametrize(
    ("event", "reason", "told"),
    [
        (b"{", "bad_json", "truncated"),
        (b'{"impression_id": 1,}', "bad_json", "malformed"),
        (b'{"ts": NaN}', "bad_json", "malformed"),
        (b"[" * 100_000, "wrong_type", "object"),
        (b'{"x":' + b"[" * 100_000, "bad_json", "deep"),
        (b"[]", "wrong_type", "object"),
        (b'"text"', "wrong_type", "object"),
        (b'{"x": "\xff"}', "bad_utf8", "UTF-8"),
        (b'{"user_id": "\xff"}', "bad_utf8", "UTF-8"),
        (encode_event(SHOWN) + b" {}", "bad_json", "trailing"),
        ({k: v for k, v in SHOWN.items() if k != "impression_id"}, "missing_field", "impression"),
        ({k: v for k, v in SHOWN.items() if k != "user_id"}, "missing_field", "user_id"),
        ({k: v for k, v in SHOWN.items() if k != "item_id"}, "missing_field", "item_id"),
        ({k: v for k, v in SHOWN.items() if k != "ts"}, "missing_field", "ts"),
        ({k: v for k, v in CLICK.items() if k != "user_id"}, "missing_field", "user_id"),
        (SHOWN | {"user_id": ""}, "missing_field", "user_id"),
        (SHOWN | {"item_id": ""}, "missing_field", "item_id"),
        (SHOWN | {"user_id": None}, "wrong_type", "user_id"),
        (SHOWN | {"user_id": True}, "wrong_type", "user_id"),
        (SHOWN | {"impression_id": ["i"]}, "wrong_type", "impression_id"),
        (SHOWN | {"ts": "1700000000000"}, "wrong_type", "ts"),
        (SHOWN | {"ts": 1.7e12}, "wrong_type", "ts"),
        (SHOWN | {"ts": 1_700_000_000}, "bad_time", "ts"),
        (SHOWN | {"ts": LATEST_MS}, "bad_time", "ts"),
        (SHOWN | {"ts": 2**63}, "bad_time", "ts"),
        (SHOWN | {"ts": -1}, "bad_time", "ts"),
        (SHOWN | {"position": 2**31}, "wrong_type", "position"),
        (SHOWN | {"position": "first"}, "wrong_type", "position"),
        (SHOWN | {"features": []}, "wrong_type", "features"),
        (SHOWN | {"features": {"age": "7"}}, "wrong_type", "features.age"),
        (SHOWN | {"features": {"age": 1e39}}, "wrong_type", "features.age"),
        (SHOWN | {"features": {"category": 0.5}}, "wrong_type", "features.category"),
        (SHOWN | {"features": {"category": ["a"]}}, "wrong_type", "features.category"),
        (SHOWN | {"features": {"topics": "a"}}, "wrong_type", "features.topics"),
        (SHOWN | {"features": {"topics": ["a", 0.5]}}, "wrong_type", "features.topics"),
        (CLICK | {"action": 1}, "wrong_type", "action"),
        (CLICK | {"value": "9.99"}, "wrong_type", "value"),
    ],
)  # fmt: skip
def test_what_is_no_event_is_kept_with_its_reason(event, reason, told):
    """A producer's mistake is found by its letter: it names the field and the place."""
    events, rejected, _ = decode(SHOWN, event, CLICK)

    assert [(reason, 101, 0)] == [(r.reason, r.offset, r.row) for r in rejected]
    assert told in rejected[0].detail
    assert "\n" not in rejected[0].detail
    assert (event if isinstance(event, bytes) else encode_event(event))[:4096] == rejected[0].raw
    assert reason in REASONS
    assert events.offset.tolist() == [100, 102]


@pytest.mark.parametrize("ts", [EARLIEST_MS, LATEST_MS - 1])
def test_the_first_and_last_times_are_times(ts):
    """The bounds are stated to the millisecond."""
    assert decode(SHOWN | {"ts": ts}).events.ts.tolist() == [ts]


def test_a_line_too_long_is_refused_and_its_neighbours_are_not():
    """10 MB in a line is an accident, which must cost no more than its reading."""
    huge = encode_event(SHOWN | {"note": "x" * 10_000_000})
    events, rejected, _ = decode(b"\n".join([encode_event(SHOWN), huge, encode_event(CLICK)]))

    assert [(r.reason, r.row) for r in rejected] == [("oversize", 1)]
    assert len(rejected[0].raw) == 4096
    assert events.row.tolist() == [0, 2]


def test_the_bound_on_a_line_is_exact():
    """A bound that is off by one is found by the first that meets it."""
    line = encode_event(SHOWN)

    assert reasons(decode(line, max_line_bytes=len(line))) == []
    assert reasons(decode(line, max_line_bytes=len(line) - 1)) == ["oversize"]


def test_a_row_is_a_line_and_blank_lines_count():
    """A position must name the same event however often the message is read."""
    value = b"\n\n" + encode_event(SHOWN) + b"\r\n  \n{\n" + encode_event(CLICK) + b"\n"
    events, rejected, _ = decode(b"", value, b"\n", SHOWN)

    assert list(zip(events.offset.tolist(), events.row.tolist(), strict=True)) == [
        (101, 2),
        (101, 5),
        (103, 0),
    ]
    assert [(r.reason, r.offset, r.row) for r in rejected] == [("bad_json", 101, 4)]


def test_a_line_cannot_lean_on_its_neighbour():
    """Two halves of an event are two bad lines, though together they would be JSON."""
    whole = encode_event(SHOWN | {"note": [1]})
    half = whole.index(b"[1") + 2
    two = encode_event(SHOWN) + b"," + encode_event(SHOWN)
    decoded = decode(whole[:half] + b"\n" + whole[half:] + b"\n" + two)

    assert reasons(decoded) == ["bad_json", "bad_json", "bad_json"]
    assert len(decoded.events) == 0


def test_features_are_read_only_where_asked_for():
    """What the schema does not name costs nothing and is not judged."""
    event = SHOWN | {"features": {"age": "not a number"}}

    assert len(decode(event, schema=EventSchema()).events) == 1


def test_names_of_scenes_are_bounded():
    """A scene per user, by mistake, must not fill the memory; its events are still events."""
    decoder = Decoder(EventSchema())
    named = 0
    for first in range(0, 3 * MAX_SCENES, 5000):
        lines = [encode_event(SHOWN | {"scene": f"s{first + i}"}) for i in range(5000)]
        events, rejected, names = decoder.decode(lines, np.arange(5000), 0, HERE)
        named += len(names)
        assert rejected == []
        assert hash_text(f"s{first}") == events.scene[0]

    assert 0 < named <= MAX_SCENES


def test_a_name_as_long_as_a_page_is_not_kept():
    """Ten thousand names of a megabyte each would be no bound."""
    decoder = Decoder(EventSchema())
    line = encode_event(SHOWN | {"scene": "s" * 100_000})
    events, rejected, names = decoder.decode([line], np.arange(1), 0, HERE)

    assert ([], {}) == (rejected, names)
    assert hash_text("s" * 100_000) == events.scene[0]


def test_a_schema_that_no_event_can_carry_is_refused():
    """A feature has one type."""
    with pytest.raises(SchemaError):
        Decoder(EventSchema(ids=("age",), numbers=("age",)))
    with pytest.raises(SchemaError):
        Decoder(EventSchema(actions=tuple("abcdefghi")))


EVENTS = st.one_of(
    st.fixed_dictionaries(
        SHOWN_FIELDS := {
            "impression_id": st.integers(0, 9).map(str),
            "user_id": st.one_of(st.integers(0, 9), st.text(min_size=1, max_size=5)),
            "item_id": st.integers(-5, 5),
            "ts": st.integers(EARLIEST_MS, LATEST_MS - 1),
        },
        optional={
            "scene": st.sampled_from(["home", "", None, 7]),
            "position": st.one_of(st.none(), st.integers(-1, 20)),
            "value": st.floats(0, 1),
            "features": st.fixed_dictionaries(
                {},
                optional={
                    "category": st.one_of(
                        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.just("x")
                    ),
                    "age": st.one_of(st.none(), st.floats(0, 9, width=32)),
                    "topics": st.lists(st.one_of(st.integers(0, 9), st.text(max_size=3))),
                },
            ),
        },
    ),
    st.fixed_dictionaries(
        {k: SHOWN_FIELDS[k] for k in ("impression_id", "user_id", "ts")}
        | {"action": st.sampled_from(["click", "buy", "share"])},
        optional={"value": st.integers(0, 9), "item_id": st.just(3)},
    ),
    st.sampled_from([b"{", b"", b"[]", b"\xff", b'{"ts":1}']),
)


@given(st.lists(EVENTS, max_size=30), st.integers(1, 30))
def test_company_does_not_change_an_event(events, per_message):
    """How a log is cut into messages, and a message into blocks, changes no event."""
    alone = [decode(e) for e in events]
    packed = decode(*pack(events, per_message))
    expected = EventColumns.concat([EventColumns.empty(SCHEMA), *(d.events for d in alone)])

    rows = [i for i, d in enumerate(alone) if len(d.events)]
    assert [(100 + i // per_message, i % per_message) for i in rows] == list(
        zip(packed.events.offset.tolist(), packed.events.row.tolist(), strict=True)
    )
    packed.events.offset[:] = 100
    packed.events.row[:] = 0
    expected.partition[:] = 2
    assert same(expected, packed.events)
    assert [r for d in alone for r in reasons(d)] == reasons(packed)
