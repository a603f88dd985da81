"""Commands that need a broker: what they make, write, show, and say of themselves."""

import json
import re
import signal
import time

import pytest

from keepstream.cli import main
from stream.kafka_peek import values_of
from stream.kafka_topics import Topics
from stream.position import Partition
from tests.keepstream.topics import Said, World
from tests.keepstream.worlds import keepstream, messages, started, told, write_log
from tests.stream.kafka_logs import write

pytestmark = pytest.mark.kafka


@pytest.fixture
def world(kafka, tmp_path):
    """Return a world with topics of two partitions."""
    return World(tmp_path, kafka, 2)


@pytest.fixture
def bare(kafka, tmp_path):
    """Return a world without topics."""
    return World(tmp_path, kafka, 0)


def lines_of(world, kind) -> list[bytes]:
    """Return the lines that a topic holds."""
    refused = []
    values = list(values_of(world.kafka, world.names[kind], refused.append))
    assert [] == refused
    return [line for value in values for line in value.splitlines()]


def test_what_cannot_be_read_of_the_dead_letters_is_told(world, capfd):
    """An empty list must mean that there are none, not that they could not be read."""
    write(world.kafka, world.letters, [{"key": b"k", "value": None}] * 22)

    said = told("deadletters", "--config", world.config)

    assert {"counts": {}, "letters": []} == said
    err = capfd.readouterr().err.splitlines()
    assert err[0].startswith(f"{world.letters}/0 cannot be read at offset 0: ")
    assert "2 more places of the topic cannot be read." == err[20]
    assert 21 == len(err)


def renamed(log, world) -> None:
    """Give the topics of a file log the names of a world's."""
    for kind, name in world.names.items():
        (log / kind).rename(log / name)


def test_topics_are_made_once(bare):
    """Deployments run it at every start: the second time it must change nothing."""
    create = ("topics", "create", "--config", bare.config, "--partitions", 3, "--retention-h", 2)

    first, again = told(*create), told(*create)

    names = [*bare.names.values(), bare.examples, bare.letters]
    expected = dict(zip(names, [3, 3, 3, 1], strict=True))
    assert expected == {t["topic"]: t["partitions"] for t in first["topics"]}
    assert [True] * 4 == [t["created"] for t in first["topics"]]
    assert [False] * 4 == [t["created"] for t in again["topics"]]
    with Topics(bare.kafka) as topics:
        kept = {info.settings["retention.ms"] for info in topics.describe(names).values()}
    assert {"7200000"} == kept


def test_topics_that_are_there_decide_how_many_partitions_the_others_get(world):
    """A user's number must be the same everywhere, and nobody remembers it."""
    made = told("topics", "create", "--config", world.config)["topics"]

    assert [2, 2, 2, 1] == [t["partitions"] for t in made]
    assert [False, False, True, False] == [t["created"] for t in made]


def test_another_number_of_partitions_is_refused_by_name(world):
    """To change it moves users to other partitions: nobody may do that in passing."""
    said = told("topics", "create", "--config", world.config, "--partitions", 5, code=1)

    assert "TopicDiffers" == said["error"]
    assert "2 partitions, not 5" in said["message"]
    assert world.names["impressions"] in said["message"]


def test_topics_are_described_with_their_times_and_who_has_read_them(world, tmp_path):
    """Whoever asks why a model is stale looks here first."""
    told("produce", "--config", world.config, "--simulate", 500, "--per-message", 7, "--quiet")
    told("train", "--config", world.config, "--until-end", "--quiet", "--run", tmp_path / "run")
    told("produce", "--config", world.config, "--simulate", 600, "--seed", 1, "--quiet")

    said = told("topics", "describe", "--config", world.config)

    assert [world.examples] == said["missing"]
    partitions = {t["topic"]: t["partitions"] for t in said["topics"]}
    with Topics(world.kafka) as topics:
        ends = topics.ends(world.partitions(2))
    for partition, end in ends.items():
        row = partitions[partition.topic][partition.number]
        assert (partition.number, 0, end) == (row["partition"], row["oldest"], row["next"])
        assert 1_700_000_000_000 < row["oldest_ms"] < row["newest_ms"] < 1_700_100_000_000
    trainer, workers = said["groups"]
    assert 600 < trainer["lag"] == sum(row["lag"] for row in trainer["partitions"]) < 900
    assert all(row["lag_s"] > 0 for row in trainer["partitions"])
    assert [] == workers["partitions"]
    _, text = keepstream("topics", "describe", "--config", world.config)
    assert f"{world.examples}: not there" in text
    assert f"{trainer['lag']:,} messages behind" in text


def test_a_world_that_was_produced_is_the_world(world, tmp_path):
    """Through the topics come the events that a file would have got, in the same partitions."""
    log = tmp_path / "log"
    chaos = ("--duplicates", 0.02, "--late", 0.02, "--malformed", 0.01, "--seed", 3)
    told("simulate", "--into", log, "--impressions", 700, "--partitions", 2, *chaos)
    renamed(log, world)

    said = told("produce", "--config", world.config, "--simulate", 700, *chaos,
                "--per-message", 20, "--quiet")  # fmt: skip

    expected = told("train", "--config", world.config, "--log", log, "--until-end", "--quiet")
    actual = told("train", "--config", world.config, "--until-end", "--quiet")
    assert (700, False, 2) == (said["impressions"], said["stopped"], said["partitions"])
    for key in ("examples_digest", "weights_digest", "counts"):
        assert expected[key] == actual[key]


def test_an_old_log_is_produced_line_by_line_and_what_is_no_event_is_kept(world, tmp_path):
    """What is replayed into topics is the log, and nothing of it vanishes on the way."""
    log = messages(400, partitions=2)
    renamed(write_log(tmp_path / "log", log), world)

    said = told("produce", "--config", world.config, "--input", tmp_path / "log", "--quiet")

    for kind in world.names:
        lines = [x for p, vs in log.items() if p.topic == kind for v in vs for x in v.splitlines()]
        found = lines_of(world, kind)
        assert set(found) < set(lines)
        assert len(found) == said["impressions" if kind == "impressions" else "feedback"]
    kept = told("deadletters", "--config", world.config)
    assert said["rejected"] == sum(kept["counts"].values()) > 0


def test_a_record_says_whose_it_is_and_when_it_was(world):
    """Kafka finds a time of day, and other tools a user, without reading what is inside."""
    from stream.kafka_peek import peek

    told("produce", "--config", world.config, "--simulate", 300, "--quiet")
    told("produce", "--config", world.config, "--simulate", 300, "--per-message", 50, "--quiet")

    with Topics(world.kafka) as topics:
        ends = topics.ends(world.partitions(2))
    shown = Partition(world.names["impressions"], 0)
    single = peek(world.kafka, {shown: 0})[shown]
    event = json.loads(single.value)
    assert (event["ts"], event["user_id"].encode()) == (single.at_ms, single.key)
    many = peek(world.kafka, {shown: ends[shown] - 1})[shown]
    events = [json.loads(line) for line in many.value.splitlines()]
    assert 1 < len({e["user_id"] for e in events})
    assert (max(e["ts"] for e in events), None) == (many.at_ms, many.key)


def test_a_load_has_the_rate_and_the_length_asked_for(world):
    """A load test that sends more, or never ends, tests something else."""
    started_at = time.monotonic()

    said = told("produce", "--config", world.config, "--simulate", 100_000, "--rate", 400,
                "--per-message", 10, "--max-seconds", 3)  # fmt: skip

    assert said["stopped"]
    assert 2.9 < time.monotonic() - started_at < 20
    assert 600 < 10 * said["messages"] < 1_700


def test_a_signal_ends_a_load_and_says_what_was_written(world):
    """Ctrl-C is how a load ends, and what it has written must be known."""
    command = ("produce", "--config", world.config, "--simulate", 100_000, "--speed", 1, "--json")
    with started(*command) as process:
        deadline = time.monotonic() + 30
        partitions = world.partitions(2)
        with Topics(world.kafka) as topics:
            while not sum(topics.ends(partitions).values()) and time.monotonic() < deadline:
                pass
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)

    said = json.loads(out)
    assert (0, True) == (process.returncode, said["stopped"]), err
    with Topics(world.kafka) as topics:
        assert said["messages"] == sum(topics.ends(partitions).values()) > 0


def test_events_older_than_their_topic_keeps_are_told_of(bare, capsys):
    """Kafka deletes by the time of messages: an old log would be gone before it is read."""
    told("topics", "create", "--config", bare.config, "--retention-h", 1)

    told("produce", "--config", bare.config, "--simulate", 10, "--quiet")

    err = capsys.readouterr().err
    assert 1 == len(err.splitlines())
    assert "--retention-h -1" in err


def test_topics_of_unequal_partitions_are_not_written_to(world, tmp_path):
    """A user's impressions and feedback would be joined by different workers."""
    with Topics(world.kafka) as topics:
        topics.create(f"more-{world.mark}", 3)
    topics = ("--set", f'log.topics=["{world.names["impressions"]}", "more-{world.mark}"]')

    said = told("produce", "--config", world.config, "--simulate", 10, *topics, code=2)

    assert f"{world.names['impressions']} has 2, more-{world.mark} has 3" in said["message"]


ON_KAFKA = {
    "topics": ["topics", "create"],
    "produce": ["produce", "--simulate", 50],
    "train": ["train", "--until-end"],
    "deadletters": ["deadletters"],
    "status": ["status"],
}


@pytest.mark.parametrize("name", ON_KAFKA)
def test_commands_speak_json_to_scripts_and_text_to_people(world, capfd, name):
    """As every command does: one line of JSON alone on standard output, or none at all."""
    call = [str(x) for x in (*ON_KAFKA[name], "--config", world.config)]

    assert 0 == main([*call, "--json"])
    out = capfd.readouterr().out
    assert 1 == len(out.splitlines())
    assert isinstance(json.loads(out), dict)
    assert 0 == main(call)
    out = capfd.readouterr().out
    assert out.strip()
    assert not out.startswith("{")


def test_a_run_says_how_far_it_is_behind_its_topics(world, tmp_path):
    """The first question about a model that seems stale."""
    told("produce", "--config", world.config, "--simulate", 500, "--quiet")
    run = tmp_path / "run"
    told("train", "--config", world.config, "--until-end", "--quiet", "--run", run)
    caught_up = told("status", run)
    told("produce", "--config", world.config, "--simulate", 600, "--seed", 1, "--quiet")

    behind = told("status", run)

    assert (0, 0.0) == (caught_up["lag"], caught_up["lag_s"])
    assert "checkpoint-00000001" == behind["checkpoint"]
    assert 0 <= caught_up["age_s"] < 60
    assert 600 < behind["lag"] == sum(row["lag"] for row in behind["partitions"]) < 900
    with Topics(world.kafka) as topics:
        ends = {str(p): end for p, end in topics.ends(world.partitions(2)).items()}
    assert ends == {row["partition"]: row["next"] for row in behind["partitions"]}
    assert behind["lag_s"] == max(row["lag_s"] for row in behind["partitions"]) > 0
    trainer, _ = told("status", "--config", world.config)["groups"]
    assert behind["partitions"] == trainer["partitions"]
    _, text = keepstream("status", run)
    assert f"{behind['lag']:,} messages, {behind['lag_s']:,.0f} s behind" in text


def test_a_run_whose_kafka_is_away_still_says_how_far_it_is(world, tmp_path, capsys):
    """What is known without a broker is told without it."""
    told("produce", "--config", world.config, "--simulate", 100, "--quiet")
    run = tmp_path / "run"
    told("train", "--config", world.config, "--until-end", "--quiet", "--run", run)
    away = ("--set", "kafka.bootstrap=127.0.0.1:1", "--set", "kafka.connect_s=0.3")
    capsys.readouterr()

    said = told("status", run, "--config", world.config, *away, code=1)

    assert "checkpoint-00000001" == said["checkpoint"]
    assert 4 == len(said["partitions"])
    assert "Nobody listens at 127.0.0.1:1" in capsys.readouterr().err


def test_a_run_is_looked_for_where_it_found_kafka_last(world, tmp_path):
    """A cluster that got another address is the same one, and the run goes on with it."""
    told("produce", "--config", world.config, "--simulate", 100, "--quiet")
    run = tmp_path / "run"
    train = ("train", "--config", world.config, "--until-end", "--quiet", "--run", run)
    told(*train)
    other = world.kafka.bootstrap.replace("127.0.0.1", "localhost")

    told(*train, "--set", f"kafka.bootstrap={other}")

    config = json.loads((run / "config.json").read_bytes())
    assert other == config["tables"]["kafka"]["bootstrap"]
    assert 0 == told("status", run)["lag"]


def test_a_status_can_be_watched(world, tmp_path):
    """A terminal that is left open, until Ctrl-C."""
    command = ("status", "--config", world.config, "--watch", 0.1, "--json")
    with started(*command) as process:
        seen = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert (0, "") == (process.returncode, err)
    assert 3 == len(seen)


@pytest.mark.slow
def test_a_watched_status_outlives_its_broker(broker, tmp_path):
    """A restart of a broker is when somebody is watching."""
    kafka = broker()
    world = World(tmp_path, kafka.config(), 1, more="connect_s = 0.5\n")
    command = ("status", "--config", world.config, "--watch", 0.1, "--json")
    with started(*command) as process:
        said = Said(process)
        assert json.loads(process.stdout.readline())["groups"]
        kafka.kill()
        said.wait_for("keepstream: ")
        kafka.start()
        with Topics(kafka.config()) as topics:
            topics.create(world.examples, 1)
        deadline = time.monotonic() + 60
        while world.examples in json.loads(process.stdout.readline())["missing"]:
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(20), said.lines
    assert not re.search("Traceback|ERROR:kafka|WARNING:kafka", "".join(said.lines))
