"""Deep Interest Network: the history as the candidate sees it."""

# B examples, F id fields, E embedding width, L history length, A attention units

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from networks.inputs import Inputs
from networks.layers import Tower, flatten, mean_pool
from networks.shape import ModelShape


class LocalActivation(nn.Module):
    """Target attention: ``Σ_l a(k_l, q) k_l`` with ``a`` a network of one hidden layer.

    Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, §4.3: the
    weights are not normalised, so that the sum keeps how strongly the history answers. ``a`` sees
    ``[q, k, q − k, q ⊙ k]``; that layer is linear, so its four blocks fold into three: one of
    ``q``, computed once an example, and ``k (W_k + diag(q) W_qk)``, one small product an example,
    in place of a (B, L, 4E) input. An absent element is the zero vector: it adds nothing.
    """

    def __init__(self, width: int, units: int) -> None:
        """Attend with vectors of ``width`` through ``units`` hidden units."""
        super().__init__()
        bound = 1 / math.sqrt(3 * width)
        self.of_query = nn.Linear(width, units)
        self.of_key_EA = nn.Parameter(torch.empty(width, units).uniform_(-bound, bound))
        self.of_product_EA = nn.Parameter(torch.empty(width, units).uniform_(-bound, bound))
        self.top = nn.Linear(units, 1)

    def forward(self, query_BE: Tensor, keys_BLE: Tensor) -> Tensor:
        """Return the attended history (B, E)."""
        weights_BEA = self.of_key_EA + query_BE.unsqueeze(2) * self.of_product_EA
        pre_BLA = torch.baddbmm(self.of_query(query_BE).unsqueeze(1), keys_BLE, weights_BEA)
        activation_BL1 = self.top(pre_BLA.relu_())
        # By bmm the same sum and its backward take six times as long.
        history_BE: Tensor = (activation_BL1 * keys_BLE).sum(1)
        return history_BE


class Din(nn.Module):
    """Fields, attended histories and numbers, through a `Tower`.

    A sequence without a target field is pooled by its mean.
    """

    def __init__(
        self, shape: ModelShape, *, hidden: Sequence[int] = (128, 64), attention_units: int = 16
    ) -> None:
        """Build for ``shape``."""
        super().__init__()
        self.targets = shape.sequence_targets
        self.attention = nn.ModuleList(
            LocalActivation(shape.embedding_width, attention_units)
            for target in self.targets
            if target is not None
        )
        self.tower = Tower(shape.flat_width, hidden)
        self.top = nn.Linear(self.tower.width, 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logit_B."""
        attention = iter(self.attention)
        pooled = [
            mean_pool(sequence_BLE, mask_BL)
            if target is None
            else next(attention)(inputs.ids_BFE[:, target], sequence_BLE)
            for target, sequence_BLE, mask_BL in zip(
                self.targets, inputs.sequences_BLE, inputs.masks_BL, strict=True
            )
        ]
        logit_B: Tensor = self.top(self.tower(flatten(inputs, pooled))).squeeze(1)
        return logit_B
