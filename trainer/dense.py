"""The dense weights of a model, or of a part of it, with their optimiser."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream.state import State
from trainer.learner_config import LearnerConfig


class DenseWeights:
    """Weights by name, learned by Adam, with gradients clipped to a norm.

    Memory: the weights three times over, for Adam's two moments.
    """

    def __init__(self, module: nn.Module, config: LearnerConfig) -> None:
        """Learn the parameters of ``module``."""
        self._limit = config.clip_norm
        self._weights = dict(module.named_parameters())
        self._adam = torch.optim.AdamW(
            self._weights.values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def forget_gradients(self) -> None:
        """Begin a step."""
        self._adam.zero_grad()

    def norm(self, examples: int) -> float:
        """Return the norm of the gradients an example, of a loss summed over ``examples``."""
        return torch.nn.utils.get_total_norm(self._grads()).item() / examples

    def step(self, examples: int, norm: float) -> None:
        """Learn from the gradients, whose `norm` was given."""
        limit = self._limit
        scale = 1 / examples if limit is None or norm <= limit else limit / norm / examples
        for grad in self._grads():
            grad.mul_(scale)
        self._adam.step()

    def moments(self) -> State:
        """Return a copy of Adam's moments, of the weights that have learned."""
        moments = ((name, self._adam.state.get(w)) for name, w in self._weights.items())
        return {name: arrays(m) for name, m in moments if m is not None}

    def restore_moments(self, moments: State, names: Collection[str] | None = None) -> None:
        """Go on from saved moments, of the weights ``names`` alone where they are given."""
        self._adam.state.clear()
        for name, of_name in moments.items():
            if names is None or name in names:
                self._adam.state[self._weights[name]] = tensors(of_name)

    def _grads(self) -> list[Tensor]:
        return [w.grad for w in self._weights.values() if w.grad is not None]


def arrays(values: Mapping[str, Any]) -> State:
    """Return copies as arrays; a module's extra state, if it is no tensor, stays as it is."""
    return {k: v.detach().numpy().copy() if isinstance(v, Tensor) else v for k, v in values.items()}


def tensors(state: State) -> dict[str, Any]:
    """Return copies as tensors: the way back from `arrays`."""
    return {
        k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in state.items()
    }
