"""What a run shows of itself while it learns."""

from collections.abc import Sequence

from keepstream.progress import Snapshot
from trainer.checkpoint import Checkpoint
from trainer.items import Counts
from trainer.loop import Training


def snapshot(training: Training, counts: Counts, saved: Sequence[Checkpoint]) -> Snapshot:
    """Return the run as it stands at this moment; ``counts`` are those of the last block read."""
    learned = training.batches > 0
    return Snapshot(
        events=counts.events,
        at_ms=training.at_ms if learned else None,
        lag_ms=counts.newest_ms - training.at_ms if learned else None,
        pending=counts.join["pending"],
        held=counts.held,
        figures=training.metrics.glance(),
        late=counts.late,
        duplicates=counts.join["duplicates"],
        dead_letters=counts.rejected,
        checkpoint=saved[-1].path.name if saved else None,
    )
