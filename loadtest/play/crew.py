"""The generator's processes: listeners with their shares of the clients, and a publisher."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from loadtest.forks import Forks
from loadtest.play.backend import Backend, publish
from loadtest.play.listeners import Listeners, listen
from loadtest.play.plan import Plan
from loadtest.play.tally import Output, Report
from loadtest.play.target import Target

PER_PROCESS = 15_000
"""Clients in one process: 20,000 open files are a common limit."""

MOST_CORES = 4
"""Listening processes even for few clients, where there are as many cores."""


class Crew:
    """A context manager that ends every process it has started.

    put: takes in whatever one of them reports.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        cores: tuple[int, ...],
        put: Callable[[Report | Output], None],
    ) -> None:
        self._plan, self._target, self._cores, self._put = plan, target, cores, put
        self._forks = Forks()
        self._pipes = self._forks.pipes

    def __enter__(self) -> Self:
        self.shares = max(-(-self._plan.clients // PER_PROCESS), min(len(self._cores), MOST_CORES))
        # Ports of an earlier run are not free again at once: each has addresses of its own.
        net = 1 + int(time.time()) % 250
        for share in range(self.shares):
            self._forks.fork(self._listen, share, net)
        self._forks.fork(self._publish)
        self._listening, self.publisher = self._pipes[:-1], self._pipes[-1]
        return self

    def _listen(self, pipe: Connection, share: int, net: int) -> None:
        with self._at_work():
            clients, shares = self._plan.clients, self.shares
            places = range(clients * share // shares, clients * (share + 1) // shares)
            talks = {place: self._target.talk(place) for place in places}
            port = self._target.port
            listen(Listeners(self._plan, share, places, talks, port, net), pipe)

    def _publish(self, pipe: Connection) -> None:
        with self._at_work():
            plan = self._plan
            desk, address = self._target.desk()
            backend = Backend(
                desk,
                lambda: address,
                topics=plan.topic_count,
                size=plan.payload,
                batch=plan.batch,
                connections=plan.connections,
                careful=plan.careful,
            )
            publish(backend, pipe)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        os.sched_setaffinity(0, self._cores)
        with suppress(KeyboardInterrupt, BrokenPipeError):
            yield

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forks.__exit__(kind, error, trace)

    def tell(self, *what: object) -> None:
        """Says something to every listening process; see `listeners.listen`."""
        for pipe in self._listening:
            pipe.send(what)

    def tell_publisher(self, *what: object) -> None:
        """Says something to the publisher; see `backend.publish`."""
        self.publisher.send(what)

    def missing(self, numbers: list[int]) -> int:
        """How many deliveries are missing, when these were the last publications of the topics."""
        self.tell("missing", numbers)
        return sum(self._answer(pipe) for pipe in self._listening)

    def numbers(self) -> tuple[list[int], Output]:
        """The number of each topic's last publication, and what the publisher has done lately."""
        self.tell_publisher("numbers")
        found: tuple[list[int], Output] = self._answer(self.publisher)
        return found

    def flush(self) -> None:
        """Takes in what everybody has counted up to now."""
        for pipe in self._pipes:
            pipe.send(("told",))
        for pipe in self._pipes:
            self._answer(pipe)

    def _answer(self, pipe: Connection) -> Any:
        """The answer to a question; reports that come before it are taken in."""
        while isinstance(said := _heard(pipe), Report | Output):
            self._put(said)
        return said

    def read(self, seconds: float) -> None:
        """Takes in what is reported within a time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for pipe in wait(self._pipes, left):
                assert isinstance(pipe, Connection)
                self._put(_heard(pipe))


def _heard(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionError):
        raise SystemExit("a process of the generator has ended") from None
