"""Transports for many connections: two epoll descriptors, and little for each socket.

An asyncio transport of uvloop costs 1.3 KB, and libuv accepts and reads as long as there is
something: when 15,000 clients connect at once, everything else on the loop waited for a second
(measured). Here each socket is its descriptor and one small object, and everything is done in
turns: so many accepts, so many reads, then the loop may look after the others.

The loop watches an epoll descriptor, which is readable when any client's socket is ready. There are
two: connections begin in the lobby, and leave it when they get another protocol, which is when a
client is let in. Both have their turn, so that nobody who is in waits behind thousands who come.
Most newcomers have sent their request by the time they are accepted. So each is read once before it
is watched, and who is let in then, or must wait without being read, never enters the lobby, which
saves two of three calls of epoll_ctl. Who is in it keeps us waiting; the longest there goes first
when there are as many connections as there may be.
The protocols above see no difference: `SocketTransport` is an asyncio transport as far as they
use one. Where there is no epoll (macOS), `serve` falls back on the loop's own transports.
Whose turn it is to accept, where several processes wait, is for `door.py` to say.

Descriptors and their numbers. A number is free for the next connection once it is closed, so the
order at the end is: no more events, `connection_lost` in a later turn of the loop, close. Until
then whatever goes by number still means this connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

from clarion_server.board import Share
from clarion_server.descriptors import MOST
from clarion_server.door import Door

log = logging.getLogger(__name__)

EVENTS = 256
"""Sockets served in one turn: at 40 us for a handshake, the dearest thing that happens, 10 ms."""

EXPELLED = 64
"""Newcomers that are ended at once to make room for others: a millisecond's work, and more than an
honest crowd brings in a turn in which there is no room."""

READ_BYTES = 16 * 1024
"""Read at once from one socket. Commands are a hundred bytes; a longer message takes turns."""

_READ, _WRITE, _BROKEN = (
    (select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP)
    if hasattr(select, "epoll")
    else (1, 4, 8 | 16)
)

ProtocolFactory = Callable[[], asyncio.Protocol]


class SocketTransport(asyncio.Transport):
    """One client's socket. Nothing is written to it by number while `get_write_buffer_size()`."""

    __slots__ = ("_buffer", "_closing", "_eof", "_fd", "_poller", "_protocol", "_size", "events")

    def __init__(self, poller: Poller, fd: int) -> None:
        # The base class would make a dict for each connection.
        self._poller = poller
        self._fd = fd
        self.events = _READ
        """That are asked for."""
        self._buffer: deque[memoryview] | None = None
        self._size = 0
        self._eof = False
        self._closing = False
        self._protocol: asyncio.Protocol = poller.factory()

    # What asyncio asks of a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`: this object, which has `fileno` and `setsockopt`; `peername`: the address that
        it is connected to, as `socket.getpeername` has it."""
        if name == "peername":
            return self._peername() or default
        return self if name == "socket" else default

    def fileno(self) -> int:
        return self._fd

    def setsockopt(self, level: int, name: int, value: int | bytes) -> None:
        sock = socket.socket(self._poller.family, socket.SOCK_STREAM, 0, self._fd)
        try:
            sock.setsockopt(level, name, value)
        finally:
            sock.detach()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol
        self._poller.let_in(self._fd, self.events)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return bool(self.events & _READ)

    def pause_reading(self) -> None:
        if not self._closing:
            self._watch(self.events & ~_READ)

    def resume_reading(self) -> None:
        if not self._closing:
            self._watch(self.events | _READ)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are always zero: the protocol is paused as long as anything is buffered."""

    def get_write_buffer_size(self) -> int:
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 0

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._eof or not data:
            return
        view = memoryview(data)
        if self._buffer is None:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._end(error)
                return
            if not view:
                return
            self._buffer = deque()
            self._watch(self.events | _WRITE)
        self._buffer.append(view)
        self._size += len(view)
        self._protocol.pause_writing()

    def write_eof(self) -> None:
        """Ends our side of the stream when everything is written."""
        if self._eof or self._closing:
            return
        self._eof = True
        if self._buffer is None:
            self._shutdown()

    def close(self) -> None:
        """Ends the connection when everything is written."""
        if self._closing:
            return
        if self._buffer is None:
            self._end(None)
        else:
            self._closing = True
            self._poller.watch(self._fd, _WRITE)

    def abort(self) -> None:
        self._end(None)

    # Events

    def ready(self, events: int) -> None:
        """Serves the socket; the poller calls it."""
        if events & _WRITE and self._buffer is not None:
            self._flush(self._buffer)
        if self.events & _READ and not self._closing:
            if events & (_READ | _BROKEN):
                self._read()
        elif events & _BROKEN:
            # Nobody reads, and the kernel goes on saying it: nothing can be written either.
            self._end(ConnectionResetError(errno.ECONNRESET, "the peer is gone"))

    def _read(self) -> None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._protocol.data_received(data)
        elif self._protocol.eof_received():
            self.pause_reading()
        else:
            self.close()

    def _flush(self, buffer: deque[memoryview]) -> None:
        while buffer:
            view = buffer[0]
            try:
                written = os.write(self._fd, view)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(error)
                return
            self._size -= written
            if written < len(view):
                buffer[0] = view[written:]
                return
            buffer.popleft()
        self._buffer = None
        if self._closing:
            self._end(None)
            return
        self._watch(self.events & ~_WRITE)
        if self._eof:
            self._shutdown()
        self._protocol.resume_writing()

    def _watch(self, events: int) -> None:
        if events != self.events:
            self.events = events
            self._poller.watch(self._fd, events)

    def _peername(self) -> Any:
        sock = socket.socket(self._poller.family, socket.SOCK_STREAM, 0, self._fd)
        try:
            return sock.getpeername()
        except OSError:
            return None  # it is gone already
        finally:
            sock.detach()

    def _shutdown(self) -> None:
        sock = socket.socket(self._poller.family, socket.SOCK_STREAM, 0, self._fd)
        try:
            with suppress(OSError):  # the peer may have reset it
                sock.shutdown(socket.SHUT_WR)
        finally:
            sock.detach()

    def _end(self, error: Exception | None) -> None:
        """No more events from here on; the protocol hears of it in the next turn."""
        self._buffer = None
        self._size = 0
        self._closing = True
        self._poller.forget(self, error)

    def lost(self, error: Exception | None) -> None:
        """Tells the protocol, then gives the descriptor's number free; the poller calls it."""
        try:
            self._protocol.connection_lost(error)
        finally:
            os.close(self._fd)


class Poller:
    """Accepts connections from a listening socket and serves them.

    sock: listening and non-blocking; stays the caller's.
    factory: makes the protocol of each new connection.
    refused: called when a connection was closed for want of descriptors.
    share: of the connections, where other processes accept from the same socket.
    most: connections, so that descriptors are left for everything else.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        factory: ProtocolFactory,
        refused: Callable[[], object],
        share: Share | None = None,
        most: int = MOST,
    ) -> None:
        self.factory = factory
        self.family = sock.family
        self._loop = loop
        self._epoll = select.epoll()
        self._lobby = select.epoll()
        self._waiting: dict[int, None] = {}
        """The sockets in the lobby, the longest there first."""
        self._unwatched: set[int] = set()
        """Those that are in neither: they have just come, or are not read for the time being."""
        self._fresh: list[SocketTransport] = []
        """Those of them that are to be read, and watched if that is not all."""
        self._transports: dict[int, SocketTransport] = {}
        for epoll in (self._epoll, self._lobby):
            loop.add_reader(epoll.fileno(), self._serve, epoll)
        self._door = Door(
            sock,
            self._take,
            count=lambda: len(self._transports),
            refused=refused,
            make_room=self._expel,
            share=share,
            most=most,
        )
        self._refused = refused

    def stop(self) -> None:
        """Accepts nothing more."""
        self._door.stop()

    def note(self) -> None:
        """Says how many connections there are, to the others at the board."""
        self._door.note()

    async def close(self) -> None:
        """Stops, ends every connection and waits until their protocols know. Call it once."""
        self.stop()
        for transport in list(self._transports.values()):
            transport.abort()
        # Their `connection_lost` is due in the next turn of the loop.
        done = self._loop.create_future()
        self._loop.call_soon(done.set_result, None)
        await done
        for epoll in (self._epoll, self._lobby):
            self._loop.remove_reader(epoll.fileno())
            epoll.close()

    def watch(self, fd: int, events: int) -> None:
        """Asks for `events` of a socket from now on. A newcomer of whom nothing is asked, not even
        to read, is not watched at all: its end is seen when it is read again, which is at once."""
        if fd in self._waiting:
            if events:
                self._lobby.modify(fd, events)
            else:
                self._leave_lobby(fd)
                self._unwatched.add(fd)
        elif fd not in self._unwatched:
            self._epoll.modify(fd, events)
        elif events == _READ:
            transport = self._transports[fd]
            self._read_soon(transport)
            self._serve_one(transport, events)
        elif events:
            self._enter_lobby(fd, events)

    def let_in(self, fd: int, events: int) -> None:
        """From now on a socket is served with those that stay. A second call does nothing."""
        if fd in self._unwatched:
            self._unwatched.remove(fd)
        elif fd in self._waiting:
            self._leave_lobby(fd)
        else:
            return
        self._epoll.register(fd, events)

    def forget(self, transport: SocketTransport, error: Exception | None) -> None:
        """Ends a transport's events and schedules its end. A second call does nothing."""
        fd = transport.fileno()
        if self._transports.pop(fd, None) is not None:
            if fd in self._unwatched:
                self._unwatched.remove(fd)
            elif fd in self._waiting:
                self._leave_lobby(fd)
            else:
                self._epoll.unregister(fd)
            self._loop.call_soon(transport.lost, error)

    def _serve(self, epoll: select.epoll) -> None:
        transports = self._transports
        for fd, events in epoll.poll(0, EVENTS):
            # One may have been ended by another in this very turn.
            transport = transports.get(fd)
            if transport is not None:
                self._serve_one(transport, events)

    def _serve_one(self, transport: SocketTransport, events: int) -> None:
        try:
            transport.ready(events)
        except Exception:
            log.exception("a connection failed")
            transport.abort()

    # Newcomers

    def _take(self, fd: int) -> None:
        transport = SocketTransport(self, fd)
        self._transports[fd] = transport
        self._unwatched.add(fd)
        self._read_soon(transport)
        transport.get_protocol().connection_made(transport)

    def _read_soon(self, transport: SocketTransport) -> None:
        if not self._fresh:
            self._loop.call_soon(self._read_fresh)
        self._fresh.append(transport)

    def _read_fresh(self) -> None:
        """Reads what newcomers have sent already, in turns as well."""
        fresh = self._fresh[:EVENTS]
        del self._fresh[:EVENTS]
        if self._fresh:
            self._loop.call_soon(self._read_fresh)
        for transport in fresh:
            fd = transport.fileno()
            # Its number may be another's, if it has ended meanwhile.
            if fd in self._unwatched and self._transports[fd] is transport:
                self._serve_one(transport, _READ)
                if fd in self._unwatched and transport.is_reading():
                    self._enter_lobby(fd, transport.events)

    def _enter_lobby(self, fd: int, events: int) -> None:
        self._unwatched.remove(fd)
        self._waiting[fd] = None
        self._lobby.register(fd, events)

    def _leave_lobby(self, fd: int) -> None:
        del self._waiting[fd]
        self._lobby.unregister(fd)

    def _expel(self) -> bool:
        """Ends those who are longest in the lobby; returns whether there was anybody.

        They have not finished their request, or do not take its refusal. Who needs a second for it
        stays as long as fewer come in that second than fit into the lobby.
        """
        expelled = list(islice(self._waiting, EXPELLED))
        for fd in expelled:
            self._refused()
            self._transports[fd].abort()
        return bool(expelled)


class LoopServer:
    """The same with the loop's own transports, where there is no epoll.

    Of several processes the quickest accepts; none lets another go first.
    """

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    def stop(self) -> None:
        self._server.close()

    def note(self) -> None:
        pass

    async def close(self) -> None:
        self._server.close()


async def serve(
    sock: socket.socket,
    factory: ProtocolFactory,
    backlog: int,
    refused: Callable[[], object],
    share: Share | None = None,
    most: int = MOST,
) -> Poller | LoopServer:
    """Serves connections to `sock` until it is closed."""
    loop = asyncio.get_running_loop()
    if hasattr(select, "epoll"):
        return Poller(loop, sock, factory, refused, share, most)
    return LoopServer(await loop.create_server(factory, sock=sock, backlog=backlog))
