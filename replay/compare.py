"""Two runs side by side: equal, or the first point where they part and what that points at."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from replay.errors import InputCorrupt, InputError

Verdict = Literal["equal", "examples", "weights", "unfinished", "figures"]
What = Literal["examples", "weights", "end"]

_DIGESTS: Final = ("examples_digest", "weights_digest")
_MACHINE: Final = frozenset(  # what the same run has otherwise on another day, or when interrupted
    {
        "wall_s",
        "examples_per_s",
        "peak_rss_mb",
        "resumed",
        "started_at",
        "machine",
        "commit",
        "run",
        "path",
    }
)
_MEANS: Final[Mapping[Verdict, str]] = {
    "equal": "The runs learned the same examples in the same order and hold the same weights.",
    "examples": "They learned different examples: look at the input, its mapping, the order of the "
    "stream (lateness, idle), the join and the features.",
    "weights": "They learned the same examples to different weights: look at the model, its "
    "options, the seed, the number of threads and the libraries' versions.",
    "unfinished": "As far as both went they are equal, but one went further: look at until, at an "
    "interruption, or at a log that has grown.",
    "figures": "They learned the same examples to the same weights but report other figures: look "
    "at how each was measured.",
}


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first line of the two traces that differs."""

    batch: int
    examples: int
    at_ms: int | None  # event time
    what: What
    last_equal_batch: int | None  # None: the first line differs already


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs have in common, and where they part."""

    a: str
    b: str
    verdict: Verdict
    parting: Parting | None = None  # None: the traces are equal
    differ: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # key of the results → a, b
    same_config: bool | None = None  # None: a run does not say
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the runs are equal."""
        return self.verdict == "equal"

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "equal": self.equal, "means": _MEANS[self.verdict]}

    def as_text(self) -> str:
        """Return it for a person, a line a fact."""
        lines = [f"{'equal' if self.equal else 'DIFFERENT'}: {self.a} and {self.b}"]
        lines.append(_MEANS[self.verdict])
        if self.parting is not None:
            lines.append(_told(self.parting))
        if self.same_config is not None:
            lines.append(f"configurations: {'the same' if self.same_config else 'different'}")
        if self.differ:
            width = max(len(key) for key in self.differ)
            lines += [
                f"  {key:<{width}}  {a!s:>16}  {b!s:>16}" for key, (a, b) in self.differ.items()
            ]
        return "\n".join([*lines, *self.notes])


def compare(a: Path, b: Path) -> Comparison:
    """Compare two run folders, each with ``result.json`` and, if it has one, ``trace.ndjson``.

    Figures of speed and machine are left out. Raises `InputError` where one is no finished run.
    """
    results = _result(a), _result(b)
    parting = _parting(a, b)
    differ = {
        key: (left, right)
        for key, left, right in _pairs(*(_flat(result) for result in results))
        if left != right
    }
    same_config: bool | None = None
    if all("config_digest" in result for result in results):
        same_config = "config_digest" not in differ
    notes = []
    for folder in (a, b):
        if not (folder / "trace.ndjson").exists():
            notes.append(f"{folder} has no trace.ndjson: where the runs part cannot be told.")
    return Comparison(
        a=str(a),
        b=str(b),
        verdict=_verdict(differ, parting),
        parting=parting,
        differ=differ,
        same_config=same_config,
        notes=tuple(notes),
    )


def _verdict(differ: Mapping[str, Any], parting: Parting | None) -> Verdict:
    if parting is not None and parting.what != "end":
        return parting.what
    if "examples_digest" in differ:
        return "examples" if parting is None else "unfinished"
    if "weights_digest" in differ:
        return "weights"
    return "figures" if any(not key.startswith("config") for key in differ) else "equal"


def _parting(a: Path, b: Path) -> Parting | None:
    """Return where the traces part; a batch that only one of them notes is passed over."""
    last: int | None = None
    traces = _trace(a), _trace(b)
    left, right = (next(trace, None) for trace in traces)
    while left is not None and right is not None:
        if left["batch"] < right["batch"]:
            left = next(traces[0], None)
        elif right["batch"] < left["batch"]:
            right = next(traces[1], None)
        else:
            if any(left.get(k) != right.get(k) for k in ("examples", "examples_digest")):
                return _at(left, "examples", last)
            known = left.get("weights_digest"), right.get("weights_digest")
            if None not in known and known[0] != known[1]:
                return _at(left, "weights", last)
            last = left["batch"]
            left, right = (next(trace, None) for trace in traces)
    more = left or right
    return None if more is None or last is None else _at(more, "end", last)


def _at(line: Mapping[str, Any], what: What, last: int | None) -> Parting:
    return Parting(
        batch=line["batch"],
        examples=line["examples"],
        at_ms=line.get("at_ms"),
        what=what,
        last_equal_batch=last,
    )


def _told(parting: Parting) -> str:
    if parting.what == "end":
        return f"One trace ends at batch {parting.last_equal_batch}, before {parting.batch}."
    since = "from the first line on"
    if parting.last_equal_batch is not None:
        since = f"equal up to batch {parting.last_equal_batch}"
    return (
        f"{parting.what} part at batch {parting.batch} ({parting.examples} examples, event time "
        f"{parting.at_ms}), {since}."
    )


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    if not path.exists():
        raise InputError(f"{folder} has no result.json: name the folder of a finished run.")
    try:
        result = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InputCorrupt(f"{path} is not JSON ({error}): run it again.") from error
    if not isinstance(result, dict) or not all(key in result for key in _DIGESTS):
        raise InputCorrupt(f"{path} names no {' and '.join(_DIGESTS)}: run it again.")
    return result


def _trace(folder: Path) -> Iterator[dict[str, Any]]:
    path = folder / "trace.ndjson"
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise InputCorrupt(f"{path} line {number} is not JSON: run it again.") from error


def _flat(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a result's figures by path ("by_scene.front_page.auc"), the machine's left out."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if key in _MACHINE:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*a, *b]):
        yield key, a.get(key), b.get(key)
