"""What is said between workers, over real shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clarion_fanout.redis_address import parse
from clarion_fanout.redis_post import Post
from clarion_fanout.redis_shards import Shards, shards_of
from clarion_fanout.tasks import Tasks
from support.controls import IMPATIENT, KEYS
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers
from support.waiting import until


class Person:
    """A worker that listens, and what it has heard: to whom it was said, what, and on which way."""

    def __init__(self, shards: Shards, name: str) -> None:
        self.heard: list[tuple[str, bytes, str]] = []
        self.resumed = 0
        self.post = Post(
            shards,
            keys=KEYS,
            worker=name,
            timeout_s=0.5,
            to_all=lambda payload, way: self.heard.append(("all", payload, way)),
            to_us=lambda payload, way: self.heard.append((name, payload, way)),
            resumed=self._resume,
        )

    def _resume(self) -> None:
        self.resumed += 1


@asynccontextmanager
async def people(*servers: RedisServer) -> AsyncIterator[tuple[Person, Person, Shards]]:
    """Two who listen, each with connections of its own; and the shards of the first."""
    tasks = Tasks()
    locations = [parse(f"{server.url}?name=s{place}") for place, server in enumerate(servers)]
    shards = [
        shards_of(locations, keys=KEYS, worker=name, options=IMPATIENT) for name in ("a", "b")
    ]
    for made in shards:
        await made.start(tasks)
    a, b = Person(shards[0], "a"), Person(shards[1], "b")
    try:
        for person in (a, b):
            person.post.listen()
        await until(lambda: a.resumed == b.resumed == 2 * len(servers))
        yield a, b, shards[0]
    finally:
        await tasks.close()
        for made in shards:
            await made.close()


async def test_what_is_said_to_all_is_heard_by_all_and_what_is_said_to_one_by_one() -> None:
    async with people(*await shared_servers(1)) as (a, b, _):
        assert await a.post.say(b"hello", ["s0"])
        assert await a.post.say(b"you", ["s0"], to="b")
        await until(lambda: len(b.heard) == 2)
        assert b.heard == [("all", b"hello", "s0"), ("b", b"you", "s0")]
        assert a.heard == [("all", b"hello", "s0")]


async def test_what_is_said_on_every_way_comes_on_every_way() -> None:
    async with people(*await shared_servers(3)) as (a, b, _):
        assert sorted(a.post.ways()) == ["s0", "s1", "s2"]
        assert await a.post.say(b"hello", a.post.ways())
        await until(lambda: len(b.heard) == 3)
        assert sorted(way for _, _, way in b.heard) == ["s0", "s1", "s2"]


async def test_listening_again_changes_nothing() -> None:
    async with people(*await shared_servers(1)) as (a, b, _):
        b.post.listen()
        await a.post.say(b"hello", ["s0"])
        await a.post.say(b"over", ["s0"], to="b")
        await until(lambda: ("b", b"over", "s0") in b.heard)
        assert len(b.heard) == 2


async def test_what_can_be_said_on_no_way_is_said_to_be_so() -> None:
    async with RedisServer() as mortal, people(mortal, *await shared_servers(1)) as (a, b, shards):
        mortal.kill()
        await until(lambda: not shards.all()[0].available)
        assert a.post.ways() == ["s1"]
        assert not await a.post.say(b"hello", ["s0"])
        assert not await a.post.say(b"hello", ["s9"])
        assert not await a.post.say(b"hello", [])
        assert await a.post.say(b"hello", ["s0", "s1"])
        await until(lambda: b.heard)
        assert b.heard == [("all", b"hello", "s1")]


async def test_who_listens_again_after_a_loss_is_told() -> None:
    async with RedisServer() as server, people(server) as (_a, b, _):
        await server.command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: b.resumed == 4)
