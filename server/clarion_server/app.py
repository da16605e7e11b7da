"""The composition root: every part of a worker once, in order of dependency.

A `Worker`'s parts start in the order in which they are listed and stop in reverse. `launch.py`
runs one until a signal ends it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from clarion_fanout.hub import Hub
from clarion_fanout.tasks import Tasks
from clarion_server import (
    brokers,
    codes,
    controls,
    descriptors,
    edges,
    http_api,
    inboxes,
    pipelines,
    presences,
    sockets,
)
from clarion_server.auth.keys import KeyRing
from clarion_server.board import BACKENDS, CLIENTS, Readiness, alone
from clarion_server.counters import Counters
from clarion_server.directory import Directory
from clarion_server.door import Door
from clarion_server.duty import Duty
from clarion_server.fleet import Fleet, Nobody
from clarion_server.garbage import Garbage
from clarion_server.heap import Heap
from clarion_server.inheritance import Inheritance
from clarion_server.lag import Lag
from clarion_server.listener import BACKLOG, Arrival, listen
from clarion_server.metrics import Metrics
from clarion_server.options import Config
from clarion_server.origins import Origins
from clarion_server.outlet import Outlet
from clarion_server.peer import Peer
from clarion_server.process import Process
from clarion_server.publishing import Publishing, Queue
from clarion_server.quota import Quotas
from clarion_server.siblings import Siblings
from clarion_server.wheel import TICK_SECONDS, Wheel

log = logging.getLogger(__name__)

_DRAIN_SECONDS = 1.0
"""Beyond `keepalive.close_s`, for resetting whoever did not close in time."""

_clock = time.perf_counter
"""Seconds since some moment, finer than the loop's own: for what watches the loop itself."""

_HOUSEKEEPING_TICKS = round(1 / TICK_SECONDS)
"""The broker's sweep comes once a second."""

_CONNECTION_BLOCKS, _SUBSCRIPTION_BLOCKS, _MEMBER_BLOCKS, _BROKER_BLOCK_BYTES = 14, 14, 6, 100
"""What `Garbage` is told about memory: allocations of an idle connection, of a subscription in a
topic of its own and of a member there (all counted with sys.getallocatedblocks, rounded up), and
bytes for each of the broker's, whose publications are a few small objects."""


class Worker:
    """One event loop's worth of Clarion. Make and use it inside that loop.

    inherited: from the parent of several workers; without it, this is the only one.
    """

    def __init__(self, config: Config, inherited: Inheritance | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.config = config
        self._inherited = inherited
        self.seat = inherited.seat if inherited else alone()
        self.counters = Counters()
        self.wheel = Wheel()
        self.tasks = Tasks()
        self.instance = inherited.instance if inherited else secrets.token_hex(4)
        # No two processes have the same, not even one and the one that is started in its place.
        self.name = f"{self.instance}-{self.seat.number}-{secrets.token_hex(3)}"
        """Names this worker among all that share the broker."""
        self.broker = brokers.make(config, self.name)
        self.hub = Hub(
            broker=self.broker,
            outlet=Outlet(),
            wake=lambda: loop.call_soon(self.hub.flush),
        )
        self.presence = presences.make(
            config, broker=self.broker, feed=self.hub, soon=loop.call_soon
        )
        self.preparation = pipelines.make(config)
        self.publishing = Publishing(
            broker=self.broker,
            counters=self.counters,
            data_bytes=config.limits.data_bytes,
            preparation=self.preparation,
            queue=Queue(config.pipeline.queue, config.pipeline.queue_bytes),
            quotas=Quotas(config.limits),
        )
        self.inboxes = inboxes.make(
            config, worker=self.name, broker=self.broker, preparation=self.preparation
        )
        self.keys = KeyRing(config.auth)
        self.directory = Directory(self.wheel)
        duty = Duty(
            badge=controls.badge(self.name, self.instance, self.seat.number),
            directory=self.directory,
            hub=self.hub,
            counters=self.counters,
            not_ready=self.not_ready,
            shards=lambda: [shard.name for shard in brokers.shards(self.broker)],
            now=_clock,
        )
        self.control = controls.make(config, duty=duty, broker=self.broker, tasks=self.tasks)
        self.fleet = Fleet(duty, self.control or Nobody())
        self.lag = Lag(clock=_clock, options=config.admission)
        self.garbage = Garbage(owned=self._owned, clock=_clock)
        self.heap = Heap()
        self.edge = edges.make(
            config,
            now=time.time,
            wheel=self.wheel,
            tasks=self.tasks,
            counters=self.counters,
            readiness=self.readiness,
            overloaded=self.lag.refuses,
            keys=self.keys,
            broker=self.broker,
            publishing=self.publishing,
            presence=self.presence,
            hub=self.hub,
        )
        metrics = Metrics(
            edge=self.edge,
            counters=self.counters,
            hub=self.hub,
            broker=self.broker,
            lag=self.lag,
            garbage=self.garbage,
            process=Process(_clock),
            clock=_clock,
            presence=self.presence,
            inboxes=self.inboxes,
            fleet=self.fleet,
            publishing=self.publishing,
        )
        self.siblings = Siblings(
            seat=self.seat,
            metrics=metrics,
            tasks=self.tasks,
            folder=inherited.folder if inherited else None,
        )
        self._listening: list[socket.socket] = []
        self._doors: list[Door | sockets.Poller | sockets.LoopServer] = []
        self._serving = False
        self._draining = False
        self._stack = AsyncExitStack()
        self.port = 0
        """The public port, once it is open."""
        self.api_port = 0
        """The private port, once it is open."""

    def _owned(self) -> int:
        """About how many blocks of memory the server's own objects take; see `Garbage`."""
        return (
            self.counters.connected * _CONNECTION_BLOCKS
            + self.hub.subscriptions * _SUBSCRIPTION_BLOCKS
            + (self.presence.members * _MEMBER_BLOCKS if self.presence else 0)
            + brokers.held_bytes(self.broker) // _BROKER_BLOCK_BYTES
        )

    def not_ready(self) -> list[str]:
        """Reasons why this worker should get no new clients; none when it may."""
        reasons = ["draining"] if self._draining else []
        reasons += self.lag.reasons(_clock())
        if self.counters.connected >= self.edge.most:
            reasons.append(f"has as many clients as it takes, {self.edge.most}")
        return reasons + brokers.not_ready(self.broker, self.config)

    def readiness(self) -> Readiness:
        """Whether a balancer should send clients to this server, which is all workers to it."""
        return self.seat.readiness(time.monotonic(), self.not_ready())

    async def start(self) -> None:
        """Opens both ports. Raises `OSError` or `KeysError`; then nothing is left behind."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        config, stack, inherited = self.config, self._stack, self._inherited
        self._check_descriptors()
        public = inherited.public if inherited else listen(config.host, config.port)
        stack.callback(public.close)
        private = inherited.private if inherited else listen(config.api_host, config.api_port)
        stack.callback(private.close)
        self._listening = [public, private]
        self.port = public.getsockname()[1]
        self.api_port = private.getsockname()[1]
        origins = _origins(config, self.api_port)
        self.edge.origins = Origins(origins, loopback=config.development)

        await self.keys.start()
        stack.push_async_callback(self.keys.close)
        await self.broker.start(self.hub)
        stack.push_async_callback(self.broker.close)
        if self.preparation is not None:
            self.preparation.start()
            stack.push_async_callback(self.preparation.pool.close)
        stack.push_async_callback(self.publishing.close)
        if self.inboxes is not None:
            self.inboxes.start()
            stack.push_async_callback(self.inboxes.close)
        if self.presence is not None:
            await self.presence.start()
            stack.push_async_callback(self.presence.close)
        stack.push_async_callback(self.tasks.close)
        if self.control is not None:
            await self.control.start()
            stack.push_async_callback(self.control.close)
        self.tasks.start(self.keys.run(), "keys")
        self.tasks.start(self.lag.run(), "loop lag")
        self.tasks.start(self._run_wheel(), "timers")
        await self.siblings.start()
        stack.callback(self.siblings.close)
        await self._serve_api(private)
        await self._serve_clients(public)
        self._serving = True
        self._beat()
        # Last: what is alive now lives as long as the server.
        self.garbage.install()
        stack.callback(self.garbage.remove)

    def _check_descriptors(self) -> None:
        wanted = self.config.limits.connections
        possible = descriptors.shares(descriptors.limit()).connected
        if wanted > possible:
            text = "limits.connections is %d, but open files allow for %d: raise `ulimit -n`"
            log.warning(text, wanted, possible)

    async def _serve_api(self, sock: socket.socket) -> None:
        application = http_api.build(
            config=self.config,
            broker=self.broker,
            publishing=self.publishing,
            presence=self.presence,
            fleet=self.fleet,
            shards=lambda: brokers.shards(self.broker),
            inboxes=self.inboxes.all if self.inboxes is not None else (),
            readiness=self.readiness,
            metrics=self.siblings.exposition,
            public_port=self.port,
        )
        runner = http_api.runner(application, self.config)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        server = runner.server
        assert server is not None
        door = Door(
            sock,
            lambda fd: self.tasks.start(
                _connect(server, socket.socket(fileno=fd)), "a backend's connection"
            ),
            count=lambda: len(server.connections),
            refused=lambda: None,
            share=self.seat.share(BACKENDS),
        )
        self._stack.callback(door.stop)
        self._doors.append(door)

    async def _serve_clients(self, sock: socket.socket) -> None:
        server = await sockets.serve(
            sock,
            lambda: Arrival(self.edge),
            BACKLOG,
            refused=self._note_refusal,
            share=self.seat.share(CLIENTS),
            most=descriptors.shares(descriptors.limit()).accepted,
        )
        self._stack.callback(self.edge.porter.close)
        self._doors.append(server)
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
        self.counters.refusals["descriptors"] += 1

    async def _run_wheel(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        housekeeping = _HOUSEKEEPING_TICKS
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.wheel.advance(int((loop.time() - start) / TICK_SECONDS))
            self.garbage.tick(_clock())
            if self._serving:
                self._beat()
            if self.wheel.now >= housekeeping:
                housekeeping = self.wheel.now + _HOUSEKEEPING_TICKS
                brokers.sweep(self.broker)
                self.heap.look(len(self.counters.windows))
                self.edge.command_rate.sweep(self.wheel.now)

    def _beat(self) -> None:
        self.seat.beat(time.monotonic(), self.not_ready())
        for door in self._doors:
            door.note()

    def leave(self) -> None:
        """Takes nobody new and gives the ports free; those who are here stay."""
        for door in self._doors:
            door.stop()
        for sock in self._listening:
            sock.close()

    async def drain(self) -> None:
        """Says goodbye to every client and waits until they are gone, or their time is over. What
        was accepted meanwhile is published, or its publisher told why not.

        Who comes meanwhile is taken by the other workers, or sent on when these drain too.
        """
        self._draining = True
        self._beat()
        gone = asyncio.Event()
        self.edge.when_empty = gone.set
        for peer in list(self.directory.peers()):
            peer.finish(codes.DRAINING)
        if self.counters.connected:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.keepalive.close_s + _DRAIN_SECONDS):
                    await gone.wait()
        await self.publishing.close(pipelines.ending_seconds(self.config))

    async def close(self) -> None:
        """Stops every part, in reverse. A second call does nothing."""
        await self._stack.aclose()


async def _connect(factory: Callable[[], asyncio.Protocol], sock: socket.socket) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(factory, sock)
    except OSError:
        sock.close()  # it is gone already


def _origins(config: Config, api_port: int) -> list[str]:
    """The configured origins, and the page on the private port."""
    host = f"[{config.api_host}]" if ":" in config.api_host else config.api_host
    hosts = {host, "localhost"} if host in ("127.0.0.1", "[::1]") else {host}
    return [*config.origins, *(f"http://{name}:{api_port}" for name in sorted(hosts))]


def ending_seconds(config: Config) -> float:
    """The longest that a worker may take from the signal to its end."""
    margin = 5  # for a machine that is busy with everybody's reconnects
    steps = pipelines.ending_seconds(config)
    return config.keepalive.close_s + _DRAIN_SECONDS + steps + http_api.SHUTDOWN_SECONDS + margin
