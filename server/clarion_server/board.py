"""What the workers of a server know of each other: a table in memory that they share.

Each worker has a row. It writes how many connections it has at each door, that it is alive (its
*beat*, ten times a second), and why it should get no new clients; the parent process writes who
sits where and how often a worker was replaced. Reading never waits and never asks, so a worker
that hangs is seen at once, by anybody, at the price of reading a number.

Two things are decided with it. A worker that has more connections than another, or is not ready,
lets the others go first when somebody knocks (`Share`). And each worker can say how ready the
whole server is (`Seat.readiness`).

Each number has one writer and is written in one piece. The text may be seen half changed, once:
it is for people.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import NamedTuple

CLIENTS, BACKENDS = 0, 1
"""The doors: the public port and the private one."""

SILENT_SECONDS = 1.0
"""Without a beat a worker is not ready: ten are missing then. A storm of handshakes makes a loop
late by tens of milliseconds, a full collection of garbage by a few hundred."""

TEXT_BYTES = 256
"""Of a worker's reasons; what is longer is cut."""

_NUMBER = 8
_MOST = 1 << 62


class Readiness(NamedTuple):
    """Whether new clients should be sent to the server, and what speaks against it."""

    ready: bool
    reasons: list[str]


class Board:
    """The table. Make it before the workers are forked: they inherit the memory, not a copy.

    Times are those of `time.monotonic`, seconds, which all processes of a machine share.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        memory = memoryview(mmap.mmap(-1, workers * (6 * _NUMBER + TEXT_BYTES)))
        end = 6 * _NUMBER * workers
        numbers = memory[:end].cast("q")
        # A column each, so that what is read together lies together.
        columns = [numbers[place * workers :][:workers] for place in range(6)]
        self._pids, self._restarts, self._beats, self._ready, *counts = columns
        self._counts = counts
        self._texts = [
            memory[end + number * TEXT_BYTES :][:TEXT_BYTES] for number in range(workers)
        ]

    # The parent's

    def place(self, number: int, pid: int) -> None:
        """Gives a seat to a process; 0: nobody sits there. What the last one wrote is forgotten."""
        for column in (self._beats, self._ready, *self._counts):
            column[number] = 0
        self._texts[number][:] = bytes(TEXT_BYTES)
        self._pids[number] = pid

    def replaced(self, number: int) -> None:
        """Counts a worker that takes the place of one that ended."""
        self._restarts[number] += 1

    def last_beat(self, number: int) -> int:
        """A number that changes with each beat; 0 before the first one."""
        return self._beats[number]

    # A worker's

    def beat(self, number: int, now: float, reasons: Sequence[str]) -> None:
        text = "; ".join(reasons).encode()[:TEXT_BYTES]
        self._texts[number][:] = text.ljust(TEXT_BYTES, b"\0")
        self._ready[number] = not reasons
        self._beats[number] = int(now * 1e9)

    def count(self, number: int, door: int, connections: int) -> None:
        self._counts[door][number] = connections

    # Everybody's

    def restarts(self, number: int) -> int:
        """How often a worker with this number was replaced."""
        return self._restarts[number]

    def others_first(self, number: int, door: int, now: float) -> bool:
        """Whether another worker that may get new clients has fewer of them than this one."""
        counts, ready = self._counts[door], self._ready
        own = counts[number] if ready[number] else _MOST
        return any(
            count < own and ready[other] and not self._silence(other, now)
            for other, count in enumerate(counts)
        )

    def is_alive(self, number: int, now: float) -> bool:
        """Whether a worker serves and does not hang."""
        return self._beats[number] > 0 and not self._silence(number, now)

    def why_not(self, number: int, now: float) -> str:
        """Why a worker should get no new clients; empty when it may."""
        if not self._pids[number]:
            return "is not running"
        if not self._beats[number]:
            return "is starting"
        if silence := self._silence(number, now):
            return f"has given no sign of life for {silence:.0f} s"
        if self._ready[number]:
            return ""
        return bytes(self._texts[number]).rstrip(b"\0").decode(errors="replace")

    def _silence(self, number: int, now: float) -> float:
        """Seconds without a beat, when there are too many; otherwise 0."""
        silence = now - self._beats[number] / 1e9
        return silence if silence >= SILENT_SECONDS else 0.0


class Share:
    """A worker's share of those who come to one door.

    All workers wait at the same listening socket. Whichever takes a connection first has it, and
    left to chance that is often the same one: a busy loop comes round more often. So a worker
    that has more than another waits a moment before it takes what nobody else took.
    """

    def __init__(self, seat: Seat, door: int) -> None:
        self._seat = seat
        self._door = door

    def note(self, connections: int) -> None:
        """Says how many connections the worker has here."""
        self._seat.board.count(self._seat.number, self._door, connections)

    def others_first(self, connections: int, now: float) -> bool:
        """Whether another worker should have the next one; notes `connections` too."""
        self.note(connections)
        return self._seat.board.others_first(self._seat.number, self._door, now)


class Seat:
    """A worker's place at the board."""

    def __init__(self, board: Board, number: int) -> None:
        self.board = board
        self.number = number

    def share(self, door: int) -> Share:
        return Share(self, door)

    def beat(self, now: float, reasons: Sequence[str]) -> None:
        """Says that the worker is alive, and why it should get no new clients, if so."""
        self.board.beat(self.number, now, reasons)

    def readiness(self, now: float, reasons: Sequence[str]) -> Readiness:
        """How ready the server is, `reasons` being those against this worker at the moment.

        It is as long as most workers are. One that is not ready gets no new clients, since the
        others go first; but when half of them are gone, the rest have twice their share.
        """
        board = self.board
        if board.workers == 1:
            return Readiness(not reasons, list(reasons))
        told: list[str] = []
        working = 0
        for number in range(board.workers):
            own = number == self.number
            why = "; ".join(reasons) if own else board.why_not(number, now)
            if why:
                told.append(f"worker {number}: {why}")
            else:
                working += 1
        return Readiness(working * 2 > board.workers, told)


def alone() -> Seat:
    """The only seat at a board: nobody else is there to go first."""
    return Seat(Board(1), 0)
