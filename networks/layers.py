"""Layers that the click models share."""

# B examples, F id fields, E embedding width, L history length, D numbers, X flat width

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from networks.inputs import Inputs


class Tower(nn.Module):
    """Fully connected hidden layers with ReLU; without any it returns what it is given.

    `hidden` is the room for what adds to a layer's pre-activation: a plug, or a subclass that
    overrides it, reaches every hidden layer, and no tensor changes its shape.
    """

    def __init__(self, width: int, hidden: Sequence[int]) -> None:
        """Take vectors of ``width``; give vectors of `width`, the last of ``hidden``."""
        super().__init__()
        widths = [width, *hidden]
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise(widths))
        self.width = widths[-1]
        self.plugged: Callable[[int, Tensor, Tensor], Tensor] | None = None  # see networks.plug

    def hidden(self, i: int, x_BX: Tensor) -> Tensor:
        """Return the pre-activations (B, width of layer i) of hidden layer ``i``."""
        pre_BX: Tensor = self.layers[i](x_BX)
        return pre_BX if self.plugged is None else self.plugged(i, x_BX, pre_BX)

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the last hidden layer's activations."""
        for i in range(len(self.layers)):
            x_BX = torch.relu(self.hidden(i, x_BX))
        return x_BX


def flatten(inputs: Inputs, pooled_BE: Sequence[Tensor]) -> Tensor:
    """Lay fields, pooled sequences and numbers side by side: (B, `ModelShape.flat_width`)."""
    return torch.cat([inputs.ids_BFE.flatten(1), *pooled_BE, inputs.numbers_BD], dim=1)


def mean_pool(sequence_BLE: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean of each history's elements (B, E); zero where it has none."""
    count_B1 = mask_BL.sum(1, keepdim=True).clamp_(min=1)
    return sequence_BLE.sum(1) / count_B1  # an absent element is the zero vector


def mean_pools(inputs: Inputs) -> list[Tensor]:
    """Return every sequence's mean."""
    return [mean_pool(s, m) for s, m in zip(inputs.sequences_BLE, inputs.masks_BL, strict=True)]
