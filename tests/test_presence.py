"""Presence against running servers: clients on both transports, one process and several."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clarion_server.app import Worker
from clarion_server.options import Config, Namespace, PresenceOptions
from support.redis_servers import eventually
from support.redis_shared import shared_servers
from support.server import configuration, running, serving
from support.wire import Wire, command, connected, streaming

ROOM = Namespace(subscribe="everyone", presence="events", history_size=10)
COUNTED = Namespace(subscribe="everyone", presence="count")

TOML = """
development = true
redis = ["{url}"]
[presence]
lease_s = 1
[namespaces.room]
subscribe = "everyone"
presence = "events"
history_size = 10
[namespaces.counted]
subscribe = "everyone"
presence = "count"
"""


def config(*redis: str) -> Config:
    return configuration(
        namespaces={"room": ROOM, "counted": COUNTED},
        development=True,
        redis=redis,
        presence=PresenceOptions(lease_s=1),
    )


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running(config()) as worker:
        yield worker


async def name_of(client: Wire) -> str:
    """The client's id, from its own join, which must come next."""
    join = await client.said("join")
    name: str = join["member"]["client"]
    assert join == {"op": "join", "topic": "room:1", "member": {"client": name}}
    return name


async def members(client: Wire, topic: str = "room:1") -> set[str]:
    await client.send(command("presence", topic=topic))
    page = await client.said("presence")
    names = {member["client"] for member in page["members"]}
    assert page["count"] == len(names) == len(page["members"])
    return names


async def ask(port: int, path: str) -> Any:
    async with aiohttp.request("GET", f"http://127.0.0.1:{port}{path}") as answer:
        return await answer.json()


async def test_streams_and_sockets_hear_of_each_other(worker: Worker) -> None:
    async with connected(worker.port) as one:
        await one.subscribe("room:1")
        own = await name_of(one)
        async with streaming(worker.port, ["room:1", "room:2"]) as stream:
            joined = await one.said("join")
            assert {(await stream.event())["event"] for _ in range(2)} == {"subscribed"}
            heard = await stream.event()
            assert (heard["event"], json.loads(heard["data"])) == ("join", joined)
            assert "id" not in heard
            assert await members(one) == {own, joined["member"]["client"]}
        assert await one.said("leave") == joined | {"op": "leave"}
        assert await members(one) == {own}


async def test_whoever_is_cut_off_leaves_at_once(worker: Worker) -> None:
    async with connected(worker.port) as one, connected(worker.port) as other:
        await one.subscribe("room:1")
        await name_of(one)
        await other.subscribe("room:1")
        name = await name_of(one)
        other.reset()
        assert (await one.said("leave"))["member"] == {"client": name}


async def test_who_subscribes_and_unsubscribes_in_one_breath_hears_its_answers_first(
    worker: Worker,
) -> None:
    async with connected(worker.port) as client:
        await client.send(
            command("subscribe", topic="room:1"),
            command("unsubscribe", topic="room:1"),
            command("subscribe", topic="room:1"),
        )
        heard = [(await client.said())["op"] for _ in range(4)]
        assert heard == ["subscribed", "unsubscribed", "subscribed", "join"]


async def test_backends_ask_and_metrics_count(worker: Worker) -> None:
    async with connected(worker.port) as one, connected(worker.port) as other:
        for client in (one, other):
            await client.subscribe("counted:1")
        await one.subscribe("room:1")
        name = await name_of(one)
        path = "/v1/topics/{}/presence"
        counted = await ask(worker.api_port, path.format("counted:1"))
        assert counted == {"topic": "counted:1", "count": 2, "members": []}
        room = await ask(worker.api_port, path.format("room:1"))
        assert room == {"topic": "room:1", "count": 1, "members": [{"client": name}]}
        url = f"http://127.0.0.1:{worker.api_port}/metrics"
        async with aiohttp.request("GET", url) as answer:
            lines = (await answer.text()).splitlines()
        assert 'clarion_presence_members{worker="0"} 3.0' in lines
        assert 'clarion_presence_announcements_total{worker="0"} 1.0' in lines


async def test_members_of_all_servers_are_one_room() -> None:
    (redis,) = await shared_servers(1)
    async with (
        running(config(redis.url)) as here,
        running(config(redis.url)) as there,
        connected(here.port) as one,
        connected(there.port) as other,
    ):
        await one.subscribe("room:1")
        own = await name_of(one)
        await other.subscribe("room:1")
        others = await name_of(other)
        assert await name_of(one) == others
        assert await members(one) == await members(other) == {own, others}
        await other.send(command("unsubscribe", topic="room:1"))
        assert (await one.said("leave"))["member"] == {"client": others}
        await other.said("unsubscribed")
        assert await members(other) == {own}


async def test_a_server_that_is_told_to_end_takes_its_members_with_it() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis.url)) as here, connected(here.port) as one:
        await one.subscribe("room:1")
        own = await name_of(one)
        async with running(config(redis.url)) as there, connected(there.port) as other:
            await other.subscribe("room:1")
            others = await name_of(one)
            await there.drain()
        assert (await one.said("leave"))["member"] == {"client": others}
        assert await members(one) == {own}


async def test_a_server_that_is_killed_leaves_no_ghosts(tmp_path: Path) -> None:
    (redis,) = await shared_servers(1)
    file = tmp_path / "clarion.toml"
    file.write_text(TOML.format(url=redis.url))
    async with running(config(redis.url)) as here, connected(here.port) as one:
        await one.subscribe("room:1")
        own = await name_of(one)
        await one.subscribe("counted:1")

        async def only_we_are_counted() -> bool:
            counted = await ask(here.api_port, "/v1/topics/counted:1/presence")
            return bool(counted["count"] == 1)

        async with (
            serving("--config", str(file)) as there,
            connected(there.port) as other,
            connected(there.port) as third,
        ):
            for client in (other, third):
                await client.subscribe("counted:1")
                await client.subscribe("room:1")
            gone = {await name_of(one), await name_of(one)}
            assert await members(one) == {own, *gone}
            assert not await only_we_are_counted()
            there.process.kill()
            await there.process.wait()
            assert {(await one.said("leave"))["member"]["client"] for _ in range(2)} == gone
            assert await members(one) == {own}
            await eventually(only_we_are_counted)
