"""compose.yaml without Docker: its services are processes, its volumes folders."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.compose import ROOT, composed

START_S = 300.0  # kernels may have to be compiled, on a machine that others use too


class Deployment:
    """The services of compose.yaml that run keepstream, at a broker of the test's own."""

    def __init__(self, folder: Path, bootstrap: str, **variables: str) -> None:
        self._folder = folder
        self._bootstrap = bootstrap
        self._model = composed(**variables)
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []

    def service(self, name: str) -> dict[str, Any]:
        """Return a service of compose.yaml."""
        service: dict[str, Any] = self._model["services"][name]
        return service

    def volume(self, name: str) -> Path:
        """Return the folder that stands for a volume."""
        folder = self._folder / "volumes" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(
        self, name: str, ports: dict[int, int] | None = None, **settings: str
    ) -> subprocess.Popen[bytes]:
        """Start a container's process; ``ports`` publishes: this machine's by the container's."""
        words = [self._outside(name, word, ports or {}) for word in self.service(name)["command"]]
        said = self._folder / f"{name}-{len(self._running)}.log"
        command = [sys.executable, "-m", "keepstream.cli", *words]
        with said.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=self._environment(name) | settings,
                stdout=output,
                stderr=output,
                cwd=self._folder,
            )
        self._running.append((process, said))
        return process

    def is_healthy(self, name: str, ports: dict[int, int]) -> bool:
        """Run a service's health check, as a program in its container."""
        kind, program, *words = self.service(name)["healthcheck"]["test"]
        assert ("CMD", "python") == (kind, program)
        words = [self._outside(name, word, ports) for word in words]
        done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
        return done.returncode == 0

    def stop(self, name: str, process: subprocess.Popen[bytes]) -> int:
        """Stop a process as its container is stopped; return its exit code, -9 past its time."""
        grace = self.service(name).get("stop_grace_period", "10s")
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(float(grace.removesuffix("s")))
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def said(self) -> str:
        """Return what all processes have said."""
        logs = [log for _, log in self._running]
        return "\n".join(f"--- {log.name}\n{log.read_text('utf-8')[-3000:]}" for log in logs)

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Wait for a condition; a process that fails meanwhile ends the test."""
        deadline = time.monotonic() + START_S
        while not until():
            codes = [process.poll() for process, _ in self._running]
            assert not any(codes), f"{what}: a process has failed\n{self.said()}"
            assert time.monotonic() < deadline, f"{what}: not within {START_S:g} s\n{self.said()}"
            time.sleep(0.1)

    def close(self) -> None:
        """Kill what still runs."""
        for process, _ in self._running:
            process.kill()
            process.wait()

    def _environment(self, name: str) -> dict[str, str]:
        given = self.service(name)["environment"]
        assert given["KEEPSTREAM_KAFKA_BOOTSTRAP"]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("KEEPSTREAM_")}
        paths = {k: self._outside(name, str(v), {}) for k, v in given.items()}
        return inherited | paths | {"KEEPSTREAM_KAFKA_BOOTSTRAP": self._bootstrap}

    def _outside(self, name: str, word: str, ports: dict[int, int]) -> str:
        """Return a word with the paths and ports of a container replaced by this machine's."""
        service = self.service(name)
        for each in service.get("configs", ()):
            file = ROOT / self._model["configs"][each["source"]]["file"]
            word = word.replace(each["target"], str(file))
        for each in service.get("secrets", ()):
            file = ROOT / self._model["secrets"][each]["file"]
            word = word.replace(f"/run/secrets/{each}", str(file))
        for each in service.get("volumes", ()):
            source, target = each.split(":")[:2]
            word = word.replace(f"={target}/", f"={self.volume(source)}/")
        for inside, outside in ports.items():
            for form in (f"localhost:{inside}", f"--web-port={inside}"):
                word = word.replace(form, form.replace(str(inside), str(outside)))
        return word


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
