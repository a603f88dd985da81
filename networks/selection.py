"""What a model takes of the knowledge that examples carry."""

# B examples, K knowledge width, W width of what is used of it, D numbers

from dataclasses import replace

import torch
from torch import Tensor

from networks.inputs import Inputs
from networks.plug_config import FACTORS, MATCH, PlugConfig, kinds_used
from networks.shape import ModelShape


class Selection:
    """Takes the kinds that a plug uses from all that examples carry, and makes "match" of two."""

    def __init__(self, config: PlugConfig, shape: ModelShape) -> None:
        """Select ``config.kinds``.

        Raises:
            PlugError: see `networks.plug_config.kinds_used`.

        """
        self.widths = kinds_used(config, shape)
        self._columns: dict[str, slice] = {}
        end = 0
        for kind, width in shape.knowledge:
            self._columns[kind] = slice(end, end + width)
            end += width

        self._all = tuple(self.widths.items()) == shape.knowledge

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the kinds' vectors (B, W), side by side; zero where an example has none."""
        assert inputs.knowledge_BK is not None, "the learner gives it to every batch"
        if self._all:
            return inputs.knowledge_BK
        return torch.cat([self._of(inputs.knowledge_BK, kind) for kind in self.widths], dim=1)

    def _of(self, knowledge_BK: Tensor, kind: str) -> Tensor:
        if kind == MATCH:
            user_BU, item_BU = (knowledge_BK[:, self._columns[each]] for each in FACTORS)
            return user_BU * item_BU
        return knowledge_BK[:, self._columns[kind]]


class Appended:
    """Mode "concat": the vectors stand among the numbers, and beside them whether each is there.

    So any model takes them, wherever it takes numbers. They are not standardised.
    """

    def __init__(self, config: PlugConfig, shape: ModelShape) -> None:
        """Append ``config.kinds``.

        Raises:
            PlugError: see `networks.plug_config.kinds_used`.

        """
        self._select = Selection(config, shape)

    def widen(self, shape: ModelShape) -> ModelShape:
        """Return the shape of a model that takes ``shape`` and the vectors."""
        widths = self._select.widths
        vectors = [f"{kind}.{i}" for kind, width in widths.items() for i in range(width)]
        known = [f"{kind}.known" for kind, _ in shape.knowledge]
        return replace(shape, numbers=(*shape.numbers, *vectors, *known), knowledge=())

    def __call__(self, inputs: Inputs) -> Inputs:
        """Return ``inputs`` with knowledge among the numbers (B, D)."""
        assert inputs.known_BJ is not None
        numbers_BD = torch.cat([inputs.numbers_BD, self._select(inputs), inputs.known_BJ], dim=1)
        return replace(inputs, numbers_BD=numbers_BD, knowledge_BK=None, known_BJ=None)
