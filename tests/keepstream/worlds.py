"""Small worlds for the command line: logs, a configuration, and ways to run commands."""

import io
import json
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from keepstream.cli import main
from replay.simulate import TOPICS, Chaos, Simulation
from replay.world import World, WorldConfig
from stream.filelog import create_topic
from stream.filelog_writer import FileLogWriter, LogWriterConfig
from stream.position import Partition

CONFIG = """\
[order]
lateness_s = 30
idle_s = 100_000          # tests are quick: no partition is ever idle

[join]
window_s = 120
early_s = 60
remember_s = 60           # so short that some come too late to be learned

[features]
ids = ["item", "user", "scene", "device", "category", "position"]
crosses = [["scene", "category"]]
numbers = ["price"]
history = 10
oracle = "true_ctr"
request_relative = true

[[features.statistics]]
key = ["item"]
half_lives_h = [1]

[[features.statistics]]
key = ["user", "category"]
half_lives_h = [24]

[model]
model = "din"
hidden = [16]
embedding_width = 4
listwise = 1.0

[train]
batch_size = 64

[rehearsal]
batches = 1
keep = 50

[ids]
max_rows = 20_000
"""
CHAOS = Chaos(duplicates=0.02, late=0.02, malformed=0.01)


def messages(
    impressions: int, *, per_message: int = 20, partitions: int = 1, seed: int = 0, chaos=CHAOS
) -> dict[Partition, list[bytes]]:
    """Return a world's log: the message values of each partition."""
    return parts(1, impressions, per_message, partitions, seed, chaos)[0]


def parts(
    count: int, impressions: int, per_message=20, partitions=1, seed=0, chaos=CHAOS
) -> list[dict[Partition, list[bytes]]]:
    """Return a world's log in parts as it is written in time: what one part holds is older."""
    world = World(WorldConfig(seed=seed, impressions=impressions))
    written = list(Simulation(world, partitions, per_message, chaos))
    result = []
    for part in range(count):
        log: dict[Partition, list[bytes]] = {
            Partition(topic, number): [] for topic in TOPICS for number in range(partitions)
        }
        for message in written[part * len(written) // count : (part + 1) * len(written) // count]:
            log[message.partition].append(message.value)
        result.append(log)
    return result


def packed(log: dict[Partition, list[bytes]], per_message: int) -> dict[Partition, list[bytes]]:
    """Return the same lines, another number of them in a message."""
    result = {}
    for partition, values in log.items():
        lines = b"".join(values).splitlines(keepends=True)
        starts = range(0, len(lines), per_message)
        result[partition] = [b"".join(lines[s : s + per_message]) for s in starts]
    return result


def write_log(root: Path, log: dict[Partition, list[bytes]]) -> Path:
    """Append messages to a file log, and return it."""
    for topic in TOPICS:
        create_topic(root, topic, sum(p.topic == topic for p in log))
    with FileLogWriter(root, LogWriterConfig(fsync="never")) as writer:
        for partition, values in log.items():
            for start in range(0, len(values), 100):
                writer.append_many(partition, values[start : start + 100])
    return root


def configured(folder: Path, text: str = CONFIG) -> Path:
    """Write a configuration and return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "keepstream.toml"
    path.write_text(text, encoding="utf-8")
    return path


def keepstream(*arguments: object) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed."""
    out = io.StringIO()
    code = main([str(a) for a in arguments], out)
    return code, out.getvalue()


def told(*arguments: object, code: int = 0) -> dict:
    """Run a command with --json in this process; return the object it printed, its last line."""
    actual, printed = keepstream(*arguments, "--json")
    assert code == actual, printed
    return json.loads(printed.splitlines()[-1])


@contextmanager
def started(*arguments: object, stderr: int = subprocess.PIPE):
    """Start a command as a process of its own, and kill it if it is still there at the end."""
    command = [sys.executable, "-m", "keepstream.cli", *(str(a) for a in arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def passes(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Let a process run for some time, or until it ends."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def run_of(folder: Path) -> dict:
    """Return the result of a run folder."""
    return json.loads((folder / "result.json").read_bytes())
