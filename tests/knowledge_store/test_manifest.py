import os
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowledge_store.errors import GenerationCorrupt, NewerGeneration
from knowledge_store.manifest import FileEntry, Manifest, described
from tests.knowledge_store.stores import KINDS, damage


def manifest(folder, files=None):
    """Return a manifest of a generation in ``folder``."""
    return Manifest(
        name=folder.name,
        number=3,
        trained_until_ms=1_700_000_000_000,
        kinds=KINDS,
        counts={"item": 5, "user": 0},
        base="g-00000002",
        changed={"item": 2, "user": 0},
        about={"drift": 0.1, "names": ["a", None], "nested": {"x": 1e-30}},
        files=files or {},
    )


@pytest.fixture
def folder(tmp_path):
    """Return a folder of a generation with two files and what RocksDB writes for people."""
    folder = tmp_path / "g-00000003"
    (folder / "item").mkdir(parents=True)
    (folder / "item" / "1.sst").write_bytes(bytes(range(256)) * 8)
    (folder / "item" / "CURRENT").write_bytes(b"x")
    for name in ("LOG", "LOG.old.1", "LOCK", "rocksdict-config.json"):
        (folder / "item" / name).write_bytes(b"of no matter")
    return folder


def test_what_is_written_is_read(folder):
    """Readers, trainers and people decide by it."""
    written = manifest(folder, described(folder, None)).write(folder)

    assert written == Manifest.read(folder)
    assert 2049 == written.bytes
    assert {"item/1.sst", "item/CURRENT"} == written.files.keys()
    assert 32 == len(written.digest)


@given(st.data())
def test_a_manifest_is_read_as_it_was_written_or_not_at_all(tmp_path_factory, data):
    """A flipped bit in a time or a count would be believed."""
    folder = tmp_path_factory.mktemp("m") / "g-00000003"
    folder.mkdir()
    written = manifest(folder, {"item/1.sst": FileEntry(7, "ab")}).write(folder)
    path = folder / "manifest.json"
    said = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(said) - 1))
    said[at] = data.draw(st.integers(0, 255))
    path.write_bytes(said)

    try:
        assert written == Manifest.read(folder)
    except (GenerationCorrupt, NewerGeneration) as error:
        assert str(folder) in str(error)


def test_a_manifest_that_is_cut_short_or_missing_is_named(folder):
    """A crash of the file system leaves such things."""
    with pytest.raises(GenerationCorrupt, match=r"manifest\.json is missing"):
        Manifest.read(folder)
    manifest(folder).write(folder)
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(GenerationCorrupt, match=r"manifest\.json is damaged"):
        Manifest.read(folder)


def test_a_manifest_of_another_version_or_folder_is_refused(folder):
    """It may mean something else by the same words; a copied folder has another history."""
    manifest(folder).write(folder)
    moved = folder.rename(folder.with_name("g-00000009"))
    with pytest.raises(GenerationCorrupt, match="is that of g-00000003"):
        Manifest.read(moved)
    said = orjson.loads((moved / "manifest.json").read_bytes())
    (moved / "manifest.json").write_bytes(orjson.dumps({**said, "format": 2}))
    with pytest.raises(NewerGeneration, match="format 2, this version reads 1"):
        Manifest.read(moved)


def test_every_fault_of_a_file_is_found(folder):
    """Missing, cut short and flipped are what disks do; only the last needs every byte read."""
    written = manifest(folder, described(folder, None)).write(folder)
    path = folder / "item" / "1.sst"
    assert written.fault(folder, deep=True) is None

    damage(path)
    assert written.fault(folder, deep=False) is None
    assert "item/1.sst does not match its digest" == written.fault(folder, deep=True)
    path.write_bytes(path.read_bytes()[:-1])
    fact = "item/1.sst has 2,047 bytes, its manifest says 2,048"
    assert fact == written.fault(folder, deep=False)
    path.unlink()
    assert "item/1.sst is missing" == written.fault(folder, deep=False)


def test_the_digest_of_a_linked_file_is_taken_over(folder):
    """The base may be gigabytes: what is the same file is the same bytes. A copy is read."""
    base = manifest(folder, described(folder, None))
    new = folder.with_name("g-00000004")
    (new / "item").mkdir(parents=True)
    os.link(folder / "item" / "1.sst", new / "item" / "2.sst")
    copied = new / "item" / "copied"
    copied.write_bytes((folder / "item" / "1.sst").read_bytes())
    told = {**base.files, "item/1.sst": FileEntry(2048, "as the base says")}

    found = described(new, (folder, manifest(folder, told)))

    assert FileEntry(2048, "as the base says") == found["item/2.sst"]
    assert base.files["item/1.sst"] == found["item/copied"]
    assert Path(new / "item" / "2.sst").samefile(folder / "item" / "1.sst")
