"""A server of `clarion.v1` that says what a test tells it to: one script for each connection.

It knows the wire contract and nothing of our server, so that a client tested against it is tested
against the contract.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Script: TypeAlias = "Callable[[Talk], Awaitable[None]]"


class Talk:
    """One connection, from the server's side."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    @property
    def headers(self) -> Headers:
        """Those of the handshake."""
        assert self._socket.request is not None
        return self._socket.request.headers

    async def says(self, op: str, **fields: object) -> None:
        await self._socket.send(json.dumps({"op": op, **fields}, separators=(",", ":")))

    async def says_raw(self, text: str) -> None:
        await self._socket.send(text)

    async def hears(self) -> dict[str, Any]:
        """The next command of the client."""
        heard: dict[str, Any] = json.loads(await self._socket.recv())
        return heard

    async def still_says(self, op: str, **fields: object) -> bool:
        """Like `says`; False when the client has gone."""
        try:
            await self.says(op, **fields)
        except ConnectionClosed:
            return False
        return True

    async def is_left(self) -> None:
        """Waits until the client ends the connection, properly."""
        try:
            heard = await self._socket.recv()
        except ConnectionClosedOK:
            return
        raise AssertionError(f"the client said {heard!r} where it should have left")

    async def is_dropped(self) -> None:
        """Waits until the client breaks the connection off, without a word."""
        await self._socket.wait_closed()
        assert self._socket.close_code == 1006

    async def closes(self, code: int, reason: str = "") -> None:
        await self._socket.close(code, reason)

    async def breaks(self) -> None:
        """The connection is lost: no close frame."""
        self._socket.transport.abort()
        await self._socket.wait_closed()


class Refusal:
    """A script for a handshake that is refused with an HTTP status."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = dict(headers or {})


@asynccontextmanager
async def wire_server(*scripts: Script | Refusal) -> AsyncIterator[str]:
    """Serves one connection for each script, in order; yields the URL. More are refused: 404.

    Raises what a script raised, once the test is done.
    """
    left = list(scripts)
    failures: list[Exception] = []

    def check(socket: ServerConnection, request: Request) -> Response | None:
        script = left[0] if left else Refusal(404)
        if not isinstance(script, Refusal):
            return None
        del left[:1]
        answer = socket.respond(script.status, "refused by the test\n")
        answer.headers.update(script.headers)
        return answer

    async def talk(socket: ServerConnection) -> None:
        script = left.pop(0)
        assert not isinstance(script, Refusal)
        try:
            await script(Talk(socket))
        except (AssertionError, ConnectionClosed) as failure:
            # The library would log it and no more. The client must not come back for the rest.
            failures.append(failure)
            left.clear()
            await socket.close(4500, "the test has failed")

    async with serve(
        talk,
        "127.0.0.1",
        0,
        process_request=check,
        subprotocols=[Subprotocol("clarion.v1")],
        compression=None,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
    if failures:
        raise failures[0]
    assert not left, "the client did not come for every script"


class ApiServer:
    """A private API that keeps what it is asked, and answers as it is told."""

    def __init__(self, answers: Sequence[tuple[int, object]]) -> None:
        self.url = ""
        self.requests: list[tuple[str, Mapping[str, str], Any]] = []
        self._answers = list(answers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers, await request.json()))
        status, answer = self._answers.pop(0)
        if isinstance(answer, str):
            return web.Response(status=status, text=answer)
        return web.json_response(answer, status=status)


@asynccontextmanager
async def api_server(*answers: tuple[int, object]) -> AsyncIterator[ApiServer]:
    """Answers each request with the next status and object (or text)."""
    api = ApiServer(answers)
    app = web.Application()
    app.router.add_post("/{path:.*}", api.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        api.url = f"http://{host}:{port}"
        yield api
    finally:
        await runner.cleanup()
