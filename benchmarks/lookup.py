"""How fast knowledge is looked up, and loaded: `python -m benchmarks.lookup`.

5 M vectors of 64 float16; batches of 4,096 ids drawn by a zipf law (1.05), the busy ones anywhere
in the order of keys. One core, processor time; medians of 5. All files are in the page cache.

``cold_ratio``: with an empty cache of hot vectors, against the fastest way to ask rocksdict for the
same ids of the same table (a list as it is, a sorted list, one by one; keys made before the clock
runs, and what it gives left as a list of bytes). ``warm_vectors_per_s``: batches that were never
asked before, after the cache at its default bound has seen many of the same law. Beside them: a
sorted memmap with searchsorted, LMDB, and what amendments cost.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rocksdict import AccessType, Rdict

from benchmarks.idmap import ZIPF
from benchmarks.machine import pin, report, rounded, seconds
from knowledge_store.cache import CACHE_BYTES, HotCache
from knowledge_store.kinds import Kind, keys_of
from knowledge_store.tables import AMENDMENTS, Table, amend_table, table_options, write_table
from stream.ids import hash_integers

try:
    import lmdb
except ImportError:  # a peer of this benchmark alone
    lmdb = None  # type: ignore[assignment]

U64 = npt.NDArray[np.uint64]
Array = npt.NDArray[Any]

COLD: Final = 40  # batches a run
WARM: Final = 100
_EVICTING: Final = np.ones(32 << 20)  # 256 MB, more than any processor's own caches
CHANGED: Final = 0.02  # of all vectors, by each amendment


def batches(rng: np.random.Generator, ids: U64, count: int, size: int) -> U64:
    """Draw ``count`` batches (count, size) of ``ids``, of which the k-th has weight k^−ZIPF."""
    weight = np.cumsum(np.arange(1, ids.size + 1, dtype=np.float64) ** -ZIPF)
    drawn = np.searchsorted(weight, np.sort(rng.random(count * size)) * weight[-1])
    rng.shuffle(drawn)
    return np.asarray(ids[drawn].reshape(count, size))


def ms_each(work: Callable[[Any], object], given: Sequence[Any] | U64) -> float:
    """Return the milliseconds that ``work`` takes for each of ``given``.

    The processor's own caches hold nothing of it before.
    """
    _EVICTING.sum()  # read, as filling goes past the caches

    def all_of_it() -> None:
        for one in given:
            work(one)

    return 1000 * seconds(all_of_it) / len(given)


def of_rocksdict(folder: Path, given: U64) -> dict[str, float]:
    """Return the milliseconds a batch, by each way to ask the table itself."""
    with closing(Rdict(str(folder), table_options(), access_type=AccessType.read_only())) as raw:
        as_they_are = [keys_of(ids) for ids in given]
        in_order = [keys_of(np.sort(ids)) for ids in given]
        ask: Callable[[Any], object] = raw.get
        return {
            "list": ms_each(ask, as_they_are),
            "sorted": ms_each(ask, in_order),
            "one by one": ms_each(lambda keys: [raw.get(key) for key in keys], as_they_are),
        }


def of_cold_cache(table: Table, given: U64) -> float:
    """Return the milliseconds a batch with a cache that is empty each time."""
    pairs = [(HotCache(table.kind), ids) for ids in given]
    return ms_each(lambda pair: pair[0].get(pair[1], table.get_distinct), pairs)


def memmap_of(folder: Path, ids: U64, vectors: Array) -> Callable[[U64], object]:
    """Return a look-up in a sorted file of ids and one of vectors."""
    order = np.argsort(ids)
    np.save(folder / "ids.npy", ids[order])
    np.save(folder / "vectors.npy", vectors[order])
    keys = np.load(folder / "ids.npy", mmap_mode="r")
    rows = np.load(folder / "vectors.npy", mmap_mode="r")

    def look_up(asked: U64) -> tuple[Array, Array]:
        at = np.minimum(np.searchsorted(keys, asked), keys.size - 1)
        present = keys[at] == asked
        return rows[at] * present[:, None], present

    return look_up


def lmdb_of(stack: ExitStack, folder: Path, ids: U64, vectors: Array) -> Callable[[U64], object]:
    """Return a look-up in an LMDB of the same vectors."""
    space = 4 * vectors.nbytes + (1 << 28)
    env = stack.enter_context(lmdb.open(str(folder), map_size=space, sync=False, readahead=False))
    order = np.argsort(ids)
    with env.begin(write=True) as write:
        for start in range(0, ids.size, 4096):
            rows = order[start : start + 4096]
            values = vectors[rows].view(f"V{vectors[0].nbytes}").ravel().tolist()
            for key, value in zip(keys_of(ids[rows]), values, strict=True):
                write.put(key, value, append=True)
    read = stack.enter_context(env.begin(buffers=False))

    def look_up(asked: U64) -> Array:
        found = [read.get(key) or b"" for key in keys_of(asked)]
        return np.frombuffer(b"".join(found), vectors.dtype).reshape(asked.size, -1)

    return look_up


def amended(folder: Path, kind: Kind, ids: U64, given: U64) -> dict[str, dict[str, float]]:
    """Amend the table in ``folder`` again and again; return what that and a batch then cost."""
    rng = np.random.default_rng(1)
    figures = {}
    for i in range(1, AMENDMENTS + 2):
        base, folder = folder, folder.with_name(f"amended-{i}")
        some = rng.choice(ids, int(ids.size * CHANGED), replace=False)
        rows = rng.random((some.size, kind.width), np.float32).astype(kind.dtype)
        spent = seconds(lambda b=base, f=folder, s=some, r=rows: amend_table(b, f, kind, s, r))  # type: ignore[misc]
        if i in (1, AMENDMENTS // 2, AMENDMENTS, AMENDMENTS + 1):
            with closing(Table(folder, kind)) as table:
                figures[str(i)] = {
                    "seconds": rounded(spent),
                    "cold_ms": rounded(median(of_cold_cache(table, given) for _ in range(3))),
                }
    return figures


def main() -> None:
    """Run it; the last line is JSON."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--vectors", type=int, default=5_000_000)
    arguments.add_argument("--width", type=int, default=64)
    arguments.add_argument("--batch", type=int, default=4096, help="ids a batch")
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--folder", type=Path, help="where to put the tables, for the time")
    given = arguments.parse_args()
    pin()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder)))
        measure(stack, folder, given.vectors, Kind("item", given.width), given.batch, given.repeat)


def measure(stack: ExitStack, folder: Path, n: int, kind: Kind, size: int, repeat: int) -> None:
    """Load, look up and report."""
    rng = np.random.default_rng(0)
    ids = hash_integers(rng.permutation(n))
    vectors = rng.integers(0, 0x3C00, (n, kind.width), np.uint16).view(np.float16)  # 0 … 1
    path = folder / "0"

    def load() -> None:
        write_table(path, kind, ids, vectors)

    loads: list[float] = []
    for _ in range(repeat):
        shutil.rmtree(path, ignore_errors=True)
        loads.append(seconds(load))
        print(f"load: {loads[-1]:.2f} s")
    table = stack.enter_context(closing(Table(path, kind)))
    found, present = table.get(ids[:size])
    assert present.all() and np.array_equal(found, vectors[:size])

    peers = {"memmap": memmap_of(folder, ids, vectors)}
    if lmdb is None:
        print("LMDB: the package lmdb is not installed, so it is left out")
    else:
        (folder / "lmdb").mkdir()
        peers["lmdb"] = lmdb_of(stack, folder / "lmdb", ids, vectors)

    cold = batches(rng, ids, COLD, size)
    ms: dict[str, list[float]] = {
        name: [] for name in ("ours", "list", "sorted", "one by one", *peers)
    }
    for _ in range(repeat + 1):
        ms["ours"].append(of_cold_cache(table, cold))
        for name, spent in of_rocksdict(path, cold).items():
            ms[name].append(spent)
        for name, look_up in peers.items():
            ms[name].append(ms_each(look_up, cold))
        print("cold, ms a batch:", ", ".join(f"{name} {x[-1]:.3f}" for name, x in ms.items()))
    cold_ms = {name: median(times[1:]) for name, times in ms.items()}  # the first brings pages in

    cache = HotCache(kind)
    room = CACHE_BYTES // kind.bytes
    fill = max(10 * min(room, n) // size, 100)
    for ids_B in batches(rng, ids, fill, size):
        cache.get(ids_B, table.get_distinct)
    print(f"warm: {len(cache):,} vectors held after {fill:,} batches")
    warm_ms, hit_ms, missed = [], [], []
    for _ in range(repeat):
        fresh = batches(rng, ids, WARM, size)
        before = cache.missed
        warm_ms.append(ms_each(lambda ids_B: cache.get(ids_B, table.get_distinct), fresh))
        missed.append((cache.missed - before) / WARM / size)
        hit_ms.append(ms_each(lambda ids_B: cache.get(ids_B, table.get_distinct), fresh[-8:]))
        print(f"warm, ms a batch: {warm_ms[-1]:.3f}, of which missed {missed[-1]:.1%}")

    report(
        "lookup",
        cold_ratio=rounded(
            min(cold_ms[way] for way in ("list", "sorted", "one by one")) / cold_ms["ours"]
        ),
        warm_vectors_per_s=rounded(1000 * size / median(warm_ms)),
        load_vectors_per_s=rounded(n / median(loads)),
        warm_missed_share=rounded(median(missed)),
        hits_vectors_per_s=rounded(1000 * size / median(hit_ms)),
        cold_ms={name: rounded(value) for name, value in cold_ms.items()},
        amendments=amended(path, kind, ids, cold),
        vectors=n,
        width=kind.width,
        batch=size,
        distinct_a_batch=rounded(float(np.mean([np.unique(ids_B).size for ids_B in cold]))),
        cache_mb=CACHE_BYTES >> 20,
        held=len(cache),
        table_mb=sum(f.stat().st_size for f in path.glob("*.sst")) >> 20,
    )


if __name__ == "__main__":
    main()
