"""Logs that are read as a history and live, and whole."""

import json

import numpy as np

from stream.encode import encode_event, pack
from stream.handover import HandOver, history_over, history_position
from stream.listsource import ListSource
from stream.position import Partition, Position
from tests.trainer.parts import START_MS, config

SETTINGS = config(order={"lateness_s": 10, "idle_s": 30}, train={"batch_size": 16})
LATENESS_MS = 10_000
TOPICS = ("feedback", "impressions")


def written(seed, impressions, partitions):
    """Return the lines [(ts, line)] of each partition, none later than the lateness; many at once.

    Requests of 1 to 4 items, 0 to 6 s apart; every third is clicked, some before they are shown and
    some too late.
    """
    rng = np.random.default_rng(seed)
    lines = {Partition(t, n): [] for t in TOPICS for n in range(partitions)}

    def write(topic, event):
        came = event["ts"] + int(rng.integers(0, LATENESS_MS))
        here = lines[Partition(topic, event["user_id"] % partitions)]
        here.append((came, event["ts"], encode_event(event)))

    ts, number, request = START_MS, 0, 0
    while number < impressions:
        ts += 1000 * int(rng.integers(0, 7))
        user = int(rng.integers(0, 9))
        for _ in range(int(rng.integers(1, 5))):
            ids = {"impression_id": f"i{number}", "user_id": user}
            asked = {"item_id": int(rng.integers(0, 12)), "request_id": request, "scene": "home"}
            write("impressions", {**ids, **asked, "ts": ts})
            if number % 3 == 0:
                after = 1000 * int(rng.integers(-5, 80))
                write("feedback", {**ids, "ts": ts + after, "action": "click"})
            number += 1
        request += 1
    return {p: [(ts, line) for _, ts, line in sorted(here)] for p, here in lines.items()}


def packed(lines, per_message, *, from_ms=0, until_ms=1 << 60):
    """Return the messages of a time span."""
    return {
        p: list(pack([line for ts, line in here if from_ms <= ts < until_ms], per_message))
        for p, here in lines.items()
    }


def handed_over(schema, lines, at_ms, per_message, block_events, position):
    """Return the source that reads what lies before ``at_ms`` as a history, then the rest."""
    past, live = (n or 1 for n in per_message)
    before = packed(lines, past, until_ms=at_ms)
    after = packed(lines, live, from_ms=at_ms)

    def opened(messages, where):
        return ListSource(schema, messages, position=where, block_events=block_events)

    return HandOver(
        schema,
        None if history_over(position) else opened(before, history_position(position)),
        tuple(after),
        lambda where: opened(after, where),
        position=position,
    )


def learned(ingest_of, open_source, stops=()):
    """Read to the end, killed and begun again after the given numbers of blocks.

    Returns the last ingest and the items.
    """
    stops, position, ingest, items = list(stops), Position(), ingest_of(), []
    while True:
        for blocks, block in enumerate(open_source(position)):
            items += ingest.feed(block)
            if stops and blocks >= stops[0]:
                del stops[0]
                state, ingest = ingest.state(), ingest_of()
                ingest.restore(state)
                position = Position.from_json(json.loads(json.dumps(ingest.position.to_json())))
                break
        else:
            return ingest, [*items, *ingest.finish()]
