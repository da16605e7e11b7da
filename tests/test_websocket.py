"""WebSocket clients against a running worker: conversations, timers, goodbyes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from clarion_server import codes
from clarion_server.app import Worker
from clarion_server.auth import mint
from clarion_server.options import AuthOptions, Keepalive, Limits, Namespace, WindowOptions
from support.server import SECRET, clients, configuration, publish, running, token
from support.waiting import until
from support.wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    Frame,
    Wire,
    closing,
    command,
    connected,
    get,
    handshake,
    masked,
    wire,
)

SHORT = 0.3
"""Seconds: a deadline that tests can wait for, three ticks of the server's timers."""

SLACK = 0.25
"""Seconds that the server may be late: a tick for the resolution, the rest for a busy machine."""


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running() as worker:
        yield worker


def library(worker: Worker, path: str = "/ws") -> connect:
    """The client of the `websockets` library, as people use it."""
    url = f"ws://127.0.0.1:{worker.port}{path}"
    return connect(url, proxy=None, subprotocols=[Subprotocol("clarion.v1")], compression=None)


async def says(socket: ClientConnection, op: str, **fields: object) -> Any:
    """Sends a command and returns what the server says next."""
    await socket.send(json.dumps({"op": op, **fields}))
    return await hears(socket)


async def hears(socket: ClientConnection) -> Any:
    async with asyncio.timeout(10):
        return json.loads(await socket.recv())


# Conversations


async def test_a_client_of_the_library_subscribes_hears_leaves_and_resumes(worker: Worker) -> None:
    async with library(worker) as socket:
        assert socket.subprotocol == "clarion.v1"
        welcome = await hears(socket)
        assert welcome["op"] == "welcome"
        assert welcome["client"].startswith("c-")
        assert welcome["ping_ms"] == 25_000
        subscribed = await says(socket, "subscribe", id=1, topic="news")
        epoch = subscribed["epoch"]
        assert subscribed == {
            "op": "subscribed",
            "id": 1,
            "topic": "news",
            "epoch": epoch,
            "offset": 0,
        }
        await publish(worker, "news", {"text": "hello ☀"})
        message = await hears(socket)
        assert abs(message.pop("ts") / 1000 - time.time()) < 60
        assert message == {
            "op": "message",
            "topic": "news",
            "offset": 1,
            "data": {"text": "hello ☀"},
        }
        answer = await says(socket, "unsubscribe", id="x", topic="news")
        assert answer == {"op": "unsubscribed", "id": "x", "topic": "news"}
        await publish(worker, "news", 2)
        await publish(worker, "news", 3)
        resumed = await says(socket, "subscribe", topic="news", since={"epoch": epoch, "offset": 1})
        assert resumed["recovered"] is True
        assert resumed["offset"] == 3
        assert [(await hears(socket))["data"] for _ in range(2)] == [2, 3]


async def test_either_side_may_ping(worker: Worker) -> None:
    async with library(worker) as socket:
        await hears(socket)
        async with asyncio.timeout(10):
            await (await socket.ping(b"are you there"))
        assert await says(socket, "ping", id=7) == {"op": "pong", "id": 7}


async def test_a_close_by_the_client_is_answered_and_ended_by_the_server(worker: Worker) -> None:
    async with library(worker) as socket:
        await hears(socket)
        async with asyncio.timeout(0.9):  # less than close_s: nobody waited for a timer
            await socket.close(1001, "leaving")
        assert socket.close_code == 1001
    await until(lambda: not clients(worker))
    assert worker.counters.closes == {1001: 1}


@pytest.mark.parametrize(
    ("frame", "answer", "counted"),
    [
        (closing(1000), Frame(CLOSE, b"\x03\xe8"), 1000),
        (closing(4321, "mine"), Frame(CLOSE, b"\x10\xe1mine"), 4321),
        (masked(b"", CLOSE), Frame(CLOSE, b""), 1005),
    ],
    ids=["normal", "private", "empty"],
)
async def test_a_close_frame_is_echoed_and_then_the_stream_ends(
    worker: Worker, frame: bytes, answer: Frame, counted: int
) -> None:
    async with connected(worker.port) as client:
        await client.send(frame)
        assert await client.frame() == answer
        assert await client.ended()
    await until(lambda: not clients(worker))
    assert worker.counters.closes == {counted: 1}


async def test_a_close_by_the_server_waits_for_the_clients_answer(worker: Worker) -> None:
    async with library(worker) as socket:
        client = (await hears(socket))["client"]
        assert worker.edge.hub.topics == {}
        (peer,) = worker.directory.peers()
        assert peer.session.id == client
        peer.finish(codes.REBALANCED)
        goodbye = await hears(socket)
        assert goodbye.pop("retry_ms") >= 500
        assert goodbye == {"op": "goodbye", "code": 4006, "reason": "rebalanced"}
        with pytest.raises(ConnectionClosed) as closed:
            await hears(socket)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4006, "rebalanced")
        assert closed.value.rcvd_then_sent
    await until(lambda: not clients(worker))
    assert worker.counters.closes == {4006: 1}


async def test_history_comes_before_what_is_published_after_it(worker: Worker) -> None:
    for number in range(5):
        await publish(worker, "a", number)
    async with connected(worker.port) as client:
        answer = await client.subscribe("a", last=3)
        assert answer["offset"] == 5
        await publish(worker, "a", 5)
        assert [(await client.said("message"))["data"] for _ in range(4)] == [2, 3, 4, 5]


async def test_what_is_not_in_the_history_any_more_is_said_to_be_lost(worker: Worker) -> None:
    first = await publish(worker, "a", 0)
    assert first is not None
    for number in range(150):
        await publish(worker, "a", number)
    async with connected(worker.port) as client:
        since = {"epoch": first.epoch, "offset": 1}
        answer = await client.subscribe("a", since=since)
        assert answer["recovered"] is False
        assert answer["offset"] == 151
        await publish(worker, "a", "next")
        assert (await client.said("message"))["offset"] == 152


async def test_a_topic_without_history_has_no_positions(worker: Worker) -> None:
    async with connected(worker.port) as client:
        assert await client.subscribe("bare:x") == {"op": "subscribed", "topic": "bare:x"}
        await publish(worker, "bare:x", 1)
        message = await client.said("message")
        assert set(message) == {"op", "topic", "ts", "data"}


async def test_commands_in_one_segment_are_answered_in_order(worker: Worker) -> None:
    count = 50  # fewer than limits.errors, as the second half of the subscribes are errors
    async with connected(worker.port) as client:
        batch = [command("ping", id=number) for number in range(count)]
        batch += [command("subscribe", id=number, topic="a") for number in range(count)]
        batch += [masked(b"", PING), command("unsubscribe", id="last", topic="a")]
        await client.send(*batch)
        for number in range(count):
            assert await client.said() == {"op": "pong", "id": number}
        assert (await client.said("subscribed"))["id"] == 0
        for number in range(1, count):
            error = await client.said("error")
            assert (error["id"], error["code"]) == (number, "already_subscribed")
        assert await client.frame() == Frame(PONG, b"")
        assert (await client.said("unsubscribed"))["id"] == "last"


async def test_a_conversation_byte_by_byte_is_the_same(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.dribble(handshake())
        assert (await client.head()).status == 101
        await client.said("welcome")
        await client.dribble(command("subscribe", id=1, topic="a") + masked(b"x", PING))
        assert (await client.said("subscribed"))["id"] == 1
        assert await client.frame() == Frame(PONG, b"x")
        text = b'{"op":"ping","id":"\xe2\x98\x80"}'
        await client.dribble(masked(text[:20], fin=False) + masked(text[20:], 0))
        assert await client.said() == {"op": "pong", "id": "☀"}


async def test_an_own_publication_comes_back_once_to_a_subscriber(worker: Worker) -> None:
    async with connected(worker.port) as client, connected(worker.port) as other:
        await other.subscribe("a")
        await client.subscribe("a")
        await client.send(command("publish", id=1, topic="a", data=[1]))
        answers = [await client.said(), await client.said()]
        assert sorted(answer["op"] for answer in answers) == ["message", "published"]
        assert (await other.said("message"))["data"] == [1]
        await client.send(command("ping"))
        assert await client.said() == {"op": "pong"}


async def test_an_answer_names_what_is_wrong_with_a_command(worker: Worker) -> None:
    async with connected(worker.port) as client:
        for text, code in (
            (b"{", "bad_request"),
            (b"[1]", "bad_request"),
            (b'{"op":"fly"}', "unknown_op"),
            (b'{"op":"subscribe","topic":"a b"}', "bad_topic"),
            (b'{"op":"unsubscribe","topic":"a"}', "not_subscribed"),
            (b'{"op":"history","topic":"bare:a"}', "no_history"),
            (b'{"op":"presence","topic":"a"}', "no_presence"),
        ):
            await client.send(masked(text))
            assert (await client.said("error"))["code"] == code


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (masked(b"\0", BINARY), 1003),
        (masked(b"\xff\xfe"), 1007),
        (b"\x81\x01x", 1002),  # not masked
        (masked(b"", 3), 1002),  # an opcode that is not defined
        (masked(b" " * 65_537), 1009),
        (b"\x81\xff\x7f" + b"\xff" * 7, 1009),  # 2**63 - 1 bytes are announced
        (masked(b"x" * 126, PING), 1002),
        (closing(999), 1002),
        (masked(b"\x03", CLOSE), 1002),
        (masked(b"", 0), 1002),  # continues nothing
        (masked(b"a", fin=False) + masked(b"b"), 1002),
    ],
)
async def test_whoever_breaks_the_protocol_is_closed_with_the_rfcs_code(
    worker: Worker, sent: bytes, code: int
) -> None:
    async with connected(worker.port) as client:
        await client.send(sent)
        assert (await client.goodbye())[0] == code
        await client.send(closing(code))
        assert await client.ended()
    await until(lambda: not clients(worker))
    assert worker.counters.closes == {code: 1}


async def test_too_many_errors_end_the_connection(worker: Worker) -> None:
    async with connected(worker.port) as client:
        await client.send(masked(b"{}") * 150)
        for _ in range(100):
            await client.said("error")
        goodbye = await client.said("goodbye")
        assert goodbye == {"op": "goodbye", "code": 4500, "reason": "too many errors"}
        assert (await client.frame()).code == 4500


async def test_every_publication_arrives_once_and_in_order_while_clients_come_and_go() -> None:
    total = 2000
    deep = Namespace(history_size=total, subscribe="everyone")

    async def stays(client: Wire) -> list[int]:
        return [(await client.said("message"))["data"] for _ in range(total)]

    async def comes_and_goes(port: int, number: int) -> list[int]:
        """Takes some messages, leaves in one way or another, and resumes where it was."""
        seen: list[int] = []
        since: dict[str, object] = {}
        while len(seen) < total:
            async with connected(port) as client:
                answer = await client.subscribe("deep:a", **since)
                assert answer.get("recovered", True)
                for _ in range(100 + 37 * number):
                    if len(seen) == total:
                        break
                    message = await client.said("message")
                    seen.append(message["data"])
                position = {"epoch": answer["epoch"], "offset": message["offset"]}
                since = {"since": position}
                if number % 3 == 0:
                    client.reset()
                elif number % 3 == 1:
                    await client.send(closing(1000))
        return seen

    async def publishes(worker: Worker) -> None:
        await until(lambda: worker.hub.subscriptions == 8)
        for number in range(total):
            await publish(worker, "deep:a", number)
            if number % 7 == 0:
                await asyncio.sleep(0)

    async with running(configuration(namespaces={"deep": deep})) as worker:
        async with connected(worker.port) as one, connected(worker.port) as two:
            await one.subscribe("deep:a")
            await two.subscribe("deep:a")
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(stays(client)) for client in (one, two)]
                for number in range(6):
                    tasks.append(group.create_task(comes_and_goes(worker.port, number)))
                group.create_task(publishes(worker))
        for task in tasks:
            assert task.result() == list(range(total))
        await until(lambda: not clients(worker))
        assert not worker.hub.topics
        assert not worker.hub.subscriptions


# Time


def patient(**limits: float) -> Limits:
    """Limits whose times nobody waits for, but for those that are given."""
    return Limits(**({"handshake_s": 60, "connect_s": 60, "message_s": 60} | limits))  # type: ignore[arg-type]


def after(start: float) -> float:
    return time.monotonic() - start


async def test_a_client_that_must_connect_is_given_so_much_time() -> None:
    config = configuration(auth=AuthOptions(secret=SECRET), limits=patient(connect_s=SHORT))
    async with running(config) as worker, wire(worker.port) as client:
        start = time.monotonic()
        await client.upgrade()
        await client.send(command("ping"), command("subscribe", id=1, topic="a"))
        assert await client.said() == {"op": "pong"}
        error = await client.said("error")
        assert (error["id"], error["code"]) == (1, "unauthorized")
        goodbye = await client.said("goodbye")
        assert SHORT - 0.1 <= after(start) <= SHORT + SLACK
        assert goodbye == {"op": "goodbye", "code": 4501, "reason": "no connect in time"}
        assert (await client.frame()).code == 4501


async def test_a_connect_in_time_is_welcomed_and_stays() -> None:
    config = configuration(auth=AuthOptions(secret=SECRET), limits=patient(connect_s=SHORT))
    async with running(config) as worker, wire(worker.port) as client:
        await client.upgrade()
        await client.send(command("connect", id=1, token=token("ada", subscribe=["a"])))
        welcome = await client.said("welcome")
        assert (welcome["id"], welcome["user"]) == (1, "ada")
        assert 0 < welcome["expires_ms"] <= 61_000
        await asyncio.sleep(2 * SHORT)
        await client.subscribe("a")


@pytest.mark.parametrize("where", ["header", "query"])
async def test_a_token_in_the_handshake_welcomes_at_once(where: str) -> None:
    config = configuration(auth=AuthOptions(secret=SECRET))
    async with running(config) as worker, wire(worker.port) as client:
        if where == "header":
            await client.upgrade("/ws", f"Authorization: Bearer {token('ada')}")
        else:
            await client.upgrade(f"/ws?x=1&token={token('ada')}")
        assert (await client.said("welcome"))["user"] == "ada"


@pytest.mark.parametrize(
    ("made", "code"), [(lambda: token("ada", ttl=-60), 4002), (lambda: "no.token.this", 4501)]
)
async def test_a_token_that_is_refused_is_told_so_in_a_goodbye(
    made: Callable[[], str], code: int
) -> None:
    async with running() as worker, wire(worker.port) as client:
        await client.upgrade(f"/ws?token={made()}")
        assert (await client.said("goodbye"))["code"] == code
        assert (await client.frame()).code == code
        await client.send(closing(code))
        assert await client.ended()


def expiring(seconds: float) -> str:
    return mint({"sub": "ada", "exp": time.time() + seconds}, SECRET, "HS256")


@pytest.mark.parametrize("how", ["handshake", "connect", "refresh", "stream"])
async def test_a_token_ends_the_connection_when_it_ends(how: str) -> None:
    config = configuration(
        auth=AuthOptions(secret=SECRET), namespaces={"default": Namespace(subscribe="users")}
    )
    async with running(config) as worker, wire(worker.port) as client:
        start = time.monotonic()
        if how == "stream":
            await client.send(get(f"/sse?topic=a&token={expiring(0.5)}"))
            await client.head()
            while (event := await client.event())["event"] != "goodbye":
                pass
            goodbye = json.loads(event["data"])
        else:
            if how == "handshake":
                await client.upgrade(f"/ws?token={expiring(0.5)}")
            elif how == "connect":
                await client.upgrade()
                await client.send(command("connect", token=expiring(0.5)))
            else:
                await client.upgrade(f"/ws?token={expiring(300)}")
            assert (await client.said("welcome"))["user"] == "ada"
            if how == "refresh":
                await client.send(command("refresh", token=expiring(0.5)))
                await client.said("refreshed")
            goodbye = await client.said("goodbye")
        assert 0.4 <= after(start) <= 0.5 + SLACK
        assert (goodbye["code"], goodbye["reason"]) == (4002, "token expired")
        assert goodbye["retry_ms"] >= 500


async def test_a_refreshed_token_lets_the_connection_live_on() -> None:
    async with (
        running() as worker,
        connected(worker.port, f"/ws?token={expiring(0.3)}") as client,
    ):
        await client.send(command("refresh", id=1, token=expiring(60)))
        assert (await client.said("refreshed"))["expires_ms"] > 50_000
        await asyncio.sleep(0.6)
        await client.send(command("ping"))
        await client.said("pong")


async def test_a_client_that_is_behind_all_the_time_is_still_ended_with_its_token() -> None:
    config = configuration(
        auth=AuthOptions(secret=SECRET),
        namespaces={"default": Namespace(subscribe="users")},
        window=WindowOptions(bytes=64 * 1024 * 1024, seconds=60),
        keepalive=Keepalive(close_s=60),  # 20 MB come before the goodbye
    )
    async with running(config) as worker:
        path = f"/ws?token={expiring(0.5)}"
        async with connected(worker.port, path, receive_buffer=4096) as client:
            await client.subscribe("a")
            for _ in range(500):
                await publish(worker, "a", "x" * 40_000)
            await until(lambda: not worker.hub.subscriptions, 0.5 + 2 * SLACK)
            assert (await client.goodbye())[0] == 4002


async def test_only_a_silent_client_is_pinged() -> None:
    config = configuration(keepalive=Keepalive(ping_s=SHORT, pong_s=60))
    async with (
        running(config) as worker,
        connected(worker.port) as busy,
        connected(worker.port) as silent,
    ):
        start = time.monotonic()
        while after(start) < 3 * SHORT:
            await busy.send(masked(b"", PONG))
            await asyncio.sleep(0.05)
        await busy.send(command("ping"))
        assert await busy.said() == {"op": "pong"}
        assert await silent.frame() == Frame(PING, b"")


async def test_a_client_that_does_not_answer_a_ping_is_gone() -> None:
    config = configuration(keepalive=Keepalive(ping_s=SHORT, pong_s=SHORT, close_s=SHORT))
    async with running(config) as worker, connected(worker.port) as client:
        start = time.monotonic()
        assert await client.frame() == Frame(PING, b"")
        assert SHORT - 0.1 <= after(start) <= SHORT + SLACK
        goodbye = await client.said("goodbye")
        assert 2 * SHORT - 0.2 <= after(start) <= 2 * SHORT + 2 * SLACK
        assert (goodbye["code"], goodbye["reason"]) == (4003, "no answer to ping")
        assert (await client.frame()).code == 4003
        assert not await client.ended()  # it does not answer the close either
        assert 3 * SHORT - 0.3 <= after(start) <= 3 * SHORT + 3 * SLACK
        await until(lambda: not clients(worker))


async def test_a_client_that_answers_pings_stays() -> None:
    config = configuration(keepalive=Keepalive(ping_s=0.2, pong_s=0.2))
    async with running(config) as worker, connected(worker.port) as client:
        for _ in range(4):
            assert await client.frame() == Frame(PING, b"")
            await client.send(masked(b"", PONG))


@pytest.mark.parametrize("pings", [False, True])
async def test_a_message_must_be_completed_in_time(pings: bool) -> None:
    config = configuration(limits=patient(message_s=SHORT), keepalive=Keepalive(ping_s=SHORT))
    async with running(config) as worker, connected(worker.port) as client:
        start = time.monotonic()
        await client.send(masked(b'{"op":', fin=False))

        async def drips() -> None:
            for _ in range(100):
                await asyncio.sleep(0.05)
                await client.send(masked(b" ", 0, fin=False))
                if pings:
                    await client.send(masked(b"", PING))

        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drips())
            code, goodbye = await client.goodbye()
            dripping.cancel()
        assert after(start) <= 2 * SHORT + SLACK
        assert (code, goodbye["reason"]) == (4500, "a message was not completed in time")


async def test_a_close_that_is_not_answered_ends_in_a_reset() -> None:
    config = configuration(keepalive=Keepalive(close_s=SHORT))
    async with running(config) as worker, connected(worker.port) as client:
        await client.send(masked(b"", BINARY))
        start = time.monotonic()
        assert (await client.goodbye())[0] == 1003
        assert not await client.ended()
        assert SHORT - 0.1 <= after(start) <= SHORT + SLACK
        await until(lambda: not clients(worker))


async def test_a_close_that_is_answered_ends_in_order_and_early() -> None:
    config = configuration(keepalive=Keepalive(close_s=30))
    async with running(config) as worker, connected(worker.port) as client:
        await client.send(masked(b"", BINARY))
        assert (await client.goodbye())[0] == 1003
        await client.send(command("ping"), closing(1003))
        assert await client.ended()
        client.close()
        await until(lambda: not clients(worker))


async def test_a_peer_that_closes_but_keeps_its_socket_is_reset() -> None:
    config = configuration(keepalive=Keepalive(close_s=SHORT))
    async with running(config) as worker, connected(worker.port) as client:
        await client.send(closing(1000))
        assert (await client.frame()).code == 1000
        assert await client.ended()  # the server has ended its side, we do not end ours
        await until(lambda: not clients(worker), SHORT + SLACK)


async def test_deadlines_longer_than_a_turn_of_the_timers_are_kept() -> None:
    # Virtual time: the worker's own clock cannot be turned forward, its wheel can.
    config = configuration(limits=Limits(handshake_s=100), keepalive=Keepalive(close_s=100))
    async with (
        running(config) as worker,
        wire(worker.port) as silent,
        connected(worker.port) as closing_one,
    ):
        await closing_one.send(masked(b"", BINARY))
        assert (await closing_one.goodbye())[0] == 1003
        await until(lambda: len(worker.wheel) == 2)
        worker.wheel.advance(worker.wheel.now + 900)
        assert len(worker.wheel) == 2
        worker.wheel.advance(worker.wheel.now + 150)
        assert (await silent.answer()).status == 408
        assert not await closing_one.ended()
