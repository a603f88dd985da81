import pytest

from stream.example_columns import ExampleColumns
from stream.examples import ExampleBlock, Progress
from stream.kafka import KafkaConfig, KafkaUnreachable
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from stream.source import Rejected
from stream.worker_join import JoinWork, WorkConfig, _Output
from stream.worker_resume import Inputs, inputs_header
from stream.worker_status import WorkerStatus
from tests.stream.workers import SCHEMA, expected, lines, produce, read, wait_until, world

LETTER = Rejected(Partition("impressions", 0), 7, 0, "bad_json", "", b"{")


class Recorder:
    """A writer that keeps what is asked of it, and whose broker may be away."""

    def __init__(self):
        self.asked, self.away = [], False

    def append(self, partition, value, *, key=None, headers=()):
        """Note where to."""
        self.asked.append((str(partition), dict(headers)))

    def flush(self, timeout_s=None):
        """Note it, and fail where the broker is away."""
        self.asked.append("flush")
        if self.away:
            assert timeout_s is not None, "it would wait for ten minutes"
            raise KafkaUnreachable("not acknowledged")


def inputs(mark, letters=1):
    """Return topics that have the id ``mark``."""
    return Inputs(partitions=1, ids={"impressions": mark, "feedback": mark}, letters=letters)


def output():
    """Return an output, and what is asked of its writer."""
    writer = Recorder()
    made = _Output(
        WorkConfig(kafka=KafkaConfig(bootstrap="nobody:1"), schema=SCHEMA),
        writer,
        WorkerStatus(print),
    )
    made.come_from(inputs("first"))
    return made, writer


def block():
    """Return an example as a record has it."""
    progress = Progress(resume={}, settled={}, complete_to=None, read={})
    return ExampleBlock(examples=ExampleColumns.empty(SCHEMA, 1), schema=SCHEMA, progress=progress)


def test_letters_are_acknowledged_before_a_record_passes_them_and_not_sooner():
    """A producer that writes junk must not make a worker wait for the broker at every block."""
    made, writer = output()

    for _ in range(3):
        made.refuse([LETTER])
        made.write(0, [])
    assert ["deadletters/0"] * 3 == [asked[0] for asked in writer.asked]
    made.write(0, [block(), block()])
    made.write(0, [block()])

    assert ["flush", "examples/0", "examples/0", "examples/0"] == [
        asked if asked == "flush" else asked[0] for asked in writer.asked[3:]
    ]


def test_no_record_passes_letters_that_a_broker_has_not_taken():
    """Whoever goes on from the record would never write them."""
    made, writer = output()
    writer.away = True
    made.refuse([LETTER])

    for _ in range(2):
        with pytest.raises(KafkaUnreachable):
            made.write(0, [block()])
    writer.away = False
    made.write(0, [block()])

    assert ["deadletters/0", "flush", "flush", "flush", "examples/0"] == [
        asked if asked == "flush" else asked[0] for asked in writer.asked
    ]


def test_records_name_the_topics_that_they_are_made_of():
    """Topics can be others than at the start: partitions come, and one is told of a growth."""
    made, writer = output()
    made.write(0, [block()])
    made.come_from(inputs("second", letters=50))
    made.write(0, [block()])
    for offset in range(100):
        made.refuse([Rejected(Partition("impressions", 0), offset, 0, "bad_json", "", b"{")])

    found = [dict(headers) for _, headers in writer.asked[:2]]
    for mark, headers in zip(["first", "second"], found, strict=True):
        name, value = inputs_header(inputs(mark))
        assert value == headers[name]
    assert 10 < len({place for place, _ in writer.asked[2:]})


def test_joins_of_topics_that_are_others_now_are_not_kept(monkeypatch):
    """Their places mean nothing in the new topics: what the examples were made of is looked at."""
    found, asked = [inputs("first")], []

    def progress_of(kafka, numbers, inputs):
        asked.append((list(numbers), inputs.ids["feedback"]))
        return dict.fromkeys(numbers)

    monkeypatch.setattr("stream.worker_join.check_topics", lambda *_: found[-1])
    monkeypatch.setattr("stream.worker_join.progress_of", progress_of)
    config = WorkConfig(kafka=KafkaConfig(bootstrap="nobody:1"), schema=SCHEMA)
    work = JoinWork(config, print)

    work._take_over(frozenset([0]))
    work._take_over(frozenset([0, 1]))
    found.append(inputs("second"))
    work._take_over(frozenset([0, 1, 2]))

    assert [([0], "first"), ([1], "first"), ([0, 1, 2], "second")] == asked


class Faltering(KafkaWriter):
    """A writer whose broker is away for some of what is appended."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.appended = 0

    def append(self, partition, value, **options):
        """Append it, or fail."""
        self.appended += 1
        if self.appended in (1, 2, 5, 6, 9):
            raise KafkaUnreachable("Kafka answered, and then no longer.")
        super().append(partition, value, **options)


@pytest.mark.kafka
def test_a_broker_that_is_away_for_one_call_loses_nothing(kafka, topic, monkeypatch):
    """A join that is past what it could not write would pass it in its next record, for good."""
    monkeypatch.setattr("stream.worker_join.KafkaWriter", Faltering)
    here, written = world(topic, partitions=2), lines(seed=14, impressions=1500, partitions=2)
    junk = range(20, 600, 100)
    for at in junk:
        written["impressions", 1].insert(at, b'{"impression_id": "poison"')
    produce(kafka, here, written, per_message=7)
    wanted, failures = expected(written), []

    work = JoinWork(here.config(kafka), print)
    work.start(failures.append)
    work.assign(frozenset([0, 1]))

    def done():
        return failures or len(read(kafka, here).examples) >= len(wanted)

    try:
        wait_until(done, "all examples", deadline_s=40)
    finally:
        work.stop()

    assert [] == failures
    assert wanted == read(kafka, here).examples
    with Topics(kafka) as admin:
        assert len(junk) <= admin.ends([Partition(here.letters, 0)])[Partition(here.letters, 0)]
