"""A reader beside a builder: ``python -m tests.knowledge_store.reader_process STORE``.

It looks up in what is in force, again and again, until standard input ends; then it prints as JSON
how often, in which generations, and every answer that was wrong.
"""

import json
import select
import sys
from pathlib import Path

from knowledge_store.errors import GenerationGone
from knowledge_store.knowledge import Knowledge
from knowledge_store.store import KnowledgeStore
from tests.knowledge_store.stores import ITEMS, vectors


def main():
    """Read until standard input ends."""
    store = KnowledgeStore(Path(sys.argv[1]))
    look_ups, numbers, faults = 0, set(), []
    with Knowledge(store, cache_bytes=0) as knowledge:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while not select.select([sys.stdin], [], [], 0)[0]:
            schedule = store.schedule()
            knowledge.follow(schedule)
            number = int(schedule.last.generation[2:])
            try:
                found = knowledge.look_up("item", ITEMS, schedule.last.from_ms)
            except GenerationGone:
                if store.schedule() == schedule:
                    raise  # not overtaken by two switches and a prune: it should be there
                continue
            look_ups += 1
            numbers.add(number)
            if not (found.present.all() and (found.values == vectors(ITEMS, number)).all()):
                faults.append(number)
    said = {"look_ups": look_ups, "numbers": sorted(numbers), "faults": faults}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
