"""Builds the parts of a run from the configuration."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keepstream.config import Config, ConfigError
from keepstream.reading import Say, event_schema, feature_schema
from networks.plug_config import PlugConfig
from stream.events import EventSchema
from stream.join import LabelJoin
from stream.order import EventTimeOrder
from stream.pending import PendingRows
from stream.policy import Wait
from stream.position import Partition
from trainer.batcher import Batcher
from trainer.entities import Entities
from trainer.example_ingest import ExampleIngest
from trainer.features import Features
from trainer.idmap import IdMap
from trainer.ingest import Ingest
from trainer.learner import Learner
from trainer.loop import Training
from trainer.metrics import Prequential
from trainer.models import ModelFactory
from trainer.rehearsal import Rehearsal
from trainer.trace import Trace

if TYPE_CHECKING:
    from trainer.knowledge_feed import KnowledgeFeed


class Unbuildable(ConfigError):
    """Each setting is of its kind, but no part can be built with it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "The configuration asks for what cannot be built: "
            f"{str(error) or type(error).__name__}. Look for a number out of its usual range."
        )


def build_knowledge(
    config: Config,
    *,
    journal: Path | None = None,
    given: Path | None = None,
    live: bool = False,
    say: Say = lambda line: None,
) -> "KnowledgeFeed | None":
    """Build what gives examples their knowledge; None: the configuration asks for none.

    ``journal`` is the run's own, without a path it is forgotten; see `KnowledgeFeed` for the rest.
    """
    if not config.knowledge.used:
        return None
    from trainer.knowledge_feed import KnowledgeFeed  # brings RocksDB, which few runs need
    from trainer.knowledge_journal import KnowledgeJournal

    return KnowledgeFeed(
        config.knowledge,
        features=event_schema(config).ids,
        journal=KnowledgeJournal(journal),
        given=given,
        live=live,
        clock=time.monotonic,
        tell=say,
    )


def build_ingest(
    config: Config,
    partitions: tuple[Partition, ...],
    scratch: Path,
    *,
    examples: bool = False,
    knowledge: "KnowledgeFeed | None" = None,
    view_every_s: float | None = None,
) -> Ingest:
    """Build all that lies between the log and the learner.

    ``examples``: the log is what workers have joined, and nothing waits for its label.
    ``knowledge``: by default what `build_knowledge` gives for the past of the store.
    ``view_every_s``: a view for the extractor comes every so often in event time.
    """
    schema = feature_schema(config)
    events = event_schema(config)
    features = Features(schema, config.state)
    knowledge = knowledge or build_knowledge(config)
    columns = {**features.columns(), **(knowledge.columns() if knowledge else {})}
    parts: dict[str, Any] = {
        "partitions": partitions,
        "features": features,
        "pending": PendingRows(
            columns, memory_rows=config.train.pending_rows_in_memory, scratch=scratch
        ),
        "batcher": Batcher(config.train.batch_size),
        "ids": IdMap(config.ids),
        "rehearsal": Rehearsal(config.rehearsal, config.train.seed),
        "request_relative": schema.statistic_columns if schema.request_relative else None,
        "own_sequences": schema.own_sequence_columns,
        "knowledge": knowledge,
        "actions": bool(config.train.tasks),
        "entities": _entities(config, events) if config.extracts else None,
        "view_every_s": view_every_s,
    }
    if examples:
        return ExampleIngest(order=config.order, schema=events, **parts)
    return Ingest(
        order=EventTimeOrder(config.order, events, partitions),
        join=LabelJoin(config.join, Wait(config.train.positive_at), events),
        as_served=config.train.as_served,
        **parts,
    )


def _entities(config: Config, events: EventSchema) -> Entities:
    said = config.extractor
    for field in (*said.all_item_fields, *said.user_fields):
        if field not in events.ids:
            raise ConfigError(
                f"[extractor] names the field {field!r}, and events have "
                f"{', '.join(events.ids) or 'none'}: put it into features.ids, or leave it out."
            )
    return Entities(
        item_columns=[events.ids.index(field) for field in said.all_item_fields],
        user_columns=[events.ids.index(field) for field in said.user_fields],
        max_items=config.state.max_keys,
        max_users=config.state.max_users,
    )


def _factory(config: Config) -> ModelFactory | None:
    """Return the factory of the model that the trainer cannot know, as it lies above it."""
    if not config.extracts:
        return None
    from extractor.keep import keep_factory

    return keep_factory(config.extractor, tasks=len(config.actions) if config.train.tasks else 1)


def build_training(
    config: Config,
    trace: Path | None,
    scratch: Path,
    say: Say = lambda line: None,
    knowledge: "KnowledgeFeed | None" = None,
) -> Training:
    """Build the model, its metrics and the trace; ``knowledge`` is that of its examples."""

    def on_failed(error: OSError) -> None:
        say(f"{trace}: the trace ends here, training goes on ({error}): make room.")

    schema = feature_schema(config)
    shape = schema.model_shape(config.model.embedding_width)
    knowledge = knowledge or build_knowledge(config)
    plug: dict[str, Any] = {}
    if knowledge is not None:
        said = config.knowledge
        shape = replace(shape, knowledge=knowledge.rows.shape)
        plug["plug"] = PlugConfig(
            mode=said.plug,
            kinds=said.kinds,
            layers=said.layers,
            gates=said.gates,
            gate=said.gate,
            gate_rank=said.gate_rank,
        )
    served = PendingRows({"p": (np.float32, None)}, scratch=scratch)
    learner = Learner(
        config.model,
        shape,
        max_rows=config.ids.max_rows,
        seed=config.train.seed,
        factory=_factory(config),
        **plug,
    )
    if learner.tasks > (len(config.actions) if config.train.tasks else 1):
        raise ConfigError(
            f"The model learns {learner.tasks} tasks, and examples tell of "
            f"{', '.join(config.actions)}: name the other actions as [train] tasks."
        )
    return Training(
        learner=learner,
        metrics=Prequential(config.metrics),
        trace=Trace(trace, failed=on_failed),
        served=served if config.train.as_served else None,
        oracle=schema.oracle is not None,
    )
