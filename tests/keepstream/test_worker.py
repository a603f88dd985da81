import io

import pytest

from keepstream.cli import main
from tests.deployment import free_port


def said_by(arguments, capsys):
    """Return the exit code of a command, and what it said on standard error."""
    code = main(arguments, io.StringIO())
    return code, capsys.readouterr().err


@pytest.fixture
def settings(tmp_path):
    """Return the arguments of a worker that has a configuration, and nothing in it."""
    config = tmp_path / "keepstream.toml"
    config.write_text("")
    return ["worker", "--config", str(config), "--web-port", "0"]


def test_a_worker_without_kafka_is_told_what_to_set(settings, capsys):
    """Whoever has only files needs no worker."""
    code, said = said_by(settings, capsys)

    assert 2 == code
    assert "bootstrap" in said


def test_a_worker_writes_final_labels_only(settings, capsys):
    """A positive that is learned at its click cannot wait in a topic for its turn."""
    sets = ["--set", "kafka.bootstrap=localhost:1", "--set", "train.positive_at=click"]
    code, said = said_by([*settings, *sets], capsys)

    assert 2 == code
    assert 'positive_at = "deadline"' in said


def test_a_broker_that_is_not_there_is_named(settings, capsys):
    """A worker that cannot start says why within seconds, and its supervisor tries again."""
    nobody = f"127.0.0.1:{free_port()}"
    sets = ["--set", f"kafka.bootstrap={nobody}", "--set", "kafka.connect_s=2"]
    code, said = said_by([*settings, *sets], capsys)

    assert 1 == code
    assert nobody in said
