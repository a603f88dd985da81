"""Messages to columns: NDJSON values of a log, decoded by type, with what is wrong set aside.

A message's value is one or many lines; an event's row is the number of its line in the message,
from 0, blank lines counted. What the schema does not name is not read, so not judged either. See
docs/architecture.md for the contract of an event.
"""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from stream.deadletters import RAW_BYTES
from stream.events import FEEDBACK, IMPRESSION, OTHER_ACTION, EventColumns, EventSchema
from stream.ids import NotAnId, hash_ids
from stream.position import Partition
from stream.scan import PIECE, Piece, Scanner
from stream.source import Rejected

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

EARLIEST_MS: Final = 1_000_000_000_000  # 2001-09-09: seconds given as milliseconds lie before it
LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01: microseconds lie behind it
MAX_LINE_BYTES: Final = 1 << 20  # an event takes some hundred bytes; past this it is an accident
MAX_SCENES: Final = 10_000  # names kept; scenes past it are read all the same, without their names
_MAX_NAME: Final = 200  # characters of a name that is kept

_CHUNK: Final = 4096  # lines whose objects live at once: they stay in the processor's cache
_NO_ACTION: Final = 254
_ORIGIN: Final = {"partition", "offset", "row"}
_FLOAT32: Final = float(np.finfo(np.float32).max)

_Key = Annotated[str, Meta(min_length=1)] | int
_Time = Annotated[int, Meta(ge=EARLIEST_MS, lt=LATEST_MS)]
_Place = Annotated[int, Meta(ge=-1, lt=2**31)] | None
_Number = Annotated[float, Meta(ge=-_FLOAT32, le=_FLOAT32)] | bool | None
_Id = str | int | float | bool | None

_BLANK: Final = b'{"impression_id":0,"user_id":0,"item_id":0,"ts":1000000000000}'


class SchemaError(ValueError):
    """An event schema asks for what no event can carry."""


class Decoded(NamedTuple):
    """What some messages held: n events, in log order, and the rest."""

    events: EventColumns
    rejected: list[Rejected]  # in log order
    names: dict[int, str]  # scene hash → name, of scenes not seen before


class Decoder:
    """Decodes the messages of any partition. Remembers only which scenes it has named."""

    def __init__(
        self, schema: EventSchema, max_line_bytes: int = MAX_LINE_BYTES, *, scan: bool = True
    ) -> None:
        """Read events of ``schema``; without ``scan`` the slow way, which gives the same bits."""
        self.schema = schema
        self._max_line_bytes = max_line_bytes
        self._features = _features_type(schema)
        self._decode = msgspec.json.Decoder(_event_type(self._features)).decode
        self._blank = self._decode(_BLANK)  # stands where a line is bad
        self._actions = _Actions(
            {None: _NO_ACTION} | {name: code for code, name in enumerate(schema.actions)}
        )
        self._scanner = Scanner(schema, EARLIEST_MS, LATEST_MS, max_line_bytes, scan)
        self._named: set[int] = set()
        self._known = np.zeros(0, np.uint64)  # the same, sorted
        self.lines = self.lines_plain = 0  # read so far; of these, without Python for each

    def decode(
        self,
        messages: Sequence[bytes],
        offsets: I64,
        partition_index: int,
        partition: Partition,
    ) -> Decoded:
        """Decode the values of messages (m,) at ``offsets`` (m,) of one partition."""
        blocks: list[EventColumns] = []
        rejected: list[Rejected] = []
        names: dict[int, str] = {}
        for start in range(0, len(messages), PIECE):
            some = slice(start, start + PIECE)
            known = self._known if len(self._named) < MAX_SCENES else None
            for piece in self._scanner.pieces(
                messages[some], offsets[some], partition_index, known
            ):
                kept = self._judge(piece, partition, rejected, names)
                blocks.append(piece.columns if kept.all() else piece.columns.take(kept))
        events = EventColumns.concat(blocks) if blocks else EventColumns.empty(self.schema)
        return Decoded(events, rejected, names)

    def _judge(
        self, piece: Piece, partition: Partition, rejected: list[Rejected], names: dict[int, str]
    ) -> npt.NDArray[np.bool_]:
        """Fill in the lines that are not plain; return which lines (n,) are events."""
        columns = piece.columns
        scenes = _scenes_told(piece)
        kept = np.ones(len(columns), np.bool_)
        others = np.flatnonzero(~piece.plain)
        self.lines += len(columns)
        self.lines_plain += len(columns) - others.size
        for start in range(0, others.size, _CHUNK):
            at = others[start : start + _CHUNK]
            lines = [piece.data[first:end] for first, end in piece.lines[at].tolist()]
            chunk = _Chunk(lines, columns.offset[at], columns.row[at])
            self._judge_bytes(chunk)
            objects = self._objects(chunk)
            found = self._columns(objects, chunk)
            for name, column in found.columns().items():
                if name not in _ORIGIN:
                    columns.columns()[name][at] = column
            scenes += _scenes_new([e.scene for e in objects], found.scene, at, self._named)
            rejected += chunk.rejected(partition)
            kept[at[list(chunk.bad)]] = False
        if scenes:
            self._name(scenes, names)
        return kept

    def _judge_bytes(self, chunk: "_Chunk") -> None:
        for i, line in enumerate(chunk.lines):
            if len(line) > self._max_line_bytes:
                most = f"at most {self._max_line_bytes:,}"
                chunk.refuse(i, "oversize", f"a line of {len(line):,} bytes: {most} are read")
            elif not _is_utf8(line):
                chunk.refuse(i, "bad_utf8", "the line is not UTF-8")

    def _objects(self, chunk: "_Chunk") -> list[Any]:
        """Decode the lines of a chunk; a blank event stands where one is bad."""
        decode, blank = self._decode, self._blank
        lines: Sequence[bytes] = chunk.lines
        if chunk.bad:
            lines = [_BLANK if i in chunk.bad else line for i, line in enumerate(lines)]
        left = iter(lines)
        objects: list[Any] = []
        while True:
            try:
                objects.extend(map(decode, left))  # what it had before an error stays
                return objects
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                i = len(objects)
                chunk.refuse(i, *_told(error, lines[i]))
                objects.append(blank)

    def _columns(self, objects: list[Any], chunk: "_Chunk") -> EventColumns:
        """Return all but their origin; note in ``chunk`` what is no event after all."""
        n = len(objects)
        actions = [e.action for e in objects]
        action = np.full(n, OTHER_ACTION, np.uint8)
        value = np.full(n, np.nan, np.float32)
        is_feedback = np.zeros(n, np.bool_)
        if set(actions) != {None}:
            action = np.fromiter(map(self._actions.__getitem__, actions), np.uint8, n)
            is_feedback = action != _NO_ACTION
            action[~is_feedback] = OTHER_ACTION
            value[:] = np.array([e.value for e in objects], np.float64)
            value[~is_feedback] = np.nan
        ts = np.array([e.ts for e in objects], np.int64)
        impression = hash_ids([e.impression_id for e in objects])
        item = hash_ids([e.item_id for e in objects])
        nameless = (item == 0) & ~is_feedback
        if nameless.any():
            for i in np.flatnonzero(nameless).tolist():
                chunk.refuse(i, "missing_field", "item_id is missing: an impression shows an item")
        request = hash_ids([e.request_id for e in objects])
        positions = [e.position for e in objects]
        try:
            position = np.array(positions, np.int32)
        except TypeError:
            position = np.array([-1 if p is None else p for p in positions], np.int32)
        ids, numbers, lists = self._feature_columns(objects, chunk)
        if is_feedback.any():
            for column in (item, ids, numbers, lists):
                column[is_feedback] = np.nan if column is numbers else 0
        return EventColumns(
            kind=np.where(is_feedback, np.uint8(FEEDBACK), np.uint8(IMPRESSION)),
            ts=ts,
            at=ts.copy(),
            impression=impression,
            user=hash_ids([e.user_id for e in objects]),
            item=item,
            request=np.where(request == 0, impression, request),
            scene=hash_ids([e.scene for e in objects]),
            position=position,
            action=action,
            value=value,
            ids=ids,
            numbers=numbers,
            lists=lists,
            partition=np.zeros(n, np.int16),
            offset=np.zeros(n, np.int64),
            row=np.zeros(n, np.int32),
        )

    def _feature_columns(
        self, objects: list[Any], chunk: "_Chunk"
    ) -> tuple[U64, npt.NDArray[np.float32], U64]:
        schema, n = self.schema, len(objects)
        ids = np.zeros((n, len(schema.ids)), np.uint64)
        numbers = np.full((n, len(schema.numbers)), np.nan, np.float32)
        lists = np.zeros((n, schema.list_width), np.uint64)
        if self._features is None:
            return ids, numbers, lists
        features: list[Any] = [e.features for e in objects]
        if None in features:
            none = self._features()
            features = [none if f is None else f for f in features]
        for column, name in enumerate(schema.ids):
            values = list(map(attrgetter(f"i{column}"), features))
            ids[:, column], bad = _hash_some(values)
            for i in bad:
                chunk.refuse(i, "wrong_type", _not_an_id(name, values[i]))
        for column in range(len(schema.numbers)):
            numbers[:, column] = np.array(
                list(map(attrgetter(f"n{column}"), features)), np.float64
            )  # null becomes NaN
        start = 0
        for column, (name, width) in enumerate(schema.lists):
            held = [v or () for v in map(attrgetter(f"l{column}"), features)]
            if max(map(len, held)) > width:
                held = [v[:width] for v in held]
            lengths = np.fromiter(map(len, held), np.int64, n)
            flat = list(chain.from_iterable(held))
            event = np.repeat(np.arange(n), lengths)
            place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            hashed, bad = _hash_some(flat)
            lists[event, start + place] = hashed
            for k in bad:
                chunk.refuse(int(event[k]), "wrong_type", _not_an_id(name, flat[k]))
            start += width
        return ids, numbers, lists

    def _name(self, scenes: list[tuple[int, int, str]], names: dict[int, str]) -> None:
        """Note the names of scenes (line, hash, text), in their order, while there is room."""
        for _, hashed, text in sorted(scenes):
            if hashed not in self._named and len(self._named) < MAX_SCENES:
                self._named.add(hashed)
                names[hashed] = text
        self._known = np.array(sorted(self._named), np.uint64)


class _Chunk:
    """Some lines, where they are from, and which are no events: reason, or "" if blank; detail."""

    def __init__(self, lines: Sequence[bytes], offsets: I64, rows: npt.NDArray[np.int32]) -> None:
        self.lines, self.offsets, self.rows = lines, offsets, rows
        self.bad: dict[int, tuple[str, str]] = {}

    def refuse(self, i: int, reason: str, detail: str) -> None:
        """Note what is wrong with line ``i``; its first fault is the one that is told."""
        self.bad.setdefault(i, (reason, detail))

    def kept(self) -> npt.NDArray[np.bool_]:
        """Return which lines (n,) are events."""
        kept = np.ones(len(self.lines), np.bool_)
        kept[list(self.bad)] = False
        return kept

    def rejected(self, partition: Partition) -> list[Rejected]:
        """Return those that are not, but for blank lines, in their order."""
        return [
            Rejected(partition, int(self.offsets[i]), int(self.rows[i]), reason, detail,
                     self.lines[i][:RAW_BYTES])
            for i, (reason, detail) in sorted(self.bad.items()) if reason
        ]  # fmt: skip


def _scenes_told(piece: Piece) -> list[tuple[int, int, str]]:
    """Return the new scenes of plain lines: the first line of each, its hash and text."""
    if not len(piece.new_scenes):
        return []
    hashes = piece.columns.scene[piece.new_scenes[:, 0]]
    _, first = np.unique(hashes, return_index=True)
    scenes = []
    for k in first.tolist():
        line, start, end = piece.new_scenes[k].tolist()
        scenes.append((line, int(hashes[k]), piece.data[start:end].decode().strip('"')))
    return scenes


def _scenes_new(
    told: list[str | int | None], hashes: U64, lines: npt.NDArray[np.intp], named: set[int]
) -> list[tuple[int, int, str]]:
    """Return the scenes not ``named`` of some lines: the first line of each, its hash and text."""
    if not told or set(told) == {None}:
        return []
    values, first = np.unique(hashes, return_index=True)
    return [
        (int(lines[k]), hashed, str(told[k]))
        for hashed, k in zip(values.tolist(), first.tolist(), strict=True)
        if hashed and hashed not in named and len(str(told[k])) <= _MAX_NAME
    ]


class _Actions(dict[str | None, int]):
    def __missing__(self, action: str | None) -> int:
        return OTHER_ACTION


def _features_type(schema: EventSchema) -> Any:  # a msgspec.Struct type; None without features
    if len(schema.actions) > 8:
        raise SchemaError(f"{len(schema.actions)} actions are named: at most 8 are told apart.")
    fields: list[tuple[str, Any, Any]] = []
    fields += [(f"i{k}", _Id, None) for k in range(len(schema.ids))]
    fields += [(f"n{k}", _Number, None) for k in range(len(schema.numbers))]
    fields += [(f"l{k}", list[_Id] | None, None) for k in range(len(schema.lists))]
    names = [*schema.ids, *schema.numbers, *(name for name, _ in schema.lists)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaError(
            f"The feature {twice[0]!r} is named twice: it is an id, a number or a list, once."
        )
    if not fields:
        return None
    rename = {field[0]: name for field, name in zip(fields, names, strict=True)}
    return msgspec.defstruct("Features", fields, gc=False, frozen=True, rename=rename)


def _event_type(features: Any) -> Any:  # msgspec.Struct types
    fields: list[Any] = [
        ("impression_id", _Key),
        ("user_id", _Key),
        ("ts", _Time),
        ("item_id", str | int, ""),
        ("scene", str | int | None, None),
        ("request_id", str | int | None, ""),
        ("position", _Place, -1),
        ("action", str | None, None),
        ("value", _Number, None),
    ]
    if features is not None:
        fields.append(("features", features | None, features()))
    return msgspec.defstruct("Event", fields, gc=False)


def _told(error: Exception, line: bytes) -> tuple[str, str]:
    """Return the reason of `deadletters.REASONS` and the detail of what msgspec found."""
    if not line.strip(b" \t\r"):
        return "", "a blank line"
    if isinstance(error, UnicodeDecodeError):
        return "bad_utf8", "the line is not UTF-8"
    if isinstance(error, RecursionError):
        return "bad_json", "nested too deeply"
    said = str(error).replace("$.", "").replace("`", "")
    if not isinstance(error, msgspec.ValidationError):
        return "bad_json", said
    if said.startswith("Object missing required field"):
        return "missing_field", f"{said.rpartition(' ')[2]} is missing"
    if "of length >= 1" in said:
        return "missing_field", f"{said.rpartition(' ')[2]} is empty"
    if said.endswith("- at ts") and ("Expected int >=" in said or "Expected int <" in said):
        return "bad_time", "ts is not between 2001-09-09 and 2100-01-01 in epoch milliseconds"
    return "wrong_type", said


def _hash_some(values: list[Any]) -> tuple[U64, list[int]]:
    """Hash ids (n,), and return which are none, for having a fraction."""
    try:
        return hash_ids(values), []
    except NotAnId:
        bad = [i for i, v in enumerate(values) if type(v) is float and not v.is_integer()]
        for i in bad:
            values[i] = None
        return hash_ids(values), bad


def _not_an_id(name: str, value: object) -> str:
    return f"features.{name}: {value!r} is a number with a fraction, which is no id"


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
