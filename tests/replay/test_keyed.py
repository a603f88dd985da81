import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.keyed import KeyedWriter, head_of
from stream.position import Partition

START = 1_700_000_000_000
SHOWN = Partition("impressions", 3)


class Records:
    """A broker in memory."""

    def __init__(self):
        self.records = []

    def append(self, partition, value, *, key, at_ms):
        """Keep a record."""
        self.records.append((partition, value, key, at_ms))


def event(user, ts) -> bytes:
    """Return an event as a line."""
    return json.dumps({"impression_id": "i", "user_id": user, "ts": ts}).encode()


def written(*values, topics=("shown", "clicks"), now_ms=START) -> list:
    """Return what is appended for messages of impressions."""
    records = Records()
    writer = KeyedWriter(records, topics, lambda: now_ms)
    for value in values:
        writer.append(SHOWN, value)
    return records.records


events = st.tuples(st.sampled_from(["a", "b", 7]), st.integers(START - 10**9, START))


@given(st.lists(events, min_size=1, max_size=5), st.booleans())
def test_a_message_has_the_time_of_its_newest_event_and_the_key_of_its_only_user(given_, newline):
    """Kafka finds messages by time, and other readers partition by the key."""
    value = b"\n".join(event(user, ts) for user, ts in given_) + b"\n" * newline

    [(partition, kept, key, at_ms)] = written(value)

    users = {str(user).encode() for user, _ in given_}
    assert (Partition("shown", 3), value) == (partition, kept)
    assert (users.pop() if len(users) == 1 else None) == key
    assert max(ts for _, ts in given_) == at_ms


def test_lines_that_are_no_events_are_passed_over(tmp_path):
    """A broken line beside good ones must not cost them their time."""
    lines = [b"{", event("u", START), b'["list"]', b"\xff", b'{"user_id": 1.5, "ts": "x"}', b""]

    assert (b"u", START) == head_of(lines)
    assert (None, None) == head_of([b"", b"{"])


@pytest.mark.parametrize(
    ("ts", "at_ms"), [(1, None), (START + 60_000, START + 60_000), (START + 7_200_000, None)]
)
def test_a_time_that_the_broker_would_refuse_is_left_to_it(ts, at_ms):
    """One wrong clock must not end the replay of a log: brokers take no message of tomorrow."""
    assert at_ms == written(event("u", ts))[0][3]


def test_feedback_goes_to_the_second_topic_or_to_the_only_one():
    """Topics have names of their own; which is which is their order in the configuration."""
    for topics, expected in ((("a", "b"), "b"), (("a",), "a"), (("a", "b", "c"), "b")):
        records = Records()
        KeyedWriter(records, topics, lambda: START).append(Partition("feedback", 0), event("u", 1))
        assert expected == records.records[0][0].topic


def test_what_is_appended_is_counted():
    """The result says how much was written, and up to when."""
    records = Records()
    writer = KeyedWriter(records, ("a", "b"), lambda: START)
    writer.append(SHOWN, event("u", START - 5) + b"\n" + event("v", START - 9) + b"\n")
    writer.append(SHOWN, event("u", START - 7))

    assert (3, 2, START - 5) == (writer.events, writer.messages, writer.newest_ms)
