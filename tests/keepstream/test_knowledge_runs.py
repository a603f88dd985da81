import signal
from itertools import count

import numpy as np
import orjson
import pytest

from keepstream.config import from_tables, load
from keepstream.reading import event_schema
from keepstream.wiring import build_ingest
from knowledge_store.kinds import Kind, pair_ids
from knowledge_store.store import KnowledgeStore
from stream.events import EventColumns
from stream.listsource import ListSource
from tests.keepstream.worlds import (
    CONFIG,
    configured,
    keepstream,
    parts,
    passes,
    run_of,
    started,
    told,
    write_log,
)
from trainer.checkpoint import Checkpoints
from trainer.knowledge_journal import read_journal

IMPRESSIONS = 3_000
KINDS = {"item": Kind("item", 4), "user": Kind("user", 4), "interaction": Kind("interaction", 4)}
KNOWLEDGE = """
[knowledge]
store = "{store}"
kinds = ["item", "user", "interaction", "match"]
category = "category"
watch_s = 0
"""
QUICK = ("--quiet", "--as-served", "--set", "log.block_events=97")


class Site:
    """A log in three parts, and a store whose vectors are of its users and items."""

    def __init__(self, folder):
        self.folder = folder
        self.parts = parts(3, IMPRESSIONS)
        self.root = folder / "knowledge"
        self.store = KnowledgeStore(self.root, create=True)
        self.plain = configured(folder / "plain")
        self.config = configured(folder, CONFIG + KNOWLEDGE.format(store=self.root))
        schema = event_schema(load(self.config))
        shown = [
            block.events.take(block.events.kind == 0)
            for part in self.parts
            for block in ListSource(schema, part)
        ]
        shown = EventColumns.concat(shown)
        self.times = np.sort(shown.ts)[[0, len(shown) // 3, 2 * len(shown) // 3]].tolist()
        self.items, self.users = np.unique(shown.item)[::2], np.unique(shown.user)[::2]
        category = np.ascontiguousarray(shown.ids[:, schema.ids.index("category")])
        self.pairs = np.unique(pair_ids(shown.user, category))
        self.numbers = count(1)

    def build(self, until_ms):
        """Build a generation of random vectors and return its name."""
        rng = np.random.default_rng(next(self.numbers))
        with self.store.build(KINDS) as build:
            for kind, ids in zip(KINDS, (self.items, self.users, self.pairs), strict=True):
                build.put(kind, ids, rng.normal(size=(ids.size, 4)))
            return build.commit(trained_until_ms=until_ms, about={}).name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a site with two generations, none in force."""
    site = Site(tmp_path_factory.mktemp("site"))
    for _ in range(2):
        site.build(site.times[0])
    return site


@pytest.fixture
def here(site, tmp_path):
    """Return the site's store with switches of its own, and a configuration that names it."""
    root = tmp_path / "knowledge"
    root.mkdir()
    (root / "generations").symlink_to(site.root / "generations")
    store = KnowledgeStore(root)
    return store, configured(tmp_path / "with", CONFIG + KNOWLEDGE.format(store=root))


def test_without_knowledge_a_run_is_what_it_was(tmp_path):
    """Runs from before must go on: no digest and no column may change."""
    nothing = from_tables({})
    near = from_tables({"knowledge": {"plug": "add", "watch_s": 1}})
    none = from_tables({"knowledge": {"store": "x", "plug": "none"}})
    some = from_tables({"knowledge": {"store": "x"}})
    moved = from_tables({"knowledge": {"store": "y", "follow": "current", "cache_mb": 1}})

    assert "98c17e34b62f8fdb037398de245225f5" == nothing.digest()
    assert nothing.digest() == near.digest() == none.digest() == some.digest(knowledge=False)
    assert nothing.digest() != some.digest() == moved.digest()
    assert some.digest() != from_tables({"knowledge": {"store": "x", "layers": [1]}}).digest()
    state = build_ingest(nothing, (), tmp_path).state()
    assert "knowledge" not in state


def test_a_plug_is_put_into_a_run_and_taken_out_again(site, here, tmp_path, capsys):
    """A model that is days old gets knowledge without a restart, and can lose it again."""
    store, config = here
    run, log = tmp_path / "run", tmp_path / "log"
    store.activate("g-00000001", site.times[1])
    results = []
    for part, file in zip(site.parts, (site.plain, config, site.plain), strict=True):
        write_log(log, part)
        command = ("train", "--config", file, "--log", log, "--until-end", "--run", run, *QUICK)
        results.append((told(*command), capsys.readouterr().err))

    (_, first), (with_plug, second), (without, third) = results
    assert "[knowledge]" not in first
    assert "the plug is put into the model" in second
    assert "g-00000001 is in force" in second
    assert "the plug is taken out of the model" in third
    assert "g-00000001" == with_plug["knowledge"]["generation"]
    assert 0.9 < with_plug["knowledge"]["known"]["interaction"] <= 1
    assert "knowledge" not in without
    assert first.count("Resuming") < second.count("Resuming") == third.count("Resuming")
    assert IMPRESSIONS > without["examples"] > with_plug["examples"]


def test_a_plug_that_knows_nothing_changes_no_score(site, here, tmp_path):
    """Missing vectors contribute nothing: not before, within or after the run that has them."""
    store, config = here
    store.activate("g-00000001", site.times[2] + 10**10)  # after all events
    digests = []
    for name, files in (("none", [site.plain] * 3), ("some", [site.plain, config, site.plain])):
        run, log = tmp_path / name, tmp_path / f"{name}-log"
        for part, file in zip(site.parts, files, strict=True):
            write_log(log, part)
            command = ("train", "--config", file, "--log", log, "--until-end", "--run", run)
            result = told(*command, *QUICK)
        digests.append([result[k] for k in ("examples_digest", "weights_digest", "logloss")])

    assert digests[0] == digests[1]


def test_concat_cannot_be_put_into_a_model_that_runs(site, here, tmp_path):
    """It makes another model of it: the message says so, before anything is read."""
    store, config = here
    store.activate("g-00000001", site.times[0])
    run, log = tmp_path / "run", write_log(tmp_path / "log", site.parts[0])
    command = ("train", "--log", log, "--until-end", "--run", run, *QUICK)
    told(*command, "--config", site.plain)

    said = told(*command, "--config", config, "--set", "knowledge.plug=concat",
                "--set", "knowledge.kinds=[]", code=2)  # fmt: skip

    assert "concat" in said["message"]
    assert told(*command, "--config", config)["resumed"]


def test_a_replay_with_the_journal_of_a_run_learns_what_it_did(site, here, tmp_path):
    """The store has gone on meanwhile: what the run saw stands in its journal."""
    store, config = here
    log = tmp_path / "log"
    for part in site.parts:
        write_log(log, part)
    store.activate("g-00000001", site.times[1])
    command = ("replay", "--config", config, "--input", log, *QUICK)
    first = told(*command, "--run", tmp_path / "first")
    store.activate("g-00000002", site.times[2])
    journal = tmp_path / "first" / "knowledge.ndjson"

    again = told(*command, "--knowledge-journal", journal)
    today = told(*command)

    assert (1, 2) == (first["knowledge"]["switches"], today["knowledge"]["switches"])
    assert first["knowledge"] == again["knowledge"]
    assert first["weights_digest"] == again["weights_digest"] != today["weights_digest"]
    assert first["examples_digest"] == today["examples_digest"]
    code, printed = keepstream("status", tmp_path / "first")
    assert 0 == code
    assert "knowledge: g-00000001 since" in printed
    assert "g-00000001" in (tmp_path / "first" / "report.html").read_text("utf-8")
    assert (
        "--knowledge-journal"
        in told(
            "replay", "--config", site.plain, "--input", log, "--knowledge-journal", journal, code=2
        )["message"]
    )


def newest(run):
    """Return the newest checkpoint's number, 0 where there is none."""
    folders = Checkpoints(run / "checkpoints").folders()
    return int(folders[-1].name.rpartition("-")[2]) if folders else 0


def until(process, reached):
    """Wait until something is so, or the process has ended."""
    while not reached() and process.poll() is None:
        passes(process, 0.01)
    assert reached(), process.stderr.read()


@pytest.mark.restart
def test_a_live_run_that_is_killed_switches_where_it_did(site, here, tmp_path):
    """An activation is noticed while it runs; after a kill it counts from the same impression."""
    store, config = here
    run, log = tmp_path / "run", write_log(tmp_path / "log", site.parts[0])
    store.activate("g-00000001", site.times[0])
    journal = run / "knowledge.ndjson"
    command = ("train", "--config", config, "--log", log, "--run", run, *QUICK,
               "--set", "checkpoint.every_s=0.1", "--json")  # fmt: skip
    with started(*command) as process:
        until(process, lambda: newest(run) > 0)
        store.activate("g-00000002", site.times[0])
        write_log(log, site.parts[1])
        until(process, lambda: journal.read_bytes().count(b"\n") == 2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    switches = read_journal(journal)[0]
    assert switches[1].from_ms > site.times[0]
    write_log(log, site.parts[2])

    told(*command, "--until-end")
    replay = ("replay", "--config", config, "--input", log, *QUICK)
    told(*replay, "--run", run)
    told(*replay, "--run", tmp_path / "undisturbed", "--knowledge-journal", journal)

    assert switches == read_journal(journal)[0]
    killed, undisturbed = run_of(run), run_of(tmp_path / "undisturbed")
    for key in ("examples", "examples_digest", "weights_digest", "knowledge", "logloss"):
        assert undisturbed[key] == killed[key], key
    assert 2 == killed["knowledge"]["switches"]
    assert orjson.loads((run / "config.json").read_bytes())["tables"]["knowledge"]["kinds"]
