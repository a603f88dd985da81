"""What a switch of generations does to a network that has learned to read the one before."""

import numpy as np
import pytest

from knowledge_store.store import KnowledgeStore
from networks.plug_config import PlugConfig
from networks.shape import ModelShape
from tests.extractor.sites import WIDTH, Site, refresher
from trainer.batch import Batch
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig

ROWS, BATCHES = 512, 250
SHAPE = ModelShape(
    id_fields=("user", "item"),
    sequences=(),
    sequence_targets=(),
    numbers=("noise",),
    embedding_width=4,
    knowledge=(("user", WIDTH), ("item", WIDTH)),
)


class Traffic:
    """Impressions of a site, with what a generation knows of them."""

    def __init__(self, site, store, seed):
        rng = np.random.default_rng(seed)
        self._store = store
        self._users = rng.integers(len(site.users), size=ROWS)
        self._items = rng.integers(len(site.items), size=ROWS)
        taste = np.random.default_rng(5).normal(size=(2, WIDTH)) / 2  # the scene's own
        logit = site.users[self._users] @ taste[0] + site.items[self._items] @ taste[1]
        self.labels = (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.float32)
        self._ids = {"user": site.user_ids[self._users], "item": site.item_ids[self._items]}
        self._noise = rng.normal(size=(ROWS, 1)).astype(np.float32)

    def batch(self, reader, turned=None):
        """Return the batch with the vectors of a generation, all ``turned`` or as they are."""
        found = {k: reader.get_many(k, ids, 1 << 40) for k, ids in self._ids.items()}
        turned = np.eye(WIDTH) if turned is None else turned
        vectors = [each.values @ turned for each in found.values()]
        return Batch(
            rows=np.zeros((ROWS, 2), np.int64),  # it knows of users and items by their vectors only
            sequences=np.zeros((ROWS, 0), np.int64),
            numbers=self._noise,
            label=self.labels,
            request=np.arange(ROWS, dtype=np.uint64),
            fresh=ROWS,
            knowledge=np.concatenate(vectors, axis=1).astype(np.float32),
            known=np.stack([found[k].present for k in found], axis=1),
        )


def log_loss(learner, batches):
    """Return the mean log loss of what a learner says of batches."""
    losses = []
    for batch in batches:
        p = learner.score(batch).astype(np.float64)
        losses.append(-np.mean(np.where(batch.label > 0, np.log(p), np.log1p(-p))))
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def plugged(tmp_path_factory):
    """Return a site, its store with one generation, and a network that has learned to read it."""
    site = Site(users=400, items=150)
    store = KnowledgeStore(tmp_path_factory.mktemp("site") / "store", create=True)
    refresher(store).refresh(site.extraction(1_000, noise=0.02))
    config = LearnerConfig(
        model="mlp", hidden=(48,), embedding_width=4, learning_rate=0.01, listwise=0.0
    )
    plug = PlugConfig(kinds=("user", "item"))
    learner = Learner(config, SHAPE, max_rows=8, seed=0, plug=plug)
    with store.reader("g-00000001") as reader:
        for step in range(BATCHES):
            learner.learn(Traffic(site, store, step).batch(reader))
        later = [Traffic(site, store, 10_000 + n) for n in range(8)]
        before = log_loss(learner, [each.batch(reader) for each in later])
    click = np.mean(np.concatenate([each.labels for each in later]))
    blind = -(click * np.log(click) + (1 - click) * np.log(1 - click))
    assert before < 0.9 * blind  # it does read them
    return site, store, learner, later, before


@pytest.mark.parametrize("model", [1, 2])
def test_an_aligned_switch_has_a_tenth_of_an_unaligned_ones_jump(plugged, tmp_path, model):
    """A model that was trained anew is another space: unaligned, networks read noise in it."""
    site, store, learner, later, before = plugged
    apart = KnowledgeStore(tmp_path / "apart", create=True)
    found = site.extraction(1_000 + model, model=model, noise=0.02)
    refresher(apart).refresh(found)  # a first generation, of its own space
    aligned = refresher(store).refresh(found).manifest

    with apart.reader("g-00000001") as reader:
        unaligned_jump = log_loss(learner, [each.batch(reader) for each in later]) - before
    with store.reader(aligned.name) as reader:
        aligned_jump = log_loss(learner, [each.batch(reader) for each in later]) - before

    assert unaligned_jump > 0.05
    assert abs(aligned_jump) < 0.1 * unaligned_jump


def test_a_turned_space_alone_makes_the_jump(plugged):
    """Nothing is forgotten by a rotation, and a network cannot read what it has turned."""
    _, store, learner, later, before = plugged
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]

    with store.reader("g-00000001") as reader:
        batches = [each.batch(reader, turn) for each in later]

    assert log_loss(learner, batches) - before > 0.05
