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
from networks.plug import Plug, find_tower
from networks.plug_config import PlugConfig, PlugError
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
MAX_TASKS: Final = 8  # bits of `Batch.actions`

ModelFactory = Callable[..., nn.Module]
"""``factory(shape: ModelShape, hidden=…, **options)``: a module, ``forward(inputs) → logit_B``.

``options`` are what the configuration's ``options`` table holds. A model has one mode: it is never
switched to ``eval()``, so what differs in training (dropout, statistics of the batch) has no place
in it. `trainer.checks.check_model` tells whether a model keeps this.

A model of several tasks has ``tasks`` > 1 and ``task_logits(inputs) → (B, tasks)``, of which
``forward`` gives column 0, the click; column t > 0 learns bit t of `Batch.actions`.
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
    if (tasks := tasks_of(network)) > 1:
        _try_tasks(name, network, shape, tasks, logit)
    return network


def tasks_of(network: nn.Module) -> int:
    """Return how many tasks a model has: 1 unless it says otherwise."""
    return int(getattr(network, "tasks", 1))


def _try_tasks(
    name: str, network: nn.Module, shape: ModelShape, tasks: int, logit_B: Tensor
) -> None:
    if tasks > MAX_TASKS:
        raise ModelError(
            f"{name}: has {tasks} tasks, and events tell {MAX_TASKS} actions apart: have fewer."
        )
    task_logits: Any = getattr(network, "task_logits", None)
    with torch.no_grad():
        answer = task_logits(blank(shape, 2)) if callable(task_logits) else None
    if not (isinstance(answer, Tensor) and answer.shape == (2, tasks)):
        raise ModelError(
            f"{name}: has {tasks} tasks, but no task_logits(inputs) that gives 2 examples "
            f"(2, {tasks}) logits: write one."
        )
    if not torch.allclose(answer[:, 0], logit_B, rtol=1e-4, atol=1e-5):
        raise ModelError(
            f"{name}: column 0 of task_logits(inputs) differs from forward(inputs): the first task "
            "is the click, let forward return it."
        )


def plug_into(network: nn.Module, config: PlugConfig, shape: ModelShape, *, seed: int) -> Plug:
    """Build the plug of a model and try it on two blank examples.

    Raises:
        ModelError: the plug does not fit what examples carry, or the model has no such layer.

    """
    name = type(network).__name__
    try:
        plug = Plug(config, shape, find_tower(network), seed=seed)
    except PlugError as error:
        raise ModelError(f"{name}: {error}") from error
    examples = blank(shape, 2)
    try:
        with torch.no_grad(), plug.fed(examples):
            network(examples)
    except RuntimeError as error:  # torch's word for shapes that do not fit
        raise ModelError(
            f"{name}: its Tower is not given one row an example ({error}): name `tower` the one "
            'that is, or plug "concat" or "none".'
        ) from error
    if unreached := plug.unreached():
        raise ModelError(
            f"{name}: hidden layers {unreached} of its Tower were not passed through: call the "
            'tower, and super().hidden() where you override it; or plug "concat" or "none".'
        )
    return plug


def blank(shape: ModelShape, examples: int) -> Inputs:
    """Return ``examples`` inputs without any id, element, number or knowledge."""
    width = shape.embedding_width
    return Inputs(
        ids_BFE=torch.zeros(examples, len(shape.id_fields), width),
        sequences_BLE=tuple(torch.zeros(examples, n, width) for _, n in shape.sequences),
        masks_BL=tuple(torch.zeros(examples, n, dtype=torch.bool) for _, n in shape.sequences),
        numbers_BD=torch.zeros(examples, len(shape.numbers)),
        knowledge_BK=torch.zeros(examples, shape.knowledge_width) if shape.knowledge else None,
        known_BJ=(
            torch.zeros(examples, len(shape.knowledge), dtype=torch.bool)
            if shape.knowledge
            else None
        ),
    )
