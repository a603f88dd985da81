import itertools
from typing import ClassVar

import pytest
import torch
from torch import nn

from networks.layers import flatten, mean_pools
from networks.mlp import Mlp
from trainer import checks
from trainer.checks import CHECKS, CheckFailed, check_model
from trainer.models import SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_keep_every_check(name):
    """What is asked of a user's model is kept by ours."""
    check_model(SHIPPED[name])


class Dropout(Mlp):
    """Drops inputs: its scores are drawn by lot."""

    def forward(self, inputs):
        """Return logit_B."""
        x_BX = nn.functional.dropout(flatten(inputs, mean_pools(inputs)), 0.5)
        return self.top(self.tower(x_BX)).squeeze(1)


class BatchNorm(Mlp):
    """Normalises by the batch, and counts batches."""

    def __init__(self, shape, *, hidden):
        super().__init__(shape, hidden=hidden)
        self.norm = nn.BatchNorm1d(shape.flat_width)

    def forward(self, inputs):
        """Return logit_B."""
        x_BX = self.norm(flatten(inputs, mean_pools(inputs)))
        return self.top(self.tower(x_BX)).squeeze(1)


class GradientAware(Mlp):
    """Flatters itself where it learns."""

    def forward(self, inputs):
        """Return logit_B."""
        return super().forward(inputs) + (1.0 if torch.is_grad_enabled() else 0.0)


class Unseeded(Mlp):
    """Begins elsewhere each time."""

    seeds: ClassVar = itertools.count()

    def __init__(self, shape, *, hidden):
        super().__init__(shape, hidden=hidden)
        generator = torch.Generator().manual_seed(next(self.seeds))
        nn.init.normal_(self.top.weight, generator=generator)


class Centred(Mlp):
    """Takes the batch's mean off its logits."""

    def forward(self, inputs):
        """Return logit_B."""
        logit_B = super().forward(inputs)
        return logit_B - logit_B.mean()


class Forgetful(Mlp):
    """Keeps what matters where no state holds it."""

    def __init__(self, shape, *, hidden):
        super().__init__(shape, hidden=hidden)
        self.shift = torch.randn(())

    def forward(self, inputs):
        """Return logit_B."""
        return super().forward(inputs) + self.shift


class Deaf(Mlp):
    """Listens to nothing."""

    def forward(self, inputs):
        """Return logit_B."""
        return 0.0 * super().forward(inputs)


class Dividing(Mlp):
    """Divides by a length that is 0 where there is nothing."""

    def forward(self, inputs):
        """Return logit_B."""
        x_BX = flatten(inputs, mean_pools(inputs))
        return super().forward(inputs) / x_BX.norm(dim=1)


class Hoarder(Mlp):
    """Keeps a tensor of every batch."""

    def forward(self, inputs):
        """Return logit_B."""
        self.__dict__.setdefault("kept", []).append(inputs.numbers_BD.detach().clone())
        return super().forward(inputs)


class Pickled(Mlp):
    """Has a state that only pickle could hold."""

    def get_extra_state(self):
        """Return what no JSON can say."""
        return {"seen": {1, 2}}

    def set_extra_state(self, state):
        """Take it back."""


class PlugAware(Mlp):
    """Looks whether it is plugged."""

    def forward(self, inputs):
        """Return logit_B."""
        return super().forward(inputs) + (0.0 if self.tower.plugged is None else 1.0)


class Counting(Mlp):
    """Learns through its tower and does not listen to it."""

    def forward(self, inputs):
        """Return logit_B."""
        x_BX = flatten(inputs, mean_pools(inputs))
        h_BH = self.tower(x_BX)
        return self.top(h_BH - h_BH.detach()).squeeze(1) + x_BX.sum(1) * self.top.bias


class Own(Mlp):
    """Has a layer of its own where others have a tower, and takes no plug."""

    def __init__(self, shape, *, hidden):
        super().__init__(shape, hidden=())
        self.tower = nn.Linear(shape.flat_width, shape.flat_width)
        self.top = nn.Linear(shape.flat_width, 1)


def test_a_model_that_takes_no_plug_is_a_model():
    """Knowledge is an offer: whoever builds no tower is asked nothing about it."""
    check_model(Own)


@pytest.mark.parametrize(
    ("factory", "check"),
    [
        (Dropout, checks.check_scoring_changes_nothing),
        (BatchNorm, checks.check_scoring_changes_nothing),
        (GradientAware, checks.check_learning_returns_what_scoring_said),
        (Unseeded, checks.check_same_seed_same_weights),
        (Centred, checks.check_batches_score_as_single_examples),
        (Forgetful, checks.check_restores_and_continues),
        (Deaf, checks.check_loss_goes_down),
        (Dividing, checks.check_absent_inputs_are_finite),
        (Hoarder, checks.check_memory_is_bounded),
        (Pickled, checks.check_state_is_plain),
        (PlugAware, checks.check_a_plug_changes_nothing_at_first),
        (PlugAware, checks.check_missing_knowledge_says_nothing),
        (Counting, checks.check_missing_knowledge_says_nothing),
        (Forgetful, checks.check_a_plug_restores_and_continues),
    ],
)
def test_a_bad_model_fails_by_the_name_of_the_promise_it_breaks(factory, check):
    """A check that cannot fail checks nothing."""
    with pytest.raises(CheckFailed, match=f"^{check.__name__}: ") as failure:
        check(factory)

    assert check.__name__ == failure.value.check


def test_the_suite_runs_every_check():
    """A check that is written but not listed would never run."""
    written = {name for name in vars(checks) if name.startswith("check_")} - {"check_model"}

    assert written == {check.__name__ for check in CHECKS}
