"""KEEP's extractor: a click model whose score falls apart into item, user and occasion.

After "KEEP: An Industrial Pre-Training Framework for Online Recommendation via Knowledge Extraction
and Plugging" (CIKM 2022), by its abstract: a supervised multi-task model of the super-domain. The
towers and the bilinear score, which lets a vector speak of its entity alone, are ours.
"""

# B examples, E embedding width, L history length, W factors of a vector, S width of a hidden layer,
# I width of an interaction, T tasks, X width of a side's inputs

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from extractor.config import ExtractorConfig
from extractor.sides import SideInputs, Sides
from networks.din import LocalActivation
from networks.inputs import Inputs
from networks.layers import Tower, mean_pool
from networks.shape import ModelShape
from trainer.models import ModelFactory

SCALE: Final = 3.0  # of the bilinear score × √W: first steps of a useful size; 1 learns as much
LEAK: Final = 0.1  # of an interaction's units below zero
PAIR_UNITS: Final = 32  # of what is explained away: a small network is enough
TERMS: Final = 5  # what a task weighs beside the products: three biases, pair and interaction


class SideTower(nn.Module):
    """One side's inputs to a vector of W factors and a bias."""

    def __init__(self, width: int, hidden: Sequence[int], out: int) -> None:
        """Take ``width`` inputs; without any the vector is learned as it is."""
        super().__init__()
        self.width = [width, *hidden][-1]  # S
        self.hidden = Tower(width, hidden) if width else None
        self.top = nn.Linear(self.hidden.width, out) if self.hidden is not None else None
        self.alone = nn.Parameter(torch.zeros(out)) if self.top is None else None

    def state(self, x_BX: Tensor) -> Tensor:
        """Return the last hidden layer (B, S)."""
        assert self.hidden is not None, "a side that is extracted has inputs"
        state_BS: Tensor = self.hidden(x_BX)
        return state_BS

    def forward(self, x_BX: Tensor) -> Tensor:
        """Return the vectors (B, out)."""
        if self.alone is not None:
            return self.alone.expand(len(x_BX), -1)
        assert self.top is not None
        vector_BW: Tensor = self.top(self.state(x_BX))
        return vector_BW


class Interaction(nn.Module):
    """What a user's history says of a category: DIN's attention (Zhou et al., KDD 2018), deepened.

    ``f(W [a, q, a ⊙ q] + b)`` with q the query and a the history as q attends to it; f is a leaky
    ReLU, for a unit that has died would be the same for everybody, for good.
    """

    def __init__(self, embedding: int, units: int, width: int) -> None:
        """Attend through ``units`` hidden units; give vectors of ``width``."""
        super().__init__()
        self.attention = LocalActivation(embedding, units)
        self.hidden = nn.Linear(3 * embedding, width)
        self.top = nn.Linear(width, 1, bias=False)

    def vectors(self, query_BE: Tensor, keys_BLE: Tensor) -> Tensor:
        """Return the vectors (B, I)."""
        attended_BE = self.attention(query_BE, keys_BLE)
        asked_BX = torch.cat([attended_BE, query_BE, attended_BE * query_BE], 1)
        return nn.functional.leaky_relu(self.hidden(asked_BX), LEAK)

    def forward(self, query_BE: Tensor, keys_BLE: Tensor) -> Tensor:
        """Return their share of the logit (B,)."""
        share_B: Tensor = self.top(self.vectors(query_BE, keys_BLE)).squeeze(1)
        return share_B


class Keep(nn.Module):
    """logit = 3/√W ⟨z_user + z_context, z_item⟩ + three biases + pair + interaction.

    Each z and its bias come from a tower of one side's inputs (`Sides`). The pair's numbers, as how
    often this user was shown this item, and crosses go through a small network of their own: what
    they explain, the sides need not, and it is never extracted. Another task weighs the same
    products and terms anew, beginning with the click's weights.
    """

    def __init__(
        self,
        shape: ModelShape,
        *,
        hidden: Sequence[int] = (64,),
        attention_units: int = 16,
        extractor: ExtractorConfig | None = None,
        tasks: int = 1,
    ) -> None:
        """Build for ``shape``, whose id fields must have "item" and "user".

        Raises:
            ModelError: they have not, or lack a field that ``extractor`` names.

        """
        super().__init__()
        config = extractor or ExtractorConfig()
        self.sides = Sides(
            shape,
            item_fields=config.item_fields,
            user_fields=config.user_fields,
            category=config.category,
        )
        self.tasks = tasks
        self.factors = config.width - 2
        self.scale = SCALE / math.sqrt(self.factors)
        sides, width = self.sides, shape.embedding_width
        pooled = width * (sides.history is not None)
        out = self.factors + 1
        self.item = SideTower(sides.item.width(width), hidden, out)
        self.user = SideTower(sides.user.width(width) + pooled, hidden, out)
        of_context = sides.context.width(width) + len(sides.lists) * width
        self.context = SideTower(of_context, hidden, out)
        of_pair = sides.pair.width(width)
        self.pair = SideTower(of_pair, (PAIR_UNITS,), 1) if of_pair else None
        self.interaction = (
            Interaction(width, attention_units, config.interaction_width)
            if sides.history is not None
            else None
        )
        self.others = nn.Linear(self.factors + TERMS, tasks - 1) if tasks > 1 else None
        if self.others is not None:
            nn.init.ones_(self.others.weight)
            nn.init.zeros_(self.others.bias)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return logit_B of the click."""
        products_BW, terms_BT = self._terms(inputs)
        return products_BW.sum(1) + terms_BT.sum(1)

    def task_logits(self, inputs: Inputs) -> Tensor:
        """Return the logits (B, T) of all tasks; the click is the first."""
        products_BW, terms_BT = self._terms(inputs)
        click_B = products_BW.sum(1) + terms_BT.sum(1)
        if self.others is None:
            return click_B.unsqueeze(1)
        others_BT = self.others(torch.cat([products_BW, terms_BT], 1))
        return torch.cat([click_B.unsqueeze(1), others_BT], 1)

    def item_inputs(self, ids_BFE: Tensor, numbers_BD: Tensor) -> Tensor:
        """Return what the item's tower takes (B, X) of all fields and numbers."""
        return _of_side(self.sides.item, ids_BFE, numbers_BD)

    def user_inputs(
        self,
        ids_BFE: Tensor,
        numbers_BD: Tensor,
        history_BLE: Tensor | None,
        mask_BL: Tensor | None,
    ) -> Tensor:
        """Return what the user's tower takes (B, X)."""
        own_BX = _of_side(self.sides.user, ids_BFE, numbers_BD)
        if history_BLE is None or mask_BL is None:
            return own_BX
        return torch.cat([own_BX, mean_pool(history_BLE, mask_BL)], 1)

    def _terms(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the scaled products (B, W), and all that is added to them (B, 5)."""
        sides, ids_BFE, numbers_BD = self.sides, inputs.ids_BFE, inputs.numbers_BD
        history, mask = None, None
        if sides.history is not None:
            history, mask = inputs.sequences_BLE[sides.history], inputs.masks_BL[sides.history]
        lists = [mean_pool(inputs.sequences_BLE[i], inputs.masks_BL[i]) for i in sides.lists]
        item = self.item(self.item_inputs(ids_BFE, numbers_BD))
        user = self.user(self.user_inputs(ids_BFE, numbers_BD, history, mask))
        context = self.context(torch.cat([_of_side(sides.context, ids_BFE, numbers_BD), *lists], 1))
        query_BW = (user + context)[:, :-1]
        none_B = torch.zeros(len(inputs))
        pair_B = none_B
        if self.pair is not None:
            pair_B = self.pair(_of_side(sides.pair, ids_BFE, numbers_BD)).squeeze(1)
        interaction_B = none_B
        if self.interaction is not None:
            interaction_B = self.interaction(ids_BFE[:, sides.query], history)
        biases = [vector[:, -1] for vector in (item, user, context)]
        terms_BT = torch.stack([*biases, pair_B, interaction_B], 1)
        return self.scale * query_BW * item[:, :-1], terms_BT


def _of_side(side: SideInputs, ids_BFE: Tensor, numbers_BD: Tensor) -> Tensor:
    """Return one side's embeddings and numbers (B, X), side by side."""
    return torch.cat([ids_BFE[:, side.ids].flatten(1), numbers_BD[:, side.numbers]], 1)


def keep_factory(config: ExtractorConfig, *, tasks: int = 1) -> ModelFactory:
    """Return the factory of models of this configuration, as the trainer takes it."""

    def keep(shape: ModelShape, **options: object) -> nn.Module:
        return Keep(shape, extractor=config, tasks=tasks, **options)  # type: ignore[arg-type]  # what [model] says, which Keep refuses by name

    return keep
