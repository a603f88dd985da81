"""What a run shows of itself while it learns."""

from collections.abc import Sequence

from keepstream.progress import Snapshot
from trainer.checkpoint import Checkpoint
from trainer.loop import Training


def snapshot(training: Training, saved: Sequence[Checkpoint]) -> Snapshot:
    """Return the run as it stands at this moment."""
    counts = training.counts
    figures = training.metrics.glance()
    checkpoint = saved[-1].path.name if saved else None
    if counts is None:
        return Snapshot(figures=figures, checkpoint=checkpoint)
    return Snapshot(
        events=counts.events,
        at_ms=training.at_ms,
        lag_ms=counts.newest_ms - training.at_ms,
        pending=counts.join["pending"],
        held=counts.held,
        figures=figures,
        late=counts.late,
        duplicates=counts.join["duplicates"],
        dead_letters=counts.rejected,
        checkpoint=checkpoint,
    )
