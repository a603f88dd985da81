"""Models by name: the shipped ones, and any ``package.module:factory`` of a user's own."""

import importlib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

import torch
from torch import Tensor, nn

from networks.dcnv2 import DcnV2
from networks.deepfm import DeepFM
from networks.din import Din
from networks.inputs import Inputs
from networks.mlp import Mlp
from networks.shape import ModelShape
from trainer.errors import ModelError

OURS: Final = frozenset(
    [
        "keepstream",
        "serving",
        "extractor",
        "trainer",
        "replay",
        "knowledge_store",
        "stream",
        "networks",
    ]
)


ModelFactory = Callable[..., nn.Module]
"""``factory(shape: ModelShape, hidden=…, **options)``: a module, ``forward(inputs) → logit_B``.

``options`` are what the configuration's ``options`` table holds. A model has one mode: it is never
switched to ``eval()``, so what differs in training (dropout, statistics of the batch) has no place
in it. `trainer.checks.check_model` tells whether a model keeps this.
"""

SHIPPED: Final[dict[str, ModelFactory]] = {
    "din": Din,
    "dcnv2": DcnV2,
    "deepfm": DeepFM,
    "mlp": Mlp,
}


def find_factory(name: str) -> ModelFactory:
    """Return the factory of a shipped ``name``, or the one that ``package.module:factory`` names.

    Raises:
        ModelError: nothing has that name, or the module fails to import.

    """
    if ":" not in name:
        if name not in SHIPPED:
            near = get_close_matches(name, SHIPPED, 1)
            guess = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SHIPPED)}."
            raise ModelError(
                f"There is no model {name!r}: {guess} "
                "A model of your own is 'package.module:factory'."
            )
        return SHIPPED[name]
    module_name, _, attribute = name.partition(":")
    if module_name.split(".")[0] in OURS:
        raise ModelError(
            f"{name}: {module_name.split('.')[0]!r} is a package of keepstream, which hides any "
            f"other of that name. Put the model into a package named otherwise."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        )
        reason = f"there is no module {error.name!r}" if absent else f"its import failed ({error})"
        move = "install it, or put its folder on PYTHONPATH." if absent else "repair the module."
        raise ModelError(f"{name}: {reason}: {move}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ModelError(
            f"{name}: {module_name} has no callable {attribute!r}: "
            "name the function or class that builds the model."
        )
    found: ModelFactory = factory
    return found


def load_model(
    model: str | ModelFactory, shape: ModelShape, options: Mapping[str, Any]
) -> nn.Module:
    """Build ``model`` for ``shape`` and try it on two blank examples.

    Raises:
        ModelError: see `find_factory`; or the factory refuses ``options``, or what it returns is no
            module that gives one float32 logit an example.

    """
    name = model if isinstance(model, str) else getattr(model, "__name__", repr(model))
    if shape.flat_width == 0:
        raise ModelError(
            f"{name}: the features name no id, no sequence and no number: configure at least one."
        )
    factory = find_factory(model) if isinstance(model, str) else model
    try:
        network = factory(shape, **options)
    except TypeError as error:
        raise ModelError(
            f"{name}: does not take (shape, {', '.join(options)}): {error}. Accept these options, "
            "or take them out of the configuration."
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{name}: returned {type(network).__name__}, not a torch module: "
            "return an nn.Module whose forward(inputs) gives one logit an example."
        )
    with torch.no_grad():
        logit = network(blank(shape, 2))
    if not (isinstance(logit, Tensor) and logit.shape == (2,) and logit.dtype == torch.float32):
        what = (
            f"{tuple(logit.shape)} {logit.dtype}"
            if isinstance(logit, Tensor)
            else repr(type(logit))
        )
        raise ModelError(
            f"{name}: 2 examples gave {what}, not float32 (2,): return one logit an example."
        )
    return network


def blank(shape: ModelShape, examples: int) -> Inputs:
    """Return ``examples`` inputs without any id, element or number."""
    width = shape.embedding_width
    return Inputs(
        ids_BFE=torch.zeros(examples, len(shape.id_fields), width),
        sequences_BLE=tuple(torch.zeros(examples, n, width) for _, n in shape.sequences),
        masks_BL=tuple(torch.zeros(examples, n, dtype=torch.bool) for _, n in shape.sequences),
        numbers_BD=torch.zeros(examples, len(shape.numbers)),
    )
