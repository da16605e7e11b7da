"""A listening socket, and the taking of those who come to it, in turns.

Several processes may wait at the same socket: the workers of a server inherit it from their
parent. `Share` says which of them goes first, and the kernel holds who comes until one of them
has time. So nobody waits for a worker that hangs, and nobody is lost with one that dies, but
those whom it had taken already.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from clarion_server.board import CLIENTS, Share, alone
from clarion_server.bucket import Bucket
from clarion_server.descriptors import MOST

log = logging.getLogger(__name__)

ACCEPTS, ACCEPT_SECONDS = 512, 0.005
"""Connections accepted in one turn at most, and how long that may take; then everybody else has
their turn. It is more than shake hands in one, so that a storm waits here and not in the kernel's
backlog: what does not fit there is dropped, to come back a second later."""

COURTESY_SECONDS = 0.005
"""How long a worker waits when another should go first: longer than a loop's turn takes under
load, shorter than anybody notices. It is all that a newcomer pays for a worker that hangs."""

EXHAUSTED_SECONDS = 0.1
"""Between two looks at the backlog while no descriptors are left."""

COMPLAINT_SECONDS = 60.0
"""Between two lines in the log about that: whoever comes could fill it."""

_Accept = Callable[[], tuple[int, object]]
"""The descriptor of a new connection, and its address."""

_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """See the module's text. It is open from the start.

    sock: listening and non-blocking; stays the caller's.
    take: gets the descriptor of each new connection, non-blocking, for its own.
    count: connections of this door that the worker has.
    most: of these, so that descriptors are left for everything else.
    make_room: called when there are so many: ends some that are worth less than a new one, by the
        next turn of the loop, and returns whether it did.
    refused: called when a connection was closed for want of descriptors.
    share: of these connections; without one, all of them.
    """

    def __init__(
        self,
        sock: socket.socket,
        take: Callable[[int], object],
        *,
        count: Callable[[], int],
        refused: Callable[[], object],
        make_room: Callable[[], bool] = lambda: False,
        share: Share | None = None,
        most: int = MOST,
    ) -> None:
        self._most = most
        self._complaints = Bucket(1 / COMPLAINT_SECONDS, 1)
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._take = take
        self._count = count
        self._refused = refused
        self._make_room = make_room
        self._share = share or alone().share(CLIENTS)
        # Given up for a moment when descriptors run out, so that a client can be told.
        self._reserve: int | None = None
        self._keep_reserve()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock.fileno(), self._accept)

    def stop(self) -> None:
        """Accepts nothing more. A second call does nothing."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        elif self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def note(self) -> None:
        """Says how many connections there are, to the others at the board."""
        self._share.note(self._count())

    def _accept(self) -> None:
        if self._share.others_first(self._count(), time.monotonic()):
            self._wait(COURTESY_SECONDS, self._accept_the_rest)
        else:
            self._accept_some()

    def _accept_the_rest(self) -> None:
        """Takes what the others left."""
        self._open_again()
        self._accept_some()

    def _accept_some(self) -> None:
        until = time.monotonic() + ACCEPT_SECONDS
        # What `accept` is made of. It would make a socket object of each, which asks for the
        # socket's name and looks up two enums: 2.5 us of 6.6.
        accept = cast(_Accept, self._sock._accept)  # type: ignore[attr-defined]
        for taken in range(ACCEPTS):
            if self._count() >= self._most:
                # Whether anybody waits behind the last one is known in the next turn.
                if not taken:
                    self._complain()
                    if not self._make_room():
                        self._turn_away()
                break
            try:
                fd, _address = accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                self._complain()
                self._turn_away()
                break
            os.set_blocking(fd, False)
            self._take(fd)
            if time.monotonic() > until:
                break
        self.note()

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(seconds, then)

    def _open_again(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _keep_reserve(self) -> None:
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            self._reserve = None  # somebody was quicker; the backlog waits

    def _turn_away(self) -> None:
        """Closes the oldest waiting connection, and waits for descriptors to be free again."""
        if self._reserve is not None:
            os.close(self._reserve)
            with suppress(OSError):
                sock, _address = self._sock.accept()
                sock.close()
        self._keep_reserve()
        self._refused()
        self._wait(EXHAUSTED_SECONDS, self._open_again)

    def _complain(self) -> None:
        if self._complaints.take(time.monotonic()):
            log.error("no file descriptors are left: raise the limit (ulimit -n) or add a worker")
