"""Publishers that go on while nothing is answered: what they may have in flight, who is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clarion_fanout.broker import HistoryOptions
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import shards_of
from clarion_server.codes import Code
from clarion_server.options import Config, Limits
from clarion_server.quota import RETRY_MS
from clarion_server.quota_metrics import quota_metrics
from support.edges import SlowBroker, World, but, turns
from support.private_api import KEY, NAMESPACES, Answer, Api, serving
from support.redis_servers import RedisServer
from support.turning import TurningBroker
from support.waiting import until

OTHER_KEY = "another key that is long enough"
LIMITS = Limits(publish_requests=4, publish_messages=20, publish_bytes=2000, publish_share=0.5)


@asynccontextmanager
async def stuck(
    limits: Limits = LIMITS,
) -> AsyncIterator[tuple[Api, SlowBroker, asyncio.TaskGroup]]:
    """A server whose broker answers when the block ends; requests may be made meanwhile."""
    broker = SlowBroker(TurningBroker(history=lambda _: None, now=lambda: 0))
    broker.hold_back()
    config = Config(api_keys=(KEY, OTHER_KEY), namespaces=NAMESPACES, limits=limits)
    async with serving(config, broker) as api, asyncio.TaskGroup() as group:
        yield api, broker, group
        broker.asked.set()


async def in_flight(api: Api, requests: int) -> None:
    await until(lambda: api.publishing.quotas.api.load.requests == requests)


def publish(
    group: asyncio.TaskGroup, api: Api, key: str = KEY, data: str = "x"
) -> asyncio.Task[Answer]:
    return group.create_task(api.post("/v1/publish", {"topic": "a", "data": data}, key=key))


async def test_a_key_that_has_its_share_in_flight_is_told_so_and_others_go_on() -> None:
    async with stuck() as (api, broker, group):
        waiting = [publish(group, api) for _ in range(2)]
        await in_flight(api, 2)
        refused = await api.post("/v1/publish", {"topic": "a", "data": 1})
        assert refused.error == (429, "too_many")
        assert refused.json["error"]["retry_ms"] == RETRY_MS
        assert refused.headers["Retry-After"] == "1"
        waiting.append(publish(group, api, OTHER_KEY))
        await in_flight(api, 3)
        broker.asked.set()
        assert [(await each).status for each in waiting] == [200] * 3
        await in_flight(api, 0)
        assert (await api.post("/v1/publish", {"topic": "a", "data": 1})).status == 200


async def test_when_the_worker_has_enough_everybody_is_told() -> None:
    async with stuck(Limits(publish_requests=2, publish_share=1)) as (api, _, group):
        for _ in range(2):
            publish(group, api, OTHER_KEY)
        await in_flight(api, 2)
        refused = await api.post("/v1/publish", {"topic": "a", "data": 1})
        assert refused.error == (503, "unavailable")
        assert refused.json["error"]["retry_ms"] == RETRY_MS
        assert refused.headers["Retry-After"] == "1"


async def test_messages_of_a_batch_and_topics_of_a_broadcast_count() -> None:
    async with stuck() as (api, _, group):
        publish(group, api)
        await in_flight(api, 1)
        messages = [{"topic": "a", "data": number} for number in range(10)]
        refused = await api.post("/v1/publish/batch", {"messages": messages})
        assert refused.error == (429, "too_many")
        refused = await api.post("/v1/broadcast", {"topics": ["a"] * 10, "data": 1})
        assert refused.error == (429, "too_many")
        await in_flight(api, 1)


async def test_the_body_of_what_is_refused_is_not_waited_for() -> None:
    async with stuck() as (api, _, group):
        publish(group, api)
        await in_flight(api, 1)
        lines = ["POST /v1/publish HTTP/1.1", "Host: a", f"Authorization: Bearer {KEY}"]
        for length in ("Content-Length: 1000", "Transfer-Encoding: chunked"):
            answer = await api.raw("\r\n".join([*lines, length, "", ""]).encode())
            assert answer.startswith(b"HTTP/1.1 429 ")
        await in_flight(api, 1)


async def test_what_a_publisher_left_behind_counts_until_it_is_done() -> None:
    async with stuck() as (api, broker, group):
        requests = [publish(group, api) for _ in range(2)]
        await in_flight(api, 2)
        for request in requests:
            request.cancel()
        refused = await api.post("/v1/publish", {"topic": "a", "data": 1})
        assert refused.error == (429, "too_many")
        broker.asked.set()
        await in_flight(api, 0)


async def test_refusals_are_counted_by_the_keys_place_and_never_its_text() -> None:
    async with stuck() as (api, _, group):
        for _ in range(2):
            publish(group, api, OTHER_KEY)
        await in_flight(api, 2)
        await api.post("/v1/publish", {"topic": "a", "data": 1}, key=OTHER_KEY)
        samples = [one for family in quota_metrics(api.publishing.quotas) for one in family.samples]
        found = {(one.name, tuple(one.labels.values())): one.value for one in samples}
        assert found["clarion_publish_refused_total", ("api", "2", "share", "requests")] == 1
        assert found["clarion_publish_in_flight_requests", ("api",)] == 2
        assert found["clarion_publish_in_flight_messages", ("api",)] == 2
        assert found["clarion_publish_in_flight_bytes", ("client",)] == 0
        assert OTHER_KEY not in repr(found)


async def test_a_shard_that_hangs_harms_only_what_is_published_to_it() -> None:
    async with RedisServer() as well, RedisServer() as hung:
        broker = RedisBroker(
            shards_of(
                [parse(each.url) for each in (well, hung)],
                keys=Keys(),
                worker="w",
                options=ShardOptions(),
            ),
            keys=Keys(),
            history=lambda _: HistoryOptions(10, 60),
            now=lambda: int(time.time() * 1000),
        )
        config = Config(api_keys=(KEY, OTHER_KEY), limits=Limits(publish_requests=20))
        async with serving(config, broker) as api:
            await until(lambda: all(shard.available for shard in broker.shards.all()))
            (reachable, another), (away, _) = (
                [t for t in map(str, range(99)) if broker.shards.of(t) is shard][:2]
                for shard in broker.shards.all()
            )
            hung.stop()
            try:
                async with asyncio.TaskGroup() as group:
                    requests = [
                        group.create_task(api.post("/v1/publish", {"topic": away, "data": n}))
                        for n in range(30)
                    ]
                    # Half of what the key may have in flight, of which 15 more have come.
                    await until(lambda: sum(each.done() for each in requests) == 25)
                    assert api.publishing.quotas.api.load.requests == 5
                    for number in range(20):
                        message = {"topic": reachable, "data": number}
                        answer = await api.post("/v1/publish", message)
                        assert answer.json["offset"] == number + 1
                        batch = [{"topic": away, "data": number}, {**message, "topic": another}]
                        answer = await api.post("/v1/publish/batch", {"messages": batch})
                        refused, published = answer.json["results"]
                        assert refused["error"]["code"] == "too_many"
                        assert refused["error"]["retry_ms"] == RETRY_MS
                        assert published["offset"] == number + 1
                    assert sum(each.done() for each in requests) == 25  # it hangs all the time
            finally:
                hung.go_on()
            statuses = [request.result().status for request in requests]
            assert (statuses.count(429), statuses.count(503)) == (25, 5)
            await in_flight(api, 0)
            assert api.publishing.quotas.api.shards == {}


# Clients


async def test_a_user_has_so_many_publications_in_flight_over_all_connections() -> None:
    async with World(but(limits=Limits(publish_user=3, errors=1)), slow=True) as world:
        world.slow.hold_back()
        tabs = [world.client(world.token("ann")) for _ in range(2)]
        for number in range(4):
            tabs[number % 2].says(op="publish", id=number, topic="news", data=number)
        await turns()
        (refused,) = tabs[1].heard()[-1:]
        assert (refused["code"], refused["id"]) == (Code.TOO_MANY, 3)
        assert (refused["topic"], refused["retry_ms"]) == ("news", RETRY_MS)
        other = world.client(world.token("bob"))
        other.says(op="publish", id=5, topic="news", data=5)
        await turns()
        world.slow.asked.set()
        await turns(40)
        published = [[m["id"] for m in each.heard() if m["op"] == "published"] for each in tabs]
        assert published == [[0, 2], [1]]
        assert [m["id"] for m in other.heard() if m["op"] == "published"] == [5]
        assert world.edge.publishing.quotas.client.load.requests == 0
        assert not tabs[1].closed  # it is no error of the client's


async def test_what_all_clients_have_in_flight_is_bounded_too() -> None:
    async with World(but(limits=Limits(publish_messages=2)), slow=True) as world:
        world.slow.hold_back()
        clients = [world.client() for _ in range(3)]  # nobody in particular
        for client in clients:
            client.says(op="publish", id=1, topic="news", data=1)
        await turns()
        (refused,) = clients[2].heard()[-1:]
        assert (refused["code"], refused["retry_ms"]) == (Code.UNAVAILABLE, RETRY_MS)
        world.slow.asked.set()
        await turns(40)
        assert world.edge.publishing.quotas.client.load.messages == 0
