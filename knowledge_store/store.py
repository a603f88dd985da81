"""A folder of generations, and `CURRENT`: which of them is in force since when.

Readers take no lock: `CURRENT` is replaced as a whole, and a generation is a folder that appears
complete and never changes. See docs/decisions/0013-the-knowledge-store.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from knowledge_store.builder import GenerationBuilder
from knowledge_store.errors import (
    FutureKnowledge,
    GenerationCorrupt,
    KnowledgeError,
    NoStore,
    NoSuchGeneration,
    NotAStore,
    NothingToRollBack,
    StoreInconsistent,
    SwitchesCorrupt,
    SwitchOutOfOrder,
    refusals_named,
)
from knowledge_store.kinds import Kind
from knowledge_store.layout import (
    CURRENT,
    building,
    delete,
    folders_of,
    generations_folder,
    number_of,
    others_in,
    sweep,
    switching,
)
from knowledge_store.manifest import Manifest, sync_folder, write_synced
from knowledge_store.reader import CACHE_BYTES, GenerationReader
from knowledge_store.schedule import Schedule, Switch

FORMAT: Final = 1  # of CURRENT


class KnowledgeStore:
    """Generations of one extractor, and the switches between them.

    Any number of processes read; one builds or prunes at a time, and switches do not wait for it.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        """Open the store in ``root``; with ``create`` make one where there is none.

        Raises `NoStore`, `NotAStore` where there is something else, and `SwitchesCorrupt` where
        CURRENT is damaged.
        """
        self.root = Path(root)
        folder = generations_folder(self.root)
        if create and not folder.is_dir():
            if other := others_in(self.root):
                raise NotAStore(self.root, other)
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise NoStore(self.root)
        self.switches()

    def folders(self) -> list[Path]:
        """Return the folder of every generation, oldest first, sound or not."""
        return folders_of(self.root)

    def generations(self) -> list[Manifest]:
        """Return the generations that have a readable manifest, oldest first."""
        found = []
        for path in self.folders():
            try:
                found.append(Manifest.read(path))
            except KnowledgeError:
                continue  # `verify` and `check` name it
        return found

    def manifest(self, name: str) -> Manifest:
        """Return a generation's manifest; raise `NoSuchGeneration` or `GenerationCorrupt`."""
        return Manifest.read(self.path(name))

    def path(self, name: str) -> Path:
        """Return a generation's folder; raise `NoSuchGeneration`."""
        path = generations_folder(self.root) / name
        if number_of(name) is None or not path.is_dir():
            raise NoSuchGeneration(name, self.root, [p.name for p in self.folders()])
        return path

    def reader(self, name: str, cache_bytes: int = CACHE_BYTES) -> GenerationReader:
        """Open a generation; the caller closes it."""
        return GenerationReader(self.path(name), cache_bytes=cache_bytes)

    def switches(self) -> tuple[Switch, ...]:
        """Return the switches, in the order of their times; the last is in force."""
        return self.schedule().switches

    def schedule(self) -> Schedule:
        """Return the switches as a schedule. Raises `SwitchesCorrupt`."""
        path = self.root / CURRENT
        try:
            said = orjson.loads(path.read_bytes())
            if said["format"] != FORMAT:
                raise SwitchesCorrupt(path, f"format {said['format']}, this version reads {FORMAT}")
            return Schedule(
                Switch(from_ms=int(s["from_ms"]), generation=str(s["generation"]))
                for s in said["switches"]
            )
        except FileNotFoundError:
            return Schedule()
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, SwitchOutOfOrder) as error:
            raise SwitchesCorrupt(path, str(error)) from error

    def current(self) -> Switch | None:
        """Return the switch in force, None before the first."""
        return self.schedule().last

    def activate(self, name: str, from_ms: int) -> Switch:
        """Put a generation in force from an event time (ms) on; return the switch.

        Every byte of it is read before, so that no reader meets a damaged one first.
        One that is in force stays so, from when it was. Raises `FutureKnowledge` where it has
        learned from that time, `SwitchOutOfOrder` before the last switch, `GenerationCorrupt`.
        """
        manifest = self._sound(name)
        if from_ms < manifest.trained_until_ms:
            raise FutureKnowledge(name, from_ms, manifest.trained_until_ms)
        with switching(self.root):
            self.path(name)  # pruned meanwhile
            schedule = self.schedule()
            last = schedule.last
            if last is not None and last.generation == name and last.from_ms <= from_ms:
                return last
            switch = Switch(from_ms=from_ms, generation=name)
            self._write(schedule.with_switch(switch))
            return switch

    def rollback(self, from_ms: int | None = None) -> Switch:
        """Go back to the generation in force before; return the switch that then is in force.

        Without ``from_ms`` the last switch is taken back, as if it had never been made; with it
        (event time, ms) what was in force until then stays so. Raises `NothingToRollBack`.
        """
        with switching(self.root):
            switches = self.switches()
            last = switches[-1] if switches else None
            earlier = [s for s in switches if last and s.generation != last.generation]
            if last is None or not earlier:
                raise NothingToRollBack(self.root)
            before = earlier[-1]
            self._sound(before.generation)
            kept = switches[: switches.index(before) + 1]
            if from_ms is None or from_ms == last.from_ms:
                self._write(Schedule(kept))
                return before
            switch = Switch(from_ms=from_ms, generation=before.generation)
            self._write(Schedule(switches).with_switch(switch))
            return switch

    def prune(self, keep: int) -> list[str]:
        """Delete generations, and return their names: all but the newest ``keep`` sound ones.

        The newest ``keep`` that have been in force stay as well, however many were only held since.
        The history ends with them: switches to deleted generations go, and those before such a
        one, so that no time is given to a generation that was not in force then. Damaged ones that
        are newer stay, for a person to see. A reader that has one open reads on.
        """
        if keep < 1:
            raise ValueError("keep must be at least 1")
        with building(self.root), switching(self.root):
            sweep(self.root)
            schedule = self.schedule()
            sound = [m.name for m in self.generations()]
            kept = set(sound[-keep:])
            oldest = min((number_of(name) or 0 for name in kept), default=0)
            in_force = {switch.generation for switch in schedule}
            kept |= set([name for name in sound if name in in_force][-keep:])
            if schedule.last is not None:
                kept.add(schedule.last.generation)
            doomed = [
                path
                for path in self.folders()
                if path.name not in kept and (number_of(path.name) or 0) < oldest
            ]
            names = {path.name for path in doomed}
            named = {switch.generation for switch in schedule}
            for path in doomed:
                if path.name not in named:
                    delete(path)  # first: it makes room for CURRENT, should there be none
            ends = [i for i, switch in enumerate(schedule, 1) if switch.generation in names]
            if ends:
                self._write(Schedule(schedule.switches[ends[-1] :]))  # no switch leads nowhere
            for path in doomed:
                if path.name in named:
                    delete(path)
            return [path.name for path in doomed]

    def build(self, kinds: Mapping[str, Kind], base: str | None = None) -> GenerationBuilder:
        """Return a builder of the next generation, to be used in a ``with``; see there."""
        return GenerationBuilder(self.root, kinds, base)

    def verify(self, name: str | None = None, *, deep: bool = True) -> dict[str, KnowledgeError]:
        """Compare a generation, or all, with what their manifests say; return the fault of each.

        ``deep`` reads every byte; without it names and sizes alone are looked at.
        """
        faults: dict[str, KnowledgeError] = {}
        for path in self.folders() if name is None else [self.path(name)]:
            try:
                if fault := Manifest.read(path).fault(path, deep=deep):
                    faults[path.name] = GenerationCorrupt(path, fault)
            except KnowledgeError as error:
                faults[path.name] = error
        return faults

    def switch_faults(self) -> list[str]:
        """Return the switches that lead nowhere, or to what has learned from their own time."""
        faults = []
        sound = {m.name: m for m in self.generations()}
        for switch in self.switches():
            manifest = sound.get(switch.generation)
            if manifest is None:
                faults.append(f"CURRENT names {switch.generation}, which is missing or damaged")
            elif switch.from_ms < manifest.trained_until_ms:
                faults.append(
                    f"{switch.generation} is in force from {switch.from_ms} (ms) on and has "
                    f"learned until {manifest.trained_until_ms}"
                )
        return faults

    def check(self) -> None:
        """Raise `StoreInconsistent` unless all that must hold between its parts holds.

        Every generation is sound by a look, every switch leads to one, and none of them to one
        that has learned from the time it is in force.
        """
        faults = [*map(str, self.verify(deep=False).values()), *self.switch_faults()]
        if faults:
            raise StoreInconsistent(self.root, faults)

    def _sound(self, name: str) -> Manifest:
        manifest, path = self.manifest(name), self.path(name)
        if fault := manifest.fault(path, deep=True):
            raise GenerationCorrupt(path, fault)
        return manifest

    def _write(self, schedule: Schedule) -> None:
        """Replace CURRENT: 1 write aside, 2 rename, 3 sync the folder. Raises `StoreFull`."""
        aside = self.root / f".{CURRENT}-new"
        switches = [{"from_ms": s.from_ms, "generation": s.generation} for s in schedule]
        said = {"format": FORMAT, "switches": switches}
        with refusals_named(self.root / CURRENT):
            write_synced(aside, orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n")  # 1
            aside.replace(self.root / CURRENT)  # 2
            sync_folder(self.root)  # 3
