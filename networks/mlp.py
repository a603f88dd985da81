"""A plain multi-layer perceptron: the model the others are measured against."""

from collections.abc import Sequence

from torch import Tensor, nn

from networks.inputs import Inputs
from networks.layers import Tower, flatten, mean_pools
from networks.shape import ModelShape


class Mlp(nn.Module):
    """Fields, means of histories and numbers, through a `Tower`."""

    def __init__(self, shape: ModelShape, *, hidden: Sequence[int] = (128, 64)) -> None:
        """Build for ``shape``."""
        super().__init__()
        self.tower = Tower(shape.flat_width, hidden)
        self.top = nn.Linear(self.tower.width, 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logit_B."""
        logit_B: Tensor = self.top(self.tower(flatten(inputs, mean_pools(inputs)))).squeeze(1)
        return logit_B
