"""From examples that workers have labelled to items for the learner."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stream.events import EventSchema
from stream.example_join import ExampleJoin
from stream.example_order import ExampleOrder
from stream.order import OrderConfig
from stream.pending import PendingRows
from stream.position import Partition
from trainer.batcher import Batcher
from trainer.entities import Entities
from trainer.features import Features
from trainer.idmap import IdMap
from trainer.ingest import Ingest
from trainer.items import Counts
from trainer.rehearsal import Rehearsal

if TYPE_CHECKING:
    from trainer.knowledge_feed import KnowledgeFeed


class ExampleIngest(Ingest):
    """An `Ingest` over the examples topic: it orders what has settled, and waits for no label.

    Its items are, bit for bit, those of an `Ingest` that joins the same log itself under the
    policy `wait` with positives at the deadline. Nothing is scored as served: an example comes
    when its label is known, and not when it is shown.
    """

    def __init__(
        self,
        *,
        partitions: tuple[Partition, ...],
        order: OrderConfig,
        schema: EventSchema,
        features: Features,
        pending: PendingRows,
        batcher: Batcher,
        ids: IdMap,
        rehearsal: Rehearsal,
        request_relative: slice | None,
        own_sequences: npt.NDArray[np.intp],
        knowledge: "KnowledgeFeed | None" = None,
        actions: bool = False,
        entities: Entities | None = None,
        view_every_s: float | None = None,
    ) -> None:
        """Read ``partitions`` of the examples topic, of ``schema``; `order.max_held` holds."""
        self._examples = ExampleOrder(order, schema, partitions)
        super().__init__(
            partitions=partitions,
            order=self._examples,
            join=ExampleJoin(),
            features=features,
            pending=pending,
            batcher=batcher,
            ids=ids,
            rehearsal=rehearsal,
            as_served=False,
            request_relative=request_relative,
            own_sequences=own_sequences,
            knowledge=knowledge,
            actions=actions,
            entities=entities,
            view_every_s=view_every_s,
        )

    def counts(self) -> Counts:
        """Return what has happened so far; `duplicates` are examples that came before."""
        counts = super().counts()
        return replace(counts, join={**counts.join, "duplicates": self._examples.redelivered})
