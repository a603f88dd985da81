"""DIN, DCN V2, DeepFM: each against its paper's formula, written out."""

import pytest
import torch

from networks.dcnv2 import Cross
from networks.deepfm import FactorizationMachine
from networks.din import Din, LocalActivation
from networks.inputs import Inputs
from networks.shape import ModelShape


def test_local_activation_equals_the_network_over_the_concatenation():
    """The folded first layer must be DIN's own: over [q, k, q - k, q * k], not normalised."""
    torch.manual_seed(0)
    width, units, length, size = 6, 5, 4, 3
    unit = LocalActivation(width, units)
    query_BE, keys_BLE = torch.randn(size, width), torch.randn(size, length, width)
    q_BLE = query_BE.unsqueeze(1).expand_as(keys_BLE)
    x_BLX = torch.cat([q_BLE, keys_BLE, q_BLE - keys_BLE, q_BLE * keys_BLE], dim=2)
    of_difference_EA = torch.randn(width, units)  # any: the blocks of q and k absorb it
    weight_XA = torch.cat(
        [
            unit.of_query.weight.T - of_difference_EA,
            unit.of_key_EA + of_difference_EA,
            of_difference_EA,
            unit.of_product_EA,
        ]
    )

    activation_BL1 = unit.top(torch.relu(x_BLX @ weight_XA + unit.of_query.bias))
    expected_BE = (activation_BL1 * keys_BLE).sum(1)

    torch.testing.assert_close(unit(query_BE, keys_BLE), expected_BE)


def test_an_absent_element_is_not_attended():
    """Padding must not change an answer: the same history, padded further, scores the same."""
    torch.manual_seed(0)
    unit = LocalActivation(4, 3)
    query_BE, keys_BLE = torch.randn(2, 4), torch.randn(2, 3, 4)
    padded_BLE = torch.cat([keys_BLE, torch.zeros(2, 5, 4)], dim=1)

    torch.testing.assert_close(unit(query_BE, padded_BLE), unit(query_BE, keys_BLE))


def test_each_sequence_attends_to_its_own_target():
    """Clicked items answer to the item, topics to the topic; without a target it is a mean."""
    shape = ModelShape(
        id_fields=("user", "item", "topic"),
        sequences=(("clicked", 2), ("seen", 2), ("topics", 2)),
        sequence_targets=(1, None, 2),
        numbers=(),
        embedding_width=4,
    )
    torch.manual_seed(0)
    model = Din(shape, hidden=())
    ids_BFE = torch.randn(3, 3, 4)
    sequences = tuple(torch.randn(3, 2, 4) for _ in range(3))
    masks = tuple(torch.ones(3, 2, dtype=torch.bool) for _ in range(3))
    clicked, topics = model.attention

    x_BX = torch.cat(
        [
            ids_BFE.flatten(1),
            clicked(ids_BFE[:, 1], sequences[0]),
            sequences[1].mean(1),
            topics(ids_BFE[:, 2], sequences[2]),
        ],
        dim=1,
    )
    logit_B = model(
        Inputs(
            ids_BFE=ids_BFE, sequences_BLE=sequences, masks_BL=masks, numbers_BD=torch.zeros(3, 0)
        )
    )

    torch.testing.assert_close(logit_B, model.top(x_BX).squeeze(1))


@pytest.mark.parametrize("rank", [None, 2])
def test_a_cross_layer_multiplies_the_input_with_a_map_of_what_came_before(rank):
    """DCN V2, equation 1: x_{l+1} = x_0 * (W x_l + b) + x_l."""
    torch.manual_seed(0)
    cross = Cross(5, 2, rank)
    x0_BX = torch.randn(3, 5)
    first, second = cross.layers

    x1_BX = x0_BX * first(x0_BX) + x0_BX
    expected_BX = x0_BX * second(x1_BX) + x1_BX

    torch.testing.assert_close(cross(x0_BX), expected_BX)


def test_a_low_rank_cross_has_two_narrow_matrices():
    """That is the point of it: 2 X r weights in place of X squared."""
    weights = sum(p.numel() for p in Cross(100, 1, 4).parameters())

    assert weights == 2 * 100 * 4 + 100


def test_the_factorisation_machine_sums_all_pairs():
    """The linear-time form must equal the sum over pairs that it stands for."""
    torch.manual_seed(0)
    machine = FactorizationMachine(3, 4)
    ids_BFE, pooled_BE, numbers_BD = torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 3)
    fields_BFE = torch.cat(
        [ids_BFE, pooled_BE.unsqueeze(1), numbers_BD.unsqueeze(2) * machine.of_number_DE], dim=1
    )
    products_BFF = fields_BFE @ fields_BFE.transpose(1, 2)

    expected_B = products_BFF.triu(1).sum((1, 2))

    torch.testing.assert_close(machine([ids_BFE, pooled_BE.unsqueeze(1)], numbers_BD), expected_B)
