"""Memory for socket buffers that the kernel has at hand, so that what is measured is the server.

The host of a virtual machine gives memory when it is touched for the first time, and takes it back
soon after it was freed. On the machine of the figures a write of 10 KB into a buffer that grows
took 40 us that way and 4 us without, in a bare loop of sends just as in any server (2026-11-21). A
thousand clients that stop reading make the kernel ask for 280 MiB.

So as much is held ready before, and given free bit by bit while it is needed: in a process of its
own on the server's core, because each core uses its own pages again first.
"""

from __future__ import annotations

import multiprocessing
import socket
from multiprocessing.connection import Connection

from loadtest import machine

PIECE = bytes(10_240)


class Reserve:
    """Connections whose buffers are full. They take two descriptors each, of the process's own.

    pairs: how many. size: bytes that each is filled with at most.
    """

    def __init__(self, pairs: int, size: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        self._process = fork.Process(target=self._hold, args=(theirs, pairs, size), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def release(self, pairs: int) -> None:
        """Gives the memory of some of them free."""
        self._pipe.send(pairs)

    def close(self) -> None:
        self._pipe.close()
        self._process.join()

    def _hold(self, pipe: Connection, pairs: int, size: int) -> None:
        self._pipe.close()  # inherited: else its end would never come
        hold(pipe, pairs, size)


def hold(pipe: Connection, pairs: int, size: int) -> None:
    """What the process does: fills, says so, and gives free what it is told, until the end."""
    machine.pin(machine.SERVER_CPU)
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        for _ in range(pairs):
            held.append(socket.create_connection(listener.getsockname()))
            held.append(listener.accept()[0])
            held[-1].setblocking(False)
    for end in held[1::2]:
        sent = 0
        try:
            while sent < size:
                sent += end.send(PIECE)
        except BlockingIOError:
            pass  # it is full
    pipe.send(len(held))
    try:
        while True:
            for _ in range(min(2 * pipe.recv(), len(held))):
                held.pop().close()
    except EOFError:
        pass
