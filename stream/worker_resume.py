"""Where a partition's join goes on: the last record of the examples' topic says it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson

from stream.copartitioned import copartitioned
from stream.examples import NewerExamples, NotExamples, Progress, decode
from stream.kafka import KafkaConfig, KafkaError
from stream.kafka_batches import Record
from stream.kafka_reader import KafkaReader
from stream.kafka_topics import Topics
from stream.position import Offset, Partition, Position

INPUTS: Final = "keepstream-inputs"  # a header: the ids of the topics that the examples come from
_BACK: Final = (1, 8, 64)  # records looked at from the end, where the last ones are no examples


class ExamplesGone(KafkaError):
    """The examples' topic cannot say any more where to go on."""


class OtherInputs(KafkaError):
    """The examples of the topic were made of other topics."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The topics a worker reads and writes, as they were found."""

    partitions: int  # of each of them
    ids: Mapping[str, str]  # of the topics read: a topic made anew has another
    letters: int  # partitions of the topic of dead letters; 0: there is none


def check_topics(kafka: KafkaConfig, topics: Sequence[str]) -> Inputs:
    """Return what the topics are. Raises `KafkaError`: missing ones, and unequal partitions."""
    wanted = [*topics, kafka.examples]
    letters = [kafka.deadletters] if kafka.deadletters else []
    with Topics(kafka) as admin:
        there = admin.describe([*wanted, *letters])
    return Inputs(
        partitions=copartitioned({name: there[name].partitions for name in wanted}),
        ids={name: there[name].id for name in topics},
        letters=sum(there[name].partitions for name in letters),
    )


def progress_of(
    kafka: KafkaConfig, numbers: Sequence[int], inputs: Inputs
) -> dict[int, Progress | None]:
    """Return how far the join of each partition has got; None where it is to begin.

    Raises `ExamplesGone`, `OtherInputs`, `NewerExamples`.
    """
    places = [Partition(kafka.examples, number) for number in numbers]
    with Topics(kafka) as admin:
        begins, ends = admin.beginnings(places), admin.ends(places)
    found: dict[int, Progress | None] = {p.number: None for p in places if ends[p] == 0}
    for back in _BACK:
        left = [p for p in places if p.number not in found]
        for place in left:
            if begins[place] == ends[place]:
                raise ExamplesGone(
                    f"{place} has had {ends[place]} records and holds none: retention took them, "
                    "and with them where the join is to go on. Delete the topic, create it again "
                    "(`keepstream topics create`, with a longer --retention-h), and start anew "
                    "those who read it."
                )
        found |= _last(kafka, {p: max(begins[p], ends[p] - back) for p in left}, inputs)
    if left := [p for p in places if p.number not in found]:
        raise ExamplesGone(
            f"The last {_BACK[-1]} records of {left[0]} were written by somebody else: they do not "
            "say where the join is to go on. Name a topic of the workers' own as kafka.examples."
        )
    return found


def _last(
    kafka: KafkaConfig, starts: Mapping[Partition, int], inputs: Inputs
) -> dict[int, Progress | None]:
    """Return the progress of the newest examples from ``starts`` on, where there are some."""
    found: dict[int, Progress | None] = {}
    if not starts:
        return found
    position = Position({p: Offset(start) for p, start in starts.items()})
    reader = KafkaReader(
        kafka, [kafka.examples], partitions=sorted(starts), position=position, follow=False
    )
    try:
        for i, place in enumerate(reader.partitions):
            while (more := reader.records(i, _BACK[-1])) is not None:
                for record in more.records:
                    with suppress(NotExamples):
                        found[place.number] = _progress(record, place)
                        _check_inputs(place, dict(record.headers).get(INPUTS), inputs)
    finally:
        reader.close()
    return found


def _progress(record: Record, place: Partition) -> Progress:
    try:
        return decode(record.value or b"", record.headers).progress
    except NewerExamples as error:
        raise NewerExamples(error.number, f"{place} at {record.offset}") from None


def _check_inputs(place: Partition, header: bytes | None, inputs: Inputs) -> None:
    ids = orjson.loads(header) if header else dict(inputs.ids)
    if ids != dict(inputs.ids):
        changed = sorted(
            name for name in {*ids, *inputs.ids} if ids.get(name) != inputs.ids.get(name)
        )
        raise OtherInputs(
            f"The examples in {place} were made of other topics: {', '.join(changed)} was created "
            "anew since, or is not read any more. Positions in it mean nothing now: create the "
            f"topic {place.topic} anew too, or name another as kafka.examples."
        )


def inputs_header(inputs: Inputs) -> tuple[str, bytes]:
    """Return the header that tells of which topics examples were made."""
    return INPUTS, orjson.dumps(dict(inputs.ids), option=orjson.OPT_SORT_KEYS)
