"""All tests, in two lanes at once: those that wait for brokers, and the others.

`python -m tests.everything [pytest's options]`: a broker's tests mostly wait, so two cores have
room for both. The output of each lane is shown whole when it ends; the exit code is the first that
is not 0.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

LANES = {"brokers": "kafka", "the others": "not kafka"}
ALIVE_S = 60.0  # a line so often, for those who wait


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(options: list[str]) -> int:
    """Run the lanes; return the exit code."""
    began = said = time.monotonic()
    codes = []
    with tempfile.TemporaryDirectory(prefix="keepstream-tests-") as folder:
        running = {}
        for number, (name, marked) in enumerate(LANES.items()):
            log = Path(folder) / f"{number}.log"
            temporary = Path(folder) / f"tmp-{number}"  # another run's must not clear it away
            command = [sys.executable, "-m", "pytest", "-m", marked, f"--basetemp={temporary}",
                       "-o", f"cache_dir=.pytest_cache/{number}", *options]  # fmt: skip
            with log.open("wb") as out:
                process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            running[name] = (process, log)
        try:
            while running:
                time.sleep(0.2)
                now = time.monotonic()
                for name, (process, log) in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        codes.append(process.returncode)
                        _say(log.read_text("utf-8", "replace"))
                        _say(f"{name}: ended after {now - began:.0f} s")
                if running and now - said >= ALIVE_S:
                    said = now
                    for name, (_, log) in running.items():
                        last = log.read_text("utf-8", "replace").splitlines()[-1:]
                        _say(f"{name}: {now - began:.0f} s: {''.join(last)}")
        finally:
            for process, _ in running.values():
                process.terminate()
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
