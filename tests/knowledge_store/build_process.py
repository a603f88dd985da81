"""Builds that can be killed: ``python -m tests.knowledge_store.build_process STORE VECTORS``.

For every line on standard input, the name of a base or an empty one, a child builds a generation.
It prints "start" when it begins; "end" and its exit status when it is over, and before either the
child's process id.
"""

import os
import sys
from pathlib import Path

import numpy as np

from knowledge_store.kinds import Kind
from knowledge_store.store import KnowledgeStore
from stream.ids import hash_integers
from tests.knowledge_store.stores import ITEM, build


def say(line):
    """Tell the test a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    """Serve until standard input ends."""
    root, count = Path(sys.argv[1]), int(sys.argv[2])
    store = KnowledgeStore(root)
    ids = hash_integers(np.arange(count))
    ended = []
    for line in sys.stdin:
        while ended:
            os.waitpid(ended.pop(), 0)  # only now: till then its id was nobody else's
        child = os.fork()  # a process of its own, without the second that imports take
        if child == 0:
            base = line.strip() or None
            kinds = {"item": ITEM, "other": Kind("other", 8)}
            say(f"{os.getpid()} start")
            build(store, store.generations()[-1].trained_until_ms + 1, ids=ids, base=base,
                  kinds=kinds)  # fmt: skip
            os._exit(0)
        how = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        say(f"{child} end {how.si_status}")
        ended.append(child)


if __name__ == "__main__":
    main()
