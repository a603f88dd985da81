from pathlib import Path

import orjson
import pytest

from replay.compare import compare
from replay.errors import InputCorrupt, InputError


def _run(
    folder: Path, learned: str = "aaaa", weights: str = "0000", batches: int = 4, **more: object
):
    """Write a run whose digest of batch n is that of the first n letters."""
    folder.mkdir()
    lines = [
        {
            "batch": n,
            "examples": 100 * n,
            "at_ms": 1_700_000_000_000 + n,
            "examples_digest": learned[:n],
            "weights_digest": weights[:n],
        }
        for n in range(1, batches + 1)
    ]
    (folder / "trace.ndjson").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    result = {
        "examples": 100 * batches,
        "clicks": 7,
        "examples_digest": learned[:batches],
        "weights_digest": weights[:batches],
        "logloss": 0.3,
        "wall_s": 12.0,
        **more,
    }
    (folder / "result.json").write_bytes(orjson.dumps(result))
    return folder


def test_two_equal_runs_are_equal_whatever_time_they_took(tmp_path):
    """Speed is the machine's: only what was learned counts."""
    found = compare(_run(tmp_path / "a"), _run(tmp_path / "b", wall_s=99.0))

    assert found.verdict == "equal"
    assert found.differ == {}
    assert found.as_text().startswith("equal: ")


def test_the_first_batch_of_other_examples_is_named(tmp_path):
    """From there on everything differs: what matters is where it begins and what is before it."""
    found = compare(
        _run(tmp_path / "a"), _run(tmp_path / "b", learned="aaba", weights="0011", clicks=8)
    )

    assert found.verdict == "examples"
    assert (found.parting.batch, found.parting.last_equal_batch) == (3, 2)
    assert found.differ["clicks"] == (7, 8)
    assert "batch 3 (300 examples" in found.as_text()
    assert "the join" in found.as_text()


def test_equal_examples_and_other_weights_point_at_the_model(tmp_path):
    """The same examples cannot lead to other weights but by the learner."""
    found = compare(
        _run(tmp_path / "a", config_digest="x"),
        _run(tmp_path / "b", weights="0100", config_digest="y"),
    )

    assert (found.verdict, found.parting.batch) == ("weights", 2)
    assert found.same_config is False
    assert "the seed" in found.as_text()


def test_a_run_that_went_further_is_told_from_one_that_differs(tmp_path):
    """A run cut short has learned nothing wrong."""
    found = compare(_run(tmp_path / "a", batches=2), _run(tmp_path / "b"))

    assert (found.verdict, found.parting.last_equal_batch) == ("unfinished", 2)


def test_traces_of_other_intervals_are_compared_where_they_meet(tmp_path):
    """How often a line is written is no difference between runs."""
    a, b = _run(tmp_path / "a"), _run(tmp_path / "b")
    trace = (b / "trace.ndjson").read_bytes().splitlines(keepends=True)
    (b / "trace.ndjson").write_bytes(trace[1] + trace[3])

    assert compare(a, b).equal


def test_equal_weights_with_other_figures_point_at_the_measurement(tmp_path):
    """Digests prove what was learned, not how it was scored."""
    found = compare(_run(tmp_path / "a"), _run(tmp_path / "b", by_scene={"front": {"auc": 0.7}}))

    assert found.verdict == "figures"
    assert found.differ["by_scene.front.auc"] == (None, 0.7)


def test_without_traces_the_digests_still_decide(tmp_path):
    """Old runs may have kept their result only; that is said, not hidden."""
    a, b = _run(tmp_path / "a"), _run(tmp_path / "b", weights="0001")
    (a / "trace.ndjson").unlink()

    assert compare(a, b).verdict == "weights"
    assert "no trace.ndjson" in compare(a, b).as_text()


def test_the_json_form_is_plain_json(tmp_path):
    """Scripts read it."""
    found = compare(_run(tmp_path / "a"), _run(tmp_path / "b", weights="0100"))

    assert orjson.loads(orjson.dumps(found.as_json()))["parting"]["what"] == "weights"


def test_a_folder_that_is_no_run_is_named(tmp_path):
    """The usual mistake is the folder above."""
    with pytest.raises(InputError, match=r"has no result\.json: name the folder"):
        compare(_run(tmp_path / "a"), tmp_path)


def test_a_torn_result_is_named(tmp_path):
    """A run that was killed while it wrote proves nothing."""
    broken = _run(tmp_path / "b")
    (broken / "result.json").write_bytes(b'{"examples": 1')

    with pytest.raises(InputCorrupt, match="is not JSON"):
        compare(_run(tmp_path / "a"), broken)
