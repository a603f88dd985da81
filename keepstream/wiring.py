"""Builds the parts of a run from the configuration."""

from pathlib import Path
from typing import Any

import numpy as np

from keepstream.config import Config, ConfigError
from keepstream.reading import Say, event_schema, feature_schema
from stream.join import LabelJoin
from stream.order import EventTimeOrder
from stream.pending import PendingRows
from stream.policy import Wait
from stream.position import Partition
from trainer.batcher import Batcher
from trainer.example_ingest import ExampleIngest
from trainer.features import Features
from trainer.idmap import IdMap
from trainer.ingest import Ingest
from trainer.learner import Learner
from trainer.loop import Training
from trainer.metrics import Prequential
from trainer.rehearsal import Rehearsal
from trainer.trace import Trace


class Unbuildable(ConfigError):
    """Each setting is of its kind, but no part can be built with it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "The configuration asks for what cannot be built: "
            f"{str(error) or type(error).__name__}. Look for a number out of its usual range."
        )


def build_ingest(
    config: Config, partitions: tuple[Partition, ...], scratch: Path, *, examples: bool = False
) -> Ingest:
    """Build all that lies between the log and the learner.

    ``examples``: the log is what workers have joined, and nothing waits for its label.
    """
    schema = feature_schema(config)
    events = event_schema(config)
    features = Features(schema, config.state)
    parts: dict[str, Any] = {
        "partitions": partitions,
        "features": features,
        "pending": PendingRows(
            features.columns(), memory_rows=config.train.pending_rows_in_memory, scratch=scratch
        ),
        "batcher": Batcher(config.train.batch_size),
        "ids": IdMap(config.ids),
        "rehearsal": Rehearsal(config.rehearsal, config.train.seed),
        "request_relative": schema.statistic_columns if schema.request_relative else None,
        "own_sequences": schema.own_sequence_columns,
    }
    if examples:
        return ExampleIngest(order=config.order, schema=events, **parts)
    return Ingest(
        order=EventTimeOrder(config.order, events, partitions),
        join=LabelJoin(config.join, Wait(config.train.positive_at), events),
        as_served=config.train.as_served,
        **parts,
    )


def build_training(
    config: Config, trace: Path | None, scratch: Path, say: Say = lambda line: None
) -> Training:
    """Build the model, its metrics and the trace."""

    def on_failed(error: OSError) -> None:
        say(f"{trace}: the trace ends here, training goes on ({error}): make room.")

    schema = feature_schema(config)
    served = PendingRows({"p": (np.float32, None)}, scratch=scratch)
    return Training(
        learner=Learner(
            config.model,
            schema.model_shape(config.model.embedding_width),
            max_rows=config.ids.max_rows,
            seed=config.train.seed,
        ),
        metrics=Prequential(config.metrics),
        trace=Trace(trace, failed=on_failed),
        served=served if config.train.as_served else None,
        oracle=schema.oracle is not None,
    )
