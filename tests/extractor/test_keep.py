"""The extractor's network: what it adds up, and who owns what of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from extractor.config import ExtractorConfig
from extractor.keep import LEAK, Keep, keep_factory
from extractor.sides import Sides
from networks.inputs import Inputs
from networks.shape import ModelShape
from trainer.checks import sample_batch
from trainer.errors import ModelError
from trainer.learner import Learner
from trainer.learner_config import LearnerConfig

SHAPE = ModelShape(
    id_fields=("user", "item", "scene", "category", "country", "scene*item"),
    sequences=(("tags", 2), ("history", 4)),
    sequence_targets=(None, 1),
    numbers=("price", "item.ctr.0.5h", "user.age", "hour_sin", "user*item.shown.3h", "scene.age"),
    embedding_width=8,
)
FIELDS = ExtractorConfig(category="category", user_fields=("country",), width=6)
CONFIG = LearnerConfig(model="keep", hidden=(12,), embedding_width=8, learning_rate=0.01)


def inputs(n, seed=0, shape=SHAPE):
    """Return ``n`` random examples, whose histories are of all lengths."""
    draw = torch.Generator().manual_seed(seed)
    masks = tuple(torch.rand(n, length, generator=draw) < 0.6 for _, length in shape.sequences)
    return Inputs(
        ids_BFE=torch.randn(n, len(shape.id_fields), 8, generator=draw),
        sequences_BLE=tuple(torch.randn(*m.shape, 8, generator=draw) * m[..., None] for m in masks),
        masks_BL=masks,
        numbers_BD=torch.randn(n, len(shape.numbers), generator=draw),
    )


def learner(seed=0, shape=SHAPE, tasks=1, config=FIELDS, **options):
    """Return one that learns the model."""
    factory = keep_factory(config, tasks=tasks)
    return Learner(replace(CONFIG, **options), shape, max_rows=500, seed=seed, factory=factory)


@pytest.mark.parametrize(
    ("side", "ids", "numbers"),
    [
        ("item", (1, 3), (1,)),
        ("user", (0, 4), (2,)),
        ("context", (2,), (3, 5)),
        ("pair", (5,), (0, 4)),
    ],
)
def test_every_input_belongs_to_one_side(side, ids, numbers):
    """What speaks of two entities must not get into the vector of one."""
    sides = Sides(SHAPE, item_fields=(), user_fields=("country",), category="category")

    found = getattr(sides, side)

    assert (ids, numbers) == (found.ids, found.numbers)
    assert (1, (0,), 3) == (sides.history, sides.lists, sides.query)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("item.clicked.48h", "item"),
        ("item*category.ctr.1e+05h", "item"),
        ("last_click.shown.12h", "user"),
        ("last_click*item.age", "pair"),
        ("item.ctr.3h - request", "pair"),
        ("weekend", "context"),
        ("scene*device.shown.0.1h", "context"),
        ("item.ctr", "pair"),
    ],
)
def test_a_number_is_known_by_its_name(name, side):
    """A shape has names only; a number of the event that looks like a statistic is none."""
    sides = Sides(SHAPE, category="category")

    assert side == sides.of_number(name)


def test_the_logit_is_the_sum_of_its_parts():
    """Users and items must be all that a product of two vectors says; the rest is written out."""
    torch.manual_seed(0)
    model = Keep(SHAPE, hidden=(12,), extractor=FIELDS)
    given = inputs(5)
    ids, numbers = given.ids_BFE, given.numbers_BD
    history, mask = given.sequences_BLE[1], given.masks_BL[1]
    mean = history.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    tags = given.sequences_BLE[0].sum(1) / given.masks_BL[0].sum(1, keepdim=True).clamp(min=1)
    item = model.item(torch.cat([ids[:, 1], ids[:, 3], numbers[:, [1]]], 1))
    user = model.user(torch.cat([ids[:, 0], ids[:, 4], numbers[:, [2]], mean], 1))
    context = model.context(torch.cat([ids[:, 2], numbers[:, [3, 5]], tags], 1))
    pair = model.pair(torch.cat([ids[:, 5], numbers[:, [0, 4]]], 1))[:, 0]
    interaction = model.interaction(ids[:, 3], history)

    products = ((user + context)[:, :4] * item[:, :4]).sum(1) * 3 / 4**0.5
    biases = item[:, 4] + user[:, 4] + context[:, 4]

    torch.testing.assert_close(products + biases + pair + interaction, model(given))


def test_an_interaction_is_of_the_attended_history():
    """f(W [a, q, a * q] + b): without a history it says what the query alone says."""
    torch.manual_seed(0)
    part = Keep(SHAPE, extractor=FIELDS).interaction
    query, keys = torch.randn(3, 8), torch.randn(3, 4, 8)
    keys[0] = 0
    attended = part.attention(query, keys)

    hidden = part.hidden(torch.cat([attended, query, attended * query], 1))
    expected = torch.where(hidden > 0, hidden, LEAK * hidden)

    torch.testing.assert_close(part.vectors(query, keys), expected)
    assert not attended[0].any()
    torch.testing.assert_close((expected @ part.top.weight.T)[:, 0], part(query, keys))


@pytest.mark.parametrize(
    "shape",
    [
        ModelShape(("item", "user"), (), (), (), 8),
        ModelShape(("user", "item", "scene"), (("tags", 3),), (None,), ("item.age",), 8),
        SHAPE,
    ],
    ids=["ids alone", "no history", "everything"],
)
def test_it_learns_and_restarts_with_any_features(shape):
    """No history, no context, no pair: each part may be missing; a restart changes no bit."""
    config = FIELDS if shape is SHAPE else ExtractorConfig()
    one, resumed = learner(shape=shape, config=config), learner(seed=1, shape=shape, config=config)
    batches = [sample_batch(shape, seed=seed) for seed in range(3)]
    scored = one.score(batches[0])
    np.testing.assert_array_equal(scored[: batches[0].fresh], one.learn(batches[0]))
    one.learn(batches[1])
    resumed.restore(one.state())

    assert not np.array_equal(scored, one.score(batches[0]))
    np.testing.assert_array_equal(one.learn(batches[2]), resumed.learn(batches[2]))
    assert one.weights_digest() == resumed.weights_digest()


def test_every_part_learns():
    """A part without a gradient would be noise in all vectors."""
    torch.manual_seed(0)
    model = Keep(SHAPE, hidden=(12,), extractor=FIELDS, tasks=3)

    model.task_logits(inputs(50)).square().sum().backward()

    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [] == silent


def test_other_tasks_begin_as_the_click_and_leave_it_as_it_is():
    """One task has no weights for more; the click's logit does not pass through the others'."""
    torch.manual_seed(0)
    alone = Keep(SHAPE, hidden=(12,), extractor=FIELDS)
    torch.manual_seed(0)
    several = Keep(SHAPE, hidden=(12,), extractor=FIELDS, tasks=3)
    given = inputs(4)

    logits = several.task_logits(given)

    assert (4, 3) == logits.shape
    torch.testing.assert_close(logits, alone(given)[:, None].expand(4, 3))
    torch.testing.assert_close(alone.task_logits(given)[:, 0], alone(given))
    more = {name for name, _ in several.named_parameters()} - {
        n for n, _ in alone.named_parameters()
    }
    assert {"others.weight", "others.bias"} == more


def test_the_learner_learns_all_tasks():
    """The labels of the others are bits of the actions."""
    both = learner(tasks=2)
    before = both.network.others.bias.detach().clone()
    batch = replace(sample_batch(SHAPE), actions=np.full(len(sample_batch(SHAPE)), 3, np.uint8))

    both.learn(batch)

    assert not torch.equal(before, both.network.others.bias)


def test_what_the_history_lacks_says_nothing():
    """Padding, however long, must not change a score."""
    torch.manual_seed(0)
    model = Keep(SHAPE, extractor=FIELDS)
    given = inputs(3)
    padded = Inputs(
        ids_BFE=given.ids_BFE,
        sequences_BLE=tuple(torch.cat([s, torch.zeros(3, 2, 8)], 1) for s in given.sequences_BLE),
        masks_BL=tuple(torch.cat([m, torch.zeros(3, 2) > 0], 1) for m in given.masks_BL),
        numbers_BD=given.numbers_BD,
    )

    torch.testing.assert_close(model(given), model(padded))


@pytest.mark.parametrize(
    ("ids", "config", "said"),
    [
        (("item", "scene"), {}, "'user' is not among"),
        (("user", "scene"), {}, "'item' is not among"),
        (("item", "user"), {"category": "section"}, "'section' is not among"),
        (("item", "user", "x"), {"category": "x", "user_fields": ("x",)}, "the item's and the"),
    ],
)
def test_a_model_without_sides_is_refused(ids, config, said):
    """The message names the field and where to put it."""
    shape = ModelShape(ids, (), (), (), 8)

    with pytest.raises(ModelError, match=said):
        learner(shape=shape, config=ExtractorConfig(**config))


def test_the_bilinear_score_finds_who_likes_what():
    """Users of two tastes and items of two kinds: no bias of either explains a click."""
    shape = ModelShape(("user", "item"), (), (), (), 8)
    one = learner(shape=shape, config=ExtractorConfig(width=6), embedding_learning_rate=0.1)
    one.reset_rows(np.arange(1, 41), np.arange(1, 41, dtype=np.uint64))
    draw = np.random.default_rng(0)
    right = []
    for step in range(150):
        batch = sample_batch(shape, seed=step)
        users, items = draw.integers(1, 21, (2, len(batch)))
        likes = ((users + items) % 2).astype(np.float32)
        batch = replace(batch, rows=np.stack([users, 20 + items], 1), label=likes)
        p = one.learn(batch)
        right += ((p > 0.5) == batch.label[: batch.fresh]).tolist() if step >= 130 else []

    assert np.mean(right) > 0.9
