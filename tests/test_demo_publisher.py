"""The publisher loses nothing, doubles nothing, and gives up in words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clarion_server.demo.publisher import Message, Publisher, PublishError

Handler = Callable[[web.Request, dict[str, Any]], Awaitable[web.Response]]

ONE = Message(("flights", "airport:JFK"), {"n": 1}, "one")
TWO = Message(("flights",), {"n": 2}, "two")


class Api:
    """Answers each request with the next of `script`, then accepts everything."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.script: list[Handler] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.seen.append((request.path, body))
        self.keys.append(request.headers.get("Authorization"))
        return await (self.script.pop(0) if self.script else accept)(request, body)


async def accept(request: web.Request, body: dict[str, Any]) -> web.Response:
    count = len(body.get("messages") or body["topics"])
    return web.json_response({"results": [{"topic": "t", "epoch": "e", "offset": 1}] * count})


def refuse(status: int, code: str) -> Handler:
    async def handler(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": {"code": code, "message": "no"}}, status=status)

    return handler


async def vanish(request: web.Request, body: dict[str, Any]) -> web.Response:
    """Accepts, but the answer is lost."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    application = web.Application()
    application.router.add_post("/{path:.*}", api.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()


async def test_a_lone_message_is_broadcast_and_several_are_a_batch(api: Api) -> None:
    async with aiohttp.ClientSession(api.url) as session:
        publisher = Publisher(session)
        await publisher.publish([])
        await publisher.publish([ONE])
        await publisher.publish([ONE, TWO])
    assert api.seen == [
        ("/v1/broadcast", {"topics": ["flights", "airport:JFK"], "data": {"n": 1}, "id": "one"}),
        (
            "/v1/publish/batch",
            {
                "messages": [
                    {"topic": "flights", "data": {"n": 1}, "id": "one"},
                    {"topic": "airport:JFK", "data": {"n": 1}, "id": "one"},
                    {"topic": "flights", "data": {"n": 2}, "id": "two"},
                ]
            },
        ),
    ]
    assert publisher.published == 5


@pytest.mark.parametrize(
    "trouble",
    [vanish, refuse(503, "unavailable"), refuse(429, "too_many"), refuse(500, "internal")],
)
async def test_a_request_without_an_answer_is_sent_again_as_it_was(
    api: Api, trouble: Handler
) -> None:
    api.script = [trouble]
    async with aiohttp.ClientSession(api.url) as session:
        publisher = Publisher(session)
        await publisher.publish([ONE])
    first, second = api.seen
    assert first == second
    assert (publisher.published, publisher.retries) == (2, 1)


async def test_a_server_that_does_not_answer_in_time_is_asked_again(api: Api) -> None:
    async def stall(request: web.Request, body: dict[str, Any]) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    api.script = [stall]
    async with aiohttp.ClientSession(api.url) as session:
        publisher = Publisher(session, request_s=0.1)
        await publisher.publish([ONE])
    assert (publisher.published, publisher.retries) == (2, 1)


async def test_messages_that_the_broker_could_not_take_are_sent_again(api: Api) -> None:
    async def half(request: web.Request, body: dict[str, Any]) -> web.Response:
        trouble = {"topic": "flights", "error": {"code": "unavailable", "message": "shard"}}
        return web.json_response({"results": [{"topic": "airport:JFK"}, trouble]})

    api.script = [half]
    async with aiohttp.ClientSession(api.url) as session:
        publisher = Publisher(session)
        await publisher.publish([ONE])
    assert (publisher.published, publisher.errors, publisher.retries) == (2, 0, 1)


async def test_a_message_that_is_refused_is_counted_and_not_sent_again(api: Api) -> None:
    async def half(request: web.Request, body: dict[str, Any]) -> web.Response:
        trouble = {"error": {"code": "bad_topic", "message": "not a topic"}}
        return web.json_response({"results": [{"topic": "flights"}, trouble]})

    api.script = [half]
    async with aiohttp.ClientSession(api.url) as session:
        publisher = Publisher(session)
        await publisher.publish([ONE])
    assert (publisher.published, publisher.errors, publisher.retries) == (1, 1, 0)
    assert publisher.last_error == "bad_topic: not a topic"


async def test_a_refused_request_ends_it_at_once(api: Api) -> None:
    api.script = [refuse(401, "unauthorized")]
    async with aiohttp.ClientSession(api.url) as session:
        with pytest.raises(PublishError, match="401 unauthorized: no") as refusal:
            await Publisher(session).publish([ONE])
    assert refusal.value.status == 401
    assert len(api.seen) == 1


async def test_a_server_that_was_never_there_ends_it_at_once(api: Api) -> None:
    async with aiohttp.ClientSession("http://127.0.0.1:9") as session:
        publisher = Publisher(session)
        with pytest.raises(PublishError) as refusal:
            await publisher.publish([ONE])
    assert (refusal.value.status, publisher.retries) == (0, 0)


async def test_the_key_goes_to_the_api_and_nowhere_else(api: Api) -> None:
    async def elsewhere(request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=307, headers={"Location": "/other"})

    api.script = [accept, elsewhere]
    async with aiohttp.ClientSession(api.url) as session:
        publisher = Publisher(session, "the-key")
        await publisher.publish([ONE])
        with pytest.raises(PublishError, match="307"):
            await publisher.publish([ONE])
    assert api.keys == ["Bearer the-key"] * 2
