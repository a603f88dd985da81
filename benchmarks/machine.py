"""What all benchmarks share: one core, medians, and a last line that says where and what ran."""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def pin(cores: int = 1) -> None:
    """Keep this process on its first ``cores`` cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def seconds(work: Callable[[], object]) -> float:
    """Return the processor seconds of ``work``: neighbours on the machine cost it little."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def median(times: int, measure: Callable[[], float]) -> float:
    """Return the median of ``measure``, called ``times`` times."""
    return statistics.median(measure() for _ in range(times))


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """Return the commit that is checked out, with "+" where files differ from it."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            cwd=folder, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None  # an installed package has no commit
    return described.stdout.strip()


def report(benchmark: str, **figures: Any) -> None:
    """Print the last line: the figures, the machine and the commit, as one JSON object."""
    line = {"benchmark": benchmark, **figures, "machine": machine(), "commit": commit()}
    print(json.dumps(line), flush=True)


def rounded(value: float, digits: int = 4) -> float:
    """Return ``value`` to ``digits`` significant digits."""
    return float(f"{value:.{digits}g}")


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
