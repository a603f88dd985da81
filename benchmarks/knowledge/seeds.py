"""Seeds beside one another, each in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_seeds(module: str, count: int, jobs: int, *more: str) -> list[dict[str, Any]]:
    """Run this command's ``module`` once a seed, ``jobs`` at a time; return what each printed.

    Each is given the arguments of this command, ``more``, and `--seed N`; its last line is JSON.
    """
    began = time.perf_counter()

    def run(number: int) -> dict[str, Any]:
        command: Sequence[str] = (
            sys.executable, "-m", module, *sys.argv[1:], *more, "--seed", str(number),
        )  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        print(f"seed {number} done after {time.perf_counter() - began:.0f} s", file=sys.stderr)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, range(count)))
