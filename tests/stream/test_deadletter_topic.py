import pytest

from stream import deadletter_topic
from stream.deadletter_topic import DeadLetterTopic, FileAndTopic, key_of, letters_of
from stream.deadletters import DeadLetterFile
from stream.kafka import KafkaUnreachable
from stream.position import Partition
from stream.source import Rejected


class Topic:
    """A topic in memory: what was appended, and whether it was flushed and closed."""

    def __init__(self):
        self.records = []
        self.flushed = 0
        self.closed = False
        self.away = False  # nothing is acknowledged
        self.hurried = False

    def append(self, partition, value, *, key=None):
        """Keep a record."""
        self.records.append((partition, value, key))

    def flush(self):
        """Take note of how many there were."""
        if self.away:
            raise KafkaUnreachable("nobody has answered")
        self.flushed = len(self.records)

    def hurry(self, within_s):
        """Take note of it."""
        self.hurried = True

    def close(self):
        """Take note of it."""
        self.closed = True
        self.flush()


def never(line):
    """Nothing is to be said."""
    raise AssertionError(line)


def letter(offset, row=0, reason="bad_json"):
    """Return a letter from a place in a log."""
    return Rejected(Partition("impressions", 1), offset, row, reason, f"at {offset}", b"{\xff")


def test_what_was_written_twice_is_read_once():
    """Whoever goes on after a crash writes again what it had written since its checkpoint."""
    topic = Topic()
    letters = [letter(3), letter(3, row=1), letter(4)]

    DeadLetterTopic(topic, "dead").extend(letters)
    DeadLetterTopic(topic, "dead").extend(letters[1:])

    assert 5 == len(topic.records)
    assert letters == list(letters_of(value for _, value, _ in topic.records))


def test_a_letter_goes_to_the_partition_of_its_key():
    """Its second writing must lie in the same one, so that compaction may drop it too."""
    once, again = Topic(), Topic()
    letters = [letter(n) for n in range(100)]

    DeadLetterTopic(once, "dead", 3).extend(letters)
    DeadLetterTopic(again, "dead", 3).extend(reversed(letters))

    assert sorted(once.records) == sorted(again.records)
    assert {0, 1, 2} == {partition.number for partition, _, _ in once.records}
    assert [key_of(x) for x in letters] == [key for _, _, key in once.records]


def test_what_is_no_letter_is_told_from_letters():
    """Anybody may write into a topic; it must not stop those who read it."""
    topic = Topic()
    DeadLetterTopic(topic, "dead").extend([letter(1)])
    foreign = [b"", b"{", b"[1]", b"7", b'{"topic": "a"}', b'{"deadletters": 1}']

    found = list(letters_of([*foreign, topic.records[0][1]]))

    assert [*[None] * len(foreign), letter(1)] == found


def test_keys_are_remembered_up_to_a_bound(monkeypatch):
    """A topic may be longer than memory; a second writing comes soon after the first."""
    monkeypatch.setattr(deadletter_topic, "_KEYS", 10)
    topic = Topic()
    letters = [letter(n) for n in range(100)]
    for n, one in enumerate(letters):
        DeadLetterTopic(topic, "dead").extend([one, letters[max(n - 9, 0)]])

    assert letters == list(letters_of(value for _, value, _ in topic.records))


def test_a_run_keeps_its_letters_exactly_and_sends_them_too(tmp_path):
    """The file goes back with a checkpoint; the topic is everybody's, and goes forward."""
    topic = Topic()
    file = DeadLetterFile(tmp_path / "letters.ndjson")
    both = FileAndTopic(file, DeadLetterTopic(topic, "dead"), never)
    both.extend([letter(1)])
    state = both.state()
    both.extend([letter(2)])
    both.flush()
    both.restore(state)
    both.extend([letter(2), letter(3)])
    both.flush()
    both.close()

    values = [value for _, value, _ in topic.records]
    expected = [letter(1), letter(2), letter(3)]
    assert expected == list(DeadLetterFile.read(tmp_path / "letters.ndjson"))
    assert expected == list(letters_of(values))
    assert (4, 4, True) == (len(topic.records), topic.flushed, topic.closed)
    assert {"bad_json": 3} == both.counts


def test_a_run_that_stops_leaves_letters_that_nobody_takes_in_its_file(tmp_path):
    """A supervisor kills what does not stop: the file has every letter, and it is said."""
    topic, said = Topic(), []
    file = DeadLetterFile(tmp_path / "letters.ndjson")
    both = FileAndTopic(file, DeadLetterTopic(topic, "dead"), said.append)
    topic.away = True
    both.extend([letter(1)])
    with pytest.raises(KafkaUnreachable):
        both.flush()

    both.hurry()
    both.flush()
    both.extend([letter(2)])
    both.flush()
    both.close()

    assert topic.hurried
    assert topic.closed
    assert [letter(1), letter(2)] == list(DeadLetterFile.read(tmp_path / "letters.ndjson"))
    assert 1 == len(topic.records)
    assert ["nobody has answered"] == [line.rpartition(": ")[2] for line in said]
