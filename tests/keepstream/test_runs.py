import os
from pathlib import Path

import orjson
import pytest

from keepstream.runs import RunFolder


def test_what_a_run_writes_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """After a power failure an empty config.json would make the checkpoints beside it nobody's."""
    did = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        did.append(("sync", name, os.fstat(descriptor).st_size if "." in name else None))
        sync(descriptor)

    def renamed(old, new):
        did.append(("rename", Path(old).name, Path(new).name))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with RunFolder(tmp_path / "run") as folder:
        folder.write_result({"auc": 0.5})

    size = folder.result.stat().st_size
    assert [
        ("sync", "result.writing", size),
        ("rename", "result.writing", "result.json"),
        ("sync", "run", None),
    ] == did
    assert {"auc": 0.5} == orjson.loads(folder.result.read_bytes())


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    """Whole or not at all."""
    with RunFolder(tmp_path / "run") as folder:
        folder.write_result({"auc": 0.5})
        with pytest.raises(TypeError):
            folder.write_result({"auc": object()})

    assert {"auc": 0.5} == orjson.loads(folder.result.read_bytes())
