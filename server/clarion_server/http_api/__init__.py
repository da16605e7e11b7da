"""The private HTTP API: routes, and what surrounds every request.

The life of a request: aiohttp reads its head, the router finds the handler, `_surround` asks the
guard, the handler reads and decodes the body and answers; whatever is raised on the way becomes
an error of one shape. openapi.py describes every operation; a test compares it with the routes
here.

Bounds: a head of `head_bytes`, a body of `body_bytes` within `handshake_s`, idle connections
(those with half a head included) `IDLE_SECONDS`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from clarion_fanout.broker import Broker, BrokerUnavailable
from clarion_fanout.presence import Presence
from clarion_fanout.redis_inbox import Inbox
from clarion_fanout.redis_shard import Shard
from clarion_server.board import Readiness
from clarion_server.codes import Code
from clarion_server.fleet import Fleet
from clarion_server.http_api import openapi, page
from clarion_server.http_api.clients import ClientControl
from clarion_server.http_api.errors import Refusal, busy, refuse, translated
from clarion_server.http_api.guard import Guard
from clarion_server.http_api.info import About
from clarion_server.http_api.publish import Publisher
from clarion_server.http_api.topics import TopicReader
from clarion_server.options import Config
from clarion_server.publishing import Publishing

__all__ = ["build", "runner"]

IDLE_SECONDS = 75.0
"""A connection without a whole request. Longer than the pools of usual HTTP clients keep theirs
(up to 60 s), so that the client closes first and no request meets a connection that is closing."""

LINGER_SECONDS = 2.0
"""For the rest of a body that is not wanted: closing at once would reset the connection, and the
client would lose the answer that says why."""

SHUTDOWN_SECONDS = 5.0
"""For requests in progress when the server ends. A publish takes milliseconds."""

_log = logging.getLogger("clarion.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(
    *,
    config: Config,
    broker: Broker,
    publishing: Publishing,
    presence: Presence | None,
    fleet: Fleet,
    shards: Callable[[], Sequence[Shard]],
    inboxes: Sequence[Inbox] = (),
    readiness: Callable[[], Readiness],
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
    public_port: int | None = None,
) -> web.Application:
    """The application behind the private port; `runner` makes it run.

    shards: those of the broker now. inboxes: those that this worker takes part in.
    readiness: whether new clients should be sent to this server.
    metrics: their text and its content type, for an `Accept` header.
    public_port: where it is not `config.port`: that may be 0, for any that is free.
    """
    publisher = Publisher(limits=config.limits, publishing=publishing)
    reader = TopicReader(config=config, broker=broker, presence=presence, fleet=fleet)
    control = ClientControl(limits=config.limits, fleet=fleet)
    about = About(
        config=config,
        fleet=fleet,
        shards=shards,
        inboxes=inboxes,
        readiness=readiness,
        metrics=metrics,
        document=openapi.document(),
    )
    port = config.port if public_port is None else public_port
    pages = {"/": page.build(port=port), **page.scripts()}
    app = web.Application(
        middlewares=[_surround(Guard(config))], client_max_size=config.limits.body_bytes
    )
    routes: tuple[tuple[str, str, Handler], ...] = (
        ("POST", "/v1/publish", publisher.one),
        ("POST", "/v1/publish/batch", publisher.batch),
        ("POST", "/v1/broadcast", publisher.broadcast),
        ("GET", "/v1/topics", reader.topics),
        # A topic may contain slashes, encoded or not; the last part is what tells the paths apart.
        ("GET", "/v1/topics/{topic:.+}/history", reader.history),
        ("GET", "/v1/topics/{topic:.+}/presence", reader.presence),
        ("POST", "/v1/disconnect", control.disconnect),
        ("POST", "/v1/subscribe", control.subscribe),
        ("POST", "/v1/unsubscribe", control.unsubscribe),
        ("GET", "/v1/info", about.info),
        ("GET", "/v1/openapi.json", about.document),
        ("GET", "/metrics", about.metrics),
        ("GET", "/livez", about.livez),
        ("GET", "/readyz", about.readyz),
        *(("GET", path, page.handler(one)) for path, one in pages.items()),
    )
    for method, path, handler in routes:
        add = app.router.add_post if method == "POST" else app.router.add_get  # and HEAD
        add(path, handler, expect_handler=_expect)
    return app


def runner(
    app: web.Application, config: Config, idle_seconds: float = IDLE_SECONDS
) -> web.AppRunner:
    """Runs `app`: `await setup()`, then a `web.TCPSite` or `web.SockSite`; `await cleanup()`."""
    _protocol_log.addFilter(_quiet)
    return web.AppRunner(
        app,
        access_log=None,
        # Bodies are refused when compressed (`bodies.read`), so they must arrive as sent.
        auto_decompress=False,
        keepalive_timeout=idle_seconds,
        lingering_time=LINGER_SECONDS,
        logger=_protocol_log,
        max_field_size=config.limits.head_bytes,
        max_line_size=config.limits.head_bytes,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )


def _surround(guard: Guard) -> Middleware:
    @web.middleware
    async def surround(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            guard.admit(request)
            return await handler(request)
        except Refusal as refusal:
            return refuse(refusal)
        except web.HTTPException as error:
            return refuse(translated(error))
        except BrokerUnavailable as error:
            return busy(error)
        except Exception:
            resource = request.match_info.route.resource
            path = resource.canonical if resource is not None else "an unknown path"
            _log.exception("%s %s failed", request.method, path)
            return refuse(Refusal(500, Code.INTERNAL, "internal error"))

    return surround


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answers `Expect` (RFC 9110, section 10.1.1), which aiohttp does before any middleware."""
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        text = "the only expectation that can be met is 100-continue"
        return refuse(Refusal(417, Code.BAD_REQUEST, text, close=True))
    if request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # for aiohttp this was not part of the answer
    return None


_protocol_log = logging.getLogger("clarion.api.protocol")


def _quiet(record: logging.LogRecord) -> bool:
    """Drops what aiohttp logs, with a traceback, about requests that are not HTTP: whoever can
    reach the port could fill the log."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
