"""`keepstream archive`: what is learned of an archive is what is learned of its log."""

import json
import signal
from pathlib import Path

import pytest

from keepstream.config import load
from keepstream.inputs import opener
from keepstream.reading import event_schema
from replay.simulate import TOPICS
from stream.archive_commits import Commits
from stream.position import Position
from tests.keepstream.topics import World
from tests.keepstream.worlds import (
    configured,
    keepstream,
    messages,
    parts,
    passes,
    run_of,
    started,
    told,
    write_log,
)
from tests.stream.archives import archived, logged
from tests.stream.source_contract import assert_same

ROOT = Path(__file__).resolve().parents[2]
SAME = ("examples", "examples_digest", "weights_digest", "auc", "counts")
QUICK = ("--quiet", "--set", "checkpoint.every_s=100000")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder with a log of some hours, its archive, and a configuration."""
    folder = tmp_path_factory.mktemp("world")
    write_log(folder / "log", messages(7_000, partitions=2))
    configured(folder)
    told("archive", "--log", folder / "log", "--into", folder / "a", "--until-end",
         "--roll-events", 2000)  # fmt: skip
    return folder


def learned(folder, source, *more) -> dict:
    """Return what a replay tells of an input."""
    config = folder / "keepstream.toml"
    said = told("replay", "--config", config, "--input", folder / source, *QUICK, *more)
    del said["counts"]["dead_letters"]  # lines that were no events are in the archive's own
    del said["counts"]["rejected"]
    return {name: said[name] for name in SAME}


def test_an_archive_is_learned_as_its_log_to_the_bit(world):
    """Late, doubled and absurd events included: the archive has them where the log had them."""
    expected = learned(world, "log")

    assert 6_000 < expected["examples"]
    assert expected == learned(world, "a")


def test_a_stretch_of_time_is_learned_as_that_of_the_log(world):
    """A refresh that reads an hour of the archive opens the files of that hour."""
    files = list(Commits(world / "a").files())
    hours = sorted({file.hour_ms for file in files})
    window = ("--from", hours[1] + 600_000, "--until", hours[1] + 3_000_000)

    assert 2 <= len(hours)
    assert learned(world, "log", *window) == learned(world, "a", *window)


def test_an_archive_becomes_a_log_again(world, tmp_path):
    """Whoever has only the archive can fill topics and logs from it."""
    command = ("replay", "--config", world / "keepstream.toml", "--partitions", 2, "--into")

    from_log = told(*command, tmp_path / "b", "--input", world / "log")
    from_archive = told(*command, tmp_path / "c", "--input", world / "a")

    assert 0 < from_log["rejected"]
    assert {**from_log, "rejected": 0} == from_archive
    assert_same(logged(tmp_path / "b"), logged(tmp_path / "c"))


def test_a_run_goes_on_where_the_archive_has_grown(tmp_path):
    """Night after night: log, archive and run each go on, and it is one run over one log."""
    configured(tmp_path)
    train = ("train", "--config", tmp_path / "keepstream.toml", "--until-end", *QUICK)
    for part in parts(2, 3_000, partitions=2):
        write_log(tmp_path / "log", part)
        said = told("archive", "--log", tmp_path / "log", "--into", tmp_path / "a", "--until-end")
        told(*train, "--log", tmp_path / "a", "--run", tmp_path / "r")
        told(*train, "--log", tmp_path / "log", "--run", tmp_path / "direct")

    assert said["archived"] < said["events"]
    runs = [run_of(tmp_path / name) for name in ("r", "direct")]
    assert runs[0]["examples_digest"] == runs[1]["examples_digest"]
    assert runs[0]["weights_digest"] == runs[1]["weights_digest"]
    assert all(run["resumed"] for run in runs)


def test_a_history_may_be_an_archive(world, tmp_path):
    """What the topics no longer keep is learned first, then what is live."""
    configured(tmp_path)
    train = ("train", "--config", tmp_path / "keepstream.toml", "--until-end", *QUICK,
             "--log", world / "log", "--bootstrap")  # fmt: skip

    told(*train, world / "log", "--run", tmp_path / "log")
    told(*train, world / "a", "--run", tmp_path / "archive")

    digests = [run_of(tmp_path / name)["examples_digest"] for name in ("log", "archive")]
    assert digests[0] == digests[1]


def test_a_log_is_followed_until_a_signal(world, tmp_path):
    """A supervisor stops it with SIGTERM: what was read is in the archive, and it ends with 0."""
    command = ("archive", "--log", world / "log", "--into", tmp_path / "a", "--json")
    with started(*command, "--roll-events", 1000) as process:
        while Commits(tmp_path / "a").last is None and process.poll() is None:
            passes(process, 0.02)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)

    assert 0 == process.returncode, err
    said = json.loads(out)
    assert said["stopped"]
    again = told(*command[:-1], "--until-end")
    assert said["events"] + again["archived"] == again["events"]
    assert_same(logged(world / "log"), archived(tmp_path / "a"))


def test_it_shows_what_is_in_it(world):
    """Whoever plans a job asks how far back it reaches, and which scenes are in it."""
    shown = told("archive", "--into", world / "a", "--show")
    code, text = keepstream("archive", "--into", world / "a", "--show")

    files = list(Commits(world / "a").files())
    assert (len(files), sum(f.rows for f in files)) == (shown["files"], shown["events"])
    assert shown["events"] == sum(shown["by_topic"].values()) == sum(shown["by_day"].values())
    assert {"front_page", "article_page"} <= shown["by_scene"].keys()
    assert shown["by_topic"]["impressions"] == sum(shown["by_scene"].values())
    assert 0 < sum(shown["dead_letters"].values())
    assert 0 == code
    assert f"{shown['events']:,} events in {len(files)} files" in text
    code, letters = keepstream("deadletters", world / "a")
    assert 0 == code and "bad_json" in letters


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--into", "a", "--log", "other", "--until-end"], 2, "is the archive of another log"),
        (["--into", "log", "--log", "other", "--until-end"], 2, "log holds something else"),
        (["--into", "new", "--log", "none", "--until-end"], 2, "none is no file log"),
        (["--into", "new", "--show"], 1, "new holds no archive"),
        (["--into", "new", "--roll-s", "0"], 2, "--roll-s must be above 0"),
        (["--into", "new", "--keep-days", "-1"], 2, "--keep-days must be above 0"),
        (["--into", "new", "--roll-mb", "9999"], 2, "--roll-mb is at most 1024"),
    ],
)
def test_what_cannot_be_served_is_told(world, monkeypatch, capsys, words, code, said):
    """Each names the thing, the fact and the next move."""
    monkeypatch.chdir(world)
    if not Path("other").exists():
        write_log(Path("other"), messages(200, partitions=2, seed=5))

    assert code == keepstream("archive", *words)[0]

    assert said in capsys.readouterr().err
    assert not Path("new").exists()


@pytest.mark.kafka
def test_topics_are_archived_as_a_log_is(kafka, tmp_path):
    """Same events, same bits, wherever the log lies."""
    log = messages(3_000, partitions=2)
    topics = World(tmp_path, kafka, 2)
    topics.write(log)
    write_log(tmp_path / "log", log)
    command = ("archive", "--config", topics.config, "--into", tmp_path / "a", "--until-end")

    said = [told(*command), told(*command)]

    assert [0, said[0]["events"]] == [said[1]["archived"], said[1]["events"]]
    config = load(topics.config)
    names = [topics.names[name] for name in TOPICS]
    expected = logged(tmp_path / "log", schema=event_schema(config))
    assert_same(expected, archived(tmp_path / "a", names, event_schema(config)))


@pytest.mark.data
def test_a_week_of_news_is_read_back_as_it_was(real_data, tmp_path):
    """Real events: lists, ids as text and numbers, nights without traffic."""
    config = load(ROOT / "examples" / "ebnerd.toml")
    table = real_data / "ebnerd_week1_events.parquet"
    told("replay", "--config", ROOT / "examples" / "ebnerd.toml", "--input", table, "--into",
         tmp_path / "log", "--until", "2023-05-18T19:00", "--per-message", 20,
         "--partitions", 4)  # fmt: skip

    said = told("archive", "--log", tmp_path / "log", "--into", tmp_path / "a", "--until-end",
                "--roll-events", 10_000)  # fmt: skip

    schema = event_schema(config)
    assert 20_000 < said["events"]
    source = opener(config, [tmp_path / "a"])(schema, Position())
    assert 8 == len(source.partitions)
    assert_same(logged(tmp_path / "log", schema=schema), archived(tmp_path / "a", schema=schema))
