"""A run's folder: its checkpoints, trace, dead letters, result and report."""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import orjson

from keepstream.config import ELSEWHERE, Config, ConfigError
from keepstream.fingerprint import difference, merged

CONCAT = "concat"  # the one plug that makes another model


class RunInUse(ConfigError):
    """Another process trains into the same folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: another process is training into this folder. Stop it, or give --run another."
        )


class RunFolder:
    """The folder of one run, held by one process at a time.

    ``config.json`` is what it was started with; a run goes on only with the same.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.trace = path / "trace.ndjson"
        self.letters = path / "deadletters.ndjson"
        self.journal = path / "knowledge.ndjson"
        self.result = path / "result.json"
        self.report = path / "report.html"
        self.scratch = path / "scratch"
        self._config = path / "config.json"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunInUse(self.path) from error
        shutil.rmtree(
            self.scratch, ignore_errors=True
        )  # left by a crash; the checkpoint has it all
        self.scratch.mkdir()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._lock is not None, "left only after it was entered"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.close()

    def clear(self) -> None:
        """Forget an earlier run in this folder; anything else in it is left alone."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        kept = (self.trace, self.letters, self.journal, self.result, self.report, self._config)
        for path in kept:
            path.unlink(missing_ok=True)
        self.letters.with_name(self.letters.name + ".1").unlink(missing_ok=True)

    def claim(self, config: Config, reads: Mapping[str, Any]) -> str | None:
        """Say that this folder belongs to ``config`` and to what it ``reads``; refuse another's.

        Without a checkpoint it is nobody's yet: what a start left that failed is forgotten. Return
        in a line, for people, what of a run that goes on is not as it was.
        """
        before = _read_config(self._config) if self._config.exists() else None
        if before is not None:
            known = before.get("reads", reads)
            refused = _other_config(before, config) or _other_input(known, reads)
            if refused is None:
                now = _started(config, merged(known, reads))
                if before != now:  # where things lie may have changed
                    _write(self._config, now)
                return _other_knowledge(before, config) if self._begun else None
            if self._begun:
                raise ConfigError(
                    f"{self.path}: this run was started {refused}, start over with --fresh, or "
                    "give --run another folder."
                )
            self.clear()
        _write(self._config, _started(config, reads))
        return None

    @property
    def _begun(self) -> bool:
        return any(self.checkpoints.glob("checkpoint-*"))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, whole or not at all."""
        _write(self.result, result)


def reads_of_run(path: Path) -> dict[str, Any]:
    """Return what the run in a folder reads; nothing where there is none with a checkpoint."""
    config = path / "config.json"
    begun = config.exists() and any((path / "checkpoints").glob("checkpoint-*"))
    return dict(_read_config(config).get("reads") or {}) if begun else {}


def tables_of_run(path: Path) -> dict[str, Any]:
    """Return the configuration of the run in a folder, as tables; none where there is none."""
    config = path / "config.json"
    return dict(_read_config(config)["tables"]) if config.exists() else {}


def plug_of(tables: Mapping[str, Any]) -> str | None:
    """Return which plug a configuration's tables ask for; None: no knowledge."""
    said = tables.get("knowledge") or {}
    return said["plug"] if said.get("store") and said.get("plug") != "none" else None


def _started(config: Config, reads: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``config.json`` holds, as it is read again."""
    started = {
        "digest": config.digest(),
        "digest_without_knowledge": config.digest(knowledge=False),
        "tables": config.as_tables(),
        "reads": reads,
    }
    return dict(orjson.loads(orjson.dumps(started)))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        before = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        before = None
    if not isinstance(before, dict) or not before.keys() >= {"digest", "tables"}:
        raise ConfigError(
            f"{path} is damaged, so that nobody knows whose run this is. Start over "
            "with --fresh, or give --run another folder."
        )
    return before


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all: 1 write aside, 2 sync, 3 rename, 4 sync the folder."""
    staged = path.with_suffix(".writing")
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    with staged.open("wb") as file:
        file.write(data)  # 1
        file.flush()
        os.fsync(file.fileno())  # 2: a name must not reach the disk before what it names
    staged.replace(path)  # 3
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # 4
    finally:
        os.close(folder)


def _other_config(before: Mapping[str, Any], config: Config) -> str | None:
    if before["digest"] == config.digest():
        return None
    changed = ", ".join(_differences(before["tables"], config.as_tables())) or "defaults"
    plain = before.get("digest_without_knowledge", before["digest"])  # runs from before it had none
    if plain != config.digest(knowledge=False):
        return f"with another configuration ({changed} changed). Restore it"
    if CONCAT in (
        plug_of(before["tables"]),
        config.knowledge.plug if config.knowledge.used else None,
    ):
        return (
            f"with another [knowledge] ({changed} changed), and what {CONCAT!r} gives a model are "
            "inputs, which one that is trained cannot take on or lose. Restore it"
        )
    return None


def _other_knowledge(before: Mapping[str, Any], config: Config) -> str | None:
    """Return what of the knowledge has changed since a run was started, in a line."""
    if before["digest"] == config.digest():
        return None
    now, old = config.knowledge, plug_of(before["tables"])
    if old is None:
        return "[knowledge] is new: the plug is put into the model, which stays as it is."
    if not now.used:
        return "[knowledge] is gone: the plug is taken out of the model, which stays as it is."
    changed = _differences(before["tables"], config.as_tables())
    said = ", ".join(name for name in changed if name.startswith("knowledge."))
    return f"{said} changed: what of the plug still fits stays, and the model as it is."


def _other_input(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    found = difference(before, now)
    if found is None:
        return None
    return f"over another input ({found}): a place in that one is none in this. Name the same"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    defaults = Config().as_tables()  # of what an older version did not write down
    changed = []
    for table in sorted((set(before) | set(after)) - set(ELSEWHERE)):
        old = orjson.loads(orjson.dumps({**defaults.get(table, {}), **(before.get(table) or {})}))
        new = orjson.loads(orjson.dumps(after.get(table) or {}))
        changed += [f"{table}.{k}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    return changed
