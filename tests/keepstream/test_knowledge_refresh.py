import fcntl
import io
import signal
import sys
import threading
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import pytest

from keepstream.cli import main, parser
from keepstream.commands.knowledge_refresh import seconds_of
from keepstream.config import from_tables, load
from keepstream.reading import event_schema
from keepstream.refresh_job import RefreshJob, refresh_command
from keepstream.refreshing import Limited, Refreshing, old_log, store_of
from knowledge_store.layout import building
from knowledge_store.store import KnowledgeStore
from stream.listsource import ListSource
from tests.extractor.sites import content, same
from tests.keepstream.worlds import (
    CONFIG,
    configured,
    keepstream,
    parts,
    passes,
    started,
    told,
    write_log,
)
from trainer.knowledge_journal import read_journal

IMPRESSIONS = 6_000  # an hour and a half of the world's time
MINUTE = 60_000
SUPER = """\
[order]
lateness_s = 30
idle_s = 100_000

[join]
window_s = 120
early_s = 60
remember_s = 60

[features]
ids = ["item", "user", "scene", "device", "category"]
history = 10

[[features.statistics]]
key = ["item"]
half_lives_h = [1]

[[features.statistics]]
key = ["user"]
half_lives_h = [24]

[model]
model = "keep"
hidden = [8]
embedding_width = 4
listwise = 1.0

[train]
batch_size = 64

[ids]
max_rows = 20_000

[knowledge]
store = "{store}"
plug = "none"

[extractor]
width = 6
interaction_width = 3
category = "category"
lag_s = 20
"""
KNOWLEDGE = """
[knowledge]
store = "{store}"
kinds = ["item", "user", "interaction"]
category = "category"
"""


class Site:
    """A log in two parts, and the commands of an extractor that learns it."""

    def __init__(self, folder):
        self.folder = folder
        self.parts = parts(2, IMPRESSIONS)
        self.log = folder / "log"
        for part in self.parts:
            write_log(self.log, part)

    def refresh(self, here, *options, log=None):
        """Return the words of a refresh whose run and store lie in a folder."""
        config = configured(here, SUPER.format(store=here / "store"))
        source = ("--input", self.log) if log is None else ("--log", log)
        return ("knowledge", "refresh", "--config", config, *source, "--run", here / "run",
                "--quiet", *options)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a site."""
    return Site(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def backfilled(site):
    """Return what a backfill said, and the store with a generation of every 20 minutes."""
    here = site.folder / "backfilled"
    said = told(*site.refresh(here, "--every", "20m"))
    return said, KnowledgeStore(here / "store")


def wall_ms(folder):
    """Return the time by which files are written."""
    (folder / "clock").write_bytes(b"")
    return (folder / "clock").stat().st_mtime_ns // 1_000_000


def vectors(store):
    """Return what is in force from when on, and all vectors."""
    return [(s.from_ms, content(store, s.generation)) for s in store.switches()]


def same_history(one, other):
    """Return whether two stores gave the same vectors at the same times."""
    pairs = list(zip(vectors(one), vectors(other), strict=True))
    return all(a == b and same(x, y) for (a, x), (b, y) in pairs)


def test_a_backfill_gives_generations_at_the_boundaries(backfilled):
    """So that a replay of an old week sees what would have been in force then."""
    said, store = backfilled
    made = store.generations()

    assert said["made"]["accept"] == len(store.switches()) >= 3
    assert said["made"].get("hold", 0) + len(store.switches()) == len(made)
    assert {0} == {m.trained_until_ms % (20 * MINUTE) for m in made}
    assert {20 * MINUTE} == {b.trained_until_ms - a.trained_until_ms for a, b in pairwise(made)}
    for switch in store.switches():
        assert 20_000 == switch.from_ms - store.manifest(switch.generation).trained_until_ms
    assert {"item", "item_state", "user", "interaction"} == made[0].kinds.keys()
    assert 0 < made[-1].about["metrics"]["logloss"] < 1
    assert {} == store.verify()
    store.check()


def test_a_replay_uses_each_generation_in_its_time(site, backfilled, tmp_path):
    """A look-up of a time never sees vectors that had learned from it."""
    _, store = backfilled
    config = configured(tmp_path, CONFIG + KNOWLEDGE.format(store=store.root))
    run = tmp_path / "run"
    said = told("replay", "--config", config, "--input", site.log, "--run", run, "--quiet")

    taken = read_journal(run / "knowledge.ndjson")[0]
    assert [(s.from_ms, s.generation) for s in store.switches()] == [
        (t.from_ms, t.generation) for t in taken
    ]
    assert len(taken) == said["knowledge"]["switches"]
    assert 0.5 < said["knowledge"]["known"]["item"] < 0.9  # none before the first one
    assert said["knowledge"]["looked_up"] > IMPRESSIONS / 2


@pytest.mark.slow
def test_a_backfill_killed_at_any_instant_goes_on_to_the_same_generations(
    site, backfilled, tmp_path
):
    """A refresh is a process among others: it dies, and its next start makes up for it."""
    _, undisturbed = backfilled
    command = site.refresh(tmp_path, "--every", "20m", "--set", "checkpoint.every_s=0.3")
    rng = np.random.default_rng(1)
    codes = []
    for _ in range(2):
        with started(*command) as process:
            passes(process, 2.5 + 2 * rng.random())
            process.send_signal(signal.SIGKILL)
            codes.append(process.wait())
    code, printed = keepstream(*command)

    assert -signal.SIGKILL in codes
    assert 0 == code, printed
    store = KnowledgeStore(tmp_path / "store")
    assert same_history(undisturbed, store)
    store.check()


def test_a_refresh_goes_on_where_the_last_one_ended(site, tmp_path):
    """Cron starts it again and again: it learns what is new, and writes what has changed."""
    log = write_log(tmp_path / "log", site.parts[0])
    command = site.refresh(tmp_path, "--once", log=log)
    before = wall_ms(tmp_path)
    first = told(*command)
    nothing = told(*command)
    write_log(log, site.parts[1])
    second = told(*command)

    assert ["g-00000001", "g-00000001", "g-00000002"] == [
        said["generation"] for said in (first, nothing, second)
    ]
    assert [False, True, False] == [said["repeated"] for said in (first, nothing, second)]
    assert second["training"]["examples"] > 1.5 * first["training"]["examples"]
    assert first["trained_until_ms"] < second["trained_until_ms"]
    assert before <= first["from_ms"] <= second["from_ms"] <= wall_ms(tmp_path)
    assert "g-00000001" == KnowledgeStore(tmp_path / "store").generations()[1].base


def test_a_backfill_into_a_store_that_begins_later_fails(site, tmp_path, capsys):
    """It makes nothing of times before: that must not look like success."""
    told(*site.refresh(tmp_path, "--once"))
    capsys.readouterr()
    said = told(*site.refresh(tmp_path, "--every", "20m", "--fresh"), code=1)
    printed = capsys.readouterr().err

    assert {"passed"} == said["made"].keys()
    assert "nothing as of" in printed
    assert "need a store of their own" in printed


def test_what_was_made_and_pruned_is_not_asked_for_again(site, tmp_path, capsys):
    """A run that begins anew passes what its store had, and advises nobody to split it."""
    keep = ("--set", "extractor.keep=1")
    told(*site.refresh(tmp_path, "--every", "20m", *keep))
    capsys.readouterr()
    said = told(*site.refresh(tmp_path, "--every", "20m", "--fresh", *keep))

    assert {"repeated"} == said["made"].keys()
    assert "store of their own" not in capsys.readouterr().err


def test_a_stream_is_followed_and_each_boundary_gives_a_generation(site, tmp_path):
    """A continual extractor: it ends only when it is told to, and then nothing is amiss."""
    log = write_log(tmp_path / "log", site.parts[0])
    before = wall_ms(tmp_path)
    with started(*site.refresh(tmp_path, "--every", "20m", log=log)) as process:
        first = next(line for line in process.stderr if line.startswith("in force"))
        write_log(log, site.parts[1])
        second = next(line for line in process.stderr if line.startswith("in force"))
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate()

    assert ["g-00000001", "g-00000002"] == [line.split()[2] for line in (first, second)]
    assert (0, True) == (process.returncode, printed.startswith("in force"))
    store = KnowledgeStore(tmp_path / "store")
    assert before <= store.switches()[0].from_ms <= store.switches()[-1].from_ms
    assert {0} == {m.trained_until_ms % (20 * MINUTE) for m in store.generations()}


def test_learning_stops_in_time_to_extract(site, tmp_path):
    """What is not learned in this refresh is learned in the next one."""
    command = site.refresh(tmp_path, "--once", "--set", "log.block_events=500")
    limited = told(*command, "--time-limit", "0.001s", code=1)  # one block, of one topic
    rest = told(*command)

    assert (None, {}, 0) == (
        limited["generation"], limited["made"], limited["training"]["examples"]
    )  # fmt: skip
    assert {"accept": 1} == rest["made"]
    assert rest["training"]["resumed"]


def test_what_a_limited_source_has_not_given_comes_the_next_time(site):
    """A position is that after the last block given: none is lost, and none comes twice."""
    schema, log = event_schema(from_tables({})), site.parts[0]
    whole = list(ListSource(schema, log, block_events=500))
    seconds = iter(range(100))
    source = ListSource(schema, log, block_events=500)
    blocks = list(Limited(source, 3.0, lambda: next(seconds)))
    rest = list(ListSource(schema, log, block_events=500, position=blocks[-1].position))

    assert 3 == len(blocks) < len(whole)
    assert sum(len(b.events) for b in whole) == sum(len(b.events) for b in [*blocks, *rest])


def test_what_the_guard_holds_is_said_and_not_in_force(site, tmp_path, capsys):
    """Cron mails what a command prints where it does not end with 0."""
    log = write_log(tmp_path / "log", site.parts[0])
    told(*site.refresh(tmp_path, "--once", log=log))
    store = KnowledgeStore(tmp_path / "store")
    write_log(log, site.parts[1])
    shattered = ("--fresh", "--set", "train.seed=9", "--set", "model.learning_rate=3")
    code, printed = keepstream(*site.refresh(tmp_path, "--once", *shattered, log=log))

    assert (1, "g-00000001") == (code, store.current().generation)
    assert printed.startswith(("held: ", "refused: "))
    assert "g-00000001 stays in force" in capsys.readouterr().err


def test_what_was_taken_back_is_not_told_as_in_force(site, tmp_path):
    """Somebody has rolled back: a refresh without news leaves it so, and does not end with 0."""
    log = write_log(tmp_path / "log", site.parts[0])
    told(*site.refresh(tmp_path, "--once", log=log))
    write_log(log, site.parts[1])
    told(*site.refresh(tmp_path, "--once", log=log))
    store = KnowledgeStore(tmp_path / "store")
    store.rollback()
    code, printed = keepstream(*site.refresh(tmp_path, "--once", log=log))

    assert (1, True) == (code, printed.startswith("not in force: g-00000002"))
    assert "keepstream knowledge activate g-00000002" in printed
    assert "g-00000001" == store.current().generation


def test_two_refreshes_of_a_store_do_not_run_at_once(site, tmp_path):
    """Each would align to what the other has just replaced."""
    command = site.refresh(tmp_path, "--once")
    KnowledgeStore(tmp_path / "store", create=True)
    with (tmp_path / "store" / "refresh.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = told(*command, code=1)

    assert "RefreshRunning" == said["error"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "model.model=din", "--set", "model.options={}"), 'model = "keep"'),
        (("--set", 'knowledge.store=""'), "store is not set"),
        (("--lag", "10s", "--now"), "not allowed with"),
        (("--every", "10x"), "'10x' is no duration: give 90s, 10m"),
        (("--every", "-1h"), "expected one argument"),
        (("--keep", "0"), "keep is 0. Set it to 1 or more"),
        (("--set", "extractor.min_cosine=1"), "min_cosine lies between"),
        (("--set", "extractor.max_loss_rise=-0.1"), "max_loss_rise is 0 or more"),
        (("--every", "0s"), "above 0"),
    ],
)
def test_what_cannot_be_refreshed_says_what_to_change(site, tmp_path, capsys, options, message):
    """It runs by a schedule: whoever reads its mail was not there."""
    words = [str(word) for word in site.refresh(tmp_path, *options)]
    try:
        code = main(words, io.StringIO())
    except SystemExit as error:
        code = error.code

    assert 2 == code
    assert message in capsys.readouterr().err


def test_a_log_that_is_followed_has_no_lag(site, tmp_path, capsys):
    """It is in force by the clock, and saying otherwise would be a leak or a loss."""
    assert 2 == keepstream(*site.refresh(tmp_path, "--lag", "5s", log=site.log))[0]
    assert "--lag is for an --input" in capsys.readouterr().err


def test_old_generations_go_where_only_some_are_kept(site, tmp_path):
    """A disk is finite, and a stream is not."""
    told(*site.refresh(tmp_path, "--every", "20m", "--keep", "2"))
    store = KnowledgeStore(tmp_path / "store")

    assert 2 <= len(store.generations()) <= 3
    assert store.current().generation in {m.name for m in store.generations()}
    store.check()


def test_what_cannot_be_pruned_makes_no_refresh_fail(site, tmp_path):
    """The new generation is in force: cron is not to write that nothing is."""
    site.refresh(tmp_path)
    config, said = load(tmp_path / "keepstream.toml"), []
    with store_of(config) as store, ExitStack() as builder:

        def say(line):
            said.append(line)
            if line.startswith("in force"):
                builder.enter_context(building(store.root))

        once = {"by_clock": False, "every_s": None, "keep": 1}
        refreshing = Refreshing(config, store, say=say, **once)
        opened = old_log(config, [site.log], None, None)
        refreshing.run(opened, tmp_path / "run", fresh=False, quiet=True)

    assert refreshing.done
    assert ["Old generations stay until the next refresh"] == [x.split(":")[0] for x in said[1:]]


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("1.5m", 90), ("2h", 7200), ("0s", 0)])
def test_durations_have_units(text, expected):
    """Ten minutes are written as people write them."""
    assert expected == seconds_of(text)


def test_the_leader_tells_what_its_refresh_says(tmp_path):
    """The worker's log is where its supervisor looks."""
    said = []
    job = RefreshJob(
        [sys.executable, "-c", "print('in force: x'); raise SystemExit(3)"], said.append
    )
    job.run()
    job.stop()
    job.run()  # it has been stopped: it runs no more

    assert ["refresh: in force: x", "refresh: ended with 3; the next one tries again."] == said


def test_a_refresh_ends_with_its_worker():
    """Nobody would see what it says any more."""
    running = threading.Event()
    forever = "import time; print('here', flush=True); time.sleep(600)"
    job = RefreshJob([sys.executable, "-c", forever], lambda line: running.set())
    thread = threading.Thread(target=job.run)
    thread.start()
    assert running.wait(60)
    job.stop()
    thread.join(60)

    assert not thread.is_alive()


def test_the_leader_calls_a_command_that_there_is(site, tmp_path):
    """What is spelt wrong would be noticed at the first refresh, in production."""
    args = parser("knowledge").parse_args(refresh_command(tmp_path / "c.toml", tmp_path / "r")[3:])

    assert (True, tmp_path / "r", "refresh") == (args.once, args.run, args.subcalled.name)


def test_a_worker_needs_to_know_whose_knowledge_and_how_often(tmp_path, capsys):
    """Refused at the start, not at the first refresh."""
    worker = configured(tmp_path / "w", "")
    extractor = configured(tmp_path / "e", SUPER.format(store=tmp_path / "store"))
    words = ["worker", "--config", str(worker), "--set", "kafka.bootstrap=localhost:1",
             "--refresh", str(extractor)]  # fmt: skip

    assert 2 == main(words, io.StringIO())
    assert "go together" in capsys.readouterr().err
    assert 2 == main([*words, "--refresh-run", str(tmp_path / "run")], io.StringIO())
    assert "refresh_every_s" in capsys.readouterr().err
