"""The Python client through `client_scenarios.md`: a live server, and a bad network in between."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from clarion_client import (
    AsyncPublisher,
    Client,
    Closed,
    Event,
    Lost,
    Message,
    MessagesLost,
    Phase,
    Refused,
    State,
    Subscribed,
    Subscription,
)
from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Config, Limits, Namespace
from support.bad_network import BadNetwork, bad_network
from support.redis_shared import shared_servers
from support.server import (
    SECRET,
    clients,
    configuration,
    publish,
    running,
    serving,
    token,
)
from support.slow_reader import LATEST, blocked, heard
from support.waiting import DEADLINE, until
from support.wire_server import Script, Talk, wire_server

SCENARIOS = Path(__file__).parent / "client_scenarios.md"
CLOSES = json.loads((Path(__file__).parent / "vectors/closes.json").read_text())

QUICK = (0.01, 0.05)
"""Pauses: the first bound and the longest."""

TOPIC = "orders:1"


@asynccontextmanager
async def live(config: Config | None = None) -> AsyncIterator[tuple[Worker, BadNetwork]]:
    async with running(config) as worker, bad_network(worker.port) as network:
        yield worker, network


def client(network: BadNetwork, **options: Any) -> Client:
    options.setdefault("pause_s", QUICK)
    return Client(f"ws://127.0.0.1:{network.port}", **options)


async def take(subscription: Subscription, count: int) -> list[Any]:
    """The data of the next messages."""
    async with asyncio.timeout(DEADLINE):
        return [(await anext(subscription)).data for _ in range(count)]


def tasks_of_clients() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return sorted(name for name in names if name.startswith("clarion-client"))


async def another(network: BadNetwork, attempts: int) -> None:
    """Waits for a connection that is none of the first `attempts`."""
    await until(lambda: network.open and len(network.attempts) > attempts)


async def nothing_more(subscription: Subscription, seconds: float = 0.05) -> bool:
    """Whether nothing comes for a moment."""
    try:
        async with asyncio.timeout(seconds):
            await subscription.next_event()
    except TimeoutError:
        return True
    return False


def keeping(size: int) -> Config:
    """A server that keeps so many messages of each topic."""
    options = Namespace(history_size=size, subscribe="everyone", publish="everyone")
    return configuration(namespaces={"orders": options})


def test_every_scenario_of_the_list_has_a_test_here() -> None:
    listed = set(re.findall(r"^### (\w+)$", SCENARIOS.read_text(), re.M))
    here = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert listed - here == set()


# Coming back


async def test_a_cut_connection_is_made_again_and_nothing_is_missed() -> None:
    async with (
        live() as (worker, network),
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        for n in (1, 2):
            await publish(worker, TOPIC, n)
        network.cut()
        for n in (3, 4):
            await publish(worker, TOPIC, n)
        assert await take(subscription, 4) == [1, 2, 3, 4]


async def test_fifty_cuts_in_a_run_leave_every_message_once_and_in_order() -> None:
    async with (
        live(keeping(1000)) as (worker, network),
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        tasks = tasks_of_clients()
        attempts = 0
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(take(subscription, 500))
            for n in range(500):
                await publish(worker, TOPIC, n)
                if n % 10 == 9:
                    # Each cut hits a connection, though perhaps one that is only being made.
                    await another(network, attempts)
                    attempts = len(network.attempts)
                    network.cut()
                await asyncio.sleep(0.001)
        assert taking.result() == list(range(500))
        await publish(worker, TOPIC, "last")
        left: list[Any] = []
        while not left or not isinstance(left[-1], Message):
            left.append(await subscription.next_event())
        last = left.pop()
        assert (last.data, last.offset) == ("last", 501)
        # A connection that was cut behind the last message was made again.
        assert all(isinstance(event, Subscribed) and event.recovered for event in left)
        assert len(network.attempts) > 50
        await until(lambda: tasks_of_clients() == tasks)


async def test_a_cut_in_the_middle_of_a_frame_loses_nothing() -> None:
    async with (
        live(keeping(1000)) as (worker, network),
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        for bytes in range(300, 320):
            network.cut_after(bytes)
        network.cut()
        async with asyncio.TaskGroup() as group:
            taking = group.create_task(take(subscription, 200))
            for n in range(200):
                await publish(worker, TOPIC, n)
                await asyncio.sleep(0.005)
        assert taking.result() == list(range(200))
        assert len(network.attempts) > 5


async def test_refused_attempts_are_followed_by_growing_random_pauses() -> None:
    async with live() as (_worker, network):
        network.refuse(times=6)
        async with client(network, pause_s=(0.05, 0.2)) as c, asyncio.timeout(DEADLINE):
            await c.connected()
        gaps = [after - before for before, after in pairwise(network.attempts)]
        assert len(gaps) == 6
        assert max(gaps) < 0.2 + 0.5  # and what a busy machine adds
        assert len({round(gap, 3) for gap in gaps}) > 1


async def test_a_server_that_is_killed_and_started_again_on_its_port() -> None:
    async with (
        serving() as first,
        bad_network(first.port) as network,
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        await c.publish(TOPIC, 1)
        assert await take(subscription, 1) == [1]
        first.process.kill()
        await first.process.wait()
        async with serving() as second:
            network.point(second.port)
            with pytest.raises(MessagesLost, match="anew"):
                await take(subscription, 1)
            await c.publish(TOPIC, 2)
            assert await take(subscription, 1) == [2]


async def test_a_move_to_another_instance_on_the_same_redis_misses_nothing() -> None:
    (redis,) = await shared_servers(1)
    async with (
        serving("--redis", redis.url) as first,
        serving("--redis", redis.url) as second,
        bad_network(first.port) as network,
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
        AsyncPublisher(f"http://127.0.0.1:{second.api_port}") as publisher,
    ):
        await publisher.publish(TOPIC, 1)
        assert await take(subscription, 1) == [1]
        network.point(second.port)
        first.process.kill()
        await publisher.publish_many([(TOPIC, 2), (TOPIC, 3)])
        assert await take(subscription, 2) == [2, 3]


async def test_an_attempt_that_hangs_is_given_up() -> None:
    async with live() as (_worker, network):
        network.swallow()
        async with client(network, connect_s=0.3) as c, asyncio.timeout(DEADLINE):
            await c.connected()
        assert network.fates == ["swallowed", "carried"]


async def test_a_delayed_attempt_that_comes_after_all_does_no_harm() -> None:
    async with live() as (worker, network):
        network.delay(0.5)
        async with client(network, connect_s=0.2) as c, c.subscribe(TOPIC) as subscription:
            await until(lambda: network.now > network.attempts[0] + 0.6)
            await publish(worker, TOPIC, 1)
            assert await take(subscription, 1) == [1]
            assert await nothing_more(subscription)
            assert clients(worker) == 1


async def test_retry_ms_of_a_goodbye_is_obeyed() -> None:
    states: list[State] = []
    async with (
        serving() as server,
        bad_network(server.port) as network,
        client(network, on_state=states.append) as c,
        asyncio.timeout(DEADLINE),
    ):
        await c.connected()
        server.process.terminate()
        await until(lambda: c.state.phase is Phase.BACKING_OFF)
        said = c.state
        assert "4000" in said.why
        came_at = network.now + said.retry_s
        # Not all of it, as it may be some seconds: the longest own pause would be over long ago.
        await until(lambda: network.now > min(came_at, network.attempts[0] + 1) - 0.05)
        assert len(network.attempts) == 1
        assert said.retry_s > QUICK[1]


async def test_retry_after_of_a_refusal_is_obeyed() -> None:
    async with live() as (_worker, network):
        network.answer(503, retry_after="1")
        async with client(network) as c, asyncio.timeout(DEADLINE):
            await c.connected()
        first, second = network.attempts
        assert 1 <= second - first < 3


async def test_a_status_that_will_not_change_ends_the_client() -> None:
    async with live() as (_worker, network):
        network.answer(404)
        async with client(network) as c:
            with pytest.raises(Closed, match="status 404") as ended:
                async with asyncio.timeout(DEADLINE):
                    await anext(c.subscribe(TOPIC))
            assert ended.value.code == 404
            with pytest.raises(Closed):
                c.subscribe(TOPIC)
        assert len(network.attempts) == 1


@pytest.mark.parametrize("example", CLOSES, ids=lambda example: str(example["code"]))
async def test_close_codes_decide_about_coming_back(example: dict[str, Any]) -> None:
    code = example["code"]

    async def welcome(talk: Talk) -> None:
        await talk.says("welcome", client="c-1", ping_ms=25000)

    async def close(talk: Talk) -> None:
        await welcome(talk)
        if code == 1006:
            await talk.breaks()
        else:
            await talk.closes(code)

    async def stay(talk: Talk) -> None:
        await welcome(talk)
        await talk.is_left()

    scripts: list[Script] = [close, stay] if example["come_back"] else [close]
    async with wire_server(*scripts) as url:
        states: list[State] = []
        c = Client(url, pause_s=QUICK, token=lambda: "token", on_state=states.append)
        async with c, asyncio.timeout(DEADLINE):
            if example["come_back"]:
                await until(lambda: [s.phase for s in states].count(Phase.CONNECTED) == 2)
            else:
                await until(lambda: c.state.phase is Phase.CLOSED)
                assert c.state.error is not None
                assert c.state.error.code == code


# Silence


async def test_a_dead_link_is_found_by_pings() -> None:
    async with (
        live() as (worker, network),
        client(network, ping_s=0.1, pong_s=0.1) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        network.stall()
        await publish(worker, TOPIC, 1)
        await until(lambda: len(network.attempts) > 1)
        network.flow()
        assert await take(subscription, 1) == [1]
        assert await nothing_more(subscription)
        await until(lambda: network.open == 1)  # and the dead one was not left open


async def test_a_server_that_stalls_for_a_moment_is_not_dropped() -> None:
    async with live() as (worker, network), client(network, ping_s=0.1, pong_s=1) as c:
        async with c.subscribe(TOPIC) as subscription:
            network.stall()
            await publish(worker, TOPIC, 1)
            await asyncio.sleep(0.3)
            network.flow()
            assert await take(subscription, 1) == [1]
        assert len(network.attempts) == 1


# Tokens


def secured() -> Config:
    return configuration(
        auth=AuthOptions(anonymous=False, secret=SECRET, leeway_s=0),
        namespaces={"orders": Namespace(history_size=100, subscribe="users")},
    )


async def test_a_token_is_renewed_before_it_expires() -> None:
    made: list[str] = []

    async def get() -> str:
        made.append(token("42", ttl=2))
        return made[-1]

    async with live(secured()) as (worker, network), client(network, token=get) as c:
        async with c.subscribe(TOPIC) as subscription:
            for n in range(12):
                await publish(worker, TOPIC, n)
                assert await take(subscription, 1) == [n]
                await asyncio.sleep(0.2)
        assert len(made) > 1
        assert len(network.attempts) == 1


async def test_an_expired_token_is_replaced_before_the_next_attempt() -> None:
    made: list[str] = []

    def get() -> str:
        made.append(token("42", ttl=60 if made else -60))
        return made[-1]

    async with live(secured()) as (_worker, network), client(network, token=get) as c:
        async with asyncio.timeout(DEADLINE):
            state = await c.connected()
        assert state.user == "42"
        assert len(made) == len(network.attempts) == 2


async def test_a_token_that_is_not_accepted_ends_the_client() -> None:
    wrong = token("42")[:-4] + "AAAA"
    async with live(secured()) as (_worker, network), client(network, token=wrong) as c:
        with pytest.raises(Closed) as ended:
            async with asyncio.timeout(DEADLINE):
                await c.connected()
        assert ended.value.code == 4501
        assert wrong not in str(ended.value)
        assert len(network.attempts) == 1


# Loss


async def test_what_the_history_does_not_reach_is_reported() -> None:
    async with (
        live(keeping(5)) as (worker, network),
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        network.down()
        for n in range(1, 21):
            await publish(worker, TOPIC, n)
        network.up()
        with pytest.raises(MessagesLost) as lost:
            await take(subscription, 1)
        assert lost.value.topic == TOPIC
        assert subscription.positions[TOPIC].offset == 20
        await publish(worker, TOPIC, 21)
        assert await take(subscription, 1) == [21]


async def test_a_loss_is_reported_once() -> None:
    events: list[Event] = []

    async def watch(subscription: Subscription) -> None:
        async for event in subscription.events():
            events.append(event)

    def seen(kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in events)

    async with (
        live(keeping(5)) as (worker, network),
        client(network) as c,
        c.subscribe(TOPIC) as subscription,
        asyncio.TaskGroup() as group,
    ):
        watching = group.create_task(watch(subscription))
        await until(lambda: seen(Subscribed) == 1)
        network.down()
        for n in range(1, 21):
            await publish(worker, TOPIC, n)
        network.up()
        await until(lambda: seen(Subscribed) == 2)
        network.cut()
        await until(lambda: seen(Subscribed) == 3)
        await publish(worker, TOPIC, 21)
        await until(lambda: seen(Message))
        assert [type(event) for event in events] == [
            *(Subscribed, Lost, Subscribed),
            *(Subscribed, Message),
        ]
        watching.cancel()


async def test_a_position_resumes_in_another_process() -> None:
    async with live() as (worker, network):
        async with client(network) as c, c.subscribe(TOPIC) as subscription:
            for n in (1, 2, 3):
                await publish(worker, TOPIC, n)
            assert await take(subscription, 3) == [1, 2, 3]
            position = subscription.positions[TOPIC]
        for n in (4, 5):
            await publish(worker, TOPIC, n)
        async with client(network) as c:
            assert await take(c.subscribe(TOPIC, since=position), 2) == [4, 5]


# Slow programs


async def test_a_slow_program_gets_everything_when_it_waits() -> None:
    async with (
        live() as (worker, network),
        client(network, buffer=10) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        for n in range(90):
            await publish(worker, TOPIC, n)
        taken = []
        for _ in range(90):
            taken += await take(subscription, 1)
            assert subscription.queued < 20
            await asyncio.sleep(0.002)
        assert taken == list(range(90))


async def test_a_slow_program_that_wants_the_newest_gets_the_newest() -> None:
    async with live() as (worker, network), client(network) as c:
        slow = c.subscribe(TOPIC, buffer=10, when_full="drop_oldest")
        async with slow, c.subscribe(TOPIC) as quick:
            for n in range(90):
                await publish(worker, TOPIC, n)
            await take(quick, 90)
            assert await take(slow, 10) == list(range(80, 90))
            assert slow.dropped == 80


async def test_a_slow_program_may_ask_while_its_queue_is_full() -> None:
    async with (
        live() as (worker, network),
        client(network, buffer=5) as c,
        c.subscribe(TOPIC) as subscription,
    ):
        for n in range(50):
            await publish(worker, TOPIC, n)
        assert await take(subscription, 1) == [0]
        async with asyncio.timeout(DEADLINE):
            history = await c.history(TOPIC, limit=50)
        assert len(history.messages) == 50
        assert await take(subscription, 49) == list(range(1, 50))


async def test_who_is_behind_gets_the_newest_of_each_key() -> None:
    config = configuration(namespaces={"prices": LATEST})
    async with (
        live(config) as (worker, network),
        client(network) as c,
        blocked(worker, "prices:all") as reader,
    ):
        for n in range(1, 21):
            await c.publish("prices:all", n, key="odd" if n % 2 else "even")
        await c.publish("prices:all", "end")
        told = [f"message prices:all {data}" for data in (19, 20, "end")]
        assert await heard(reader, "end") == told


# Many topics


async def test_thousands_of_topics_are_asked_for_in_a_few_commands() -> None:
    topics = [f"orders:{n}" for n in range(5000)]
    config = configuration(limits=Limits(subscriptions=10_000))
    async with live(config) as (worker, network), client(network) as c:
        async with c.subscribe(*topics, buffer=20_000) as subscription:
            commands = worker.counters.commands["subscribe"]
            network.cut()
            for n in range(10):
                await publish(worker, f"orders:{n * 500}", n)
            assert sorted(await take(subscription, 10)) == list(range(10))
            await until(lambda: len(worker.hub.topics) == 5000)
        assert commands < 20
        assert worker.counters.commands["subscribe"] < 2 * 20


async def test_a_refused_topic_does_not_take_the_others_with_it() -> None:
    async with live(secured()) as (worker, network), client(network, token=token("42")) as c:
        subscription = c.subscribe(TOPIC, "user:43")
        with pytest.raises(Refused) as refused:
            await take(subscription, 1)
        assert (refused.value.topic, refused.value.code) == ("user:43", "forbidden")
        await publish(worker, TOPIC, 1)
        assert await take(subscription, 1) == [1]
        assert subscription.topics == {TOPIC}


# The end


async def test_closing_is_clean() -> None:
    before = asyncio.all_tasks()
    async with live() as (worker, network):
        inside = asyncio.all_tasks()
        async with client(network) as c:
            subscription = c.subscribe(TOPIC)
            await subscription.ready()
            asked = asyncio.get_running_loop().create_task(c.history("bare:x", answer_s=60))
            iterating = asyncio.get_running_loop().create_task(_all(subscription))
            with pytest.raises(Refused):
                await asked
        assert await iterating == []
        await until(lambda: asyncio.all_tasks() - inside == set())
        await until(lambda: clients(worker) == 0)
        assert worker.counters.closes[1000] == 1
    await until(lambda: asyncio.all_tasks() - before == set())


async def _all(subscription: Subscription) -> list[Message]:
    return [message async for message in subscription]


async def test_leaving_the_loop_unsubscribes() -> None:
    async with live() as (worker, network), client(network) as c:
        await publish(worker, TOPIC, 1)
        async for message in c.subscribe(TOPIC, last=1):
            assert message.data == 1
            break
        await until(lambda: TOPIC not in worker.hub.topics)
        assert clients(worker) == 1


async def test_closing_while_connecting_is_quick() -> None:
    async with live() as (_worker, network):
        network.swallow()
        loop = asyncio.get_running_loop()
        async with client(network, connect_s=60):
            await until(lambda: network.open == 1)
            began = loop.time()
        assert loop.time() - began < 1
        await until(lambda: network.open == 0)
