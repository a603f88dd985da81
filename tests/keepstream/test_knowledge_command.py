"""`keepstream knowledge`, as people and scripts use it."""

import argparse
import shlex
import shutil
import subprocess
import sys
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keepstream.cli import parser
from keepstream.commands.knowledge import SUBCOMMANDS
from knowledge_store.kinds import pair_ids
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_ids
from tests.keepstream.worlds import keepstream, told
from tests.knowledge_store.stores import damage

DAY_MS = 86_400_000


def parser_of(name):
    """Return the parser of a sub-command."""
    found = parser("knowledge")
    for word in ("knowledge", name):
        actions = [a for a in found._actions if isinstance(a, argparse._SubParsersAction)]
        found = actions[0].choices[word]
    return found


@pytest.fixture
def place(tmp_path):
    """Return a folder with tables of items and users; the store that commands make is checked."""
    rng = np.random.default_rng(3)
    items = [f"i{n}" for n in range(40)]
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    table = pa.table({"id": items, "vector": list(vectors), "more": vectors.tolist()})
    pq.write_table(table, tmp_path / "items.parquet", row_group_size=16)
    np.savez(tmp_path / "users.npz", who=np.arange(30), rows=rng.normal(size=(30, 3)))
    np.savez(tmp_path / "items.npz", id=np.array(items), vector=vectors)
    yield tmp_path
    if (tmp_path / "k").exists():
        KnowledgeStore(tmp_path / "k").check()


def call(place, sub, *more, code=0):
    """Run a sub-command on the store of ``place``; return what is told."""
    return told("knowledge", sub, "--store", place / "k", *more, code=code)


def build(place, *more, until="2026-11-01", file="items.parquet", code=0):
    """Build a generation of items."""
    return call(place, "build", "--from", place / file, "--trained-until", until, *more, code=code)


@pytest.mark.parametrize("sub", SUBCOMMANDS, ids=lambda c: c.name)
def test_a_sub_command_says_what_it_is_and_its_examples_can_be_called(sub):
    """What holds for commands holds for them."""
    found = parser_of(sub.name)
    lines = [line.strip() for line in sub.examples.splitlines()[1:] if line.strip()]

    assert sub.summary.endswith(".")
    assert [] == [a.dest for a in found._actions if not a.help]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert ["keepstream", "knowledge", sub.name] == words[:3]
        assert sub is parser("knowledge").parse_args(words[1:]).subcalled


def test_a_look_at_a_store_does_not_wait_for_torch(place):
    """Nor does a build: both are for machines without it, too."""
    words = ["knowledge", "build", "--store", str(place / "k"), "--from",
             str(place / "items.npz"), "--trained-until", "0"]  # fmt: skip
    code = f"""
import sys
from keepstream.cli import main
assert 0 == main({words!r})
sys.exit(int("torch" in sys.modules))
"""
    assert 0 == subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode


@pytest.mark.parametrize("file", ["items.parquet", "items.npz"])
def test_a_table_of_ones_own_becomes_a_generation(place, file):
    """Who has an extractor needs no other part of ours; ids are those of events."""
    said = build(place, "--dtype", "float32", file=file)

    assert "g-00000001" == said["generation"]
    assert {"item": {"width": 6, "dtype": "float32", "count": 40}} == said["kinds"]
    assert said["from_ms"] is None
    rows = np.load(place / "items.npz")
    with KnowledgeStore(place / "k").reader("g-00000001") as reader:
        ids = hash_ids(rows["id"].tolist())
        found = reader.get_many("item", ids, said["trained_until_ms"])
    assert found.present.all()
    assert np.array_equal(rows["vector"], found.values)


def test_several_kinds_go_into_one_generation_and_a_base_keeps_the_rest(place):
    """Users, items and pairs are one extractor's; a refresh brings what is new."""
    users = ("--from", place / "users.npz", "--kind", "item", "--kind", "user")
    columns = ("--id-column", "id", "--id-column", "who")
    vectors = ("--vector-column", "more", "--vector-column", "rows")
    said = build(place, *users, *columns, *vectors)
    assert {"item": 40, "user": 30} == {k: v["count"] for k, v in said["kinds"].items()}

    np.savez(place / "new.npz", id=np.array(["i0", "new"]), vector=np.ones((2, 6)))
    said = build(place, "--base", "g-00000001", until="2026-11-02", file="new.npz")

    assert {"item": 41, "user": 30} == {k: v["count"] for k, v in said["kinds"].items()}
    assert {"item": 2, "user": 0} == said["changed"]
    assert "g-00000001" == said["base"]


def test_pairs_are_looked_up_by_both_ids(place):
    """Interaction knowledge is of a user and a category."""
    np.savez(place / "pairs.npz", id=np.array(["u1", "u1"]), category=np.array([4, 5]),
             vector=np.array([[1.0], [2.0]]))  # fmt: skip
    kind = ("--kind", "interaction")
    said = build(place, *kind, file="pairs.npz", code=2)
    assert "--category-column" in said["message"]
    build(place, *kind, "--category-column", "category", "--activate", file="pairs.npz")

    get = ("--id", "u1", "--at", "2026-11-01", *kind)
    assert [2.0] == call(place, "get", *get, "--category", 5)["vectors"][0]["vector"]
    assert "--category" in call(place, "get", *get, code=2)["message"]
    assert 0 != pair_ids(hash_ids(["u1"]), hash_ids([5]))[0]


def test_a_generation_comes_into_force_and_goes_again(place):
    """The life of a store: build, activate, build, activate, roll back, prune."""
    first, second = 1_793_491_200_000, 1_793_491_200_000 + DAY_MS
    assert first == build(place, "--activate")["from_ms"]
    build(place, until="2026-11-02")
    get = ("--kind", "item", "--id", "i3", "--id", "i99")

    said = call(place, "activate", "g-00000002", "--from", second - 1, code=2)
    assert ("FutureKnowledge", True) == (said["error"], "has learned until" in said["message"])
    assert {"generation": "g-00000002", "from_ms": second} == call(place, "activate", "g-00000002")
    for at, name in ((first - 1, None), (first, "g-00000001"), (second, "g-00000002")):
        said = call(place, "get", *get, "--at", at, code=int(name is None))
        assert name == said["generation"]
        assert [name is not None, False] == [row["present"] for row in said["vectors"]]
    said = call(place, "get", *get, "--at", first, "--generation", "g-00000002", code=2)
    assert "FutureKnowledge" == said["error"]

    said = call(place, "rollback", "--from", second + DAY_MS)
    assert {"generation": "g-00000001", "from_ms": second + DAY_MS} == said
    assert second == call(place, "rollback")["from_ms"]
    assert first == call(place, "rollback")["from_ms"]
    assert "NothingToRollBack" == call(place, "rollback", code=2)["error"]
    call(place, "activate", "g-00000002")
    assert {"deleted": ["g-00000001"]} == call(place, "prune", "--keep", 1)
    said = call(place, "list")
    assert [{"from_ms": second, "generation": "g-00000002"}] == said["switches"]
    assert ["g-00000002"] == [row["generation"] for row in said["generations"]]


def test_people_see_a_table(place):
    """Which is in force, since when, how much it knows, and how far it moved."""
    build(place, "--activate")
    build(place, until="2026-11-02")

    code, text = keepstream("knowledge", "list", "--store", place / "k")
    assert 0 == code
    head, first, second = text.splitlines()
    assert "trained until" in head
    assert first.startswith("* g-00000001  2026-11-01 00:00:00 UTC  2026-11-01 00:00:00 UTC")
    assert second.startswith("  g-00000002  2026-11-02 00:00:00 UTC  -")
    code, text = keepstream("knowledge", "show", "--store", place / "k")
    assert "item: 40 vectors of 6 float16, 40 of them written" in text
    assert "files: items.parquet" in text
    at = ("--at", "2026-11-01", "--kind", "item", "--id", "i1", "--id", "none")
    code, text = keepstream("knowledge", "get", "--store", place / "k", *at)
    assert "g-00000001 is in force at 2026-11-01 00:00:00 UTC" in text
    assert "none: no vector" in text


def test_what_an_extractor_says_of_drift_stands_in_the_list(place):
    """A number or one for each kind; what is none of either is not made up."""
    build(place)
    store = KnowledgeStore(place / "k")
    for about in ({"drift": {"item": 0.25}, "coverage": 0.5}, {"drift": "none"}):
        with store.build(store.manifest("g-00000001").kinds, "g-00000001") as builder:
            builder.commit(trained_until_ms=2_000_000_000_000, about=about)

    lines = keepstream("knowledge", "list", "--store", place / "k")[1].splitlines()

    assert lines[2].endswith("  drift item 0.25, coverage 0.5")
    assert lines[3].rstrip() == lines[3]
    assert "drift" not in lines[3]


def test_damage_is_found_and_named(place):
    """`verify` reads all, `list` looks; both exit with 1 and say which file."""
    build(place, "--activate")
    build(place, until="2026-11-02")
    assert {"generations", "switches"} == call(place, "verify").keys()
    file = next((place / "k" / "generations" / "g-00000002").rglob("*.sst"))
    damage(file)

    assert [True] == [
        r["fault"] is None for r in call(place, "verify", "g-00000001")["generations"]
    ]
    (fault,) = [r["fault"] for r in call(place, "verify", code=1)["generations"] if r["fault"]]
    assert f"item/{file.name} does not match its digest" in fault
    call(place, "verify", "--quick")
    file.unlink()
    assert 2 == len(call(place, "list", code=1)["generations"])
    code, text = keepstream("knowledge", "list", "--store", place / "k")
    assert (1, True) == (code, f"g-00000002  DAMAGED: {place}" in text)
    shutil.rmtree(file.parent.parent)


@pytest.mark.parametrize(
    ("columns", "fact"),
    [
        ({"id": ["a"], "vector": [[1.0, 2.0]], "x": [1]}, None),
        ({"id": ["a"], "other": [[1.0]]}, "no column 'vector'. It has id, other"),
        ({"id": ["a", None], "vector": [[1.0], [2.0]]}, "row 1, from 0 on, names nothing"),
        ({"id": ["a", "b"], "vector": [[1.0], [2.0, 3.0]]}, "not the same number of numbers"),
        ({"id": ["a", "b"], "vector": [[1.0], None]}, "not the same number of numbers"),
        ({"id": ["a"], "vector": [1.0]}, "Vectors are lists of numbers"),
        ({"id": [[1]], "vector": [[1.0]]}, "Ids are text or integers"),
        ({"id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))},
         "there is no row"),
        ({"id": ["a"], "vector": [[float("nan")]]}, "t.parquet: row 0, from 0 on, has a vector"),
        ({"id": ["a", "b"], "vector": [[1.0], [70_000.0]]}, "Leave it out, scale it, or give"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused_and_leaves_nothing(place, columns, fact):
    """Each says what is wrong; no store is left with half of it."""
    pq.write_table(pa.table(columns), place / "t.parquet")

    said = build(place, file="t.parquet", code=2 if fact else 0)

    if fact:
        assert fact in said["message"]
    found = [m.name for m in KnowledgeStore(place / "k", create=True).generations()]
    assert ([] if fact else ["g-00000001"]) == found


def test_arrays_that_are_none_are_refused(place):
    """The same for .npz; objects would be pickles."""
    for arrays, fact in (
        ({"id": np.arange(2), "vector": np.ones((3, 2))}, "Give a row of numbers for each id"),
        ({"id": np.ones((2, 2)), "vector": np.ones((2, 2))}, "Ids are text or integers"),
        ({"id": np.array(["a", 1], object), "vector": np.ones((2, 2))}, "Python objects"),
        ({"id": np.array([0.5]), "vector": np.ones((1, 2))}, "0.5 is not an id"),
        ({"ids": np.arange(2)}, "no column 'id'. It has ids"),
        ({"id": np.int64(7), "vector": np.ones((1, 2))}, "Give a row of numbers for each id"),
    ):
        np.savez(place / "t.npz", **arrays)
        assert fact in build(place, file="t.npz", code=2)["message"]
    np.savez(place / "t.npz", id=np.arange(3), vector=np.ones((3, 2)), topic=np.arange(2))
    pairs = ("--kind", "interaction", "--category-column", "topic")
    assert "Give a category for each id" in build(place, *pairs, file="t.npz", code=2)["message"]
    np.save(place / "one.npy", np.arange(3))
    (place / "one.npy").rename(place / "one.npz")
    (place / "empty.npz").touch()
    with ZipFile(place / "zip.npz", "w") as file:
        for name in ("id", "vector"):
            file.writestr(name, b"text")
    (place / "t.npz").write_bytes(b"no zip")
    (place / "t.csv").touch()
    for file, fact in (
        ("t.npz", "cannot be read"),
        ("one.npz", "holds one array"),
        ("empty.npz", "cannot be read"),
        ("zip.npz", "no arrays"),
        ("t.csv", ".parquet or .npz"),
        ("x.npz", "no such"),
    ):
        assert fact in build(place, file=file, code=2)["message"]


@pytest.mark.parametrize("text", ["2026", "1793491200", "2200-01-01", "1"])
def test_a_year_or_seconds_are_not_taken_for_milliseconds(place, text):
    """Vectors said to have learned nothing since 1970 would be given to every example."""
    assert "as milliseconds that is" in build(place, until=text, code=2)["message"]
    build(place, until="0")  # of no event at all, as those of texts
    for sub in (("activate", "g-00000001", "--from"), ("get", "--kind", "item", "--id", 1, "--at")):
        assert "events are from 2001-09-09" in call(place, *sub, text, code=2)["message"]


def test_an_id_that_comes_twice_is_said(place, capsys):
    """The last row counts, and the file may be wrong."""
    ids = np.array(["a", "b", "a"])
    np.savez(place / "twice.npz", id=ids, vector=np.eye(3, dtype=np.float32))
    build(place, file="twice.npz")

    assert "1 rows of item came again later" in capsys.readouterr().err


def test_a_deleted_generation_is_listed_as_missing(place):
    """Somebody has cleared a disk: what was in force is gone, and the list must say so."""
    build(place, "--activate")
    build(place, "--activate", until="2026-11-02")
    shutil.rmtree(place / "k" / "generations" / "g-00000002")
    said = call(place, "list", code=1)["generations"]
    assert ["g-00000002", "g-00000001"] == [row["generation"] for row in said]
    assert "knowledge rollback" in said[0]["fault"]
    code, printed = keepstream("knowledge", "verify", "--store", place / "k")
    assert (1, True) == (code, "knowledge rollback" in printed)

    call(place, "rollback")
    call(place, "list")


def test_a_switch_that_nobody_may_want_is_warned_of(place, capsys):
    """One to the year 2099 makes a store deaf; one to other widths stops every trainer's next."""
    build(place, "--activate")
    np.savez(place / "narrow.npz", id=np.arange(1, 4), vector=np.eye(3, dtype=np.float32))
    capsys.readouterr()
    build(place, "--activate", until="2026-11-02", file="narrow.npz")
    printed = capsys.readouterr().err
    assert "before: item 6; now: item 3" in printed
    assert "ahead" not in printed
    call(place, "activate", "g-00000001", "--from", "2099-01-01")
    assert "more than a day ahead" in capsys.readouterr().err


def test_wrong_usage_says_the_next_move(place):
    """A script tells what it called wrongly by the exit code, a person by the sentence."""
    assert "NoStore" == call(place, "list", code=2)["error"]
    (place / "log").mkdir()
    (place / "log" / "impressions").mkdir()
    words = ("--from", place / "items.npz", "--trained-until", 0)
    said = told("knowledge", "build", "--store", place / "log", *words, code=2)
    assert "holds impressions and is no knowledge store" in said["message"]
    assert ["impressions"] == [path.name for path in (place / "log").iterdir()]
    build(place)
    assert "no generation is in force" in call(place, "show", code=2)["message"]
    assert "NoSuchGeneration" == call(place, "show", "g-00000007", code=2)["error"]
    assert "--keep" in call(place, "prune", "--keep", 0, code=2)["message"]
    assert (
        "--at noon"
        in call(place, "get", "--kind", "item", "--id", 1, "--at", "noon", code=2)["message"]
    )
    late = str(10**20)
    assert "after the year 9999" in build(place, until=late, code=2)["message"]
    for sub in (("activate", "g-00000001", "--from"), ("rollback", "--from"),
                ("get", "--kind", "item", "--id", 1, "--at")):  # fmt: skip
        assert "after the year 9999" in call(place, *sub, late, code=2)["message"]
    said = call(place, "get", "--kind", "scene", "--id", 1, "--at", "2027-01-01", code=2)
    assert "'scene'" in said["message"]
    assert (
        "one --kind for each --from"
        in build(place, "--kind", "item", "--kind", "user", code=2)["message"]
    )
    assert (
        "--id-column once"
        in build(place, "--id-column", "a", "--id-column", "b", code=2)["message"]
    )
    build(place, until="2026-11-09", code=0)
    said = build(place, "--base", "g-00000002", until="2026-11-08", code=2)
    assert "BaseTrainedLater" == said["error"]
