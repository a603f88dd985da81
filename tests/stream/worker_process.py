"""A worker of the tests: ``python -m tests.stream.worker_process JSON``."""

import json
import sys
import time

from stream.kafka import KafkaConfig
from stream.worker_group import Group, GroupConfig, LeaderJob
from stream.worker_join import JoinWork, WorkConfig
from tests.stream.workers import JOIN, ORDER, SCHEMA


class SlowWork(JoinWork):
    """Work whose first step takes its time."""

    stall_s = 0.0

    def _follow(self, numbers, output):
        end = time.monotonic() + self.stall_s
        while time.monotonic() < end:
            pass
        self.stall_s = 0.0
        super()._follow(numbers, output)


def main():
    """Run until a signal."""
    asked = json.loads(sys.argv[1])
    name = asked["name"]

    def say(line):
        sys.stderr.write(f"{name}: {line}\n")
        sys.stderr.flush()

    config = WorkConfig(
        kafka=KafkaConfig(**asked["kafka"]),
        schema=SCHEMA,
        topics=tuple(asked["topics"]),
        order=ORDER,
        join=JOIN,
        block_events=asked["block_events"],
    )
    group = GroupConfig(name=name, web_port=asked["web_port"], commit_s=0.5)
    work = SlowWork(config, say)
    work.stall_s = asked["stall_s"]
    jobs = [LeaderJob(name="job", every_s=0.5, run=lambda: say("leads"))]
    Group(config.kafka, config.topics, work, group, say, jobs).run()


if __name__ == "__main__":
    main()
