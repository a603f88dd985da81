"""From Kafka to the learned model, against the same from a file log.

`python -m benchmarks.kafka_pipeline` starts a broker, writes a simulated world into a file log and
into topics, at 100 events a message and at one, then times in turn, round after round, the whole
pipeline (decode, order, join, features, ids, score, metrics, learn) from each; and the reading
alone, decoded and not, with the fast way to unpack Kafka's batches and with kafka-python's own.
``ratio`` is Kafka over the file log at 100 events a message, ``ratio_single`` at one. Both learn
the same examples. The broker shares the cores with what is measured.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

from benchmarks.broker import Broker
from benchmarks.machine import report
from benchmarks.pipeline import config, open_log, run_pipeline, write_log
from keepstream.config import Config
from keepstream.reading import event_schema
from replay.simulate import TOPICS, write
from replay.world import World, WorldConfig
from stream.blocks import BLOCK_EVENTS
from stream.kafka import KafkaConfig
from stream.kafka_reader import KafkaReader
from stream.kafka_source import KafkaSource
from stream.kafka_topics import Topics
from stream.kafka_writer import KafkaWriter
from stream.position import Partition
from stream.source import Source

PER_MESSAGE: Final = (100, 1)
Rates = dict[str, list[float]]  # a second, by what was measured


def topics_of(per_message: int) -> list[str]:
    """Return the topics of a world, in the order of the file log's."""
    return [f"{topic}-{per_message}" for topic in TOPICS]


def write_topics(kafka: KafkaConfig, impressions: int, per_message: int) -> None:
    """Write the world of `write_log` into topics of one partition."""
    with Topics(kafka) as topics:
        for topic in topics_of(per_message):
            topics.create(topic, 1)
    world = World(WorldConfig(impressions=impressions, requests_per_s=1.0, users=50_000))
    with KafkaWriter(kafka) as writer:

        def append(partition: Partition, value: bytes) -> None:
            name = f"{partition.topic}-{per_message}"
            writer.append(Partition(name, partition.number), value)

        write(world, append, per_message=per_message)


def learn(source: Source, settings: Config, folder: Path) -> tuple[float, str]:
    """Train from an opened source; return the examples a second, and their digest."""
    seconds, training = run_pipeline(source, settings, folder)
    source.close()
    return training.metrics.examples / seconds, training.examples_digest


def read(source: Source) -> float:
    """Return the events a second of a source alone: fetched, unpacked, decoded."""
    began = time.perf_counter()
    events = sum(len(block.events) for block in source)
    seconds = time.perf_counter() - began
    source.close()
    return events / seconds


def fetch(kafka: KafkaConfig, topics: list[str], *, raw: bool) -> float:
    """Return the messages a second of a reader alone: fetched and unpacked."""
    reader = KafkaReader(kafka, topics, raw=raw)
    began = time.perf_counter()
    messages = 0
    for i in range(len(reader.partitions)):
        while (found := reader.fetch(i, BLOCK_EVENTS)) is not None:
            messages += len(found.messages)
    seconds = time.perf_counter() - began
    reader.close()
    return messages / seconds


def measure(
    kafka: KafkaConfig, root: Path, per_message: int, settings: Config, folder: Path, rates: Rates
) -> None:
    """Add a round of figures to ``rates``."""
    topics, schema = topics_of(per_message), event_schema(settings)

    def open_kafka() -> Source:
        return KafkaSource(kafka, topics, schema)

    from_file, in_file = learn(open_log(root, settings), settings, folder)
    from_kafka, in_kafka = learn(open_kafka(), settings, folder)
    if in_file != in_kafka:
        raise SystemExit(f"other examples from Kafka ({in_kafka}) than from the log ({in_file})")
    rates["learned_file"].append(from_file)
    rates["learned_kafka"].append(from_kafka)
    rates["events_file"].append(read(open_log(root, settings)))
    rates["events_kafka"].append(read(open_kafka()))
    rates["events_kafka_stock"].append(read(KafkaSource(kafka, topics, schema, raw=False)))
    rates["messages_kafka"].append(fetch(kafka, topics, raw=True))
    rates["messages_kafka_stock"].append(fetch(kafka, topics, raw=False))


def main() -> None:
    """Run the benchmark and print one line of JSON, last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compression", default=KafkaConfig().compression)
    args = parser.parse_args()
    settings = config(1, args.batch_size)
    rates: dict[int, Rates] = {n: defaultdict(list) for n in PER_MESSAGE}
    with tempfile.TemporaryDirectory() as name, Broker(Path(name) / "kafka") as broker:
        folder = Path(name)
        kafka = broker.config(compression=args.compression)
        for n in PER_MESSAGE:
            write_log(folder / f"log-{n}", args.impressions, n)
            write_topics(kafka, args.impressions, n)
        for turn in range(args.rounds + 1):
            for n in PER_MESSAGE:
                measured: Rates = defaultdict(list)
                measure(kafka, folder / f"log-{n}", n, settings, folder, measured)
                for what, found in measured.items() if turn else ():  # the first round warms up
                    rates[n][what] += found
    medians = {n: {k: statistics.median(v) for k, v in of.items()} for n, of in rates.items()}
    ratios = {n: round(of["learned_kafka"] / of["learned_file"], 3) for n, of in medians.items()}
    report(
        "kafka_pipeline",
        ratio=ratios[100],
        ratio_single=ratios[1],
        per_s={n: {what: round(rate) for what, rate in of.items()} for n, of in medians.items()},
        impressions=args.impressions,
        batch_size=args.batch_size,
        compression=args.compression,
        rounds=args.rounds,
    )


if __name__ == "__main__":
    main()
