"""A worker whose work is counted, and clients that make it work, one thing at a time.

The worker's loop is in the main thread, where the meter is. Clients are blocking sockets in
another thread, which is not counted. Between two things the loop is let come to rest, so that what
is counted of one does not depend on how quick anybody was.

What comes in between is counted too: a timer of the broker's, and a read more where an answer came
in two parts, which happens on a busy machine. It only ever adds. So each thing is done several
times, and the least counts.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable

from budget.callgrind import Callgrind
from budget.meter import Meter, Work
from clarion_server.app import Worker
from support.wire import command, handshake

DEADLINE = 20.0
"""Seconds; for what takes milliseconds."""

WARM_UP = 12
"""Times that a thing is done before it counts: caches are filled, and bytecode has settled."""

TIMES = 15
"""That a thing is done and counted; in one of them, nothing came in between."""

TURNS = 4
"""Of the loop, after which nothing is left to do: reading, flushing, and a task's two steps."""


class Client:
    """A blocking socket that reads frames."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self._sock = socket.socket()
        if receive_buffer:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._sock.settimeout(DEADLINE)
        self._sock.connect(("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._read = b""

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def until(self, end: bytes) -> bytes:
        """Reads up to and including `end`, and forgets it."""
        while (place := self._read.find(end)) < 0:
            data = self._sock.recv(65536)
            assert data, f"the connection has ended after {self._read!r}"
            self._read += data
        found, self._read = self._read[: place + len(end)], self._read[place + len(end) :]
        return found

    def close(self) -> None:
        self._sock.close()


class Stand:
    """See the module's text. To be used in a thread of its own.

    loop, worker: of the main thread, running.
    callgrind: counts instead of the meter.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        worker: Worker,
        callgrind: Callgrind | None = None,
    ) -> None:
        self.loop = loop
        self.worker = worker
        self.clients: list[Client] = []
        self.callgrind = callgrind

    # The loop

    def rest(self) -> None:
        """Returns when the loop has nothing to do."""
        lock = threading.Lock()
        for _ in range(TURNS):
            lock.acquire()
            # Called from C, and so not counted.
            self.loop.call_soon_threadsafe(lock.release)
            assert lock.acquire(timeout=DEADLINE), "the loop hangs"
            lock.release()

    def until(self, condition: Callable[[], object]) -> None:
        """Returns when something has come about, and the loop is at rest again."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.0005)
        self.rest()

    def do(self, call: Callable[[], object]) -> None:
        """Has something done in the loop's thread."""
        self.loop.call_soon_threadsafe(call)
        self.rest()

    def each(self, thing: Callable[[], object]) -> Work:
        """What is executed for a thing; see the module's text."""
        for _ in range(WARM_UP):
            thing()
            self.rest()
        # A collection would be counted as whatever it calls.
        gc.disable()
        try:
            if self.callgrind is not None:
                return self._instructions(self.callgrind, thing)
            return self._steps(thing)
        finally:
            gc.enable()

    def _steps(self, thing: Callable[[], object]) -> Work:
        meter, counted = Meter(), list[Work]()
        self.do(meter.start)
        for _ in range(TIMES):
            before = meter.work
            thing()
            self.rest()
            counted.append(meter.work - before)
        self.do(meter.stop)
        kinds = {kind for work in counted for kind in work}
        return Work({kind: min(work.get(kind, 0) for work in counted) for kind in kinds})

    def _instructions(self, callgrind: Callgrind, thing: Callable[[], object]) -> Work:
        # A dump takes longer than all else: so the mean of all.
        callgrind.zero()
        for _ in range(TIMES):
            thing()
            self.rest()
        return callgrind.read().times(1 / TIMES)

    # Clients

    def connect(self, receive_buffer: int = 0) -> Client:
        """A client that has connected; the worker has taken it."""
        before = len(self.worker.wheel)
        client = Client(self.worker.port, receive_buffer)
        self.clients.append(client)
        self.until(lambda: len(self.worker.wheel) > before)
        return client

    def subscriber(self, topic: str, receive_buffer: int = 0) -> Client:
        """A client that is subscribed."""
        client = self.connect(receive_buffer)
        client.send(handshake("/ws"))
        client.until(b'"welcome"')
        client.send(command("subscribe", id=1, topic=topic))
        client.until(b'"subscribed"')
        self.rest()
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()
        self.until(lambda: not len(self.worker.wheel))
