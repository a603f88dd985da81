from dataclasses import replace

import numpy as np
import pytest
import torch

from networks.shape import ModelShape
from trainer.batch import Batch
from trainer.errors import TrainingDiverged
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig
from trainer.models import SHIPPED

SHAPE = ModelShape(
    id_fields=("user", "item"),
    sequences=(("clicked", 4), ("seen", 2)),
    sequence_targets=(1, 1),
    numbers=("ctr", "age", "hour"),
    embedding_width=8,
)
CONFIG = LearnerConfig(hidden=(16, 8), embedding_width=8, learning_rate=0.01)
ROWS = 100


def batch(seed=0, examples=64, fresh=None):
    """Return examples whose label is a function of the item."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, ROWS + 1, (examples, 2))
    return Batch(
        rows=rows,
        sequences=rng.integers(0, ROWS + 1, (examples, 6)),
        numbers=rng.normal(5, 3, (examples, 3)).astype(np.float32),
        label=(rows[:, 1] % 3 == 0).astype(np.float32),
        request=np.repeat(np.arange(1, examples // 4 + 1, dtype=np.uint64), 4),
        fresh=examples if fresh is None else fresh,
    )


def learner(config=CONFIG, seed=0):
    """Return a learner all of whose rows hold ids."""
    made = Learner(config, SHAPE, max_rows=ROWS, seed=seed)
    made.reset_rows(np.arange(1, ROWS + 1), np.arange(1, ROWS + 1, dtype=np.uint64))
    return made


def taught(steps=5, **options):
    """Return a learner that has learned some batches."""
    made = learner(**options)
    for step in range(steps):
        made.learn(batch(step))
    return made


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("backend", ["fbgemm", "torch"])
def test_learn_returns_what_score_said_before_it(model, backend):
    """Prequential metrics are honest only if no label has touched the scores they count."""
    made = learner(replace(CONFIG, model=model, embedding_backend=backend, listwise=1.0))
    for step in range(4):
        each = batch(step, fresh=48)
        scored = made.score(each)

        np.testing.assert_array_equal(scored[:48], made.learn(each))


def test_rehearsed_examples_are_learned_but_not_scored():
    """They were scored when they were new; learning them again must still move the weights."""
    one, two = learner(), learner()
    each = batch(fresh=16)
    scores = one.learn(each)
    two.learn(replace(each, label=np.concatenate([each.label[:16], 1 - each.label[16:]])))

    assert scores.shape == (16,)
    assert one.weights_digest() != two.weights_digest()


def test_rehearsed_numbers_do_not_count_twice_in_the_norm():
    """The running mean is of the stream; rehearsal would weigh the recent past again and again."""
    made = learner()
    made.learn(batch(fresh=16))

    assert made.norm.count_D.tolist() == [16.0] * 3


@pytest.mark.parametrize("backend", ["fbgemm", "torch"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_repeats_bit_for_bit(backend, threads):
    """The same seed and batches give the same weights, on two threads too."""
    config = replace(CONFIG, embedding_backend=backend, threads=threads, listwise=1.0)
    digests = set()
    for _ in range(3):
        made = learner(config)
        for step in range(3):
            made.learn(batch(step, examples=4096))
        digests.add(made.weights_digest())

    assert len(digests) == 1


def test_another_seed_is_another_model():
    """Spread over seeds is measured by it."""
    assert learner(seed=0).weights_digest() != learner(seed=1).weights_digest()


@pytest.mark.parametrize("backend", ["fbgemm", "torch"])
@pytest.mark.parametrize("steps", [0, 5])
def test_restoring_continues_bit_for_bit(backend, steps):
    """A restart changes nothing: weights, both optimisers and the norm come back as they were."""
    config = replace(CONFIG, embedding_backend=backend, weight_decay=0.01)
    made = taught(steps, config=config)
    restored = taught(3, config=config, seed=9)
    restored.restore(made.state())

    assert made.weights_digest() == restored.weights_digest()
    for step in range(5, 10):
        np.testing.assert_array_equal(made.learn(batch(step)), restored.learn(batch(step)))
    assert made.weights_digest() == restored.weights_digest()
    assert made.steps == restored.steps == steps + 5


def test_a_state_stays_as_it_is_while_learning_goes_on():
    """A checkpoint is written while the next batches are learned."""
    made = taught()
    state = made.state()
    restored = learner()
    digest = made.weights_digest()
    made.learn(batch(9))
    restored.restore(state)
    restored.learn(batch(9))
    restored.restore(state)  # and restoring must not tie the model to the state's arrays

    assert digest == restored.weights_digest() != made.weights_digest()


@pytest.mark.parametrize("part", ["dense", "adam", "norm", "table"])
def test_the_digest_sees_every_part(part):
    """Two runs are proven equal by it: a difference anywhere must show."""
    made = taught()
    state = made.state()
    arrays = state[part]
    while isinstance(arrays, dict):
        arrays = arrays[max(arrays)]
    arrays.reshape(-1)[-1:] += 1
    digest = made.weights_digest()
    made.restore(state)

    assert digest != made.weights_digest()


def test_it_learns():
    """Items are clicked or not, always the same: the log loss must fall far below the rate's."""
    made = learner(replace(CONFIG, embedding_learning_rate=0.1))
    for step in range(150):
        made.learn(batch(step))
    fresh = batch(999, examples=512)
    p = made.score(fresh).astype(np.float64)
    loss = -np.mean(np.log(np.where(fresh.label > 0, p, 1 - p)))

    assert loss < 0.3  # of 0.64 for the rate alone


def test_the_listwise_term_orders_within_the_request():
    """It is there to be asked for: with it, the weights go another way."""
    assert (
        taught().weights_digest() != taught(config=replace(CONFIG, listwise=1.0)).weights_digest()
    )


def test_what_a_row_learns_does_not_depend_on_the_size_of_its_batch():
    """Rows get the gradient of the sum: an example repeated in no other row moves its rows alike.

    Adagrad's first step hides the scale, so the accumulators are compared.
    """
    one = batch(examples=1)
    one = replace(one, rows=np.array([[1, 2]]), sequences=np.zeros((1, 6), np.int64))
    rest = batch(7, examples=63)
    rest = replace(rest, rows=np.maximum(rest.rows, 3), sequences=np.zeros((63, 6), np.int64))
    both = Batch(
        **{
            name: np.concatenate([getattr(one, name), getattr(rest, name)])
            for name in ("rows", "sequences", "numbers", "label", "request")
        },
        fresh=64,
    )
    alone, together = learner(), learner()
    alone.learn(one)
    together.learn(both)

    np.testing.assert_allclose(
        alone.table.accumulator[1:3], together.table.accumulator[1:3], rtol=1e-4
    )


def test_a_reset_row_begins_anew():
    """An evicted id must leave nothing to the id that inherits its row."""
    made, fresh = taught(), learner()
    made.reset_rows(np.array([5]), np.array([5], np.uint64))

    np.testing.assert_array_equal(fresh.table.weights[5], made.table.weights[5])


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_model():
    """The last checkpoint, or even this model, must stay usable."""
    made = taught()
    digest = made.weights_digest()
    spoiled = replace(batch(), label=np.full(64, np.nan, np.float32))

    with pytest.raises(TrainingDiverged, match="loss of step 5 is nan"):
        made.learn(spoiled)
    assert digest == made.weights_digest()


def test_gradients_are_clipped_to_their_norm():
    """One absurd batch must not throw the dense weights far away."""
    made = learner(replace(CONFIG, clip_norm=1e-3))
    made.learn(batch())
    norm = torch.nn.utils.get_total_norm([w.grad for w in made.network.parameters()])

    assert abs(norm.item() - 1e-3) < 1e-6


def test_read_only_columns_are_taken():
    """Columns that come from Arrow or a memory map may not be written to."""
    each = batch()
    for name in ("rows", "sequences", "numbers", "label", "request"):
        getattr(each, name).flags.writeable = False

    np.testing.assert_array_equal(learner().learn(batch()), learner().learn(each))


def test_one_example_and_none_can_be_scored():
    """A server may ask about a single item; a moment may bring none."""
    made = taught()

    assert made.score(batch(examples=1)).shape == (1,)
    assert made.score(batch(examples=0)).shape == (0,)


def test_building_a_model_leaves_torchs_generator_alone():
    """What else is random in the process must not depend on whether a model was built."""
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    learner()

    assert expected == torch.rand(())


def test_a_shape_of_another_width_is_refused():
    """It would fail later, deep in a matrix product."""
    with pytest.raises(ValueError, match="embedding width 8 is not the configured 16"):
        Learner(LearnerConfig(), SHAPE, max_rows=ROWS, seed=0)


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"hidden": (8, 0)}, {"listwise": -1.0}, {"clip_norm": 0.0}]
)
def test_a_configuration_without_sense_is_refused(wrong):
    """At start, where the user is still looking."""
    with pytest.raises(ValueError, match="must be"):
        LearnerConfig(**wrong)
