"""Conversations with a session: a client said this, so it hears that.

The parts around the session are real, but for its socket; time stands still until a test moves it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest

from clarion_fanout.broker import BrokerUnavailable, Want
from clarion_fanout.publication import Position
from clarion_server.codes import Close, Code
from clarion_server.options import AuthOptions, Limits, Namespace
from clarion_server.session import MAX_HISTORY_BYTES, MAX_HISTORY_PAGE
from support.clients import Message
from support.edges import NEW_SECRET, NOW, SECRET, KeysOutOfReach, LateKeys, World, but, turns

CLOSED = but(auth=AuthOptions(secret=SECRET))
"""Nobody is welcome without a token."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


@pytest.fixture
async def slow() -> AsyncIterator[World]:
    async with World(slow=True) as world:
        yield world


def error(code: Code, **fields: object) -> Message:
    """An error as it is compared: its text for people is free."""
    return {"op": "error", "code": str(code)} | fields


def told(message: Message) -> Message:
    """An answer without its text for people, which must be there."""
    assert message.get("message", "x")
    return {key: value for key, value in message.items() if key != "message"}


def epoch_of(world: World, topic: str) -> str:
    """The epoch of a topic's stream, which from now on is kept even while it is empty."""
    world.memory.attach(topic)
    page = world.memory.peek(topic, Want(limit=0))
    assert page is not None
    assert page.position is not None
    return page.position.epoch


# Who it is


async def test_anonymous_clients_are_welcome_where_they_are_allowed(world: World) -> None:
    client = world.arrival()
    client.session.identify(None)
    (welcome,) = client.heard()
    assert welcome == {"op": "welcome", "client": client.session.id, "ping_ms": 25_000}


async def test_without_a_token_nothing_is_said_where_one_is_needed() -> None:
    async with World(CLOSED) as world:
        client = world.arrival()
        client.session.identify(None)
        assert client.heard() == []
        assert client.closed is None


async def test_a_token_brings_a_welcome_with_the_user_and_how_long_it_lasts(world: World) -> None:
    client = world.arrival()
    client.session.identify(world.token("ann", ttl=60))
    (welcome,) = client.heard()
    assert welcome["user"] == "ann"
    assert welcome["expires_ms"] == 60_000


async def test_connect_brings_the_token_that_the_handshake_did_not() -> None:
    async with World(CLOSED) as world:
        client = world.arrival()
        client.session.identify(None)
        welcome = client.asks(op="connect", id="first", token=world.token("ann"), name="web/1")
        assert (welcome["op"], welcome["id"], welcome["user"]) == ("welcome", "first", "ann")


async def test_every_connection_has_a_name_of_its_own(world: World) -> None:
    names = {world.arrival().session.id for _ in range(200)}
    assert len(names) == 200
    assert all(len(name) == 14 and name.startswith("c-") for name in names)


async def test_before_the_welcome_only_connect_and_ping_are_understood() -> None:
    async with World(CLOSED) as world:
        client = world.arrival()
        assert client.asks(op="ping", id=1) == {"op": "pong", "id": 1}
        for op in ("subscribe", "unsubscribe", "publish", "history", "presence"):
            answer = client.asks(op=op, id=2, topic="news", data=1)
            assert told(answer) == error(Code.UNAUTHORIZED, id=2)
        assert told(client.asks(op="refresh", id=3, token=world.token()))["code"] == "unauthorized"
        assert client.topics == []


async def test_connecting_twice_is_an_error_and_changes_nothing(world: World) -> None:
    client = world.client(world.token("ann"))
    answer = client.asks(op="connect", id=2, token=world.token("bob"))
    assert told(answer) == error(Code.BAD_REQUEST, id=2)
    assert client.session.identity is not None
    assert client.session.identity.user == "ann"


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
async def test_a_token_that_is_not_accepted_ends_the_connection_for_good(
    world: World, token: str
) -> None:
    client = world.arrival()
    client.session.identify(token)
    (goodbye,) = client.heard()
    assert (goodbye["op"], goodbye["code"]) == ("goodbye", 4501)
    assert client.session.over


async def test_a_refused_connect_says_why(world: World) -> None:
    client = world.arrival()
    client.says(op="connect", id=1, token=world.token(secret="x" * 40))
    (goodbye,) = client.heard()
    assert (goodbye["code"], goodbye["reason"]) == (4501, "the token's signature is wrong")


async def test_an_expired_token_asks_for_a_new_one(world: World) -> None:
    token = world.token(ttl=60)
    world.now += 71  # the leeway is ten seconds
    client = world.arrival()
    client.session.identify(token)
    assert client.heard()[0]["code"] == 4002


async def test_a_session_expires_with_its_token(world: World) -> None:
    client = world.client(world.token(ttl=60))
    assert not client.session.expired
    world.now += 59.9
    assert not client.session.expired
    world.now += 0.1
    assert client.session.expired


async def test_nobody_and_those_who_wait_do_not_expire(world: World) -> None:
    anonymous, waiting = world.client(), world.arrival()
    world.now += 1e9
    assert not anonymous.session.expired
    assert not waiting.session.expired


# Keys that are newer than our copy


async def test_an_unknown_key_is_fetched_and_then_the_client_is_welcome() -> None:
    keys = LateKeys()
    async with World(CLOSED, keys=keys) as world:
        client = world.arrival()
        client.says(op="connect", id=1, token=world.token(secret=NEW_SECRET, kid="new"))
        await turns()
        assert client.heard() == []
        keys.answers.set()
        await turns()
        (welcome,) = client.heard()
        assert (welcome["op"], welcome["id"]) == ("welcome", 1)


async def test_a_key_that_stays_unknown_is_refused() -> None:
    keys = LateKeys()
    async with World(CLOSED, keys=keys) as world:
        client = world.arrival()
        client.session.identify(world.token(secret=NEW_SECRET, kid="nobody's"))
        keys.answers.set()
        await turns()
        assert client.heard()[0]["code"] == 4501


async def test_nobody_is_sent_away_for_good_because_the_issuer_does_not_answer() -> None:
    keys = KeysOutOfReach()
    async with World(CLOSED, keys=keys) as world:
        client = world.arrival()
        client.session.identify(world.token(secret=NEW_SECRET, kid="new"))
        keys.answers.set()
        await turns()
        (goodbye,) = client.heard()
        assert goodbye["code"] == 4005


async def test_who_left_while_keys_were_fetched_hears_nothing() -> None:
    keys = LateKeys()
    async with World(CLOSED, keys=keys) as world:
        client = world.arrival()
        client.says(op="connect", token=world.token(secret=NEW_SECRET, kid="new"))
        await turns()
        client.vanishes()
        keys.answers.set()
        await turns()
        assert client.session.identity is None


async def test_the_first_of_two_connects_that_succeeds_counts_and_the_other_is_told() -> None:
    keys = LateKeys()
    async with World(CLOSED, keys=keys) as world:
        client = world.arrival()
        client.says(op="connect", id=1, token=world.token("ann", secret=NEW_SECRET, kid="new"))
        await turns()
        welcome = client.asks(op="connect", id=2, token=world.token("bob", kid="old"))
        assert (welcome["id"], welcome["user"]) == (2, "bob")
        keys.answers.set()
        await turns()
        (late,) = client.heard()
        assert told(late) == error(Code.BAD_REQUEST, id=1)


async def test_a_refresh_waits_for_unknown_keys_too() -> None:
    keys = LateKeys()
    async with World(CLOSED, keys=keys) as world:
        client = world.client(world.token("ann", kid="old"))
        fresh = world.token("ann", ttl=7200, secret=NEW_SECRET, kid="new")
        client.says(op="refresh", id=1, token=fresh)
        client.says(op="refresh", id=2, token=world.token("ann", kid="nobody's"))
        assert client.heard() == []
        keys.answers.set()
        await turns()
        first, second = client.heard()
        assert first == {"op": "refreshed", "id": 1, "expires_ms": 7_200_000}
        assert told(second) == error(Code.UNAUTHORIZED, id=2)


async def test_who_left_while_a_refresh_waited_hears_nothing() -> None:
    keys = LateKeys()
    async with World(CLOSED, keys=keys) as world:
        client = world.client(world.token("ann", kid="old"))
        before = client.session.identity
        client.says(op="refresh", token=world.token("ann", secret=NEW_SECRET, kid="new"))
        await turns()
        client.vanishes()
        keys.answers.set()
        await turns()
        assert client.session.identity is before


# Refreshing


async def test_refresh_renews_the_time(world: World) -> None:
    client = world.client(world.token(ttl=60))
    world.now += 30
    answer = client.asks(op="refresh", id=1, token=world.token(ttl=60))
    assert answer == {"op": "refreshed", "id": 1, "expires_ms": 60_000}
    world.now += 59
    assert not client.session.expired


async def test_refresh_with_another_users_token_is_forbidden(world: World) -> None:
    for client in (world.client(world.token("ann")), world.client()):
        answer = client.asks(op="refresh", id=1, token=world.token("bob"))
        assert told(answer) == error(Code.FORBIDDEN, id=1)
        assert client.session.identity is not None
        assert client.session.identity.user != "bob"


async def test_refresh_with_a_bad_token_changes_nothing(world: World) -> None:
    client = world.client(world.token(ttl=60))
    assert told(client.asks(op="refresh", id=1, token="x")) == error(Code.UNAUTHORIZED, id=1)
    assert client.closed is None
    assert not client.session.expired


async def test_a_permission_that_the_new_token_lacks_ends_its_subscriptions(world: World) -> None:
    client = world.client(world.token(subscribe=["rooms:*"]))
    client.says(
        op="subscribe", topics=[{"topic": t} for t in ("rooms:1", "news", "rooms:2", "user:ann")]
    )
    client.heard()
    client.says(op="refresh", id=9, token=world.token(subscribe=["rooms:2"]))
    assert client.heard() == [
        {
            "op": "unsubscribed",
            "topic": "rooms:1",
            "reason": "the new token does not allow it",
        },
        {"op": "refreshed", "id": 9, "expires_ms": 3_600_000},
    ]
    assert {topic.name for topic in client.topics} == {"rooms:2", "news", "user:ann"}


# Subscribing


async def test_subscribed_says_where_the_stream_stands(world: World) -> None:
    client = world.client()
    first = client.asks(op="subscribe", id=1, topic="news")
    assert first == {
        "op": "subscribed",
        "id": 1,
        "topic": "news",
        "epoch": first["epoch"],
        "offset": 0,
    }
    await world.publish("news", "1", "2")
    await turns()
    assert client.data() == [1, 2]
    assert world.client().asks(op="subscribe", topic="news")["offset"] == 2


async def test_without_history_there_is_no_position(world: World) -> None:
    client = world.client()
    answer = client.asks(op="subscribe", id=1, topic="plain:1")
    assert answer == {"op": "subscribed", "id": 1, "topic": "plain:1"}
    await world.publish("plain:1", '"x"')
    await turns()
    (message,) = client.heard()
    assert message == {"op": "message", "topic": "plain:1", "ts": int(NOW * 1000), "data": "x"}


async def test_messages_carry_offset_and_time(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    world.now += 1.5
    await world.publish("news", '{"a":1}')
    await turns()
    (message,) = client.heard()
    assert message == {
        "op": "message",
        "topic": "news",
        "offset": 1,
        "ts": int(NOW * 1000) + 1500,
        "data": {"a": 1},
    }


async def test_what_was_pending_before_a_subscription_is_not_its(world: World) -> None:
    """It is in the position that the answer names, and comes with a rewind, once."""
    earlier, fresh, rewinding = world.client(), world.client(), world.client()
    earlier.asks(op="subscribe", topic="news")
    await world.publish("news", "1")
    assert fresh.asks(op="subscribe", topic="news")["offset"] == 1
    rewinding.says(op="subscribe", topic="news", last=5)
    await turns()
    assert earlier.data() == [1]
    assert fresh.heard() == []
    assert [m.get("data") for m in rewinding.heard()] == [None, 1]


async def test_since_brings_what_was_missed_and_then_what_is_new(world: World) -> None:
    epoch = epoch_of(world, "news")
    await world.publish("news", "1", "2", "3")
    client = world.client()
    client.says(op="subscribe", id=1, topic="news", since={"epoch": epoch, "offset": 1})
    await world.publish("news", "4")
    await turns()
    answer, *messages = client.heard()
    assert (answer["offset"], answer["recovered"]) == (3, True)
    assert [(m["offset"], m["data"]) for m in messages] == [(2, 2), (3, 3), (4, 4)]
    assert client.starts == [Position(epoch, 1)]


async def test_since_the_newest_position_misses_nothing(world: World) -> None:
    epoch = epoch_of(world, "news")
    await world.publish("news", "1")
    client = world.client()
    answer = client.asks(op="subscribe", topic="news", since={"epoch": epoch, "offset": 1})
    assert (answer["offset"], answer["recovered"]) == (1, True)
    assert client.starts == [Position(epoch, 1)]


@pytest.mark.parametrize(
    ("epoch", "offset"),
    [("another", 1), ("", 5), ("", 99), ("", 0)],
    ids=["epoch of a lost stream", "offset not kept", "offset of the future", "before all"],
)
async def test_since_a_position_that_cannot_be_resumed_says_so_and_replays_nothing(
    world: World, epoch: str, offset: int
) -> None:
    known = epoch_of(world, "news")
    await world.publish("news", *(str(n) for n in range(11)))  # five are kept
    client = world.client()
    since = {"epoch": epoch or known, "offset": offset}
    answer = client.asks(op="subscribe", topic="news", since=since)
    assert (answer["epoch"], answer["offset"], answer["recovered"]) == (known, 11, False)
    await world.publish("news", '"next"')
    await turns()
    assert client.data() == ["next"]


async def test_since_where_there_is_no_history_is_not_recovered(world: World) -> None:
    client = world.client()
    since = {"epoch": "e", "offset": 1}
    answer = client.asks(op="subscribe", id=1, topic="plain:1", since=since)
    assert answer == {"op": "subscribed", "id": 1, "topic": "plain:1", "recovered": False}


async def test_resumes_and_replays_are_counted(world: World) -> None:
    epoch = epoch_of(world, "news")
    await world.publish("news", "1", "2")
    for offset in (0, 7):
        world.client().says(op="subscribe", topic="news", since={"epoch": epoch, "offset": offset})
    assert world.counters.resumes == {"recovered": 1, "lost": 1}
    assert world.counters.replayed == 2


@pytest.mark.parametrize(("last", "data"), [(0, []), (2, [2, 3]), (3, [1, 2, 3]), (99, [1, 2, 3])])
async def test_last_rewinds_by_so_many(world: World, last: int, data: list[int]) -> None:
    await world.publish("news", "1", "2", "3")
    client = world.client()
    client.says(op="subscribe", topic="news", last=last)
    answer, *messages = client.heard()
    assert (answer["offset"], "recovered" in answer) == (3, False)
    assert [m["data"] for m in messages] == data


async def test_since_and_last_exclude_each_other(world: World) -> None:
    client = world.client()
    since = {"epoch": "e", "offset": 0}
    answer = client.asks(op="subscribe", id=1, topic="news", since=since, last=1)
    assert told(answer) == error(Code.BAD_REQUEST, id=1, topic="news")
    assert client.topics == []


@pytest.mark.parametrize("fields", [{}, {"topic": "a", "topics": [{"topic": "b"}]}])
async def test_subscribe_needs_either_topic_or_topics(world: World, fields: Message) -> None:
    client = world.client()
    assert told(client.asks(op="subscribe", id=1, **fields)) == error(Code.BAD_REQUEST, id=1)
    assert client.topics == []


async def test_a_batch_gets_an_answer_for_each_topic_under_one_id(world: World) -> None:
    epoch = epoch_of(world, "c")
    await world.publish("b", "1", "2")
    await world.publish("c", '"c1"')
    client = world.client()
    client.says(
        op="subscribe",
        id=7,
        topics=[
            {"topic": "a"},
            {"topic": "b", "last": 1},
            {"topic": "c", "since": {"epoch": epoch, "offset": 0}},
            {"topic": "not a topic"},
            {"topic": "closed:1"},
            {"topic": "a"},
        ],
    )
    heard = client.heard()
    assert [m["data"] for m in heard if m["op"] == "message"] == [2, "c1"]
    answers = [m for m in heard if m["op"] != "message"]
    assert all(m["id"] == 7 for m in answers)
    assert [(m["op"], m["topic"], m.get("code")) for m in answers] == [
        ("subscribed", "a", None),
        ("subscribed", "b", None),
        ("subscribed", "c", None),
        ("error", "not a topic", "bad_topic"),
        ("error", "closed:1", "forbidden"),
        ("error", "a", "already_subscribed"),
    ]


async def test_a_batch_of_nothing_gets_no_answer(world: World) -> None:
    client = world.client()
    client.says(op="subscribe", id=7, topics=[])
    assert client.heard() == []


async def test_subscribing_twice_is_an_error_and_the_first_one_stays(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    answer = client.asks(op="subscribe", id=2, topic="news")
    assert told(answer) == error(Code.ALREADY_SUBSCRIBED, id=2, topic="news")
    await world.publish("news", "1")
    await turns()
    assert client.data() == [1]


@pytest.mark.parametrize("topic", ["", "no spaces", "é", "a" * 256, "x\n"])
async def test_a_bad_topic_is_refused_and_named_unless_it_is_too_long(
    world: World, topic: str
) -> None:
    client = world.client()
    named = {"topic": topic} if len(topic) <= 255 else {}
    for op in ("subscribe", "unsubscribe", "publish", "history", "presence"):
        answer = client.asks(op=op, id=1, topic=topic, data=1)
        assert told(answer) == error(Code.BAD_TOPIC, id=1, **named)


async def test_a_connection_has_a_limited_number_of_topics() -> None:
    async with World(but(limits=Limits(subscriptions=2))) as world:
        client = world.client()
        client.asks(op="subscribe", topic="a")
        client.asks(op="subscribe", topic="b")
        answer = client.asks(op="subscribe", id=3, topic="c")
        assert told(answer) == error(Code.TOO_MANY, id=3, topic="c")
        client.asks(op="unsubscribe", topic="a")
        assert client.asks(op="subscribe", topic="c")["op"] == "subscribed"


@pytest.mark.parametrize(
    ("topic", "anonymous", "ann", "granted"),
    [
        ("news", True, True, True),
        ("unconfigured:1", True, True, True),
        ("members:1", False, True, True),
        ("rooms:1", False, False, True),
        ("closed:1", False, False, False),
        ("user:ann", False, True, True),
        ("user:bob", False, False, False),
    ],
)
async def test_who_may_subscribe_and_read_the_past(
    world: World, topic: str, anonymous: bool, ann: bool, granted: bool
) -> None:
    clients = [
        (world.client(), anonymous),
        (world.client(world.token("ann")), ann),
        (world.client(world.token("ann", subscribe=["rooms:*", "user:*"])), granted),
    ]
    for client, allowed in clients:
        for op, success in (("subscribe", "subscribed"), ("history", "history")):
            answer = client.asks(op=op, id=1, topic=topic)
            if allowed:
                assert answer["op"] == success
            else:
                assert told(answer) == error(Code.FORBIDDEN, id=1, topic=topic)
        assert client.session.has(topic) is allowed


# Unsubscribing


async def test_unsubscribe_ends_it(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    answer = client.asks(op="unsubscribe", id=2, topic="news")
    assert answer == {"op": "unsubscribed", "id": 2, "topic": "news"}
    await world.publish("news", "1")
    await turns()
    assert client.heard() == []
    assert "news" not in world.hub.topics


async def test_what_was_accepted_before_an_unsubscribe_still_comes(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    await world.publish("news", "1")
    client.says(op="unsubscribe", topic="news")
    assert [m["op"] for m in client.heard()] == ["message", "unsubscribed"]


async def test_unsubscribing_from_nothing_is_an_error(world: World) -> None:
    client = world.client()
    answer = client.asks(op="unsubscribe", id=2, topic="news")
    assert told(answer) == error(Code.NOT_SUBSCRIBED, id=2, topic="news")


async def test_the_server_ends_a_subscription_with_a_reason_and_no_id(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    assert client.session.leave("news", reason="the room is closed")
    assert client.heard() == [
        {"op": "unsubscribed", "topic": "news", "reason": "the room is closed"}
    ]
    assert not client.session.leave("news", reason="again")
    assert client.heard() == []


async def test_the_backend_subscribes_a_client_to_what_it_may_not_itself(world: World) -> None:
    client = world.client()
    client.session.join("closed:1")
    (answer,) = client.heard()
    assert (answer["op"], answer["topic"], "id" in answer) == ("subscribed", "closed:1", False)


# Publishing


async def test_published_says_where_and_everyone_gets_it(world: World) -> None:
    writer, reader = world.client(), world.client()
    epoch = reader.asks(op="subscribe", topic="news")["epoch"]
    writer.says(op="publish", id=4, topic="news", data={"text": "hello"})
    await turns()
    assert writer.heard() == [
        {"op": "published", "id": 4, "topic": "news", "epoch": epoch, "offset": 1}
    ]
    assert reader.data() == [{"text": "hello"}]
    assert world.counters.publications == {"client": 1}


async def test_published_without_history_has_no_position(world: World) -> None:
    client = world.client()
    client.says(op="publish", id=4, topic="plain:1", data=None)
    await turns()
    assert client.heard() == [{"op": "published", "id": 4, "topic": "plain:1"}]


async def test_a_clients_publications_keep_their_order(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    for n in range(200):
        client.says(op="publish", topic="news", data=n)
    await turns(300)
    messages = [m for m in client.heard() if m["op"] == "message"]
    assert [m["data"] for m in messages] == list(range(200))


@pytest.mark.parametrize(
    ("topic", "anonymous", "ann", "granted"),
    [
        ("news", True, True, True),
        ("members:1", False, True, True),
        ("rooms:1", False, False, True),
        ("closed:1", False, False, False),
        ("user:ann", False, True, True),
        ("user:bob", False, False, False),
    ],
)
async def test_who_may_publish(
    world: World, topic: str, anonymous: bool, ann: bool, granted: bool
) -> None:
    clients = [
        (world.client(), anonymous),
        (world.client(world.token("ann")), ann),
        (world.client(world.token("ann", publish=["rooms:*", "user:*"])), granted),
    ]
    for client, allowed in clients:
        client.says(op="publish", id=1, topic=topic, data=1)
        await turns()
        (answer,) = client.heard()
        if allowed:
            assert answer["op"] == "published"
        else:
            assert told(answer) == error(Code.FORBIDDEN, id=1, topic=topic)


async def test_a_key_goes_with_what_a_client_publishes(world: World) -> None:
    client = world.client()
    client.says(op="publish", topic="news", data=1, key="a")
    client.says(op="publish", topic="news", data=2)
    await turns()
    page = await world.broker.read("news", Want())
    assert [each.key for each in page.publications] == ["a", ""]


@pytest.mark.parametrize("key", ["", "a b", "k" * 129, "é", 1])
async def test_a_key_that_is_none_is_refused(world: World, key: object) -> None:
    answer = world.client().asks(op="publish", id=1, topic="news", data=1, key=key)
    assert (answer["code"], answer["id"]) == (Code.BAD_REQUEST, 1)
    assert "key" in answer["message"]


async def test_a_grant_to_read_is_no_grant_to_write(world: World) -> None:
    client = world.client(world.token(subscribe=["rooms:1"]))
    assert client.asks(op="publish", topic="rooms:1", data=1)["code"] == "forbidden"


@pytest.mark.parametrize(
    "data", ["1e999", "[" * 600 + "]" * 600, '"' + "x" * 99 + '"'], ids=["number", "depth", "size"]
)
async def test_data_that_cannot_be_published_is_refused(data: str) -> None:
    async with World(but(limits=Limits(data_bytes=100))) as world:
        client = world.client()
        client.says(f'{{"op":"publish","id":1,"topic":"news","data":{data}}}')
        (answer,) = client.heard()
        assert told(answer) == error(Code.BAD_DATA, id=1, topic="news")


@pytest.mark.parametrize("data", ["NaN", '"half of a pair: \\ud83d"', "[" * 900 + "]" * 900])
async def test_data_that_makes_the_whole_message_unreadable_is_refused_by_id(
    world: World, data: str
) -> None:
    """A page that cuts a text in the middle of an emoji sends such a half."""
    answer = world.client().asks(f'{{"op":"publish","topic":"news","data":{data},"id":1}}')
    assert told(answer) in (error(Code.BAD_REQUEST, id=1), error(Code.BAD_DATA, id=1, topic="news"))


async def test_data_arrives_as_it_was_written(world: World) -> None:
    """But for line breaks between tokens, which would end a field of an event stream."""
    client = world.client()
    client.says('{"op":"publish","topic":"news","data":{ "n" :\n1.50,"s":"\\u0041"}}')
    await turns()
    (publication,) = (await world.memory.read("news", Want(last=1))).publications
    assert publication.data == b'{ "n" : 1.50,"s":"\\u0041"}'


# History


async def test_history_gives_the_oldest_first(world: World) -> None:
    await world.publish("news", "1", "2", "3")
    client = world.client()
    page = client.asks(op="history", id=5, topic="news", limit=2)
    ts = int(NOW * 1000)
    assert page == {
        "op": "history",
        "id": 5,
        "topic": "news",
        "epoch": page["epoch"],
        "offset": 3,
        "messages": [{"offset": 1, "ts": ts, "data": 1}, {"offset": 2, "ts": ts, "data": 2}],
    }


async def test_history_is_read_page_by_page_in_both_directions(world: World) -> None:
    await world.publish("news", *"12345")
    client = world.client()
    epoch = client.asks(op="history", topic="news")["epoch"]

    def pages(reverse: bool, since: object = None) -> list[list[int]]:
        pages: list[list[int]] = []
        while True:
            page = client.asks(op="history", topic="news", limit=2, reverse=reverse, since=since)
            if not page["messages"]:
                return pages
            pages.append([message["data"] for message in page["messages"]])
            since = {"epoch": epoch, "offset": page["messages"][-1]["offset"]}

    assert pages(False) == [[1, 2], [3, 4], [5]]
    assert pages(True) == [[5, 4], [3, 2], [1]]
    assert pages(False, {"epoch": epoch, "offset": 3}) == [[4, 5]]
    assert pages(True, {"epoch": epoch, "offset": 3}) == [[2, 1]]


async def test_history_of_a_topic_without_publications_is_empty(world: World) -> None:
    page = world.client().asks(op="history", id=1, topic="news")
    assert (page["offset"], page["messages"]) == (0, [])


async def test_history_is_refused_where_there_is_none(world: World) -> None:
    answer = world.client().asks(op="history", id=1, topic="plain:1")
    assert told(answer) == error(Code.NO_HISTORY, id=1, topic="plain:1")


@pytest.fixture
async def big() -> AsyncIterator[World]:
    config = but(namespaces={"default": Namespace(history_size=3000, subscribe="everyone")})
    async with World(config) as world:
        yield world


async def test_one_page_has_a_limited_number_of_publications(big: World) -> None:
    await big.publish("news", *["1"] * (MAX_HISTORY_PAGE + 5))
    page = big.client().asks(op="history", topic="news", limit=10**30)
    assert len(page["messages"]) == MAX_HISTORY_PAGE


async def test_one_page_has_a_limited_number_of_bytes_but_one_publication_always(
    big: World,
) -> None:
    """The next page goes on where it was cut."""
    third = json.dumps("x" * (MAX_HISTORY_BYTES // 3))
    whole = json.dumps("y" * MAX_HISTORY_BYTES)
    await big.publish("news", third, third, third, whole, "1")
    client = big.client()
    sizes = []
    since = None
    for _ in range(4):
        page = client.asks(op="history", topic="news", since=since)
        sizes.append(len(page["messages"]))
        if page["messages"]:
            since = {"epoch": page["epoch"], "offset": page["messages"][-1]["offset"]}
    assert sizes == [2, 1, 1, 1]


async def test_presence_is_answered_though_nothing_keeps_it(world: World) -> None:
    client = world.client()
    answer = client.asks(op="presence", id=1, topic="news")
    assert told(answer) == error(Code.NO_PRESENCE, id=1, topic="news")
    answer = client.asks(op="presence", id=2, topic="closed:1")
    assert told(answer) == error(Code.FORBIDDEN, id=2, topic="closed:1")


# Errors


async def test_a_bad_message_is_answered_and_the_connection_lives(world: World) -> None:
    client = world.client()
    assert told(client.asks("{")) == error(Code.BAD_REQUEST)
    assert told(client.asks(op="dance", id=1)) == error(Code.UNKNOWN_OP, id=1)
    assert told(client.asks(op="connect", id=2)) == error(Code.BAD_REQUEST, id=2)
    assert client.asks(op="ping", id=3) == {"op": "pong", "id": 3}
    assert world.counters.errors == {"bad_request": 2, "unknown_op": 1}


async def test_too_many_errors_end_the_connection_for_good() -> None:
    async with World(but(limits=Limits(errors=3))) as world:
        client = world.client()
        for _ in range(2):
            client.asks("{")
            client.asks(op="ping")
        client.says("{")
        assert [m["op"] for m in client.heard()] == ["error", "goodbye"]
        assert client.closed == Close(4500, "too many errors")


async def test_errors_of_one_batch_count_as_one() -> None:
    async with World(but(limits=Limits(errors=3))) as world:
        client = world.client()
        batch = [{"topic": "closed:1"}, {"topic": "no topic"}] * 50
        client.says(op="subscribe", id=1, topics=[*batch, {"topic": "a"}])
        assert [m["op"] for m in client.heard()] == ["error"] * 100 + ["subscribed"]
        assert client.closed is None
        client.says(op="subscribe", id=2, topics=batch)
        client.heard()
        client.says(op="subscribe", id=3, topics=batch)
        assert [m["op"] for m in client.heard()] == ["error"] * 100 + ["goodbye"]
        assert client.closed == (4500, "too many errors")
        assert client.topics == []
        assert world.hub.topics == {}


async def test_a_backends_mistake_is_not_held_against_the_client() -> None:
    async with World(but(limits=Limits(errors=1))) as world:
        client = world.client()
        client.asks(op="subscribe", topic="a")
        client.session.join("a")
        assert told(client.heard()[0]) == error(Code.ALREADY_SUBSCRIBED, topic="a")
        assert client.closed is None


async def test_commands_beyond_the_rate_are_refused_with_a_time_to_come_back() -> None:
    async with World(but(limits=Limits(commands_per_s=10, command_burst=5))) as world:
        client = world.client()
        for _ in range(5):
            assert client.asks(op="ping")["op"] == "pong"
        answer = client.asks(op="subscribe", id=7, topic="a")
        assert told(answer) == error(Code.TOO_MANY, id=7, retry_ms=answer["retry_ms"])
        assert 0 < answer["retry_ms"] <= 101
        assert client.topics == []
        world.edge.wheel.advance(1)
        assert client.asks(op="ping")["op"] == "pong"
        assert client.asks(op="ping")["code"] == Code.TOO_MANY
        assert world.counters.commands_limited == 2


async def test_who_sends_on_at_full_speed_is_closed_as_one_that_reached_a_limit() -> None:
    limits = Limits(commands_per_s=10, command_burst=5, errors=20)
    async with World(but(limits=limits)) as world:
        client = world.client()
        for _ in range(25):
            client.says(op="ping")
        assert [m["op"] for m in client.heard()] == ["pong"] * 5 + ["error"] * 20 + ["goodbye"]
        assert client.closed == (4503, "limit reached: more than 10 commands a second")
        assert len(world.edge.command_rate) == 0


async def test_a_client_may_subscribe_to_all_its_topics_at_once_and_pays_afterwards() -> None:
    async with World(but(limits=Limits(commands_per_s=10, command_burst=5))) as world:
        client = world.client()
        client.says(op="subscribe", topics=[{"topic": f"t{n}"} for n in range(100)])
        assert [m["op"] for m in client.heard()] == ["subscribed"] * 100
        assert client.asks(op="ping")["code"] == Code.TOO_MANY
        world.edge.wheel.advance(6)
        assert client.asks(op="ping")["code"] == Code.TOO_MANY
        world.edge.wheel.advance(8)
        assert client.asks(op="ping")["op"] == "pong"


async def test_one_users_connections_are_counted_until_they_end() -> None:
    async with World(but(limits=Limits(user_connections=2))) as world:
        token = world.token()
        first, _second = world.client(token), world.client(token)
        third = world.arrival()
        third.session.identify(token)
        assert [m["op"] for m in third.heard()] == ["goodbye"]
        assert third.closed == (4503, "limit reached: a user's connections, at most 2")
        assert world.counters.refusals == {"user": 1}
        world.client(world.token("bob"))
        world.client()
        first.session.end()
        first.session.end()
        world.client(token)
        fifth = world.arrival()
        fifth.session.identify(token)
        assert fifth.closed is not None


async def test_a_broker_that_does_not_answer_is_not_the_clients_fault(slow: World) -> None:
    slow.slow.fails = BrokerUnavailable("the shard is away", 700)
    client = slow.client()
    for n in range(200):
        client.says(op="history", id=n, topic="news")
        await turns()
        (answer,) = client.heard()
        assert told(answer) == error(Code.UNAVAILABLE, id=n, topic="news", retry_ms=700)
    assert client.closed is None


# A broker that must be asked


async def test_each_command_says_when_to_try_again_while_the_broker_is_away(slow: World) -> None:
    slow.slow.fails = BrokerUnavailable("the shard is away", 700)
    client = slow.client()
    commands: list[Message] = [
        {"op": "subscribe", "topic": "news"},
        {"op": "publish", "topic": "news", "data": 1},
        {"op": "history", "topic": "news"},
    ]
    for id, command in enumerate(commands):
        client.says(id=id, **command)
        await turns()
        (answer,) = client.heard()
        assert told(answer) == error(Code.UNAVAILABLE, id=id, topic="news", retry_ms=700)
        assert answer["message"] == "the shard is away"
    assert (client.topics, slow.hub.topics) == ([], {})
    assert slow.slow.attached_topics == set()
    slow.slow.fails = None
    client.says(op="subscribe", id=9, topic="news")
    await turns()
    assert client.heard()[0]["op"] == "subscribed"


async def test_answers_may_change_places_but_keep_their_ids(slow: World) -> None:
    client = slow.client()
    slow.slow.hold_back()
    client.says(op="history", id=1, topic="news")
    assert client.asks(op="ping", id=2) == {"op": "pong", "id": 2}
    slow.slow.asked.set()
    await turns()
    (answer,) = client.heard()
    assert (answer["op"], answer["id"]) == ("history", 1)


async def test_a_resume_has_no_gap_and_no_duplicate_however_publications_fall(
    slow: World,
) -> None:
    """Before the question is read, after it, and while its answer is on the way."""
    await slow.publish("news", "1", "2")
    epoch = epoch_of(slow, "news")
    client, other = slow.client(), slow.client()
    other.says(op="subscribe", topic="news")
    await turns()
    other.heard()
    slow.slow.hold_back()
    slow.slow.answered.clear()
    client.says(op="subscribe", id=1, topic="news", since={"epoch": epoch, "offset": 1})
    await slow.publish("news", "3")  # before the question is read: in the page and in the hold
    await turns()
    slow.slow.asked.set()
    await turns()
    await slow.publish("news", "4")  # the answer is on its way: in the hold alone
    await turns()
    assert client.heard() == []
    await slow.publish("news", "5")  # pending while the answer arrives
    slow.slow.answered.set()
    await turns()
    await slow.publish("news", "6")
    await turns()
    answer, *messages = client.heard()
    assert (answer["op"], answer["offset"], answer["recovered"]) == ("subscribed", 3, True)
    assert [(m["offset"], m["data"]) for m in messages] == [(n, n) for n in range(2, 7)]
    assert other.data() == [3, 4, 5, 6]


async def test_a_fresh_subscription_gets_all_that_comes_after_its_position(slow: World) -> None:
    client = slow.client()
    slow.slow.answered.clear()
    client.says(op="subscribe", topic="news")
    await turns()
    await slow.publish("news", "1", "2")
    slow.slow.answered.set()
    await turns()
    answer, *messages = client.heard()
    assert answer["offset"] == 0
    assert [m["offset"] for m in messages] == [1, 2]


async def test_what_is_published_while_joining_without_history_is_not_promised(
    slow: World,
) -> None:
    """Nothing comes before the answer; after it everything does."""
    client = slow.client()
    slow.slow.answered.clear()
    client.says(op="subscribe", topic="plain:1")
    await turns()
    await slow.publish("plain:1", "1")
    await turns()
    assert client.heard() == []
    slow.slow.answered.set()
    await turns()
    await slow.publish("plain:1", "2")
    await turns()
    heard = client.heard()
    assert heard[0]["op"] == "subscribed"
    assert heard[-1]["data"] == 2


async def test_too_much_while_joining_is_told_as_lost_and_goes_on_from_there(
    slow: World,
) -> None:
    client = slow.client()
    slow.slow.answered.clear()
    client.says(op="subscribe", id=1, topic="news")
    await turns()
    await slow.publish("news", *[json.dumps("x" * 1_000_000)] * 6)
    slow.slow.answered.set()
    await turns()
    await slow.publish("news", '"after"')
    await turns()
    subscribed, lost, message = client.heard()
    assert (subscribed["op"], subscribed["offset"]) == ("subscribed", 0)
    assert (lost["op"], lost["epoch"]) == ("lost", subscribed["epoch"])
    assert (message["data"], message["offset"]) == ("after", lost["offset"] + 1)


async def test_too_much_that_ends_with_a_new_epoch_is_told_as_lost_up_to_there(slow: World) -> None:
    client = slow.client()
    slow.slow.answered.clear()
    client.says(op="subscribe", id=1, topic="news")
    await turns()
    await slow.publish("news", *[json.dumps("x" * 1_000_000)] * 5)
    turn = slow.memory.turn("news")
    slow.memory.quick("news", b'"no position"')
    slow.slow.answered.set()
    await turns()
    _, lost = client.heard()
    assert (lost["op"], lost["epoch"], lost["offset"]) == ("lost", turn.epoch, 5)


@pytest.mark.parametrize("read", ["before", "after"])
async def test_a_resume_across_a_turn_has_no_gap_and_no_duplicate(slow: World, read: str) -> None:
    """The stream turns before the question is read, or while its answer is on the way."""
    await slow.publish("news", "1", "2")
    epoch = epoch_of(slow, "news")
    client = slow.client()
    slow.slow.hold_back()
    slow.slow.answered.clear()
    client.says(op="subscribe", id=1, topic="news", since={"epoch": epoch, "offset": 1})
    await slow.publish("news", "3")
    if read == "after":
        slow.slow.asked.set()
        await turns()
    turn = slow.memory.turn("news")
    await slow.publish("news", "4")
    slow.slow.asked.set()
    await turns()
    slow.slow.answered.set()
    await turns()
    await slow.publish("news", "5")
    await turns()
    answer, *rest = client.heard()
    assert (answer["op"], answer["id"], answer["recovered"]) == ("subscribed", 1, True)
    unasked = {
        "op": "subscribed",
        "topic": "news",
        "epoch": turn.epoch,
        "offset": 3,
        "recovered": True,
    }
    if read == "after":
        assert (answer["epoch"], answer["offset"]) == (epoch, 3)
        assert rest.pop(2) == unasked
    else:
        assert (answer["epoch"], answer["offset"]) == (turn.epoch, 4)
        assert unasked not in rest
    assert [(m["offset"], m["data"]) for m in rest] == [(n, n) for n in (2, 3, 4, 5)]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("read", ["before", "after"])
async def test_a_subscription_that_begins_across_a_loss_is_told_of_it_unless_it_missed_nothing(
    slow: World, read: str, restart: bool
) -> None:
    await slow.publish("news", "1", "2")
    client = slow.client()
    slow.slow.hold_back()
    slow.slow.answered.clear()
    client.says(op="subscribe", id=1, topic="news")
    await slow.publish("news", "3")
    if read == "after":
        slow.slow.asked.set()
        await turns()
    loss = slow.memory.lose("news", b'"missed"', restart=restart)
    slow.slow.asked.set()
    await turns()
    slow.slow.answered.set()
    await turns()
    await slow.publish("news", '"next"')
    await turns()
    answer, *told, message = client.heard()
    if read == "after":
        (lost,) = told
        assert (lost["op"], lost["reason"]) == ("lost", loss.data.decode())
        assert (lost["epoch"], lost["offset"]) == (loss.epoch, loss.offset)
        assert answer["offset"] == 3
    else:
        assert told == []
        assert (answer["epoch"], answer["offset"]) == (loss.epoch, loss.offset)
    assert (message["data"], message["offset"]) == ("next", loss.offset + 1)


async def test_what_has_no_position_comes_whenever_it_came_after_the_command(slow: World) -> None:
    client = slow.client()
    slow.slow.answered.clear()
    client.says(op="subscribe", id=1, topic="news")
    slow.memory.quick("news", b'"before the answer"')
    await turns()
    await slow.publish("news", "1")
    slow.slow.answered.set()
    await turns()
    slow.memory.quick("news", b'"after it"')
    await turns()
    _, *messages = client.heard()
    assert [(m["data"], m.get("offset")) for m in messages] == [
        ("before the answer", None),
        (1, 1),
        ("after it", None),
    ]


async def test_a_position_of_an_epoch_that_turned_resumes(world: World) -> None:
    epoch = epoch_of(world, "news")
    await world.publish("news", "1", "2")
    turn = world.memory.turn("news")
    await world.publish("news", "3")
    client = world.client()
    client.says(op="subscribe", topic="news", since={"epoch": epoch, "offset": 1})
    answer, *messages = client.heard()
    assert (answer["epoch"], answer["recovered"]) == (turn.epoch, True)
    assert [m["data"] for m in messages] == [2, 3]
    assert world.counters.replayed == 2


async def test_without_history_nothing_is_lost_before_the_answer(slow: World) -> None:
    client = slow.client()
    slow.slow.answered.clear()
    client.says(op="subscribe", topic="plain:1")
    await turns()
    await slow.publish("plain:1", *[json.dumps("x" * 1_000_000)] * 6)
    slow.slow.answered.set()
    await turns()
    assert "lost" not in {message["op"] for message in client.heard()}


async def test_while_joining_the_topic_counts_as_subscribed() -> None:
    async with World(but(limits=Limits(subscriptions=1)), slow=True) as world:
        client = world.client()
        world.slow.hold_back()
        client.says(op="subscribe", id=1, topic="news")
        assert client.session.has("news")
        answer = client.asks(op="subscribe", id=2, topic="news")
        assert told(answer) == error(Code.ALREADY_SUBSCRIBED, id=2, topic="news")
        answer = client.asks(op="subscribe", id=3, topic="other")
        assert told(answer) == error(Code.TOO_MANY, id=3, topic="other")


async def test_unsubscribing_while_joining_answers_both_commands(slow: World) -> None:
    client = slow.client()
    slow.slow.hold_back()
    client.says(op="subscribe", id=1, topic="news")
    await turns()
    client.says(op="unsubscribe", id=2, topic="news")
    failed, unsubscribed = client.heard()
    assert told(failed) == error(Code.NOT_SUBSCRIBED, id=1, topic="news")
    assert unsubscribed == {"op": "unsubscribed", "id": 2, "topic": "news"}
    assert slow.hub.topics == {}
    slow.slow.asked.set()
    await turns()
    await slow.publish("news", "1")
    await turns()
    assert client.heard() == []
    assert not client.session.has("news")


async def test_changing_ones_mind_is_not_an_error_of_the_client() -> None:
    """A page that shows and hides things quickly does just that."""
    async with World(but(limits=Limits(errors=3, in_flight=100)), slow=True) as world:
        client = world.client()
        world.slow.hold_back()
        for n in range(20):
            client.says(op="subscribe", id=n, topic="news")
            client.says(op="unsubscribe", topic="news")
        assert client.closed is None


async def test_subscribing_anew_while_the_old_question_is_under_way(slow: World) -> None:
    client = slow.client()
    slow.slow.hold_back()
    client.says(op="subscribe", id=1, topic="news")
    await turns()
    client.says(op="unsubscribe", id=2, topic="news")
    client.says(op="subscribe", id=3, topic="news")
    client.heard()
    slow.slow.asked.set()
    await turns()
    (answer,) = client.heard()
    assert (answer["op"], answer["id"]) == ("subscribed", 3)
    await slow.publish("news", "1")
    await turns()
    assert client.data() == [1]


async def test_who_vanishes_while_joining_leaves_nothing_behind(slow: World) -> None:
    client = slow.client()
    slow.slow.hold_back()
    client.says(op="subscribe", topics=[{"topic": "a"}, {"topic": "b"}])
    client.says(op="publish", topic="a", data=1)
    client.says(op="history", topic="a")
    await turns()
    client.vanishes()
    assert slow.hub.topics == {}
    slow.slow.asked.set()
    await turns()
    assert (slow.hub.topics, len(slow.tasks)) == ({}, 0)
    assert slow.slow.attached_topics == set()
    # What it published before was accepted all the same.
    assert slow.counters.publications == {"client": 1}


async def test_who_vanishes_while_the_broker_fails_leaves_nothing_behind(slow: World) -> None:
    client = slow.client()
    slow.slow.hold_back()
    client.says(op="subscribe", topic="a")
    client.says(op="publish", topic="a", data=1)
    client.says(op="history", topic="a")
    await turns()
    client.vanishes()
    slow.slow.fails = BrokerUnavailable("the shard is away")
    slow.slow.asked.set()
    await turns()
    assert (slow.hub.topics, len(slow.tasks)) == ({}, 0)


async def test_a_permission_lost_while_joining_ends_it(slow: World) -> None:
    client = slow.client(slow.token(subscribe=["rooms:1"]))
    slow.slow.hold_back()
    client.says(op="subscribe", id=1, topic="rooms:1")
    await turns()
    client.says(op="refresh", id=2, token=slow.token())
    slow.slow.asked.set()
    await turns()
    assert [m["op"] for m in client.heard()] == ["error", "unsubscribed", "refreshed"]
    assert not client.session.has("rooms:1")


async def test_a_fault_of_ours_ends_the_connection_so_that_nobody_waits_in_vain(
    slow: World, caplog: pytest.LogCaptureFixture
) -> None:
    slow.slow.breaks = LookupError("a bug")
    client = slow.client()
    client.says(op="subscribe", id=1, topic="news")
    await turns()
    assert client.closed == Close(4005, "internal error")
    assert slow.hub.topics == {}
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "subscribe failed")


async def test_a_fault_of_ours_after_the_end_is_logged_and_that_is_all(
    slow: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = slow.client()
    slow.slow.hold_back()
    client.says(op="history", topic="news")
    await turns()
    client.vanishes()
    slow.slow.breaks = LookupError("a bug")
    slow.slow.asked.set()
    await turns()
    assert client.closed is None
    assert [record.getMessage() for record in caplog.records] == ["history failed"]


# A connection that is found dead while it is written to


@pytest.mark.parametrize("op", ["subscribed", "message"])
async def test_who_dies_of_the_answer_to_a_subscription_is_not_in_the_hub(
    world: World, op: str
) -> None:
    """Its descriptor becomes somebody else's, who must not get these messages."""
    await world.publish("news", "1", "2")
    client = world.client()
    client.ends_at = op
    client.says(op="subscribe", topics=[{"topic": "news", "last": 1}, {"topic": "other"}])
    assert (client.topics, world.hub.topics) == ([], {})


@pytest.mark.parametrize("op", ["subscribed", "message"])
async def test_who_dies_of_a_late_answer_is_not_in_the_hub_either(slow: World, op: str) -> None:
    await slow.publish("news", "1")
    client = slow.client()
    client.ends_at = op
    client.says(op="subscribe", topic="news", last=1)
    slow.slow.answered.clear()
    await turns()
    await slow.publish("news", "2")
    slow.slow.answered.set()
    await turns()
    assert client.session.over
    assert (client.topics, slow.hub.topics) == ([], {})
    assert slow.slow.attached_topics == set()


async def test_who_dies_of_what_was_pending_leaves_quietly(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    await world.publish("news", "1")
    client.ends_at = "message"
    client.says(op="unsubscribe", topic="news")
    assert [m["op"] for m in client.heard()] == ["message"]
    assert world.hub.topics == {}


async def test_who_dies_during_a_refresh_leaves_quietly(world: World) -> None:
    client = world.client(world.token(subscribe=["rooms:*"]))
    client.says(op="subscribe", topics=[{"topic": "rooms:1"}, {"topic": "rooms:2"}])
    client.heard()
    client.ends_at = "unsubscribed"
    client.says(op="refresh", token=world.token())
    assert len(client.heard()) == 1
    assert world.hub.topics == {}


async def test_ending_twice_does_nothing(world: World) -> None:
    client = world.client()
    client.asks(op="subscribe", topic="news")
    client.vanishes()
    client.session.end()
    assert (client.topics, world.hub.topics) == ([], {})


# Commands in flight


async def test_beyond_its_commands_in_flight_a_client_is_not_read() -> None:
    async with World(but(limits=Limits(in_flight=2)), slow=True) as world:
        client = world.client()
        world.slow.hold_back()
        client.says(op="history", id=1, topic="news")
        client.says(op="history", id=2, topic="news")
        assert not client.quiet
        client.says(op="ping", id=3)
        assert client.quiet
        client.says(op="history", id=4, topic="news")
        client.says(op="history", id=5, topic="news")
        client.says(op="ping", id=6)
        assert client.heard() == []
        world.slow.asked.set()
        await turns(40)
        assert sorted(m["id"] for m in client.heard()) == [1, 2, 3, 4, 5, 6]
        assert not client.quiet


async def test_a_backlog_is_handled_in_order_and_as_places_come_free() -> None:
    async with World(but(limits=Limits(in_flight=1)), slow=True) as world:
        client = world.client()
        client.says(op="subscribe", topic="news")
        await turns()
        client.heard()
        for n in range(20):
            client.says(op="publish", topic="news", data=n)
        await turns(300)
        messages = [m["data"] for m in client.heard() if m["op"] == "message"]
        assert messages == list(range(20))
        assert not client.quiet


async def test_who_is_closed_with_a_backlog_hears_no_more_of_it() -> None:
    async with World(but(limits=Limits(in_flight=1, errors=2)), slow=True) as world:
        client = world.client()
        world.slow.hold_back()
        client.says(op="history", id=1, topic="news")
        for text in ("{", "{", "{", '{"op":"ping"}'):
            client.says(text)
        world.slow.asked.set()
        await turns()
        ops = [m["op"] for m in client.heard()]
        assert ops == ["history", "error", "error", "goodbye"]


async def test_who_vanishes_with_a_backlog_leaves_nothing_behind() -> None:
    async with World(but(limits=Limits(in_flight=1)), slow=True) as world:
        client = world.client()
        world.slow.hold_back()
        client.says(op="subscribe", id=1, topic="news")
        client.says(op="subscribe", id=2, topic="other")
        await turns()
        client.vanishes()
        world.slow.asked.set()
        await turns()
        assert (world.hub.topics, len(world.tasks)) == ({}, 0)


async def test_the_end_of_the_worker_ends_what_is_in_flight() -> None:
    """Also what was waiting for a place; nothing is left running, or was never begun."""
    async with World(but(limits=Limits(in_flight=2)), slow=True) as world:
        client = world.client()
        world.slow.hold_back()
        for n in range(7):
            client.says(op="subscribe", id=n, topic=f"topic-{n}")
        await world.tasks.close()
        assert len(world.tasks) == 0
        client.vanishes()
        assert world.hub.topics == {}


async def test_commands_are_counted_by_op(world: World) -> None:
    client = world.client()
    client.asks(op="ping")
    client.asks(op="ping")
    client.asks(op="subscribe", topic="news")
    client.asks("{")
    assert world.counters.commands == {"ping": 2, "subscribe": 1}
