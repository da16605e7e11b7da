"""Presence as clients meet it: who is a member, who may ask, what is heard of others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.presence import MAX_MEMBERS, PresencePage
from clarion_server import codes
from clarion_server.codes import Code
from clarion_server.options import Limits, Namespace
from support.clients import FakeClient, Message
from support.edges import World, but, turns

CONFIG = but(
    limits=Limits(subscriptions=3),
    namespaces={
        "default": Namespace(subscribe="everyone", presence="members", history_size=5),
        "off": Namespace(subscribe="everyone"),
        "counted": Namespace(subscribe="everyone", presence="count"),
        "room": Namespace(subscribe="everyone", publish="everyone", presence="events"),
        "closed": Namespace(subscribe="granted", presence="members"),
    },
)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World(CONFIG) as world:
        yield world


@pytest.fixture
async def slow() -> AsyncIterator[World]:
    async with World(CONFIG, slow=True) as world:
        yield world


async def answer(client: FakeClient, **command: object) -> Message:
    """The answer to a command, which may take some turns of the loop."""
    client.says(op="presence", id=1, **command)
    await turns()
    (message,) = client.heard()
    assert message["id"] == 1
    return message


async def members(client: FakeClient, topic: str, **rest: object) -> Message:
    message = await answer(client, topic=topic, **rest)
    assert (message.pop("op"), message.pop("id"), message.pop("topic")) == ("presence", 1, topic)
    return message


def subscribe(client: FakeClient, *topics: str) -> None:
    for topic in topics:
        assert client.asks(op="subscribe", topic=topic)["op"] == "subscribed"


def shown(client: FakeClient, user: str = "") -> Message:
    return {"client": client.session.id} | ({"user": user} if user else {})


# Who is a member


async def test_whoever_is_subscribed_is_a_member_with_its_user_if_it_has_one(world: World) -> None:
    ann, nobody = world.client(world.token('a"ñ')), world.client()
    subscribe(ann, "news")
    subscribe(nobody, "news")
    page = await members(nobody, "news")
    assert page == {"count": 2, "members": [shown(ann, 'a"ñ'), shown(nobody)]}


async def test_a_user_is_a_member_once_for_each_connection(world: World) -> None:
    one, other = world.client(world.token("ann")), world.client(world.token("ann"))
    subscribe(one, "news")
    subscribe(other, "news")
    assert (await members(one, "news"))["members"] == [shown(one, "ann"), shown(other, "ann")]


async def test_who_unsubscribes_or_is_unsubscribed_is_none_any_more(world: World) -> None:
    one, other, third = world.client(), world.client(), world.client()
    for client in (one, other, third):
        subscribe(client, "news")
    assert one.asks(op="unsubscribe", topic="news")["op"] == "unsubscribed"
    assert other.session.leave("news", reason="the backend says so")
    assert await members(third, "news") == {"count": 1, "members": [shown(third)]}


@pytest.mark.parametrize("how", ["vanishes", "finishes", "is refused"])
async def test_whoever_is_gone_is_none_any_more(world: World, how: str) -> None:
    one, other = world.client(), world.client()
    subscribe(one, "news", "room:1", "counted:1")
    subscribe(other, "news")
    if how == "vanishes":
        one.vanishes()
    elif how == "finishes":
        one.finish(codes.DISCONNECTED)
    else:
        one.ends_at = "error"
        one.says("{")
    assert await members(other, "news") == {"count": 1, "members": [shown(other)]}
    for topic in ("room:1", "counted:1"):
        assert await members(other, topic) == {"count": 0, "members": []}
    assert world.presence is not None
    assert world.presence.members == 1


async def test_who_is_found_gone_by_the_answer_to_its_subscription_is_none(world: World) -> None:
    one, other = world.client(), world.client()
    one.ends_at = "subscribed"
    one.says(op="subscribe", topics=[{"topic": "news"}, {"topic": "room:1"}])
    for topic in ("news", "room:1"):
        assert await members(other, topic) == {"count": 0, "members": []}


async def test_who_is_found_gone_while_it_unsubscribes_leaves_once(world: World) -> None:
    one, other = world.client(), world.client()
    subscribe(one, "room:1")
    await turns()
    assert [message["op"] for message in one.heard()] == ["join"]
    one.ends_at = "message"
    await world.publish("room:1", "1")
    one.says(op="unsubscribe", topic="room:1")
    assert one.session.over
    assert await members(other, "room:1") == {"count": 0, "members": []}


async def test_who_waits_for_a_slow_shard_is_a_member_when_it_is_subscribed(slow: World) -> None:
    one, other = slow.client(), slow.client()
    slow.slow.hold_back()
    one.says(op="subscribe", topic="news")
    one.says(op="subscribe", topic="room:1")
    await turns()
    assert (await members(other, "news"))["count"] == 0
    one.says(op="unsubscribe", topic="room:1")
    slow.slow.asked.set()
    await turns()
    assert await members(other, "news") == {"count": 1, "members": [shown(one)]}
    assert (await members(other, "room:1"))["count"] == 0


async def test_a_subscription_that_fails_makes_no_member(slow: World) -> None:
    client = slow.client()
    slow.slow.fails = BrokerUnavailable("no shard")
    client.says(op="subscribe", topic="news")
    await turns()
    assert client.heard()[0]["code"] == "unavailable"
    subscribe_again = {"op": "subscribe", "topic": "news"}
    slow.slow.fails = None
    client.says(json.dumps(subscribe_again))
    client.vanishes()
    await turns()
    assert (await members(slow.client(), "news"))["count"] == 0


# Asking


async def test_where_only_the_count_is_kept_that_is_all_there_is(world: World) -> None:
    one, other = world.client(), world.client()
    subscribe(one, "counted:1")
    subscribe(other, "counted:1")
    assert await members(one, "counted:1") == {"count": 2, "members": []}


async def test_members_come_in_pages(world: World) -> None:
    clients = [world.client() for _ in range(5)]
    for client in clients:
        subscribe(client, "news")
    page = await members(clients[0], "news", limit=2)
    assert page.pop("next")
    assert page == {"count": 5, "members": [shown(clients[0]), shown(clients[1])]}
    met: list[Message] = []
    after = ""
    for _ in range(3):
        page = await members(clients[0], "news", limit=2, after=after)
        met += page["members"]
        after = page.get("next", "")
    assert not after
    assert met == [shown(client) for client in clients]
    assert await members(clients[0], "news", limit=0) == {"count": 5, "members": []}


async def test_who_may_subscribe_may_ask_and_nobody_else(world: World) -> None:
    ann = world.client(world.token("ann", subscribe=["closed:1"]))
    assert await members(ann, "closed:1") == {"count": 0, "members": []}
    for topic, code in (("closed:2", Code.FORBIDDEN), ("off:1", Code.NO_PRESENCE)):
        message = await answer(ann, topic=topic)
        assert (message["op"], message["code"], message["topic"]) == ("error", str(code), topic)
    assert (await answer(ann, topic="no topic"))["code"] == "bad_topic"


@pytest.mark.parametrize(
    "wrong", [{"limit": -1}, {"limit": "2"}, {"limit": 1.5}, {"after": 1}, {"after": "x" * 129}]
)
async def test_a_page_that_is_none_is_refused(world: World, wrong: dict[str, object]) -> None:
    assert (await answer(world.client(), topic="news", **wrong))["code"] == "bad_request"


async def test_without_any_namespace_that_keeps_presence_nothing_is_kept() -> None:
    async with World() as world:
        assert world.presence is None
        client = world.client()
        subscribe(client, "news")
        assert (await answer(client, topic="news"))["code"] == "no_presence"


class AnyPresence:
    """Presence that answers as it is told."""

    members = announced = removed = failures = 0

    def __init__(self, answer: PresencePage | BrokerUnavailable) -> None:
        self._answer = answer
        self.asked: list[tuple[str, int, str]] = []

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def enter(self, topic: str, client: str, user: str | None) -> None:
        pass

    def leave(self, topic: str, client: str) -> None:
        pass

    async def read(self, topic: str, limit: int, after: str = "") -> PresencePage:
        self.asked.append((topic, limit, after))
        if isinstance(self._answer, BrokerUnavailable):
            raise self._answer
        return self._answer


async def test_a_shard_that_is_away_is_a_reason_to_ask_again_later() -> None:
    async with World(CONFIG, presence=AnyPresence(BrokerUnavailable("away", 700))) as world:
        client = world.client()
        message = await answer(client, topic="news")
        assert (message["code"], message["topic"], message["retry_ms"]) == (
            "unavailable",
            "news",
            700,
        )
        client.says(op="presence", topic="news")
        client.vanishes()
        await turns()
        assert client.heard() == []


async def test_no_page_has_more_members_than_is_said() -> None:
    presence = AnyPresence(PresencePage(7, (b'{"client":"c-1"}',), "w 1"))
    async with World(CONFIG, presence=presence) as world:
        client = world.client()
        page = await members(client, "news", limit=10**9, after="w 0")
        assert page == {"count": 7, "members": [{"client": "c-1"}], "next": "w 1"}
        assert await members(client, "news") == page
        assert presence.asked == [("news", MAX_MEMBERS, "w 0"), ("news", MAX_MEMBERS, "")]


# Hearing of others


async def test_joins_and_leaves_are_told_where_the_namespace_says_so(world: World) -> None:
    one, other = world.client(world.token("ann")), world.client()
    subscribe(one, "room:1", "news")
    await turns()
    join = {"op": "join", "topic": "room:1", "member": shown(one, "ann")}
    assert one.heard() == [join]
    subscribe(other, "room:1", "news")
    await turns()
    for client in (one, other):
        assert client.heard() == [{"op": "join", "topic": "room:1", "member": shown(other)}]
    other.asks(op="unsubscribe", topic="room:1")
    await turns()
    assert one.heard() == [{"op": "leave", "topic": "room:1", "member": shown(other)}]
    assert other.heard() == []


async def test_a_join_comes_in_its_place_among_the_messages(world: World) -> None:
    one, other = world.client(), world.client()
    subscribe(one, "room:1")
    await turns()
    one.heard()
    await world.publish("room:1", "1")
    subscribe(other, "room:1")
    await turns()
    await world.publish("room:1", "2")
    other.vanishes()
    await turns()
    heard = [(message["op"], message.get("data")) for message in one.heard()]
    assert heard == [("message", 1), ("join", None), ("message", 2), ("leave", None)]
