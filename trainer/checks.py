"""What every model must keep, as checks that anyone may run on a model of their own.

>>> from networks.mlp import Mlp
>>> check_model(Mlp)
"""

import gc
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from torch import Tensor

from networks.plug import find_tower
from networks.plug_config import PlugConfig, PlugError
from networks.shape import ModelShape
from stream.state import State, flatten
from trainer.batch import Batch
from trainer.errors import TrainingDiverged
from trainer.learner import F32, Learner
from trainer.learner_config import LearnerConfig
from trainer.models import ModelFactory

ROWS: Final = 60
CONFIG: Final = LearnerConfig(hidden=(16, 8), embedding_width=8, learning_rate=0.01, listwise=0.5)

SHAPES: Final = {
    "everything": ModelShape(
        id_fields=("user", "item", "scene"),
        sequences=(("clicked", 5), ("seen", 3)),
        sequence_targets=(1, None),
        numbers=("ctr", "age"),
        embedding_width=8,
    ),
    "ids only": ModelShape(
        id_fields=("user", "item"), sequences=(), sequence_targets=(), numbers=(), embedding_width=8
    ),
    "numbers only": ModelShape(
        id_fields=(), sequences=(), sequence_targets=(), numbers=("ctr",), embedding_width=8
    ),
    "a sequence only": ModelShape(
        id_fields=(),
        sequences=(("clicked", 4),),
        sequence_targets=(None,),
        numbers=(),
        embedding_width=8,
    ),
}

KNOWING: Final = replace(SHAPES["everything"], knowledge=(("user", 6), ("item", 6)))


class CheckFailed(AssertionError):
    """A model does not keep what every model must."""

    def __init__(self, check: str, fact: str, move: str) -> None:
        super().__init__(f"{check}: {fact}. {move}")
        self.check = check


def check_model(factory: ModelFactory) -> None:
    """Run every check on the models that ``factory`` builds.

    Raises:
        CheckFailed: the first promise that is not kept, by the name of its check.
        ModelError: the factory builds no model at all for one of `SHAPES`.

    """
    for check in CHECKS:
        check(factory)


def check_scoring_changes_nothing(factory: ModelFactory) -> None:
    """Ask for scores any number of times between two steps."""
    for name, shape in SHAPES.items():
        learner = _learner(factory, shape)
        batch = sample_batch(shape)
        before = _digest(learner)
        first, second = learner.score(batch), learner.score(batch)
        _require(
            np.array_equal(first, second) and before == _digest(learner),
            check_scoring_changes_nothing,
            f"with {name}, scoring changed the model or the next scores",
            "A model has no mode for training: take out dropout, batch statistics and counters.",
        )


def check_learning_returns_what_scoring_said(factory: ModelFactory) -> None:
    """Report from `learn` the scores from before its step, or metrics would flatter."""
    for name, shape in SHAPES.items():
        learner = _learner(factory, shape)
        for step in range(3):
            batch = sample_batch(shape, seed=step)
            scored = learner.score(batch)[: batch.fresh]
            _require(
                np.array_equal(scored, learner.learn(batch)),
                check_learning_returns_what_scoring_said,
                f"with {name}, the scores of score() and learn() differ",
                "forward() must not depend on whether gradients are on, nor on chance.",
            )


def check_same_seed_same_weights(factory: ModelFactory) -> None:
    """Repeat a run, bit for bit."""
    for name, shape in SHAPES.items():
        digests = [_digest(_taught(factory, shape)) for _ in range(2)]
        _require(
            digests[0] == digests[1],
            check_same_seed_same_weights,
            f"with {name}, the same seed and batches gave other weights",
            "Draw first weights from torch's default generator, and nothing else from anywhere.",
        )


def check_batches_score_as_single_examples(factory: ModelFactory) -> None:
    """Score an example the same whatever its neighbours in the batch."""
    for name, shape in SHAPES.items():
        learner = _taught(factory, shape)
        batch = sample_batch(shape)
        singles = np.concatenate([learner.score(_take(batch, i)) for i in range(len(batch))])
        _require(
            np.allclose(learner.score(batch), singles, rtol=1e-4, atol=1e-6),
            check_batches_score_as_single_examples,
            f"with {name}, an example scored alone differs from the same in a batch",
            "forward() must treat rows one by one: no statistics over the batch.",
        )


def check_restores_and_continues(factory: ModelFactory) -> None:
    """Restart, and nothing changes: neither the scores at once nor the weights later."""
    for name, shape in SHAPES.items():
        learner = _taught(factory, shape)
        restored = _learner(factory, shape, seed=1)
        restored.restore(learner.state())
        batch = sample_batch(shape, seed=9)
        same = np.array_equal(learner.score(batch), restored.score(batch))
        learner.learn(batch)
        restored.learn(batch)
        _require(
            same and _digest(learner) == _digest(restored),
            check_restores_and_continues,
            f"with {name}, a model restored from its state scores or learns otherwise",
            "Keep all that matters in parameters and buffers.",
        )


def check_loss_goes_down(factory: ModelFactory) -> None:
    """Learn what is plainly there: low rows and high numbers are clicked."""
    for name, shape in SHAPES.items():
        learner = _learner(factory, shape)
        batch = sample_batch(shape, examples=256)
        rate = np.full_like(batch.label, batch.label.mean())  # who knows nothing else says this
        for _ in range(60):
            learner.learn(batch)
        rates, last = (_log_loss(p_B, batch.label) for p_B in (rate, learner.score(batch)))
        _require(
            last < 0.95 * rates,
            check_loss_goes_down,
            f"with {name}, 60 steps on one batch led to log loss {last:.4f}: its rate {rates:.4f}",
            "See that every input reaches the logit, and that gradients come back.",
        )


def check_absent_inputs_are_finite(factory: ModelFactory) -> None:
    """Take unknown users, empty histories and missing numbers: they are everyday input."""
    for name, shape in SHAPES.items():
        learner = _taught(factory, shape)
        full = sample_batch(shape)
        absent = replace(
            full,
            rows=np.zeros_like(full.rows),
            sequences=np.zeros_like(full.sequences),
            numbers=np.full_like(full.numbers, np.nan),
        )
        p_B = learner.score(absent)
        try:
            learner.learn(absent)
            finite = bool(np.isfinite([p_B, learner.score(full)]).all())
        except TrainingDiverged:
            finite = False
        _require(
            finite,
            check_absent_inputs_are_finite,
            f"with {name}, examples without any id, element or number score {p_B.min()} and do not "
            "learn to finite weights",
            "An absent input is a zero vector: never divide by a norm or a count that may be 0.",
        )


def check_memory_is_bounded(factory: ModelFactory) -> None:
    """Leave nothing behind after a step."""
    shape = SHAPES["everything"]  # one will do, for counting what lives takes long
    learner = _taught(factory, shape)
    before = _tensors_alive(), _bytes(learner.state())
    for step in range(10):
        learner.learn(sample_batch(shape, seed=step))
    after = _tensors_alive(), _bytes(learner.state())
    _require(
        after == before,
        check_memory_is_bounded,
        f"ten steps took (tensors, bytes of state) from {before} to {after}",
        "Keep no tensor of a batch on the model.",
    )


def check_state_is_plain(factory: ModelFactory) -> None:
    """Hold arrays and JSON in a checkpoint, never pickled objects."""
    for name, shape in SHAPES.items():
        arrays, rest = flatten(_taught(factory, shape).state())
        objects = [path for path, array in arrays.items() if array.dtype.hasobject]
        try:
            json.dumps(rest, allow_nan=False)
        except (TypeError, ValueError) as error:
            objects.append(str(error))
        _require(
            not objects,
            check_state_is_plain,
            f"with {name}, the state holds what is neither an array nor JSON: {objects}",
            "Let get_extra_state() return numbers, texts and tensors only.",
        )


def check_a_plug_changes_nothing_at_first(factory: ModelFactory) -> None:
    """Let knowledge be plugged into a running model: neither its scores nor its next step jump."""
    for mode, plug in _plugs(factory).items():
        bare = _taught(factory, KNOWING)
        plugged = _learner(factory, KNOWING, seed=1, plug=plug)
        plugged.restore(bare.state())
        batch = sample_batch(KNOWING, seed=9)
        same = np.array_equal(bare.score(batch), plugged.score(batch))
        for learner in (bare, plugged):
            learner.learn(batch)
        _require(
            same and _digest(bare) == _digest(_without_plug(factory, plugged)),
            check_a_plug_changes_nothing_at_first,
            f"with a plug {mode} at birth, the model scores or learns otherwise than without",
            "Leave hidden layers to networks.layers.Tower.",
        )


def check_missing_knowledge_says_nothing(factory: ModelFactory) -> None:
    """Score an example without vectors as a model does that never had a plug."""
    for mode, plug in _plugs(factory).items():
        plugged = _taught(factory, KNOWING, plug=plug)
        full = sample_batch(KNOWING, seed=9)
        assert full.knowledge is not None and full.known is not None
        missing = replace(
            full, knowledge=np.full_like(full.knowledge, np.nan), known=np.zeros_like(full.known)
        )
        bare = _without_plug(factory, plugged)
        _require(
            np.array_equal(bare.score(missing), plugged.score(missing)),
            check_missing_knowledge_says_nothing,
            f"with a plug {mode}, examples without vectors score otherwise than without a plug",
            "Leave hidden layers to networks.layers.Tower.",
        )
        _require(
            not np.array_equal(bare.score(full), plugged.score(full)),
            check_missing_knowledge_says_nothing,
            f"with a plug {mode}, 5 steps taught it nothing",
            "See that the tower reaches the logit, and that gradients come back.",
        )


def check_a_plug_restores_and_continues(factory: ModelFactory) -> None:
    """Restart with a plug, and nothing changes; and leave the vectors as they are."""
    for mode, plug in _plugs(factory).items():
        learner = _taught(factory, KNOWING, plug=plug)
        restored = _learner(factory, KNOWING, seed=1, plug=plug)
        restored.restore(learner.state())
        batch, fresh = (sample_batch(KNOWING, seed=9) for _ in range(2))
        same = np.array_equal(learner.learn(batch), restored.learn(batch))
        _require(
            same and _digest(learner) == _digest(restored),
            check_a_plug_restores_and_continues,
            f"with a plug {mode}, a model restored from its state scores or learns otherwise",
            "Keep all that matters in parameters and buffers.",
        )
        _require(
            bool(np.all(batch.knowledge == fresh.knowledge)),
            check_a_plug_restores_and_continues,
            f"with a plug {mode}, a step changed the vectors of its batch",
            "Knowledge is frozen: write into no input.",
        )


CHECKS: Final = (
    check_scoring_changes_nothing,
    check_learning_returns_what_scoring_said,
    check_same_seed_same_weights,
    check_batches_score_as_single_examples,
    check_restores_and_continues,
    check_loss_goes_down,
    check_absent_inputs_are_finite,
    check_memory_is_bounded,
    check_state_is_plain,
    check_a_plug_changes_nothing_at_first,
    check_missing_knowledge_says_nothing,
    check_a_plug_restores_and_continues,
)


def sample_batch(shape: ModelShape, *, examples: int = 24, seed: int = 0) -> Batch:
    """Return made-up examples with gaps; low rows and high numbers are clicked more often."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, ROWS + 1, (examples, len(shape.id_fields)))
    sequences = rng.integers(0, ROWS + 1, (examples, shape.sequence_width))
    numbers = rng.normal(3.0, 2.0, (examples, len(shape.numbers))).astype(np.float32)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    taste = np.concatenate([30 - rows, 30 - sequences, np.nan_to_num(numbers - 3) * 20], axis=1)
    label = taste.mean(1) > rng.normal(0.0, 1.0, examples)
    request = rng.integers(1, examples // 4 + 2, examples).astype(np.uint64)
    knowledge = rng.normal(0.0, 1.0, (examples, shape.knowledge_width)).astype(np.float16)
    known = rng.random((examples, len(shape.knowledge))) < 0.7
    return Batch(
        rows=rows,
        sequences=sequences,
        numbers=numbers,
        label=label.astype(np.float32),
        request=request,
        fresh=examples - examples // 6,
        knowledge=knowledge if shape.knowledge else None,
        known=known if shape.knowledge else None,
        actions=label.astype(np.uint8) * rng.integers(0, 256, examples, dtype=np.uint8),
    )


def _learner(
    factory: ModelFactory, shape: ModelShape, *, seed: int = 0, plug: PlugConfig | None = None
) -> Learner:
    learner = Learner(CONFIG, shape, max_rows=ROWS, seed=seed, factory=factory, plug=plug)
    learner.reset_rows(np.arange(1, ROWS + 1), np.arange(1, ROWS + 1, dtype=np.uint64))
    return learner


def _taught(factory: ModelFactory, shape: ModelShape, *, plug: PlugConfig | None = None) -> Learner:
    learner = _learner(factory, shape, plug=plug)
    for step in range(5):
        learner.learn(sample_batch(shape, seed=step))
    return learner


def _plugs(factory: ModelFactory) -> dict[str, PlugConfig]:
    """Return plugs to try at every layer: none where a model has no tower, as `Learner` says."""
    try:
        layers = range(len(find_tower(_learner(factory, KNOWING).network).layers))
    except PlugError:
        layers = range(0)
    about: dict[str, Any] = {"kinds": ("user", "item", "match"), "layers": tuple(layers)}
    return {mode: PlugConfig(mode=mode, **about) for mode in ("gated", "add") if layers}


def _without_plug(factory: ModelFactory, learner: Learner) -> Learner:
    bare = _learner(factory, KNOWING)
    bare.restore(learner.state())
    return bare


def _take(batch: Batch, i: int) -> Batch:
    one = slice(i, i + 1)
    columns = {n: c[one] for n, c in vars(batch).items() if isinstance(c, np.ndarray)}
    return replace(batch, **columns, fresh=1)


def _digest(learner: Learner) -> str:
    """Return the digest of weights and, beside them, whatever extra state the model declares."""
    _, rest = flatten(learner.state())
    return f"{learner.weights_digest()} {rest}"


def _log_loss(p: F32, label: F32) -> float:
    p64 = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.log(np.where(label > 0, p64, 1 - p64))))


def _tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def _bytes(state: State) -> int:
    arrays, rest = flatten(state)
    return sum(array.nbytes for array in arrays.values()) + _leaves(rest)


def _leaves(value: Any) -> int:
    """Return how many numbers and characters a JSON tree holds."""
    if isinstance(value, Mapping):
        return sum(_leaves(each) for each in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_leaves(each) for each in value)
    return len(value) if isinstance(value, str) else 1


def _require(kept: bool, check: Callable[[ModelFactory], None], fact: str, move: str) -> None:
    if not kept:
        raise CheckFailed(check.__name__, fact, move)
