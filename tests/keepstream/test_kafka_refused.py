"""What a person is told when Kafka cannot be used, and what nobody is ever told: the password."""

import re
import time
from dataclasses import replace

import pytest

from benchmarks.broker import PASSWORD, Broker, kafka_home
from replay.simulate import Chaos
from stream.encode import encode_event
from stream.kafka_topics import Topics
from tests.conftest import NO_KAFKA
from tests.keepstream.topics import Said, World, newest_ms
from tests.keepstream.worlds import messages, passes, started, told

pytestmark = pytest.mark.kafka

WRONG = "hunter2-is-not-the-password"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Yield a broker that asks for a password over TLS."""
    if kafka_home() is None:
        pytest.skip(NO_KAFKA)
    with Broker(tmp_path_factory.mktemp("guarded"), security="sasl_tls") as broker:
        yield broker


def without_password(broker):
    """Return a configuration of the broker that names no password."""
    return replace(broker.config(), password_file="")


def everything_in(folder) -> bytes:
    """Return all bytes of all files of a folder."""
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


def test_a_run_over_tls_with_a_password_learns_and_keeps_it_to_itself(
    guarded, tmp_path, monkeypatch, capfd, caplog
):
    """A secret in a run folder, a report, a log or a message is known to all who see these."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("KEEPSTREAM_KAFKA_PASSWORD", PASSWORD)
    world = World(tmp_path / "world", without_password(guarded), 1)
    told("produce", "--config", world.config, "--simulate", 500, "--malformed", 0.01, "--quiet")

    result = told("train", "--config", world.config, "--until-end", "--run", tmp_path / "run")
    told("status", tmp_path / "run")
    told("topics", "describe", "--config", world.config)
    letters = told("deadletters", "--config", world.config)

    assert result["examples"] > 100
    assert result["counts"]["dead_letters"] == letters["counts"] != {}
    assert PASSWORD.encode() not in everything_in(tmp_path)
    seen = capfd.readouterr()
    assert PASSWORD not in seen.out + seen.err + caplog.text


@pytest.mark.parametrize("name", ["train", "produce", "topics", "deadletters", "status"])
def test_a_wrong_password_is_named_within_seconds(guarded, tmp_path, monkeypatch, capfd, name):
    """kafka-python is silent for half a minute and then names no cause; a person needs one."""
    monkeypatch.setenv("KEEPSTREAM_KAFKA_PASSWORD", WRONG)
    world = World(tmp_path, without_password(guarded), 0)
    call = {
        "train": ["train", "--run", tmp_path / "run"],
        "produce": ["produce", "--simulate", 10],
        "topics": ["topics", "describe"],
        "deadletters": ["deadletters"],
        "status": ["status"],
    }[name]
    begun = time.monotonic()

    said = told(*call, "--config", world.config, code=1)

    assert time.monotonic() - begun < 8
    assert "KafkaRefused" == said["error"]
    assert "refuses the user 'keepstream'" in said["message"]
    err = capfd.readouterr().err
    assert f"keepstream: {said['message']}\n" == err
    assert WRONG not in err
    assert WRONG.encode() not in everything_in(tmp_path)


def test_a_missing_password_or_tls_setting_is_wrong_usage(guarded, tmp_path, monkeypatch):
    """What stands in the configuration is for the person who wrote it to put right."""
    monkeypatch.delenv("KEEPSTREAM_KAFKA_PASSWORD", raising=False)
    world = World(tmp_path, without_password(guarded), 0)
    describe = ("topics", "describe", "--config", world.config)

    assert "no password for 'keepstream'" in told(*describe, code=2)["message"]
    monkeypatch.setenv("KEEPSTREAM_KAFKA_PASSWORD", PASSWORD)
    plain = ("--set", "kafka.security=sasl", "--set", "kafka.tls_ca=")
    assert "speaks TLS" in told(*describe, *plain, code=2)["message"]
    assert "not to be trusted" in told(*describe, "--set", "kafka.tls_ca=", code=2)["message"]


def test_a_password_that_is_given_as_a_setting_is_refused_unread(tmp_path, capfd):
    """Command lines are in histories and process lists, settings in run folders."""
    said = told("topics", "describe", "--config", tmp_path / "none.toml",
                "--set", f"kafka.password={WRONG}", code=2)  # fmt: skip
    assert "no such file" in said["message"]
    (tmp_path / "k.toml").write_text(f'[kafka]\npassword = "{WRONG}"\n')

    said = told("topics", "describe", "--config", tmp_path / "k.toml", code=2)

    assert "KEEPSTREAM_KAFKA_PASSWORD" in said["message"]
    assert WRONG not in "".join(capfd.readouterr())


def test_a_missing_topic_is_named_beside_those_that_are_there(kafka, tmp_path):
    """Mostly a name spelt wrong."""
    world = World(tmp_path, kafka, 1)
    other = ("--set", f'log.topics=["impresions", "{world.names["feedback"]}"]')

    for call in (("train", "--until-end"), ("produce", "--simulate", 10)):
        said = told(*call, "--config", world.config, *other, code=2)
        assert "NoSuchTopicInKafka" == said["error"]
        assert "impresions" in said["message"]
        assert "keepstream topics create" in said["message"]


def test_a_missing_topic_of_dead_letters_is_found_at_the_start(kafka, tmp_path):
    """Not at the first bad line, in the middle of the night."""
    world = World(tmp_path, kafka, 1)
    with Topics(kafka) as topics:
        topics.delete([world.letters])

    said = told("train", "--config", world.config, "--until-end", code=2)

    assert world.letters in said["message"]
    assert '"off"' in said["message"]
    world.write(messages(300))
    off = ("--set", "kafka.deadletters=off")
    assert told("train", "--config", world.config, "--until-end", "--quiet", *off)["examples"] > 0


def test_a_broker_that_is_not_there_is_named(kafka, tmp_path):
    """The address is wrong, or nobody has started it."""
    world = World(tmp_path, kafka, 0)
    away = ("--set", "kafka.bootstrap=127.0.0.1:1", "--set", "kafka.connect_s=0.3")

    said = told("train", "--config", world.config, *away, code=1)

    assert "KafkaUnreachable" == said["error"]
    assert "Nobody listens at 127.0.0.1:1" in said["message"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train --examples --as-served", "as_served"),
        ("train --examples --log x", "leave one out"),
        ("train --examples --set train.positive_at=click", "positive_at"),
        ("train --set kafka.bootstrap= --examples", "kafka.bootstrap is not set"),
        ("topics create --set kafka.bootstrap=", "kafka.bootstrap is not set"),
        ("topics create --partitions 0", "--partitions"),
        ("topics create --retention-h 0", "--retention-h"),
        ("produce --simulate 0", "--simulate"),
        ("produce --simulate 9 --rate 0", "--rate"),
        ("produce --simulate 9 --speed nan", "--speed"),
        ("produce --simulate 9 --max-seconds -1", "--max-seconds"),
        ("produce --simulate 9 --per-message 0", "--per-message"),
        ("produce --simulate 9 --from 2023-11-15", "--from"),
        ("produce --input x.ndjson --seed 3", "--simulate"),
        ("produce --input none.ndjson", "no such file"),
        ("produce --simulate 9 --world uzers=3", "uzers"),
        ("deadletters x", "one of them"),
        ("deadletters --set kafka.deadletters=off", "off"),
        ("status --watch 0", "--watch"),
        ("status none", "no such folder"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(kafka, tmp_path, capfd, line, said):
    """2 tells a script that it called wrongly."""
    world = World(tmp_path, kafka, 1)

    told_of = told(*line.split(), "--config", world.config, code=2)

    assert said in told_of["message"]
    assert f"keepstream: {told_of['message']}\n" == capfd.readouterr().err


@pytest.mark.slow
def test_a_broker_that_goes_away_is_waited_for(broker, tmp_path):
    """A trainer that ended with every restart of a broker would need a person beside it."""
    kafka = broker()
    world = World(tmp_path, kafka.config(), 1)
    world.write(messages(1_000))
    run = ("--run", tmp_path / "run", "--set", "checkpoint.every_s=0.2")
    with started("train", "--config", world.config, "--json", *run) as process:
        said = Said(process)
        world.wait_until_committed(process)
        kafka.kill()
        said.wait_for("waiting")
        kafka.start()
        said.wait_for("answers again")
        world.write(messages(1_000, seed=1))
        world.wait_until_committed(process)
        process.terminate()
        assert 0 == process.wait(60), said.lines
    assert not re.search("Traceback|ERROR:kafka|WARNING:kafka", "".join(said.lines)), said.lines


@pytest.mark.slow
@pytest.mark.parametrize("then", ["it comes back", "the run is stopped"])
def test_the_first_letter_of_a_run_may_come_while_a_broker_is_away(broker, tmp_path, then):
    """It waits; a supervisor that stops the run meanwhile need not kill it: the file has it."""
    kafka, run = broker(), tmp_path / "run"
    world = World(tmp_path, kafka.config(), 1)
    world.write(read_before_its_letters(1_500, 7))
    slow = ("--set", "train.batch_size=1", "--set", "log.block_events=50",
            "--set", "join.window_s=2", "--set", "order.lateness_s=1")  # fmt: skip
    soon = ("--set", "checkpoint.every_s=0.4", "--set", "kafka.connect_s=0.4")
    with started("train", "--config", world.config, "--run", run, *slow, *soon) as process:
        said = Said(process)
        wait_until(lambda: any(run.glob("checkpoints/checkpoint-*")), process)
        kafka.kill()
        assert {} == told("deadletters", run)["counts"]
        wait_until(lambda: told("deadletters", run)["counts"], process)
        if then == "it comes back":
            kafka.start()
            world.wait_until_committed(process)
        process.terminate()
        assert 0 == process.wait(30), said.lines

    assert {"bad_json": 7} == told("deadletters", run)["counts"]
    if then == "it comes back":
        assert {"bad_json": 7} == told("deadletters", "--config", world.config)["counts"]
    else:
        said.wait_for("The last dead letters are in the run folder, and not in Kafka")


def read_before_its_letters(impressions, letters):
    """Return a log that a reader has fetched whole before it comes to the malformed lines."""
    log = messages(impressions, chaos=Chaos())
    shown, clicked = log
    at = max(newest_ms(value) for value in log[shown]) + 60_000
    event = {"impression_id": "none", "user_id": 1, "action": "click"}
    log[shown][-1] += b"\n{" * letters  # of its time: another would lie in another segment
    log[clicked] += [encode_event({**event, "ts": at + n}) for n in range(100)]
    return log


def wait_until(condition, process) -> None:
    """Wait until something is so, while a process runs."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not come so far"
        assert process.poll() is None, "the trainer has ended"
        passes(process, 0.02)
