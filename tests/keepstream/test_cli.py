import argparse
import json
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from keepstream.cli import main, parser
from keepstream.commands import NAMES, every_command
from stream.deadletters import REASONS
from tests.keepstream.worlds import configured, keepstream, messages, started, told, write_log

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text("utf-8")

of_each_command = pytest.mark.parametrize("command", every_command(), ids=lambda c: c.name)


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    actions = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return actions[0].choices[name]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long options of a command and of its sub-commands."""
    found = {o for o in parser._option_string_actions if o.startswith("--")}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options_of, action.choices.values()))
    return found


def place_of(name: str) -> str:
    """Return what docs/cli.md says of a command."""
    found = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, f"docs/cli.md has no heading {name!r}"
    return found[1]


@of_each_command
def test_a_command_says_what_it_is_and_how_it_is_called(command):
    """Help is read by people in a hurry: a sentence, an example, and every option explained."""
    options = parser_of(command.name)

    assert command.summary.endswith(".")
    assert "keepstream " + command.name in command.examples
    assert "Examples:" not in command.description
    assert [] == [a.dest for a in options._actions if not a.help]
    assert "--json" in options._option_string_actions
    assert all(len(line) <= 100 for line in options.format_help().splitlines() if "{" not in line)


@of_each_command
def test_a_command_has_its_place_on_the_page(command):
    """What is not documented does not exist; what is documented must exist."""
    place = place_of(command.name)
    options = options_of(parser_of(command.name))

    assert f"[`{command.name}`](#{command.name})" in PAGE
    documented = set(re.findall(r"`(--[a-z-]+)", place))
    assert options - {"--help"} == documented


@of_each_command
def test_the_examples_of_a_command_can_be_called(command):
    """An example that does not parse costs its reader more than none."""
    lines = [line.strip() for line in command.examples.splitlines()[1:] if line.strip()]

    assert lines
    for line in lines:
        words = shlex.split(line.partition(">")[0])
        assert ["keepstream", command.name] == words[:2]
        assert command is parser().parse_args(words[1:]).called


def test_the_page_knows_every_reason_of_a_dead_letter():
    """Whoever meets one looks here."""
    assert set(REASONS) <= set(re.findall(r"`([a-z_0-9]+)`", place_of("deadletters")))


def test_help_and_version_are_served_without_an_error(capsys):
    """The first thing anybody types."""
    for words in (["--help"], ["--version"], ["replay", "--help"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert 0 == end.value.code
    assert "keepstream 0" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["repaly"], ["replay"], ["checkpoints", "burn", "x"]])
def test_wrong_words_are_wrong_usage(words, capsys):
    """2 tells a script that it called wrongly, 1 that the world was wrong."""
    with pytest.raises(SystemExit) as end:
        main(words)

    assert 2 == end.value.code
    assert "usage: keepstream" in capsys.readouterr().err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a configuration, a log, and a run of it."""
    folder = tmp_path_factory.mktemp("place")
    write_log(folder / "log", messages(2_000))
    told("replay", "--config", configured(folder), "--input", folder / "log",
         "--run", folder / "run", "--quiet")  # fmt: skip
    np.savez(folder / "items.npz", id=np.arange(1, 9), vector=np.eye(8))
    told("knowledge", "build", "--store", folder / "knowledge", "--from", folder / "items.npz",
         "--trained-until", 0)  # fmt: skip
    return folder


# demo takes a while and has a test of its own; the others need a broker (test_kafka_commands)
APART = {"demo", "produce", "topics", "worker"}


def every_command(place, tmp_path):
    """Return a call of each command that succeeds."""
    config = place / "keepstream.toml"
    return {
        "init": ["init"],
        "features": ["features", "check", "--config", config, "--input", place / "log"],
        "replay": ["replay", "--config", config, "--input", place / "log"],
        "train": ["train", "--config", config, "--log", place / "log", "--until-end"],
        "archive": ["archive", "--log", place / "log", "--into", tmp_path / "a", "--until-end"],
        "simulate": ["simulate", "--out", tmp_path / "w.ndjson", "--impressions", 500],
        "compare": ["compare", place / "run", place / "run"],
        "checkpoints": ["checkpoints", "verify", place / "run"],
        "knowledge": ["knowledge", "list", "--store", place / "knowledge"],
        "deadletters": ["deadletters", place / "run"],
        "status": ["status", place / "run"],
    }


@pytest.mark.parametrize("name", [name for name in NAMES if name not in APART])
def test_json_is_one_line_and_alone_on_standard_output(place, tmp_path, capfd, name):
    """A script reads the output; progress, notes and errors must not be in its way."""
    call = every_command(place, tmp_path)[name]

    assert 0 == main([str(x) for x in [*call, "--json"]])
    out = capfd.readouterr().out
    assert 1 == len(out.splitlines())
    assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in APART])
def test_every_command_speaks_to_people_too(place, tmp_path, name):
    """Without --json there is text, and no line of it is JSON."""
    (tmp_path / "w.ndjson").unlink(missing_ok=True)
    code, out = keepstream(*every_command(place, tmp_path)[name])

    assert 0 == code
    assert out.strip()
    assert "{'" not in out
    assert not out.startswith("{")


def test_what_fails_is_json_too(place, capsys):
    """A script that asked for JSON gets the error as JSON, its last line."""
    said = told("compare", place / "run", place / "none", code=1)

    assert {"error", "message"} == said.keys()
    assert f"keepstream: {said['message']}\n" == capsys.readouterr().err


def test_the_environment_sets_what_the_file_does_not(place, monkeypatch, capsys):
    """Deployments differ by their environment; a name spelt wrong must not pass in silence."""
    call = ("replay", "--config", place / "keepstream.toml", "--input", place / "log", "--quiet")
    plain = told(*call)
    monkeypatch.setenv("KEEPSTREAM_TRAIN_BATCH_SIZE", "32")
    other = told(*call)
    assert other["batches"] > plain["batches"]
    assert plain["batches"] == told(*call, "--set", "train.batch_size=64")["batches"]

    monkeypatch.setenv("KEEPSTREAM_TRAIN_BATCHSIZE", "32")
    said = told(*call, code=2)
    assert "KEEPSTREAM_TRAIN_BATCHSIZE" in said["message"]
    assert "'batch_size'" in said["message"]


def test_two_runs_that_differ_are_told_apart(place, tmp_path):
    """Equal is a proof, so different must be found: by weights, by examples, by length."""
    call = ("replay", "--config", place / "keepstream.toml", "--input", place / "log", "--quiet")
    told(*call, "--run", tmp_path / "seed", "--seed", 1)
    told(*call, "--run", tmp_path / "window", "--set", "join.window_s=60")

    assert "weights" == told("compare", place / "run", tmp_path / "seed", code=1)["verdict"]
    assert "examples" == told("compare", place / "run", tmp_path / "window", code=1)["verdict"]


def test_a_reader_that_leaves_early_is_no_error(place):
    """`keepstream deadletters run | head` is how people look."""
    with started("deadletters", place / "run", "--limit", 1000) as process:
        process.stdout.close()
        process.wait(60)
        assert "" == process.stderr.read()


def test_the_demo_learns_and_reports(tmp_path):
    """The first command of a newcomer: two processes, a log, a report."""
    folder = tmp_path / "demo"

    result = told("demo", "--folder", folder, "--impressions", 3_000, "--seconds", 1, "--quiet")

    assert 3_000 == result["examples"]
    assert result["logloss_oracle"] < result["logloss"]
    assert (folder / "report.html").is_file()
    again = told("demo", "--folder", folder, "--impressions", 1_000, "--seconds", 0.5, "--quiet")
    assert 1_000 == again["examples"]


def test_a_replay_at_a_speed_gives_what_one_at_full_speed_gives(place):
    """Speed is a convenience of whoever watches, never a part of the result."""
    call = ("replay", "--config", place / "keepstream.toml", "--input", place / "log", "--quiet",
            "--until", "2023-11-15T00:05")  # fmt: skip

    at_once, paced = told(*call), told(*call, "--speed", 1000)

    for key in ("examples", "examples_digest", "weights_digest", "counts"):
        assert at_once[key] == paced[key]


def test_a_signal_that_comes_while_a_run_is_being_built_ends_it_cleanly(tmp_path, place):
    """To build a large model or to load its state takes a while; a deployment may not wait."""
    call = ("replay", "--config", place / "keepstream.toml", "--input", place / "log",
            "--speed", 1, "--run", tmp_path / "run", "--json")  # fmt: skip
    with started(*call) as process:
        while not (tmp_path / "run" / "config.json").exists() and process.poll() is None:
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        process.terminate()
        out, err = process.communicate(timeout=20)

    assert 0 == process.returncode, err
    assert not json.loads(out)["ended"]
