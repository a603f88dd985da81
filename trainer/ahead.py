"""Ingest in a thread of its own, a bounded queue ahead of the learner."""

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from stream.deadletters import DeadLetters
from stream.source import Source
from trainer.ingest import Ingest
from trainer.items import Barrier, Counts, Item
from trainer.view import View

Clock = Callable[[], float]  # seconds, monotonic; keepstream/ gives it

SWITCH_S = 1e-4  # the learner asks for the interpreter at every operation: it must not wait 5 ms
QUEUE_ITEMS = 8  # enough to hide an uneven source; each holds one batch, so memory stays small
LONGEST_S: Final = 1.0  # of silence, between two looks: more is a broker's or our own, no log's
WAIT_S: Final = 0.2  # how soon a silent log is shown to be silent, and an end is noticed


class Ahead:
    """Runs `Ingest` over a source while the learner learns; yields its items in their order.

    Leaving the `with` block stops the thread. Whatever the thread raises comes out of the
    iteration. The queue is bounded: a slow learner holds the ingest back (back-pressure).
    """

    def __init__(
        self,
        source: Source,
        ingest: Ingest,
        *,
        letters: DeadLetters,
        clock: Clock,
        barrier_every_s: float | None,
        drain: bool,
        resumed: bool = False,
        waiting: Callable[[], None] = lambda: None,
        view_last: bool = False,
    ) -> None:
        """Read ``source`` into ``ingest``, which has been restored if this is a run ``resumed``.

        A barrier comes every ``barrier_every_s`` in which something has happened (None: only the
        last). ``drain`` settles what waits when the source ends. ``waiting`` is called now and then
        while the learner has nothing to do. ``view_last``: a view comes before the last barrier.
        """
        self._source = source
        self._ingest = ingest
        self._letters = letters
        self._clock = clock
        self._every_s = barrier_every_s
        self._drain = drain
        self._waiting = waiting
        self._view_last = view_last
        self.counts = ingest.counts()  # as of the last block; replaced, never changed
        self._kept: Counts | None = self.counts if resumed else None  # as of the last barrier
        self._items: queue.Queue[Item | BaseException | None] = queue.Queue(QUEUE_ITEMS)
        self._stopping = threading.Event()
        self._quitting = threading.Event()
        self._viewed = threading.Event()  # set while no view is in the queue or in use
        self._viewed.set()
        self._saving = threading.Event()  # set while a checkpoint is written: no barrier meanwhile
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    def __enter__(self) -> "Ahead":
        self._switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._quitting.set()
        self.stop()
        self._thread.join()
        sys.setswitchinterval(self._switch_interval)

    def stop(self) -> None:
        """Read no further; what has been read comes out, then a last barrier."""
        self._stopping.set()
        self._letters.hurry()
        self._source.close()

    def saved(self, ok: bool) -> None:
        """Take note that the state at the last barrier is on disk, or that it could not be."""
        if not ok:
            self._kept = None  # the next barrier comes even if nothing happens any more
        self._saving.clear()

    def __iter__(self) -> Iterator[Item]:
        while True:
            try:
                item = self._items.get(timeout=WAIT_S)
            except queue.Empty:
                self._waiting()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            if isinstance(item, View):
                self._viewed.set()

    def _run(self) -> None:
        try:
            for item in self._work():
                self._put(item)
            self._put(None)
        except _Quit:
            return
        except BaseException as error:  # noqa: BLE001  # it is raised again in the learner's thread
            with suppress(_Quit):
                self._put(error)

    def _work(self) -> Iterator[Item]:
        ingest = self._ingest
        saved = last = self._clock()
        for block in self._source:
            yield from ingest.feed(block)
            now = self._clock()
            silent = block.idle and not len(block.events) and not block.rejected
            if silent and len(block.idle | block.ended) == len(self._source.partitions):
                silence = min(now - last, LONGEST_S)
                yield from ingest.tick(round(1000 * silence))
            last = now
            self._letters.extend(ingest.take_refused())
            self.counts = ingest.counts()
            due = self._every_s is not None and now - saved >= self._every_s
            if due and not self._saving.is_set() and self.counts != self._kept:
                self._saving.set()
                yield self._barrier(ended=False, changed=True)
                saved = now
            if self._stopping.is_set():
                break
        ended = not self._stopping.is_set()
        if ended and self._drain:
            yield from ingest.finish()
            self._letters.extend(ingest.take_refused())
            self.counts = ingest.counts()
        if self._view_last and (view := ingest.view_now()) is not None:
            yield view
        # While the last one is being written nobody knows whether it will be on disk.
        yield self._barrier(ended, self.counts != self._kept or self._saving.is_set())

    def _barrier(self, ended: bool, changed: bool) -> Barrier:
        barrier = self._ingest.barrier(ended=ended, changed=changed)
        self._kept = self.counts
        self._letters.flush()
        barrier.state["letters"] = self._letters.state()
        return barrier

    def _put(self, item: Item | BaseException | None) -> None:
        if isinstance(item, View):  # a copy of all that the ingest knows: one at a time
            while not self._viewed.wait(WAIT_S):
                if self._quitting.is_set():
                    raise _Quit
            self._viewed.clear()
        while not self._quitting.is_set():
            try:
                self._items.put(item, timeout=WAIT_S)
                return
            except queue.Full:
                continue
        raise _Quit


class _Quit(Exception):
    """The learner has left: nobody takes further items."""
