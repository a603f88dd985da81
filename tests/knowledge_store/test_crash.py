"""What happens to a store when processes die, disks fill and files rot."""

import json
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from knowledge_store.errors import GenerationCorrupt, StoreFull, TableCorrupt
from knowledge_store.kinds import Kind
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_integers
from tests.knowledge_store.stores import ITEM, ITEMS, KINDS, build, damage, names, vectors

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
VECTORS = 40_000  # of each kind: most of a build is writing
MANY = hash_integers(np.arange(VECTORS))
TWO = {"item": ITEM, "other": Kind("other", 8)}


@contextmanager
def process(module, *arguments):
    """Run a module of the tests, with pipes."""
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.knowledge_store.{module}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def killed(builder, base, after_s):
    """Start a build, kill it after so many seconds; return whether it came to its end before."""
    builder.stdin.write(f"{base}\n")
    builder.stdin.flush()
    child, word = builder.stdout.readline().split()
    assert "start" == word
    if not select.select([builder.stdout], [], [], after_s)[0]:
        os.kill(int(child), signal.SIGKILL)
    same, word, status = builder.stdout.readline().split()
    assert (child, "end") == (same, word)
    return "0" == status


@pytest.mark.slow
def test_a_build_killed_at_any_instant_leaves_the_old_generation_in_force(store):
    """No half generation is listed, what is in force serves on, and the next build works."""
    build(store, 1, ids=MANY, kinds=TWO)
    store.activate("g-00000001", 1)
    rng = random.Random(5)
    complete = 1
    dead = 0
    with process("build_process", store.root, VECTORS) as builder:
        assert killed(builder, "", 60)
        begun = time.monotonic()
        assert killed(builder, "g-00000002", 60)
        lasts = time.monotonic() - begun
        complete += 2
        with store.reader("g-00000001") as reader:
            for tried in range(3 * KILLS):
                base = store.generations()[-1].name if tried % 2 else ""
                ended = killed(builder, base, rng.uniform(0, lasts))
                dead += not ended
                lasts *= 0.9 if ended else 1.0

                store.check()
                there = len(store.generations())
                assert there - complete in ([1] if ended else [0, 1])  # 1: killed after the rename
                complete = there
                assert len(names(store.root)) <= complete + 1
                assert "g-00000001" == store.current().generation
                found = reader.get_many("item", ITEMS, 1)
                assert np.array_equal(vectors(ITEMS, 1), found.values)
                if dead == KILLS:
                    break
        assert killed(builder, store.generations()[-1].name, 60)
    assert KILLS == dead
    assert complete + 1 == len(store.generations()) == len(names(store.root))
    assert {} == store.verify()
    last = store.generations()[-1]
    store.activate(last.name, last.trained_until_ms)
    with store.reader(last.name) as reader:
        found = reader.get_many("item", MANY, last.trained_until_ms)
    assert np.array_equal(vectors(MANY, last.number), found.values)


def test_a_reader_in_another_process_reads_on_while_generations_come_and_go(store):
    """No reader takes a lock, and none ever sees half a switch."""
    build(store, 1)
    store.activate("g-00000001", 1)
    with process("reader_process", store.root) as reader:
        assert "ready\n" == reader.stdout.readline()
        for n in range(2, 12):
            build(store, n, base=f"g-{n - 1:08d}" if n % 2 else None)
            store.activate(f"g-{n:08d}", n)
            store.prune(2)
        said = json.loads(reader.communicate("\n", timeout=60)[0])

    assert [] == said["faults"]
    assert said["look_ups"] > 10
    assert len(said["numbers"]) > 1
    assert ["g-00000010", "g-00000011"] == names(store.root)


def test_a_damaged_file_is_named_by_who_opens_the_generation(store):
    """RocksDB would believe most of them."""
    manifest = build(store, 1)
    path = store.path(manifest.name)
    for name in manifest.files:
        damage(path / name, at=0)
        with pytest.raises(GenerationCorrupt, match=f"{path}: {name} does not match its digest"):
            store.reader(manifest.name)
        damage(path / name, at=0)
    store.reader(manifest.name).close()


def test_a_file_that_is_damaged_while_it_is_read_is_found_by_the_look_up(store):
    """Disks rot under running trainers, too: a wrong vector must not be learned from."""
    manifest = build(store, 1)
    with store.reader(manifest.name, cache_bytes=0) as reader:
        table = next((store.path(manifest.name) / "item").glob("*.sst"))
        record = vectors(ITEMS[:1], 1).tobytes()
        damage(table, at=table.read_bytes().index(record) + 3)

        with pytest.raises(TableCorrupt, match="does not match its check"):
            reader.get_many("item", ITEMS, 1)
        assert ["g-00000001"] == list(store.verify())
        assert f"{table.relative_to(store.path(manifest.name))}" in str(
            store.verify()["g-00000001"]
        )


def test_a_generation_deleted_under_its_reader_serves_on(store):
    """Somebody cleans up by hand: who reads keeps its files, and `verify` says what is missing."""
    first = build(store, 1, ids=MANY, kinds=TWO)
    second = build(store, 2, ids=MANY[:9], base=first.name, kinds=TWO)
    with store.reader(second.name, cache_bytes=0) as reader:
        shutil.rmtree(store.path(first.name))  # its files live on in the second
        assert {} == store.verify()
        shutil.rmtree(store.path(second.name) / "item")
        assert "is missing" in str(store.verify()[second.name])
        shutil.rmtree(store.path(second.name))

        found = reader.get_many("item", MANY, 2)
        assert np.array_equal(np.where(np.arange(VECTORS) < 9, 2, 1), found.values[:, 0])


def fills_up(store, fact):
    """Check that a build that has no room leaves the store as it was; then make some."""
    build(store, 1)
    store.activate("g-00000001", 1)
    with pytest.raises(StoreFull, match=f"no space left.*{fact}.*keepstream knowledge prune"):
        build(store, 2, ids=MANY, kinds={"item": Kind("item", 64)})

    store.check()
    assert ["g-00000001"] == names(store.root)
    with store.reader("g-00000001") as reader:
        assert np.array_equal(vectors(ITEMS, 1), reader.get_many("item", ITEMS, 1).values)


def test_a_full_disk_refuses_a_build_and_nothing_else(tmp_path):
    """What is in force serves on, what was half written is gone, and there is room again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "keepstream-test", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk needs a small one, and mounting one needs root")
    try:
        store = KnowledgeStore(disk / "store", create=True)
        fills_up(store, "No space left on device")
        build(store, 2, base="g-00000001")
        full = disk / "full"
        with pytest.raises(OSError, match="No space"), full.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

        with pytest.raises(StoreFull, match="CURRENT: no space left"):
            store.activate("g-00000003", 5)
        with pytest.raises(StoreFull):
            build(store, 3)

        assert 1 == store.current().from_ms
        full.unlink()
        store.activate("g-00000003", 5)
        assert ["g-00000001"] == store.prune(1)
        store.check()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_that_may_grow_no_further_refuses_a_build_and_nothing_else(store):
    """A quota is as good as a full disk, and can be tried everywhere."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        fills_up(store, "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "g-00000003" == build(store, 2, ids=MANY, kinds=KINDS).name
