"""Letters of an inbox on their way through their namespaces' steps; see `preparer`, the contract.

What waits here is in Redis still, so nothing is lost with this process, and nobody is told to come
back: when there is no room, no more is read. A letter that a step refuses, or that a process could
not do, is a dead letter. A few of each namespace are handed on at a time, so that an inbox with ten
thousand does not come between a publisher at the private API and its answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from functools import partial

from clarion_fanout.letter import Letter
from clarion_fanout.preparer import Prepared
from clarion_server.pipeline.lanes import Lanes, Place
from clarion_server.pipeline.pool import Busy
from clarion_server.pipeline.preparation import Preparation
from clarion_server.pipeline.step import Failed, Refused

log = logging.getLogger(__name__)

LETTERS = 10_000
"""That may wait, as in `backlog`."""

BYTES = 32 * 1024 * 1024
"""Of their data: as much as the private API and clients may have of one namespace."""

JOBS = 4
"""Of a namespace, for each process, that are handed on and not done: none is idle while the next
is fetched."""


class Bench:
    """See the module's text.

    wake: called when something can be taken.
    """

    def __init__(self, preparation: Preparation, wake: Callable[[], object]) -> None:
        self._preparation = preparation
        self._wake = wake
        self._most = JOBS * preparation.pool.options.processes
        self._begin()

    def clear(self) -> None:
        for job in self._jobs:
            job.cancel()
        self._begin()

    def _begin(self) -> None:
        self._lanes: Lanes[Letter] = Lanes()
        self._queues: defaultdict[str, deque[Place[Letter]]] = defaultdict(deque)
        self._running: Counter[str] = Counter()
        self._jobs: set[asyncio.Future[bytes]] = set()
        self._there: dict[bytes, int] = {}  # bytes of each entry, in the order of their arrival
        self._bytes = 0
        self._refused: list[tuple[Letter, str]] = []

    @property
    def waiting(self) -> int:
        return len(self._there)

    @property
    def oldest(self) -> bytes | None:
        return next(iter(self._there), None)

    @property
    def room(self) -> int:
        return 0 if self._bytes >= BYTES else max(0, LETTERS - len(self._there))

    def most_bytes(self, topic: str) -> int:
        return self._preparation.most_bytes(topic)

    def put(self, letter: Letter) -> bool:
        name = self._preparation.namespace(letter.topic)
        if name is None:
            return False
        size = len(letter.data)
        self._there[letter.entry] = size
        self._bytes += size
        self._queues[name].append(self._lanes.join(letter.topic, letter))
        self._hand_on(name)
        return True

    def take(self) -> Prepared:
        letters: list[Letter] = []
        while places := self._lanes.take(LETTERS):
            letters += [place.item for place in places]
            for lane in dict.fromkeys(place.lane for place in places):
                self._lanes.left(lane)
        refused, self._refused = self._refused, []
        for letter in letters:
            self._bytes -= self._there.pop(letter.entry)
        for letter, _ in refused:
            self._bytes -= self._there.pop(letter.entry)
        return Prepared(letters, refused)

    def _hand_on(self, name: str) -> None:
        queue, preparation = self._queues[name], self._preparation
        while queue and self._running[name] < self._most:
            place = queue[0]
            try:
                data = preparation.now(name, place.item.data)
                if data is None:
                    job = preparation.later(name, place.item.data, patient=True)
                    job.add_done_callback(partial(self._done, name, place, self._lanes))
                    self._jobs.add(job)
                    self._running[name] += 1
                else:
                    self._pass(place, data)
            except Refused as refused:
                self._refuse(place, refused)
            except Busy:
                return  # the server is stopping
            queue.popleft()

    def _done(
        self, name: str, place: Place[Letter], lanes: Lanes[Letter], job: asyncio.Future[bytes]
    ) -> None:
        self._jobs.discard(job)
        if lanes is not self._lanes or job.cancelled():
            return  # everything was begun anew meanwhile
        self._running[name] -= 1
        error = job.exception()
        if error is None:
            self._pass(place, job.result())
        elif isinstance(error, Refused):
            self._refuse(place, error)
        elif isinstance(error, Busy):
            return  # the server is stopping: it is another worker's from now on
        else:
            log.error("a job of the pipeline failed", exc_info=error)
            self._refuse(place, Failed("internal error"))
        self._hand_on(name)
        self._wake()

    def _pass(self, place: Place[Letter], data: bytes) -> None:
        place.item = place.item._replace(data=data)
        self._lanes.ready(place)

    def _refuse(self, place: Place[Letter], refused: Refused) -> None:
        self._lanes.drop(place)
        text = f"{refused.step}: {refused}" if refused.step else str(refused)
        self._refused.append((place.item, text))
