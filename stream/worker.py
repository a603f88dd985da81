"""A stream worker: one of a fleet that joins once for many trainers (docs/decisions/0011).

Faust says which partitions are this worker's (`stream.worker_group`); a thread reads them, joins
them and writes examples (`stream.worker_join`); after a crash the last record of each partition of
the examples' topic says where to go on (`stream.worker_resume`).
"""

from collections.abc import Callable, Sequence

from stream.worker_group import Group, GroupConfig, LeaderJob
from stream.worker_join import JoinWork, WorkConfig


def run_worker(
    work: WorkConfig,
    group: GroupConfig,
    say: Callable[[str], None],
    leader_jobs: Sequence[LeaderJob] = (),
) -> None:
    """Work until SIGINT or SIGTERM; call it on the main thread.

    Raises `stream.kafka.KafkaError` where it cannot start, or cannot go on.
    """
    Group(work.kafka, work.topics, JoinWork(work, say), group, say, leader_jobs).run()
