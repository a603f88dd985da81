"""Bad input never stops the stream and never vanishes; what cannot be served is said in a line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from replay.simulate import Chaos
from stream.deadletters import REASONS
from stream.filelog import LogDamaged, create_topic
from stream.filelog_writer import FileLogWriter
from stream.position import Partition
from tests.keepstream.test_same_everywhere import PARQUET, table_of
from tests.keepstream.worlds import CONFIG, configured, keepstream, messages, told, write_log

GOOD = 600  # impressions
LONG = 10 * 1024 * 1024


def event(**fields) -> bytes:
    """Return a line: an impression, but for ``fields``."""
    good = {"impression_id": "x1", "user_id": "u1", "item_id": "i1", "ts": 1_700_010_000_000}
    return json.dumps({**good, "scene": "home", **fields}).encode()


BAD_LINES = {
    b"{": "bad_json",
    b'{"impression_id": "x1", "user_id": }': "bad_json",
    b"null": "wrong_type",
    b"[]": "wrong_type",
    b'"text"': "wrong_type",
    b"17": "wrong_type",
    b"[" * 100_000: "wrong_type",
    b'{"a":' * 100_000: "bad_json",
    b"\xff\xfe{}": "bad_utf8",
    b"\x00": "bad_json",
    event(ts="soon"): "wrong_type",
    event(ts=None): "wrong_type",
    event(ts=1.5): "wrong_type",
    event(ts=0): "bad_time",
    event(ts=-(10**18)): "bad_time",
    event(ts=1_700_010_000): "bad_time",  # seconds
    event(ts=1_700_010_000_000_000): "bad_time",  # microseconds
    event(ts=10**30): "bad_time",
    event(ts=1_900_000_000_000): "time_jump",
    event(user_id=None): "wrong_type",
    event(user_id=""): "missing_field",
    event(user_id={"id": 1}): "wrong_type",
    event(impression_id=[1]): "wrong_type",
    event(item_id=""): "missing_field",
    event(position="first"): "wrong_type",
    event(position=10**12): "wrong_type",
    event(features=[]): "wrong_type",
    event(features={"price": "cheap"}): "wrong_type",
    event(features={"device": {"os": 1}}): "wrong_type",
    event(features={"device": 1.5}): "wrong_type",
    event(features={"price": 1e300}): "wrong_type",
    event(action=["click"]): "wrong_type",
    event(features={"device": "x" * LONG}): "oversize",
    b"x" * LONG: "oversize",
    b'{"impression_id": "x1", "user_id": "u1", "ts": 1700010000000}': "missing_field",
    b'{"user_id": "u1", "item_id": "i1", "ts": 1700010000000}': "missing_field",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a configuration, and a world without troubles."""
    folder = tmp_path_factory.mktemp("place")
    configured(folder, CONFIG + PARQUET)
    return folder, messages(GOOD, chaos=Chaos())


def replay(folder, *inputs, code=0, more=()):
    """Replay inputs; return the JSON object printed."""
    return told("replay", "--config", folder / "keepstream.toml", "--quiet", *more,
                "--input", *inputs, code=code)  # fmt: skip


@pytest.fixture(scope="module")
def clean(place):
    """Return what the good events alone give."""
    folder, log = place
    return replay(folder, write_log(folder / "clean", log))


def with_bad_lines(log) -> dict[Partition, list[bytes]]:
    """Return a log in which every bad line lies between two good ones, in both topics."""
    dirty = {}
    for partition, values in log.items():
        lines = b"".join(values).splitlines()
        for number, line in enumerate(BAD_LINES):
            lines.insert((number * 7) % len(lines), line)
        dirty[partition] = [b"\n".join(lines[i : i + 9]) for i in range(0, len(lines), 9)]
    return dirty


@pytest.mark.parametrize("transport", ["log", "ndjson"])
def test_bad_lines_are_kept_with_their_reason_and_every_good_one_is_learned(
    place, clean, tmp_path, capsys, transport
):
    """A producer's mistake must not cost the examples of all others, nor be forgotten."""
    folder, log = place
    dirty = with_bad_lines(log)
    source = [write_log(tmp_path / "log", dirty)]
    if transport == "ndjson":
        source = [tmp_path / f"{p.topic}.ndjson" for p in dirty]
        for path, values in zip(source, dirty.values(), strict=True):
            path.write_bytes(b"\n".join(values))
    run = tmp_path / "run"

    result = replay(folder, *source, more=("--run", run))

    expected = {reason: 0 for reason in REASONS if reason in BAD_LINES.values()}
    for reason in BAD_LINES.values():
        expected[reason] += 2
    assert expected == result["counts"]["dead_letters"]
    assert 2 * len(BAD_LINES) == result["counts"]["rejected"]
    for key in ("examples_digest", "weights_digest", "examples", "clicks"):
        assert clean[key] == result[key]
    said = told("deadletters", run, "--limit", 1000)
    assert expected == said["counts"]
    assert 2 * len(BAD_LINES) == len(said["letters"])
    assert all(x["detail"] and x["partition"].endswith("/0") for x in said["letters"])
    text = keepstream("deadletters", run, "--reason", "bad_time", "--limit", "2")[1]
    assert 2 == text.count("1970") + text.count("2001-09-09 and 2100") - 1
    assert "" == capsys.readouterr().err


def test_feedback_of_any_shape_is_survived(place, clean, tmp_path):
    """Feedback for nothing, twice, early and of unknown actions is counted, never learned."""
    folder, log = place
    shown, clicked = Partition("impressions", 0), Partition("feedback", 0)
    soon = {"ts": 1_700_006_405_440, "value": None}
    odd = [event(impression_id=f"nothing{i}", action="click", **soon) for i in range(50)]
    odd += [event(impression_id="r0.0", action=action, **soon) for action in ("like", "share")]
    dirty = {shown: log[shown], clicked: [b"\n".join([*odd, *log[clicked]])]}

    result = replay(folder, write_log(tmp_path / "log", dirty))

    assert GOOD == result["examples"]
    assert {} == result["counts"]["dead_letters"]
    assert 2 == result["counts"]["other_actions"]
    assert clean["clicks"] == result["clicks"]


def test_a_corrupt_segment_is_a_dead_letter_and_the_rest_is_read(place, tmp_path):
    """A bad sector costs the records it holds, with a letter that says where."""
    folder, log = place
    root = write_log(tmp_path / "log", log)
    path = next((root / "impressions" / "0").glob("*.log"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(bytes(data))
    run = tmp_path / "run"

    result = replay(folder, root, more=("--run", run))

    assert 0 < result["examples"] < GOOD
    assert {"corrupt_frame": 1} == result["counts"]["dead_letters"]
    assert "damaged at byte" in told("deadletters", run)["letters"][0]["detail"]
    with pytest.raises(LogDamaged, match="skip_damage"):
        write_log(root, log)


def test_a_log_without_clicks_is_learned(place, tmp_path):
    """A new product has impressions before it has clicks: figures that need both are null."""
    folder, log = place
    quiet = {p: values if p.topic == "impressions" else [] for p, values in log.items()}

    result = replay(folder, write_log(tmp_path / "log", quiet), more=("--as-served",))

    assert (GOOD, 0) == (result["examples"], result["clicks"])
    assert None is result["auc"] is result["auc_request"] is result["auc_user"]
    assert 0 < result["logloss"] < 1
    text = keepstream("replay", "--config", folder / "keepstream.toml", "--input",
                      tmp_path / "log", "--report", tmp_path / "r.html", "--quiet")[1]  # fmt: skip
    assert f"{GOOD:,} examples, 0 clicks" in text
    assert "nan" not in (tmp_path / "r.html").read_text().lower()


def test_a_log_of_clicks_alone_teaches_nothing(place, tmp_path):
    """Without impressions there are no examples; the orphans say why."""
    folder, log = place
    alone = {p: values if p.topic == "feedback" else [] for p, values in log.items()}

    result = replay(folder, write_log(tmp_path / "log", alone), code=1)

    assert 0 == result["examples"]
    assert result["counts"]["orphans"] > 10


@pytest.fixture(scope="module")
def files(place, tmp_path_factory):
    """Return a folder of inputs, each wrong in its own way."""
    _, log = place
    here = tmp_path_factory.mktemp("files")
    table = table_of(log)
    pq.write_table(table, here / "good.parquet")
    whole = (here / "good.parquet").read_bytes()
    (here / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (here / "empty.parquet").write_bytes(b"")
    (here / "text.parquet").write_text("impression_id,user_id\n")
    damaged = bytearray(whole)
    damaged[40:4_000] = bytes(3_960)
    (here / "damaged.parquet").write_bytes(bytes(damaged))
    pq.write_table(table.slice(0, 0), here / "rows0.parquet")
    pq.write_table(table.drop_columns(["user_id"]), here / "nouser.parquet")
    pq.write_table(table.take(pa.array(range(GOOD - 1, -1, -1))), here / "unsorted.parquet")
    (here / "events.csv").write_text("a,b\n")
    (here / "folder").mkdir()
    (here / "nolog").mkdir()
    create_topic(here / "oldlog", "other", 1)
    (here / "broken" / "impressions").mkdir(parents=True)
    (here / "broken" / "impressions" / "topic.json").write_text("{")
    (here / "unreadable.toml").write_bytes(b"\xff\xfe")
    return here


INPUTS = [
    ("none.parquet", 2, "no such file"),
    ("cut.parquet", 1, "footer"),
    ("empty.parquet", 1, "empty"),
    ("text.parquet", 1, "not a Parquet file"),
    ("damaged.parquet", 1, "damaged"),
    ("rows0.parquet", 1, "no rows"),
    ("nouser.parquet", 2, "user_id"),
    ("unsorted.parquet", 1, "sort"),
    ("events.csv", 2, "not a kind of input"),
    ("folder", 2, "no topic 'impressions'"),
    ("oldlog", 2, "no topic 'impressions'"),
    ("broken", 1, "topic.json"),
]


@pytest.mark.parametrize(("name", "code", "said"), INPUTS)
def test_an_input_that_cannot_be_read_is_told_in_one_line(place, files, capsys, name, code, said):
    """Whoever gets it at night must know what is wrong and what to do, without reading code."""
    folder, _ = place

    told_of = replay(folder, files / name, code=code)

    err = capsys.readouterr().err
    assert 1 == len(err.splitlines()), err
    assert said in err
    assert err.startswith("keepstream: ")
    assert f"keepstream: {told_of['message']}\n" == err


SETTINGS = [
    (["train.batch_sise=3"], "Did you mean 'batch_size'?"),
    (["trian.seed=3"], "Did you mean 'train'?"),
    (["train.seed=-1"], "seed must be 0 or more"),
    (["train.seed=1e400"], "whole number"),
    (["seed=3"], "expected table.key=value"),
    (["train.seed"], "expected table.key=value"),
    (["train.=3"], "expected table.key=value"),
    (["train.seed.x=3"], "seed"),
    (["model.model.x=3"], "not a table"),
    (["join.window_s=nan"], "finite"),
    (["join.window_s=1e30"], "cannot be built"),
    (["ids.max_rows=99999999999999999999"], "larger than"),
    (["model.options=3"], "expected a table"),
    (["model.options.depth_of=3"], "depth_of"),
    (["model.model=no_such_package.models:make"], "no_such_package"),
    (["model.model=json:no_such_factory"], "no_such_factory"),
    (["model.model=json:dumps"], "json:dumps"),
    (["model.model=dinn"], "'din'"),
    (["model.embedding_width=0"], "embedding_width"),
    (['features.ids=["item", "item"]'], "item"),
    (['features.ids=["item", "itme_id"]'], "itme_id"),
    (["features=3"], "expected table.key=value"),
    (["features.histroy=3"], "histroy"),
    (['features.statistics=[{key=["item"], half_lives_h=[-1]}]'], "half_lives_h"),
    (['join.label_actions=["buy"]', 'input.feedback.action="click"'], "No example"),
    (['input.columns.user_id="userid"'], "user_id"),
    (["input.columns.user_id=7"], "user_id"),
    (['input.columns.usr="x"'], "usr"),
    (['input.features.price="cost"'], "cost"),
    (["input.sort=3"], "sort"),
    (["log.fsync=often"], "fsync"),
    (["log.block_events=0"], "block_events"),
]


@pytest.mark.parametrize(("settings", "said"), SETTINGS)
def test_a_setting_that_cannot_be_served_is_told_in_one_line(place, files, capsys, settings, said):
    """A typing error must end before any example is learned, and name itself."""
    folder, _ = place
    more = [x for setting in settings for x in ("--set", setting)]
    expected = 0 if said == "No example" else 2

    replay(folder, files / "good.parquet", code=expected, more=more)

    err = capsys.readouterr().err
    if expected:
        assert 1 == len(err.splitlines()), err
        assert said in err


ARGUMENTS = [
    ("replay --config none.toml --input good.parquet", 2, "no such file"),
    ("replay --config unreadable.toml --input good.parquet", 2, "TOML"),
    ("replay --config . --input good.parquet", 2, "TOML"),
    ("replay --config k.toml --input good.parquet oldlog", 2, "mixes"),
    ("replay --config k.toml --input oldlog oldlog", 2, "one file log at a time"),
    ("replay --config k.toml --input good.parquet --speed 0", 2, "--speed"),
    ("replay --config k.toml --input good.parquet --speed nan", 2, "--speed"),
    ("replay --config k.toml --input good.parquet --into x --per-message 0", 2, "per-message"),
    ("replay --config k.toml --input good.parquet --into x --partitions 0", 2, "partition"),
    ("replay --config k.toml --input good.parquet --into oldlog/other/topic.json", 1, "topic.json"),
    ("replay --config k.toml --input good.parquet --run good.parquet", 1, "good.parquet"),
    ("replay --config k.toml --input good.parquet --report no/such/r.html", 2, "no/such"),
    ("train --config k.toml --log none", 2, "none"),
    ("train --config k.toml --log oldlog", 2, "impressions"),
    ("features check --config k.toml --input cut.parquet", 1, "footer"),
    ("features check --config k.toml --input good.parquet --events 0", 2, "--events"),
    ("init --from none.parquet", 1, "none.parquet"),
    ("init --from cut.parquet", 1, "footer"),
    ("init --from text.parquet", 1, "Parquet"),
    ("init --out k.toml", 2, "already"),
    ("init --out no/such/k.toml", 1, "no/such"),
    ("compare none good.parquet", 1, "result.json"),
    ("compare folder folder", 1, "result.json"),
    ("checkpoints list none", 2, "none"),
    ("checkpoints verify good.parquet", 2, "good.parquet"),
    ("deadletters none", 2, "none"),
    ("deadletters folder --limit=-1", 2, "--limit"),
    ("simulate --into oldlog --partitions 0", 2, "partitions"),
    ("simulate --out good.parquet", 1, "good.parquet"),
    ("simulate --out new.ndjson --seed -1", 2, "seed"),
    ("simulate --out new.ndjson --impressions -5", 2, "impressions"),
    ("simulate --out new.ndjson --duplicates 2", 2, "duplicates"),
    ("simulate --out new.ndjson --world users=many", 2, "users"),
    ("simulate --out new.ndjson --world uzers=3", 2, "uzers"),
    ("simulate --out new.ndjson --world users=0", 2, "users"),
    ("simulate --out new.ndjson --per-message 0", 2, "per_message"),
    ("demo --folder folder-with-things", 2, "no earlier demo"),
]


@pytest.mark.parametrize(("line", "code", "said"), ARGUMENTS)
def test_arguments_that_cannot_be_served_are_told_in_one_line(
    place, files, capsys, monkeypatch, line, code, said
):
    """0 done, 1 failed, 2 wrong usage: scripts rely on it, people on the line."""
    folder, _ = place
    monkeypatch.chdir(files)
    (files / "k.toml").write_bytes((folder / "keepstream.toml").read_bytes())
    (files / "folder-with-things").mkdir(exist_ok=True)
    (files / "folder-with-things" / "thing").touch()
    try:
        actual, _ = keepstream(*line.split())
    except SystemExit as wrong:  # the parser's own: usage, then a line
        actual = wrong.code

    err = capsys.readouterr().err
    assert code == actual, err
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_writer_that_has_the_log_keeps_others_out(place, files, tmp_path, capsys):
    """Two writers of one partition would interleave their records."""
    folder, log = place
    root = write_log(tmp_path / "log", log)
    with FileLogWriter(root) as writer:
        writer.append(Partition("impressions", 0), b"")
        said = told("replay", "--config", folder / "keepstream.toml", "--input",
                    files / "good.parquet", "--into", root, "--append", code=1)  # fmt: skip

    assert "LogLocked" == said["error"]
