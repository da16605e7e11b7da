"""What backends leave or publish in Redis, as whole servers pass it on: to clients, in figures."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp

from clarion_fanout.placement import Placement
from clarion_fanout.redis_slots import slot_of
from clarion_server.app import Worker
from clarion_server.options import Config, InboxOptions
from support.inboxes import INBOX, OWNER, emptied, entry, leave
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_cluster, shared_servers
from support.server import OPEN, configuration, running, serving
from support.wire import connected, streaming

TOML = """
development = true
redis = ["{url}"]
[inbox]
lease_s = 1
batch = 50
[namespaces.default]
subscribe = "everyone"
history_size = 100000
"""


def config(*redis: RedisServer, **rest: Any) -> Config:
    urls = tuple(server.url for server in redis)
    return configuration(redis=urls, development=True, namespaces={"kept": OPEN}, **rest)


async def ask(worker: Worker, path: str) -> Any:
    async with aiohttp.request("GET", f"http://127.0.0.1:{worker.api_port}{path}") as answer:
        return await answer.json()


async def metrics(worker: Worker) -> Mapping[str, float]:
    """The samples about what was published and how, without the worker's number."""
    url = f"http://127.0.0.1:{worker.api_port}/metrics"
    async with aiohttp.request("GET", url) as answer:
        lines = (await answer.text()).splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if line.startswith(("clarion_inbox_", "clarion_publications_")):
            name, _, value = line.replace(',worker="0"', "").rpartition(" ")
            found[name] = float(value)
    return found


async def test_clients_on_both_transports_get_what_a_backend_left() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis)) as worker, connected(worker.port) as client:
        await client.subscribe("kept:1")
        async with streaming(worker.port, ["kept:1"]) as stream:
            assert (await stream.event())["event"] == "subscribed"
            await leave(redis, entry("kept:1", {"n": 1}))
            heard = await client.said("message")
            assert (heard["data"], heard["offset"]) == ({"n": 1}, 1)
            assert json.loads((await stream.event())["data"]) == heard


async def test_any_worker_tells_what_is_in_the_inboxes_and_who_works_on_them() -> None:
    servers = await shared_servers(2)
    async with running(config(*servers)) as worker:
        names = [shard.name for shard in worker.broker.shards.all()]  # type: ignore[union-attr]

        async def owned() -> bool:
            inboxes = (await ask(worker, "/v1/info"))["inboxes"]
            return bool(
                inboxes == [{"shard": name, "owner": worker.name, "entries": 0} for name in names]
            )

        await eventually(owned)


async def test_metrics_count_what_became_of_entries() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis)) as worker:
        await leave(redis, entry("kept:1", 1, "k"), entry("kept:1", 1, "k"), ["topic", "a"])
        await emptied(redis)
        shard = f'shard="127.0.0.1:{redis.port}/0"'

        async def counted() -> bool:
            return await metrics(worker) == {
                f"clarion_inbox_owner{{{shard}}}": 1,
                f"clarion_inbox_entries{{{shard}}}": 0,
                f"clarion_inbox_oldest_seconds{{{shard}}}": 0,
                f"clarion_inbox_waiting{{{shard}}}": 0,
                f"clarion_inbox_takeovers_total{{{shard}}}": 1,
                f'clarion_inbox_done_total{{outcome="published",{shard}}}': 1,
                f'clarion_inbox_done_total{{outcome="duplicate",{shard}}}': 1,
                f'clarion_inbox_done_total{{outcome="dead",{shard}}}': 1,
                'clarion_publications_total{source="api"}': 0,
                'clarion_publications_total{source="client"}': 0,
                'clarion_publications_total{source="inbox"}': 1,
            }

        await eventually(counted)


async def test_a_server_that_is_not_to_takes_no_part() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis, inbox=InboxOptions(enabled=False))) as worker:
        assert worker.inboxes is None
        assert not any("shard" in name for name in await metrics(worker))
        assert (await ask(worker, "/v1/info"))["inboxes"] == []
    async with running() as embedded:
        assert embedded.inboxes is None


async def test_a_server_that_ends_leaves_its_inboxes_to_others() -> None:
    (redis,) = await shared_servers(1)
    slow = InboxOptions(lease_s=300)
    async with running(config(redis, inbox=slow)) as worker:
        await eventually(lambda: held(redis))
        assert await redis.command("GET", OWNER) == worker.name
    assert not await held(redis)


async def held(redis: RedisServer) -> bool:
    return bool(await redis.command("EXISTS", OWNER))


async def test_entries_are_published_once_and_in_order_though_servers_are_killed(
    tmp_path: Path,
) -> None:
    (redis,) = await shared_servers(1)
    file = tmp_path / "clarion.toml"
    file.write_text(TOML.format(url=redis.url))
    topics, rounds = 5, 240
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving("--config", str(file)))
        second = await stack.enter_async_context(serving("--config", str(file)))
        pids = {first.process.pid: first, second.process.pid: second}
        done = asyncio.Event()

        async def backend() -> None:
            for number in range(rounds):
                await leave(redis, *(entry(f"a:{topic}", number) for topic in range(topics)))
            done.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(backend())
            await eventually(lambda: held(redis))
            await asyncio.sleep(0.3)  # some way into it
            url = f"http://127.0.0.1:{first.api_port}/v1/info"
            async with aiohttp.request("GET", url) as answer:
                info = await answer.json()
            owner = await redis.command("GET", OWNER)
            [pid] = [each["pid"] for each in info["workers"] if each["id"] == owner]
            pids[pid].process.kill()
            left = next(server for number, server in pids.items() if number != pid)
        assert done.is_set()
        await emptied(redis)
        for topic in range(topics):
            url = f"http://127.0.0.1:{left.api_port}/v1/topics/a:{topic}/history?limit=1000"
            async with aiohttp.request("GET", url) as answer:
                page = await answer.json()
            assert [each["data"] for each in page["messages"]] == list(range(rounds))
        assert await redis.command("GET", OWNER) != owner
        assert await redis.command("XLEN", INBOX) == 0


# What backends publish themselves


def test_the_rule_that_backends_are_told_finds_a_topics_shard() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(import hashlib.*?)```", text, re.DOTALL)
    told: dict[str, Any] = {}
    exec(code, told)
    names = ["127.0.0.1:6379/0", "127.0.0.1:6380/0", "eu-3"]
    placement = Placement(names)
    for number in range(1000):
        topic = f"orders:{number}"
        assert told["shard_of"](topic, names) == names[placement.place(topic)]


async def test_what_a_backend_publishes_itself_reaches_clients_without_an_offset() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis)) as worker, connected(worker.port) as client:
        await client.subscribe("kept:1")
        await client.subscribe("bare:1")
        async with streaming(worker.port, ["kept:1", "bare:1"]) as stream:
            assert {(await stream.event())["event"] for _ in range(2)} == {"subscribed"}
            for topic in ("kept:1", "bare:1"):
                await redis.command("PUBLISH", f"clarion:t:{topic}", '{"n":\n1}')
                heard = await client.said("message")
                assert heard == {
                    "op": "message",
                    "topic": topic,
                    "ts": heard["ts"],
                    "data": {"n": 1},
                }
                event = await stream.event()
                assert json.loads(event["data"]) == heard
                assert "id" not in event


async def test_in_a_cluster_it_is_sharded() -> None:
    cluster = await shared_cluster()
    options = configuration(redis=(cluster.url,), development=True, namespaces={"kept": OPEN})
    async with running(options) as worker, connected(worker.port) as client:
        for number in range(5):  # at several nodes
            await client.subscribe(f"kept:{number}")
            channel = f"clarion:t:kept:{number}"
            node = await cluster.owner(slot_of(channel.encode()))
            await node.command("SPUBLISH", channel, number)
            heard = await client.said("message")
            assert (heard["data"], "offset" in heard) == (number, False)


async def test_it_does_not_touch_the_sequence_of_a_topic() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis)) as worker, connected(worker.port) as client:
        await client.subscribe("kept:1")
        for number in range(1, 4):
            await redis.command("PUBLISH", "clarion:t:kept:1", "0")
            await leave(redis, entry("kept:1", number))
            assert "offset" not in await client.said("message")
            assert (await client.said("message"))["offset"] == number
        page = await ask(worker, "/v1/topics/kept:1/history")
        assert [each["data"] for each in page["messages"]] == [1, 2, 3]


async def test_what_is_not_a_message_is_refused_and_counted() -> None:
    (redis,) = await shared_servers(1)
    async with running(config(redis)) as worker, connected(worker.port) as client:
        await client.subscribe("kept:1")
        await client.subscribe("bare:1")
        bad: list[str | bytes] = [
            "",
            "{",
            "nul",
            "[" * 600 + "]" * 600,
            '"' + "x" * 65_536 + '"',
            b'"\xff"',
            "#",
        ]
        for topic in ("kept:1", "bare:1"):
            for payload in bad:
                await redis.command("PUBLISH", f"clarion:t:{topic}", payload)
            await redis.command("PUBLISH", f"clarion:t:{topic}", "1")
            assert (await client.said("message"))["data"] == 1
        url = f"http://127.0.0.1:{worker.api_port}/metrics"
        async with aiohttp.request("GET", url) as answer:
            text = await answer.text()
        counts = [line for line in text.splitlines() if "quick_publications_total{" in line]
        assert counts == [
            'clarion_quick_publications_total{outcome="accepted",worker="0"} 2.0',
            f'clarion_quick_publications_total{{outcome="refused",worker="0"}} {2 * len(bad)}.0',
        ]
