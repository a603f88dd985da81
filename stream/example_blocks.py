"""From the records of an examples topic to blocks, with what their workers say of themselves."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.blocks import BlockRule, PartitionLog, read_blocks
from stream.deadletters import RAW_BYTES
from stream.decode import Decoded
from stream.events import EventSchema
from stream.example_columns import ExampleColumns
from stream.examples import (
    Headers,
    NewerExamples,
    NotExamples,
    Progress,
    decode,
    select,
)
from stream.position import Offset, Partition, Position
from stream.source import Block, Rejected

_LONGEST_S: Final = 1.0  # of silence, between two looks: more is a broker's or our own


class ExampleRecord(NamedTuple):
    """A record of the examples topic, as `stream.examples.encode` gives it."""

    value: bytes
    headers: Headers


class ExampleDecoder:
    """Decodes the records of any partition; keeps what each says of its partition's progress."""

    def __init__(self, schema: EventSchema, partitions: int) -> None:
        self.schema = schema
        self.progress: list[deque[tuple[int, Progress]]] = [deque() for _ in range(partitions)]

    def decode(
        self,
        messages: Sequence[Any],
        offsets: npt.NDArray[np.int64],
        partition_index: int,
        partition: Partition,
    ) -> Decoded:
        """Decode `ExampleRecord`s (m,).

        Raises `MissingFeature` where they lack what is wanted, `NewerExamples`.
        """
        found: list[ExampleColumns] = []
        rejected: list[Rejected] = []
        names: dict[int, str] = {}
        for record, offset in zip(messages, offsets.tolist(), strict=True):
            try:
                block = decode(record.value, record.headers)
            except NotExamples as error:
                raw = record.value[:RAW_BYTES]
                rejected.append(Rejected(partition, offset, 0, "bad_examples", str(error), raw))
                continue
            except NewerExamples as error:  # no letter: what is passed over is never learned
                raise NewerExamples(error.number, f"{partition} at {offset}") from None
            examples = select(block, self.schema)
            found.append(
                replace(
                    examples,
                    partition=np.full(len(examples), partition_index, np.int16),
                    offset=np.full(len(examples), offset, np.int64),
                    row=np.arange(len(examples), dtype=np.int32),
                )
            )
            names |= block.names
            self.progress[partition_index].append((offset, block.progress))
        events = ExampleColumns.concat(found) if found else ExampleColumns.empty(self.schema)
        return Decoded(events, rejected, names)


def read_examples(
    partitions: Sequence[Partition],
    logs: Sequence[PartitionLog],
    schema: EventSchema,
    position: Position,
    rule: BlockRule,
    *,
    wait: Callable[[], bool] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    idle_s: float = 0.0,
    until_end: bool = False,
) -> Iterator[Block]:
    """Yield the blocks of ``logs`` of `ExampleRecord`s, as `read_blocks` does.

    A block has the progress of the records that end with it. A partition is idle where it is at its
    end and its worker has not gone on for ``idle_s`` by the ``clock``, neither in what is complete
    nor in what it reads: a quiet log is what its worker tells of, and a partition that is silent
    has no worker. Time in which nobody could look does not count. Where reading is to end
    (``until_end``) one in which nobody has ever written anything is idle at once.
    """
    decoder = ExampleDecoder(schema, len(partitions))
    nothing = ExampleColumns.empty(schema)
    silent_s = np.zeros(len(partitions))
    looked = clock()
    told_last: dict[int, tuple[int | None, Mapping[Partition, Offset]]] = {}
    for block in read_blocks(partitions, logs, decoder, position, rule, wait):
        progress = {}
        for i, told in enumerate(decoder.progress):
            done = block.position.of(partitions[i]).message
            while told and told[0][0] < done:
                progress[i] = told.popleft()[1]
        now = clock()
        silent_s += min(now - looked, _LONGEST_S)
        looked = now
        for i, last in progress.items():
            if (last.complete_to, last.read) != told_last.get(i):
                told_last[i] = (last.complete_to, last.read)
                silent_s[i] = 0.0
        idle = frozenset(
            i
            for i in block.idle
            if silent_s[i] >= idle_s
            or (until_end and block.position.of(partitions[i]) == Offset(0))
        )
        events = block.events if len(block.events) else nothing
        yield replace(block, events=events, progress=progress, idle=idle)
