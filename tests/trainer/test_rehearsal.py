import numpy as np

from trainer.rehearsal import COLUMNS, Rehearsal, RehearsalConfig


def _batch(number: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]  # any column
    return {name: np.full(3, number) for name in COLUMNS}


def test_the_same_seed_draws_the_same_past_after_a_restart() -> None:
    """What is rehearsed decides the weights: it must survive a kill."""
    config = RehearsalConfig(batches=2, keep=5)
    whole, first = Rehearsal(config, seed=3), Rehearsal(config, seed=3)
    drawn = []
    for i in range(20):
        drawn.append(whole.draw())
        whole.keep(_batch(i))
    again = []
    for i in range(20):
        if i in (0, 11):
            resumed = Rehearsal(config, seed=3)
            resumed.restore(first.state())
            first = resumed
        again.append(first.draw())
        first.keep(_batch(i))

    assert [None if d is None else d["label"].tolist() for d in drawn] == [
        None if d is None else d["label"].tolist() for d in again
    ]


def test_only_the_recent_past_is_rehearsed() -> None:
    """The memory is bounded, and old traffic is not what the model is for."""
    rehearsal = Rehearsal(RehearsalConfig(batches=3, keep=4), seed=0)
    for i in range(50):
        rehearsal.draw()
        rehearsal.keep(_batch(i))
    drawn = rehearsal.draw()

    assert drawn is not None
    assert set(drawn["label"].tolist()) <= {46, 47, 48, 49}
    assert 9 == len(drawn["label"])


def test_no_rehearsal_costs_nothing() -> None:
    """By default each example is learned once."""
    rehearsal = Rehearsal(RehearsalConfig(), seed=0)
    rehearsal.keep(_batch(1))

    assert None is rehearsal.draw()
    assert {"step": 0, "lengths": []} == {**rehearsal.state(), "step": 0}
