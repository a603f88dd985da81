"""How fast ids become embedding rows: `python -m benchmarks.idmap`.

1 M live ids, batches as a trainer sends them, 90 % of the ids known (drawn by a zipf law) and 10 %
new: admitted and given a row. Against a Python dict that does the same. One core; medians of 5.

The map doubles its slots in the first batch, where the dict happens to have room: the figures
include that (`doubling_ms` is that batch alone; most of it is the system handing out memory).
"""

import argparse
from collections.abc import Sequence
from statistics import median

import numpy as np
import numpy.typing as npt

from benchmarks.machine import pin, report, rounded, seconds
from stream.ids import hash_integers
from trainer.idmap import IdMap, IdMapConfig

U64 = npt.NDArray[np.uint64]

NEW_SHARE = 0.1
ZIPF = 1.05  # a heavy tail: the busiest thousandth of the ids takes about half of the look-ups


def zipf(rng: np.random.Generator, n: int, live: int) -> npt.NDArray[np.int64]:
    """Draw ``n`` of the numbers 0 … ``live`` − 1, of which k has a weight of (k + 1)^−ZIPF."""
    weight = np.cumsum(np.arange(1, live + 1, dtype=np.float64) ** -ZIPF)
    return np.asarray(np.searchsorted(weight, rng.random(n) * weight[-1]))


def batches(seed: int, live: int, count: int, size: int) -> tuple[list[U64], int]:
    """Return ``count`` batches of ``size`` ids, and how many of them are new to the whole run."""
    rng = np.random.default_rng(seed)
    known = rng.permutation(live)[zipf(rng, count * size, live)]
    new = rng.random(count * size) < NEW_SHARE
    known[new] = live + np.arange(np.count_nonzero(new))
    return list(hash_integers(known).reshape(count, size)), int(np.count_nonzero(new))


def of_idmap(
    live: U64, work: Sequence[U64], new: int, expire_after_s: float | None
) -> tuple[float, float]:
    """Return the seconds that an `IdMap` of ``live`` ids takes: the first batch, all of them."""
    ids = IdMap(IdMapConfig(expire_after_s=expire_after_s))
    for batch in np.array_split(live, 64):
        ids.admit(batch, 0)

    def run() -> None:
        for i, batch in enumerate(work[1:]):
            ids.admit(batch, 50 * i)

    first = seconds(lambda: ids.admit(work[0], 0))
    rest = seconds(run)
    assert live.size + new == len(ids), f"{len(ids)} ids have a row, not {live.size + new}"
    return first, first + rest


def of_dict(live: U64, work: Sequence[U64]) -> float:
    """Return the seconds that a dict of ``live`` ids takes for ``work``, arrays in and out."""
    ids = dict(zip(live.tolist(), range(1, live.size + 1), strict=True))

    def run() -> None:
        for batch in work:
            keys = batch.tolist()
            rows = [ids.get(key, 0) for key in keys]
            if 0 in rows:  # the quick way in Python: look all up, then see to the few new ones
                for i, row in enumerate(rows):
                    if not row:
                        rows[i] = ids.setdefault(keys[i], len(ids) + 1)
            np.array(rows, np.int64)

    return seconds(run)


def main() -> None:
    """Run it; the last line is JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--live", type=int, default=1 << 20)
    arguments.add_argument("--batches", type=int, default=48)
    arguments.add_argument("--batch", type=int, default=1 << 15, help="ids a batch")
    arguments.add_argument("--repeat", type=int, default=5)
    given = arguments.parse_args()
    pin()
    live = hash_integers(np.random.default_rng(0).permutation(given.live))
    of_idmap(live[:1000], [live[:1000]], 0, 60.0)  # compile before the clock runs
    taken: dict[str, list[float]] = {"doubling": [], "idmap": [], "expiring": [], "dict": []}
    for r in range(given.repeat):
        work, new = batches(r, given.live, given.batches, given.batch)
        for arm, expiry in (("idmap", None), ("expiring", 60.0)):
            doubling, whole = of_idmap(live, work, new, expiry)
            taken["doubling"].append(doubling)
            taken[arm].append(whole)
        taken["dict"].append(of_dict(live, work))
        each = ", ".join(f"{name} {times[-1]:.3f} s" for name, times in taken.items())
        print(f"run {r + 1}: {each}")
    n = given.batches * given.batch
    per_s = {name: rounded(n / median(times)) for name, times in taken.items()}
    report(
        "idmap",
        ids_per_s=per_s["idmap"],
        ratio=rounded(per_s["idmap"] / per_s["dict"]),
        ids_per_s_expiring=per_s["expiring"],
        ids_per_s_dict=per_s["dict"],
        doubling_ms=rounded(1000 * median(taken["doubling"])),
        live=given.live,
        new_share=NEW_SHARE,
        ids=n,
    )


if __name__ == "__main__":
    main()
