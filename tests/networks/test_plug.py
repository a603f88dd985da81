import threading
from dataclasses import replace

import pytest
import torch

from networks.inputs import Inputs
from networks.layers import Tower
from networks.plug import Plug, find_tower
from networks.plug_config import PlugConfig, PlugError, kinds_used
from networks.selection import Appended, Selection
from networks.shape import ModelShape

SHAPE = ModelShape(
    id_fields=(),
    sequences=(),
    sequence_targets=(),
    numbers=("a", "b", "c", "d", "e"),
    embedding_width=4,
    knowledge=(("user", 3), ("item", 3), ("topic", 2)),
)
KINDS = ("topic", "user", "match")


def inputs(size=6):
    """Return examples of which the first knows nothing and the second no user."""
    knowledge_BK, known_BJ = torch.randn(size, 8), torch.ones(size, 3)
    known_BJ[0], known_BJ[1, 0] = 0, 0
    knowledge_BK[0], knowledge_BK[1, :3] = 0, 0
    return Inputs(
        ids_BFE=torch.zeros(size, 0, 4),
        sequences_BLE=(),
        masks_BL=(),
        numbers_BD=torch.randn(size, 5),
        knowledge_BK=knowledge_BK,
        known_BJ=known_BJ,
    )


def plugged(**options):
    """Return a tower with a plug whose weights are all drawn."""
    torch.manual_seed(0)
    tower = Tower(5, (4, 7))
    plug = Plug(PlugConfig(**{"kinds": KINDS, **options}), SHAPE, tower, seed=1)
    with torch.no_grad():
        for weight in plug.parameters():
            weight.normal_()
    return tower, plug


def parts(layer, knowledge_BK):
    """Return P k of each kind, written out."""
    user_BW, item_BW, topic_BW = knowledge_BK.split([3, 3, 2], dim=1)
    vectors = {"topic": topic_BW, "user": user_BW, "match": user_BW * item_BW}
    return [vectors[kind] @ layer.of[f"{kind}_WH"] for kind in KINDS]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("gates", ["layer", "kind"])
@pytest.mark.parametrize(("gate", "rank"), [("scalar", None), ("vector", None), ("vector", 2)])
def test_a_gated_plug_adds_what_its_formula_says(layer, gates, gate, rank):
    """The formula is act(W x + b + gate(x) * P k), with gate(x) = sigmoid(V U x + c) or of u x."""
    tower, plug = plugged(layers=(layer - 2,), gates=gates, gate=gate, gate_rank=rank)
    given = inputs()
    first, second = tower.layers
    own = plug.layers[str(layer)]
    x_BX = given.numbers_BD if layer == 0 else torch.relu(first(given.numbers_BD))
    x_BR = x_BX if rank is None else x_BX @ own.narrow.weight.T
    gates_BH = [torch.sigmoid(x_BR @ g.weight.T + g.bias) for g in own.gates.values()]
    of_kinds = parts(own, given.knowledge_BK)
    sum_BH = sum(g * p for g, p in zip(gates_BH * (4 - len(gates_BH)), of_kinds, strict=False))
    pre_BH = (first, second)[layer](x_BX) + sum_BH
    expected = torch.relu(second(torch.relu(pre_BH)) if layer == 0 else pre_BH)

    with plug.fed(given):
        torch.testing.assert_close(tower(given.numbers_BD), expected)


def test_an_ungated_plug_only_adds():
    """It is the plainest reading of the paper, and there to be compared with."""
    tower, plug = plugged(mode="add", layers=(0,))
    given = inputs()
    first, second = tower.layers
    pre_BH = first(given.numbers_BD) + sum(parts(plug.layers["0"], given.knowledge_BK))

    with plug.fed(given):
        torch.testing.assert_close(tower(given.numbers_BD), torch.relu(second(torch.relu(pre_BH))))


def test_a_gate_teaches_nothing_to_what_it_looks_at():
    """It weighs knowledge by the model's inputs; these are learned as the model itself needs."""
    for gate in ("scalar", "vector"):
        tower, plug = plugged(gate=gate)
        given = inputs()
        x_BX = given.numbers_BD.clone().requires_grad_()
        with torch.no_grad():
            for layer in tower.layers:
                layer.weight.zero_()
        with plug.fed(given):
            tower(x_BX).sum().backward()

        assert 0 == x_BX.grad.count_nonzero()


@pytest.mark.parametrize("gates", ["layer", "kind"])
@pytest.mark.parametrize("gate", ["scalar", "vector"])
@pytest.mark.parametrize("mode", ["gated", "add"])
def test_an_example_without_vectors_is_what_it_was(mode, gates, gate):
    """Whoever is unknown to the super-domain must not be worse off for others being known."""
    tower, plug = plugged(mode=mode, gates=gates, gate=gate, layers=(0, 1))
    given = inputs()
    bare_BH = tower(given.numbers_BD)
    with plug.fed(given):
        with_plug_BH = tower(given.numbers_BD)

    assert torch.equal(bare_BH[0], with_plug_BH[0])
    assert not torch.equal(bare_BH[1], with_plug_BH[1])


def test_knowledge_gets_no_gradient_and_the_plug_does():
    """Vectors are frozen: the store's are everybody's."""
    tower, plug = plugged()
    given = inputs()
    with plug.fed(given):
        tower(given.numbers_BD).sum().backward()

    assert given.knowledge_BK.grad is None
    assert all(weight.grad is not None for weight in plug.parameters())


def test_first_weights_hang_on_the_seed_alone():
    """A plug that is added to a run that is restored must begin as in the run that went on."""
    torch.manual_seed(5)
    tower = Tower(5, (4, 7))
    drawn = torch.rand(())
    plugs = [Plug(PlugConfig(), SHAPE, tower, seed=seed) for seed in (1, 1, 2)]
    torch.manual_seed(5)
    Tower(5, (4, 7))
    one, same, other = ([*plug.state_dict().values()] for plug in plugs)

    assert drawn == torch.rand(())
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_another_thread_is_fed_apart():
    """A server scores in many threads with one model."""
    tower, plug = plugged()
    given = inputs()
    bare_BH = tower(given.numbers_BD)
    seen = []
    with plug.fed(given):
        thread = threading.Thread(target=lambda: seen.append(tower(given.numbers_BD)))
        thread.start()
        thread.join()

    assert torch.equal(bare_BH, seen[0])


def test_what_fits_goes_on_and_what_is_new_is_neutral():
    """A kind that is added later must not cost what was learned of the others."""
    _, old = plugged(kinds=("user",), layers=(0,))
    _, new = plugged(kinds=("user", "item"), layers=(0, 1))
    taken = new.take_over("gated", dict(old.state_dict()))

    assert set(old.state_dict()) == taken
    assert torch.equal(old.layers["0"].of["user_WH"], new.layers["0"].of["user_WH"])
    assert 0 == new.layers["0"].of["item_WH"].count_nonzero()
    assert 0 == new.layers["1"].of["user_WH"].count_nonzero()


@pytest.mark.parametrize(
    "change",
    [
        {"gate_rank": 3},
        {"gate_rank": None},
        {"gate": "scalar"},
        {"gates": "kind"},
        {"mode": "add"},
    ],
)
def test_behind_another_gate_a_projection_begins_anew(change):
    """Halved by its gate or not at all, the same projection would say something else."""
    _, old = plugged(gate="vector", layers=(0,))
    _, new = plugged(**{"gate": "vector", "layers": (0,), **change})
    taken = new.take_over("gated", dict(old.state_dict()))

    assert not {name for name in taken if ".of." in name}
    assert 0 == sum(int(p.count_nonzero()) for p in new.layers["0"].of.values())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"mode": "gate"}, "no plug 'gate': write one of none, gated, add, concat"),
        ({"gates": "unit"}, "no gates 'unit'"),
        ({"kinds": ("user", "user")}, "name each once"),
        ({"gate": "matrix"}, "no gate 'matrix'"),
        ({"layers": ()}, "name at least one"),
        ({"layers": (0, -2)}, "name each once, of 2 hidden"),
        ({"layers": (-3,)}, "layer -3 is not there"),
        ({"gate_rank": 0}, "1 or more"),
        ({"layers": (2,)}, "layer 2 is not there: the model's tower has 2"),
        ({"kinds": ("users",)}, r"'users' is not with the examples, which carry user \(3\)"),
    ],
)
def test_a_plug_without_sense_is_refused(config, said):
    """At start, where the user is still looking."""
    with pytest.raises(PlugError, match=said):
        Plug(PlugConfig(**config), SHAPE, Tower(5, (4, 7)), seed=0)


@pytest.mark.parametrize(
    ("knowledge", "kinds"),
    [((), ()), ((("user", 3),), ("match",)), ((("user", 3), ("item", 2)), ("match",))],
)
def test_kinds_that_cannot_be_had_are_refused(knowledge, kinds):
    """A plug of nothing would be a run of nothing, told apart from none by nobody."""
    with pytest.raises(PlugError, match="carry"):
        kinds_used(PlugConfig(kinds=kinds), replace(SHAPE, knowledge=knowledge))


def test_all_kinds_are_used_unless_some_are_named():
    """A store that gives one more kind is made use of by a restart."""
    given = inputs()

    assert {"user": 3, "item": 3, "topic": 2} == kinds_used(PlugConfig(), SHAPE)
    assert torch.equal(given.knowledge_BK, Selection(PlugConfig(), SHAPE)(given))


def test_appended_vectors_are_numbers_like_others():
    """So concatenation, to compare with, needs nothing of any model."""
    append = Appended(PlugConfig(mode="concat", kinds=("match",)), SHAPE)
    given = inputs()
    wide = append.widen(SHAPE)
    numbers_BD = append(given).numbers_BD
    user_BW, item_BW, _ = given.knowledge_BK.split([3, 3, 2], dim=1)

    assert wide.numbers[5:] == ("match.0", "match.1", "match.2", *(f"{k}.known" for k in
                                ("user", "item", "topic")))  # fmt: skip
    assert wide.flat_width == numbers_BD.shape[1]
    assert torch.equal(numbers_BD[:, 5:8], user_BW * item_BW)
    assert torch.equal(numbers_BD[:, 8:], given.known_BJ)


class Named(torch.nn.Module):
    """Has two towers, of which one is called so."""

    def __init__(self):
        super().__init__()
        self.left, self.tower = Tower(5, (4,)), Tower(5, (4,))
        Named.last = self.tower


def test_the_tower_is_found_by_name_or_because_it_is_the_only_one():
    """A model with two must say which one knowledge belongs to."""
    one = torch.nn.Sequential(Tower(5, (4,)))
    two = torch.nn.ModuleDict({"left": Tower(5, (4,)), "right": Tower(5, (4,))})
    assert find_tower(one) is one[0]
    with pytest.raises(PlugError, match=r"2 networks\.layers\.Tower"):
        find_tower(two)

    assert find_tower(Named()) is Named.last
    with pytest.raises(PlugError, match=r"no networks\.layers\.Tower"):
        find_tower(torch.nn.Linear(2, 1))


@pytest.mark.parametrize("knowledge", [(("user", 0),), (("user", 2), ("user", 3))])
def test_a_shape_names_each_kind_once_with_a_width(knowledge):
    """Columns are found by name."""
    with pytest.raises(ValueError, match="name each kind once"):
        replace(SHAPE, knowledge=knowledge)
