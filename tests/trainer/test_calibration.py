import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.calibration import PlattCalibration


def stream(batches, exaggeration=1.0, shift=0.0, seed=0):
    """Yield logits and labels; the truth is sigmoid((z - shift) / exaggeration)."""
    rng = np.random.default_rng(seed)
    for _ in range(batches):
        truth = rng.normal(-2, 1, 256)
        label = rng.random(256) < 1 / (1 + np.exp(-truth))
        yield (truth * exaggeration + shift).astype(np.float32), label.astype(np.float32)


def slope(calibration):
    """Return the a of p = sigmoid(a z + b)."""
    p = calibration.probabilities(np.array([0, 1], np.float32)).astype(np.float64)
    return float(np.diff(np.log(p / (1 - p)))[0])


def trained(calibration, data):
    """Return a calibration that has seen batches."""
    for logit, label in data:
        calibration.update(logit, label)
    return calibration


@pytest.mark.parametrize(("exaggeration", "shift"), [(2.0, 0.0), (0.5, 1.0), (3.0, -1.0)])
def test_it_learns_how_much_the_scores_exaggerate(exaggeration, shift):
    """A listwise loss orders well but scales freely: p must mean p again."""
    calibration = trained(PlattCalibration(20_000), stream(400, exaggeration, shift))

    assert slope(calibration) == pytest.approx(1 / exaggeration, rel=0.1)
    logit, label = next(stream(1, exaggeration, shift, seed=9))
    p = calibration.probabilities(np.tile(logit, 1))
    truth = 1 / (1 + np.exp(-(logit - shift) / exaggeration))
    assert np.abs(p - truth).max() < 0.05
    assert p.mean() == pytest.approx(label.mean(), abs=0.06)


def test_sound_scores_stay_as_they_are():
    """Where nothing is wrong nothing is mended."""
    calibration = trained(PlattCalibration(20_000), stream(200))
    logit, _ = next(stream(1, seed=5))

    before = PlattCalibration(20_000).probabilities(logit)
    assert np.abs(before - calibration.probabilities(logit)).max() < 0.03


def test_without_a_half_life_it_is_the_sigmoid_for_good():
    """Whoever switches it off gets the model's own scores."""
    calibration = trained(PlattCalibration(None), stream(20, 3.0))
    logit, _ = next(stream(1))

    np.testing.assert_allclose(
        1 / (1 + np.exp(-logit.astype(np.float64))), calibration.probabilities(logit), rtol=1e-6
    )


logits = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30)
batches = st.lists(st.tuples(logits, st.integers(0, 2**30)), max_size=12)


def arrays(batch):
    """Return logits and labels of a drawn batch."""
    values, bits = batch
    label = np.array([bits >> i & 1 for i in range(len(values))], np.float32)
    return np.array(values, np.float32), label


@given(batches, logits)
def test_any_scores_and_labels_leave_it_finite_and_the_order_as_it_was(seen, scored):
    """A wild batch must not spoil what comes after it, and ranking is the model's business."""
    calibration = trained(PlattCalibration(1_000), map(arrays, seen))
    p = calibration.probabilities(np.sort(np.array(scored, np.float32)))

    assert np.isfinite(p).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) >= 0).all()


@given(batches, st.integers(0, 12))
def test_a_restart_changes_nothing(seen, at):
    """Bit for bit: its numbers multiply every score."""
    data = [arrays(batch) for batch in seen]
    whole = trained(PlattCalibration(1_000), data)
    first = trained(PlattCalibration(1_000), data[:at])
    resumed = PlattCalibration(1_000)
    resumed.restore(first.state())
    trained(resumed, data[at:])

    for name, value in whole.state().items():
        assert value.tobytes() == resumed.state()[name].tobytes()


def test_nothing_seen_changes_nothing():
    """A batch of rehearsed examples alone has none to learn from."""
    calibration = PlattCalibration(1_000)
    calibration.update(np.zeros(0, np.float32), np.zeros(0, np.float32))

    assert slope(calibration) == pytest.approx(1.0)
