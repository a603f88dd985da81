import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.broker import Broker, NoKafka, kafka_home
from stream.kafka_probe import probe

STARTS_ONE = """
import sys
from pathlib import Path
from benchmarks.broker import Broker
broker = Broker(Path(sys.argv[1])).__enter__()
print(broker.pids[1], flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    """Whether a process runs (and is not a dead one that nobody has asked after)."""
    try:
        return "Z" != Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def test_without_a_kafka_it_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most machines have none."""
    monkeypatch.setenv("KAFKA_HOME", str(tmp_path))
    assert kafka_home() is None
    with pytest.raises(NoKafka, match="set KAFKA_HOME"):
        Broker(tmp_path / "broker")


@pytest.mark.kafka
@pytest.mark.chaos
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_broker_ends_with_the_process_that_started_it(
    tmp_path: Path, how: signal.Signals
) -> None:
    """Whatever way a test ends, nothing of it may stay on the machine."""
    if kafka_home() is None:
        pytest.skip("there is no Kafka to start: set KAFKA_HOME to an unpacked Kafka 4 download")
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        os.kill(process.pid, how)
    deadline = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.kafka
def test_a_broker_that_was_killed_comes_back_as_it_was(broker: Callable[..., Broker]) -> None:
    """The same port and the same data: the same cluster."""
    there = broker()
    before, pid, cluster = there.bootstrap, there.pids[1], probe(there.config())
    there.kill()
    assert not alive(pid)
    assert {} == there.pids
    there.start()

    assert before == there.bootstrap
    assert cluster == probe(there.config())
