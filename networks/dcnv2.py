"""DCN V2: explicit feature crosses beside a deep tower."""

# B examples, X flat width

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.inputs import Inputs
from networks.layers import Tower, flatten, mean_pools
from networks.shape import ModelShape


class Cross(nn.Module):
    """``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l``: each layer raises the order of the crosses by one.

    Wang et al., "DCN V2", WWW 2021, eq. 1; with ``rank``, W is the product U Vᵀ of two narrow
    matrices (eq. 2).
    """

    def __init__(self, width: int, layers: int, rank: int | None) -> None:
        """Cross vectors of ``width`` ``layers`` times; ``rank`` None: a full W."""
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(width, width)
            if rank is None
            else nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
            for _ in range(layers)
        )

    def forward(self, x0_BX: Tensor) -> Tensor:
        """Return the crossed vectors (B, X)."""
        x_BX = x0_BX
        for layer in self.layers:
            x_BX = torch.addcmul(x_BX, x0_BX, layer(x_BX))
        return x_BX


class DcnV2(nn.Module):
    """A cross network and a `Tower` in parallel (Wang et al., figure 1b), over histories' means."""

    def __init__(
        self,
        shape: ModelShape,
        *,
        hidden: Sequence[int] = (128, 64),
        cross_layers: int = 2,
        rank: int | None = 32,
    ) -> None:
        """Build for ``shape``; ``rank`` is the cross layers', None for full: half as fast."""
        super().__init__()
        self.cross = Cross(shape.flat_width, cross_layers, rank)
        self.tower = Tower(shape.flat_width, hidden)
        self.top = nn.Linear(shape.flat_width + self.tower.width, 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logit_B."""
        x_BX = flatten(inputs, mean_pools(inputs))
        logit_B: Tensor = self.top(torch.cat([self.cross(x_BX), self.tower(x_BX)], 1)).squeeze(1)
        return logit_B
