"""The dense weights of a model and of its plug, with their optimiser."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream.state import State
from trainer.learner_config import LearnerConfig


class DenseWeights:
    """Weights of parts by name, learned by one Adam; each part's gradient is clipped to a norm.

    No part's step depends on another's gradient. The gradients of a part lie side by side, so that
    what is done to all of them is one operation; so do the counts of Adam's steps. Memory: the
    weights four times over, for their gradients and Adam's two moments.
    """

    def __init__(self, parts: Mapping[str, nn.Module], config: LearnerConfig) -> None:
        """Learn the parameters of ``parts``."""
        self._limit = config.clip_norm
        self._parts = {
            part: {name: w for name, w in module.named_parameters() if w.requires_grad}
            for part, module in parts.items()
        }
        self._grads = [_side_by_side([*weights.values()]) for weights in self._parts.values()]
        weights = [weight for part in self._parts.values() for weight in part.values()]
        types = dict.fromkeys(weight.dtype for weight in weights)
        self._adams = [_Adam([w for w in weights if w.dtype == each], config) for each in types]
        self._moments = {w: m for adam in self._adams for w, m in adam.moments.items()}

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
        for adam in self._adams:
            adam.step()

    def moments(self, part: str) -> State:
        """Return a copy of Adam's moments, of the part's weights that have learned."""
        moments = ((name, self._moments[w]) for name, w in self._parts[part].items())
        return {name: arrays(m) for name, m in moments if m["step"]}

    def restore_moments(self, part: str, moments: State, names: Collection[str]) -> None:
        """Go on from saved moments of the weights ``names`` of a part; others have none."""
        for name, weight in self._parts[part].items():
            known = tensors(moments[name]) if name in names and name in moments else {}
            for key, value in self._moments[weight].items():
                value.copy_(known[key]) if known else value.zero_()


class _Adam:
    """AdamW (Loshchilov & Hutter, ICLR 2019) on weights of one type, as `torch.optim` has it.

    It calls the same kernel with the same numbers. What is around it there, for whatever may have
    become of the weights since, takes four times as long as the kernel itself.
    """

    def __init__(self, weights: list[nn.Parameter], config: LearnerConfig) -> None:
        self._config = config
        self._weights = weights
        self._means = [torch.zeros_like(weight) for weight in weights]
        self._squares = [torch.zeros_like(weight) for weight in weights]
        self._steps = torch.zeros(len(weights))
        self._each_step = [*self._steps.unbind()]
        moments = zip(self._each_step, self._means, self._squares, strict=True)
        self.moments: dict[nn.Parameter, dict[str, Tensor]] = {
            weight: {"step": step, "exp_avg": mean, "exp_avg_sq": square}
            for weight, (step, mean, square) in zip(weights, moments, strict=True)
        }

    @torch.no_grad()
    def step(self) -> None:
        self._steps.add_(1)
        torch.ops.aten._fused_adamw_(
            self._weights,
            [weight.grad for weight in self._weights],
            self._means,
            self._squares,
            [],
            self._each_step,
            lr=self._config.learning_rate,
            beta1=0.9,  # these and eps: the paper's, and torch's own
            beta2=0.999,
            weight_decay=self._config.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


def _side_by_side(weights: list[nn.Parameter]) -> list[Tensor]:
    """Give ``weights`` gradients that are views of one tensor a type, and return these."""
    joined = []
    for dtype in dict.fromkeys(weight.dtype for weight in weights):
        some = [weight for weight in weights if weight.dtype == dtype]
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
