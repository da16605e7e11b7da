"""The garbage collector, kept from stopping the event loop for long.

Reference counting frees everything that a connection leaves behind: its objects form no cycles.
What needs the collector is little: the tasks and exceptions of the HTTP API, mostly. Left alone,
the collector would still walk every object of every connection again and again to find it, all
at once, with the loop stopped.

What was measured (CPython 3.11, one core of a small virtual machine, 105,000 objects like those
of connections, of 5 tracked objects and 10 blocks of memory each)

    =======================================================================  ==========
    full collection of 10,000 / 50,000 / 100,000 connections, made in order  2 / 16 / 39 ms
    the same of 105,000 after each was replaced: cold memory, 650 ns each    345-370 ms
    longest pause with the default thresholds, 15,000 new connections a s    70-120 ms
    with this module, 0.1 s between ticks: 15,000 new ones a second          2.5 ms
    1,000 / 15,000 replaced a second (of the time: 0.2 % / 1.5 %)            2.9 / 2.7 ms
    `gc.freeze` of 560,000 objects                                           0.001 ms
    `gc.get_freeze_count` of them: it walks the list                         5-75 ms
    `sys.getallocatedblocks` with 1,050,000 blocks                           0.1 ms
    =======================================================================  ==========

Hence

1. `install` collects once and freezes what is alive: modules, configuration, the server itself.
2. The collector's own full collections are off, and its young ones come every `YOUNG_OBJECTS`.
3. `tick`, several times a second, collects everything that is not frozen. As long as that is
   short, what survived stays where a later tick looks at it again, and the next one waits until
   the cost is 1/500 of the time. When it took longer than `FREEZE_SECONDS`, the survivors are
   frozen and never walked again. So a pause is bounded by what came since the last tick. Ticks do
   not rely on young collections: CPython counts allocations less deallocations, so connections
   that replace others fill the youngest generation without setting one off.

The price: an object that was frozen alive and becomes part of a dead cycle later is not found.
Each object can be lost like that once only, and most frozen ones are connections, which have no
cycles. `_review`, every 15 minutes, keeps the loss within bounds with a *deep* collection,
frozen objects included, in two cases: when little is alive, so that it is short; and when
`LOST_BLOCKS` more are alive than the server can account for. What is left over then, it takes
for an error of the account, and waits for as many again. So a server of 100,000 connections
never makes a long collection unless it does lose objects, and loses 100 MB at most, about.

Newer interpreters: 3.12 and 3.13 collect between bytecodes instead of inside an allocation, with
the same generations. The incremental collector of some 3.14 releases has two: its young
collections take a part of the old objects with them, of which there are few here because they
are frozen. `gc.collect`, `gc.freeze` and the callbacks mean the same everywhere.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Mapping

from clarion_server.timing import Histogram, Worst

YOUNG_OBJECTS = 10_000
"""Net allocations between two young collections: 0.5 ms each. The default, 700 in CPython 3.11,
makes 15 times as many of them, and every 100th walk through everything."""

NEVER = 1_000_000
"""A threshold that is not reached: this many collections of the generation below."""

FREEZE_SECONDS = 0.001
"""A collection by `tick` that takes longer leads to a freeze: 2,000 to 15,000 objects."""

SHARE = 500
"""After a collection without a freeze, ticks do nothing for this many times its duration."""

REVIEW_SECONDS = 900.0
"""Between two reviews. A busy API loses some objects a second at worst, far below the bounds."""

FEW_BLOCKS = 50_000
"""So little was allocated since `install` that a deep collection is short: 10 to 15 ms, most of
it for what was there before."""

LOST_BLOCKS = 1_000_000
"""Blocks of memory, unaccounted for, at which a stop is better than to go on losing. At 100 bytes
a block, that is the memory of 40,000 connections."""

BOUNDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the histograms, seconds."""


class Garbage:
    """See the module's text. One for each process: the collector is the interpreter's.

    owned: about how many blocks of memory (objects of any kind, buffers of dicts and lists) the
        server can account for: for each connection, subscription and kept publication so and so
        many. Too many is better than too few.
    clock: seconds, monotonic, fine enough for microseconds; the same that `tick` gets.
    """

    def __init__(self, *, owned: Callable[[], int], clock: Callable[[], float]) -> None:
        self._owned = owned
        self._clock = clock
        self._thresholds: tuple[int, int, int] | None = None
        self._began = 0.0
        self._pause = 0.0
        self._collect_at = 0.0
        self._review_at = 0.0
        self._unreviewed = False
        self._first = 0
        self._unexplained = 0
        self._recent = Worst()
        self.pauses = (Histogram(BOUNDS), Histogram(BOUNDS), Histogram(BOUNDS))
        """By generation."""
        self.collected: Counter[int] = Counter()
        """Objects that were found dead, by generation."""
        self.freezes = 0
        """Times that survivors were frozen."""
        self.deep = 0
        """Deep collections."""

    def install(self) -> None:
        """Takes over; to be called when everything that lives as long as the server is made."""
        if self._thresholds is not None:
            return
        self._thresholds = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, NEVER, NEVER)
        gc.callbacks.append(self._note)
        self._first = sys.getallocatedblocks()
        self._review_at = self._clock() + REVIEW_SECONDS

    def remove(self) -> None:
        """Leaves the collector as `install` found it. A second call does nothing."""
        if self._thresholds is None:
            return
        gc.set_threshold(*self._thresholds)
        self._thresholds = None
        gc.callbacks.remove(self._note)
        gc.unfreeze()

    def tick(self, now: float) -> None:
        """Collects and freezes as far as it is time to. Call it several times a second."""
        if now < self._collect_at:
            return
        gc.collect()
        if self._pause > FREEZE_SECONDS:
            gc.freeze()
            self.freezes += 1
            self._unreviewed = True
        else:
            self._collect_at = now + self._pause * SHARE
        if self._unreviewed and now >= self._review_at:
            self._review_at = now + REVIEW_SECONDS
            self._review()

    def worst(self, now: float) -> float:
        """The longest pause of about the last minute, seconds."""
        return self._recent.get(now)

    def _review(self) -> None:
        if not self._first:
            return  # Python's own allocator is off (PYTHONMALLOC): there is nothing to go by.
        alive = sys.getallocatedblocks() - self._first
        if FEW_BLOCKS < alive < self._owned() + self._unexplained + LOST_BLOCKS:
            return
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.deep += 1
        alive = sys.getallocatedblocks() - self._first
        self._unexplained = max(alive - self._owned(), 0)
        self._unreviewed = False

    def _note(self, phase: str, info: Mapping[str, int]) -> None:
        # The collector calls this before and after each collection, in whichever thread it runs.
        if phase == "start":
            self._began = self._clock()
            return
        now = self._clock()
        self._pause = now - self._began
        generation = info["generation"]
        self.pauses[generation].add(self._pause)
        self.collected[generation] += info["collected"]
        self._recent.add(now, self._pause)
