"""Replay into a log: an old log's events appended to a new one, as they come or at a pace."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Protocol

from replay.errors import InputError
from replay.pace import Pacer
from replay.relog import LogLine
from stream.position import Partition
from stream.source import Rejected


class LogWriter(Protocol):
    """Where messages are appended: a file log, or a broker."""

    def append(self, partition: Partition, value: bytes) -> object:
        """Append a message."""
        ...


@dataclass(kw_only=True)
class Replayed:
    """What was written."""

    impressions: int = 0
    feedback: int = 0
    rejected: int = 0
    messages: int = 0
    first_ms: int | None = None  # event times; None: nothing
    last_ms: int | None = None
    stopped: bool = False  # it was broken off: more was to come

    def to_json(self) -> dict[str, int | bool | None]:
        """Return the counts by name."""
        return asdict(self)


def replay_into(
    lines: Iterable[LogLine | Rejected],
    writer: LogWriter,
    *,
    partitions: int = 1,
    per_message: int = 1,
    pacer: Pacer | None = None,
    on_rejected: Callable[[Rejected], None] = lambda letter: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Replayed:
    """Append ``lines`` to the topics ``impressions`` and ``feedback``; return what was written.

    A user's events go to the partition of the same number in both, by the hash of the user's id.
    Messages hold ``per_message`` events of one partition; what is held is written before a wait and
    at the end. Without a ``pacer`` nothing waits. Before each line ``stopped`` is asked whether to
    break off. Holds at most a message a partition.
    """
    if partitions < 1 or per_message < 1:
        raise InputError("partitions and per_message are at least 1.")
    done = Replayed()
    held: dict[Partition, list[bytes]] = defaultdict(list)

    def flush() -> None:
        for partition in sorted(held):
            writer.append(partition, b"\n".join(held[partition]))
            done.messages += 1
        held.clear()

    for line in lines:
        if stopped():
            done.stopped = True
            break
        if isinstance(line, Rejected):
            done.rejected += 1
            on_rejected(line)
            continue
        if pacer is not None and pacer.due_ms(line.ts) < line.ts:
            flush()
            if pacer.wait(line.ts):
                done.stopped = True
                break
        partition = Partition(line.topic, line.user % partitions)
        held[partition].append(line.line)
        if len(held[partition]) == per_message:
            writer.append(partition, b"\n".join(held.pop(partition)))
            done.messages += 1
        if line.topic == "impressions":
            done.impressions += 1
        else:
            done.feedback += 1
        done.first_ms = line.ts if done.first_ms is None else min(done.first_ms, line.ts)
        done.last_ms = line.ts if done.last_ms is None else max(done.last_ms, line.ts)
    flush()
    return done
