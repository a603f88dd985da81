"""A click joined to its impression by Quix Streams' interval join.

`python quix_join.py BOOTSTRAP IMPRESSIONS FEEDBACK EXAMPLES WINDOW_MS EVENTS PACKED STATE_DIR`, in
an environment of its own with quixstreams. PACKED 1: messages hold many events, which are taken
apart and brought to their key by a topic in between (`group_by`); 0: a message is one event, with
the impression's id as its key, which suits it best.
"""

import json
import sys
import time

from quixstreams import Application

bootstrap, shown_name, clicked_name, examples_name, window_ms, total, packed, state = sys.argv[1:9]
events = joined = 0
first = told = 0.0


def count(value):
    """Count an event that goes into the join; tell twice a second."""
    global events, first, told
    now = time.perf_counter()
    if not events:
        first = told = now
    events += 1
    if now - told > 0.5 or events >= int(total):
        told = now
        print(json.dumps({"events": events, "joined": joined, "seconds": now - first}), flush=True)
    return value


def pair(shown, clicked):
    """Count a click that has found its impression."""
    global joined
    joined += 1
    return {"shown": shown, "clicked": clicked}


app = Application(
    broker_address=bootstrap,
    consumer_group=f"quix-join-{examples_name}",
    auto_offset_reset="earliest",
    state_dir=state,
    loglevel="ERROR",
    consumer_poll_timeout=0.01,  # its defaults join a fifth as fast
    max_partition_buffer_size=100_000,
)


def stream(name):
    """Return the events of a topic, by impression."""
    if packed == "0":
        return app.dataframe(app.topic(name, key_deserializer="str")).apply(count)
    lines = app.dataframe(app.topic(name, value_deserializer="bytes")).apply(
        lambda value: [json.loads(line) for line in value.split(b"\n")], expand=True
    )
    return lines.group_by("impression_id").apply(count)


both = stream(shown_name).join_interval(
    stream(clicked_name),
    how="inner",
    on_merge=pair,
    grace_ms=int(window_ms),
    forward_ms=int(window_ms),
)
both.to_topic(app.topic(examples_name))
if __name__ == "__main__":
    app.run()
