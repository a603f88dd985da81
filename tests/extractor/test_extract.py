"""Extraction: what is taken out of a run is what the run would say, and the run is left alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from extractor import extract as module
from extractor.errors import BadVectors
from extractor.extract import NotKeep, extract
from keepstream.config import ConfigError, load
from keepstream.inputs import opener
from keepstream.reading import event_schema, feature_schema
from keepstream.wiring import build_ingest, build_training
from knowledge_store.kinds import pair_ids
from stream.events import EventColumns
from stream.position import Position
from tests.trainer.parts import CLICKED, SHOWN, clicked, config, equal, shown, source
from trainer.features import Features
from trainer.loop import train
from trainer.view import View

FEATURES = {
    "ids": ["item", "user", "scene", "section", "country"],
    "history": 3,
    "numbers": ["price"],
    "request_relative": True,
    "statistics": [
        {"key": ["item"], "half_lives_h": [0.01, 1]},
        {"key": ["section"], "half_lives_h": [1]},
        {"key": ["user"], "half_lives_h": [1]},
        {"key": ["last_click"], "half_lives_h": [1]},
        {"key": ["user", "item"], "half_lives_h": [1]},
        {"key": ["item", "scene"], "half_lives_h": [1]},
        {"key": ["item"], "scenes": ["aside"], "half_lives_h": [1]},
    ],
}
MODEL = {"model": "keep", "hidden": [8], "learning_rate": 0.05}


def settings(**extractor):
    """Return the configuration of a small run with sections and countries."""
    said = {"category": "section", "user_fields": ["country"], "width": 6, **extractor}
    return config(features=FEATURES, model=MODEL, extractor=said)


def fields(section, country, price):
    """Return the features of an event."""
    return {"section": f"s{section}", "country": f"c{country}", "price": price}


def messages(impressions=400):
    """Return a log in which everybody and everything has a section or a country, and a price."""
    numbers = range(impressions)
    return {
        SHOWN: [
            shown(
                i,
                i,
                features=fields(i % 11 % 3, i % 7 % 2, i % 5),
                scene=("home", "aside")[i % 3 == 1],
            )
            for i in numbers
        ],
        CLICKED: [clicked(i, i + 20) for i in numbers if (i % 7 + i % 11) % 3 == 0],
    }


class Run:
    """A run that has learned a log, and its last view."""

    def __init__(self, said, scratch, log=None, every_s=None, look=None):
        self.config, self.schema = said, feature_schema(said)
        over = source(said, messages() if log is None else log)
        self.ingest = build_ingest(said, over.partitions, scratch, view_every_s=every_s)
        self.training = build_training(said, None, scratch)
        self.learner = self.training.learner
        items = [*(item for block in over for item in self.ingest.feed(block))]
        train(items, self.training, _nothing, _nothing, look or _nothing)
        self.view = self.ingest.view_now()

    def extract(self, view=None, **options):
        """Extract from it."""
        said = replace(self.config.extractor, **options)
        given = self.schema, self.config.state, self.learner, view or self.view, said
        return extract(*given)

    def rows(self, users, items, sections, countries):
        """Return the rows that the run's own features give impressions at the view's moment."""
        features = Features(self.schema, self.config.state)
        features.restore(self.view.features)
        schema = event_schema(self.config)
        events = EventColumns.empty(schema, users.size)
        events.at[:] = events.ts[:] = self.view.at_ms
        events.user[:], events.item[:] = users, items
        events.ids[:, schema.ids.index("section")] = sections
        events.ids[:, schema.ids.index("country")] = countries
        events.scene[:] = 77
        events.numbers[:] = 3.0
        return features.peek(events)

    def inputs(self, rows):
        """Return what the network is given for such rows, by the ingest and the learner."""
        rows = {**rows, "request": np.arange(len(rows["ids"]), dtype=np.uint64)}
        self.ingest._pending.release(self.ingest._pending.next)
        first = self.ingest._pending.append(rows)
        self.ingest._scored = first
        item = self.ingest._score_item(first + len(rows["ids"]))
        return self.learner._inputs(item.batch)


def _nothing(*_):
    """Look away."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that nobody changes but by adding to its end."""
    return Run(settings(), tmp_path_factory.mktemp("run"))


def everybody(run, extraction):
    """Return users × items with their sections and countries (n,), and the places of both (n,)."""
    users, items = extraction.kinds["user"].ids, extraction.kinds["item"].ids
    u, i = (axis.ravel() for axis in np.meshgrid(np.arange(users.size), np.arange(items.size)))
    sections, countries = fields_of(run, "items", items[i]), fields_of(run, "users", users[u])
    return (users[u], items[i], sections, countries), u, i


def fields_of(run, side, ids):
    """Return the field that each of ``ids`` (n,) has; 0 where there is none to have."""
    rows = run.view.entities[side]["rows_0"]
    known = dict(zip(rows[:, 0].tolist(), rows[:, 3:].sum(1).tolist(), strict=True))
    return np.array([known[each] for each in ids.tolist()], np.uint64)


def test_the_product_of_two_vectors_is_their_part_of_the_logit(run):
    """Whoever multiplies user and item gets, to rounding, what the model itself would say.

    Of its parts only the occasion's, the pair's and the interaction are missing.
    """
    found = run.extract()
    columns, u, i = everybody(run, found)
    with torch.no_grad():
        inputs = run.inputs(run.rows(*columns))
        keep = run.learner.network
        context = keep.context(
            torch.cat([inputs.ids_BFE[:, 2], inputs.numbers_BD[:, keep.sides.context.numbers]], 1)
        )
        logits = keep(inputs)
        _, terms = keep._terms(inputs)
        item = keep.item(keep.item_inputs(inputs.ids_BFE, inputs.numbers_BD))
        of_context = keep.scale * (context[:, :-1] * item[:, :-1]).sum(1)
    expected = (logits - terms[:, 2:].sum(1) - of_context).numpy()

    products = (found.kinds["user"].vectors[u] * found.kinds["item"].vectors[i]).sum(1)

    assert (7, 6) == found.kinds["user"].vectors.shape
    assert (11, 6) == found.kinds["item"].vectors.shape
    assert expected.std() > 0.1
    assert [3, 2] == [np.unique(column).size for column in columns[2:]]
    assert all(column.all() for column in columns)
    np.testing.assert_allclose(products, expected, atol=1e-4)


def test_the_hidden_state_of_an_item_is_what_its_tower_sees(run):
    """It stands by the item's id, in the same order, and the numbers it was made from behind it."""
    found = run.extract()
    columns, _, i = everybody(run, found)
    with torch.no_grad():
        inputs = run.inputs(run.rows(*columns))
        keep = run.learner.network
        state = keep.item.state(keep.item_inputs(inputs.ids_BFE, inputs.numbers_BD))
        own = inputs.numbers_BD[:, keep.sides.item.numbers]
        expected = torch.cat([state, own], 1).numpy()

    states = found.kinds["item_state"]
    assert 8 < states.vectors.shape[1] == expected.shape[1]

    assert found.kinds["item"].ids is states.ids
    np.testing.assert_allclose(states.vectors[i], expected, atol=1e-5)
    assert (states.vectors[:, :8] >= 0).all() and states.vectors[:, :8].std() > 0


def test_what_one_scene_says_of_an_item_is_the_items(run):
    """Whoever looks it up in another scene is told of this one, and not of their mixture."""
    keep = run.learner.network
    names = [run.schema.numbers_of_model[i] for i in keep.sides.item.numbers]
    states = run.extract().kinds["item_state"].vectors[:, 8:]

    aside, all_ = (states[:, names.index(f"{name}.shown.1h")] for name in ("item@aside", "item"))

    assert aside.std() > 0.01
    assert np.abs(aside - all_).max() > 0.01


def test_an_interaction_is_what_the_model_says_of_user_and_category(run):
    """The vector that a look-up of (user, section) finds is the one behind the model's logit."""
    found = run.extract()
    columns, _, _ = everybody(run, found)
    with torch.no_grad():
        inputs = run.inputs(run.rows(*columns))
        part = run.learner.network.interaction
        expected = part.vectors(inputs.ids_BFE[:, 3], inputs.sequences_BLE[0]).numpy()
        clicked_any = inputs.masks_BL[0].any(1).numpy()
    users, _, sections, _ = columns
    pairs = found.kinds["interaction"]
    place = {pair: n for n, pair in enumerate(pairs.ids.tolist())}
    asked = pair_ids(users, sections)

    assert len(pairs) == len(place) == 3 * np.unique(users[clicked_any]).size
    assert found.pairs is None
    at = [place[pair] for pair in asked[clicked_any].tolist()]
    np.testing.assert_allclose(pairs.vectors[at], expected[clicked_any], atol=1e-5)


def test_who_has_clicked_nothing_has_no_interaction(tmp_path):
    """There is no history to ask; a vector of nothing would only cost room."""
    silent = Run(settings(), tmp_path, {**messages(200), CLICKED: [clicked(0, 20)]})

    found = silent.extract()

    assert 7 == len(found.kinds["user"])
    assert 3 == len(found.kinds["interaction"])  # of one user, with three sections


def test_a_run_is_left_as_it_was(run):
    """Extraction may come at any time: neither weights nor a view change by one bit."""
    weights, state = run.learner.weights_digest(), run.learner.state()
    again = run.ingest.view_now()

    first, second = run.extract(), run.extract()

    assert weights == run.learner.weights_digest()
    assert equal(state["table"], run.learner.state()["table"])
    assert equal(again.features, run.view.features)
    for kind, one in first.kinds.items():
        np.testing.assert_array_equal(one.vectors, second.kinds[kind].vectors, err_msg=kind)


def test_extraction_in_the_loop_changes_nothing_that_comes_after(tmp_path):
    """The super-domain run with a refresh every minute ends with the weights of one without."""
    seen = []

    def look(view, training):
        said = settings()
        seen.append(
            extract(feature_schema(said), said.state, training.learner, view, said.extractor)
        )

    extracted = Run(settings(), tmp_path, every_s=60, look=look)
    alone = Run(settings(), tmp_path)

    assert len(seen) >= 5
    assert alone.learner.weights_digest() == extracted.learner.weights_digest()
    steps = [found.about["steps"] for found in seen]
    assert sorted(set(steps)) == steps
    assert seen[-1].at_ms % 60_000 == 0


def test_blocks_make_no_difference(run, monkeypatch):
    """Memory is bounded by blocks of entities, and of pairs."""
    whole = run.extract()

    monkeypatch.setattr(module, "BLOCK", 3)
    monkeypatch.setattr(module, "PAIRS", 4)
    parts = run.extract()

    for kind, found in whole.kinds.items():
        np.testing.assert_array_equal(found.ids, parts.kinds[kind].ids)
        np.testing.assert_array_equal(found.seen, parts.kinds[kind].seen)
        np.testing.assert_allclose(found.vectors, parts.kinds[kind].vectors, atol=1e-6)


def test_only_who_was_seen_lately_is_extracted(tmp_path):
    """A refresh takes those that can have changed; a rebuild takes everybody."""
    log = messages(100)
    log[SHOWN] += [shown(i, 7200 + i, features=fields(0, 0, 1)) for i in range(700, 707)]
    late = Run(settings(), tmp_path, log)
    latest = sorted({i % 11 for i in range(700, 707)})

    lately = late.extract(active_h=1.0)
    said = replace(late.config.extractor, active_h=1.0)
    given = late.schema, late.config.state, late.learner, late.view, said
    everyone = extract(*given, everybody=True)

    assert len(latest) == len(lately.kinds["item"]) == 7
    assert 11 == len(everyone.kinds["item"]) == len(late.extract(active_h=None).kinds["item"])
    at = np.searchsorted(everyone.kinds["item"].ids, lately.kinds["item"].ids)
    np.testing.assert_array_equal(everyone.kinds["item"].ids[at], lately.kinds["item"].ids)
    np.testing.assert_allclose(
        everyone.kinds["item"].vectors[at], lately.kinds["item"].vectors, atol=1e-6
    )
    two = late.extract(max_entities=2, max_pairs=4)
    assert [2, 2] == [len(two.kinds[kind]) for kind in ("item", "user")]
    assert set(two.kinds["item"].ids) <= set(lately.kinds["item"].ids)
    assert len(two.kinds["interaction"]) <= 4
    whole = late.extract()
    for kind in ("item", "item_state", "user"):  # what bounds leave out is not covered
        found, some = whole.kinds[kind], two.kinds[kind]
        assert some.of == found.of == found.seen.sum() > some.seen.sum()
    assert whole.kinds["interaction"].of >= whole.kinds["interaction"].seen.sum()


@pytest.mark.parametrize("category", ["section", ""])
def test_without_pairs_there_is_no_interaction(tmp_path, category):
    """Users × categories may be more than a store is to hold: then there is no such kind."""
    found = Run(settings(category=category), tmp_path).extract(max_pairs=0)
    clustered = found.with_clusters(np.zeros(len(found.kinds["item"]), np.int32))

    assert {"item", "item_state", "user"} == found.kinds.keys() == clustered.kinds.keys()


def test_entities_come_with_how_often_they_were_seen(run):
    """An alignment is fitted on settled entities alone."""
    found = run.extract()

    assert 400 == found.kinds["item"].seen.sum() == found.kinds["user"].seen.sum()
    assert np.all(np.diff(found.kinds["item"].ids.astype(object)) > 0)


def test_clusters_take_the_place_of_categories(tmp_path):
    """A log without categories has vectors of user and cluster, asked by the items' mean."""
    plain = Run(settings(category=""), tmp_path)
    found = plain.extract()
    numbers = np.array([0, 1, 1, -1, 0, 0, 1, 0, 1, -1, 5], np.int32)

    clustered = found.with_clusters(numbers)

    assert "interaction" not in found.kinds
    clusters, pairs = clustered.kinds["cluster"], clustered.kinds["interaction"]
    assert numbers[numbers >= 0].tolist() == clusters.vectors[:, 0].tolist()
    np.testing.assert_array_equal(found.kinds["item"].ids[numbers >= 0], clusters.ids)
    user = found.kinds["user"].ids[:1]
    assert {pair_ids(user, np.uint64([n + 1]))[0] for n in (0, 1, 5)} <= set(pairs.ids)
    assert clustered is clustered.with_clusters(numbers)
    stored = {name: (kind.width, kind.dtype) for name, kind in clustered.stored().items()}
    assert {
        "item": (6, "float16"),
        "user": (6, "float16"),
        "item_state": (8 + len(plain.learner.network.sides.item.numbers), "float16"),
        "cluster": (1, "float32"),
        "interaction": (16, "float16"),
    } == stored
    with pytest.raises(BadVectors, match="one for each of 11 items"):
        found.with_clusters(numbers[:3])


def test_a_cluster_of_one_item_asks_as_the_item_itself(tmp_path):
    """The model was trained with the item's own embedding as the query."""
    plain = Run(settings(category=""), tmp_path)
    found = plain.extract()
    columns, _, i = everybody(plain, found)
    pairs = found.with_clusters(np.arange(11, dtype=np.int32)).kinds["interaction"]
    with torch.no_grad():
        inputs = plain.inputs(plain.rows(*columns))
        part = plain.learner.network.interaction
        expected = part.vectors(inputs.ids_BFE[:, 0], inputs.sequences_BLE[0]).numpy()
        some = inputs.masks_BL[0].any(1).numpy()

    place = {pair: n for n, pair in enumerate(pairs.ids.tolist())}
    asked = pair_ids(columns[0], i.astype(np.uint64) + np.uint64(1))[some]

    at = [place[pair] for pair in asked.tolist()]
    np.testing.assert_allclose(pairs.vectors[at], expected[some], atol=1e-5)


def test_a_cluster_asks_as_the_mean_of_its_items(tmp_path):
    """A sum would grow with the cluster, and be no query that the model has seen."""
    plain = Run(settings(category=""), tmp_path)
    found = plain.extract()
    users, items = found.kinds["user"].ids, found.kinds["item"].ids
    pairs = found.with_clusters(np.array([4] * 3 + [-1] * 8, np.int32)).kinds["interaction"]
    none = np.zeros(3, np.uint64)
    with torch.no_grad():
        of_items = plain.inputs(plain.rows(users[:3], items[:3], none, none)).ids_BFE[:, 0]
        history = plain.inputs(plain.rows(users, items[:7], users, users)).sequences_BLE[0]
        query = of_items.mean(0).expand(7, -1)
        expected = plain.learner.network.interaction.vectors(query, history).numpy()

    assert pair_ids(users, np.uint64([5])).tolist() == pairs.ids.tolist()
    np.testing.assert_allclose(pairs.vectors, expected, atol=1e-6)


def test_a_model_without_sides_is_refused(run, tmp_path):
    """An extractor that is pointed at a din must say what to train instead."""
    said = settings()
    other = build_training(config(features=FEATURES), None, tmp_path)

    with pytest.raises(NotKeep, match='model = "keep"'):
        extract(run.schema, said.state, other.learner, run.view, said.extractor)


def test_a_field_that_events_lack_is_refused(tmp_path):
    """A spelling mistake must not be a category that nobody has."""
    with pytest.raises(ConfigError, match=r"put it into features\.ids"):
        Run(settings(category="sektion"), tmp_path)


def test_a_run_that_gives_knowledge_takes_none():
    """Its store is where it writes; plugged into itself it would read its own past."""
    with pytest.raises(ConfigError, match='plug = "none"'):
        config(features=FEATURES, model=MODEL, knowledge={"store": "somewhere"})

    assert config(model=MODEL, knowledge={"store": "x", "plug": "none"}).extracts


def test_only_what_decides_the_network_decides_the_run():
    """How often is extracted may change under a run that goes on; what it learns may not."""
    digest = settings().digest()

    assert digest == settings(refresh_every_s=60, active_h=5, clusters=7).digest()
    assert digest != settings(width=7).digest()
    assert config().digest() == config(extractor={"width": 9}).digest()


@pytest.mark.data
@pytest.mark.slow
def test_the_super_domain_is_learned_from_a_week_of_real_news(real_data: Path, tmp_path) -> None:
    """Vectors can know no more than the model they are from: it must be a good one."""
    said = load(Path(__file__).resolve().parents[2] / "examples" / "ebnerd-superdomain.toml")
    over = opener(said, [real_data / "ebnerd_week1_events.parquet"])(event_schema(said), Position())
    ingest = build_ingest(said, over.partitions, tmp_path, view_every_s=6 * 3600)
    training = build_training(said, None, tmp_path)
    found = []

    def look(view: View, training) -> None:
        schema = feature_schema(said)
        found.append(extract(schema, said.state, training.learner, view, said.extractor))

    def items():
        for block in over:
            yield from ingest.feed(block)
        yield from ingest.finish()

    train(items(), training, _nothing, _nothing, look)

    summary = training.metrics.summary({0: "", **ingest.names})
    assert 278_139 == summary["examples"]
    assert summary["by_scene"]["article_page"]["auc_request"] >= 0.755  # of items up to 10 min ago
    assert 28 == len(found)
    assert all(np.isfinite(kind.vectors).all() for kind in found[-1].kinds.values())
