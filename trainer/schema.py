"""Which features a model sees: the `[features]` table of the configuration, checked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
from xxhash import xxh3_128_hexdigest

from networks.shape import ModelShape
from stream.events import EventSchema
from trainer.schema_values import (
    FeatureSchemaError,
    flag,
    nearest,
    no_doubles,
    only,
    plain_name,
    real,
    sequence,
    whole,
)

BUILT_IN: Final = ("item", "user", "scene", "position")  # ids that every event has a place for
LAST_CLICK: Final = "last_click"  # the user's most recent clicked item, as of the impression
HISTORY: Final = "history"  # the name of the sequence of the user's clicked items
_LONGEST_HELD: Final = 256  # half-lives: what 64-bit floats can follow
CLOCK: Final = ("hour_sin", "hour_cos", "weekend")  # UTC


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """Decayed counts of impressions and clicks of every value of a key."""

    key: tuple[str, ...]  # parts: built-in ids, last_click or id features of the event
    half_lives_h: tuple[float, ...] = (0.5, 3.0, 12.0, 48.0)  # the hour, the day, and what lasts
    age: bool = True  # how long the key has been known: what is new behaves differently
    scenes: tuple[str, ...] = ()  # what is shown elsewhere does not count; (): everything does
    held_s: float | None = None  # read as of the last multiple of it (event time); None: of now

    @property
    def name(self) -> str:
        """How columns and reports call it, as in ``user*item`` or ``item@front,search``."""
        return "*".join(self.key) + self.place

    @property
    def place(self) -> str:
        """How it calls its scenes: empty, or as in ``@front,search``."""
        return f"@{','.join(self.scenes)}" if self.scenes else ""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The names of its number columns, in order."""
        each = ("shown", "clicked", "ctr")
        decayed = [f"{self.name}.{what}.{h:g}h" for h in self.half_lives_h for what in each]
        return (*decayed, *([f"{self.name}.age"] if self.age else []))


@dataclass(frozen=True, kw_only=True)
class ListFeature:
    """A feature that is a sequence of ids, most recent first."""

    name: str
    length: int  # most recent values kept
    like: str | None = None  # the id field whose ids it holds, and whose embeddings it shares


DEFAULT_IDS: Final = ("item", "user", "scene")
DEFAULT_STATISTICS: Final = (  # what, who, where, and the pairings that tell users apart
    Statistic(key=("item",)),
    Statistic(key=("user",)),
    Statistic(key=("item", "scene")),
    Statistic(key=("user", "item")),
    Statistic(key=(LAST_CLICK, "item")),
)


@dataclass(frozen=True, kw_only=True)
class FeatureSchema:
    """The features of a model.

    Columns of a row come in the order of `id_fields`, `sequences` and `numbers_of_model`.
    """

    ids: tuple[str, ...] = DEFAULT_IDS  # who is shown what, and where
    crosses: tuple[tuple[str, ...], ...] = ()  # combinations are data-specific: none by default
    numbers: tuple[str, ...] = ()  # numbers of the event
    lists: tuple[ListFeature, ...] = ()  # sequences of the event
    history: int = 20  # clicked items: what a day's reading amounts to; 0 = none
    hour_of_day: bool = True  # habits follow the clock
    statistics: tuple[Statistic, ...] = DEFAULT_STATISTICS  # five kinds of key
    prior_shown: float = 10.0  # impressions that the CTR at large is worth: a slate
    prior_ctr: float | None = None  # None: the stream's own, which drifts
    request_relative: bool = False  # needs the whole request at once
    oracle: str | None = None  # a number of the event that is reported and never a feature

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "FeatureSchema":
        """Return the schema that a `[features]` table describes; what it leaves out has defaults.

        Raises FeatureSchemaError for unknown, doubled or impossible entries.

        >>> FeatureSchema.from_table({"ids": ["item"], "statistics": []}).history
        20
        """
        known = [
            *("ids", "crosses", "numbers", "lists", "history", "hour_of_day", "statistics"),
            *("statistics_prior", "request_relative", "oracle"),
        ]
        only(table, known, "features")
        given: dict[str, Any] = {}
        if "ids" in table:
            given["ids"] = _names(table["ids"], "features.ids")
        if "numbers" in table:
            given["numbers"] = _names(table["numbers"], "features.numbers")
        if "crosses" in table:
            crosses = sequence(table["crosses"], "features.crosses")
            given["crosses"] = tuple(
                _key(parts, f"features.crosses[{i}]", least=2) for i, parts in enumerate(crosses)
            )
            no_doubles(given["crosses"], "features.crosses")
        if "lists" in table:
            given["lists"] = _lists(table["lists"])
        if "statistics" in table:
            rows = sequence(table["statistics"], "features.statistics")
            given["statistics"] = tuple(
                _statistic(row, f"features.statistics[{i}]") for i, row in enumerate(rows)
            )
            no_doubles(
                [(*sorted(s.key)[:-1], max(s.key) + s.place) for s in given["statistics"]],
                "features.statistics",
            )
        if "history" in table:
            given["history"] = whole(table["history"], "features.history", least=0)
        for name in ("hour_of_day", "request_relative"):
            if name in table:
                given[name] = flag(table[name], f"features.{name}")
        if "oracle" in table:
            given["oracle"] = plain_name(table["oracle"], "features.oracle")
        given |= _prior(table.get("statistics_prior", {}))
        return cls(**given)

    def __post_init__(self) -> None:
        for feature in self.lists:
            if feature.like is not None and feature.like not in self.ids:
                raise FeatureSchemaError(
                    f"features.lists.{feature.name}.like",
                    f"{feature.like!r} is not among features.ids{nearest(feature.like, self.ids)}",
                )
        if self.history and "item" not in self.ids:
            raise FeatureSchemaError(
                "features.history",
                'the history holds items: put "item" into features.ids or set history = 0',
            )
        if self.lists and not self.ids:
            raise FeatureSchemaError(
                "features.lists", "a list needs one of features.ids to attend to"
            )
        kinds = {
            "id": self.event_ids,
            "number": self.event_numbers,
            "list": tuple(f.name for f in self.lists),
        }
        seen: dict[str, str] = {}
        for kind, names in kinds.items():
            for name in names:
                if name in seen:
                    raise FeatureSchemaError(
                        "features", f"{name!r} is used as {seen[name]} and as {kind}: choose one"
                    )
                seen[name] = kind
        if self.oracle is not None and self.oracle in self.numbers:
            raise FeatureSchemaError(
                "features.oracle",
                f"{self.oracle!r} is among features.numbers: never learn it",
            )

    @property
    def event_ids(self) -> tuple[str, ...]:
        """The id features that are read from the event, in order of first mention."""
        keys = (self.ids, *self.crosses, *(s.key for s in self.statistics))
        parts = dict.fromkeys(part for key in keys for part in key)
        return tuple(part for part in parts if part not in (*BUILT_IN, LAST_CLICK))

    @property
    def event_numbers(self) -> tuple[str, ...]:
        """The numbers that are read from the event; the oracle, if any, is last."""
        return (*self.numbers, *([self.oracle] if self.oracle is not None else []))

    def event_schema(self, actions: Sequence[str] = ("click",)) -> EventSchema:
        """Return what of an event must be read."""
        return EventSchema(
            ids=self.event_ids,
            numbers=self.event_numbers,
            lists=tuple((f.name, f.length) for f in self.lists),
            actions=tuple(actions),
        )

    @property
    def id_fields(self) -> tuple[str, ...]:
        """The embedded fields: F names, ids and then crosses."""
        return (*self.ids, *("*".join(parts) for parts in self.crosses))

    @property
    def sequences(self) -> tuple[tuple[str, int], ...]:
        """The sequences of ids and their lengths; the history is first."""
        history = [(HISTORY, self.history)] if self.history else []
        return (*history, *((f.name, f.length) for f in self.lists))

    @property
    def own_sequence_columns(self) -> npt.NDArray[np.intp]:
        """The columns of a row's sequences that hold ids of no id field: of lists on their own."""
        like = [True] * self.history
        for feature in self.lists:
            like += [feature.like is not None] * feature.length
        return np.flatnonzero(~np.array(like, np.bool_))

    @property
    def row_numbers(self) -> tuple[str, ...]:
        """The number columns of a row: D names; the statistics are last."""
        clock = CLOCK if self.hour_of_day else ()
        return (*self.numbers, *clock, *(name for s in self.statistics for name in s.numbers))

    @property
    def statistic_columns(self) -> slice:
        """Where in a row's numbers the statistics are: those may be relative to the request."""
        names = self.row_numbers
        return slice(len(names) - sum(len(s.numbers) for s in self.statistics), len(names))

    @property
    def numbers_of_model(self) -> tuple[str, ...]:
        """The numbers a model is given: a row's, and those relative to the request where asked."""
        names = self.row_numbers
        if not self.request_relative:
            return names
        return (*names, *(f"{name} - request" for name in names[self.statistic_columns]))

    def model_shape(self, embedding_width: int) -> ModelShape:
        """Return the widths that a model of these features is built for."""
        item = self.ids.index("item") if "item" in self.ids else 0
        targets = [item] if self.history else []
        targets += [self.ids.index(f.like) if f.like is not None else item for f in self.lists]
        return ModelShape(
            id_fields=self.id_fields,
            sequences=self.sequences,
            sequence_targets=tuple(targets),
            numbers=self.numbers_of_model,
            embedding_width=embedding_width,
        )

    @property
    def digest(self) -> str:
        """32 hex digits that are equal for equal schemas, however they were written."""
        said = asdict(self)
        for statistic in said["statistics"]:
            for name in ("held_s", "scenes"):  # as it was before there were such keys
                if not statistic[name]:
                    del statistic[name]
        return xxh3_128_hexdigest(orjson.dumps(said, option=orjson.OPT_SORT_KEYS))


def _scene(value: object, path: str) -> str:
    if not isinstance(value, str) or not value or "," in value or not value.isprintable():
        raise FeatureSchemaError(path, f"must be a printable text without a comma, not {value!r}")
    return value


def _names(value: object, path: str) -> tuple[str, ...]:
    names = tuple(plain_name(v, f"{path}[{i}]") for i, v in enumerate(sequence(value, path)))
    no_doubles(names, path)
    if LAST_CLICK in names:
        raise FeatureSchemaError(
            path, f'"{LAST_CLICK}" is a part of crosses and statistics; history = 1 embeds it'
        )
    return names


def _key(value: object, path: str, least: int = 1) -> tuple[str, ...]:
    parts = tuple(plain_name(v, f"{path}[{i}]") for i, v in enumerate(sequence(value, path)))
    if len(parts) < least or len(set(parts)) < len(parts):
        raise FeatureSchemaError(path, f"needs at least {least} different parts, not {list(parts)}")
    return parts


def _lists(value: object) -> tuple[ListFeature, ...]:
    if not isinstance(value, Mapping):
        raise FeatureSchemaError("features.lists", f"must be a table, not {value!r}")
    lists = []
    for name, spec in value.items():
        path = f"features.lists.{name}"
        spec = only(
            spec if isinstance(spec, Mapping) else {"length": spec}, ("length", "like"), path
        )
        if name == HISTORY:
            raise FeatureSchemaError(path, "that name is taken by the user's clicked items")
        like = plain_name(spec["like"], f"{path}.like") if "like" in spec else None
        length = whole(spec.get("length"), f"{path}.length", least=1)
        lists.append(ListFeature(name=plain_name(name, path), length=length, like=like))
    return tuple(lists)


def _statistic(row: object, path: str) -> Statistic:
    table = only(row, ("key", "half_lives_h", "age", "scenes", "held_s"), path)
    given: dict[str, Any] = {"key": _key(table.get("key", ()), f"{path}.key")}
    if "scenes" in table:
        given["scenes"] = _scenes(table["scenes"], given["key"], f"{path}.scenes")
    if "half_lives_h" in table:
        lives = sequence(table["half_lives_h"], f"{path}.half_lives_h")
        given["half_lives_h"] = tuple(
            # a second … eleven years: what the decay of a 64-bit float can follow
            real(h, f"{path}.half_lives_h[{i}]", 1 / 3600, 1e5)
            for i, h in enumerate(lives)
        )
        if len(set(given["half_lives_h"])) < len(lives):
            raise FeatureSchemaError(f"{path}.half_lives_h", f"names one twice: {list(lives)}")
    if "age" in table:
        given["age"] = flag(table["age"], f"{path}.age")
    if "held_s" in table:
        given["held_s"] = real(table["held_s"], f"{path}.held_s", 0.001, 1e8)
        lives = given.get("half_lives_h", Statistic.half_lives_h)
        if lives and given["held_s"] > (most := _LONGEST_HELD * 3600 * min(lives)):
            raise FeatureSchemaError(
                f"{path}.held_s",
                f"{given['held_s']:g} is more than {_LONGEST_HELD} half-lives of {min(lives):g} h: "
                f"nothing would be left of that count. Hold it for up to {most:g}, or leave that "
                "half-life out",
            )
    return Statistic(**given)


def _scenes(value: object, key: Collection[str], path: str) -> tuple[str, ...]:
    scenes = tuple(_scene(v, f"{path}[{i}]") for i, v in enumerate(sequence(value, path)))
    no_doubles(scenes, path)
    if scenes and (odd := [part for part in key if "@" in part]):
        raise FeatureSchemaError(path, f'{odd[0]!r} of the key has an "@", which begins scenes')
    if "scene" in key:
        raise FeatureSchemaError(
            path, 'the key has "scene", so each scene has counts of its own: leave out one of both'
        )
    return tuple(sorted(scenes))


def _prior(value: object) -> dict[str, float]:
    path = "features.statistics_prior"
    table = only(value, ("shown", "ctr"), path)
    given = {}
    if "shown" in table:
        given["prior_shown"] = real(table["shown"], f"{path}.shown", 0, 1e9)
    if "ctr" in table:
        given["prior_ctr"] = real(table["ctr"], f"{path}.ctr", 0, 1)
    return given
