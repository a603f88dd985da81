"""Which column of a table is what of an event: a mapping read from TOML, no code per data set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

from replay.delays import ConstantDelay, Delay, delay_from_table
from replay.errors import MappingError, nearest
from stream.events import EventSchema

TimeUnit = Literal["s", "ms", "us", "ns"]

_REQUIRED: Final = ("user_id", "item_id", "ts")
_OPTIONAL: Final = ("request_id", "scene", "position", "label")
_COLUMN_KEYS: Final = (
    "impression_id",
    *_REQUIRED,
    *_OPTIONAL,
    "ts_unit",
    "ts_shift_s",
    "label_at_least",
)
_FEEDBACK_KEYS: Final = ("action", "value", "delay_s", "delay_column", "time_column", "delay")


@dataclass(frozen=True, kw_only=True)
class ParquetMapping:
    """One row is an impression with its label; this says where its parts are.

    A row is a click where its label is over 0, or at least ``label_at_least``.
    """

    user_id: str
    item_id: str
    ts: str  # a timestamp, text in ISO 8601, or a number since 1970
    impression_id: tuple[str, ...] = ()  # columns that together are unique; none: the row number
    ts_unit: TimeUnit | None = None  # of numbers; None: told from their size
    ts_shift_s: int = 0  # added to every time: the stream refuses those before 2001-09-09
    request_id: str | None = None  # None: every impression is a request of its own
    scene: str | None = None  # None: one unnamed scene
    position: str | None = None  # None: unknown
    label: str | None = None  # None: nothing is ever clicked
    label_at_least: float | None = None  # for ratings; None: over 0 is a click
    action: str = "click"  # what the feedback of a clicked row is called
    delay: Delay = field(default_factory=ConstantDelay)  # the label's own time is rarely stored
    value: str | None = None  # a column of what the feedback is worth; None: not known
    features: Mapping[str, str] = field(default_factory=dict)  # name in the event → column

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "ParquetMapping":
        """Read ``[input.columns]``, ``[input.feedback]`` and ``[input.features]`` of ``[input]``.

        Other keys of ``table`` are not its business. Raises `MappingError`.
        """
        columns = _section(table, "columns", _COLUMN_KEYS)
        feedback = _section(table, "feedback", _FEEDBACK_KEYS)
        features = _section(table, "features", None)
        for key in _REQUIRED:
            if key not in columns:
                raise MappingError(
                    f'[input.columns] has no {key}: add {key} = "the column that holds it".'
                )
        unit = columns.get("ts_unit")
        if unit is not None and unit not in get_args(TimeUnit):
            raise MappingError(
                f"[input.columns] ts_unit = {unit!r}: it is one of {', '.join(get_args(TimeUnit))}."
            )
        shift = columns.get("ts_shift_s", 0)
        if not isinstance(shift, int) or isinstance(shift, bool):
            raise MappingError(f"[input.columns] ts_shift_s = {shift!r}: it is whole seconds.")
        at_least = columns.get("label_at_least")
        if at_least is not None and not isinstance(at_least, int | float):
            raise MappingError(f"[input.columns] label_at_least = {at_least!r}: it is a number.")
        if at_least is not None and "label" not in columns:
            raise MappingError("[input.columns] label_at_least needs label, the column it judges.")
        ids = columns.get("impression_id", [])
        names = [ids] if isinstance(ids, str) else ids
        if not isinstance(names, list):
            raise MappingError("[input.columns] impression_id is a column or a list of columns.")
        action, value = feedback.get("action", "click"), feedback.get("value")
        return cls(
            impression_id=tuple(_column(n, "[input.columns] impression_id") for n in names),
            ts_unit=cast(TimeUnit | None, unit),
            ts_shift_s=shift,
            label_at_least=None if at_least is None else float(at_least),
            action=_column(action, "[input.feedback] action"),
            delay=delay_from_table(feedback),
            value=None if value is None else _column(value, "[input.feedback] value"),
            features={k: _column(v, f"[input.features] {k}") for k, v in features.items()},
            **{
                k: _column(columns[k], f"[input.columns] {k}")
                for k in (*_REQUIRED, *_OPTIONAL)
                if k in columns
            },
        )

    @property
    def roles(self) -> dict[str, str]:
        """What the mapping names, by its place in the TOML: ``[input.columns] ts`` → column."""
        roles = {
            f"[input.columns] {k}": getattr(self, k)
            for k in (*_REQUIRED, *_OPTIONAL)
            if getattr(self, k) is not None
        }
        roles |= {f"[input.columns] impression_id {i}": c for i, c in enumerate(self.impression_id)}
        if self.label and self.delay.column:
            key = "time_column" if self.delay.column_is == "time" else "delay_column"
            roles[f"[input.feedback] {key}"] = self.delay.column
        if self.label and self.value:
            roles["[input.feedback] value"] = self.value
        return roles | {f"[input.features] {k}": c for k, c in self.features.items()}

    @property
    def feedback_columns(self) -> tuple[str, ...]:
        """The columns that feedback is made of, each once."""
        names = [self.ts, self.user_id, *self.impression_id]
        names += [c for c in (self.label, self.delay.column, self.value) if c is not None]
        return tuple(dict.fromkeys(names))

    def columns_for(self, schema: EventSchema) -> tuple[str, ...]:
        """Return the columns that events of ``schema`` are made of, each once."""
        wanted = (*schema.ids, *schema.numbers, *(name for name, _ in schema.lists))
        names = [*self.feedback_columns, self.item_id]
        names += [c for c in (self.request_id, self.scene, self.position) if c is not None]
        return tuple(dict.fromkeys([*names, *(self.features[name] for name in wanted)]))

    def check_columns(self, present: Iterable[str], where: str) -> None:
        """Raise `MappingError` unless every column named is among those ``present``."""
        known = set(present)
        for role, column in self.roles.items():
            if column not in known:
                raise MappingError(
                    f"{role} names the column {column!r}, which {where} does not have. "
                    f"{nearest(column, known)}"
                )

    def check_schema(self, schema: EventSchema) -> None:
        """Raise `MappingError` unless every feature of ``schema`` is mapped to a column."""
        for name in (*schema.ids, *schema.numbers, *(name for name, _ in schema.lists)):
            if name not in self.features:
                raise MappingError(
                    f"[features] asks for {name!r}, which [input.features] does not map: add "
                    f'{name} = "its column". {nearest(name, self.features)}'
                )


def _section(
    table: Mapping[str, Any], name: str, known: tuple[str, ...] | None
) -> Mapping[str, Any]:
    section = table.get(name, {})
    if not isinstance(section, Mapping):
        raise MappingError(f"[input] {name} is a table: write it as [input.{name}].")
    for key in section:
        if known is not None and key not in known:
            raise MappingError(f"[input.{name}] knows no {key!r}. {nearest(key, known)}")
    return section


def _column(value: Any, where: str) -> str:  # what TOML gave
    if not isinstance(value, str) or not value:
        raise MappingError(f"{where} = {value!r}: it is a name in quotes.")
    return value
