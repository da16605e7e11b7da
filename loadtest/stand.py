"""A carrier with its subscribers in place, and the one loop that counts what they receive."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterable

from loadtest import machine
from loadtest.carriers import Clarion, Loop
from loadtest.crowd import Crowd
from loadtest.publisher import Publisher
from loadtest.report import progress
from loadtest.tail import Tail, payload

BATCH_PATH = "/v1/publish/batch"
CONNECTIONS = 4
"""Of the publisher: no more requests than that are in flight."""

SAMPLES = 8
"""Subscribers that are parsed in full; of all others the bytes are counted and compared."""

READ_BYTES = 1 << 18
LOW_WATER = 1 << 14
"""While batches fly, the others are read when so much has gathered, or when the batches end."""

PAUSE_S = 50e-6
"""Between two looks at a publication's progress; half of it is added to its time on average."""

STALL_S = 10.0
"""When nothing arrives for so long, what is still missing is lost."""


class Stalled(Exception):
    """Deliveries are missing, and no more come."""


class Stand:
    """One topic, `clients` subscribers, one process that serves them."""

    def __init__(self, carrier: Clarion | Loop, clients: int, topic: str) -> None:
        self.carrier = carrier
        self.clients = clients
        self.topic = topic
        self.crowd = Crowd()
        self.published = 0
        self.total = 0
        """Bytes that all subscribers have received together."""
        self._buffer = bytearray(READ_BYTES)
        self.busy_s = 0.0
        arrivals = self.crowd.arrive(
            clients,
            carrier.port,
            (lambda place: topic) if isinstance(carrier, Clarion) else None,
            window=512,
            progress=lambda done: progress(f"{carrier.name}: {done:,} of {clients:,} in place"),
        )
        if arrivals.failures:
            raise SystemExit(f"{carrier.name}: clients failed: {dict(arrivals.failures)}")
        self.got = dict.fromkeys(self.crowd.sockets, 0)
        self._readers = {fd: s.recv_into for fd, s in self.crowd.sockets.items()}
        fds = list(self.got)
        self.samples = sorted({fds[(clients - 1) * i // (SAMPLES - 1)] for i in range(SAMPLES)})
        self.tails: dict[int, Tail] = {}
        self.publisher: Publisher | None = None
        if isinstance(carrier, Loop):
            carrier.ready()
        else:
            self.tails = {fd: Tail() for fd in self.samples}
            self.publisher = Publisher(self.crowd.epoll, carrier.api_port, CONNECTIONS, BATCH_PATH)
        for fd in self.got:
            self.crowd.epoll.modify(fd, select.EPOLLIN | select.EPOLLET)

    def publish(self, count: int, size: int) -> None:
        """Publishes `count` publications of `size` bytes as one batch, without waiting."""
        if isinstance(self.carrier, Loop):
            self.carrier.send(count)
        else:
            assert self.publisher
            now = time.perf_counter_ns()
            first = self.published + 1
            data = (payload(number, size, now) for number in range(first, first + count))
            head = f'{{"topic":{json.dumps(self.topic)},"data":'
            messages = ",".join(f"{head}{one}}}" for one in data)
            self.publisher.post(b'{"messages":[%s]}' % messages.encode())
        self.published += count

    def can_publish(self) -> bool:
        """Whether a request may be sent: an answer is not waited for on every connection."""
        return self.publisher is None or bool(self.publisher.idle)

    def turn(self, timeout: float) -> None:
        """Reads what has arrived; waits for at most `timeout` seconds when nothing has."""
        events = self.crowd.epoll.poll(timeout, 1024)
        began = time.perf_counter()
        for fd, _ in events:
            self._read(fd)
        self.busy_s += time.perf_counter() - began

    def glance(self) -> set[int]:
        """The subscribers for which something arrived since the last look. Reads none of them."""
        here = {fd for fd, _ in self.crowd.epoll.poll(0, self.clients + CONNECTIONS)}
        if self.publisher:
            for fd in here.difference(self.got):
                self.publisher.read(fd)
        return here

    def arrival(self) -> float:
        """Returns the time (perf_counter) at which every subscriber had something new to read.

        Reads nothing meanwhile, and sleeps rather than waits on the sockets: the sender pays
        neither for waking this process nor for a receiver that works on the same sockets.
        """
        here: set[int] = set()
        deadline = time.perf_counter() + STALL_S
        while True:
            time.sleep(PAUSE_S)
            here |= self.glance()
            now = time.perf_counter()
            if len(here) >= self.clients and here.issuperset(self.got):
                return now
            if now > deadline:
                missing = len(self.got.keys() - here)
                raise Stalled(f"{self.carrier.name}: nothing for {missing} clients")

    def read(self, fds: Iterable[int]) -> None:
        """Takes what these subscribers have received."""
        for fd in fds:
            self._read(fd)

    def _read(self, fd: int) -> None:
        if self.publisher and self.publisher.owns(fd):
            self.publisher.read(fd)
            return
        size = READ_BYTES
        while size == READ_BYTES:  # the event is edge-triggered: all of it, or it is forgotten
            try:
                size = self._readers[fd](self._buffer)
            except BlockingIOError:
                return
            if not size:
                raise Stalled(f"{self.carrier.name} closed a connection")
            self.got[fd] += size
            self.total += size
            if fd in self.tails:
                self.tails[fd].take(memoryview(self._buffer)[:size], time.perf_counter_ns())

    def gather(self, low_water: int) -> None:
        """From now on all but the samples are read when they have `low_water` bytes.

        So that reading costs next to nothing while batches fly: a socket that is read for every
        write takes as long to read as to write, and this process would be the limit.
        """
        for fd, client in self.crowd.sockets.items():
            if fd not in self.samples:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water)

    def expected(self) -> int | None:
        """Bytes that one subscriber has received when nothing is missing; None: not known yet."""
        if isinstance(self.carrier, Loop):
            return self.published * self.carrier.frame_size
        tail = self.tails[self.samples[0]]
        return tail.size if len(tail.numbers) >= self.published else None

    def backlog(self) -> float:
        """Publications that the slowest sample has not received yet."""
        if isinstance(self.carrier, Loop):
            least = min(self.got[fd] for fd in self.samples)
            return self.published - least / self.carrier.frame_size
        return self.published - min(len(tail.numbers) for tail in self.tails.values())

    def drain(self) -> None:
        """Returns when every subscriber has received everything that was published."""
        last, quiet_since = self.total, time.perf_counter()
        while True:
            expected = self.expected()
            answered = self.publisher is None or len(self.publisher.idle) == CONNECTIONS
            if expected is not None and self.total >= expected * self.clients and answered:
                return
            self.turn(0.1)
            if self.total != last:
                last, quiet_since = self.total, time.perf_counter()
            elif time.perf_counter() - quiet_since > STALL_S:
                missing = self.clients * (expected or 0) - self.total
                raise Stalled(f"{self.carrier.name}: {self.backlog()} behind, {missing:,} bytes")

    def faults(self) -> list[str]:
        """What subscribers should have received and did not, or should not have and did."""
        faults = []
        for tail in self.tails.values():
            faults += tail.faults(1, self.published)
        expected = self.expected()
        others = sum(size != expected for size in self.got.values())
        if others:
            faults.append(f"{others} subscribers have not received {expected} bytes")
        if self.publisher:
            faults += self.publisher.errors[:3]
        return [f"{self.carrier.name}: {fault}" for fault in faults]

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self.carrier.pid)

    def close(self) -> None:
        if self.publisher:
            self.publisher.close()
        self.crowd.close()
