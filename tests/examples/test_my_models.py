import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from trainer.checks import check_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_example_model_keeps_what_every_model_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """People copy it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from my_models.wide import build

    check_model(build)


def test_a_model_of_ones_own_is_trained_from_the_command_line(tmp_path: Path) -> None:
    """The configuration names it, with its options; nothing else is needed."""
    config = tmp_path / "k.toml"
    config.write_text(
        '[model]\nmodel = "my_models.wide:build"\nhidden = [8]\n[model.options]\nshortcut = true\n'
    )
    world = tmp_path / "world.ndjson"
    keepstream = [sys.executable, "-m", "keepstream.cli"]
    subprocess.run(
        [*keepstream, "simulate", "--out", str(world), "--impressions", "3000"], check=True
    )
    command = [*keepstream, "replay", "--config", str(config), "--input", str(world), "--json",
               "--quiet"]  # fmt: skip
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(EXAMPLES)}
    )

    assert 3000 == orjson.loads(done.stdout.splitlines()[-1])["examples"]
