"""One TOML file, plus environment and ``--set``; unknown keys are refused with the nearest one."""

import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import orjson
from xxhash import xxh3_128

from extractor.config import RESULTS as OF_EXTRACTOR
from extractor.config import ExtractorConfig
from stream.join import JoinConfig
from stream.kafka import PASSWORD, KafkaConfig
from stream.order import OrderConfig
from trainer.checkpoint import CheckpointConfig
from trainer.features import FeatureConfig
from trainer.idmap import IdMapConfig
from trainer.knowledge_config import RESULTS as OF_KNOWLEDGE
from trainer.knowledge_config import KnowledgeConfig
from trainer.learner_config import LearnerConfig
from trainer.metrics import MetricsConfig
from trainer.rehearsal import RehearsalConfig

ENVIRONMENT = "KEEPSTREAM_"
KEEP = "keep"  # the model that knowledge is extracted from
ELSEWHERE = ("log", "kafka", "checkpoint")  # tables of where things lie: they change no result

T = TypeVar("T")

_NO_SETTINGS = (PASSWORD, "KEEPSTREAM_TEST_BOOTSTRAP")  # the second is the tests' own
_LATER = (("train", "tasks"), ("model", "task_weight"))  # keys that old runs know nothing of: at
# their defaults they change no digest
_INPUT_KEYS = ("columns", "feedback", "features", "sort")  # their content is replay/mapping's


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place, the fact and the next move."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the loop runs."""

    batch_size: int = 512  # examples a step; small enough to learn within minutes of traffic
    seed: int = 0  # everything random follows from it
    as_served: bool = False  # also score at impression time, by the model of that moment
    positive_at: Literal["deadline", "click"] = (
        "deadline"  # or "click": learn a positive as soon as it is known
    )
    tasks: tuple[str, ...] = ()  # actions that a model of several tasks learns beside the label
    pending_rows_in_memory: int = 1_000_000  # waiting rows beyond it go to a scratch file

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.seed < 0:
            raise ValueError("seed must be 0 or more")
        if self.positive_at not in ("deadline", "click"):
            raise ValueError('positive_at must be "deadline" or "click"')


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """The file log that `train` follows and `simulate` writes."""

    root: str = "log"  # its folder
    topics: tuple[str, ...] = ("impressions", "feedback")  # what the trainer reads
    fsync: Literal["never", "interval", "always"] = "interval"  # what a power failure may cost
    block_events: int = 16_384  # read at once, from any input: no number changes the result

    def __post_init__(self) -> None:
        if self.block_events < 1:
            raise ValueError("block_events must be at least 1")
        if self.fsync not in get_args(Literal["never", "interval", "always"]):
            raise ValueError(f"fsync = {self.fsync!r} is one of never, interval, always")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run is built from; each part receives its own table only."""

    input: Mapping[str, Any] = field(default_factory=dict)  # how a file's columns map (replay/)
    log: LogConfig = field(default_factory=LogConfig)
    kafka: KafkaConfig = field(default_factory=KafkaConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    features: Mapping[str, Any] = field(default_factory=dict)  # the schema (trainer/schema.py)
    state: FeatureConfig = field(default_factory=FeatureConfig)
    ids: IdMapConfig = field(default_factory=IdMapConfig)
    model: LearnerConfig = field(default_factory=LearnerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    extractor: ExtractorConfig = field(default_factory=ExtractorConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for key in self.input:
            if key not in _INPUT_KEYS:
                raise ValueError(_unknown(key, dict.fromkeys(_INPUT_KEYS), "[input]"))
        if self.train.positive_at == "click":
            if self.features.get("request_relative"):
                raise ValueError(
                    '[train] positive_at = "click" and [features] request_relative: a click would '
                    "be learned without the rest of its request, and that alone would give it "
                    'away. Use positive_at = "deadline".'
                )
            if self.metrics.request_hold_s < self.join.window_s:
                raise ValueError(
                    f"[metrics] request_hold_s = {self.metrics.request_hold_s:g} is less than "
                    f'[join] window_s = {self.join.window_s:g}: with positive_at = "click" a '
                    "request is whole only after the window. Raise request_hold_s."
                )
        if len(self.actions) > 8:
            raise ValueError(
                f"[join] label_actions and [train] tasks name {len(self.actions)} actions, and at "
                "most 8 are read: leave some out"
            )
        if self.extracts and self.knowledge.used:
            raise ValueError(
                f'[model] model = "{KEEP}" gives knowledge and takes none: set [knowledge] '
                'plug = "none". Its store is where the vectors are written.'
            )
        if self.metrics.arms != MetricsConfig().arms:
            raise ValueError("[metrics] arms are not for the configuration: leave them out")

    @property
    def actions(self) -> tuple[str, ...]:
        """The actions that are read: those that make a positive, then the other tasks."""
        return tuple(dict.fromkeys((*self.join.label_actions, *self.train.tasks)))

    @property
    def extracts(self) -> bool:
        """Whether it is a run that knowledge is extracted from."""
        return self.model.model == KEEP

    def as_tables(self) -> dict[str, Any]:
        """Return the whole configuration, defaults included, as JSON-ready tables."""
        return {
            f.name: asdict(value) if is_dataclass(value) else dict(value)  # type: ignore[arg-type]  # a dataclass instance or a mapping
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }

    def digest(self, *, knowledge: bool = True) -> str:
        """Return the digest of what decides the result: not where things lie or how often saved.

        Without ``knowledge`` it is that of the same configuration without any.
        """
        tables, defaults = self.as_tables(), Config().as_tables()
        said, extracted = tables.pop("knowledge"), tables.pop("extractor")
        for name in ELSEWHERE:
            del tables[name]
        for table, key in _LATER:
            if key in defaults[table] and tables[table][key] == defaults[table][key]:
                del tables[table][key]
        if self.extracts:
            tables["extractor"] = {key: extracted[key] for key in OF_EXTRACTOR}
        if knowledge and self.knowledge.used:
            tables["knowledge"] = {key: said[key] for key in OF_KNOWLEDGE}
        return xxh3_128(orjson.dumps(tables, option=orjson.OPT_SORT_KEYS)).hexdigest()


def load(
    path: Path | None,
    settings: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """Return the configuration of a TOML file, then the environment, then ``table.key=value``.

    Raises `ConfigError`, which names the file, the variable or the setting that is at fault.
    """
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(
                f"{path}: there is no such file. `keepstream init` writes one to start from."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{path}: not readable as TOML: {error}") from error
    built = _Built(tables)
    built.again(str(path or "configuration"))
    for name, text in sorted(environment.items()):
        if name.startswith(ENVIRONMENT) and name not in _NO_SETTINGS:
            table, _, key = name.removeprefix(ENVIRONMENT).lower().partition("_")
            _set(tables, table, key, text, name)
            built.again(name)
    for setting in settings:
        place, equals, text = setting.partition("=")
        table, dot, key = place.strip().partition(".")
        _check_not_secret(table, key, f"--set {place}")
        where = f"--set {place}"  # not the value: it may be a secret that was misplaced
        if not (equals and dot and key):
            raise ConfigError(f"{where}: expected table.key=value, as train.seed=3")
        _set(tables, table, key, text.strip(), where)
        built.again(where)
    return built.config()


class _Built:
    """Builds a configuration as its tables fill, to know which place to blame.

    A place that leaves it unfit is to blame only where no later one makes it fit: some settings go
    together, as a user's name and a security that asks for one.
    """

    def __init__(self, tables: Mapping[str, Any]) -> None:
        self._tables = tables
        self._found: Config | ConfigError | None = None

    def again(self, where: str) -> None:
        """Build from what the tables hold by now, the last of it from ``where``."""
        try:
            self._found = from_tables(self._tables, where)
        except ConfigError as error:
            if not isinstance(self._found, ConfigError):
                self._found = error

    def config(self) -> Config:
        """Return the last one. Raises the `ConfigError` of the place since which there is none."""
        if isinstance(self._found, ConfigError):
            raise self._found
        assert self._found is not None, "built at least once"
        return self._found


def from_tables(tables: Mapping[str, Any], where: str = "configuration") -> Config:
    """Build the configuration from TOML tables."""
    for table, keys in tables.items():
        for key in keys if isinstance(keys, Mapping) else ():
            _check_not_secret(table, key, where)
    return _build(Config, tables, where)


def _check_not_secret(table: str, key: str, where: str) -> None:
    """Refuse a password among the settings, which are kept and shown. Names no value."""
    if (table, key) == ("kafka", "password"):
        raise ConfigError(
            f"{where}: a password is no setting, for settings are written into every run folder. "
            f"Put it into the environment ({PASSWORD}), or into a file that "
            "kafka.password_file names."
        )


def _set(tables: dict[str, Any], table: str, key: str, text: str, where: str) -> None:
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text  # a plain word needs no quotes
    if _is_text(table, key) and not isinstance(value, str):
        value = text  # 1234 is a name too
    node = tables
    *parents, last = [table, *key.split(".")]
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{where}: {parent} is one value, not a table with keys of its own.")
    node[last] = value


def _is_text(table: str, key: str) -> bool:
    """Return whether a setting is a text, or may be one."""
    part = typing.get_type_hints(Config).get(table)
    hint = typing.get_type_hints(part).get(key) if is_dataclass(part) else None
    options = get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    return any(option is str or typing.get_origin(option) is Literal for option in options)


def _build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table, got {table!r}")
    known: dict[str, Field[Any]] = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # cls is a dataclass
    hints = typing.get_type_hints(cls)
    for key in table:
        if key not in known:
            raise ConfigError(_unknown(key, known, where))
    values = {
        k: _value(hints[k], v, f"{where} [{k}]" if cls is Config else f"{where} {k}")
        for k, v in table.items()
    }
    missing = [
        n
        for n, f in known.items()
        if n not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {missing[0]} is missing. Add `{missing[0]} = …`.")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in _UNIONS:
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        if value in ("off", None) and len(options) < len(typing.get_args(hint)):
            return None  # TOML has no null; what a run folder holds is JSON, which has
        return _value(options[0], value, where)
    if is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, v, where) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or hint
    if expected is Mapping and not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a table, got {value!r}")
    if expected in (bool, int, float, str) and type(value) is not expected:
        raise ConfigError(
            f"{where}: expected {_SAID[expected]}, got {value!r} ({type(value).__name__})"
        )
    if expected is float and not math.isfinite(value):
        raise ConfigError(f"{where}: expected a finite number, got {value!r}")
    if expected is int and abs(value) >= _LARGEST:
        raise ConfigError(f"{where}: {value} is larger than any number that is counted here")
    return value


def _unknown(key: str, known: Mapping[str, Any], where: str) -> str:
    near = get_close_matches(key, known, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
    return f"{where}: there is no {key!r}. {hint}"


_LARGEST = 1 << 62
_UNIONS = (typing.Union, types.UnionType)
_SAID = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
