import subprocess
import sys
from pathlib import Path

import pytest

from keepstream.config import ConfigError, from_tables, load


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"trian": {}}, "Did you mean 'train'?"),
        ({"train": {"batch_sise": 3}}, "Did you mean 'batch_size'?"),
        ({"train": {"batch_size": "3"}}, "expected a whole number"),
        ({"train": {"batch_size": 0}}, "batch_size must be at least 1"),
        ({"train": 3}, "expected a table"),
        ({"input": {"srot": True}}, "Did you mean 'sort'?"),
        ({"log": {"topics": "impressions"}}, "expected a list"),
        ({"train": {"as_served": 1}}, "expected true or false"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_next_move(tables: dict, said: str) -> None:  # type: ignore[type-arg]  # any TOML
    """A setting that is silently ignored costs a day of somebody's training."""
    with pytest.raises(ConfigError) as refused:
        from_tables(tables, "my.toml")

    assert said in str(refused.value)
    assert "my.toml" in str(refused.value)


def test_the_environment_goes_before_the_file_and_set_before_both(tmp_path: Path) -> None:
    """Deployments differ by their environment, one run by its command line."""
    path = tmp_path / "k.toml"
    path.write_text("[train]\nseed = 1\nbatch_size = 8\n[join]\nwindow_s = 5\n")
    environment = {"KEEPSTREAM_TRAIN_SEED": "2", "KEEPSTREAM_JOIN_WINDOW_S": "7", "HOME": "x"}

    config = load(path, ["train.seed=3", "model.model=mlp"], environment)

    assert (3, 8, 7.0, "mlp") == (
        config.train.seed,
        config.train.batch_size,
        config.join.window_s,
        config.model.model,
    )


def test_settings_that_go_together_may_come_one_by_one(tmp_path: Path) -> None:
    """A deployment sets each in a variable of its own; what counts is what all of them make."""
    path = tmp_path / "k.toml"
    path.write_text('[kafka]\nsecurity = "sasl"\n')
    environment = {"KEEPSTREAM_KAFKA_SECURITY": "sasl_tls", "KEEPSTREAM_KAFKA_USERNAME": "me"}

    config = load(path, ["kafka.tls_certificate=a.pem", "kafka.tls_key=a.key"], environment)

    assert ("sasl_tls", "me") == (config.kafka.security, config.kafka.username)
    with pytest.raises(ConfigError, match="KEEPSTREAM_TRAIN_SEEDS"):
        load(None, ["train.seed=3"], {"KEEPSTREAM_TRAIN_SEEDS": "2"})
    with pytest.raises(ConfigError, match=r"--set kafka\.tls_key"):
        load(None, ["kafka.tls_key=a.key", "train.seed=3"], {"KEEPSTREAM_KAFKA_SECURITY": "tls"})


def test_a_file_that_is_not_there_or_no_toml_is_named(tmp_path: Path) -> None:
    """The message says which file, and what to do."""
    with pytest.raises(ConfigError, match="keepstream init"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[train")
    with pytest.raises(ConfigError, match=r"bad\.toml: not readable as TOML"):
        load(tmp_path / "bad.toml")


def test_where_things_lie_does_not_change_what_a_run_is() -> None:
    """A run folder may move; a run with another seed is another run."""
    one = from_tables({"log": {"root": "a"}, "checkpoint": {"every_s": 5}})

    assert from_tables({}).digest() == one.digest()
    assert from_tables({"train": {"seed": 1}}).digest() != one.digest()


def test_where_kafka_is_does_not_change_what_a_run_is() -> None:
    """A cluster may get another address, and a run may go on over it."""
    kafka = {"bootstrap": "broker:9092", "security": "sasl_tls", "username": "me"}

    assert from_tables({}).digest() == from_tables({"kafka": kafka}).digest()


def test_a_password_is_no_setting_and_is_never_repeated(tmp_path: Path) -> None:
    """Settings are kept in run folders and shown in reports: a secret among them would spread."""
    secret = "hunter2-not-to-be-seen"
    path = tmp_path / "k.toml"
    path.write_text(f'[kafka]\npassword = "{secret}"\n')
    for call in (
        lambda: load(path, environment={}),
        lambda: load(None, [f"kafka.password={secret}"], {}),
    ):
        with pytest.raises(ConfigError, match="KEEPSTREAM_KAFKA_PASSWORD") as refused:
            call()
        assert secret not in str(refused.value)

    config = load(None, environment={"KEEPSTREAM_KAFKA_PASSWORD": secret})
    assert secret not in repr(config)
    assert secret not in str(config.as_tables())


@pytest.mark.parametrize("setting", ["kafka_password=hunter2", "kafka.pasword=hunter2"])
def test_a_misspelt_setting_is_named_without_its_value(setting: str) -> None:
    """It may have been meant as a secret, and messages are kept in logs."""
    with pytest.raises(ConfigError) as refused:
        load(None, [setting], {})

    assert f"--set {setting.partition('=')[0]}" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["1234", "1e3", "true", "2026-11-01", "0x1f", "me"])
def test_a_text_from_outside_is_taken_as_it_is(name: str) -> None:
    """An environment knows no quotes: a name of digits is a name all the same."""
    environment = {"KEEPSTREAM_KAFKA_USERNAME": name, "KEEPSTREAM_KAFKA_SECURITY": "sasl"}

    config = load(None, [f"kafka.group={name}g", f"kafka.examples={name[1:3]}"], environment)

    assert (name, f"{name}g", name[1:3]) == (
        config.kafka.username,
        config.kafka.group,
        config.kafka.examples,
    )
    assert '"quoted"' not in load(None, ['kafka.group="quoted"'], {}).kafka.group


@pytest.mark.parametrize(
    ("kafka", "said"),
    [
        ({"bootstrp": "a:1"}, "Did you mean 'bootstrap'?"),
        ({"security": "ssl"}, "sasl_tls"),
        ({"mechanism": "GSSAPI"}, "SCRAM-SHA-512"),
        ({"read": "clicks"}, "examples"),
        ({"lost": "ignore"}, "skip"),
        ({"connect_s": 0}, "connect_s"),
        ({"fetch_bytes": 0}, "fetch_bytes"),
    ],
)
def test_a_wrong_setting_of_kafka_is_refused_with_the_next_move(
    kafka: dict[str, object], said: str
) -> None:
    """Found before any broker is asked."""
    with pytest.raises(ConfigError) as refused:
        from_tables({"kafka": kafka}, "my.toml")

    assert said in str(refused.value)


def test_what_can_be_off_is_switched_off_by_a_word() -> None:
    """TOML has no null, and a number that means "off" would be a trap."""
    config = from_tables({"model": {"clip_norm": "off", "calibration_half_life": "off"}})

    assert (None, None) == (config.model.clip_norm, config.model.calibration_half_life)
    assert config == from_tables(config.as_tables())
    with pytest.raises(ConfigError, match="batch_size"):
        from_tables({"train": {"batch_size": "off"}})
    with pytest.raises(ConfigError, match="calibration_half_life = 0"):
        from_tables({"model": {"calibration_half_life": 0}})


def test_another_package_of_the_same_name_is_found_at_the_start(tmp_path: Path) -> None:
    """`stream` is a plain word: the wrong one would fail later, and nobody would know why."""
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "__init__.py").touch()

    done = subprocess.run(
        [sys.executable, "-c", "import keepstream"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert 1 == done.returncode
    assert "another package or folder has its name" in done.stderr
