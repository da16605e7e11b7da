"""Many clients in one process: raw sockets under one epoll, nothing per client but a number.

A client library would cost the generator more than the server it measures. What a client must
say is said in ready-made bytes (wire.py), and what arrives is counted, not parsed, save for a
few sampled clients (tail.py).
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterable

from loadtest import wire
from loadtest.arrival import WELCOMES, Arrivals, Arriving


class Crowd:
    """Connected clients of one server. Not thread-safe; every call belongs to one loop."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}

    def arrive(
        self,
        count: int,
        port: int,
        topic: Callable[[int], str] | None,
        *,
        first: int = 0,
        welcomes: int = WELCOMES,
        window: int = 0,
        headers: Iterable[str] = (),
        progress: Callable[[int], None] = lambda arrived: None,
    ) -> Arrivals:
        """Connects `count` clients, as fast as this process can; client i subscribes `topic(i)`.

        Places are counted from `first`: another process may hold those before it.
        Without `topic` a client has arrived when its connection is established (a bare loop).
        `welcomes`: at most so many have begun to connect and have no welcome yet.
        `window`: at most so many have begun and are not subscribed yet; 0 is no limit.
        `headers`: whole lines of the handshake, besides the usual ones.
        """
        arriving = Arriving(self.epoll, self.sockets, port, topic, headers)
        return arriving.run(range(first, first + count), welcomes, window or count, progress)

    def lost(self) -> int:
        """How many connections the server has closed meanwhile. Reads what else has come."""
        lost = 0
        for client in self.sockets.values():
            try:
                while data := client.recv(65536):
                    if wire.GOODBYE in data:
                        break
                lost += 1
            except BlockingIOError:
                pass
            except OSError:
                lost += 1
        return lost

    def close(self) -> None:
        """Closes every connection without a close frame, as clients do that lose their network."""
        for client in self.sockets.values():
            client.close()
        self.sockets.clear()
        self.epoll.close()
