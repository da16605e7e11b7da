"""Clients that do not read, and clients that mean harm: attacks are tests with names."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import socket
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import pytest

from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Keepalive, Limits, Namespace, WindowOptions
from support.server import SECRET, clients, configuration, publish, running, token
from support.waiting import until
from support.wire import (
    BINARY,
    PING,
    TEXT,
    Wire,
    closing,
    command,
    connected,
    get,
    handshake,
    masked,
    streaming,
    wire,
)

KIB = 1024
MIB = 1024 * KIB

TINY = 4096
"""A receive buffer that is full soon. The kernel doubles it."""


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running() as worker:
        yield worker


@contextmanager
def allocating_at_most(size: int) -> Iterator[None]:
    """Fails if more than `size` bytes beyond what there was are ever allocated at once."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size, f"{peak:,} bytes were allocated at once"


async def is_served(client: Wire) -> None:
    """Fails if the server does not answer this client soon."""
    async with asyncio.timeout(1):
        await client.send(command("ping", id="witness"))
        assert await client.said() == {"op": "pong", "id": "witness"}


# Slow consumers


async def test_a_client_that_does_not_read_is_gone_when_its_window_is_full() -> None:
    config = configuration(
        window=WindowOptions(bytes=256 * KIB, seconds=60), keepalive=Keepalive(close_s=0.3)
    )
    async with (
        running(config) as worker,
        connected(worker.port) as other,
        connected(worker.port, receive_buffer=TINY) as lazy,
    ):
        await other.subscribe("bare:a")
        await lazy.subscribe("bare:a")
        count = 0
        with allocating_at_most(2 * MIB):
            while worker.hub.subscriptions == 2:
                await publish(worker, "bare:a", [count, "x" * 20_000])
                assert (await other.said("message"))["data"][0] == count
                count += 1
                assert count < 2000
        full = time.monotonic()
        for number in range(count, count + 100):  # it goes on for the other
            await publish(worker, "bare:a", [number])
            assert (await other.said("message"))["data"] == [number]
        await until(lambda: clients(worker) == 1, 2)
        assert 0.1 <= time.monotonic() - full <= 1
        assert worker.counters.closes == {4001: 1}
        assert worker.counters.too_slow == Counter({("bytes", "bare"): 1})
        assert worker.counters.dropped["close", "bare"] > 5
        assert not await lazy.ended()
        await is_served(other)


async def test_a_client_that_does_not_read_is_gone_in_time_also_in_a_slow_topic() -> None:
    config = configuration(
        window=WindowOptions(seconds=0.5),
        keepalive=Keepalive(close_s=0.3),
        limits=Limits(data_bytes=8 * MIB),
    )
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as lazy:
        await lazy.subscribe("bare:a")
        await publish(worker, "bare:a", "x" * 8_000_000)  # more than the kernel takes
        start = time.monotonic()
        while worker.hub.subscriptions:
            await publish(worker, "bare:a", 1)
            await asyncio.sleep(0.02)
            assert time.monotonic() - start < 2
        assert time.monotonic() - start >= 0.4
        await until(lambda: not clients(worker), 1)
        assert worker.counters.closes == {4001: 1}


async def test_a_slow_consumer_that_begins_to_read_learns_why_it_is_closed() -> None:
    config = configuration(window=WindowOptions(bytes=64 * KIB), keepalive=Keepalive(close_s=5))
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as lazy:
        await lazy.subscribe("a")
        sent = 0
        while worker.hub.subscriptions:
            await publish(worker, "a", [sent, "x" * 20_000])
            await asyncio.sleep(0)
            sent += 1
        seen = 0
        while (answer := await lazy.said())["op"] == "message":
            assert answer["data"][0] == seen  # what arrives has no gap
            seen += 1
        assert seen < sent
        assert answer["op"] == "goodbye"
        assert (answer["code"], answer["reason"]) == (4001, "slow consumer")
        assert answer["retry_ms"] >= 500
        assert (await lazy.frame()).code == 4001
        # And it loses nothing: where it stopped, the history goes on.
        async with connected(worker.port) as again:
            await again.send(command("subscribe", topic="a", last=sent - seen))
            await again.said("subscribed")
            for number in range(seen, sent):
                assert (await again.said("message"))["data"][0] == number


async def test_a_client_that_reads_slowly_but_steadily_loses_nothing() -> None:
    config = configuration(window=WindowOptions(bytes=16 * MIB, seconds=1))
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as slow:
        await slow.subscribe("bare:a")
        for number in range(400):
            await publish(worker, "bare:a", [number, "x" * 20_000])
            await asyncio.sleep(0)
        (peer,) = worker.directory.peers()
        assert not peer.bulk  # it is behind
        start = time.monotonic()
        for number in range(400):
            assert (await slow.said("message"))["data"][0] == number
            if number % 4 == 0:
                await asyncio.sleep(0.02)
        assert time.monotonic() - start > 1.5  # longer than anything may stand still
        assert peer.bulk
        await publish(worker, "bare:a", "at once again")
        assert (await slow.said("message"))["data"] == "at once again"


async def test_a_huge_publication_closes_nobody_who_reads() -> None:
    config = configuration(
        window=WindowOptions(bytes=64 * KIB, seconds=1), limits=Limits(data_bytes=8 * MIB)
    )
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as client:
        await client.subscribe("bare:a")
        await publish(worker, "bare:a", "x" * 8_000_000)
        await publish(worker, "bare:a", "small")
        assert len((await client.said("message"))["data"]) == 8_000_000
        assert (await client.said("message"))["data"] == "small"


@pytest.mark.parametrize("kind", ["websocket", "stream"])
async def test_a_long_replay_closes_nobody_who_reads(kind: str) -> None:
    deep = Namespace(history_size=1000, subscribe="everyone")
    config = configuration(
        window=WindowOptions(bytes=64 * KIB, seconds=1), namespaces={"deep": deep}
    )
    async with running(config) as worker:
        for number in range(1000):
            await publish(worker, "deep:a", [number, "x" * 10_000])

        async def numbers(client: Wire, count: int) -> list[int]:
            found: list[int] = []
            for _ in range(count):
                if kind == "stream":
                    message = json.loads((await client.event())["data"])
                else:
                    message = await client.said("message")
                found.append(message["data"][0])
            return found

        if kind == "stream":
            async with streaming(
                worker.port, ["deep:a"], query="last=1000", receive_buffer=TINY
            ) as client:
                await client.event()
                await publish(worker, "deep:a", [1000])
                assert await numbers(client, 1001) == list(range(1001))
        else:
            async with connected(worker.port, receive_buffer=TINY) as client:
                await client.subscribe("deep:a", last=1000)
                await publish(worker, "deep:a", [1000])
                assert await numbers(client, 1001) == list(range(1001))


async def flood(client: Wire, data: bytes, patience: float = 0.3) -> None:
    """Sends the same again and again until the server takes nothing for `patience` seconds."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * KIB)
    loop = asyncio.get_running_loop()
    moved = time.monotonic()

    async def send() -> None:
        nonlocal moved
        with suppress(ConnectionError):
            while True:
                await loop.sock_sendall(client.sock, data)
                moved = time.monotonic()

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send())
        await until(lambda: sending.done() or time.monotonic() - moved > patience)
        sending.cancel()


@pytest.mark.parametrize(
    "sent",
    [masked(b"x" * 125, PING), command("ping", id="x" * 100), command("history", topic="a")],
    ids=["pings", "commands", "history"],
)
async def test_a_client_that_asks_without_reading_is_not_read_any_more(
    worker: Worker, sent: bytes
) -> None:
    for number in range(100):
        await publish(worker, "a", [number, "x" * 9000])
    async with (
        connected(worker.port) as other,
        connected(worker.port, receive_buffer=TINY) as lazy,
    ):
        with allocating_at_most(6 * MIB):
            await flood(lazy, sent * 50)
            before = worker.counters.bytes_in
            await flood(lazy, sent * 50)
            assert worker.counters.bytes_in == before
        await is_served(other)


async def test_answers_that_are_many_times_their_commands_wait_until_they_are_taken() -> None:
    deep = Namespace(history_size=1000, subscribe="everyone")
    async with running(configuration(namespaces={"deep": deep})) as worker:
        for number in range(100):
            await publish(worker, "deep:a", [number, "x" * 9000])
        async with connected(worker.port) as client:
            with allocating_at_most(12 * MIB):
                batch = [command("history", id=number, topic="deep:a") for number in range(40)]
                await client.send(*batch, command("ping"))
                await asyncio.sleep(0.2)
            # Every one is answered, in order, and nobody is closed for asking.
            for number in range(40):
                answer = await client.said("history")
                assert answer["id"] == number
                assert len(answer["messages"]) == 100
            assert await client.said() == {"op": "pong"}


async def test_replays_wait_until_the_one_before_is_taken() -> None:
    deep = Namespace(history_size=1000, subscribe="everyone")
    async with running(configuration(namespaces={"deep": deep})) as worker:
        for number in range(1000):
            await publish(worker, "deep:a", [number, "x" * 900])
        # Shared by all, and made by the first.
        async with connected(worker.port) as first:
            await first.subscribe("deep:a", last=1000)
        async with connected(worker.port) as client:
            again = command("subscribe", topic="deep:a", last=1000)
            again += command("unsubscribe", topic="deep:a")
            with allocating_at_most(3 * MIB):
                await client.send(again * 60)
                await asyncio.sleep(0.2)
            for _ in range(60):
                await client.said("subscribed")
                for number in range(1000):
                    assert (await client.said("message"))["data"][0] == number
                await client.said("unsubscribed")


async def test_a_close_that_waits_behind_answers_is_answered(worker: Worker) -> None:
    for number in range(100):
        await publish(worker, "a", [number, "x" * 9000])
    async with connected(worker.port) as client:
        await client.send(command("history", topic="a") * 10, closing(1000))
        for _ in range(10):
            await client.said("history")
        assert (await client.frame()).code == 1000
        assert await client.ended()
        client.close()
        await until(lambda: not clients(worker), 0.5)
    assert worker.counters.closes == {1000: 1}


# Descriptors


async def test_nobody_gets_anothers_message_while_descriptors_are_reused(worker: Worker) -> None:
    live: dict[str, None] = {}
    heard = 0

    async def listens(number: int) -> None:
        nonlocal heard
        for turn in range(40):
            topic = f"{number}:{turn}"
            live[topic] = None
            if number % 4 == 3:
                async with streaming(worker.port, [topic]) as client:
                    for _ in range(1 + turn % 3):
                        assert json.loads((await client.event())["data"])["topic"] == topic
                        heard += 1
            else:
                async with connected(worker.port) as client:
                    await client.subscribe(topic)
                    for _ in range(1 + turn % 3):
                        message = await client.said("message")
                        assert message["topic"] == message["data"] == topic
                        heard += 1
                    if number % 4 == 1:
                        await client.send(closing(1000))
                    elif number % 4 == 2:
                        client.reset()
            del live[topic]

    async def publishes() -> None:
        while True:
            for topic in list(live):
                await publish(worker, topic, topic)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publishes())
        async with asyncio.TaskGroup() as listening:
            for number in range(8):
                listening.create_task(listens(number))
        publishing.cancel()
    assert heard == 8 * sum(1 + turn % 3 for turn in range(40))
    await until(lambda: not clients(worker))
    assert not worker.hub.topics


@pytest.mark.parametrize("kind", ["stream", "websocket", "commands"])
async def test_a_client_that_is_gone_before_its_request_is_read_is_subscribed_to_nothing(
    worker: Worker, kind: str
) -> None:
    """Its descriptor will be another's soon: what stays in the hub would reach that one."""
    for topic in "abc":
        await publish(worker, topic, topic)
    wishes = [{"topic": topic, "last": 1} for topic in "abc"]
    sent = {
        "stream": get("/sse?topic=a&topic=b&topic=c&last=1"),
        "websocket": handshake() + command("subscribe", topics=wishes),
        "commands": handshake() + b"".join(command("subscribe", **wish) for wish in wishes),
    }[kind]
    for _ in range(10):
        client = await Wire.open(worker.port)
        client.sock.send(sent)
        client.reset()  # what was sent is read nevertheless, and then every write fails
    accepted = ("sse" if kind == "stream" else "websocket", "accepted")
    await until(lambda: worker.counters.handshakes[accepted] == 10)
    await until(lambda: not clients(worker))
    assert not worker.hub.topics
    assert not worker.hub.subscriptions


async def test_who_leaves_while_a_publication_is_under_way_disturbs_nobody(worker: Worker) -> None:
    async with connected(worker.port) as witness:
        await witness.subscribe("a")
        for _ in range(30):
            async with (
                connected(worker.port) as one,
                connected(worker.port) as two,
                connected(worker.port) as three,
            ):
                for client in (one, two, three):
                    await client.subscribe("a")
                # All of it meets the server in one turn of its loop, or nearly.
                await one.send(
                    command("unsubscribe", topic="a"), command("publish", topic="a", data=1)
                )
                await two.send(command("publish", topic="a", data=2), closing(1000))
                three.reset()
                await publish(worker, "a", 0)
                assert sorted([(await witness.said("message"))["data"] for _ in range(3)]) == [
                    0,
                    1,
                    2,
                ]
    await until(lambda: not clients(worker))


# Memory


async def test_fragments_without_content_come_to_an_end(worker: Worker) -> None:
    async with connected(worker.port) as client:
        with allocating_at_most(2 * MIB):
            await client.send(masked(b"", fin=False))
            await flood(client, masked(b"", 0, fin=False) * 100)
        assert (await client.goodbye())[0] == 1008


async def test_a_message_of_single_bytes_is_bounded_like_any_other(worker: Worker) -> None:
    async with connected(worker.port) as client:
        with allocating_at_most(2 * MIB):
            await client.send(masked(b" ", fin=False))
            for _ in range(1022):
                await client.send(masked(b" ", 0, fin=False))
            await client.send(masked(b'{"op":"ping"}', 0))
            assert await client.said() == {"op": "pong"}


async def test_an_announced_length_reserves_nothing(worker: Worker) -> None:
    async with connected(worker.port) as client:
        with allocating_at_most(1 * MIB):
            await client.send(b"\x81\xff" + (60_000_000).to_bytes(8, "big") + b"mask" + b"x" * 100)
            assert (await client.goodbye())[0] == 1009


async def test_many_that_say_nothing_are_let_go_and_keep_nobody_out() -> None:
    config = configuration(limits=Limits(handshake_s=0.5), keepalive=Keepalive(close_s=0.2))
    async with running(config) as worker:
        silent = [await Wire.open(worker.port) for _ in range(500)]
        try:
            async with connected(worker.port) as client:
                await is_served(client)
            await until(lambda: not len(worker.wheel), 3)
            assert worker.counters.handshakes["unknown", "408"] == 500
        finally:
            for one in silent:
                one.close()


async def test_a_connection_has_so_many_topics_and_no_more() -> None:
    async with (
        running(configuration(limits=Limits(subscriptions=10))) as worker,
        connected(worker.port) as client,
    ):
        wishes = [{"topic": f"{number}"} for number in range(12)]
        await client.send(command("subscribe", id=1, topics=wishes))
        for _ in range(10):
            await client.said("subscribed")
        for _ in range(2):
            assert (await client.said("error"))["code"] == "too_many"
        await client.send(command("unsubscribe", topic="3"))
        await client.said("unsubscribed")
        await client.subscribe("other")


async def test_commands_with_thousands_of_mistakes_are_paid_for(worker: Worker) -> None:
    """One mistake for each command; but it costs as much as its topics, so that few are taken."""
    async with connected(worker.port) as client:
        wrong = command("subscribe", topics=[{"topic": "no topic"}] * 2000)

        async def send() -> None:
            for _ in range(120):
                await client.send(wrong)

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            code, goodbye = await client.goodbye()
        assert (code, goodbye["reason"]) == (4503, "limit reached: more than 100 commands a second")
    assert worker.counters.errors["bad_topic"] <= 2000 * 10


async def test_connections_that_ended_leave_nothing_for_the_collector(worker: Worker) -> None:
    """What was alive when the collector froze is not looked at again: it must free itself."""

    async def converse() -> None:
        async with connected(worker.port) as client:
            await client.subscribe("a")
            await client.send(command("publish", topic="a", data=1), closing(1000))
            await client.goodbye()
        async with streaming(worker.port, ["a", "b"]) as client:
            await client.event()
        async with connected(worker.port) as client:
            client.reset()
        async with wire(worker.port) as client:
            await client.send(get("/nowhere"))
            await client.answer()
        async with wire(worker.port) as client:
            await client.send(b"GET")
        await until(lambda: not clients(worker) and not len(worker.wheel))

    await converse()  # whatever is made once is made now
    gc.collect()
    before = worker.garbage.collected.total()
    for _ in range(20):
        await converse()
    gc.collect()
    assert worker.garbage.collected.total() - before < 20  # less than an object of each kind


# Text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        '{"op":' * 10_000,
        '{"a":' * 9000 + "1" + "}" * 9000,
        '{"op":"ping","id":' + "9" * 5000 + "}",
        '{"op":"ping","id":1e999}',
        '{"op":"ping","id":NaN}',
        '{"op":"ping","id":"' + "x" * 60_000 + '"}',
        '{"op":"ping","id":{"a":[]}}',
        '{"op":"ping","id":true}',
        '{"op":["ping"]}',
        '{"op":"subscribe","topic":"\\ud800"}',
        '{"op":"subscribe","topic":"a\\u0000b"}',
        '{"op":"subscribe","topic":"a\\r\\nSet-Cookie: b"}',
        '{"op":"subscribe","topic":{"a":1}}',
        '{"op":"subscribe","topic":"a","since":{"epoch":"x","offset":-1}}',
        '{"op":"subscribe","topic":"a","since":{"epoch":"x","offset":1e99}}',
        '{"op":"subscribe","topic":"a","last":-1}',
        '{"op":"subscribe","topics":{"a":1}}',
        '{"op":"subscribe"}',
        '{"op":"publish","topic":"a"}',
        '{"op":"publish","topic":"a","data":' + "[" * 5000 + "]" * 5000 + "}",
        '{"op":"publish","topic":"a","data":"\\ud800"}',
        '{"op":"publish","topic":"a","data":NaN}',
        '{"op":"history","topic":"a","limit":0}',
        '{"op":"refresh","token":"a.b.c"}',
        '{"op":"connect","token":""}',
        '{"op":"nothing\\u001b[31m"}',
        "null",
        '"ping"',
        "",
        "\ufeff{}",
        '{"op":"ping"}{"op":"ping"}',
    ],
)
async def test_a_command_that_makes_no_sense_is_an_error_and_nothing_else(
    worker: Worker, text: str
) -> None:
    async with connected(worker.port) as client:
        await client.send(masked(text.encode()))
        error = await client.said("error")
        assert len(error["message"]) < 300
        await is_served(client)


async def test_unknown_fields_are_ignored(worker: Worker) -> None:
    async with connected(worker.port) as client:
        await client.send(command("ping", id=1, more=[{"a": None}], op2="x"))
        assert await client.said() == {"op": "pong", "id": 1}


async def test_connections_that_say_nothing_keep_nobody_out() -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    worker = Worker(configuration())
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, usual[1]))
    try:
        await worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)  # the clients are here too
    async with AsyncExitStack() as stack:
        stack.push_async_callback(worker.close)
        friend = await stack.enter_async_context(connected(worker.port))
        await friend.subscribe("bare:a")
        for number in range(400):
            silent = await stack.enter_async_context(wire(worker.port))
            if number % 2:
                await silent.send(handshake()[:-4])
        async with asyncio.timeout(5):
            async with connected(worker.port) as client:
                await client.subscribe("bare:a")
        assert worker.counters.refusals["descriptors"] >= 200
        assert clients(worker) >= 1
        await publish(worker, "bare:a", 1)
        assert (await friend.said("message"))["data"] == 1


async def test_a_header_that_is_costly_to_read_costs_little(worker: Worker) -> None:
    for header in (
        "Sec-WebSocket-Protocol: " + "a," * 4000,
        "Sec-WebSocket-Protocol: " + "," * 8000,
        "Sec-WebSocket-Extensions: " + "a;" * 4000,
        "Sec-WebSocket-Extensions: " + 'permessage-deflate;a="' + "\\" * 7000,
        "Sec-WebSocket-Extensions: " + "permessage-deflate; client_max_window_bits," * 180,
        "Connection: " + "Upgrade," * 1000,
        "Cookie: " + "=;" * 4000,
        "Origin: http://" + "a." * 4000,
    ):
        async with wire(worker.port) as client:
            start = time.process_time()
            await client.send(handshake("/ws", header, protocol=""))
            await client.head()
            assert time.process_time() - start < 0.1, header[:40]


async def test_compression_is_not_negotiated_and_not_understood(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.send(handshake("/ws", "Sec-WebSocket-Extensions: permessage-deflate"))
        head = await client.head()
        assert head.status == 101
        assert "sec-websocket-extensions" not in head.headers
        bomb = bytearray(masked(b"*\x01"))
        bomb[0] |= 0x40  # RSV1: compressed
        await client.send(bytes(bomb))
        assert (await client.goodbye())[0] == 1002


# Secrets and rights


async def test_a_token_is_neither_logged_nor_repeated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    secret = token("ada") + "broken"
    async with running(configuration(auth=AuthOptions(secret=SECRET))) as worker:
        async with wire(worker.port) as client:
            await client.upgrade(f"/ws?token={secret}")
            assert secret not in str(await client.goodbye())
        async with wire(worker.port) as client:
            await client.send(get(f"/sse?topic=a&token={secret}"))
            assert secret not in str(await client.answer())
        async with wire(worker.port) as client:
            await client.upgrade()
            await client.send(command("connect", token=secret))
            assert secret not in str(await client.goodbye())
    assert secret not in caplog.text


async def test_nothing_is_heard_before_the_token_was_accepted() -> None:
    everyone = Namespace(subscribe="everyone", publish="everyone", history_size=10)
    config = configuration(auth=AuthOptions(secret=SECRET), namespaces={"default": everyone})
    async with running(config) as worker, wire(worker.port) as client:
        behind = [
            command("subscribe", topic="a"),
            command("publish", topic="a", data=1),
            command("history", topic="a"),
            command("refresh", token=token("ada")),
        ]
        await client.upgrade(behind=b"".join(behind))
        for _ in behind:
            assert (await client.said("error"))["code"] == "unauthorized"
        assert not worker.hub.topics
        assert not worker.counters.publications


async def test_a_user_stays_who_it_is() -> None:
    granted = Namespace(subscribe="granted")
    config = configuration(auth=AuthOptions(secret=SECRET), namespaces={"default": granted})
    async with running(config) as worker, wire(worker.port) as client:
        await client.upgrade(f"/ws?token={token('ada', subscribe=['a'])}")
        await client.said("welcome")
        await client.subscribe("a")
        await client.subscribe("user:ada")
        for sent, code in (
            (command("subscribe", topic="user:eve"), "forbidden"),
            (command("subscribe", topic="b"), "forbidden"),
            (command("history", topic="b"), "forbidden"),
            (command("publish", topic="a", data=1), "forbidden"),
            (command("refresh", token=token("eve", subscribe=["b"])), "forbidden"),
            (command("connect", token=token("eve")), "bad_request"),
        ):
            await client.send(sent)
            assert (await client.said("error"))["code"] == code
        # With less in the new token, what it does not grant ends.
        await client.send(command("refresh", token=token("ada")))
        answers: list[Any] = [await client.said(), await client.said()]
        assert {answer["op"] for answer in answers} == {"unsubscribed", "refreshed"}
        await publish(worker, "a", "secret")
        await is_served(client)


async def test_a_web_page_elsewhere_cannot_talk_to_a_development_server() -> None:
    async with running(configuration(development=True)) as worker:
        for origin in (
            "http://evil.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://evil.example#localhost",
            "http://localhost@evil.example",
            "null",
            "file://",
            "",
        ):
            async with wire(worker.port) as client:
                await client.send(handshake("/ws", f"Origin: {origin}"))
                assert (await client.head()).status == 403, origin
        for origin in ("http://localhost:3000", "http://127.0.0.1:8001", "http://[::1]:5173"):
            async with connected(worker.port, "/ws", f"Origin: {origin}"):
                pass


async def test_frames_of_every_kind_after_the_end_are_not_handled(worker: Worker) -> None:
    async with connected(worker.port) as client, connected(worker.port) as other:
        await other.subscribe("a")
        late = command("publish", topic="a", data="late")
        await client.send(masked(b"\0", BINARY), late, masked(b"", PING), late)
        assert (await client.goodbye())[0] == 1003
        await client.send(late, masked(b"\xff", TEXT), late, closing(1003), late)
        assert await client.ended()
        await is_served(other)
    assert not worker.counters.publications
