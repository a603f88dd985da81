import io
from pathlib import Path

import orjson
import pytest

from keepstream.cli import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.data
@pytest.mark.slow
def test_it_learns_from_a_week_of_real_news(real_data: Path) -> None:
    """One pass, every example scored before it is learned; the configuration saw three days."""
    out = io.StringIO()
    events = real_data / "ebnerd_week1_events.parquet"
    config = EXAMPLES / "ebnerd.toml"
    command = ["replay", "--config", str(config), "--input", str(events), "--as-served", "--quiet"]

    assert 0 == main([*command, "--json"], out)

    result = orjson.loads(out.getvalue().splitlines()[-1])
    assert 278_139 == result["examples"]
    for arm in ("", "_as_served"):
        assert result[f"auc_request{arm}"] >= 0.743
        assert result[f"logloss{arm}"] <= 0.280
        scenes = {name: f[f"auc_request{arm}"] for name, f in result["by_scene"].items()}
        assert scenes.keys() == {"front_page", "article_page"}
        assert min(scenes.values()) >= 0.74
        later = result["by_day"][1:]
        clicks = sum(day["clicks"] for day in later)
        predicted = sum(day[f"calibration{arm}"] * day["clicks"] for day in later)
        assert abs(predicted / clicks - 1) <= 0.02
