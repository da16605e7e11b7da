"""Whole workers that share shards: whichever is asked acts on the clients of all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from clarion_server import brokers
from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Namespace
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers
from support.server import SECRET, configuration, running, serving, token
from support.waiting import DEADLINE, until
from support.wire import Wire, connected

OPEN = Namespace(subscribe="users")


@asynccontextmanager
async def workers(count: int, servers: Sequence[RedisServer]) -> AsyncIterator[list[Worker]]:
    """Workers that know of each other."""
    config = configuration(
        redis=tuple(f"{server.url}?name=s{place}" for place, server in enumerate(servers)),
        prefix="test",
        auth=AuthOptions(secret=SECRET),
        namespaces={"default": OPEN},
    )
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(running(config)) for _ in range(count)]
        yield made


async def ask(port: int, path: str, body: object = None) -> tuple[int, Any]:
    """A request to a private API; its status and body."""
    url = f"http://127.0.0.1:{port}{path}"
    async with aiohttp.ClientSession() as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, url, json=body) as response:
            return response.status, await response.json()


@asynccontextmanager
async def everywhere(workers: Sequence[Worker], user: str) -> AsyncIterator[list[Wire]]:
    """A connection of a user to each worker."""
    header = f"Authorization: Bearer {token(user)}"
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(connected(worker.port, "/ws", header))
            for worker in workers
        ]


@pytest.mark.parametrize("shards", [1, 2])
async def test_a_user_is_disconnected_from_every_worker(shards: int) -> None:
    servers = await shared_servers(shards)
    async with (
        workers(3, servers) as every,
        everywhere(every, "42") as wires,
        everywhere(every[:1], "43") as (other,),
    ):
        body = {"user": "42", "code": 4500, "reason": "out"}
        assert await ask(every[1].api_port, "/v1/disconnect", body) == (200, {"count": 3})
        for wire in wires:
            assert (await wire.goodbye())[0] == 4500
        assert (await other.subscribe("news"))["op"] == "subscribed"


async def test_subscriptions_are_made_listed_and_ended_everywhere() -> None:
    servers = await shared_servers(2)
    async with workers(2, servers) as (one, two), everywhere([one, two], "42") as wires:
        body = {"user": "42", "topic": "news"}
        assert await ask(one.api_port, "/v1/subscribe", body) == (200, {"count": 2})
        for wire in wires:
            assert (await wire.said())["op"] == "subscribed"
        assert await ask(two.api_port, "/v1/topics") == (
            200,
            {"topics": [{"topic": "news", "subscribers": 2}], "complete": True},
        )
        assert await ask(two.api_port, "/v1/unsubscribe", body) == (200, {"count": 2})
        for wire in wires:
            assert (await wire.said())["op"] == "unsubscribed"
        assert (await ask(one.api_port, "/v1/topics"))[1] == {"topics": [], "complete": True}


async def test_info_tells_of_all_workers_and_shards() -> None:
    servers = await shared_servers(2)
    async with workers(2, servers) as (one, two), everywhere([one, two, two], "42"):
        await until(lambda: all(shard.probe_age() < 60 for shard in brokers.shards(one.broker)))
        _, info = await ask(one.api_port, "/v1/info")
    assert (info["connections"], info["complete"], info["broker"]) == (3, True, "redis")
    assert [worker["id"] for worker in info["workers"]] == [one.name, two.name]
    assert [worker["connections"] for worker in info["workers"]] == [1, 2]
    assert [worker["shards"] for worker in info["workers"]] == [["s0", "s1"]] * 2
    assert [instance["instance"] for instance in info["instances"]] == [one.instance, two.instance]
    for shard in info["shards"]:
        assert 0 <= shard.pop("probe_age_s") < 60
    assert info["shards"] == [
        {"name": "s0", "connected": True, "trouble": ""},
        {"name": "s1", "connected": True, "trouble": ""},
    ]


async def test_a_worker_that_ends_is_gone_at_once() -> None:
    servers = await shared_servers(1)
    async with workers(2, servers) as (one, two):
        await two.close()
        async with asyncio.timeout(1):
            assert await ask(one.api_port, "/v1/disconnect", {"user": "42"}) == (200, {"count": 0})
        _, info = await ask(one.api_port, "/v1/info")
        assert (len(info["workers"]), info["complete"]) == (1, True)


async def test_without_redis_nobody_is_told_that_it_was_done() -> None:
    async with RedisServer() as server, workers(2, [server]) as (one, _two):
        server.kill()
        status, body = await ask(one.api_port, "/v1/disconnect", {"user": "42"})
        assert (status, body["error"]["code"]) == (503, "unavailable")
        _, info = await ask(one.api_port, "/v1/info")
        assert (len(info["workers"]), info["complete"]) == (1, False)
        assert info["shards"][0]["trouble"]


async def test_a_worker_that_is_killed_is_named_until_another_has_taken_its_place() -> None:
    servers = await shared_servers(1)
    options = ("--workers", "2", "--redis", servers[0].url)
    async with serving(*options) as process:
        _, info = await ask(process.api_port, "/v1/info")
        assert info["complete"]
        (other,) = info["workers"][1:]
        os.kill(other["pid"], signal.SIGKILL)
        body = {"user": "42"}
        async with asyncio.timeout(DEADLINE):  # which is shorter than a lease
            while (answer := await ask(process.api_port, "/v1/disconnect", body))[0] != 200:
                error = answer[1]["error"]
                assert [absent["pid"] for absent in error["unanswered"]] == [other["pid"]]
        _, info = await ask(process.api_port, "/v1/info")
        assert info["complete"]
        assert sorted(worker["worker"] for worker in info["workers"]) == [0, 1]


async def test_what_the_workers_say_to_each_other_is_measured() -> None:
    servers = await shared_servers(1)
    async with workers(2, servers) as (one, two):
        await ask(one.api_port, "/v1/disconnect", {"user": "42"})
        texts = [(await worker.siblings.exposition("text/plain"))[0] for worker in (one, two)]
    asked = b'clarion_control_requests_total{op="disconnect",outcome="complete",worker="0"} 1.0'
    assert asked in texts[0]
    assert b'clarion_other_workers{worker="0"} 1.0' in texts[0]
    assert b'clarion_control_answers_total{worker="0"} 1.0' in texts[1]
    assert b'clarion_control_dropped_total{reason="malformed",worker="0"} 0.0' in texts[1]
