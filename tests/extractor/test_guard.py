from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.guard import Decision, Guard, GuardConfig, KindReport, Report

ACCEPT, HOLD, REFUSE = Decision.ACCEPT, Decision.HOLD, Decision.REFUSE

SOUND = KindReport(
    kind="item",
    width=64,
    vectors=11_000,
    vectors_before=10_000,
    fitted=4_000,
    cosine=0.93,
    coverage=0.81,
    coverage_before=0.80,
)
FIRST = KindReport(kind="item", width=64, vectors=50, coverage=0.4)
NAN = float("nan")


def judged(kind=SOUND, config=None, loss=None, loss_before=None, **changes):
    """Return the verdict on a generation of one kind."""
    report = Report(kinds=(replace(kind, **changes),), loss=loss, loss_before=loss_before)
    return Guard(config).judge(report)


def test_a_sound_refresh_is_accepted():
    """Without a word: nobody need look at it."""
    verdict = judged(loss=0.31, loss_before=0.30999)

    assert (ACCEPT, ()) == (verdict.decision, verdict.reasons)


def test_a_first_generation_has_nothing_to_drift_from():
    """Else there would never be one."""
    assert ACCEPT == judged(FIRST).decision
    assert ACCEPT == judged(FIRST, fitted=0, cosine=None).decision


@pytest.mark.parametrize(
    ("decision", "word", "changes"),
    [
        (HOLD, "cosine", {"cosine": 0.69}),
        (REFUSE, "not of one space", {"cosine": 0.29}),
        (REFUSE, "not of one space", {"cosine": -0.9}),
        (REFUSE, "not of one space", {"cosine": NAN}),
        (HOLD, "64 dimensions", {"fitted": 127}),
        (HOLD, "64 dimensions", {"fitted": 0}),
        (HOLD, "those of the stream", {"coverage": 0.09, "coverage_before": None}),
        (HOLD, "find a vector", {"coverage": NAN, "coverage_before": None}),
        (HOLD, "80.0% do in the last", {"coverage": 0.63}),
        (HOLD, "4,999 item vectors after 10,000", {"vectors": 4_999}),
        (REFUSE, "no item vector", {"vectors": 0}),
        (REFUSE, "1,234 item vectors are not finite", {"not_finite": 1_234}),
        (HOLD, "log loss is 0.3200", {"loss": 0.32, "loss_before": 0.31}),
        (REFUSE, "diverged", {"loss": NAN, "loss_before": 0.31}),
        (REFUSE, "diverged", {"loss": float("inf")}),
    ],
)
def test_each_fault_is_named(decision, word, changes):
    """Whoever finds the switch not made reads why, with the figure and what would do."""
    verdict = judged(**changes)

    assert decision == verdict.decision
    assert any(word in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    "changes",
    [
        {"cosine": 0.7},
        {"cosine": None},
        {"fitted": 128},
        {"fitted": None},
        {"coverage": 0.1, "coverage_before": None},
        {"coverage": 0.6401},
        {"coverage": None},
        {"vectors": 5_000},
        {"loss": 0.3059, "loss_before": 0.3},
    ],
)
def test_a_bound_that_is_just_met_will_do(changes):
    """What is not measured is not held against a generation either."""
    assert ACCEPT == judged(**changes).decision


def test_the_bounds_are_the_configured_ones():
    """A site may know its own drift."""
    loose = GuardConfig(min_cosine=0.2, broken_cosine=0.1, min_coverage=0.0, max_coverage_loss=1)

    assert ACCEPT == judged(config=loose, cosine=0.25, coverage=0.0).decision
    assert HOLD == judged(config=GuardConfig(min_cosine=0.95)).decision


def test_every_reason_is_told_the_gravest_first():
    """One mended after the other would cost a refresh each."""
    user = replace(SOUND, kind="user", vectors=0)
    verdict = Guard().judge(Report(kinds=(replace(SOUND, cosine=0.5, fitted=3), user)))

    assert REFUSE == verdict.decision
    assert ["user vector", "fitted on 3", "cosine of item"] == [
        word
        for reason in verdict.reasons
        for word in ("user vector", "fitted on 3", "cosine of item")
        if word in reason
    ]


def test_a_generation_of_nothing_is_refused():
    """An empty build is a mistake of the job, not knowledge."""
    assert REFUSE == Guard().judge(Report(kinds=())).decision


@given(
    st.floats(-1, 1), st.floats(0, 1), st.integers(0, 20_000), st.integers(0, 1_000), st.floats(0)
)
def test_a_better_generation_is_never_judged_worse(cosine, coverage, vectors, fitted, loss):
    """Raising any one figure must not turn an accepted generation away."""
    figures = {"cosine": cosine, "coverage": coverage, "vectors": vectors, "fitted": fitted}
    order = [ACCEPT, HOLD, REFUSE]
    before = order.index(judged(**figures, loss=loss, loss_before=0.3).decision)

    for name, better in {
        "cosine": 1.0,
        "coverage": 1.0,
        "vectors": 20_000,
        "fitted": 1_000,
    }.items():
        after = judged(**{**figures, name: better}, loss=loss, loss_before=0.3).decision
        assert order.index(after) <= before


def test_a_quiet_hours_loss_is_not_held_against_a_generation():
    """Forty clicks give a loss that is off by a tenth and more; forty thousand do not."""
    rise = {"loss": 0.345, "loss_before": 0.3}  # by 15 %

    def with_clicks(clicks, before):
        report = Report(kinds=(SOUND,), **rise, clicks=clicks, clicks_before=before)
        return Guard(GuardConfig(max_loss_rise=0.1)).judge(report).decision

    assert HOLD == with_clicks(None, None)
    assert HOLD == with_clicks(40_000, 40_000)
    assert ACCEPT == with_clicks(40, 40_000)
    assert ACCEPT == with_clicks(40_000, 40)


def test_a_wreck_is_held_however_few_clicks_tell_of_it():
    """Chance makes a loss differ by so much, and not by any amount."""
    report = Report(kinds=(SOUND,), loss=0.9, loss_before=0.3, clicks=40, clicks_before=40)

    assert HOLD == Guard().judge(report).decision


def test_there_may_be_no_vector_of_a_kind_that_few_have():
    """On a site's first day nobody has clicked anything: there is no interaction, and no fault."""
    assert ACCEPT == judged(FIRST, vectors=0, coverage=0.0, least_coverage=False).decision
    assert REFUSE == judged(FIRST, vectors=0).decision


def test_reasons_are_sentences():
    """They go to a terminal and into a manifest as they are."""
    verdict = judged(
        cosine=0.1, fitted=1, coverage=0.01, vectors=10, not_finite=2, loss=9.0, loss_before=0.3
    )

    assert 7 == len(verdict.reasons)
    for reason in verdict.reasons:
        assert reason[0].isupper() or reason[0].isdigit()
        assert reason[-1] in ".?"
