"""The publisher: an open loop in a process of its own.

Each publication is due at a time that was fixed beforehand, whatever became of those before it; it
carries that time, and all latencies count from there. A server, or a publisher, that falls
behind is late for everything that was due meanwhile, and the figures say so. (Who waits for an
answer before the next request leaves out just those that would have been slow.)

Publications of a topic leave one after the other over one connection, so that their numbers are
the topic's order. What is due while a request is under way leaves together with the next one, as
far as the plan has batches.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection

from loadtest.play.desk import Desk, Message
from loadtest.play.histogram import Histogram
from loadtest.play.stamp import clock
from loadtest.play.tally import REPORT_S, Output

PENDING = 200_000
"""Publications that are due and have not left. Beyond it the plan is more than can be carried."""

AGAIN_S = 0.2
"""Before what was refused is tried again, and between attempts to connect."""

AHEAD_BYTES = 1 << 20
"""Unanswered publications: so many bytes at most that the kernel has not taken."""


class Line:
    """A connection to the server's desk."""

    def __init__(self, desk: Desk, address: tuple[str, int]) -> None:
        self.desk, self.address = desk, address
        self.socket: socket.socket | None = None
        self.out = b""
        self.heard = b""
        self.flying: list[Message] = []
        self.again: list[Message] = []
        """What was refused, and must go before everything else."""
        self.pending: deque[tuple[int, int]] = deque()
        """(topic, due) of what has not left."""
        self.rest_until = 0.0

    def connect(self) -> None:
        connection = socket.create_connection(self.address, timeout=5.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, AHEAD_BYTES)
        if opening := self.desk.opening():
            connection.sendall(opening)
        connection.setblocking(False)
        self.socket = connection

    def broke(self) -> None:
        """The connection is gone: what was under way may or may not have been published."""
        if self.socket:
            self.socket.close()
        self.socket, self.out, self.heard = None, b"", b""
        self.again, self.flying = self.flying, []
        self.rest_until = time.monotonic() + AGAIN_S


class Backend:
    """See the module's text."""

    def __init__(
        self, desk: Desk, address: Callable[[], tuple[str, int]], *,
        topics: int, size: int, batch: int, connections: int, careful: bool,
    ) -> None:  # fmt: skip
        self.size, self.batch, self.careful = size, batch, careful
        lines = min(topics, connections) if desk.answers else 1
        self.lines = [Line(desk, address()) for _ in range(lines)]
        self.numbers = [0] * topics
        """Of each topic: the number of its last publication."""
        self.topic = 0
        self.begin, self.rate, self.made, self.count = 0, 0.0, 0, 0
        self.output = Output()
        self.late = Histogram()
        self.began, self.cpu = time.monotonic(), time.process_time()

    def phase(self, begin: int, seconds: float, rate: float) -> None:
        """From `begin` (ns) on, so many a second are due."""
        self.begin, self.rate, self.made = begin, rate, 0
        self.count = int(rate * seconds)

    def cancel(self) -> None:
        """Nothing more leaves; what is under way does."""
        self.count = self.made = 0
        for line in self.lines:
            line.pending.clear()

    def _due(self, made: int) -> int:
        return self.begin + int(made * 1e9 / self.rate)

    def next(self) -> float:
        """Seconds until something is due."""
        if self.made >= self.count:
            return REPORT_S
        return max(0.0, (self._due(self.made) - clock()) / 1e9)

    def turn(self, timeout: float, also: Connection) -> bool:
        """Lets leave what is due, and reads answers; returns whether `also` can be read."""
        now = clock()
        while self.made < self.count and self._due(self.made) <= now:
            if sum(len(line.pending) for line in self.lines) < PENDING:
                line = self.lines[self.topic % len(self.lines)]
                line.pending.append((self.topic, self._due(self.made)))
            else:
                self.output.errors["more than could be published"] += 1
            self.topic = (self.topic + 1) % len(self.numbers)
            self.made += 1
        for line in self.lines:
            self._pump(line)
        readers: list[socket.socket | Connection] = [also]
        readers += [line.socket for line in self.lines if line.socket]
        writers = [line.socket for line in self.lines if line.socket and line.out]
        waits = [line.rest_until for line in self.lines if line.again or not line.socket]
        if waits:
            timeout = min(timeout, max(0.001, min(waits) - time.monotonic()))
        # Not epoll: its time-out is in whole milliseconds, and a publication would be late.
        ready, _, _ = select.select(readers, writers, [], min(timeout, self.next()))
        for line in self.lines:
            if line.socket in ready:
                self._hear(line)
        return also in ready

    def _pump(self, line: Line) -> None:
        if line.socket is None:
            if time.monotonic() < line.rest_until:
                return
            try:
                line.connect()
            except OSError as error:
                self._failed(line, str(error))
                return
        if not line.out and not line.flying and (line.pending or line.again):
            if line.again and time.monotonic() < line.rest_until:
                return
            line.flying, line.again = line.again or self._take(line), []
            line.out = line.desk.request(line.flying, self.size)
            now = clock()
            for message in line.flying:
                self.late.record(now - message.due)
            self.output.published += len(line.flying)
            if not line.desk.answers:
                line.flying = []
        if line.out and line.socket:
            try:
                line.out = line.out[line.socket.send(line.out) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._failed(line, str(error))

    def _take(self, line: Line) -> list[Message]:
        """The next publications of a line, numbered."""
        messages: list[Message] = []
        topics: set[int] = set()
        while line.pending and len(messages) < self.batch:
            topic, due = line.pending[0]
            if self.careful and topic in topics:
                break  # if only one of the two were refused, their order would be lost
            line.pending.popleft()
            topics.add(topic)
            self.numbers[topic] += 1
            messages.append(Message(topic, self.numbers[topic], due))
        return messages

    def _hear(self, line: Line) -> None:
        assert line.socket
        try:
            data = line.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(line, str(error))
            return
        if not data:
            if line.flying or not line.desk.answers:
                self._failed(line, "the server closed the publisher's connection")
            else:
                line.broke()  # it was not used for longer than the server keeps one
                line.rest_until = 0.0
            return
        if not line.desk.answers:
            return
        line.heard += data
        answer = line.desk.answer(line.heard, len(line.flying))
        if answer is None:
            return
        line.heard = line.heard[answer.size :]
        line.again, line.flying = [line.flying[place] for place in answer.refused], []
        if answer.error:
            self.output.errors[answer.error] += 1
        if line.again:
            self._refused(line, "refused")

    def _failed(self, line: Line, reason: str) -> None:
        line.broke()
        self._refused(line, reason)

    def _refused(self, line: Line, reason: str) -> None:
        self.output.retries += 1
        self.output.published -= len(line.again)
        line.rest_until = time.monotonic() + AGAIN_S
        if not self.careful:
            self.output.errors[reason] += 1

    def told(self) -> Output:
        """What happened since it was asked last."""
        output, self.output = self.output, Output()
        output.at = time.monotonic()
        output.seconds = output.at - self.began
        output.cpu_s = time.process_time() - self.cpu
        output.late, self.late = dict(self.late.counts), Histogram()
        output.pending = sum(len(line.pending) for line in self.lines)
        output.idle = self.made >= self.count and not any(
            line.pending or line.again or line.flying or line.out for line in self.lines
        )
        self.began, self.cpu = output.at, time.process_time()
        return output


def publish(backend: Backend, pipe: Connection) -> None:
    """The life of the process: obeys what comes through the pipe, and reports every second."""
    due = time.monotonic() + REPORT_S
    try:
        while True:
            if backend.turn(max(0.0, due - time.monotonic()), pipe):
                match pipe.recv():
                    case ("phase", int(begin), float(seconds), float(rate)):
                        backend.phase(begin, seconds, rate)
                    case ("cancel",):
                        backend.cancel()
                    case ("told",):
                        pipe.send(backend.told())
                        pipe.send("told")
                    case ("numbers",):
                        pipe.send((list(backend.numbers), backend.told()))
            if time.monotonic() >= due:
                due += REPORT_S
                pipe.send(backend.told())
    except (EOFError, ConnectionError):  # what it said last was not read
        pass
