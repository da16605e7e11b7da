"""One connection to a Redis server: RESP2 in and out, in order, and nothing else.

redis-py's own connections were measured at 20 us a message on the way in, so slow that Redis closed
the subscriber under load; hiredis on a protocol takes 0.4 us. What is written in one turn of the
event loop leaves in one system call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeAlias, cast

import hiredis

from clarion_fanout.redis_address import Address

Reply: TypeAlias = Any
"""bytes, int, None, a list of replies, or a `hiredis.ReplyError`: an answer, not an exception."""

Argument: TypeAlias = bytes | str | int
"""A word of a command."""

# Its annotation asks for a tuple of exactly one word.
_hiredis: Any = hiredis
pack = cast("Callable[[tuple[Argument, ...]], bytes]", _hiredis.pack_command)
"""A command as it goes over the wire."""

_NOTHING = object()

PORTION = 64
"""Replies that are handed on together. A read may bring a thousand: the first of them would have
left the processor's caches before anybody looks at them; see `hub.CROWD`."""

LINGER_SECONDS = 1.0
"""What a connection that is closed has to get rid of its last bytes."""


class Wire(asyncio.Protocol):
    """A connection. See the module's text.

    received: called with the replies of each read, at least one and at most `PORTION`.
    lost: called once, when the connection has ended, with what ended it.
    """

    def __init__(
        self, received: Callable[[list[Reply]], None], lost: Callable[[str], None]
    ) -> None:
        self._received = received
        self._lost = lost
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._reason = "closed by the server"
        self._gone = asyncio.Event()
        self.heard = time.monotonic()
        """When something was received last, monotonic seconds."""

    @property
    def waiting_bytes(self) -> int:
        """What was written and the kernel has not taken."""
        if self._transport is None:
            return 0
        return self._unsent_bytes + self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Sends commands at the end of this turn of the loop; drops them if there is no peer."""
        if self._transport is None:
            return
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)

    def _flush(self) -> None:
        unsent = self._unsent
        self._unsent = []
        self._unsent_bytes = 0
        if self._transport is not None and unsent:
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    @property
    def lost(self) -> str:
        """What ended the connection; empty while it is there."""
        return self._reason if self._gone.is_set() else ""

    def hand_over(
        self, received: Callable[[list[Reply]], None], lost: Callable[[str], None]
    ) -> None:
        """From now on these are called."""
        self._received = received
        self._lost = lost

    async def close(self) -> None:
        """Ends the connection after what is written; nobody is told anything any more."""
        self.hand_over(_ignore, _ignore)
        self._flush()
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            self.abort("closed")
            await self._gone.wait()

    def abort(self, reason: str) -> None:
        """Ends the connection at once; `lost` is told the reason."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an instance: uvloop's do not inherit from it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        self._reader.feed(data)
        while replies := self._portion():
            self._received(replies)

    def _portion(self) -> list[Reply]:
        """The next replies that are complete."""
        replies: list[Reply] = []
        try:
            replies.extend(islice(iter(self._reader.gets, _NOTHING), PORTION))
        except hiredis.HiredisError as error:
            self.abort(f"sent what is not RESP: {error}")
        return replies

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._unsent.clear()
        if exc is not None:
            self._reason = str(exc) or type(exc).__name__
        self._gone.set()
        lost = self._lost
        self.hand_over(_ignore, _ignore)
        lost(self._reason)


def _ignore(_: object) -> None:
    pass


async def connect(
    address: Address,
    received: Callable[[list[Reply]], None],
    lost: Callable[[str], None],
    deadline_s: float,
) -> Wire:
    """Opens a connection. Raises `OSError`, of which `TimeoutError` and `ssl.SSLError` are."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s):
            if address.path:
                _, wire = await loop.create_unix_connection(
                    lambda: Wire(received, lost), address.path
                )
            else:
                _, wire = await loop.create_connection(
                    lambda: Wire(received, lost),
                    address.host,
                    address.port,
                    ssl=address.tls,
                    server_hostname=address.host if address.tls else None,
                )
    except UnicodeError:
        raise OSError(f"{address.host!r} is not the name of a host") from None
    return wire
