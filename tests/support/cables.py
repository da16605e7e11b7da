"""Sockets without an event loop: a server's end with a real transport, a client's end by hand.

What the loop would do is done when a test says so, in the order that it says.
"""

from __future__ import annotations

import select
import socket
from typing import cast

from clarion_server.sockets import Poller, SocketTransport


class Cables:
    """The poller of some transports. `close` it in the end."""

    family = socket.AF_UNIX

    def __init__(self) -> None:
        self.transports: dict[int, SocketTransport] = {}
        self._ending: list[tuple[SocketTransport, Exception | None]] = []
        self._clients: list[socket.socket] = []

    def factory(self) -> object:
        """Whoever makes a transport gives it its protocol."""
        return None

    def connect(self, buffer: int) -> tuple[SocketTransport, socket.socket]:
        """A connection: the server's transport and the client's socket.

        buffer: what the kernel holds for the client, about, in bytes.
        """
        near, far = socket.socketpair()
        for end in (near, far):
            end.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer // 2)  # which is doubled
        transport = SocketTransport(cast(Poller, self), near.detach())
        self.transports[transport.fileno()] = transport
        self._clients.append(far)
        return transport, far

    # What a transport asks of a poller

    def let_in(self, fd: int, events: int) -> None:
        """There is no lobby here."""

    def watch(self, fd: int, events: int) -> None:
        pass

    def forget(self, transport: SocketTransport, error: Exception | None) -> None:
        if self.transports.pop(transport.fileno(), None) is not None:
            self._ending.append((transport, error))

    # What a loop does

    def turn(self) -> None:
        """Whatever is ready is served, and whoever has ended is told."""
        for transport in list(self.transports.values()):
            poll = select.poll()
            poll.register(transport.fileno(), select.POLLIN | select.POLLOUT)
            for _, events in poll.poll(0):
                transport.ready(events)
        ending, self._ending = self._ending, []
        for transport, error in ending:
            transport.lost(error)

    def close(self) -> None:
        for transport in list(self.transports.values()):
            transport.abort()
        self.turn()
        for client in self._clients:
            client.close()
