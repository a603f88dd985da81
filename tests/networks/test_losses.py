import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from networks.losses import listwise, log_loss


def rows(draw_rows):
    """Return the columns of drawn (logit, label, group) rows."""
    logit, label, group = zip(*draw_rows, strict=True)
    groups = sorted(set(group))
    return (
        torch.tensor(logit, dtype=torch.float32, requires_grad=True),
        torch.tensor(label, dtype=torch.float32),
        torch.tensor([groups.index(g) for g in group]),
        len(groups),
    )


def reference(logit_B, label_B, group_B):
    """Return the loss by its definition, a request at a time."""
    total = torch.zeros(())
    for g in group_B.unique():
        inside = group_B == g
        positives = label_B[inside].sum()
        if positives > 0 and inside.sum() > 1:
            target = label_B[inside] / positives
            total = total - (target * torch.log_softmax(logit_B[inside], 0)).sum()
    return total / logit_B.numel()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-30, 30, width=32), st.integers(0, 1), st.integers(0, 6)),
        min_size=1,
        max_size=40,
    )
)
def test_listwise_equals_its_definition_with_its_gradient(examples):
    """Whatever the order of the rows: the scattered form is only a faster way to say it."""
    logit_B, label_B, group_B, groups = rows(examples)
    loss = listwise(logit_B, label_B, group_B, groups)
    expected = reference(logit_B, label_B, group_B)

    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    (gradient_B,) = torch.autograd.grad(loss, logit_B)
    if expected.requires_grad:
        (expected_B,) = torch.autograd.grad(expected, logit_B)
        torch.testing.assert_close(gradient_B, expected_B, rtol=1e-4, atol=1e-5)
    else:
        assert gradient_B.abs().sum().item() == 0.0


def test_a_request_without_a_click_or_with_one_row_says_nothing():
    """There is no order to learn from it."""
    logit_B = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    loss = listwise(logit_B, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0, 0, 1]), 2)
    loss.backward()

    assert loss.item() == 0.0
    assert logit_B.grad.tolist() == [0.0, 0.0, 0.0]


def test_equal_logits_cost_the_log_of_the_choices():
    """Four equal rows, one clicked: log 4 for the request, a fourth of it for the batch's mean."""
    loss = listwise(torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.zeros(4).long(), 1)

    assert math.isclose(math.log(4) / 4, loss.item(), rel_tol=1e-6)


def test_listwise_survives_great_logits():
    """The softmax is shifted by its greatest logit, so that no exp overflows."""
    loss = listwise(torch.tensor([1e4, -1e4]), torch.tensor([1.0, 0.0]), torch.zeros(2).long(), 1)

    assert loss.item() == 0.0


def test_listwise_repeats_bit_for_bit_on_two_threads():
    """A sum in another order would be another run: restarts must not differ."""
    generator = torch.Generator().manual_seed(0)
    logit_B = torch.randn(100_000, generator=generator, requires_grad=True)
    label_B = (torch.rand(100_000, generator=generator) < 0.1).float()
    group_B = torch.randint(0, 9_000, (100_000,), generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(5):
            loss = listwise(logit_B, label_B, group_B, 9_000)
            runs.append((loss.item(), *torch.autograd.grad(loss, logit_B)))
    finally:
        torch.set_num_threads(threads)

    assert all(runs[0][0] == loss and torch.equal(runs[0][1], grad) for loss, grad in runs)


def test_log_loss_is_the_mean_in_nats():
    """A coin's log loss is log 2."""
    assert math.isclose(math.log(2), log_loss(torch.zeros(3), torch.ones(3)).item(), rel_tol=1e-6)
