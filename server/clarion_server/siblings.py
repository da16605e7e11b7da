"""The metrics of all workers of a server, from whichever is asked.

Each worker answers the others at a Unix socket in a folder that only their user may enter: a line
with the format that is wanted comes in, the texts of its metrics go out. Who hangs, according to
the board, or does not answer within `DEADLINE_SECONDS`, is left out, and `clarion_worker_up` says
so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import cast

import msgspec

from clarion_fanout.tasks import Tasks
from clarion_server import exposition
from clarion_server.board import Seat
from clarion_server.exposition import Family
from clarion_server.metrics import Metrics, of_workers

log = logging.getLogger(__name__)

DEADLINE_SECONDS = 1.0
"""For a sibling's answer, which takes some milliseconds; a tenth of the usual scrape timeout."""

MAX_QUESTION_BYTES = 1024
"""A content type with its parameters is a tenth of that."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Family])


class Siblings:
    """See the module's text.

    folder: of the sockets; None for a worker without siblings.
    """

    def __init__(self, *, seat: Seat, metrics: Metrics, tasks: Tasks, folder: Path | None) -> None:
        self._seat = seat
        self._metrics = metrics
        self._tasks = tasks
        self._folder = folder
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begins to answer the others. Raises `OSError`."""
        if self._folder is None:
            return
        path = self._path(self._folder, self._seat.number)
        path.unlink(missing_ok=True)  # of a predecessor that was killed
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Question(self), str(path))

    def close(self) -> None:
        """Answers nobody any more. A second call does nothing."""
        if self._server is not None and self._folder is not None:
            self._server.close()
            self._path(self._folder, self._seat.number).unlink(missing_ok=True)
            self._server = None

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """The text of all metrics and its content type, as an `Accept` header wants it."""
        kind = exposition.content_type(accept)
        numbers = range(self._seat.board.workers)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._text(number, kind)) for number in numbers]
        texts = [task.result() for task in asked]
        restarts = [self._seat.board.restarts(number) for number in numbers]
        own = exposition.written(of_workers([text is not None for text in texts], restarts), kind)
        return exposition.joined([own, *filter(None, texts)], kind), kind

    async def _text(self, number: int, kind: str) -> list[Family] | None:
        if number == self._seat.number:
            return await self._own(kind)
        if self._folder is None or not self._seat.board.is_alive(number, time.monotonic()):
            return None
        path = self._path(self._folder, number)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(kind.encode() + b"\n")
                    return _decoder.decode(await reader.read())
                finally:
                    writer.close()
        except (OSError, TimeoutError, msgspec.DecodeError) as error:
            log.debug("worker %d does not tell its metrics: %r", number, error)
            return None

    async def _own(self, kind: str) -> list[Family]:
        metrics = await self._metrics.collected()
        return exposition.written(exposition.labelled(metrics, self._seat.number), kind)

    def answer(self, kind: str, transport: asyncio.WriteTransport) -> None:
        """Answers a sibling."""
        self._tasks.start(self._answer(kind, transport), "metrics for a sibling")

    async def _answer(self, kind: str, transport: asyncio.WriteTransport) -> None:
        try:
            answer = _encoder.encode(await self._own(kind))
            if not transport.is_closing():  # who asked may have had enough of waiting
                transport.write(answer)
        finally:
            transport.close()

    @staticmethod
    def _path(folder: Path, number: int) -> Path:
        return folder / str(number)


class _Question(asyncio.Protocol):
    """A sibling that asks, until it is answered or its time is over."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings
        self._received: bytes | None = b""
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(DEADLINE_SECONDS, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._received is None:
            return  # one question is answered
        self._received += data
        kind, end, _rest = self._received.partition(b"\n")
        if end:
            self._received = None
            self._siblings.answer(kind.decode(errors="replace"), self._transport)
        elif len(kind) > MAX_QUESTION_BYTES:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._transport = None
