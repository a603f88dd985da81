"""Blocks of labelled examples as records of Kafka: Arrow columns, and how far their partition is.

n examples. Columns are an Arrow IPC stream of one record batch, not compressed: Kafka compresses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from stream.events import EventSchema
from stream.example_columns import ExampleColumns
from stream.position import Offset, Partition

FORMAT: Final = 1
PROGRESS: Final = "keepstream-progress"  # headers of a record
NAMES: Final = "keepstream-scenes"
NAMES_BYTES: Final = 64 << 10  # of names of scenes in a record: they are for display, and a broker
# takes a million bytes in all

Headers = Sequence[tuple[str, bytes | None]]

_METADATA: Final = b"keepstream"
_PLAIN: Final[dict[str, npt.DTypeLike]] = {
    "ts": np.int64,
    "at": np.int64,
    "impression": np.uint64,
    "user": np.uint64,
    "item": np.uint64,
    "request": np.uint64,
    "scene": np.uint64,
    "position": np.int32,
    "label": np.uint8,
    "label_at": np.int64,
    "label_kind": np.uint8,
    "actions": np.uint8,
    "origin_partition": np.int16,
    "origin_offset": np.int64,
    "origin_row": np.int32,
    "click_partition": np.int16,
    "click_offset": np.int64,
    "click_row": np.int32,
}


class NotExamples(ValueError):
    """A record that no worker wrote, or that is damaged."""


class NewerExamples(Exception):
    """Examples of a format that this program does not know yet."""

    def __init__(self, number: int, where: str = "A record") -> None:
        self.number = number
        super().__init__(
            f"{where} holds examples of format {number}, and this program reads {FORMAT}: a newer "
            "worker wrote it. Update this program; it then goes on where it stopped."
        )


class MissingFeature(ValueError):
    """The examples do not carry a feature that is asked for, or not enough of a list."""

    def __init__(self, what: str, there: str) -> None:
        super().__init__(
            f"The examples carry no {what}; they have {there}. Add "
            "it to the [features] of the workers' configuration and restart them, or take it out "
            "of the trainer's."
        )


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is true of a partition of examples, up to and with the record that says it.

    Everything is by input: the p-th partitions of the topics that are joined.
    """

    resume: Mapping[Partition, tuple[Offset, int | None]]  # where a join of the same goes on: what
    # to read next, and the partition's clock there (ms; None: nothing was read before)
    settled: Mapping[
        Partition, Offset
    ]  # every event before it has had its example written, or none
    complete_to: int | None  # ms: every impression with an `at` before it has been written. Where
    # silence let time go on, a join that goes on may place one before it: readers count that
    read: Mapping[Partition, Offset]  # what was to be read next when it was written
    forgotten: int | None = None  # ms: what lies before `resume` is earlier, so that an impression
    # behind `settled` from before it was too late, even if silence let it come; None: not known

    def encode(self) -> bytes:
        """Return it as JSON."""
        inputs = {
            f"{p.topic}/{p.number}": [*offset, clock, *self.settled[p], *self.read[p]]
            for p, (offset, clock) in self.resume.items()
        }
        return orjson.dumps(
            {
                "format": FORMAT,
                "inputs": inputs,
                "complete_to": self.complete_to,
                "forgotten": self.forgotten,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> "Progress":
        """Return what `encode` wrote. Raises `NotExamples`, `NewerExamples`."""
        try:
            told = orjson.loads(data)
            _check_format(told["format"])
            resume, settled, read = {}, {}, {}
            for name, (m, r, clock, settled_m, settled_r, read_m, read_r) in told["inputs"].items():
                topic, _, number = name.rpartition("/")
                partition = Partition(topic, int(number))
                resume[partition] = (Offset(m, r), clock)
                settled[partition] = Offset(settled_m, settled_r)
                read[partition] = Offset(read_m, read_r)
            return cls(
                resume=resume,
                settled=settled,
                complete_to=told["complete_to"],
                read=read,
                forgotten=told.get("forgotten"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, NotExamples):
                raise
            raise NotExamples(f"its header {PROGRESS} cannot be read: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleBlock:
    """Examples in settling order, and the progress of their partition with them."""

    examples: ExampleColumns
    schema: EventSchema  # what they carry
    progress: Progress
    names: Mapping[int, str] = field(default_factory=dict)  # scene hash → its name

    def __len__(self) -> int:
        return len(self.examples)


def encode(block: ExampleBlock, schema: EventSchema) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Return the value and the headers of a record; the examples are of ``schema``."""
    examples = block.examples
    columns: dict[str, pa.Array] = {n: pa.array(getattr(examples, n)) for n in _PLAIN}
    for i, name in enumerate(schema.ids):
        columns[f"ids/{name}"] = pa.array(np.ascontiguousarray(examples.ids[:, i]))
    for i, name in enumerate(schema.numbers):
        columns[f"numbers/{name}"] = pa.array(np.ascontiguousarray(examples.numbers[:, i]))
    start = 0
    for name, width in schema.lists:
        values = np.ascontiguousarray(examples.lists[:, start : start + width]).ravel()
        columns[f"lists/{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(values), width)
        start += width
    about = {"format": FORMAT, "actions": list(schema.actions)}
    arrow = pa.schema(
        [(name, column.type) for name, column in columns.items()],
        metadata={_METADATA: orjson.dumps(about)},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow) as writer:
        writer.write_batch(pa.record_batch(list(columns.values()), schema=arrow))
    headers = [(PROGRESS, block.progress.encode())]
    if block.names:
        headers.append((NAMES, orjson.dumps(_fitting(block.names))))
    return sink.getvalue().to_pybytes(), headers


def decode(value: bytes, headers: Headers) -> ExampleBlock:
    """Return what `encode` wrote, its columns read-only.

    Raises `NotExamples`, `NewerExamples`.
    """
    found = dict(headers)
    if (told := found.get(PROGRESS)) is None:
        raise NotExamples(f"it has no header {PROGRESS}: no worker wrote it")
    progress = Progress.decode(told)
    try:
        with pa.ipc.open_stream(value) as reader:
            about = orjson.loads((reader.schema.metadata or {})[_METADATA])
            _check_format(about["format"])
            batch = reader.read_next_batch()
        batch.validate(full=True)
        names = {int(k): str(v) for k, v in orjson.loads(found.get(NAMES) or b"{}").items()}
        schema = _schema_of(batch, about["actions"])
        return ExampleBlock(
            examples=_columns(batch, schema), schema=schema, progress=progress, names=names
        )
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError, StopIteration) as error:
        if isinstance(error, NotExamples):
            raise
        raise NotExamples(f"its columns cannot be read: {error}") from error


def select(block: ExampleBlock, schema: EventSchema) -> ExampleColumns:
    """Return the examples with the features of ``schema`` only. Raises `MissingFeature`.

    Of a list the first values are taken, as many as asked for.
    """
    have, examples, n = block.schema, block.examples, len(block)
    if have == schema:
        return examples
    lists = np.zeros((n, schema.list_width), np.uint64)
    starts, start = {}, 0
    for name, width in have.lists:
        starts[name] = (start, width)
        start += width
    start = 0
    for name, width in schema.lists:
        first, there = starts.get(name, (0, 0))
        if there < width:
            lengths = [f"{name} of {length}" for name, (_, length) in starts.items()]
            raise MissingFeature(f"list {name!r} of {width} values", _listed(lengths))
        lists[:, start : start + width] = examples.lists[:, first : first + width]
        start += width
    columns: dict[str, Any] = dict(examples.columns())
    columns["ids"] = examples.ids[:, _places("id", schema.ids, have.ids)]
    columns["numbers"] = examples.numbers[:, _places("number", schema.numbers, have.numbers)]
    columns["lists"] = lists
    columns["actions"] = _actions(examples.actions, schema.actions, have.actions)
    return ExampleColumns(**columns)


def _actions(
    bits: npt.NDArray[np.uint8], wanted: Sequence[str], there: Sequence[str]
) -> npt.NDArray[np.uint8]:
    """Return the bits (n,) of ``wanted`` actions, from those of the actions that are ``there``.

    Who wants one action alone has it as the label, whatever the worker calls it.
    """
    if tuple(wanted) == tuple(there[: len(wanted)]) or len(wanted) == 1:
        return bits
    result = np.zeros_like(bits)
    for place, at in enumerate(_places("action", wanted, there)):
        result |= (bits >> np.uint8(at) & np.uint8(1)) << np.uint8(place)
    return result


def _places(kind: str, wanted: Sequence[str], there: Sequence[str]) -> list[int]:
    for name in wanted:
        if name not in there:
            raise MissingFeature(f"{kind} {name!r}", _listed(there))
    return [there.index(name) for name in wanted]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _fitting(names: Mapping[int, str]) -> dict[str, str]:
    """Return the first names that `NAMES_BYTES` have room for."""
    found, left = {}, NAMES_BYTES
    for scene, name in names.items():
        left -= len(orjson.dumps(name)) + len(f'"{scene}":,')
        if left < 0:
            break
        found[str(scene)] = name
    return found


def _check_format(number: object) -> None:
    if isinstance(number, int) and number > FORMAT:
        raise NewerExamples(number)
    if number != FORMAT:
        raise NotExamples(f"it is of format {number}, which there never was")


def _schema_of(batch: Any, actions: Sequence[str]) -> EventSchema:
    def named(kind: str) -> list[str]:
        return [n.partition("/")[2] for n in batch.schema.names if n.startswith(f"{kind}/")]

    return EventSchema(
        ids=tuple(named("ids")),
        numbers=tuple(named("numbers")),
        lists=tuple(
            (name, batch.schema.field(f"lists/{name}").type.list_size) for name in named("lists")
        ),
        actions=tuple(actions),
    )


def _columns(batch: Any, schema: EventSchema) -> ExampleColumns:
    n = batch.num_rows
    columns: dict[str, Any] = dict(ExampleColumns.empty(schema, n).columns())
    for name, kind in _PLAIN.items():
        columns[name] = _values(batch, name, kind)
    for i, name in enumerate(schema.ids):
        columns["ids"][:, i] = _values(batch, f"ids/{name}", np.uint64)
    for i, name in enumerate(schema.numbers):
        columns["numbers"][:, i] = _values(batch, f"numbers/{name}", np.float32)
    start = 0
    for name, width in schema.lists:
        flat = batch.column(f"lists/{name}").flatten()
        columns["lists"][:, start : start + width] = _plain(flat, np.uint64).reshape(n, width)
        start += width
    return ExampleColumns(**columns)


def _values(batch: Any, name: str, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    return _plain(batch.column(name), kind)


def _plain(array: Any, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    if array.null_count:
        raise NotExamples("a column has nulls")
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    if values.dtype != kind:
        raise NotExamples(f"a column is of {values.dtype}, not of {np.dtype(kind)}")
    return values
