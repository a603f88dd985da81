"""The plug: frozen knowledge added to a model's hidden layers, without touching its tensors."""

# B examples, W width of the kinds used, X width into a layer, H width of the layer, R gates' rank

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from networks.inputs import Inputs
from networks.layers import Tower
from networks.plug_config import PlugConfig, PlugError
from networks.selection import Selection
from networks.shape import ModelShape


class _Fed(threading.local):
    """What this thread's forward pass is given: a model is the same for all threads."""

    knowledge_BW: Tensor | None = None
    reached: frozenset[int] = frozenset()


_FED: Final = _Fed()


class Plug(nn.Module):
    """``h = act(W x + b + gate(x) ⊙ Σ_kinds P k)`` at hidden layers of a `Tower`.

    After KEEP (Zhang et al., CIKM 2022): knowledge is added to a pre-activation, so the tensors of
    a trained model stay as they are and go on learning. The gate is a number an example,
    ``sigmoid(u x + c)``, or one for each hidden unit, ``sigmoid(V U x + c)``, as MKT's
    (arXiv 2402.19101) is; it stands for all kinds of a layer, or for one each; mode ``add`` has
    none. P begins at zero, so the model answers to the bit as without its plug, and the other
    weights' first step is the same. A kind that an example lacks adds exactly nothing: P has no
    bias. k is an input and gets no gradient, and x gets none through the gate.

    First weights depend on the seed alone, and not on torch's generator.
    """

    def __init__(self, config: PlugConfig, shape: ModelShape, tower: Tower, *, seed: int) -> None:
        """Build for ``tower``, which calls it from now on; its own tensors stay its own.

        Raises:
            PlugError: see `networks.plug_config.kinds_used`; or the tower has no such layer.

        """
        super().__init__()
        self.config = config
        self._seed = seed
        self._select = Selection(config, shape)
        widths = self._select.widths
        self.layers = nn.ModuleDict()
        for i in _places(config.layers, len(tower.layers)):
            layer = tower.layers[i]
            assert isinstance(layer, nn.Linear)
            self.layers[str(i)] = PlugLayer(config, layer.in_features, layer.out_features, widths)
        self.begin()
        tower.plugged = self.add

    def begin(self) -> None:
        """Draw the first weights (again)."""
        generator = torch.Generator().manual_seed(self._seed)
        for layer in self.layers.values():
            assert isinstance(layer, PlugLayer)
            layer.begin(generator)

    def take_over(self, config_mode: str, weights: Mapping[str, Tensor]) -> set[str]:
        """Begin anew, but with what fits of another plug's ``weights``; return their names.

        Kinds and layers that are new begin neutral; those that both have go on. Of another mode
        nothing fits: a projection means something else behind a gate.
        """
        self.begin()
        if config_mode != self.config.mode:
            return set()
        names = {
            f"layers.{i}.{name}"
            for i, layer in self.layers.items()
            if isinstance(layer, PlugLayer)
            for name in layer.fitting(_under(f"layers.{i}.", weights))
        }
        with torch.no_grad():
            for name, own in self.named_parameters():
                if name in names:
                    own.copy_(weights[name])
        return names

    @contextmanager
    def fed(self, inputs: Inputs) -> Iterator[None]:
        """Within, forward passes of the tower in this thread are of the examples ``inputs``."""
        _FED.knowledge_BW, _FED.reached = self._select(inputs), frozenset()
        try:
            yield
        finally:
            _FED.knowledge_BW = None

    def add(self, i: int, x_BX: Tensor, pre_BH: Tensor) -> Tensor:
        """Return the pre-activation of hidden layer ``i`` with the knowledge that is `fed`."""
        knowledge_BW = _FED.knowledge_BW
        if knowledge_BW is None or str(i) not in self.layers:
            return pre_BH
        _FED.reached |= {i}
        plugged_BH: Tensor = self.layers[str(i)](x_BX, pre_BH, knowledge_BW)
        return plugged_BH

    def unreached(self) -> list[int]:
        """Return the layers that nothing has come through since this thread was last `fed`."""
        return [int(i) for i in self.layers if int(i) not in _FED.reached]


class PlugLayer(nn.Module):
    """What a plug has at one hidden layer: a projection of each kind, and the gates."""

    def __init__(
        self, config: PlugConfig, width: int, hidden: int, kinds: Mapping[str, int]
    ) -> None:
        """Stand beside a layer from ``width`` to ``hidden``."""
        super().__init__()
        self.kinds = dict(kinds)
        self.of = nn.ParameterDict()
        for kind, each in kinds.items():  # one by one, for torch would sort them
            self.of[f"{kind}_WH"] = nn.Parameter(torch.empty(each, hidden))
        self._of = tuple(self.of.values())  # asked for at every step, and slow to ask for
        self.narrow: nn.Linear | None = None
        self.gates = nn.ModuleDict()
        if config.mode == "gated":
            rank = config.gate_rank if config.gate == "vector" else None
            if rank is not None:
                self.narrow = nn.Linear(width, rank, bias=False)
            units = hidden if config.gate == "vector" else 1
            for gate in kinds if config.gates == "kind" else [""]:
                self.gates[f"gate_{gate}"] = nn.Linear(rank or width, units)

    def begin(self, generator: torch.Generator) -> None:
        """Draw the gates, as torch does; set the projections to zero."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith("of.") or weight.ndim == 1:
                    weight.zero_()  # a gate without a bias is half open
                else:
                    bound = 1 / math.sqrt(weight.shape[1])
                    weight.uniform_(-bound, bound, generator=generator)

    def fitting(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Return the names of the weights that go on: those of kinds all of which fits."""
        own = dict(self.named_parameters())
        fits = {n for n, w in own.items() if n in weights and weights[n].shape == w.shape}
        by_kind = {kind: {n for n in own if _is_of(kind, n)} for kind in self.kinds}
        shared = own.keys() - set().union(*by_kind.values())
        if not shared <= fits:
            return set()  # what has been learned behind one gate is wrong behind another
        return shared.union(*(names for names in by_kind.values() if names <= fits))

    def forward(self, x_BX: Tensor, pre_BH: Tensor, knowledge_BW: Tensor) -> Tensor:
        """Return (B, H) ``pre_BH`` with the kinds' vectors, side by side, projected and added.

        Of torch's own operations, and few: its backward pass over them leaves the interpreter to
        the thread that reads, where one written out in Python takes turns with it.
        """
        of_WH = torch.cat(self._of)
        if not self.gates:
            return torch.addmm(pre_BH, knowledge_BW, of_WH)
        x_BX = x_BX.detach()
        x_BR = x_BX if self.narrow is None else self.narrow(x_BX)
        gates = [gate(x_BR).sigmoid() for gate in self.gates.values()]  # (B, 1) or (B, H) each
        if len(gates) == 1:
            return torch.addcmul(pre_BH, gates[0], knowledge_BW @ of_WH)
        widths = [*self.kinds.values()]
        vectors, projections = torch.split(knowledge_BW, widths, 1), torch.split(of_WH, widths)
        for gate, k_BW, p_WH in zip(gates, vectors, projections, strict=True):
            pre_BH = torch.addcmul(pre_BH, gate, k_BW @ p_WH)
        return pre_BH


def find_tower(network: nn.Module) -> Tower:
    """Return the tower that a plug adds to: ``network.tower``, or the only one there is.

    Raises:
        PlugError: there is none, or several and none of that name.

    """
    own = getattr(network, "tower", None)
    if isinstance(own, Tower):
        return own
    towers = [module for module in network.modules() if isinstance(module, Tower)]
    if len(towers) == 1:
        return towers[0]
    if towers:
        raise PlugError(
            f"It has {len(towers)} networks.layers.Tower: call the one that knowledge is added to "
            "`tower`."
        )
    raise PlugError(
        "It has no networks.layers.Tower, whose hidden layers knowledge is added to: build the "
        'hidden layers with one, or plug "concat" or "none".'
    )


def _places(layers: Sequence[int], count: int) -> list[int]:
    """Return the numbers of ``layers`` from 0, in their order."""
    if off := [i for i in layers if not -count <= i < count]:
        raise PlugError(
            f"The plug's layer {off[0]} is not there: the model's tower has {count} hidden "
            "layers, 0 the first and -1 the last."
        )
    places = [i % count for i in layers]
    if len(set(places)) < len(places):
        raise PlugError(
            f"layers {tuple(layers)} of the plug: name each once, of {count} hidden layers."
        )
    return places


def _is_of(kind: str, name: str) -> bool:
    return name == f"of.{kind}_WH" or name.startswith(f"gates.gate_{kind}.")


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
