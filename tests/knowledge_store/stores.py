"""Small stores whose vectors say which generation they are of, and for which id."""

import numpy as np

from knowledge_store.kinds import Kind
from stream.ids import hash_integers

ITEM, USER = Kind("item", 4), Kind("user", 2, "float32")
KINDS = {"item": ITEM, "user": USER}
ITEMS = hash_integers(np.arange(50))
STRANGER = hash_integers(np.array([-1]))  # never put


def vectors(ids, number, kind=ITEM):
    """Return what generation ``number`` knows of ``ids`` (n,): exact in float16."""
    rows = np.empty((ids.size, kind.width), kind.numpy)
    rows[:] = (ids % np.uint64(1024))[:, None]
    rows[:, 0] = number
    return rows


def build(store, until_ms, *, ids=ITEMS, base=None, kinds=KINDS, about=None):
    """Build the next generation, of all kinds the same ids; return its manifest."""
    with store.build(kinds, base) as builder:
        number = int(builder.name[2:])
        for kind in kinds.values():
            builder.put(kind.name, ids, vectors(ids, number, kind))
        return builder.commit(trained_until_ms=until_ms, about=about)


def damage(path, at=None):
    """Flip the bits of one byte, in the middle unless told where."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(size // 2 if at is None else at)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))


def names(root):
    """Return everything in the folder of generations, hidden things too."""
    return sorted(path.name for path in (root / "generations").iterdir())
