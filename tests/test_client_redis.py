"""Publishing straight to Redis: the right names, on the right shard, as the server expects it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Self, TypeAlias

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from clarion_client import Client
from clarion_client.errors import PublishError
from clarion_client.placement import ranking
from clarion_client.redis_publisher import AsyncRedisPublisher, RedisPublisher
from clarion_client.redis_shards import shards
from clarion_fanout.placement import Placement
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_keys import Keys
from support.redis_sentinel import RedisSentinel
from support.redis_servers import RedisServer
from support.redis_shared import shared_cluster, shared_servers
from support.server import configuration, running, serving
from support.slow_reader import LATEST, blocked
from support.slow_reader import heard as told_to
from support.waiting import DEADLINE, until

TOPICS = [f"orders:{n}" for n in range(12)]


class Plain:
    """`RedisPublisher`, in threads, so that tests are written once."""

    def __init__(self, *urls: str, **options: Any) -> None:
        self._publisher = RedisPublisher(*urls, **options)

    async def publish(
        self, topic: str, data: Any, *, id: str | None = None, key: str | None = None
    ) -> None:
        await asyncio.to_thread(self._publisher.publish, topic, data, id=id, key=key)

    async def publish_quick(self, topic: str, data: Any, *, key: str | None = None) -> None:
        await asyncio.to_thread(self._publisher.publish_quick, topic, data, key=key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._publisher.close)


Make: TypeAlias = "Callable[..., AbstractAsyncContextManager[Plain | AsyncRedisPublisher]]"

both = pytest.mark.parametrize("make", [Plain, AsyncRedisPublisher])


async def inbox(server: RedisServer, key: str = "clarion:inbox") -> list[dict[str, str]]:
    """The entries of a shard's inbox."""
    entries = await server.command("XRANGE", key, "-", "+")
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]


@asynccontextmanager
async def heard(
    port: int, *channels: str, command: str = "SUBSCRIBE"
) -> AsyncIterator[asyncio.Queue[tuple[str, str]]]:
    """What is published on these channels of one server."""
    found: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    replies = hiredis.Reader(encoding="utf-8")
    confirmed = asyncio.Semaphore(0)

    async def listen() -> None:
        while data := await reader.read(65536):
            replies.feed(data)
            while (reply := replies.gets()) is not False:
                if reply[0].endswith("message"):
                    found.put_nowait((reply[1], reply[2]))
                else:
                    confirmed.release()

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listen())
        for channel in channels:
            writer.write(f"{command} {channel}\r\n".encode())
            await confirmed.acquire()
        yield found
        listening.cancel()
        writer.transport.abort()


@both
async def test_an_entry_has_what_the_server_takes_from_the_inbox(make: Make) -> None:
    (server,) = await shared_servers(1)
    async with make(server.url) as publisher:
        await publisher.publish("orders:1", {"text": "Grüße"}, id="order-1")
        await publisher.publish("orders:1", None)
    first, second = await inbox(server)
    assert first == {"topic": "orders:1", "data": '{"text":"Grüße"}', "id": "order-1"}
    assert (second["topic"], second["data"]) == ("orders:1", "null")
    assert len(second["id"]) > 15


@both
async def test_a_quick_message_is_published_on_the_topics_channel_of_its_shard(make: Make) -> None:
    servers = await shared_servers(3)
    placement = Placement([parse(server.url).name for server in servers])
    channels = [Keys().channel(topic).decode() for topic in TOPICS]
    places = [placement.place(topic) for topic in TOPICS]
    assert set(places) == {0, 1, 2}
    async with (
        heard(servers[0].port, *channels) as zero,
        heard(servers[1].port, *channels) as one,
        heard(servers[2].port, *channels) as two,
        make(*(server.url for server in servers)) as publisher,
    ):
        for topic in TOPICS:
            await publisher.publish_quick(topic, {"topic": topic})
        queues = (zero, one, two)
        async with asyncio.timeout(DEADLINE):
            for topic, channel, place in zip(TOPICS, channels, places, strict=True):
                assert await queues[place].get() == (channel, f'{{"topic":"{topic}"}}')
        assert all(queue.empty() for queue in queues)


@both
async def test_an_entry_goes_to_the_topics_shard_and_to_another_when_that_is_gone(
    make: Make,
) -> None:
    async with RedisServer() as gone, RedisServer() as left:
        placement = Placement([parse(server.url).name for server in (gone, left)])
        theirs = next(t for t in TOPICS if placement.place(t) == 0)
        async with make(gone.url, left.url) as publisher:
            await publisher.publish(theirs, 1)
            assert [len(await inbox(gone)), len(await inbox(left))] == [1, 0]
            gone.kill()
            await publisher.publish(theirs, 2, id="two")
            assert [entry["id"] for entry in await inbox(left)] == ["two"]
            with pytest.raises(PublishError, match=f"{theirs}: not published"):
                await publisher.publish_quick(theirs, 3)
            left.kill()
            with pytest.raises(PublishError, match=r"ConnectionError.*; .*ConnectionError"):
                await publisher.publish(theirs, 4)


@both
async def test_a_shard_that_does_not_answer_has_a_deadline(make: Make) -> None:
    async with RedisServer() as server, make(server.url, timeout_s=0.1) as publisher:
        await publisher.publish("a", 1)
        server.stop()
        try:
            async with asyncio.timeout(DEADLINE):
                with pytest.raises(PublishError, match="TimeoutError"):
                    await publisher.publish("a", 2)
        finally:
            server.go_on()


@both
async def test_a_prefix_and_a_password_are_the_servers(make: Make) -> None:
    async with RedisServer(password="s3cret/@") as server:
        async with make(server.url, prefix="other") as publisher:
            await publisher.publish("a", 1)
        assert len(await inbox(server, "other:inbox")) == 1
        wrong = server.url.replace("s3cret", "wrong")
        async with make(wrong) as publisher:
            with pytest.raises(PublishError) as refused:
                await publisher.publish("a", 1)
        assert "wrong" not in str(refused.value)


@both
async def test_tls_and_unix_sockets_lead_to_a_shard_too(make: Make) -> None:
    for server in (RedisServer(tls=True), RedisServer(unixsocket=True)):
        async with server, make(server.url) as publisher:
            await publisher.publish("a", 1)
            assert len(await inbox(server)) == 1


@both
async def test_sentinels_name_the_shard(make: Make) -> None:
    sentinel = await RedisSentinel().start()
    try:
        async with make(sentinel.url) as publisher:
            await publisher.publish("a", 1)
        assert len(await inbox(await sentinel.primary())) == 1
    finally:
        sentinel.end()


@both
async def test_in_a_cluster_names_go_where_the_cluster_says(make: Make) -> None:
    cluster = await shared_cluster()
    async with make(cluster.url) as publisher:
        await publisher.publish("orders:1", 1)
        owner = await cluster.owner(key_slot(b"clarion:inbox"))
        assert [entry["data"] for entry in await inbox(owner)] == ["1"]
        for topic in TOPICS[:4]:
            channel = Keys().channel(topic)
            owner = await cluster.owner(key_slot(channel))
            async with heard(owner.port, channel.decode(), command="SSUBSCRIBE") as queue:
                await publisher.publish_quick(topic, "quick")
                async with asyncio.timeout(DEADLINE):
                    assert await queue.get() == (channel.decode(), '"quick"')


async def test_what_is_published_so_reaches_the_subscribers_of_a_server() -> None:
    servers = await shared_servers(2)
    urls = [server.url for server in servers]
    redis = [word for url in urls for word in ("--redis", url)]
    async with (
        serving(*redis) as server,
        Client(f"ws://127.0.0.1:{server.port}") as client,
        client.subscribe(*TOPICS[:4]) as subscription,
        AsyncRedisPublisher(*urls) as publisher,
        asyncio.timeout(DEADLINE),
    ):
        for topic in TOPICS[:4] * 2:
            await publisher.publish(topic, "durable", id="once")
        durable = [await anext(subscription) for _ in range(4)]
        assert {message.topic: message.offset for message in durable} == dict.fromkeys(
            TOPICS[:4], 1
        )
        for topic in TOPICS[:4]:
            await publisher.publish_quick(topic, "quick")
        quick = [await anext(subscription) for _ in range(4)]
        assert {(message.topic, message.data, message.offset) for message in quick} == {
            (topic, "quick", None) for topic in TOPICS[:4]
        }


@both
async def test_who_is_behind_gets_the_newest_of_each_conflation_key(make: Make) -> None:
    (server,) = await shared_servers(1)
    config = configuration(redis=(server.url,), development=True, namespaces={"prices": LATEST})
    async with (
        running(config) as worker,
        blocked(worker, "prices:all") as reader,
        make(server.url) as publisher,
    ):
        for n in range(1, 9):
            await publisher.publish("prices:all", n, key="odd" if n % 2 else "even")
        await until(lambda: worker.counters.dropped["latest", "prices"] == 6)
        for n in range(11, 19):
            await publisher.publish_quick("prices:all", n, key="odd" if n % 2 else "four")
        await publisher.publish_quick("prices:all", "end")
        told = [f"message prices:all {data}" for data in (17, 8, 18, "end")]
        assert await told_to(reader, "end") == told


# Names and places


@given(
    st.lists(st.text("abc:/09.", min_size=1), min_size=1, max_size=8, unique=True),
    st.text("abcXYZ019_-.:/@#=+,", min_size=1, max_size=40),
)
def test_topics_are_placed_as_the_server_places_them(names: list[str], topic: str) -> None:
    ranked = ranking(names, topic)
    assert ranked[0] == Placement(names).place(topic)
    assert sorted(ranked) == list(range(len(names)))
    rest = [name for index, name in enumerate(names) if index != ranked[0]]
    if rest:
        assert rest[ranking(rest, topic)[0]] == names[ranked[1]]


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://h",
        "redis://h:7/3",
        "redis://h:7?db=3",
        "redis://u:p%40@h:7/3?name=x",
        "rediss://[::1]:7/3",
        "unix:///tmp/a%20b.sock?db=2",
        "unix:///tmp/a.sock?name=x",
        "redis+sentinel://h,h2:5/service/1",
        "redis+sentinel://h/service?sentinel_password=x",
        "redis+cluster://h:7,h2",
        "rediss+cluster://h",
    ],
)
def test_a_url_means_what_it_means_to_the_server(url: str) -> None:
    (ours,), theirs = shards([url]), parse(url)
    assert (ours.kind, ours.name, ours.service) == (theirs.kind, theirs.name, theirs.service)
    for index, address in enumerate(theirs.addresses):
        assert ours.db == address.db
        assert ours.path == address.path
        if not address.path:
            assert ours.hosts[index] == (address.host, address.port)
        assert ours.options.get("username", "") == address.username
        assert ours.options.get("password", "") == address.password
        assert ours.options.get("ssl", False) is (address.tls is not None)


@pytest.mark.parametrize(
    "urls",
    [
        (),
        ("http://h",),
        ("redis+other://h",),
        ("redis://:secret@h/x",),
        ("redis://:secret@h", "redis://:secret@h"),
        ("redis://:secret@h", "redis+cluster://h"),
    ],
)
def test_wrong_urls_are_refused_without_showing_a_password(urls: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is what is tested
        RedisPublisher(*urls)
    assert "secret" not in str(refused.value)


async def test_what_cannot_be_published_is_the_callers_mistake() -> None:
    publisher = RedisPublisher("redis://127.0.0.1:1")
    for topic, data in (("a b", 1), ("a", float("nan")), ("a", {1})):
        with pytest.raises((ValueError, TypeError)):
            publisher.publish(topic, data)
        with pytest.raises((ValueError, TypeError)):
            publisher.publish_quick(topic, data)
    with pytest.raises(ValueError, match="is no conflation key"):
        publisher.publish("a", 1, key="a b")
    with pytest.raises(ValueError, match="is no conflation key"):
        publisher.publish_quick("a", 1, key="")
    with pytest.raises(ValueError, match="an idempotency key has 1 to 128"):
        publisher.publish("a", 1, id="x" * 129)
    publisher.close()
