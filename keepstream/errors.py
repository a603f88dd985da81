"""Which errors the command line tells in one line, and with which exit code."""

from extractor.errors import ExtractorError
from keepstream.commands.command import SimulatorFailed, UsageError
from keepstream.config import ConfigError
from knowledge_store.errors import (
    BaseTrainedLater,
    FutureKnowledge,
    KindsDiffer,
    KnowledgeError,
    NoGeneration,
    NoStore,
    NoSuchGeneration,
    NotAStore,
    NothingToRollBack,
    SwitchOutOfOrder,
    UnknownKind,
    WrongVectors,
)
from replay.errors import InputError, MappingError
from stream.copartitioned import PartitionsDiffer
from stream.deadletters import NotDeadLetters
from stream.decode import SchemaError
from stream.examples import MissingFeature, NewerExamples
from stream.filelog import LogError, NoSuchTopic
from stream.join import UnknownLabelAction
from stream.kafka import KafkaError, KafkaSettingError, NoSuchTopicInKafka
from stream.reach import HandOverGap
from trainer.checkpoint import CheckpointError
from trainer.errors import EmbeddingError, ModelError, TrainingDiverged
from trainer.schema_values import FeatureSchemaError

USAGE_ERRORS = (  # exit code 2: what was asked for cannot be served
    BaseTrainedLater,
    ConfigError,
    FeatureSchemaError,
    FutureKnowledge,
    KafkaSettingError,
    KindsDiffer,
    MappingError,
    MissingFeature,
    ModelError,
    NoGeneration,
    NoStore,
    NoSuchGeneration,
    NoSuchTopic,
    NoSuchTopicInKafka,
    NotAStore,
    NothingToRollBack,
    PartitionsDiffer,
    SchemaError,
    SwitchOutOfOrder,
    UnknownKind,
    UnknownLabelAction,
    UsageError,
    WrongVectors,
)
KNOWN_ERRORS = (  # exit code 1: it was tried, and failed
    CheckpointError,
    EmbeddingError,
    ExtractorError,
    HandOverGap,
    InputError,
    KafkaError,
    KnowledgeError,
    LogError,
    NewerExamples,
    NotDeadLetters,
    OSError,
    SimulatorFailed,
    TrainingDiverged,
)
