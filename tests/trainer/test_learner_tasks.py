from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from networks.layers import flatten, mean_pools
from networks.mlp import Mlp
from networks.plug_config import PlugConfig
from tests.trainer.parts import equal
from trainer.checks import KNOWING, SHAPES, check_model, sample_batch
from trainer.errors import ModelError
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig

SHAPE = SHAPES["everything"]
CONFIG = LearnerConfig(hidden=(16,), embedding_width=8, learning_rate=0.01)
ROWS = 60


class Several(Mlp):
    """Three tasks over one tower."""

    tasks = 3

    def __init__(self, shape, *, hidden):
        super().__init__(shape, hidden=hidden)
        self.others = nn.Linear(self.tower.width, self.tasks - 1)

    def task_logits(self, inputs):
        """Return logit_BT."""
        h_BH = self.tower(flatten(inputs, mean_pools(inputs)))
        return torch.cat([self.top(h_BH), self.others(h_BH)], dim=1)

    def forward(self, inputs):
        """Return logit_B."""
        return self.task_logits(inputs)[:, 0]


def learner(factory=Several, shape=SHAPE, plug=None, **changes):
    """Return a learner all of whose rows hold ids."""
    config = replace(CONFIG, **changes)
    made = Learner(config, shape, max_rows=ROWS, seed=0, factory=factory, plug=plug)
    made.reset_rows(np.arange(1, ROWS + 1), np.arange(1, ROWS + 1, dtype=np.uint64))
    return made


def bits(seed=0, examples=256):
    """Return examples whose actions hang on the item: bit 1 on its parity, bit 2 on its size."""
    batch = sample_batch(SHAPE, seed=seed, examples=examples)
    item = batch.rows[:, 1]
    actions = batch.label.astype(np.uint8) + 2 * (item % 2) + 4 * (item > 30) + 8
    return replace(batch, actions=actions.astype(np.uint8))


def test_a_model_of_several_tasks_keeps_every_check():
    """It is a model like any other: scored by its first task."""
    check_model(Several)


def test_other_tasks_learn_their_bit_of_the_actions():
    """Column t is about bit t, whatever the click says."""
    made = learner(embedding_learning_rate=0.1)
    for step in range(120):
        made.learn(bits(step))
    batch = bits(999)
    with torch.no_grad():
        _, logit_BT = made._logits(batch)
    expected = batch.actions[:, None] >> np.array([1, 2]) & 1

    assert (0.9 < np.mean((logit_BT.numpy() > 0) == expected, axis=0)).all()


def test_without_weight_other_tasks_teach_nothing():
    """The weight is what they count: at 0 the shared weights are those of the click alone."""
    alone, none, some = learner(Mlp), learner(task_weight=0.0), learner()
    for step in range(3):
        scores = [made.learn(bits(step)) for made in (alone, none, some)]
    shared = [made.state()["dense"]["tower.layers.0.weight"] for made in (alone, none, some)]

    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5)
    np.testing.assert_allclose(shared[0], shared[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(shared[0], shared[2], rtol=1e-4, atol=1e-6)


def test_each_task_starts_from_its_own_rate():
    """A purchase is a hundred times rarer than a click: its head need not learn that by steps."""
    made = learner()
    for step in range(3):
        made.learn(bits(step))
    fresh = [bits(step).actions[: bits(step).fresh] for step in range(3)]
    shown = sum(map(len, fresh)) + 20

    clicks = [1 + sum(int((a >> t & 1).sum()) for a in fresh) for t in (1, 2)]

    assert [(c, shown) for c in clicks] == [(r.clicks, r.shown) for r in made.task_rates]


def test_a_restart_changes_nothing():
    """Rates of the tasks are state, too."""
    made, other = learner(), learner()
    for step in range(3):
        made.learn(bits(step))
    other.restore(made.state())
    for each in (made, other):
        each.learn(bits(9))

    assert equal(made.state(), other.state())


def test_a_plug_reaches_every_task():
    """Knowledge is added before the tasks part."""
    made = learner(shape=KNOWING, plug=PlugConfig())
    made.learn(sample_batch(KNOWING))

    assert made.plug.layers["0"].of["user_WH"].count_nonzero()


def test_examples_without_actions_are_refused_before_anything_is_learned():
    """Silence about an action is not its absence."""
    made = learner()
    digest = made.weights_digest()

    with pytest.raises(ValueError, match=r"give Batch\.actions"):
        made.learn(replace(bits(), actions=None))
    assert digest == made.weights_digest()


class Silent(Several):
    """Says it has tasks and answers one."""

    task_logits = None

    def forward(self, inputs):
        """Return logit_B."""
        return Mlp.forward(self, inputs)


class Crossed(Several):
    """Answers with another task than its first."""

    def forward(self, inputs):
        """Return logit_B."""
        return self.task_logits(inputs)[:, 1]


class Many(Several):
    """Has more tasks than there are bits."""

    tasks = 9


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (Silent, r"no task_logits\(inputs\) that gives 2 examples \(2, 3\)"),
        (Crossed, "column 0 of task_logits"),
        (Many, "has 9 tasks, and events tell 8 actions apart"),
    ],
)
def test_a_model_whose_tasks_do_not_fit_is_refused(factory, said):
    """Before it learns the wrong bit for the click."""
    with pytest.raises(ModelError, match=said):
        learner(factory)
