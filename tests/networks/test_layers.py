import pytest
import torch

from networks.inputs import Inputs
from networks.layers import Tower, flatten, mean_pool, mean_pools
from networks.shape import ModelShape


def test_a_tower_is_its_layers_with_relu_between():
    """Other modules rely on it being the plain stack that everyone knows."""
    torch.manual_seed(0)
    tower = Tower(5, (4, 3))
    x_BX = torch.randn(7, 5)
    first, second = tower.layers

    expected = torch.relu(second(torch.relu(first(x_BX))))

    assert torch.equal(expected, tower(x_BX))
    assert tower.width == 3


def test_a_tower_without_layers_returns_its_input():
    """`hidden = []` makes any model linear on its inputs."""
    x_BX = torch.randn(2, 5)

    assert torch.equal(x_BX, Tower(5, ())(x_BX))
    assert Tower(5, ()).width == 5


def test_what_overrides_hidden_reaches_every_pre_activation():
    """Here is the room in which knowledge is added later, with no tensor changing its shape."""

    class Shifted(Tower):
        def hidden(self, i, x_BX):
            return super().hidden(i, x_BX) + 10.0 * (i + 1)

    torch.manual_seed(0)
    plain = Tower(5, (4, 3))
    shifted = Shifted(5, (4, 3))
    shifted.load_state_dict(plain.state_dict())
    x_BX = torch.randn(7, 5)
    first, second = plain.layers

    expected = torch.relu(second(torch.relu(first(x_BX) + 10)) + 20)

    assert torch.equal(expected, shifted(x_BX))


def test_a_mean_counts_only_what_is_there():
    """A short history must not look weaker than a long one; an empty one is zero, not NaN."""
    sequence_BLE = torch.tensor([[[2.0], [4.0], [0.0]], [[0.0], [0.0], [0.0]]])
    mask_BL = torch.tensor([[True, True, False], [False, False, False]])

    assert mean_pool(sequence_BLE, mask_BL).tolist() == [[3.0], [0.0]]


def test_flattening_lays_fields_sequences_and_numbers_side_by_side():
    """Its width is what `ModelShape.flat_width` promises to every model."""
    shape = ModelShape(
        id_fields=("user", "item"),
        sequences=(("clicked", 3),),
        sequence_targets=(1,),
        numbers=("ctr",),
        embedding_width=2,
    )
    inputs = Inputs(
        ids_BFE=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]),
        sequences_BLE=(torch.tensor([[[5.0, 6.0], [0.0, 0.0], [0.0, 0.0]]]),),
        masks_BL=(torch.tensor([[True, False, False]]),),
        numbers_BD=torch.tensor([[7.0]]),
    )

    x_BX = flatten(inputs, mean_pools(inputs))

    assert x_BX.tolist() == [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    assert shape.flat_width == x_BX.shape[1]


@pytest.mark.parametrize("targets", [(), (2,), (-1,), (0, 0)])
def test_a_target_that_is_no_field_is_refused(targets):
    """A sequence compared with the wrong field would learn quietly and badly."""
    with pytest.raises(ValueError, match="sequence_targets"):
        ModelShape(
            id_fields=("user", "item"),
            sequences=(("clicked", 3),),
            sequence_targets=targets,
            numbers=(),
            embedding_width=2,
        )
