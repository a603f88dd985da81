"""A click joined to its impression in a Faust table: the way Faust's documentation shows.

`python -m benchmarks.peers.faust_join BOOTSTRAP IMPRESSIONS FEEDBACK EXAMPLES PARTITIONS EVENTS
STATE_DIR`
"""

import sys

import faust
import orjson

from benchmarks.peers.rate import Rate

bootstrap, shown_name, clicked_name, examples_name, partitions, total, state = sys.argv[1:8]
rate = Rate(int(total))
app = faust.App(
    f"faust-join-{examples_name}",
    broker=f"kafka://{bootstrap}",
    store="rocksdb://?driver=rocksdict",
    datadir=state,
    topic_partitions=int(partitions),
    topic_replication_factor=1,
    processing_guarantee="at_least_once",
    web_enabled=False,
)
raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
shown_topic = app.topic(shown_name, **raw)
clicked_topic = app.topic(clicked_name, **raw)
examples_topic = app.topic(examples_name, **raw)
table = app.Table("shown", partitions=int(partitions))


@app.agent(shown_topic)
async def keep(stream: faust.Stream) -> None:
    """Put every impression into the table."""
    async for message in stream:
        for line in message.split(b"\n"):
            event = orjson.loads(line)
            table[str(event["impression_id"])] = event
            rate.event()


@app.agent(clicked_topic)
async def join(stream: faust.Stream) -> None:
    """Look up the impression of every click, and send both on."""
    async for message in stream:
        for line in message.split(b"\n"):
            click = orjson.loads(line)
            impression = table.get(str(click["impression_id"]))
            if impression is not None:
                await examples_topic.send(value=orjson.dumps([impression, click]))
                rate.pair()
            rate.event()


if __name__ == "__main__":
    sys.argv = ["faust_join", "worker", "-l", "error", "--without-web"]
    app.main()
