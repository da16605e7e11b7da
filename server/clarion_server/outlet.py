"""The way out: bytes to sockets, straight to the kernel.

A write to a socket costs a system call, and that is nearly all it should cost (2-5 us on loopback,
of which a Python loop around `os.write` is 3 %: loadtest/README.md, `fanout`). So as long as a
client keeps up, its bytes bypass the transport: `os.write` on the file descriptor, which takes all
of them or tells how many. Only what it does not take goes to the transport, which then owns the
socket's writing side until its buffer is empty again.

A receiver's key is its file descriptor. That is sound because a connection leaves the hub before
its transport lets go of the descriptor: `connection_lost` comes first, then the close.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from clarion_fanout.hub import Receiver

FAILED = -1
"""In place of a number of bytes: the socket is dead."""


_NO_NUMBER = bytes(4)


class Connection(Receiver, Protocol):
    """A receiver whose key is a file descriptor that nothing is buffered for."""

    def cut_short(self, payload: bytes, written: int) -> None:
        """Of `payload` the kernel took `written` bytes, or `FAILED`."""
        ...


def write(key: int, payload: bytes) -> int:
    """Gives bytes to the kernel; returns how many it took, or `FAILED`."""
    try:
        return os.write(key, payload)
    except BlockingIOError:
        return 0
    except OSError:
        return FAILED


def unsent(key: int) -> int:
    """Bytes that the kernel holds because the peer has not acknowledged them (tcp(7), SIOCOUTQ).

    0 where that cannot be asked: whether a client reads is then seen by larger steps.
    """
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(key, termios.TIOCOUTQ, _NO_NUMBER), sys.byteorder)
    except OSError:
        return 0  # its end is on its way to the transport


class Outlet:
    """The hub's `Outlet`."""

    def broadcast(self, receivers: Mapping[int, Receiver], payload: bytes) -> None:
        size = len(payload)
        short: list[tuple[Receiver, int]] = []
        send = os.write
        for key in receivers:
            try:
                written = send(key, payload)
            except OSError as error:
                written = 0 if isinstance(error, BlockingIOError) else FAILED
            if written != size:
                short.append((receivers[key], written))
        # After the loop: a receiver that is cut short may move between the hub's tables.
        for receiver, written in short:
            cast(Connection, receiver).cut_short(payload, written)

    def scatter(
        self, payloads: Mapping[int, bytes], receivers: Callable[[], Mapping[int, Receiver]]
    ) -> None:
        short: list[tuple[int, int]] = []
        send = os.write
        for key, payload in payloads.items():
            try:
                written = send(key, payload)
            except OSError as error:
                written = 0 if isinstance(error, BlockingIOError) else FAILED
            if written != len(payload):
                short.append((key, written))
        if short:
            found = receivers()
            for key, written in short:
                cast(Connection, found[key]).cut_short(payloads[key], written)
