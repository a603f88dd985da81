import numpy as np
import pytest

from stream.events import EventSchema
from stream.example_columns import ExampleColumns
from stream.examples import ExampleBlock, NewerExamples, NotExamples, encode
from stream.kafka_batches import Record
from stream.position import Partition
from stream.worker_resume import _progress
from tests.stream.labelled import progress

SCHEMA = EventSchema()


def record(complete_to):
    """Return a record of a worker."""
    examples = ExampleColumns.empty(SCHEMA, 2)
    examples.impression[:] = np.arange(2)
    block = ExampleBlock(examples=examples, schema=SCHEMA, progress=progress(complete_to))
    value, headers = encode(block, SCHEMA)
    return Record(7, 0, None, value, headers)


def test_a_worker_does_not_go_on_from_before_what_a_newer_one_wrote(monkeypatch):
    """It would join again, in its own way, what the newer one has joined."""
    with monkeypatch.context() as newer:
        newer.setattr("stream.examples.FORMAT", 2)
        later = record(8)

    assert 5 == _progress(record(5), Partition("examples", 3)).complete_to
    with pytest.raises(NewerExamples, match="examples/3 at 7 holds examples of format 2"):
        _progress(later, Partition("examples", 3))
    with pytest.raises(NotExamples):  # somebody else's: those are passed over
        _progress(later._replace(headers=()), Partition("examples", 3))
