from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from networks.layers import Tower, flatten, mean_pools
from networks.mlp import Mlp
from networks.plug_config import PlugConfig
from networks.shape import ModelShape
from tests.trainer.parts import equal
from trainer.checks import sample_batch
from trainer.errors import ModelError
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig
from trainer.models import SHIPPED

KNOWLEDGE = (("user", 6), ("item", 6), ("topic", 3))
SHAPE = ModelShape(
    id_fields=("user", "item"),
    sequences=(("clicked", 4), ("seen", 2)),
    sequence_targets=(1, None),
    numbers=("ctr", "age"),
    embedding_width=8,
    knowledge=KNOWLEDGE,
)
BARE = replace(SHAPE, knowledge=())
CONFIG = LearnerConfig(
    hidden=(16, 8),
    embedding_width=8,
    embedding_backend="torch",
    learning_rate=0.01,
    listwise=0.5,
    clip_norm=0.05,  # clips: and a plug's gradient must not clip the model's
)
ROWS = 60
PLUGS = {
    "gated": PlugConfig(),
    "a gate a kind": PlugConfig(gates="kind"),
    "a gate a unit": PlugConfig(gates="kind", gate="vector", gate_rank=4),
    "add": PlugConfig(mode="add"),
}


def learner(plug=None, *, seed=0, shape=SHAPE, factory=None, **changes):
    """Return a learner all of whose rows hold ids."""
    config = replace(CONFIG, **changes)
    made = Learner(config, shape, max_rows=ROWS, seed=seed, factory=factory, plug=plug)
    made.reset_rows(np.arange(1, ROWS + 1), np.arange(1, ROWS + 1, dtype=np.uint64))
    return made


def taught(plug=None, steps=5, **options):
    """Return a learner that has learned some batches."""
    made = learner(plug, **options)
    for step in range(steps):
        made.learn(sample_batch(made.shape, seed=step))
    return made


def restored(state, plug=None, **options):
    """Return a learner that goes on from a state."""
    made = learner(plug, seed=7, **options)
    made.restore(state)
    return made


def rest(made):
    """Return all of a learner's state but its plug's."""
    return {name: part for name, part in made.state().items() if name != "plug"}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("model", SHIPPED)
def test_a_plug_added_to_a_trained_model_is_neutral_to_the_bit(model, layer):
    """Neither scores nor the other weights' next step may jump, whatever is plugged where."""
    before = taught(model=model)
    batch = sample_batch(SHAPE, seed=9)
    state, scores = before.state(), before.score(batch)
    before.learn(batch)
    for plug in PLUGS.values():
        for kinds in [("user",), ("item",), ("topic",), ("match",), ()]:
            made = restored(state, replace(plug, layers=(layer,), kinds=kinds), model=model)
            assert equal(state, rest(made))
            np.testing.assert_array_equal(scores, made.score(batch))

            made.learn(batch)

            assert equal(before.state(), rest(made))


@pytest.mark.parametrize("plug", PLUGS.values(), ids=PLUGS)
def test_a_plug_learns_once_it_is_added_and_what_it_learned_can_be_taken_away(plug):
    """Removal leaves the model that learned beside it, as a state without a plug."""
    made = restored(taught().state(), plug)
    for step in range(5, 10):
        made.learn(sample_batch(SHAPE, seed=step))
    projections = [w for name, w in made.plug.named_parameters() if ".of." in name]
    bare = restored(made.state())
    batch = sample_batch(SHAPE, seed=10)

    assert all(w.count_nonzero() for w in projections)
    assert equal(rest(made), bare.state())
    assert not np.array_equal(made.score(batch), bare.score(batch))


@pytest.mark.parametrize("plug", PLUGS.values(), ids=PLUGS)
def test_a_plug_taken_away_at_once_was_never_there(plug):
    """Trying it costs nothing."""
    before = taught()

    again = restored(restored(before.state(), plug).state())

    assert equal(before.state(), again.state())


@pytest.mark.parametrize("plug", PLUGS.values(), ids=PLUGS)
@pytest.mark.parametrize("model", SHIPPED)
def test_missing_vectors_teach_as_if_there_were_no_plug(model, plug):
    """Not a bit of the model may move otherwise, whatever stands in the missing vectors' place."""
    made, bare = (restored(taught(plug, model=model).state(), p, model=model) for p in (plug, None))
    for step in range(5, 8):
        batch = sample_batch(SHAPE, seed=step)
        batch.known[...] = False
        batch.knowledge[...] = np.nan
        np.testing.assert_array_equal(bare.learn(batch), made.learn(batch))

    assert equal(bare.state(), rest(made))


def test_examples_that_carry_knowledge_nobody_uses_change_nothing():
    """The arm without a plug is the model as it always was."""
    made, bare = taught(), taught(shape=BARE, steps=0)
    none = taught(PlugConfig(mode="none"))
    for step in range(5):
        bare.learn(replace(sample_batch(SHAPE, seed=step), knowledge=None, known=None))

    assert bare.weights_digest() == made.weights_digest() == none.weights_digest()


@pytest.mark.parametrize("plug", PLUGS.values(), ids=PLUGS)
def test_a_kind_added_later_leaves_what_others_have_learned(plug):
    """The store grows by a kind: only that one begins anew, and neutral; moments stay, too."""
    old = taught(replace(plug, kinds=("user",)))
    new = restored(old.state(), replace(plug, kinds=("user", "topic")))
    before, after = (made.state()["plug"] for made in (old, new))
    batch = sample_batch(SHAPE, seed=9)

    for part in ("weights", "adam"):
        assert before[part].keys() <= after[part].keys()
        assert all(equal(each, after[part][name]) for name, each in before[part].items())
    np.testing.assert_allclose(old.score(batch), new.score(batch), rtol=1e-6)
    new.learn(batch)


def test_restoring_a_state_before_the_plug_forgets_what_a_plug_has_learned():
    """A resumed run must be the one that was interrupted, whatever this process learned since."""
    state, plug = taught().state(), PLUGS["gated"]
    made, fresh = restored(state, plug), restored(state, plug)
    made.learn(sample_batch(SHAPE, seed=9))
    made.restore(state)

    assert fresh.weights_digest() == made.weights_digest()


def told(seed, examples=256):
    """Return examples that knowledge alone tells apart: of those who have it."""
    batch = sample_batch(SHAPE, seed=seed, examples=examples)
    known, k = batch.known[:, 0], batch.knowledge[:, 0].astype(np.float32)
    return replace(batch, label=((k > 0) & known).astype(np.float32))


@pytest.mark.parametrize(
    "plug", [*PLUGS.values(), PlugConfig(mode="concat")], ids=[*PLUGS, "concat"]
)
@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_every_way_learns_what_only_knowledge_tells(plug, layers):
    """A plug that is neutral for ever would pass all the tests above."""
    losses = []
    for way in (None, replace(plug, layers=layers)):
        made = learner(way, clip_norm=None, listwise=0.0, learning_rate=0.02)
        for step in range(120):
            made.learn(told(step))
        batch = told(999, 1024)
        p = made.score(batch).astype(np.float64)
        losses.append(-np.mean(np.log(np.where(batch.label > 0, p, 1 - p))))

    assert losses[1] < 0.5 * losses[0]


def test_concatenated_vectors_widen_the_model_and_are_not_standardised():
    """It is the usual way, to be compared with: a model of another shape."""
    made = taught(PlugConfig(mode="concat", kinds=("user", "match")))

    assert made.plug is None
    assert BARE.flat_width + 12 + 3 == made.network.tower.layers[0].in_features
    assert 2 == made.norm.count_D.numel()
    with pytest.raises(ModelError, match="does not fit this one"):
        made.adopt(taught().state())


@pytest.mark.parametrize("mode", ["gated", "concat"])
def test_a_batch_without_the_knowledge_it_should_carry_is_refused(mode):
    """Examples that lose it on their way would be learned as if all were missing."""
    made = learner(PlugConfig(mode=mode))
    batch = sample_batch(SHAPE)

    for wrong in ({"knowledge": None}, {"known": None}, {"knowledge": batch.knowledge[:, 1:]}):
        with pytest.raises(ValueError, match="come without the knowledge"):
            made.score(replace(batch, **wrong))


def test_vectors_of_either_width_of_float_are_taken_and_left_as_they_are():
    """They are the store's, and waiting rows': nobody's to write to."""
    made = learner(PLUGS["gated"])
    batch = sample_batch(SHAPE)
    batch.knowledge.flags.writeable = batch.known.flags.writeable = False
    wide = replace(batch, knowledge=batch.knowledge.astype(np.float32))
    before = wide.knowledge.copy()

    np.testing.assert_array_equal(made.score(batch)[: batch.fresh], made.learn(wide))
    np.testing.assert_array_equal(before, wide.knowledge)


class Plain(nn.Module):
    """Has hidden layers of its own kind."""

    def __init__(self, shape, *, hidden):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(shape.flat_width, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], 1)
        )

    def forward(self, inputs):
        """Return logit_B."""
        return self.layers(flatten(inputs, mean_pools(inputs))).squeeze(1)


class Twins(Mlp):
    """Has two towers, neither called `tower`."""

    def __init__(self, shape, *, hidden):
        super().__init__(shape, hidden=hidden)
        self.left, self.right = self.tower, Tower(shape.flat_width, hidden)
        del self.tower

    def forward(self, inputs):
        """Return logit_B."""
        return self.top(self.left(flatten(inputs, mean_pools(inputs)))).squeeze(1)


class Around(Mlp):
    """Goes around its tower's hidden layers."""

    def forward(self, inputs):
        """Return logit_B."""
        x_BX = flatten(inputs, mean_pools(inputs))
        for layer in self.tower.layers:
            x_BX = torch.relu(layer(x_BX))
        return self.top(x_BX).squeeze(1)


class Elements(Mlp):
    """Sends each example through its tower several times over."""

    def forward(self, inputs):
        """Return logit_B."""
        x_BX = flatten(inputs, mean_pools(inputs))
        return self.top(self.tower(x_BX.repeat(3, 1)))[: len(inputs)].squeeze(1)


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        (Plain, r'no networks\.layers\.Tower.*or plug "concat" or "none"'),
        (Twins, "2 networks.layers.Tower: call the one that knowledge is added to `tower`"),
        (Around, r"hidden layers \[1\] of its Tower were not passed through"),
        (Elements, "not given one row an example"),
    ],
)
def test_a_model_that_takes_no_plug_says_what_to_do(factory, said):
    """A plug that is never reached would look like knowledge that is of no use."""
    learner(factory=factory)
    learner(PlugConfig(mode="concat"), factory=factory)

    with pytest.raises(ModelError, match=said):
        learner(PLUGS["gated"], factory=factory)


@pytest.mark.parametrize("mode", ["gated", "concat"])
def test_a_kind_that_examples_do_not_carry_is_refused_by_name(mode):
    """At start: the error is the model's, as the command line knows it."""
    with pytest.raises(ModelError, match="'users' is not with the examples"):
        learner(PlugConfig(mode=mode, kinds=("users",)))


@pytest.mark.parametrize("plug", [None, PLUGS["gated"]])
def test_adopting_begins_at_step_0_with_all_that_another_run_has_learned(plug):
    """Fine-tuning, to compare with: the first scores are the other run's, and so is what moves."""
    other, made = taught(), learner(plug, seed=3)
    made.adopt(other.state())
    batch = sample_batch(SHAPE, seed=9)

    assert (0, 5) == (made.steps, other.steps)
    np.testing.assert_array_equal(other.learn(batch), made.learn(batch))
    assert equal({**other.state(), "steps": 1}, rest(made))


@pytest.mark.parametrize("changes", [{"model": "din"}, {"hidden": (16, 9)}])
def test_adopting_from_another_model_is_refused(changes):
    """Half a model taken over would be worse than none."""
    with pytest.raises(ModelError, match="does not fit this one"):
        learner(model="mlp").adopt(taught(**{"model": "mlp", **changes}).state())
