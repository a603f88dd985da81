"""The dense weights of a model and of its plug, with their optimiser."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream.state import State
from trainer.learner_config import LearnerConfig


class DenseWeights:
    """Weights of parts by name, learned by one Adam; each part's gradient is clipped to a norm.

    No part's step depends on another's gradient. The gradients of a part lie side by side, so that
    what is done to all of them is one operation. Memory: the weights four times over, for their
    gradients and Adam's two moments.
    """

    def __init__(self, parts: Mapping[str, nn.Module], config: LearnerConfig) -> None:
        """Learn the parameters of ``parts``."""
        self._limit = config.clip_norm
        self._parts = {part: dict(module.named_parameters()) for part, module in parts.items()}
        self._grads = [_side_by_side(weights.values()) for weights in self._parts.values()]
        self._adam = torch.optim.AdamW(  # one, for a step costs the interpreter 0.1 ms
            [weight for weights in self._parts.values() for weight in weights.values()],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def forget_gradients(self) -> None:
        """Begin a step."""
        for grads in self._grads:
            for grad in grads:
                grad.zero_()

    def norms(self, examples: int) -> list[float]:
        """Return each part's norm of its gradients an example, of a loss summed over examples."""
        return [
            math.hypot(*(torch.linalg.vector_norm(grad).item() for grad in grads)) / examples
            for grads in self._grads
        ]

    def step(self, examples: int, norms: list[float]) -> None:
        """Learn from the gradients, whose `norms` were given."""
        limit = self._limit
        for grads, norm in zip(self._grads, norms, strict=True):
            scale = 1 / examples if limit is None or norm <= limit else limit / norm / examples
            for grad in grads:
                grad.mul_(scale)
        self._adam.step()

    def moments(self, part: str) -> State:
        """Return a copy of Adam's moments, of the part's weights that have learned."""
        moments = ((name, self._adam.state.get(w)) for name, w in self._parts[part].items())
        return {name: arrays(m) for name, m in moments if m is not None}

    def restore_moments(self, part: str, moments: State, names: Collection[str]) -> None:
        """Go on from saved moments of the weights ``names`` of a part; others have none."""
        for name, weight in self._parts[part].items():
            self._adam.state.pop(weight, None)
            if name in names and name in moments:
                self._adam.state[weight] = tensors(moments[name])


def _side_by_side(weights: Iterable[nn.Parameter]) -> list[Tensor]:
    """Give ``weights`` gradients that are views of one tensor a type, and return these."""
    learned = [weight for weight in weights if weight.requires_grad]
    joined = []
    for dtype in dict.fromkeys(weight.dtype for weight in learned):
        some = [weight for weight in learned if weight.dtype == dtype]
        sizes = [weight.numel() for weight in some]
        joined.append(torch.zeros(sum(sizes), dtype=dtype))
        for weight, grad in zip(some, torch.split(joined[-1], sizes), strict=True):
            weight.grad = grad.as_strided(weight.shape, weight.stride())
    return joined


def arrays(values: Mapping[str, Any]) -> State:
    """Return copies as arrays; a module's extra state, if it is no tensor, stays as it is."""
    return {k: v.detach().numpy().copy() if isinstance(v, Tensor) else v for k, v in values.items()}


def tensors(state: State) -> dict[str, Any]:
    """Return copies as tensors: the way back from `arrays`."""
    return {
        k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in state.items()
    }
