"""A new data set needs minutes and no code: what `init` writes works, or says what is missing."""

import tomllib

import pyarrow.parquet as pq
import pytest

from replay.simulate import Chaos
from tests.keepstream.test_same_everywhere import table_of
from tests.keepstream.worlds import keepstream, messages, told

READY = ("ebnerd_week1_events", "ebnerd_week1_history", "ml100k_ratings", "talkingdata_sample")
NO_EVENTS = {  # one row is no impression: what a person would have to say
    "amazon_scientific_items": "user_id",
    "amazon_scientific_sequences": "ts",
    "ebnerd_fixture_behaviors": "item_id",
    "ebnerd_fixture_history": "item_id",
    "ml100k_items": "user_id",
    "ml100k_users": "item_id",
}


def test_a_table_of_impressions_is_learned_without_editing(tmp_path):
    """The first quarter of an hour decides whether anybody stays."""
    table = tmp_path / "events.parquet"
    pq.write_table(table_of(messages(3_000, chaos=Chaos())).drop_columns(["true_ctr"]), table)
    config = tmp_path / "keepstream.toml"

    assert 0 == keepstream("init", "--from", table, "--out", config)[0]

    present = told("features", "check", "--config", config, "--input", table)["present"]
    assert {"device", "category"} <= present.keys()
    result = told("replay", "--config", config, "--input", table, "--quiet")
    assert 3_000 == result["examples"]
    assert result["clicks"] > 100


def test_a_configuration_for_json_events_is_complete(tmp_path):
    """Without a file to look at it must still be one that can be used as it is."""
    code, text = keepstream("init")
    config = tmp_path / "k.toml"
    config.write_text(text)

    assert 0 == code
    assert tomllib.loads(text) == tomllib.loads(told("init")["config"])
    assert "item.ctr.3h" in told("features", "check", "--config", config)["numbers"]


def test_a_scene_that_no_event_has_is_told(tmp_path):
    """A scene that is spelt wrong would give a statistic of zeros, for good."""
    table, config = tmp_path / "events.parquet", tmp_path / "k.toml"
    pq.write_table(table_of(messages(300, chaos=Chaos())).drop_columns(["true_ctr"]), table)
    keepstream("init", "--from", table, "--out", config)
    words = ("features", "check", "--config", config, "--input", table)
    for scene, code in (("front_page", 0), ("frontpage", 1)):
        some = f"features.statistics=[{{key=['item'], scenes=['{scene}']}}]"

        assert code == keepstream(*words, "--set", some)[0]

        row = told(*words, "--set", some, code=code)["present"][f"item@{scene}"]
        assert (row["distinct"], row["share"] > 0) == (1 - code, not code)


def test_init_overwrites_nothing(tmp_path):
    """A configuration is edited by hand: to lose it would cost a day."""
    config = tmp_path / "k.toml"
    config.write_text("# mine")

    assert 2 == keepstream("init", "--out", config)[0]
    assert "# mine" == config.read_text()


@pytest.mark.data
@pytest.mark.parametrize("name", READY)
def test_real_events_are_learned_without_editing(real_data, tmp_path, name):
    """Four data sets of four kinds: news, its clicks, ratings, and ads."""
    source, config = real_data / f"{name}.parquet", tmp_path / "k.toml"
    some = tmp_path / "some.parquet"
    batch = next(pq.ParquetFile(source).iter_batches(5_000))
    with pq.ParquetWriter(some, batch.schema) as writer:
        writer.write_batch(batch)

    assert 0 == keepstream("init", "--from", source, "--out", config)[0]

    assert 0 == keepstream("features", "check", "--config", config, "--input", some)[0]
    result = told("replay", "--config", config, "--input", some, "--quiet", "--as-served")
    assert 5_000 == result["examples"]
    assert {} == result["counts"]["dead_letters"]


@pytest.mark.data
@pytest.mark.parametrize(("name", "missing"), NO_EVENTS.items())
def test_what_is_no_log_of_events_says_what_to_fill_in(real_data, tmp_path, capsys, name, missing):
    """Not every table is a log: the file says what is missing, and so does whoever reads it."""
    source, config = real_data / f"{name}.parquet", tmp_path / "k.toml"

    assert 0 == keepstream("init", "--from", source, "--out", config)[0]

    assert "To do: No column looks like" in capsys.readouterr().err
    assert "# TO DO" in config.read_text()
    code, _ = keepstream("features", "check", "--config", config, "--input", source)
    assert 2 == code
    assert f"[input.columns] has no {missing}: add" in capsys.readouterr().err
