"""Calibration of the scores as the stream goes: a listwise loss orders well and exaggerates."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream.state import State

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_PRIOR: Final = np.array([20.0, 2.0])  # information of some hundred examples for "as it is"
_IDENTITY: Final = np.array([1.0, 0.0])


class PlattCalibration:
    """p = sigmoid(a z + b): Platt scaling (1999), its a and b learned continually.

    Each batch is one Newton step of the log loss on a and b, whose curvature forgets with a
    half-life counted in examples. Nothing flows back into the model, and the order of the scores
    stays as it is. Without a half-life a = 1, b = 0 for good. State: six numbers.
    """

    def __init__(self, half_life: int | None) -> None:
        self._half_life = half_life
        self._coefficients = _IDENTITY.copy()  # a, b
        self._information = np.diag(_PRIOR)

    def probabilities(self, logit_B: F32) -> F32:
        """Return the calibrated probabilities (B,) of logits (B,)."""
        return self._probabilities(logit_B.astype(np.float64)).astype(np.float32)

    def update(self, logit_B: F32, label_B: F32) -> None:
        """Take the labels (B,) of the logits (B,) that were scored."""
        if self._half_life is None or not len(label_B):
            return
        z_B = logit_B.astype(np.float64)
        p_B = self._probabilities(z_B)
        x_B2 = np.stack([z_B, np.ones_like(z_B)], axis=1)
        kept = 0.5 ** (len(z_B) / self._half_life)
        self._information *= kept
        self._information += np.diag((1 - kept) * _PRIOR)  # never singular
        self._information += (x_B2 * (p_B * (1 - p_B))[:, None]).T @ x_B2
        self._coefficients -= np.linalg.solve(self._information, x_B2.T @ (p_B - label_B))
        self._coefficients[0] = max(self._coefficients[0], 0.05)  # the order is the model's

    def _probabilities(self, z_B: F64) -> F64:
        a, b = self._coefficients
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(a * z_B + b, -50.0, 50.0))))

    def state(self) -> State:
        """Return a copy of what has been learned."""
        return {
            "coefficients": self._coefficients.copy(),
            "information": self._information.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._coefficients = np.array(state["coefficients"], np.float64)
        self._information = np.array(state["information"], np.float64)
