"""The plug: frozen knowledge added to a model's hidden layers, without touching its tensors."""

# B examples, K knowledge width, W width of a kind, X width into a layer, H width of the layer,
# R rank of the gates

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

    vectors: Sequence[Tensor] = ()
    reached: frozenset[int] = frozenset()


_FED: Final = _Fed()


class Plug(nn.Module):
    """``h = act(W x + b + Σ_kinds gate(x) ⊙ P k)`` at hidden layers of a `Tower`.

    After KEEP (Zhang et al., CIKM 2022): knowledge is added to a pre-activation, so the tensors of
    a trained model stay as they are and go on learning. The gate is that of MKT's GLU (arXiv
    2402.19101), of low rank unless told otherwise; mode ``add`` has none. P begins at zero, so
    the model answers to the bit as without its plug, and the other weights' first step is the
    same. A kind that an example lacks adds exactly nothing: P has no bias. k is an input and
    gets no gradient.

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
        if max(config.layers) >= len(tower.layers):
            raise PlugError(
                f"The plug's layer {max(config.layers)} is not there: the model's tower has "
                f"{len(tower.layers)} hidden layers, numbered from 0."
            )
        self.layers = nn.ModuleDict()
        for i in config.layers:
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
        _FED.vectors, _FED.reached = self._select(inputs), frozenset()
        try:
            yield
        finally:
            _FED.vectors = ()

    def add(self, i: int, x_BX: Tensor, pre_BH: Tensor) -> Tensor:
        """Return the pre-activation of hidden layer ``i`` with the knowledge that is `fed`."""
        if str(i) not in self.layers or not _FED.vectors:
            return pre_BH
        _FED.reached |= {i}
        plugged_BH: Tensor = self.layers[str(i)](x_BX, pre_BH, _FED.vectors)
        return plugged_BH

    def unreached(self) -> list[int]:
        """Return the layers that nothing has come through since this thread was last `fed`."""
        return [i for i in self.config.layers if i not in _FED.reached]


class PlugLayer(nn.Module):
    """What a plug has at one hidden layer: a projection and a gate for each kind."""

    def __init__(
        self, config: PlugConfig, width: int, hidden: int, kinds: Mapping[str, int]
    ) -> None:
        """Stand beside a layer from ``width`` to ``hidden``."""
        super().__init__()
        gated, rank = config.mode == "gated", config.gate_rank
        self.narrow = nn.Linear(width, rank, bias=False) if gated and rank is not None else None
        into = width if rank is None else rank
        self.kinds = list(kinds)
        for kind, of_kind in kinds.items():
            self.add_module(f"of_{kind}", nn.Linear(of_kind, hidden, bias=False))
            if gated:
                self.add_module(f"gate_of_{kind}", nn.Linear(into, hidden))

    def begin(self, generator: torch.Generator) -> None:
        """Draw the gates, as torch does; set the projections to zero."""
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith("of_") or weight.ndim == 1:
                    weight.zero_()  # a gate without a bias is half open
                else:
                    bound = 1 / math.sqrt(weight.shape[1])
                    weight.uniform_(-bound, bound, generator=generator)

    def fitting(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Return the names of the weights that go on: of kinds all of which fits."""
        own = dict(self.named_parameters())
        fits = {n for n, w in own.items() if n in weights and weights[n].shape == w.shape}
        if not {n for n in own if n.startswith("narrow.")} <= fits:
            return set()  # gates say something else behind another one
        kinds = {k for k in self.kinds if {n for n in own if _is_of(k, n)} <= fits}
        return {n for n in fits if n.startswith("narrow.") or any(_is_of(k, n) for k in kinds)}

    def forward(self, x_BX: Tensor, pre_BH: Tensor, vectors: Sequence[Tensor]) -> Tensor:
        """Return (B, H) ``pre_BH`` plus each kind's part, ``vectors`` (B, W) in their order."""
        x_BR = x_BX if self.narrow is None else self.narrow(x_BX)
        for kind, k_BW in zip(self.kinds, vectors, strict=True):
            of_kind_BH = self.get_submodule(f"of_{kind}")(k_BW)
            gate = self._modules.get(f"gate_of_{kind}")
            if gate is None:
                pre_BH = pre_BH + of_kind_BH
            else:
                pre_BH = torch.addcmul(pre_BH, gate(x_BR).sigmoid(), of_kind_BH)
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


def _is_of(kind: str, name: str) -> bool:
    return name.startswith((f"of_{kind}.", f"gate_of_{kind}."))


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
