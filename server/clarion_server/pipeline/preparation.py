"""Running a namespace's steps, wherever that is best: at once, on this loop a little later, or in
the pool.

What is small and safe (`Chain.safe`) runs on the event loop, as to hand it to a process costs the
loop 20 us, the machine 33 us and its publisher a change of process: for little more the work is
done. All together may take `TURN_SECONDS` of a turn of the loop; what comes then waits for the next
turn, so that a batch of thousands holds nobody up. Everything else runs in the pool. The figures
are explained in server/README.md.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server.pipeline.pool import BOUNDS, Pool, Stopped
from clarion_server.pipeline.step import Failed, Refused
from clarion_server.pipeline.turns import Turns
from clarion_server.timing import Histogram

MOMENT_BYTES = 1024
"""The largest document that runs on the loop. The steps take 5 to 20 us and 13 to 80 ns a byte
(`python -m loadtest steps`): 20 to 100 us for it, of which the loop would be spared 0 to 80; a
template that loops over nothing but numbers 1.3 ms."""

TURN_SECONDS = 0.002
"""Of a turn of the loop for steps. With what else there is to do, a turn stays below 10 ms."""


class Steps(Protocol):
    """What is needed of a chain; see `chain.Chain`."""

    @property
    def safe(self) -> bool: ...

    def run(self, data: bytes) -> bytes: ...


class Preparation:
    """See the module's text.

    chains: those of the namespaces that have steps, by name.
    configured: all names of namespaces that are configured; topics of others are the default's.
    pool: runs the chains by the same names.
    data_bytes: the most that data may have when it leaves the steps, and where there are none.
    input_bytes: the most that it may have before.
    clock: seconds, fine.
    """

    def __init__(
        self,
        chains: Mapping[str, Steps],
        *,
        configured: Mapping[str, object],
        pool: Pool,
        data_bytes: int,
        input_bytes: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.pool = pool
        self.outcomes: Counter[tuple[str, str, str]] = Counter()
        """What became of documents, by namespace, step and outcome: `passed` (all steps), `refused`
        and `failed` (by that step), or why a process ended under it."""
        self.moments: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(BOUNDS))
        """How long documents took on the loop, by namespace, seconds."""
        self._chains = chains
        self._names = {name: name if name in chains else None for name in configured}
        self._otherwise = DEFAULT_NAMESPACE if DEFAULT_NAMESPACE in chains else None
        self._data_bytes = data_bytes
        self._input_bytes = max(input_bytes, data_bytes)
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._spent = 0.0  # in this turn of the loop
        self._counting = False
        self._later: Turns[tuple[str, bytes, asyncio.Future[bytes]]] = Turns()

    def start(self) -> None:
        """Has a process ready where one is needed in any case; else the first starts with the
        first large document."""
        if not all(chain.safe for chain in self._chains.values()):
            self.pool.start()

    @property
    def names(self) -> list[str]:
        """The namespaces that have steps."""
        return list(self._chains)

    def namespace(self, topic: str) -> str | None:
        """The namespace whose steps publications of the topic go through; None: they go through
        none."""
        return self._names.get(namespace_of(topic), self._otherwise)

    def most_bytes(self, topic: str) -> int:
        """That a publisher may hand in."""
        return self._data_bytes if self.namespace(topic) is None else self._input_bytes

    def waiting(self, name: str) -> int:
        """Documents of a namespace that wait."""
        return self.pool.waiting(name) + self._later.waiting(name)

    def now(self, name: str, data: bytes) -> bytes | None:
        """What the namespace's steps make of `data`; None if that is not to be done now. Raises
        `Refused`."""
        if self._spent < TURN_SECONDS and self._is_moment(name, data):
            return self._run(name, data)
        return None

    def later(self, name: str, data: bytes, *, patient: bool = False) -> asyncio.Future[bytes]:
        """The same, not now. patient: see `Pool.submit`. Raises `Busy`; the future fails with that
        or `Refused`."""
        if self._is_moment(name, data):
            future: asyncio.Future[bytes] = self._loop.create_future()
            self._later.put(name, (name, data, future))
            self._count()
            return future
        future = self.pool.submit(name, data, patient=patient)
        future.add_done_callback(partial(self._done, name))
        return future

    def _is_moment(self, name: str, data: bytes) -> bool:
        return len(data) <= MOMENT_BYTES and self._chains[name].safe

    def _run(self, name: str, data: bytes) -> bytes:
        self._count()
        began = self._clock()
        try:
            data = self._chains[name].run(data)
        except Refused as refused:
            self._note(name, refused)
            raise
        except MemoryError:
            # The whole process is short of it: this document is small.
            self.outcomes[name, "", "memory"] += 1
            raise Failed("there is not enough memory for the steps") from None
        finally:
            taken = self._clock() - began
            self._spent += taken
            self.moments[name].add(taken)
        self.outcomes[name, "", "passed"] += 1
        return data

    def _count(self) -> None:
        """Has the next turn begin anew."""
        if not self._counting:
            self._counting = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Another turn of the loop: does what was put off."""
        self._counting = False
        self._spent = 0.0
        while self._spent < TURN_SECONDS and (job := self._later.next()) is not None:
            name, data, future = job
            if future.done():
                continue
            try:
                future.set_result(self._run(name, data))
            except Refused as refused:
                future.set_exception(refused)
        if self._later:
            self._count()

    def _done(self, name: str, future: asyncio.Future[bytes]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.outcomes[name, "", "passed"] += 1
        elif isinstance(error, Refused):
            self._note(name, error)
        else:
            self.outcomes[name, "", "busy"] += 1

    def _note(self, name: str, refused: Refused) -> None:
        if isinstance(refused, Stopped):
            outcome: str = refused.cause
        else:
            outcome = "failed" if isinstance(refused, Failed) else "refused"
        self.outcomes[name, refused.step, outcome] += 1
