"""What the private port tells about the server itself: info, probes, metrics, its own document."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import hdrs, web

from clarion_fanout.hub import Hub
from clarion_server import __version__
from clarion_server.board import Readiness
from clarion_server.counters import Counters
from clarion_server.http_api.errors import HEADERS, answer
from clarion_server.http_api.page import Page
from clarion_server.options import Config


class Worker(msgspec.Struct, frozen=True):
    """An event-loop process, by its number. `topics` are those with subscribers there."""

    worker: int
    pid: int
    uptime_s: int
    connections: int
    subscriptions: int
    topics: int


class Shard(msgspec.Struct, frozen=True):
    """A Redis primary."""

    name: str


class Info(msgspec.Struct, frozen=True):
    """The server at a glance; the counts are sums over its workers."""

    instance: str
    version: str
    broker: str
    uptime_s: int
    connections: int
    subscriptions: int
    topics: int
    workers: list[Worker]
    shards: list[Shard]


class Alive(msgspec.Struct, frozen=True):
    """The event loop answers."""

    alive: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether new clients should be sent here, and what speaks against it.

    There may be reasons though the server is ready: most of its workers are then.
    """

    ready: bool
    reasons: list[str]


class About:
    """The handlers of what is about the server itself."""

    def __init__(
        self,
        *,
        config: Config,
        hub: Hub,
        counters: Counters,
        readiness: Callable[[], Readiness],
        metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
        now: Callable[[], float],
        worker: int,
        instance: str,
        page: Page,
        document: bytes,
    ) -> None:
        self._hub = hub
        self._counters = counters
        self._readiness = readiness
        self._metrics = metrics
        self._now = now
        self._page = page
        self._document = document
        self._started = now()
        self._broker = "redis" if config.redis else "memory"
        self._worker = worker
        self._instance = instance

    async def info(self, _request: web.Request) -> web.Response:
        worker = Worker(
            worker=self._worker,
            pid=os.getpid(),
            uptime_s=int(self._now() - self._started),
            connections=self._counters.connections.total(),
            subscriptions=self._hub.subscriptions,
            topics=len(self._hub.topics),
        )
        return answer(
            Info(
                instance=self._instance,
                version=__version__,
                broker=self._broker,
                uptime_s=worker.uptime_s,
                connections=worker.connections,
                subscriptions=worker.subscriptions,
                topics=worker.topics,
                workers=[worker],
                shards=[],
            )
        )

    async def livez(self, _request: web.Request) -> web.Response:
        return answer(Alive(alive=True))

    async def readyz(self, _request: web.Request) -> web.Response:
        ready, reasons = self._readiness()
        return answer(Ready(ready=ready, reasons=reasons), 200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
        body, content_type = await self._metrics(accept)
        headers = {**HEADERS, hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT}
        return web.Response(body=body, headers=headers)

    async def document(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document, headers=HEADERS)

    async def page(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._page.body, headers={**self._page.headers, hdrs.SERVER: HEADERS[hdrs.SERVER]}
        )
