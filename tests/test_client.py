"""The Python client as programs use it: iterating, callbacks, sharing, slowness, mistakes, ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from clarion_client import (
    Client,
    Closed,
    Lost,
    Message,
    MessagesLost,
    Phase,
    Position,
    Refused,
    SlowConsumer,
    State,
    Subscribed,
    Subscription,
    Unanswered,
    Unsubscribed,
    __version__,
)
from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Config, Namespace, WindowOptions
from support.redis_servers import RedisServer
from support.server import SECRET, clients, configuration, publish, running, token
from support.waiting import DEADLINE, until
from support.wire_server import Refusal, Script, Talk, wire_server

ROOT = Path(__file__).parent.parent
TOPIC = "orders:1"
QUICK = (0.01, 0.05)


@asynccontextmanager
async def connected(
    config: Config | None = None, **options: Any
) -> AsyncIterator[tuple[Worker, Client]]:
    options.setdefault("pause_s", QUICK)
    async with (
        running(config) as worker,
        Client(f"ws://127.0.0.1:{worker.port}", **options) as client,
        asyncio.timeout(DEADLINE),
    ):
        yield worker, client


@asynccontextmanager
async def facing(*scripts: Script | Refusal, **options: Any) -> AsyncIterator[Client]:
    """A client of a server that says what the scripts say, a connection each."""
    options.setdefault("pause_s", QUICK)
    async with (
        wire_server(*scripts) as url,
        Client(url, **options) as client,
        asyncio.timeout(DEADLINE),
    ):
        yield client


async def take(subscription: Subscription, count: int = 1) -> list[Any]:
    return [(await anext(subscription)).data for _ in range(count)]


async def welcome(talk: Talk, **fields: object) -> None:
    await talk.says("welcome", client="c-1", ping_ms=25000, **fields)


async def grant(talk: Talk, **fields: object) -> str:
    """Grants the next `subscribe` of one topic. Returns the topic."""
    command = await talk.hears()
    assert command["op"] == "subscribe"
    topic = str(command["topics"][0]["topic"])
    await talk.says("subscribed", id=command["id"], topic=topic, **fields)
    return topic


# Subscribing


async def test_messages_say_where_and_when_they_were_published() -> None:
    async with connected() as (worker, client), client.subscribe(TOPIC) as subscription:
        position = await publish(worker, TOPIC, {"text": "Grüße 👋"})
        message = await anext(subscription)
        assert (message.topic, message.data) == (TOPIC, {"text": "Grüße 👋"})
        assert position is not None
        assert message.position == Position(position.epoch, position.offset)
        assert abs((datetime.now(UTC) - message.time).total_seconds()) < 60


async def test_a_topic_without_history_has_no_positions() -> None:
    async with connected() as (worker, client), client.subscribe("bare:1") as subscription:
        await publish(worker, "bare:1", 1)
        assert (await anext(subscription)).position is None
        assert subscription.positions == {}


async def test_several_topics_are_one_subscription() -> None:
    async with (
        connected() as (worker, client),
        client.subscribe("orders:1", "orders:2") as subscription,
    ):
        for n, topic in enumerate(["orders:1", "orders:2", "orders:1"]):
            await publish(worker, topic, n)
        # Between topics there is no order.
        assert sorted(await take(subscription, 3)) == [0, 1, 2]
        assert {t: p.offset for t, p in subscription.positions.items()} == {
            "orders:1": 2,
            "orders:2": 1,
        }


async def test_each_topic_may_begin_at_its_own_position() -> None:
    async with connected() as (worker, client):
        positions = {}
        for topic in ("orders:1", "orders:2"):
            for n in range(3):
                position = await publish(worker, topic, n)
                assert position is not None
                positions[topic] = Position(position.epoch, 3 if topic == "orders:1" else 1)
        subscription = client.subscribe("orders:1", "orders:2", "orders:3", since=positions)
        assert await take(subscription, 2) == [1, 2]


async def test_the_newest_of_the_history_may_come_first() -> None:
    async with connected() as (worker, client):
        for n in range(5):
            await publish(worker, TOPIC, n)
        subscription = client.subscribe(TOPIC, last=2)
        assert await take(subscription, 2) == [3, 4]


async def test_topics_come_and_go_while_it_lives() -> None:
    async with connected() as (worker, client), client.subscribe("orders:1") as subscription:
        subscription.add("orders:2")
        await subscription.ready()
        await publish(worker, "orders:2", 2)
        assert await take(subscription) == [2]
        subscription.remove("orders:1")
        await until(lambda: "orders:1" not in worker.hub.topics)
        assert subscription.topics == {"orders:2"}
        with pytest.raises(ValueError, match="already"):
            subscription.add("orders:2")
        with pytest.raises(ValueError, match="not part of"):
            subscription.remove("orders:1")
        subscription.remove("orders:2")
        assert [m async for m in subscription] == []
        with pytest.raises(ValueError, match="over"):
            subscription.add("orders:3")


async def test_two_subscriptions_share_a_topic() -> None:
    async with connected() as (worker, client):
        async with client.subscribe(TOPIC) as one:
            await publish(worker, TOPIC, 1)
            assert await take(one) == [1]
            async with client.subscribe(TOPIC) as two:
                await publish(worker, TOPIC, 2)
                assert await take(one) == await take(two) == [2]
            await publish(worker, TOPIC, 3)
            assert await take(one) == [3]
            with pytest.raises(ValueError, match="shared"):
                client.subscribe(TOPIC, last=3)
        await until(lambda: TOPIC not in worker.hub.topics)
        assert worker.counters.commands["subscribe"] == 1


async def test_everything_that_happens_can_be_seen_in_order() -> None:
    async with connected() as (worker, client):
        await publish(worker, TOPIC, 1)
        events = client.subscribe(TOPIC, last=1).events()
        granted = await anext(events)
        assert isinstance(granted, Subscribed)
        assert granted.recovered is None
        assert granted.position is None
        assert granted.newest is not None
        assert granted.newest.offset == 1
        assert isinstance(await anext(events), Message)


async def test_leaving_events_early_unsubscribes_too() -> None:
    async with connected() as (worker, client):
        async for event in client.subscribe(TOPIC).events():
            assert isinstance(event, Subscribed)
            break
        await until(lambda: TOPIC not in worker.hub.topics)


async def test_a_subscription_that_is_kept_lives_on_after_the_loop_was_left() -> None:
    async with connected() as (worker, client):
        subscription = client.subscribe(TOPIC)
        await subscription.ready()
        for n in range(3):
            await publish(worker, TOPIC, n)
        async for message in subscription:
            assert message.data == 0
            break
        async for message in subscription:
            assert message.data == 1
            break
        del subscription
        await until(lambda: TOPIC not in worker.hub.topics)


async def test_a_cancelled_wait_loses_nothing() -> None:
    async with connected() as (worker, client), client.subscribe(TOPIC) as subscription:
        for n in range(20):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await anext(subscription)
            waiting = asyncio.get_running_loop().create_task(take(subscription))
            await asyncio.sleep(0)
            await publish(worker, TOPIC, n)
            waiting.cancel()
            await asyncio.wait([waiting])
            taken = await take(subscription) if waiting.cancelled() else waiting.result()
            assert taken == [n]


async def test_several_tasks_may_take_from_one_subscription() -> None:
    async with connected() as (worker, client), client.subscribe(TOPIC) as subscription:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(take(subscription, 10)) for _ in range(4)]
            for n in range(40):
                await publish(worker, TOPIC, n)
        taken = [data for task in tasks for data in task.result()]
        assert sorted(taken) == list(range(40))


# Losses


async def lose(talk: Talk) -> None:
    await welcome(talk)
    topic = await grant(talk, epoch="e", offset=5)
    await talk.says("message", topic=topic, offset=6, ts=1, data=6)
    await talk.says("lost", topic=topic, epoch="e", offset=9, reason="too slow")
    await talk.says("message", topic=topic, offset=10, ts=1, data=10)
    await talk.is_left()


async def test_a_loss_is_raised_and_the_subscription_lives_on() -> None:
    async with facing(lose) as client:
        subscription = client.subscribe(TOPIC)
        assert await take(subscription) == [6]
        with pytest.raises(MessagesLost, match="too slow") as lost:
            await anext(subscription)
        assert lost.value.lost == Lost(TOPIC, Position("e", 9), "too slow")
        assert await take(subscription) == [10]


async def test_a_loss_may_be_handled_between_two_messages() -> None:
    handled: list[Lost] = []

    async def refetch(lost: Lost) -> None:
        await asyncio.sleep(0)
        handled.append(lost)

    async with facing(lose) as client:
        assert await take(client.subscribe(TOPIC, on_lost=refetch), 2) == [6, 10]
    assert len(handled) == 1


async def test_a_loss_is_one_of_the_events() -> None:
    async with facing(lose) as client:
        events = client.subscribe(TOPIC).events()
        kinds = [type(await anext(events)) for _ in range(4)]
        assert kinds == [Subscribed, Message, Lost, Message]


# Callbacks


async def five(talk: Talk) -> None:
    await welcome(talk)
    topic = await grant(talk)
    for n in range(5):
        await talk.says("message", topic=topic, ts=1, data=n)
    assert (await talk.hears())["op"] == "unsubscribe"
    await talk.is_left()


async def test_callbacks_are_called_in_order_one_after_another() -> None:
    heard: list[int] = []

    async def on_message(message: Message) -> None:
        before = len(heard)
        await asyncio.sleep(0.001)
        assert len(heard) == before
        heard.append(message.data)

    async with facing(five) as client:
        subscription = client.listen(TOPIC, on_message=on_message, on_lost=print)
        await until(lambda: len(heard) == 5)
        assert heard == list(range(5))
        subscription.close()


async def test_a_callback_that_fails_is_logged_and_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_message(message: Message) -> None:
        raise LookupError("a mistake of the program")

    async with facing(five) as client:
        subscription = client.listen(TOPIC, on_message=on_message, on_lost=print)
        await until(lambda: caplog.text.count("LookupError: a mistake of the program") == 5)
        subscription.close()


async def test_listening_needs_a_word_about_losses() -> None:
    async with connected() as (_, client):
        with pytest.raises(TypeError, match="on_lost"):
            client.listen(TOPIC, on_message=print)  # type: ignore[call-arg]


async def test_callbacks_hear_of_losses_and_survive_refusals() -> None:
    heard: list[object] = []
    async with facing(lose) as client:
        client.listen(TOPIC, on_message=heard.append, on_lost=heard.append)
        await until(lambda: len(heard) == 3)
        assert [type(event) for event in heard] == [Message, Lost, Message]


# What the backend does


def closed_to_most() -> Config:
    return configuration(
        auth=AuthOptions(anonymous=False, secret=SECRET),
        namespaces={
            "orders": Namespace(history_size=100, subscribe="granted"),
            "chat": Namespace(history_size=100, subscribe="users", publish="users"),
        },
    )


async def test_topics_that_the_backend_gives_are_a_subscription_of_their_own() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        await talk.says("subscribed", topic="a", epoch="e", offset=5)
        await talk.says("message", topic="a", offset=6, ts=1, data=6)
        await talk.breaks()

    async def again(talk: Talk) -> None:
        await welcome(talk)
        command = await talk.hears()
        assert command["topics"] == [{"topic": "a", "since": {"epoch": "e", "offset": 6}}]
        await talk.says(
            "subscribed", id=command["id"], topic="a", epoch="e", offset=7, recovered=True
        )
        await talk.says("message", topic="a", offset=7, ts=1, data=7)
        await talk.says("unsubscribed", topic="a", reason="enough")
        await talk.says("subscribed", topic="b")
        await talk.says("message", topic="b", ts=1, data="b")
        assert (await talk.hears())["op"] == "unsubscribe"
        await talk.is_left()

    async with facing(script, again) as client:
        given = client.given()
        with pytest.raises(ValueError, match="one such"):
            client.given()
        assert await take(given, 2) == [6, 7]
        with pytest.raises(Unsubscribed, match="enough"):
            await anext(given)
        assert await take(given) == ["b"]
        given.close()
        client.given().close()


async def test_without_that_they_are_ignored() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        await talk.says("subscribed", topic="a", epoch="e", offset=5)
        await talk.says("message", topic="a", offset=6, ts=1, data=6)
        await grant(talk)
        assert (await talk.hears())["op"] == "unsubscribe"
        await talk.is_left()

    async with facing(script) as client, client.subscribe("b") as subscription:
        assert subscription.queued == 1


async def test_the_server_may_end_a_subscription() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        topic = await grant(talk)
        await talk.says("unsubscribed", topic=topic, reason="the new token does not allow it")
        await talk.is_left()

    async with facing(script) as client:
        subscription = client.subscribe(TOPIC)
        with pytest.raises(Unsubscribed, match="the new token does not allow it") as ended:
            await anext(subscription)
        assert ended.value.topic == TOPIC
        assert [m async for m in subscription] == []


async def test_a_refusal_is_raised_on_entering_and_nothing_is_left() -> None:
    async with connected(closed_to_most(), token=token("42")) as (worker, client):
        with pytest.raises(Refused) as refused:
            async with client.subscribe("chat:1", TOPIC):
                raise AssertionError("it was refused")
        assert (refused.value.code, refused.value.topic) == ("forbidden", TOPIC)
        await until(lambda: not worker.hub.topics)


# Commands


async def test_publishing_and_history_and_their_refusals() -> None:
    async with connected(closed_to_most(), token=token("42")) as (_, client):
        first = await client.publish("chat:1", {"text": "hello"})
        second = await client.publish("chat:1", None)
        assert first.position is not None
        assert second.position == Position(first.position.epoch, 2)
        history = await client.history("chat:1", reverse=True, limit=1)
        assert history.position == second.position
        assert [m.data for m in history.messages] == [None]
        history = await client.history("chat:1", since=first.position)
        assert [m.position for m in history.messages] == [second.position]
        with pytest.raises(Refused, match="forbidden"):
            await client.publish("orders:1", 1)
        with pytest.raises(Refused):
            await client.presence("chat:1")


async def test_presence_comes_in_pages() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        for limit, after in ((None, None), (5, "c-1")):
            command = await talk.hears()
            assert (command.get("limit"), command.get("after")) == (limit, after)
            members = [{"client": "c-1", "user": "42"}, {"client": "c-2"}]
            fields = {"id": command["id"], "topic": "a", "count": 9, "members": members}
            await talk.says("presence", **fields, **({} if after else {"next": "c-1"}))
        await talk.is_left()

    async with facing(script) as client:
        page = await client.presence("a")
        assert (page.count, page.next, page.members[1].user) == (9, "c-1", None)
        assert (await client.presence("a", limit=5, after=page.next)).next is None


async def test_pages_of_the_past_and_of_members_are_walked() -> None:
    everybody = Namespace(presence="members", history_size=3000, subscribe="everyone")
    async with connected(configuration(namespaces={"chat": everybody})) as (worker, one):
        for number in range(2100):
            await publish(worker, "chat:1", number)
        assert [message.data async for message in one.past("chat:1")] == list(range(2100))
        newest = [message async for message in one.past("chat:1", reverse=True)]
        assert [message.data for message in newest] == list(reversed(range(2100)))
        since = newest[2].position
        assert [message.data async for message in one.past("chat:1", since=since)] == [2098, 2099]
        async with one.subscribe("chat:1"), one.subscribe("orders:1"):
            [member] = [member async for member in one.members("chat:1")]
            assert member.client == one.state.client


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        await talk.hears()
        await talk.is_left()

    async with facing(script) as client:
        with pytest.raises(Unanswered, match=r"no answer within 0\.05 s") as unanswered:
            await client.publish("a", 1, answer_s=0.05)
        assert unanswered.value.sent
        assert isinstance(unanswered.value, TimeoutError)


async def test_a_command_that_was_not_even_sent_says_so() -> None:
    async with facing(Refusal(503, {"Retry-After": "60"})) as client:
        with pytest.raises(Unanswered, match="no connection") as unanswered:
            await client.publish("a", 1, answer_s=0.1)
        assert not unanswered.value.sent


async def test_a_publish_whose_connection_breaks_is_not_repeated_and_a_question_is() -> None:
    async def breaks(talk: Talk) -> None:
        await welcome(talk)
        assert {(await talk.hears())["op"], (await talk.hears())["op"]} == {"publish", "history"}
        await talk.breaks()

    async def answers(talk: Talk) -> None:
        await welcome(talk)
        command = await talk.hears()
        assert command["op"] == "history"
        await talk.says("history", id=command["id"], topic="a", epoch="e", offset=0, messages=[])
        await talk.is_left()

    async with facing(breaks, answers) as client:
        publishing, asking = await asyncio.gather(
            client.publish("a", 1), client.history("a"), return_exceptions=True
        )
        assert isinstance(publishing, Unanswered)
        assert publishing.sent
        assert not isinstance(asking, BaseException)
        assert asking.position == Position("e", 0)


async def test_a_cancelled_command_leaves_nothing_behind() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        first = await talk.hears()
        second = await talk.hears()
        for command in (first, second):
            await talk.says("published", id=command["id"], topic="a")
        await talk.is_left()

    async with facing(script) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.publish("a", 1)
        assert (await client.publish("a", 2)).topic == "a"


async def test_what_is_no_json_is_the_programs_mistake() -> None:
    async with connected() as (_, client):
        with pytest.raises(ValueError, match="is no conflation key"):
            await client.publish(TOPIC, 1, key="a b")
        for data in (float("nan"), {1, 2}, "\ud800"):
            with pytest.raises((TypeError, ValueError)):
                await client.publish(TOPIC, data)
        assert (await client.publish(TOPIC, 1)).position is not None


# Slow programs


async def test_a_slow_subscription_does_not_slow_the_others_unless_it_waits() -> None:
    async with connected(buffer=5) as (worker, client):
        slow = client.subscribe("orders:1", when_full="drop_oldest")
        async with slow, client.subscribe("orders:2") as quick:
            for n in range(50):
                await publish(worker, "orders:1", n)
            await publish(worker, "orders:2", "quick")
            assert await take(quick) == ["quick"]
            assert slow.dropped == 45
            assert await take(slow, 5) == [45, 46, 47, 48, 49]


async def test_a_subscription_that_is_to_raise_ends_behind_what_is_queued() -> None:
    async with connected() as (worker, client):
        subscription = client.subscribe(TOPIC, buffer=3, when_full="raise")
        await subscription.ready()
        for n in range(10):
            await publish(worker, TOPIC, n)
        await until(lambda: TOPIC not in worker.hub.topics)
        assert await take(subscription, 3) == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(SlowConsumer):
                await anext(subscription)


async def test_a_program_that_waits_too_long_for_its_server_misses_nothing() -> None:
    """The server ends the connection (4001); what it could not send is fetched afterwards."""
    config = configuration(
        window=WindowOptions(bytes=1024, seconds=0.05),
        namespaces={"orders": Namespace(history_size=1000, subscribe="everyone")},
    )
    async with (
        connected(config, buffer=2) as (worker, client),
        client.subscribe(TOPIC) as subscription,
    ):
        for n in range(900):
            await publish(worker, TOPIC, [n, "x" * 10_000])
        await until(lambda: worker.counters.closes[4001])
        taken = []
        for _ in range(900):
            taken.append((await anext(subscription)).data[0])
        assert taken == list(range(900))


async def test_asking_for_another_subscription_while_a_queue_is_full_is_answered() -> None:
    async with connected(buffer=3) as (worker, client), client.subscribe("orders:1") as first:
        for n in range(30):
            await publish(worker, "orders:1", n)
        assert await take(first) == [0]
        async with client.subscribe("orders:2"):
            pass
        assert await take(first, 29) == list(range(1, 30))


# Tokens


async def test_a_token_callback_that_fails_is_tried_again() -> None:
    tries: list[int] = []

    async def get() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("the issuer is out of reach")
        return token("42")

    states: list[State] = []
    async with connected(closed_to_most(), token=get, on_state=states.append) as (_, client):
        assert (await client.connected()).user == "42"
    assert "no token: OSError: the issuer is out of reach" in {state.why for state in states}


async def test_a_token_that_hangs_is_given_up_with_the_attempt() -> None:
    tries: list[int] = []

    async def get() -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.sleep(60)
        return token("42")

    async with connected(closed_to_most(), token=get, connect_s=0.1) as (_, client):
        await client.connected()
        assert len(tries) == 2


async def test_one_token_serves_many_connections() -> None:
    made: list[int] = []

    def get() -> str:
        made.append(1)
        return token("42")

    async def script(talk: Talk) -> None:
        assert talk.headers["Authorization"].startswith("Bearer ey")
        await welcome(talk)
        await talk.breaks()

    async def last(talk: Talk) -> None:
        await welcome(talk)
        await talk.is_left()

    states: list[State] = []
    async with facing(script, script, last, token=get, on_state=states.append):
        await until(lambda: [s.phase for s in states].count(Phase.CONNECTED) == 3)
    assert len(made) == 1


@pytest.mark.parametrize("wrong", ["", "a b", "a\r\nX-Evil: 1", "schlüssel"])
def test_a_token_that_fits_no_header_is_refused_and_not_shown(wrong: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as refused:
        Client("ws://127.0.0.1:8000", token=wrong)
    assert not wrong or wrong not in str(refused.value)


async def test_a_callback_that_returns_no_token_does_not_bring_the_client_down() -> None:
    async with connected(closed_to_most(), token=lambda: 7) as (_, client):
        await until(lambda: client.state.phase is Phase.BACKING_OFF)
        assert "a token is a string" in client.state.why


# Hostile servers


async def test_a_server_that_speaks_something_else_is_said_to() -> None:
    async with facing(Refusal(301, {"Location": "http://127.0.0.1:1/elsewhere"})) as client:
        with pytest.raises(Closed, match="status 301"):
            await client.connected()


async def test_a_websocket_that_is_not_clarions_ends_the_client() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def talk(socket: ServerConnection) -> None:
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with Client(f"ws://127.0.0.1:{port}/?token=secret") as client:
            with pytest.raises(Closed, match="not of a Clarion server") as ended:
                await client.connected()
        assert "secret" not in str(ended.value)
        assert "secret" not in repr(client)


@pytest.mark.parametrize("garbage", ["<html>", "[]", '{"op":"message"}', "[" * 50_000])
async def test_garbage_costs_a_connection_and_no_message(garbage: str) -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        topic = await grant(talk, epoch="e", offset=5)
        await talk.says("message", topic=topic, offset=6, ts=1, data=6)
        await talk.says_raw(garbage)

    async def again(talk: Talk) -> None:
        await welcome(talk)
        command = await talk.hears()
        assert command["topics"][0]["since"] == {"epoch": "e", "offset": 6}
        await talk.says(
            "subscribed", id=command["id"], topic=TOPIC, epoch="e", offset=7, recovered=True
        )
        await talk.says("message", topic=TOPIC, offset=7, ts=1, data=7)
        await talk.is_left()

    async with facing(script, again) as client:
        assert await take(client.subscribe(TOPIC), 2) == [6, 7]


async def test_a_message_beyond_the_limit_ends_the_client_rather_than_come_back_for_ever() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        topic = await grant(talk)
        await talk.says("message", topic=topic, ts=1, data="x" * 5000)

    async with facing(script, max_message_bytes=4000) as client:
        with pytest.raises(Closed, match="max_message_bytes=4000") as ended:
            await take(client.subscribe(TOPIC))
        assert ended.value.code == 1009


# The life of a client


def tasks_of_clients() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("clarion-client")]


async def test_a_client_is_used_as_a_context_manager_and_once() -> None:
    client = Client("ws://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="async with"):
        client.subscribe(TOPIC)
    with pytest.raises(RuntimeError, match="async with"):
        await client.publish(TOPIC, 1)
    await client.close()
    async with client:
        pass
    with pytest.raises(RuntimeError, match="once"):
        async with client:
            pass
    with pytest.raises(Closed, match="the client is closed"):
        client.subscribe(TOPIC)


async def test_giving_up_is_told_to_everyone_who_waits() -> None:
    async with Client("ws://127.0.0.1:1", pause_s=QUICK, give_up_s=0.1) as client:
        subscription = client.subscribe(TOPIC)
        outcomes = await asyncio.gather(
            anext(subscription),
            client.connected(),
            subscription.ready(),
            client.history(TOPIC),
            return_exceptions=True,
        )
        for outcome in outcomes:
            assert isinstance(outcome, Closed)
            assert "no connection within 0.1 s" in str(outcome)
        assert len({id(outcome) for outcome in outcomes}) > 1


async def test_what_is_queued_comes_before_the_end() -> None:
    async def script(talk: Talk) -> None:
        await welcome(talk)
        topic = await grant(talk)
        for n in range(3):
            await talk.says("message", topic=topic, ts=1, data=n)
        await talk.says("goodbye", code=4502, reason="disconnected by the backend")
        await talk.closes(4502, "disconnected by the backend")

    async with facing(script) as client:
        subscription = client.subscribe(TOPIC)
        await until(lambda: client.state.phase is Phase.CLOSED)
        assert await take(subscription, 3) == [0, 1, 2]
        with pytest.raises(Closed, match="disconnected by the backend") as ended:
            await anext(subscription)
        assert ended.value.code == 4502


async def test_a_callback_for_states_that_fails_harms_nobody() -> None:
    def on_state(state: State) -> None:
        raise LookupError("a mistake of the program")

    logging.getLogger("clarion_client").setLevel(logging.CRITICAL + 1)
    try:
        async with connected(on_state=on_state) as (_, client):
            await client.connected()
    finally:
        logging.getLogger("clarion_client").setLevel(logging.NOTSET)


async def test_a_callback_for_states_may_use_the_client() -> None:
    heard: list[Message] = []
    made: list[Subscription] = []

    def on_state(state: State) -> None:
        if state.phase is Phase.CONNECTED and not made:
            made.append(client.listen(TOPIC, on_message=heard.append, on_lost=print))

    async with running() as worker:
        client = Client(f"ws://127.0.0.1:{worker.port}", on_state=on_state)
        async with client, asyncio.timeout(DEADLINE):
            await until(lambda: TOPIC in worker.hub.topics)
            await publish(worker, TOPIC, 1)
            await until(lambda: heard)


async def test_cancelling_the_program_closes_the_client() -> None:
    async def program(worker: Worker) -> None:
        async with Client(f"ws://127.0.0.1:{worker.port}") as client:
            async for _ in client.subscribe(TOPIC):
                pass

    async with running() as worker:
        task = asyncio.get_running_loop().create_task(program(worker))
        await until(lambda: TOPIC in worker.hub.topics)
        assert tasks_of_clients()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tasks_of_clients() == []
        await until(lambda: clients(worker) == 0)


async def test_closing_is_quick_while_a_queue_is_full() -> None:
    async with connected(buffer=1, close_s=5) as (worker, client):
        async with client.subscribe("bare:1"):
            for _ in range(1000):
                await publish(worker, "bare:1", "x" * 1000)
            await asyncio.sleep(0.05)
            began = asyncio.get_running_loop().time()
            await client.close()
            assert asyncio.get_running_loop().time() - began < 3
        assert tasks_of_clients() == []


async def test_a_callback_may_close_the_client() -> None:
    closed = asyncio.Event()
    async with connected() as (worker, client):

        async def on_message(message: Message) -> None:
            await client.close()
            closed.set()

        await client.listen("bare:1", on_message=on_message, on_lost=print).ready()
        await publish(worker, "bare:1", 1)
        await closed.wait()
    await until(lambda: tasks_of_clients() == [])


async def test_a_subscription_may_be_dropped_in_another_thread() -> None:
    async with connected() as (worker, client):
        subscriptions = [client.subscribe(f"bare:{n}") for n in range(20)]
        await until(lambda: len(worker.hub.topics) == 20)
        await asyncio.to_thread(subscriptions.clear)
        await until(lambda: not worker.hub.topics)


async def test_no_garbage_is_left_for_the_collector() -> None:
    """Reference counting frees a client and its subscriptions: nothing lingers until a cycle is
    found, which in a large program may take minutes."""
    async with running() as worker, Client(f"ws://127.0.0.1:{worker.port}") as client:
        await client.connected()
        gc.collect()
        gc.disable()
        try:
            async for _ in client.subscribe(TOPIC, last=1).events():
                break
            await until(lambda: TOPIC not in worker.hub.topics)
        finally:
            gc.enable()


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("ws://h", "ws://h/ws"),
        ("wss://h:1/", "wss://h:1/ws"),
        ("http://h:8000", "ws://h:8000/ws"),
        ("https://h/clarion/ws", "wss://h/clarion/ws"),
    ],
)
def test_the_address_of_the_server_is_enough(url: str, meant: str) -> None:
    assert meant in repr(Client(url))


@pytest.mark.parametrize(
    "url", ["", "h:8000", "ftp://h", "ws://", "ws://h/ws#x", "ws://u:p@h", "ws://h:99999"]
)
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text differs
        Client(url)
    assert "u:p" not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"pause_s": (0, 0)},
        {"pause_s": (1, float("nan"))},
        {"ping_s": 0},
        {"pong_s": -1},
        {"connect_s": 0},
        {"headers": {"a\r\nb": "s3cret"}},
        {"headers": {"": "s3cret"}},
        {"headers": {"a": "s3cret\r\nX: y"}},
        {"headers": {"a": "s3crät"}},
        {"token": b"s3cret"},
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)) as refused:
        Client("ws://h", **options)
    assert "s3c" not in str(refused.value)


async def test_headers_of_the_program_go_with_the_handshake() -> None:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        address = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(address, headers={"X-Shop": "a b\t~", "X-Empty": ""}):
            await until(lambda: heard)
    assert b"\r\nX-Shop: a b\t~\r\n" in heard[0]


def test_a_context_for_tls_goes_with_tls() -> None:
    context = ssl.create_default_context()
    assert "wss://h/ws" in repr(Client("wss://h", ssl=context))
    with pytest.raises(ValueError, match="goes with wss"):
        Client("ws://h", ssl=context)


async def test_a_host_that_cannot_be_one_is_not_tried_twice() -> None:
    async with Client("ws://" + "x" * 80 + ".example") as client, asyncio.timeout(DEADLINE):
        with pytest.raises(Closed, match="cannot connect"):
            await client.connected()


async def test_tls_is_verified() -> None:
    # Any server with a certificate that nobody knows.
    async with (
        RedisServer(tls=True) as server,
        Client(f"wss://127.0.0.1:{server.port}", give_up_s=0.05) as client,
    ):
        with pytest.raises(Closed, match="certificate verify failed"):
            await client.connected()


async def test_what_cannot_be_subscribed_is_said_at_once() -> None:
    async with Client("ws://127.0.0.1:1") as client:
        position = Position("e", 1)
        with pytest.raises(ValueError, match="which topics"):
            client.subscribe()
        with pytest.raises(ValueError, match="is no topic"):
            client.subscribe("a", "not a topic")
        with pytest.raises(ValueError, match="not both"):
            client.subscribe("a", since=position, last=1)
        with pytest.raises(ValueError, match="a mapping"):
            client.subscribe("a", "b", since=position)
        with pytest.raises(ValueError, match="room for one"):
            client.subscribe("a", buffer=0)
        with pytest.raises(ValueError, match="sometimes"):
            client.subscribe("a", when_full="sometimes")  # type: ignore[arg-type]
        assert "over" not in repr(client.subscribe("a"))


def test_the_version_is_that_of_the_distribution() -> None:
    assert f'version = "{__version__}"' in (ROOT / "clients/python/pyproject.toml").read_text()
