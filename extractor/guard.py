"""The guard: whether a new generation may be switched to.

A network reads a new generation the moment it is activated. What the guard sees of it are figures
that the refresh has at hand; what it says are sentences for whoever finds the switch not made.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """What becomes of a generation, from best to worst."""

    ACCEPT = "accept"  # activate it
    HOLD = "hold"  # keep it, go on with the one in force: a person, or the next refresh, decides
    REFUSE = "refuse"  # it is broken: do not keep it


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What a generation must reach to be switched to."""

    min_cosine: float = 0.7  # to the last one, aligned; production sees .87 after a month
    broken_cosine: float = 0.3  # nearer to two unrelated spaces (0) than to a refresh
    min_coverage: float = 0.1  # of look-ups that find a vector; less: most likely other ids
    max_coverage_loss: float = 0.2  # share of the last one's coverage that may be lost
    max_shrink: float = 0.5  # share of the last one's vectors that may be gone
    min_fitted: float = 2.0  # entities for each dimension of a rotation; fewer fit by chance
    max_loss_rise: float = 0.02  # relative, of the extractor's log loss, beyond what chance does


@dataclass(frozen=True, kw_only=True)
class KindReport:
    """One kind of vectors in a new generation, and against the last. None: not measured."""

    kind: str
    width: int
    vectors: int  # in the new generation
    vectors_before: int = 0  # in the last; 0: there is none to compare with
    not_finite: int = 0  # rows with NaN or an infinite number
    fitted: int | None = None  # entities that its rotation was fitted on
    cosine: float | None = None  # mean, of what will be stored to what is, entities in both
    coverage: float | None = None  # share of recent look-ups that find a vector, 0 to 1
    least_coverage: bool = True  # whether it must reach the least there is for all kinds
    coverage_before: float | None = None  # of the same look-ups in the last generation


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known of a generation before it is activated."""

    kinds: tuple[KindReport, ...]
    loss: float | None = None  # log loss over the mean click's, on events not learned before
    loss_before: float | None = None  # mean of the last generations' extractors
    clicks: int | None = None  # that ``loss`` was measured on; None: so many that chance is small
    clicks_before: int | None = None

    def chance(self) -> float:
        """Return how much, relatively, two losses differ for having been measured on few clicks.

        A quiet hour's loss is that of a few clicks: 1/√clicks is three standard deviations or so.
        """
        counts = (self.clicks, self.clicks_before)
        return math.sqrt(sum(1.0 / max(n, 1) for n in counts if n is not None))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision, and every reason against the generation, gravest first."""

    decision: Decision
    reasons: tuple[str, ...] = ()


class Guard:
    """Judges reports: broken is refused, doubtful is held, the rest accepted.

    A figure that is not a number never passes. A first generation has nothing to drift from, and is
    judged by what it covers alone.
    """

    def __init__(self, config: GuardConfig | None = None) -> None:
        self._config = config or GuardConfig()

    def judge(self, report: Report) -> Verdict:
        """Return the verdict on a generation."""
        found = [*self._of_all(report)]
        for kind in report.kinds:
            found += [*self._of_vectors(kind), *self._of_drift(kind), *self._of_coverage(kind)]
        order = [Decision.REFUSE, Decision.HOLD]
        found.sort(key=lambda objection: order.index(objection[0]))  # stable
        decision = found[0][0] if found else Decision.ACCEPT
        return Verdict(decision=decision, reasons=tuple(reason for _, reason in found))

    def _of_all(self, report: Report) -> Iterator[tuple[Decision, str]]:
        if not report.kinds:
            yield Decision.REFUSE, "The generation has no kind of vectors."
        if report.loss is None:
            return
        if not 0.0 <= report.loss < float("inf"):
            yield (
                Decision.REFUSE,
                f"The extractor's normalised log loss is {report.loss}: it has diverged.",
            )
        elif report.loss_before is not None:
            bound = report.loss_before * (1.0 + self._config.max_loss_rise + report.chance())
            if not report.loss <= bound:
                yield (
                    Decision.HOLD,
                    f"The extractor's normalised log loss is {report.loss:.4f} after "
                    f"{report.loss_before:.4f} in the last generations; up to {bound:.4f} would "
                    "do.",
                )

    def _of_vectors(self, report: KindReport) -> Iterator[tuple[Decision, str]]:
        least = report.vectors_before * (1.0 - self._config.max_shrink)
        if report.not_finite:
            yield (
                Decision.REFUSE,
                f"{report.not_finite:,} {report.kind} vectors are not finite numbers.",
            )
        if report.vectors < 1 and report.least_coverage:
            yield Decision.REFUSE, f"There is no {report.kind} vector."
        elif not report.vectors >= least:
            yield (
                Decision.HOLD,
                f"There are {report.vectors:,} {report.kind} vectors after "
                f"{report.vectors_before:,} in the last generation; at least {least:,.0f} "
                "would do.",
            )

    def _of_drift(self, report: KindReport) -> Iterator[tuple[Decision, str]]:
        config, kind = self._config, report.kind
        if report.vectors_before < 1:
            return
        needed = config.min_fitted * report.width
        if report.fitted is not None and not report.fitted >= needed:
            yield (
                Decision.HOLD,
                f"The rotation of {kind} vectors was fitted on {report.fitted:,} entities; "
                f"{needed:,.0f} are needed for {report.width} dimensions.",
            )
        if report.cosine is None or report.cosine >= config.min_cosine:
            return
        fact = (
            f"The mean cosine of {kind} vectors to the last generation is {report.cosine:.3f}; "
            f"at least {config.min_cosine} would do."
        )
        if report.cosine >= config.broken_cosine:
            yield Decision.HOLD, fact
        else:
            yield Decision.REFUSE, f"{fact} The two are not of one space."

    def _of_coverage(self, report: KindReport) -> Iterator[tuple[Decision, str]]:
        config, kind, coverage = self._config, report.kind, report.coverage
        if coverage is None:
            return
        if report.least_coverage and not coverage >= config.min_coverage:
            yield (
                Decision.HOLD,
                f"{coverage:.1%} of {kind} look-ups find a vector; at least "
                f"{config.min_coverage:.1%} would do. Are the ids those of the stream?",
            )
        if report.coverage_before is None:
            return
        least = report.coverage_before * (1.0 - config.max_coverage_loss)
        if not coverage >= least:
            yield (
                Decision.HOLD,
                f"{coverage:.1%} of {kind} look-ups find a vector, {report.coverage_before:.1%} "
                f"do in the last generation; at least {least:.1%} would do.",
            )
