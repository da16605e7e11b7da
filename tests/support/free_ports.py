"""Port numbers for servers that cannot choose one themselves, as Redis cannot.

They lie under the range that systems take the ports of outgoing connections from, so that a port
stays free while its server is down, and a connection to it is not answered by itself.
"""

from __future__ import annotations

import errno
import random
import socket

PORTS = range(11000, 21000)
"""A server's own; 10,000 further is the bus of a Redis Cluster, which Linux hands out to nobody
either (it begins at 32768)."""

BUS = 10000


class FreePort:
    """A number that no other process of these tests uses until it is released.

    What holds it is a UDP socket of the same number, which is not in the way of TCP; the system
    releases it if the process dies.
    """

    def __init__(self) -> None:
        for number in random.sample(PORTS, 1000):
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            if _binds(claim, number) and _is_free(number) and _is_free(number + BUS):
                self.number = number
                self._claim = claim
                return
            claim.close()
        raise OSError(errno.EADDRINUSE, "no free port found")

    def release(self) -> None:
        self._claim.close()


def _is_free(number: int) -> bool:
    with socket.socket() as listener:
        # As servers do: connections that are only just over are not in the way.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _binds(listener, number)


def _binds(one: socket.socket, number: int) -> bool:
    try:
        one.bind(("127.0.0.1", number))
    except OSError:
        return False
    return True
