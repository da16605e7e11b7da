"""A crowd that is larger than one process's open files: shares of it, each in its own process."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from loadtest.arrival import WELCOMES, Arrivals
from loadtest.crowd import Crowd
from loadtest.forks import Forks
from loadtest.report import progress

PER_PROCESS = 18_000
"""Clients in one process: 20,000 open files are a common limit, some are taken."""

OWN = "own"
"""As a topic: each client has its own."""


class Crowds:
    """`count` clients of the server at `port`, in as many processes as that takes.

    A context manager: the clients stay connected until it is left.
    """

    def __init__(
        self, count: int, port: int, topic: str, *, first: int = 0, welcomes: int = WELCOMES
    ) -> None:
        self._count, self._port, self._topic = count, port, topic
        self._first, self._welcomes = first, welcomes
        self._forks = Forks()

    def __enter__(self) -> Self:
        shares = -(-self._count // PER_PROCESS)
        for share in range(shares):
            first = self._count * share // shares
            count = self._count * (share + 1) // shares - first
            welcomes = self._welcomes // shares
            self._forks.fork(self._share, self._first + first, count, welcomes)
        return self

    def arrive(self) -> Arrivals:
        """Lets all of them connect at once; returns when all have arrived or failed."""
        began = time.perf_counter()
        for pipe in self._forks.pipes:
            pipe.send("arrive")
        total = Arrivals()
        for pipe in self._forks.pipes:
            share: Arrivals = pipe.recv()
            total.latencies += share.latencies
            total.failures += share.failures
            total.cpu_s += share.cpu_s
        total.seconds = time.perf_counter() - began
        return total

    def lost(self) -> int:
        """How many connections the server has closed since they arrived."""
        for pipe in self._forks.pipes:
            pipe.send("lost")
        return sum(pipe.recv() for pipe in self._forks.pipes)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forks.__exit__(kind, error, trace)

    def _share(self, pipe: Connection, first: int, count: int, welcomes: int) -> None:
        crowd = Crowd()
        try:
            while True:
                match pipe.recv():
                    case "arrive":
                        pipe.send(
                            crowd.arrive(
                                count,
                                self._port,
                                self._topic_of,
                                first=first,
                                welcomes=welcomes,
                                progress=lambda done: progress(f"{done:,} of {count:,} clients"),
                            )
                        )
                    case "lost":
                        pipe.send(crowd.lost())
        except EOFError:
            crowd.close()

    def _topic_of(self, place: int) -> str:
        return f"own:{place}" if self._topic == OWN else self._topic
