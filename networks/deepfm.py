"""DeepFM: a factorisation machine and a deep tower over the same vectors."""

# B examples, F id fields, H sequences, E embedding width, D numbers

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.inputs import Inputs
from networks.layers import Tower, flatten, mean_pools
from networks.shape import ModelShape


class FactorizationMachine(nn.Module):
    """``Σ_{i<j} ⟨v_i, v_j⟩`` over all fields, as ``½ (‖Σ v‖² − Σ ‖v‖²)``.

    Rendle, ICDM 2010, lemma 3.1. A number x is the field x·v, with v learned.
    """

    def __init__(self, numbers: int, width: int) -> None:
        """Take ``numbers`` numbers beside any count of vectors of ``width``."""
        super().__init__()
        self.of_number_DE = nn.Parameter(torch.empty(numbers, width).uniform_(-0.01, 0.01))

    def forward(self, vectors: Sequence[Tensor], numbers_BD: Tensor) -> Tensor:
        """Return the second-order term (B,) of fields ``vectors``, each (B, any, E)."""
        sum_BE = numbers_BD @ self.of_number_DE
        squares_B = numbers_BD.square() @ self.of_number_DE.square().sum(1)
        for vectors_BFE in vectors:
            sum_BE = sum_BE + vectors_BFE.sum(1)
            squares_B = squares_B + vectors_BFE.square().sum((1, 2))
        pairs_B: Tensor = 0.5 * (sum_BE.square().sum(1) - squares_B)
        return pairs_B


class DeepFM(nn.Module):
    """First order + factorisation machine + `Tower`, over means of histories.

    Guo et al., "DeepFM", IJCAI 2017. An id's first-order weight is a learned projection of its
    vector: there is one table, and every field has its projection.
    """

    def __init__(self, shape: ModelShape, *, hidden: Sequence[int] = (128, 64)) -> None:
        """Build for ``shape``."""
        super().__init__()
        self.first_order = nn.Linear(shape.flat_width, 1)
        self.second_order = FactorizationMachine(len(shape.numbers), shape.embedding_width)
        self.tower = Tower(shape.flat_width, hidden)
        self.top = nn.Linear(self.tower.width, 1, bias=False)  # the first order has the bias

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logit_B."""
        pooled = mean_pools(inputs)
        x_BX = flatten(inputs, pooled)
        vectors = [inputs.ids_BFE, *(p.unsqueeze(1) for p in pooled)]
        linear_B: Tensor = (self.first_order(x_BX) + self.top(self.tower(x_BX))).squeeze(1)
        pairs_B: Tensor = self.second_order(vectors, inputs.numbers_BD)
        return linear_B + pairs_B
