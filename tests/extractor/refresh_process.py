"""Refreshes that can be killed: ``python -m tests.extractor.refresh_process STORE``.

For every line on standard input, an event time (ms), a child refreshes as of then. It prints its
process id and "start" when it begins; "end" and its exit status when it is over.
"""

import os
import sys
from pathlib import Path

from knowledge_store.store import KnowledgeStore
from tests.extractor.sites import Site, refresher

SITE = Site(users=6_000, items=2_000)


def extraction(at_ms):
    """Return what there is to refresh with as of a time."""
    return SITE.extraction(at_ms, moved=at_ms / 1000, noise=0.001, clusters=True)


def say(line):
    """Tell the test a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    """Serve until standard input ends."""
    store = KnowledgeStore(Path(sys.argv[1]))
    ended = []
    for line in sys.stdin:
        while ended:
            os.waitpid(ended.pop(), 0)  # only now: till then its id was nobody else's
        found = extraction(int(line))
        child = os.fork()  # a process of its own, without the second that imports take
        if child == 0:
            say(f"{os.getpid()} start")
            refresher(store).refresh(found, from_ms=int(line) + 5)
            os._exit(0)
        how = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        say(f"{child} end {how.si_status}")
        ended.append(child)


if __name__ == "__main__":
    main()
