import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extractor.guard import Decision, GuardConfig
from extractor.last import Last, packed
from knowledge_store.errors import KindsDiffer
from knowledge_store.store import KnowledgeStore
from tests.extractor.refresh_process import extraction
from tests.extractor.sites import CONFIG, Site, content, refresher, same

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
FIRST, SECOND, THIRD = "g-00000001", "g-00000002", "g-00000003"


@pytest.fixture(scope="module")
def site():
    """Return a site."""
    return Site()


@pytest.fixture
def store(tmp_path):
    """Yield an empty store; after the test what must hold between its parts is checked."""
    store = KnowledgeStore(tmp_path / "store", create=True)
    yield store
    store.check()


def looked_up(store, name, kind, ids):
    """Return what a generation has of ids."""
    with store.reader(name) as reader:
        found = reader.get_many(kind, ids, 1 << 40)
    assert found.present.all()
    return found.values.astype(np.float64)


def scores(store, name, site):
    """Return the products of all users and items, divided by their spread."""
    users = looked_up(store, name, "user", site.user_ids)
    products = users @ looked_up(store, name, "item", site.item_ids).T
    return products / products.std()


def test_the_first_generation_is_in_force_and_its_numbers_are_about_one(site, store):
    """Whatever scale a model works at, float16 and a plug get numbers that they can use."""
    made = refresher(store).refresh(site.extraction(1_000, model=3), from_ms=1_500)

    assert (Decision.ACCEPT, FIRST, 1_500) == (
        made.verdict.decision, made.manifest.name, store.current().from_ms
    )  # fmt: skip
    assert 1_000 == made.manifest.trained_until_ms
    for kind, (ids, vectors) in content(store, FIRST).items():
        assert 0.9 < np.sqrt(np.mean(vectors.astype(np.float64) ** 2)) < 1.1, kind
        assert made.manifest.counts[kind] == ids.size == made.changed[kind]
    truth = site.users @ site.items.T
    assert np.abs(scores(store, FIRST, site) - truth / truth.std()).max() < 0.02


def test_a_refresh_writes_only_what_has_changed(site, store):
    """A tenth of the vectors moved: nine tenths stay the bits they were, in the same files."""
    refresher(store).refresh(site.extraction(1_000), whole=True)
    made = refresher(store).refresh(site.extraction(2_000, moved=0.3))

    assert {"item": 12, "user": 30, "item_state": 12} == made.changed == made.manifest.changed
    assert FIRST == made.manifest.base
    before, after = content(store, FIRST), content(store, SECOND)
    for kind in before:
        moved = (before[kind][1] != after[kind][1]).any(axis=1)
        assert made.changed[kind] == moved.sum()
    assert {"kept"} == set(made.manifest.about["refresh"]["space"].values())


@pytest.mark.parametrize("clusters", [False, True])
def test_base_and_changes_are_what_a_full_rebuild_is(site, tmp_path, clusters):
    """However a generation came to be written, a trainer must learn the same from it."""
    added = KnowledgeStore(tmp_path / "added", create=True)
    whole = KnowledgeStore(tmp_path / "whole", create=True)
    for at in range(1, 6):
        found = site.extraction(
            at * 1_000, moved=0.05 * at, users=200 + 20 * at, noise=0.003, clusters=clusters
        )
        refresher(added).refresh(found)
        refresher(whole).refresh(found, whole=True)

    assert 5 == len(added.generations()) == len(whole.generations())
    for one, other in zip(added.generations(), whole.generations(), strict=True):
        assert same(content(added, one.name), content(whole, other.name))
        assert one.about["refresh"]["changed"] == other.about["refresh"]["changed"]
    assert FIRST == added.generations()[1].base
    assert added.generations()[4].bytes > 0
    assert [None] * 5 == [manifest.base for manifest in whole.generations()]


def test_now_and_then_all_is_due_to_be_written(site, store):
    """Amendments add up, and who is gone for good stays until then."""
    config = replace(CONFIG, rebuild_every=3)
    due = []
    for at in range(1, 6):
        refreshing = refresher(store, config)
        due.append(refreshing.rebuild_due())
        users = 300 if at < 4 else 250
        refreshing.refresh(site.extraction(at * 1_000, users=users), whole=due[-1])

    assert [True, False, False, True, False] == due
    assert [300, 300, 300, 250, 250] == [m.counts["user"] for m in store.generations()]


@pytest.mark.parametrize("model", [1, 2, 3])
def test_a_model_trained_anew_gives_vectors_in_the_old_space(site, store, model):
    """Its own space is any linear map away; networks have learned to read the old one."""
    refresher(store).refresh(site.extraction(1_000))
    made = refresher(store).refresh(site.extraction(2_000, model=model))

    assert Decision.ACCEPT == made.verdict.decision
    said = made.manifest.about["refresh"]["space"]
    assert {"user": "canonical", "item": "canonical", "item_state": "rotated"} == said
    for kind, ids in (
        ("user", site.user_ids),
        ("item", site.item_ids),
        ("item_state", site.item_ids),
    ):
        before = looked_up(store, FIRST, kind, ids)
        assert np.abs(looked_up(store, SECOND, kind, ids) - before).mean() < 0.02, kind
        assert made.manifest.about["drift"][kind] < 0.001
    again = refresher(store).refresh(site.extraction(3_000, model=model))
    assert {"kept"} == set(again.manifest.about["refresh"]["space"].values())
    assert 0 == sum(again.changed.values())


def test_too_much_drift_is_held_and_the_next_generation_goes_on_from_the_last_good_one(site, store):
    """A person may look at a doubtful generation; networks never do."""
    said = []
    refresher(store).refresh(site.extraction(1_000), from_ms=1_000)
    held = refresher(store, say=said.append).refresh(
        site.extraction(2_000, noise=1.3), from_ms=2_000
    )
    good = refresher(store).refresh(site.extraction(3_000, moved=0.1), from_ms=3_000)

    assert Decision.HOLD == held.verdict.decision
    assert (SECOND, None) == (held.manifest.name, held.switch)
    assert "mean cosine" in said[0] and f"{FIRST} stays in force" in said[0]
    assert held.verdict.reasons == tuple(held.manifest.about["refresh"]["reasons"])
    assert (THIRD, FIRST) == (good.manifest.name, good.manifest.base)
    assert [(1_000, FIRST), (3_000, THIRD)] == [
        (switch.from_ms, switch.generation) for switch in store.switches()
    ]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda v: v.__setitem__(3, np.nan), id="NaN"),
        pytest.param(lambda v: v.__setitem__(3, 1e9), id="too large for float16"),
        pytest.param(
            lambda v: v.__setitem__(slice(None), np.random.default_rng(1).normal(size=v.shape)),
            id="noise",
        ),
    ],
)
def test_a_broken_generation_is_refused_and_nothing_is_written(site, store, broken):
    """One NaN in force would be in every score of a scene."""
    said = []
    refresher(store).refresh(site.extraction(1_000), from_ms=1_000)
    found = site.extraction(2_000)
    broken(found.kinds["item_state"].vectors)
    made = refresher(store, say=said.append).refresh(found)

    assert (Decision.REFUSE, None, None) == (made.verdict.decision, made.manifest, made.switch)
    assert "item_state" in said[0] or "as float16" in said[0]
    assert [FIRST] == [manifest.name for manifest in store.generations()]
    assert FIRST == store.current().generation


def test_a_kind_that_nobody_has_yet_is_no_fault(site, store):
    """Before the first click there is no interaction: the generation is made, and the next has."""
    found = site.extraction(1_000, clusters=True)
    nobody = found.kinds["user"]
    blank = replace(
        nobody, ids=nobody.ids[:0], vectors=nobody.vectors[:0, :4], seen=nobody.seen[:0], of=100
    )
    some = replace(nobody, vectors=0.05 * nobody.vectors[:, :4])
    first = refresher(store).refresh(
        replace(found, kinds={**found.kinds, "interaction": blank}, pairs=None)
    )
    made = refresher(store).refresh(
        replace(found, at_ms=2_000, kinds={**found.kinds, "interaction": some}, pairs=None)
    )

    assert [Decision.ACCEPT] * 2 == [first.verdict.decision, made.verdict.decision], made.verdict
    assert [0, len(nobody)] == [m.manifest.counts["interaction"] for m in (first, made)]
    found = looked_up(store, SECOND, "interaction", nobody.ids)
    assert 0.9 < np.sqrt(np.mean(found**2)) < 1.1  # its scale is found when there is something


def test_a_loss_that_has_blown_up_is_held(site, store):
    """Vectors may look as before while the model that gave them has lost its way."""
    refresher(store).refresh(site.extraction(1_000), loss=0.9)
    made = refresher(store).refresh(site.extraction(2_000), loss=1.2)

    assert Decision.HOLD == made.verdict.decision
    assert "log loss" in made.verdict.reasons[0]


def test_a_quiet_hours_loss_is_not_taken_for_a_wreck(site, store):
    """At night a loss is that of a few clicks, and the hours of a day must still have vectors."""
    refresher(store).refresh(site.extraction(1_000), loss=0.9, clicks=2_000)
    made = refresher(store).refresh(site.extraction(2_000), loss=1.1, clicks=30)
    wreck = refresher(store).refresh(site.extraction(3_000), loss=1.8, clicks=30)

    assert [Decision.ACCEPT, Decision.HOLD] == [m.verdict.decision for m in (made, wreck)]


def test_a_young_model_may_drift_and_an_old_one_may_not(site, store):
    """What a model knew after ten minutes is little more than random: it must not bind the rest."""
    refresher(store).refresh(site.extraction(1_000), learned=1_000)
    drifted = site.extraction(2_000, noise=1.3)
    old = refresher(store).refresh(drifted, learned=1_999)
    young = refresher(store).refresh(site.extraction(2_001, noise=1.3), learned=3_998)

    assert [Decision.HOLD, Decision.ACCEPT] == [made.verdict.decision for made in (old, young)]
    assert 0.3 < young.manifest.about["drift"]["user"] < 0.8


def test_an_old_model_does_not_become_young_by_waiting(site, store):
    """However long generations were refused or held, the next of them is judged as they were."""
    refresher(store).refresh(site.extraction(1_000), learned=3_000)
    wreck = {"noise": 30.0}
    made = [
        refresher(store).refresh(site.extraction(at, **wreck), learned=learned).verdict.decision
        for at, learned in ((2_000, 4_000), (3_000, 5_900), (4_000, 6_000), (5_000, 11_000))
    ]

    assert [Decision.REFUSE] * 4 == made
    assert FIRST == store.current().generation


def test_a_bad_loss_is_not_what_the_next_must_reach(site, store):
    """A model that gets worse step by step, or after an hour without clicks, is held as well."""
    refresher(store).refresh(site.extraction(1_000), loss=0.9, clicks=4_000)
    refresher(store).refresh(site.extraction(2_000), loss=None, clicks=0)
    wreck = refresher(store).refresh(site.extraction(3_000), loss=9.0, clicks=4_000)
    assert Decision.HOLD == wreck.verdict.decision

    losses = [0.9]
    for i in range(1, 8):  # what one window lets pass is a fifth; so would seven, and make 3.2
        losses.append(losses[-1] * 1.2)
        made = refresher(store).refresh(site.extraction(3_000 + i), loss=losses[-1], clicks=400)
        if made.verdict.decision is Decision.HOLD:
            break
    assert losses[-1] < 1.6


def test_what_a_killed_backfill_made_is_in_force_at_its_own_time(site, store, monkeypatch):
    """It resumes behind it, and must not put it in force a boundary early."""
    refresher(store).refresh(site.extraction(1_000), from_ms=1_030)

    def killed(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(KnowledgeStore, "activate", killed)
        with pytest.raises(InterruptedError):
            refresher(store).refresh(site.extraction(2_000, moved=0.3), from_ms=2_030)
    again = refresher(store)
    for at in (1_000, 2_000):
        assert again.again(at, from_ms=at + 30) is not None

    assert [(1_030, FIRST), (2_030, SECOND)] == [
        (s.from_ms, s.generation) for s in store.switches()
    ]


def test_the_bounds_of_the_guard_are_settings(site, store):
    """A site whose tastes turn fast has other bounds than ours."""
    wide = replace(CONFIG, min_cosine=0.3, max_loss_rise=0.5)
    refresher(store).refresh(site.extraction(1_000), loss=0.8)

    doubtful = {"noise": 1.3}
    for at, config, options, decision in (
        (2_000, CONFIG, doubtful, Decision.HOLD),
        (2_001, wide, doubtful, Decision.ACCEPT),
        (3_000, CONFIG, {}, Decision.HOLD),
        (3_001, wide, {}, Decision.ACCEPT),
    ):
        loss = 0.8 if options else 1.1
        found = site.extraction(at, **(options or doubtful))
        assert decision == refresher(store, config).refresh(found, loss=loss).verdict.decision


def test_what_bounds_leave_out_is_not_covered(site, store):
    """A site of ten million items has ids of one million: the figure and the guard must say so."""
    found = site.extraction(1_000, clusters=True)

    def some(kind, times):
        return replace(kind, of=times * int(kind.seen.sum()))

    thin = {name: some(kind, 20) for name, kind in found.kinds.items()}
    held = refresher(store).refresh(replace(found, kinds=thin))
    half = {name: some(kind, 2) for name, kind in found.kinds.items()}
    few = replace(found, at_ms=2_000, kinds=half, pairs=lambda n: some(found.pairs(n), 20))
    made = refresher(store).refresh(few)

    assert Decision.HOLD == held.verdict.decision
    assert "5.0% of item look-ups find a vector" in held.verdict.reasons[0]
    assert Decision.ACCEPT == made.verdict.decision
    expected = {"item": 0.5, "user": 0.5, "item_state": 0.5, "interaction": 0.05}
    assert expected == made.manifest.about["coverage"]


def test_another_guard_judges_a_held_generation_anew(site, store):
    """Whoever finds a bound too tight loosens it, and need not wait for new events."""
    refresher(store).refresh(site.extraction(1_000))
    doubtful = site.extraction(2_000, noise=1.3)
    first = refresher(store).refresh(doubtful)
    second = refresher(store).refresh(doubtful)
    third = refresher(store, guard=GuardConfig(min_cosine=0.3)).refresh(doubtful)

    assert [False, True, False] == [made.repeated for made in (first, second, third)]
    assert first.manifest == second.manifest
    assert Decision.ACCEPT == third.verdict.decision


def test_no_generation_is_in_force_before_it_could_have_been(site, store):
    """What was learned until a time was there only after the seconds it took."""
    wall = iter([90_000, 2_500])
    by_clock = refresher(store).refresh(site.extraction(1_000), began=0.0)
    by_wall = refresher(store, wall_ms=lambda: next(wall)).refresh(site.extraction(40_000))
    early = refresher(store).refresh(site.extraction(95_000), from_ms=94_000)

    assert 1_000 + 8_000 == by_clock.switch.from_ms  # its eighth look at the clock
    assert 90_000 == by_wall.switch.from_ms
    assert 95_000 == early.switch.from_ms
    for switch in store.switches():
        assert switch.from_ms >= store.manifest(switch.generation).trained_until_ms


def test_what_has_been_made_is_not_made_again(site, store):
    """After a kill a trainer passes the same boundaries again, from its checkpoint on."""
    for at in (1_000, 2_000):
        refresher(store).refresh(site.extraction(at), from_ms=at)
    again = [refresher(store).again(at) for at in (1_000, 1_500, 2_000)]
    new = refresher(store).again(2_001)

    assert [SECOND] * 3 == [made.manifest.name for made in again]
    assert [2_000] * 3 == [made.switch.from_ms for made in again]
    assert new is None
    assert 2 == len(store.switches())


def test_a_rollback_is_not_undone_by_a_restart(site, store):
    """Who took a generation back has seen something; the next new one goes on from the older."""
    for at in (1_000, 2_000):
        refresher(store).refresh(site.extraction(at), from_ms=at)
    store.rollback()
    again = refresher(store).again(2_000)
    new = refresher(store).refresh(site.extraction(3_000), from_ms=3_000)

    assert Decision.ACCEPT == again.verdict.decision
    assert (SECOND, FIRST) == (again.manifest.name, new.manifest.base)
    assert [FIRST, THIRD] == [switch.generation for switch in store.switches()]


def test_a_rollback_is_not_undone_where_a_kill_came_right_after_the_switch(site, store):
    """Then the switch was there, and nothing yet that remembers it once it is taken back."""
    for at in (1_000, 2_000):
        refresher(store).refresh(site.extraction(at), from_ms=at)
    (store.root / "refreshed").write_text("1")
    refresher(store).again(2_000)
    store.rollback()
    refresher(store).again(2_000)

    assert FIRST == store.current().generation


def test_a_generation_that_lacks_its_switch_gets_it(site, store):
    """A process can be killed between the two, and nothing new may come for hours."""
    for at in (1_000, 2_000):
        refresher(store).refresh(site.extraction(at), from_ms=at)
    (store.root / "CURRENT").write_text(
        '{"format": 1, "switches": [{"from_ms": 1000, "generation": "g-00000001"}]}'
    )
    (store.root / "refreshed").write_text("1")
    again = refresher(store).again(2_000, from_ms=2_345)

    assert (True, 2_345) == (again.repeated, again.switch.from_ms)
    assert (SECOND, 2_345) == (store.current().generation, store.current().from_ms)


def test_a_store_of_other_vectors_is_refused(site, store):
    """Trainers were built for the widths that there are."""
    refresher(store).refresh(site.extraction(1_000))
    found = site.extraction(2_000)
    kinds = {kind: found.kinds[kind] for kind in ("item", "user")}

    with pytest.raises(KindsDiffer, match=FIRST):
        refresher(store).refresh(replace(found, kinds=kinds))
    with pytest.raises(KindsDiffer, match=FIRST):
        refresher(store).refresh(site.extraction(2_000, clusters=True))


def test_clusters_keep_their_numbers_when_the_model_is_trained_anew(site, store):
    """A pair of user and cluster is looked up by the number: it must mean the same items."""
    refresher(store).refresh(site.extraction(1_000, clusters=True))
    made = refresher(store).refresh(site.extraction(2_000, model=2, clusters=True))

    before = looked_up(store, FIRST, "cluster", site.item_ids)
    after = looked_up(store, SECOND, "cluster", site.item_ids)
    assert 4 == np.unique(before).size
    assert np.mean(before == after) > 0.97
    assert made.manifest.counts["interaction"] == 4 * site.user_ids.size


def test_smoothing_takes_a_part_of_the_old_vectors(site, tmp_path):
    """It calms a switch, and costs freshness: by default there is none."""
    moved = []
    for smooth in (0.0, 0.8):
        store = KnowledgeStore(tmp_path / str(smooth), create=True)
        config = replace(CONFIG, smooth=smooth)
        for at, far in ((1_000, 0.0), (2_000, 0.5)):
            refresher(store, config).refresh(site.extraction(at, moved=far))
        old, new = (looked_up(store, name, "user", site.user_ids[:30]) for name in (FIRST, SECOND))
        moved.append(np.linalg.norm(new - old))

    assert 0.2 == pytest.approx(moved[1] / moved[0], rel=0.05)


def test_any_process_goes_on_from_the_store_alone(site, store):
    """Whoever leads next has nothing but the store."""
    refresher(store).refresh(site.extraction(1_000, model=1, clusters=True))
    with Last.of(store) as last:
        state, space = last.state, last.space

    assert packed(state) == (store.path(FIRST) / "extractor.safetensors").read_bytes()
    assert {"item", "user", "item_state", "interaction"} == space.maps.keys()
    assert (4, 8) == state["clusters"]["centres"].shape
    assert {} == store.verify()


@contextmanager
def process(store):
    """Run a process whose refreshes can be killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.extractor.refresh_process", str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def killed(running, at_ms, after_s):
    """Start a refresh, kill it after so many seconds; return whether it came to its end before."""
    running.stdin.write(f"{at_ms}\n")
    running.stdin.flush()
    child, word = running.stdout.readline().split()
    assert "start" == word
    if not select.select([running.stdout], [], [], after_s)[0]:
        os.kill(int(child), signal.SIGKILL)
    same_child, word, status = running.stdout.readline().split()
    assert (child, "end") == (same_child, word)
    return "0" == status


@pytest.mark.slow
def test_a_refresh_killed_at_any_instant_is_made_the_next_time_as_if_nothing_was(store, tmp_path):
    """The old generation stays in force meanwhile, and the new one is the same to the bit."""
    undisturbed = KnowledgeStore(tmp_path / "undisturbed", create=True)
    rng = random.Random(3)
    dead = 0
    at = 1_000
    with process(store) as running:
        assert killed(running, at, 60)
        begun = time.monotonic()
        lasts = None
        while dead < KILLS:
            at += 1_000
            before = store.current()
            for _ in range(3):
                if lasts is None or killed(running, at, rng.uniform(0, lasts)):
                    break
                dead += 1
                store.check()
                assert store.current() in (before, store.switches()[-1])
                assert 0 <= store.current().from_ms - before.from_ms <= 1_000
            begun = time.monotonic()
            assert killed(running, at, 60)
            lasts = lasts or time.monotonic() - begun
    for made in range(1_000, at + 1, 1_000):
        refresher(undisturbed).refresh(extraction(made), from_ms=made + 5)

    assert [s.from_ms for s in undisturbed.switches()] == [s.from_ms for s in store.switches()]
    for one, other in zip(undisturbed.switches(), store.switches(), strict=True):
        assert same(content(undisturbed, one.generation), content(store, other.generation))
