"""A model of your own, in forty lines: an MLP with a shortcut from the numbers to the score.

With this folder's parent on the Python path:

    PYTHONPATH=examples keepstream replay --config examples/ebnerd.toml --input events.parquet \
        --set model.model=my_models.wide:build --set model.options.shortcut=true

`trainer.checks.check_model(build)` proves that it keeps what every model must.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from networks.inputs import Inputs
from networks.layers import Tower, flatten, mean_pools
from networks.shape import ModelShape

# B examples, D numbers


class WideAndDeep(nn.Module):
    """A tower, and a linear model of the numbers beside it (Cheng et al., DLRS 2016)."""

    def __init__(self, shape: ModelShape, hidden: Sequence[int], shortcut: bool) -> None:
        super().__init__()
        self.tower = Tower(shape.flat_width, hidden)
        self.top = nn.Linear(self.tower.width, 1)
        self.wide = nn.Linear(len(shape.numbers), 1) if shortcut and shape.numbers else None

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logit_B."""
        logit_B1: Tensor = self.top(self.tower(flatten(inputs, mean_pools(inputs))))
        if self.wide is not None:
            logit_B1 = logit_B1 + self.wide(inputs.numbers_BD)
        return logit_B1.squeeze(1)


def build(
    shape: ModelShape, *, hidden: Sequence[int] = (128, 64), shortcut: bool = True
) -> nn.Module:
    """Return the model for ``shape``; `[model.options]` become further keyword arguments."""
    return WideAndDeep(shape, hidden, shortcut)
