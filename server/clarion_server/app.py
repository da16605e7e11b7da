"""The composition root: every part of a worker once, in order of dependency.

`serve` runs a worker until a signal ends it. `Worker` is the same for tests: parts that start in
the order in which they are listed and stop in reverse.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack, suppress

import uvloop
from aiohttp import web

from clarion_fanout.broker import HistoryOptions
from clarion_fanout.hub import Hub
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.tasks import Tasks
from clarion_server import codes, http_api, sockets
from clarion_server.auth import Authenticator
from clarion_server.auth.keys import KeyRing, KeysError
from clarion_server.auth.permissions import Permissions
from clarion_server.counters import Counters
from clarion_server.directory import Directory
from clarion_server.edge import Edge
from clarion_server.garbage import Garbage
from clarion_server.greeting import greeting
from clarion_server.lag import Lag
from clarion_server.listener import BACKLOG, Arrival, listen
from clarion_server.metrics import Metrics
from clarion_server.options import Config
from clarion_server.origins import Origins
from clarion_server.outlet import Outlet
from clarion_server.peer import Peer
from clarion_server.process import Process
from clarion_server.wheel import TICK_SECONDS, Wheel

log = logging.getLogger(__name__)

_clock = time.perf_counter
"""Seconds since some moment, finer than the loop's own: for what watches the loop itself."""

_HOUSEKEEPING_TICKS = round(1 / TICK_SECONDS)
"""The broker's sweep comes once a second."""

_CONNECTION_BLOCKS, _SUBSCRIPTION_BLOCKS, _BROKER_BLOCK_BYTES = 14, 14, 100
"""What `Garbage` is told about memory: allocations of an idle connection, of a subscription in a
topic of its own (both counted with sys.getallocatedblocks, rounded up), and bytes for each of the
broker's, whose publications are a few small objects."""


class Worker:
    """One event loop's worth of Clarion. Make and use it inside that loop."""

    def __init__(self, config: Config) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self.counters = Counters()
        self.wheel = Wheel()
        self.tasks = Tasks()
        self.broker = MemoryBroker(
            history=self._history,
            now=lambda: int(time.time() * 1000),
            memory_bytes=config.history.memory_bytes,
            key_seconds=config.history.idempotency_s,
            key_count=config.history.idempotency_keys,
        )
        self.hub = Hub(
            broker=self.broker,
            outlet=Outlet(),
            wake=lambda: loop.call_soon(self.hub.flush),
        )
        self.keys = KeyRing(config.auth)
        self.directory = Directory(self.wheel)
        self.lag = Lag(clock=_clock)
        self.garbage = Garbage(owned=self._owned, clock=_clock)
        self.edge = Edge(
            config=config,
            broker=self.broker,
            hub=self.hub,
            permissions=Permissions(config.namespace),
            authenticator=Authenticator(config.auth, self.keys),
            keys=self.keys,
            origins=Origins(config.origins, loopback=config.development),
            counters=self.counters,
            wheel=self.wheel,
            tasks=self.tasks,
            now=time.time,
            not_ready=self.not_ready,
        )
        self.metrics = Metrics(
            counters=self.counters,
            hub=self.hub,
            broker=self.broker,
            lag=self.lag,
            garbage=self.garbage,
            process=Process(_clock),
            clock=_clock,
        )
        self._draining = False
        self._stack = AsyncExitStack()
        self.port = 0
        """The public port, once it is open."""
        self.api_port = 0
        """The private port, once it is open."""

    def _history(self, topic: str) -> HistoryOptions | None:
        namespace = self.config.namespace(topic)
        if not namespace.history_size:
            return None
        return HistoryOptions(namespace.history_size, namespace.history_s)

    def _owned(self) -> int:
        """About how many blocks of memory the server's own objects take; see `Garbage`."""
        connections = sum(self.counters.connections.values())
        return (
            connections * _CONNECTION_BLOCKS
            + self.hub.subscriptions * _SUBSCRIPTION_BLOCKS
            + self.broker.bytes // _BROKER_BLOCK_BYTES
        )

    def not_ready(self) -> list[str]:
        """Reasons why a balancer should look elsewhere; none when it should not."""
        reasons = ["draining"] if self._draining else []
        return reasons + self.lag.reasons(_clock())

    async def start(self) -> None:
        """Opens both ports. Raises `OSError` or `KeysError`; then nothing is left behind."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        config, stack = self.config, self._stack
        public = listen(config.host, config.port)
        stack.callback(public.close)
        private = listen(config.api_host, config.api_port)
        stack.callback(private.close)
        self.port = public.getsockname()[1]
        self.api_port = private.getsockname()[1]
        origins = _origins(config, self.api_port)
        self.edge.origins = Origins(origins, loopback=config.development)

        await self.keys.start()
        stack.push_async_callback(self.keys.close)
        await self.broker.start(self.hub)
        stack.push_async_callback(self.broker.close)
        stack.push_async_callback(self.tasks.close)
        self.tasks.start(self.keys.run(), "keys")
        self.tasks.start(self.lag.run(), "loop lag")
        self.tasks.start(self._run_wheel(), "timers")
        await self._serve_api(private)
        await self._serve_clients(public)
        # Last: what is alive now lives as long as the server.
        self.garbage.install()
        stack.callback(self.garbage.remove)

    async def _serve_api(self, sock: socket.socket) -> None:
        application = http_api.build(
            config=self.config,
            broker=self.broker,
            hub=self.hub,
            directory=self.directory,
            counters=self.counters,
            readiness=self.not_ready,
            metrics=self.metrics,
            now=_clock,
            public_port=self.port,
        )
        runner = http_api.runner(application, self.config)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock).start()

    async def _serve_clients(self, sock: socket.socket) -> None:
        server = await sockets.serve(
            sock, lambda: Arrival(self.edge), BACKLOG, refused=self._note_refusal
        )
        self._stack.push_async_callback(server.close)
        self._stack.push_async_callback(self._end_clients)

    async def _end_clients(self) -> None:
        """Ends every connection; their protocols hear of it in the next turn of the loop."""
        for entry in self.wheel:
            if isinstance(entry, Peer | Arrival):
                entry.abort()
        await asyncio.sleep(0)

    def _note_refusal(self) -> None:
        self.counters.handshakes["unknown", "no_descriptors"] += 1

    async def _run_wheel(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        housekeeping = _HOUSEKEEPING_TICKS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.wheel.advance(int((loop.time() - start) / TICK_SECONDS))
            self.garbage.tick(_clock())
            if self.wheel.now >= housekeeping:
                housekeeping = self.wheel.now + _HOUSEKEEPING_TICKS
                self.broker.sweep()

    async def drain(self) -> None:
        """Says goodbye to every client and waits until they are gone, or their time is over."""
        self._draining = True
        gone = asyncio.Event()
        self.edge.when_empty = gone.set
        for peer in list(self.directory.peers()):
            peer.finish(codes.DRAINING)
        if sum(self.counters.connections.values()):
            with suppress(TimeoutError):
                # Whoever does not close in time is reset by the wheel; a second more is for that.
                async with asyncio.timeout(self.config.keepalive.close_s + 1):
                    await gone.wait()

    async def close(self) -> None:
        """Stops every part, in reverse. A second call does nothing."""
        await self._stack.aclose()


def _origins(config: Config, api_port: int) -> list[str]:
    """The configured origins, and the page on the private port."""
    host = f"[{config.api_host}]" if ":" in config.api_host else config.api_host
    hosts = {host, "localhost"} if host in ("127.0.0.1", "[::1]") else {host}
    return [*config.origins, *(f"http://{name}:{api_port}" for name in sorted(hosts))]


async def _run(config: Config) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    worker = Worker(config)
    try:
        await worker.start()
    except OSError as error:
        print(f"clarion: cannot listen: {error}", file=sys.stderr)
        print(
            "Choose other ports with --port and --api-port, or end what uses them.", file=sys.stderr
        )
        return 1
    except KeysError as error:
        print(f"clarion: {error}", file=sys.stderr)
        print("Check the keys under [auth] in the configuration.", file=sys.stderr)
        return 1
    try:
        print(greeting(config, worker.port, worker.api_port), flush=True)
        await stop.wait()
        await worker.drain()
    finally:
        await worker.close()
    return 0


def serve(config: Config) -> int:
    """Runs a server until SIGINT or SIGTERM; returns the exit code."""
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    return uvloop.run(_run(config))
