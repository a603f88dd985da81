"""The refresh of knowledge as a job of a real group of workers: its leader runs it."""

import time
from contextlib import ExitStack

import pytest

from knowledge_store.errors import NoStore
from knowledge_store.store import KnowledgeStore
from tests.keepstream.test_knowledge_refresh import SUPER
from tests.keepstream.topics import Said, World
from tests.keepstream.worlds import configured, parts, passes, started, told

pytestmark = pytest.mark.kafka

EVERY = "refresh_every_s = 4\n"
IN_FORCE = "refresh: in force"


def extractor_of(world, store):
    """Return the configuration of an extractor of the same topics, in a group of its own."""
    _, topics = world.config.read_text().split("[log]")
    topics = topics.replace(f"group-{world.mark}", f"extractor-{world.mark}")
    folder = world.folder / "extractor"
    return configured(folder, f"{SUPER.format(store=store)}{EVERY}\n[log]{topics}")


def wait_for(found, workers):
    """Return what ``found`` returns, once it is something."""
    deadline = time.monotonic() + 120
    while not (it := found()):
        assert time.monotonic() < deadline, [said.lines for said in workers.values()]
        time.sleep(0.2)
    return it


def test_another_worker_refreshes_when_the_leader_dies(kafka, tmp_path):
    """One at a time makes generations of all scenes, whoever of them is still there."""
    first, second = parts(2, 6_000, partitions=2)
    world, store = World(tmp_path, kafka, 2), tmp_path / "store"
    told("topics", "create", "--config", world.config)
    world.write(first)
    job = ("--refresh", extractor_of(world, store), "--refresh-run", tmp_path / "run")
    settings = ("--web-port", 0, "--set", "kafka.session_s=6")
    words = ("worker", "--config", world.config, *settings, *job)
    with ExitStack() as stack:
        processes, workers = {}, {}
        for name in ("a", "b"):
            processes[name] = stack.enter_context(started(*words, "--name", name))
            workers[name] = Said(processes[name])

        def refreshing(generation):
            said = f"{IN_FORCE}: {generation}"
            return [n for n, w in workers.items() if any(said in line for line in w.lines)]

        (leader,) = wait_for(lambda: refreshing("g-00000001"), workers)
        learned = told("knowledge", "show", "--store", store)["trained_until_ms"]
        processes[leader].kill()
        world.write(second)
        wait_for(lambda: grown(store, learned), workers)

        (other,) = {"a", "b"} - {leader}
        wait_for(lambda: any(IN_FORCE in line for line in workers[other].lines), workers)
        assert processes[other].poll() is None
        processes[other].terminate()
        passes(processes[other], 30)
        assert 0 == processes[other].poll(), workers[other].lines
    KnowledgeStore(store).check()
    assert not KnowledgeStore(store).verify()


def grown(store, learned):
    """Return whether what is in force has learned from later events than ``learned``."""
    try:
        found = KnowledgeStore(store)
    except NoStore:
        return False
    return found.manifest(found.current().generation).trained_until_ms > learned
