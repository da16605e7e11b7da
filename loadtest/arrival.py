"""How clients get into place: connect, handshake, welcome, subscribe, subscribed; all at once.

Each is in one of three stages, and has two bounds above it: how many may wait for their welcome
(the listen backlog of the server), and how many may be on their way at all.
"""

from __future__ import annotations

import errno
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum, auto

from loadtest import wire

PER_ADDRESS = 20_000
"""Clients that share a source address 127.0.0.x: the kernel has about 28,000 ports for each."""

WELCOMES = 3000
"""Clients that wait for a welcome. Below the listen backlog that Linux allows by default, 4,096:
beyond it the kernel drops the first packet of a connection, and what is measured is the kernel's
second try, one second later."""

_REFUSED = re.compile(rb'"op":"error"[^\n]*?"code":"([a-z_]+)"')

TURN = 64
"""Connections begun before the answers that arrived are looked at."""

ARRIVAL_S = 60.0
"""Clients that are not in place after this long are counted as failed."""


class Arrivals:
    """How a crowd arrived."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        """Seconds from connect() to `subscribed`, of the good ones."""
        self.failures: Counter[str] = Counter()
        self.seconds = 0.0
        self.cpu_s = 0.0
        """The generator's own."""


class Stage(Enum):
    CONNECTING = auto()
    GREETING = auto()
    SUBSCRIBING = auto()


class _Client:
    __slots__ = ("began", "heard", "place", "socket", "stage")

    def __init__(self, place: int, connection: socket.socket) -> None:
        self.began = time.perf_counter()
        self.place = place
        self.socket = connection
        self.stage = Stage.CONNECTING
        self.heard = b""


class Arriving:
    """Lets clients arrive at `port`, see `Crowd.arrive`; the good ones stay in `sockets`."""

    def __init__(
        self,
        epoll: select.epoll,
        sockets: dict[int, socket.socket],
        port: int,
        topic: Callable[[int], str] | None,
        headers: Iterable[str] = (),
    ) -> None:
        self._epoll, self._sockets, self._port, self._topic = epoll, sockets, port, topic
        self._hello = wire.handshake(port, headers=headers)
        self._waiting: dict[int, _Client] = {}
        self._unwelcomed = 0
        self.arrivals = Arrivals()

    def run(
        self, places: range, welcomes: int, window: int, progress: Callable[[int], None]
    ) -> Arrivals:
        began = shown = time.perf_counter()
        cpu = time.process_time()
        left = iter(places)
        unbegun = len(places)
        while unbegun or self._waiting:
            room = min(TURN, unbegun, welcomes - self._unwelcomed, window - len(self._waiting))
            for _ in range(room):
                self._begin(next(left))
            unbegun -= max(0, room)
            for fd, _ in self._epoll.poll(0 if room > 0 else 0.1, 1024):
                if client := self._waiting.get(fd):
                    try:
                        self._proceed(fd, client)
                    except OSError as error:
                        self._end(fd, errno.errorcode[error.errno or 0])
            now = time.perf_counter()
            if now - shown > 0.5:
                shown = now
                progress(len(places) - unbegun - len(self._waiting))
            if now - began > ARRIVAL_S:
                self.arrivals.failures["not begun"] += unbegun
                unbegun = 0
                for fd in list(self._waiting):
                    self._end(fd, "not in time")
        self.arrivals.cpu_s = time.process_time() - cpu
        self.arrivals.seconds = time.perf_counter() - began
        progress(len(places))
        return self.arrivals

    def _begin(self, place: int) -> None:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        if place >= PER_ADDRESS:
            connection.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{1 + place // PER_ADDRESS}", 0))
        client = _Client(place, connection)
        fd = connection.fileno()
        self._waiting[fd], self._sockets[fd] = client, connection
        self._unwelcomed += 1
        connection.connect_ex(("127.0.0.1", self._port))
        try:
            if not self._topic:
                raise BlockingIOError  # nothing to say: wait until it is connected
            # On loopback a connection is often there before connect() returns.
            connection.send(self._hello)
        except BlockingIOError:
            self._epoll.register(fd, select.EPOLLOUT)
        except OSError as error:
            self._epoll.register(fd, 0)
            self._end(fd, errno.errorcode[error.errno or 0])
        else:
            client.stage = Stage.GREETING
            self._epoll.register(fd, select.EPOLLIN)

    def _proceed(self, fd: int, client: _Client) -> None:
        if client.stage is Stage.CONNECTING:
            failure = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                self._end(fd, errno.errorcode[failure])
                return
            self._epoll.modify(fd, select.EPOLLIN)
            if not self._topic:
                self._end(fd)
                return
            client.socket.send(self._hello)
            client.stage = Stage.GREETING
            return
        data = client.socket.recv(65536)
        client.heard += data
        if wire.SUBSCRIBED in client.heard:
            self._end(fd)
        elif not data or wire.ERROR in client.heard:
            self._end(fd, _last_words(client.heard))
        elif client.stage is Stage.GREETING and wire.WELCOME in client.heard:
            assert self._topic
            topic = self._topic(client.place)
            client.socket.send(wire.command("subscribe", id=1, topic=topic))
            client.stage = Stage.SUBSCRIBING
            self._unwelcomed -= 1

    def _end(self, fd: int, failure: str = "") -> None:
        client = self._waiting.pop(fd)
        self._unwelcomed -= client.stage is not Stage.SUBSCRIBING
        if failure:
            self.arrivals.failures[failure] += 1
            self._epoll.unregister(fd)
            self._sockets.pop(fd).close()
        else:
            self.arrivals.latencies.append(time.perf_counter() - client.began)


def _last_words(heard: bytes) -> str:
    """Why a client was not let in, as far as it was told."""
    if heard.startswith(b"HTTP/1.1") and not heard.startswith(wire.SWITCHING):
        return heard.split(b"\r\n", 1)[0].decode(errors="replace")
    if refused := _REFUSED.search(heard):
        return f"refused: {refused[1].decode(errors='replace')}"
    _, _, after = heard.rpartition(b"\r\n\r\n")
    return wire.close_reason(after)
