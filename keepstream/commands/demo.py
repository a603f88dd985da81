"""`keepstream demo`: a world is simulated into a log, a model follows it live."""

import argparse
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from keepstream.commands.command import Command, SimulatorFailed, UsageError, say
from keepstream.commands.training import train_and_tell
from keepstream.config import load
from keepstream.inputs import Bounded, opener
from stream.events import EventSchema
from stream.position import Position
from stream.source import Source

_CONFIG = """\
# The simulated world: what `keepstream demo` trains with.

[order]
lateness_s = 0            # the simulator writes in order
idle_s = 7200             # a day passes in less than a minute: two hours are seconds

[join]
window_s = 600

[features]
ids = ["item", "user", "scene", "device", "age_group", "category", "position"]
crosses = [["age_group", "category"], ["scene", "category"]]
numbers = ["price"]
history = 20
oracle = "true_ctr"       # the truth, for the report; never a feature

[[features.statistics]]
key = ["item"]
half_lives_h = [1, 12]

[[features.statistics]]
key = ["user"]
half_lives_h = [24]

[[features.statistics]]
key = ["user", "category"]
half_lives_h = [24]

[model]
model = "din"
learning_rate = 2e-3

[train]
batch_size = 512

[ids]
max_rows = 200_000

[checkpoint]
every_s = 10.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="where the log, the run and the report go (demo)",
    )
    parser.add_argument(
        "--impressions",
        type=int,
        default=200_000,
        metavar="N",
        help="how many the world shows (200000)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=45.0,
        metavar="S",
        help="how long the simulator takes to write them (45)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed, another world (0)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def demo(args: argparse.Namespace, out: TextIO) -> int:
    """Watch a model learn: simulate a world into a log, follow it live, write a report.

    Two processes, as in production: one writes the log, the other learns from it. The world's true
    click probabilities are known, so the table shows how far the model is from the best possible.

    Examples:
      keepstream demo
      keepstream demo --folder /tmp/demo --impressions 50000 --seconds 10

    """
    folder: Path = args.folder
    _begin(folder)
    path, log = folder / "keepstream.toml", folder / "log"
    path.write_text(_CONFIG, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "keepstream.cli",
        "simulate",
        "--into",
        str(log),
        "--json",
        "--impressions",
        str(args.impressions),
        "--seconds",
        str(args.seconds),
        "--seed",
        str(args.seed),
    ]
    say(f"A world of {args.impressions:,} impressions is written to {log}, a model follows it.")
    config = load(path)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as writer:
        try:
            _wait_for_topics(writer, log, config.log.topics)

            def open_source(schema: EventSchema, position: Position) -> Source:
                source = opener(config, [log], follow=True)(schema, position)
                return Bounded(source, over=lambda: writer.poll() is not None)

            args.run, args.fresh, args.report = folder / "run", False, folder / "report.html"
            outcome = train_and_tell(args, config, open_source, out, drain=True)
            if outcome.ended and writer.wait() != 0:
                say(f"keepstream: {_failure(writer)} What it had written was learned.")
                return 1
        finally:
            writer.terminate()
    say(f"Open {folder / 'report.html'} in a browser.")
    return 0


def _wait_for_topics(writer: "subprocess.Popen[bytes]", log: Path, topics: tuple[str, ...]) -> None:
    """Return once all topics are there. Raises `SimulatorFailed` where it ended before that."""

    def are_there() -> bool:
        return all((log / topic / "topic.json").exists() for topic in topics)

    while not are_there():
        with suppress(subprocess.TimeoutExpired):
            writer.wait(0.05)
            if not are_there():  # it may have made them within these 50 ms
                raise SimulatorFailed(_failure(writer))


def _failure(writer: "subprocess.Popen[bytes]") -> str:
    """Return a sentence on a simulator that has ended before its world did."""
    assert writer.stderr is not None
    said = writer.stderr.read().decode(errors="backslashreplace").strip()
    return f"the simulator failed (exit code {writer.returncode}): {said or 'it said nothing.'}"


def _begin(folder: Path) -> None:
    """Make the folder a demo's, without an earlier one. Raises `UsageError` where others use it."""
    mark = folder / ".keepstream-demo"
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise UsageError(
            f"{folder} is there and no earlier demo's. Give --folder another, or empty it yourself."
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    for name in ("log", "run"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    for name in ("report.html", "keepstream.toml"):
        (folder / name).unlink(missing_ok=True)


COMMAND = Command("demo", add_arguments, demo)
