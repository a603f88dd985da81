"""The refresh of knowledge as a job of the workers' leader: a process of its own, now and then."""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

_STOP_S: Final = 10.0  # then it is killed, which costs it nothing but time


def refresh_command(config: Path, run: Path) -> list[str]:
    """Return the words of one refresh: to where the log ends now."""
    words = ["knowledge", "refresh", "--config", str(config), "--run", str(run)]
    return [sys.executable, "-m", "keepstream.cli", *words, "--once", "--quiet"]


class RefreshJob:
    """Runs a command to its end, again and again; what it prints is told, line by line.

    It is a process of its own: neither the memory of a model nor its errors are the worker's.
    """

    def __init__(self, command: Sequence[str], tell: Callable[[str], None]) -> None:
        self._command = list(command)
        self._tell = tell
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def run(self) -> None:
        """Run it once, on a thread that may wait; its failure is told, and the next one tries."""
        try:
            with self._lock:
                if self._stopped:
                    return
                self._process = subprocess.Popen(
                    self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            with self._process as process:
                assert process.stdout is not None, "it is a pipe"
                for line in process.stdout:
                    self._tell(f"refresh: {line.rstrip()}")
            if process.returncode and not self._stopped:
                self._tell(f"refresh: ended with {process.returncode}; the next one tries again.")
        except OSError as error:
            self._tell(f"refresh: could not be started ({error}); the next one tries again.")

    def stop(self) -> None:
        """End what runs, within seconds: the next leader's refresh goes on from its checkpoint."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
