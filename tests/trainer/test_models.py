import sys
import textwrap

import pytest
import torch
from torch import nn

from networks.din import Din
from networks.mlp import Mlp
from networks.shape import ModelShape
from trainer.errors import ModelError
from trainer.models import SHIPPED, blank, find_factory, load_model

SHAPE = ModelShape(
    id_fields=("user",), sequences=(), sequence_targets=(), numbers=(), embedding_width=4
)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a user's modules into a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_load_by_name(name):
    """A configuration says `model = "din"` and no more."""
    model = load_model(name, SHAPE, {"hidden": (8,)})

    assert isinstance(model, nn.Module)
    assert model(blank(SHAPE, 3)).shape == (3,)


def test_a_user_names_a_factory_of_their_own(plugin):
    """Models are plug-ins: nothing of keepstream needs to change for a new one."""
    plugin("my_clicks", "from networks.mlp import Mlp\n\ndef small(shape, hidden, depth):"
           "\n    return Mlp(shape, hidden=hidden[:depth])\n")  # fmt: skip

    model = load_model("my_clicks:small", SHAPE, {"hidden": (8, 4), "depth": 1})

    assert isinstance(model, Mlp)
    assert model.tower.width == 8


def test_a_factory_may_be_given_as_it_is():
    """Checks and tests build models that no module holds."""
    assert isinstance(load_model(Din, SHAPE, {}), Din)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dim", "did you mean 'din'"),
        ("transformer", "there are din, dcnv2, deepfm, mlp"),
        ("not_there:make", "there is no module 'not_there'"),
        ("my_clicks.deeper:make", "there is no module 'my_clicks.deeper'|not a package"),
        ("my_clicks:other", "has no callable 'other'"),
        ("my_clicks:width", "has no callable 'width'"),
        ("my_broken:make", r"its import failed \(No module named 'lacking'\)"),
        ("networks.mine:make", "'networks' is a package of keepstream"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(plugin, name, said):
    """The place, the fact and the next move: not a traceback."""
    plugin("my_clicks", "width = 3")
    plugin("my_broken", "import lacking")

    with pytest.raises(ModelError, match=said):
        find_factory(name)


class TwoLogits(nn.Module):
    """Answers twice."""

    def __init__(self, shape):
        super().__init__()

    def forward(self, inputs):
        """Return two logits an example."""
        return torch.zeros(len(inputs), 2)


@pytest.mark.parametrize(
    ("factory", "options", "said"),
    [
        (lambda shape: object(), {}, "returned object, not a torch module"),
        (TwoLogits, {}, r"2 examples gave \(2, 2\) torch.float32, not float32 \(2,\)"),
        (Mlp, {"depth": 3}, r"does not take \(shape, depth\)"),
    ],
)
def test_what_is_no_model_is_refused_before_it_learns(factory, options, said):
    """A wrong shape would broadcast against the labels and learn nonsense without a word."""
    with pytest.raises(ModelError, match=said):
        load_model(factory, SHAPE, options)


def test_features_that_name_nothing_are_refused():
    """A model of no input can only learn the mean."""
    empty = ModelShape(
        id_fields=(), sequences=(), sequence_targets=(), numbers=(), embedding_width=4
    )

    with pytest.raises(ModelError, match="configure at least one"):
        load_model("din", empty, {})
