"""A network that fails as it is told: a TCP proxy between clients under test and a server.

In a test's own event loop:

    async with bad_network(server_port) as network:
        connect("127.0.0.1", network.port)
        network.cut()

or as a process of its own, for programs in any language, driven over HTTP:

    $ PYTHONPATH=tests python -m support.bad_network 8000
    {"port": 40001, "control": "http://127.0.0.1:40002"}
    $ curl -X POST 'http://127.0.0.1:40002/refuse?times=3'

Each method is a `POST` of its name, its arguments are the query's, and the answer to each is the
state, as `GET /state` gives it. The process ends when its standard input does.

What happens to attempts to connect is planned ahead: `refuse`, `answer`, `delay`, `swallow` and
`cut_after` add to the plan, each next attempt takes its fate from it, and without a plan it is
carried. What happens to the connections that are there happens at once: `cut`, `stall`, `flow`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from aiohttp import web

CHUNK = 65_536


class Fate(NamedTuple):
    """What becomes of one attempt to connect.

    kind: carried, refused (reset), answered (with an HTTP status), or swallowed (accepted, and
    never a byte). delay_s: before that. cut_after: reset after so many bytes from the server.
    """

    kind: str = "carried"
    delay_s: float = 0
    cut_after: int | None = None
    status: int = 503
    retry_after: str = ""


class BadNetwork:
    """The proxy. port: where clients connect. target: the server's port, which may change.

    attempts: when each attempt to connect came, in seconds since the proxy's start.
    fates: what became of each. open: connections that are carried at the moment.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.target = target
        self.attempts: list[float] = []
        self.fates: list[str] = []
        self._began = time.monotonic()
        self._plan: deque[Fate] = deque()
        self._down = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[_Connection] = set()

    @property
    def open(self) -> int:
        return len(self._connections)

    @property
    def now(self) -> float:
        """Seconds since the proxy's start."""
        return time.monotonic() - self._began

    # What happens at once

    def cut(self) -> None:
        """Resets every connection, in the middle of whatever it carries."""
        for connection in tuple(self._connections):
            connection.reset()

    def stall(self) -> None:
        """Nothing is carried any more, in either direction, and no end says so."""
        self._flowing.clear()

    def flow(self) -> None:
        """Ends `stall`: what was held back is carried now."""
        self._flowing.set()

    def down(self) -> None:
        """Cuts all, and refuses every attempt until `up`. The plan waits for then."""
        self._down = True
        self.cut()

    def up(self) -> None:
        self._down = False

    def point(self, port: int) -> None:
        """Attempts from now on go to a server on another port."""
        self.target = port

    # What happens to the next attempts

    def refuse(self, times: int = 1) -> None:
        """Resets each as soon as it is accepted."""
        self._plan.extend([Fate("refused")] * times)

    def answer(self, status: int = 503, retry_after: str = "", times: int = 1) -> None:
        """Answers each with an HTTP status, as a balancer does that has no server."""
        fate = Fate("answered", status=status, retry_after=retry_after)
        self._plan.extend([fate] * times)

    def delay(self, seconds: float, times: int = 1) -> None:
        """Carries each, but only after a while: a later attempt may overtake it."""
        self._plan.extend([Fate(delay_s=seconds)] * times)

    def swallow(self, times: int = 1) -> None:
        """Accepts each and never sends a byte."""
        self._plan.extend([Fate("swallowed")] * times)

    def cut_after(self, bytes: int, times: int = 1) -> None:
        """Carries each, and resets it when the server has sent so many bytes through it."""
        self._plan.extend([Fate(cut_after=bytes)] * times)

    # What it has seen

    def state(self) -> dict[str, object]:
        return {
            "port": self.port,
            "target": self.target,
            "open": self.open,
            "attempts": [round(attempt, 3) for attempt in self.attempts],
            "fates": self.fates,
            "planned": len(self._plan),
            "now": round(self.now, 3),
        }

    # Within

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection's whole life."""
        fate = Fate("refused")
        if not self._down:
            fate = self._plan.popleft() if self._plan else Fate()
        self.attempts.append(self.now)
        self.fates.append(fate.kind)
        connection = _Connection(reader, writer, self._flowing)
        self._connections.add(connection)
        try:
            await connection.live(fate, lambda: self.target)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of the ends has gone; so does the other
        finally:
            self._connections.discard(connection)
            connection.reset()


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        self._client = reader, writer
        self._flowing = flowing
        self._writers = [writer]
        self._gone = asyncio.Event()
        self._left: int | None = None  # bytes from the server until it is cut

    def reset(self) -> None:
        """Ends both sides with a reset; what is in their buffers is lost."""
        self._gone.set()
        for writer in self._writers:
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                with suppress(OSError):  # it may be half closed already
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def live(self, fate: Fate, target: Callable[[], int]) -> None:
        if fate.kind == "refused":
            return
        await self._unless_gone(fate.delay_s)
        if fate.kind == "swallowed":
            await self._client[0].read()
        elif fate.kind == "answered":
            await self._answer(fate)
        elif not self._gone.is_set():
            self._left = fate.cut_after
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", target())
            self._writers.append(server_writer)
            if self._gone.is_set():  # it was cut while the server was being connected to
                self.reset()
                return
            client_reader, client_writer = self._client
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(client_reader, server_writer, counted=False))
                pumps.create_task(self._pump(server_reader, client_writer, counted=True))

    async def _unless_gone(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()

    async def _answer(self, fate: Fate) -> None:
        reader, writer = self._client
        await reader.readuntil(b"\r\n\r\n")
        retry = f"Retry-After: {fate.retry_after}\r\n" if fate.retry_after else ""
        head = f"HTTP/1.1 {fate.status} Refused by the network\r\n{retry}"
        writer.write(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool
    ) -> None:
        """Carries one direction, to its end."""
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                while not self._flowing.is_set() and not self._gone.is_set():
                    async with asyncio.TaskGroup() as group:
                        waits = [
                            group.create_task(self._flowing.wait()),
                            group.create_task(self._gone.wait()),
                        ]
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                        for wait in waits:
                            wait.cancel()
                if self._gone.is_set() or writer.transport.is_closing():
                    return
                if counted and self._left is not None:
                    chunk, self._left = chunk[: self._left], self._left - len(chunk)
                writer.write(chunk)
                await writer.drain()
                if counted and self._left is not None and self._left <= 0:
                    # What was written must leave before the reset throws away what has not.
                    while writer.transport.get_write_buffer_size():  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
                    self.reset()
                    return
            if not self._gone.is_set() and not writer.transport.is_closing():
                writer.write_eof()


@asynccontextmanager
async def bad_network(target: int) -> AsyncIterator[BadNetwork]:
    """A proxy to a server on this host's port `target`; in the end everything is cut."""
    network = BadNetwork(target)
    server = await asyncio.start_server(network.accept, "127.0.0.1", 0)
    network.port = server.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        server.close()
        network.cut()
        while network.open:  # noqa: ASYNC110 - each connection ends in a task of its own
            await asyncio.sleep(0.001)
        await server.wait_closed()


# As a process


async def _control(network: BadNetwork, request: web.Request) -> web.Response:
    name, query = request.path.strip("/"), request.query
    try:
        names = ("times", "port", "bytes", "status")
        number = {key: int(query[key]) for key in names if key in query}
        seconds = float(query.get("seconds", 0))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name}: {error}\n") from None
    verbs: dict[str, Callable[[], None]] = {
        "cut": network.cut,
        "stall": network.stall,
        "flow": network.flow,
        "down": network.down,
        "up": network.up,
        "point": lambda: network.point(**number),
        "refuse": lambda: network.refuse(**number),
        "answer": lambda: network.answer(retry_after=query.get("retry_after", ""), **number),
        "delay": lambda: network.delay(seconds, **number),
        "swallow": lambda: network.swallow(**number),
        "cut_after": lambda: network.cut_after(**number),
    }
    if request.method == "POST" and name in verbs:
        try:
            verbs[name]()
        except TypeError as error:  # a number that is missing or not its own
            raise web.HTTPBadRequest(text=f"{name}: {error}\n") from None
    elif (request.method, name) != ("GET", "state"):
        raise web.HTTPNotFound(text=f"POST one of {', '.join(verbs)}; or GET state\n")
    return web.json_response(network.state())


@asynccontextmanager
async def control(network: BadNetwork) -> AsyncIterator[str]:
    """Serves the proxy's methods over HTTP; yields the URL."""

    async def handle(request: web.Request) -> web.Response:
        return await _control(network, request)

    app = web.Application()
    app.router.add_route("*", "/{verb}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def _main(target: int) -> None:
    async with bad_network(target) as network, control(network) as url:
        print(json.dumps({"port": network.port, "control": url}), flush=True)
        stdin = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin
        )
        await stdin.read()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("target", type=int, help="the server's port, on 127.0.0.1")
    asyncio.run(_main(parser.parse_args().target))
