import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from knowledge_store import tables
from knowledge_store.errors import (
    KnowledgeError,
    StoreFull,
    TableCorrupt,
    TableLocked,
    TableMissing,
    TableUnreadable,
    WrongVectors,
    named,
    refusals_named,
)
from knowledge_store.kinds import Kind, keys_of
from knowledge_store.records import multipliers, sealed, words_of
from knowledge_store.tables import AMENDMENTS, Table, amend_table, table_options, write_table
from stream.ids import hash_integers

KIND = Kind("item", 8)
IDS = hash_integers(np.arange(500))


def vectors(ids, generation=0, kind=KIND):
    """Return vectors (n, W) that say of which id and generation they are."""
    rows = (ids % np.uint64(512))[:, None] + np.arange(kind.width, dtype=np.uint64)
    rows[:, -1] = generation
    return rows.astype(kind.dtype)


def read(folder, kind=KIND, block=64):
    """Return the whole table as a dict of id to vector, in the order of the scan."""
    with closing(Table(folder, kind)) as table:
        found = {}
        for ids, values in table.scan(block):
            assert 0 < ids.size <= block
            found |= dict(zip(ids.tolist(), values.tolist(), strict=True))
        return found


def written(folder, ids=IDS, kind=KIND):
    """Write a table of generation 0; return its folder."""
    write_table(folder, kind, ids, vectors(ids, kind=kind))
    return folder


def tables_of(folder):
    """Return the files of a folder that hold vectors."""
    return sorted(folder.glob("*.sst"))


def flip(path, at):
    """Flip the bits of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(data)


few_ids = st.lists(st.integers(1, 40), unique=True, max_size=12)


@settings(max_examples=12)
@given(
    st.lists(few_ids, min_size=1, max_size=4),
    st.sampled_from([KIND, Kind("user", 1), Kind("user", 3), Kind("cluster", 1, "float32")]),
)
def test_a_table_and_its_amendments_are_a_dict_and_its_updates(puts, kind):
    """Whatever RocksDB makes of them, look-up and scan tell what was put last."""
    truth = {}
    with TemporaryDirectory() as name:
        folder = None
        for generation, put in enumerate(puts):
            ids = np.array(put, np.uint64)
            rows = vectors(ids, generation, kind)
            base, folder = folder, Path(name) / str(generation)
            if base is None:
                count = write_table(folder, kind, ids, rows)
            else:
                count = amend_table(base, folder, kind, ids, rows)
            assert len(set(put) - truth.keys()) == count
            truth |= dict(zip(put, rows.tolist(), strict=True))

            asked = np.arange(45, dtype=np.uint64)
            with closing(Table(folder, kind)) as table:
                values, present = table.get(asked)
            assert [i in truth for i in asked.tolist()] == present.tolist()
            nothing = [0.0] * kind.width
            assert [truth.get(i, nothing) for i in asked.tolist()] == values.tolist()
            assert sorted(truth) == list(read(folder, kind, block=5))
            assert truth == read(folder, kind)


def test_a_look_up_may_repeat_ids_and_ask_for_nobody(tmp_path):
    """A batch is what it is; the answer is row by row."""
    ids = np.array([IDS[3], 0, IDS[3], 17, IDS[4]], np.uint64)
    with closing(Table(written(tmp_path / "t"), KIND)) as table:
        values, present = table.get(ids)
        none, _ = table.get(np.empty(0, np.uint64))

    assert [True, False, True, False, True] == present.tolist()
    assert vectors(IDS[[3, 3, 4]]).tolist() == values[present].tolist()
    assert not values[~present].any()
    assert (0, 8) == none.shape


def test_a_table_of_nothing_can_be_read(tmp_path):
    """A kind that nobody has yet is no error."""
    folder = written(tmp_path / "t", IDS[:0])
    with closing(Table(folder, KIND)) as table:
        assert not table.get(IDS)[1].any()
    assert {} == read(folder)


def test_a_large_table_is_written_in_files_at_the_bottom(tmp_path, monkeypatch):
    """What is written in one go is not searched file by file, however many there are."""
    monkeypatch.setattr(tables, "_BUFFER", 1 << 20)
    monkeypatch.setattr(tables, "_BLOCK", 1000)
    ids = hash_integers(np.arange(50_000))
    folder = written(tmp_path / "t", ids)

    assert len(tables_of(folder)) > 1
    with closing(Rdict(str(folder), table_options(log=True))) as raw:
        assert {6} == {file["level"] for file in raw.live_files()}
    assert dict(zip(ids.tolist(), vectors(ids).tolist(), strict=True)) == read(folder)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_vectors_of_any_precision_and_layout_are_stored_as_the_kind_says(tmp_path, dtype):
    """A network gives float32, by columns perhaps; the kind says how much of it is kept."""
    rows = np.asfortranarray(np.random.default_rng(0).random((IDS.size, 8)).astype(dtype))
    write_table(tmp_path / "t", KIND, IDS, rows)
    with closing(Table(tmp_path / "t", KIND)) as table:
        assert rows.astype(np.float16).tolist() == table.get(IDS)[0].tolist()


def test_an_amendment_links_its_base_and_leaves_it_as_it_was(tmp_path):
    """Ten generations of five million vectors take little more room than one."""
    base = written(tmp_path / "base")
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    amend_table(base, tmp_path / "new", KIND, IDS[:5], vectors(IDS[:5], 1))

    shared = [(tmp_path / "new" / path.name).samefile(path) for path in tables_of(base)]
    assert [True] == shared
    assert before == {path.name: path.read_bytes() for path in base.iterdir()}
    assert not read(base)[int(IDS[0])][-1]


def test_an_amended_table_outlives_its_base(tmp_path):
    """Old generations are deleted; links keep what is still needed."""
    amend_table(written(tmp_path / "base"), tmp_path / "new", KIND, IDS[:5], vectors(IDS[:5], 1))
    shutil.rmtree(tmp_path / "base")

    assert IDS.size == len(read(tmp_path / "new"))


def test_many_amendments_are_written_anew(tmp_path):
    """Each costs every look-up a little, so there are never more than a few."""
    folder = written(tmp_path / "0")
    files = []
    for i in range(1, AMENDMENTS + 3):
        base, folder = folder, tmp_path / str(i)
        amend_table(base, folder, KIND, IDS[i : i + 1], vectors(IDS[i : i + 1], i))
        files.append(len(tables_of(folder)))

    assert [*range(2, AMENDMENTS + 2), 1, 2] == files
    found = read(folder)
    assert IDS.size == len(found)
    assert list(range(AMENDMENTS + 3)) == [found[int(i)][-1] for i in IDS[: AMENDMENTS + 3]]


def test_an_amendment_is_one_file(tmp_path):
    """Look-ups pay by the file; the ninth would have all written anew."""
    kind = Kind("item", 64)
    ids = hash_integers(np.arange(600_000))
    base = tmp_path / "base"
    write_table(base, kind, ids, np.zeros((ids.size, 64), np.float16))
    amend_table(base, tmp_path / "new", kind, ids[:250_000], np.ones((250_000, 64), np.float16))

    assert 1 + len(tables_of(base)) == len(tables_of(tmp_path / "new"))


def test_an_amendment_of_most_is_written_anew(tmp_path):
    """Links would save nothing, and look-ups would pay."""
    base = written(tmp_path / "base")
    amend_table(base, tmp_path / "new", KIND, IDS, vectors(IDS, 1))

    assert 1 == len(tables_of(tmp_path / "new"))
    assert {1.0} == {row[-1] for row in read(tmp_path / "new").values()}


def test_readers_leave_no_trace_and_share(tmp_path):
    """Any number of processes read a generation, whose files its manifest names."""
    folder = written(tmp_path / "t")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with closing(Table(folder, KIND)) as one, closing(Table(folder, KIND)) as other:
        assert one.get(IDS)[1].all()
        assert other.get(IDS)[1].all()

    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_table_on_a_disk_that_cannot_be_written_is_read(tmp_path):
    """A trainer's volume is mounted read-only, and belongs to another user."""
    written(tmp_path / "a")
    before = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "a").iterdir()
    }
    (tmp_path / "a").chmod(0o555)
    for path in before:
        path.chmod(0o444)
    program = (
        "import sys, numpy as np; from pathlib import Path; from knowledge_store.kinds import Kind;"
        "from knowledge_store.tables import Table;"
        f"t = Table(Path(sys.argv[1]), Kind({KIND.name!r}, {KIND.width}, {KIND.dtype!r}));"
        "print(sum(len(ids) for ids, _ in t.scan())); t.close()"
    )
    reads = [sys.executable, "-c", program, str(tmp_path / "a")]
    mount = f"mount --bind {tmp_path}/a {tmp_path}/a && mount -o remount,ro,bind {tmp_path}/a"
    alone = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") and not subprocess.run([*alone, mount], check=False).returncode:
        reads = [*alone, f'{mount} && exec "$@"', "sh", *reads]
    done = subprocess.run(reads, capture_output=True, text=True, check=False)

    assert str(len(IDS)) == done.stdout.strip(), done.stderr
    after = {
        path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "a").iterdir()
    }
    assert before == after


def test_a_table_deleted_while_it_is_open_serves_on(tmp_path):
    """A pruned generation may still be in force for a trainer."""
    folder = written(tmp_path / "t")
    with closing(Table(folder, KIND)) as table:
        shutil.rmtree(folder)

        assert table.get(IDS)[1].all()
        assert IDS.size == sum(ids.size for ids, _ in table.scan())


def test_a_closed_table_says_so(tmp_path):
    """And may be closed twice."""
    table = Table(written(tmp_path / "t"), KIND)
    table.close()
    table.close()

    with pytest.raises(ValueError, match="has been closed"):
        table.get(IDS)


@pytest.mark.parametrize(
    ("ids", "rows", "fault"),
    [
        ([1, 0], np.ones((2, 8)), "id 0"),
        ([5, 1, 5], np.ones((3, 8)), "id 5 comes twice"),
        ([1, 2], np.ones((2, 7)), "not \\(2, 8\\)"),
        ([1, 2], np.ones((3, 8)), "not \\(2, 8\\)"),
        ([1, 2], np.array([[0] * 8, [0] * 7 + [np.nan]]), "id 2 is not finite"),
        ([3, 2], np.array([[0] * 7 + [1e6], [0] * 8]), "id 3 is not finite as float16"),
        ([1, 2], np.array([[0] * 8, [-np.inf] * 8]), "id 2 is not finite"),
    ],
)
def test_what_is_no_table_of_vectors_is_refused(tmp_path, ids, rows, fault):
    """One NaN in a model's inputs spoils it; half a table is worse than none."""
    with pytest.raises(WrongVectors, match=fault):
        write_table(tmp_path / "t", KIND, np.array(ids, np.uint64), rows)


def test_float32_is_finite_by_its_own_measure():
    """A float32 whose lower half looks like a NaN of another type is none."""
    kind = Kind("item", 2, "float32")
    rows = np.array([[0x3F80FFFF, 0x40007C00], [0x7F800000, 0]], np.uint32).view(np.float32)
    ids = np.array([1, 2], np.uint64)

    def first_not_finite(n):
        words = words_of(kind, rows[:n])
        return sealed(kind, ids[:n], words, np.arange(n), multipliers(kind))[1]

    assert [1, 1] == [first_not_finite(1), first_not_finite(2)]


def test_signed_ids_are_refused(tmp_path):
    """Half of all hashes are negative as int64, and would sort elsewhere."""
    with pytest.raises(WrongVectors, match="int64"):
        write_table(tmp_path / "t", KIND, np.array([1]), np.ones((1, 8)))


@pytest.mark.parametrize("part", ["vector", "check"])
def test_a_damaged_vector_is_refused_and_named(tmp_path, part):
    """Plain tables have no checksums: the record has one."""
    folder = written(tmp_path / "t")
    path = tables_of(folder)[0]
    start = path.read_bytes().index(vectors(IDS[7:8]).tobytes())
    flip(path, start + (3 if part == "vector" else KIND.bytes + 1))
    with closing(Table(folder, KIND)) as table:
        assert table.get(np.delete(IDS, 7))[1].all()
        with pytest.raises(TableCorrupt, match=f"id {IDS[7]} .*knowledge verify"):
            table.get(IDS)
        with pytest.raises(TableCorrupt, match=str(IDS[7])):
            list(table.scan())


def test_a_vector_under_another_id_is_refused(tmp_path):
    """The check is of the id too: a record that has moved is not believed."""
    folder = written(tmp_path / "t")
    path = tables_of(folder)[0]
    data = path.read_bytes()
    one, other = (data.index(keys_of(IDS[i : i + 1])[0]) for i in (7, 8))
    mixed = bytearray(data)
    mixed[one : one + 8], mixed[other : other + 8] = data[other : other + 8], data[one : one + 8]
    path.chmod(0o644)
    path.write_bytes(mixed)
    with closing(Table(folder, KIND)) as table, pytest.raises(TableCorrupt):
        list(table.scan())


def test_a_table_is_read_as_the_kind_it_is_of(tmp_path):
    """Another width is another table, not other numbers."""
    folder = written(tmp_path / "t")
    with closing(Table(folder, Kind("item", 4))) as table, pytest.raises(TableCorrupt, match="rec"):
        table.get(IDS)


def damage_end(folder):
    """Spoil the part that says what the file is."""
    path = tables_of(folder)[0]
    flip(path, path.stat().st_size - 3)


def cut(folder):
    """Take the end off a file."""
    path = tables_of(folder)[0]
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 100)


def damage_list_of_files(folder):
    """Spoil what lists the files."""
    flip(next(folder.glob("MANIFEST-*")), 20)


def lose_file(folder):
    """Take a file away."""
    tables_of(folder)[0].unlink()


def lose_start(folder):
    """Take away what is read first."""
    (folder / "CURRENT").unlink()


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (damage_end, TableCorrupt),
        (cut, TableCorrupt),
        (damage_list_of_files, TableCorrupt),
        (lose_file, TableMissing),
        (lose_start, TableMissing),
        (shutil.rmtree, TableMissing),
    ],
)
def test_a_table_that_is_not_whole_is_refused_by_name(tmp_path, harm, error):
    """At opening, and as a base, with the next move; RocksDB's own words are in it, not alone."""
    folder = written(tmp_path / "t")
    harm(folder)

    with pytest.raises(error, match=f"{folder}.*keepstream knowledge"):
        Table(folder, KIND)
    with pytest.raises(error, match="keepstream knowledge"):
        amend_table(folder, tmp_path / "new", KIND, IDS[:1], vectors(IDS[:1]))


def test_a_look_for_a_table_makes_none(tmp_path):
    """RocksDB makes folders it cannot open; one of a deleted generation would look like one."""
    with pytest.raises(TableMissing):
        Table(tmp_path / "gone" / "item", KIND)

    assert [] == list(tmp_path.iterdir())


def test_a_table_is_never_written_over(tmp_path):
    """Generations do not change."""
    folder = written(tmp_path / "t")
    with pytest.raises(TableUnreadable, match="exists"):
        written(folder)

    assert IDS.size == len(read(folder))


def test_a_locked_table_is_named(tmp_path):
    """RocksDB's lock is an internal detail of another builder."""
    options = Options(raw_mode=True)
    with (
        closing(Rdict(str(tmp_path / "t"), options)),
        pytest.raises(TableLocked, match="another builder"),
        refusals_named(tmp_path / "t"),
    ):
        Rdict(str(tmp_path / "t"), options)


FILL = """
import resource, sys
import numpy as np
from pathlib import Path
from knowledge_store.errors import StoreFull
from knowledge_store.kinds import Kind
from knowledge_store.tables import write_table
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    write_table(Path(sys.argv[1]), Kind("item", 64), np.arange(1, 20_001, dtype=np.uint64),
                np.ones((20_000, 64), np.float16))
except StoreFull as error:
    print(error)
"""


def test_no_room_is_named(tmp_path):
    """RocksDB says no more than "previous error" where a plain table does not fit."""
    ran = subprocess.run(
        [sys.executable, "-c", FILL, str(tmp_path / "t")],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert f"{tmp_path / 't'}: no space left to write to" in ran.stdout
    assert "knowledge prune" in ran.stdout


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("IO error: No space left on device: While appending to file", StoreFull),
        ("Corruption: block checksum mismatch", TableCorrupt),
        ("IO error: While lock file: t/LOCK: Resource temporarily unavailable", TableLocked),
        ("IO error: No such file or directory: While open a file", TableMissing),
        ("IO error: Permission denied", TableUnreadable),
    ],
)
def test_every_refusal_has_its_error(said, error):
    """What RocksDB says in words of its own becomes the thing, the fact and the next move."""
    found = named(Path("store/item"), Exception(said))

    assert error is type(found)
    assert isinstance(found, KnowledgeError)
    assert "store/item" in str(found)
