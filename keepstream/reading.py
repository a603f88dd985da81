"""What is read, by the configuration, and how it is opened: without torch."""

from collections.abc import Callable

from keepstream.config import Config
from stream.events import EventSchema
from stream.position import Position
from stream.source import Source
from trainer.schema import FeatureSchema

OpenSource = Callable[[EventSchema, Position], Source]
Say = Callable[[str], None]  # one line for a person, to standard error


def feature_schema(config: Config) -> FeatureSchema:
    """Return the feature schema of a configuration."""
    return FeatureSchema.from_table(config.features)


def event_schema(config: Config) -> EventSchema:
    """Return what the events of a configuration carry."""
    return feature_schema(config).event_schema(config.actions)
