"""Pipelines: replies find who asked, and nobody waits for a connection that is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import hiredis
import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address
from clarion_fanout.redis_pipeline import IN_FLIGHT_COMMANDS, WAITING_BYTES, Pipeline
from clarion_fanout.redis_wire import Reply, connect, pack
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers
from support.waiting import until

PING = pack(("PING",))


@asynccontextmanager
async def pipeline(server: RedisServer) -> AsyncIterator[tuple[Pipeline, list[str]]]:
    """A pipeline that is connected, and why it no longer is."""
    made = Pipeline("s1")
    lost: list[str] = []

    def was_lost(reason: str) -> None:
        lost.append(reason)
        made.lost(reason)

    wire = await connect(Address("127.0.0.1", server.port), made.received, was_lost, 5)
    made.attach(wire)
    try:
        yield made, lost
    finally:
        await made.close()


@asynccontextmanager
async def peer(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]],
) -> AsyncIterator[int]:
    """Not Redis: what accepts a connection and does `answer`; yields its port."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_replies_come_to_those_who_asked() -> None:
    [server] = await shared_servers(1)
    async with pipeline(server) as (made, _):
        asked = [
            made.send(b"".join(pack(("ECHO", f"{place}.{number}")) for number in range(size)), size)
            for place, size in enumerate([1, 3, 2, 0, 1])
        ]
        assert made.in_flight == 7
        replies = await asyncio.gather(*asked)
        assert replies == [
            [b"0.0"], [b"1.0", b"1.1", b"1.2"], [b"2.0", b"2.1"], [], [b"4.0"],
        ]  # fmt: skip
        assert made.in_flight == 0


async def test_errors_stand_in_their_place() -> None:
    [server] = await shared_servers(1)
    async with pipeline(server) as (made, _):
        first, error, last = await made.send(PING + pack(("NOTHING",)) + PING, 3)
    assert (first, last) == (b"PONG", b"PONG")
    assert isinstance(error, hiredis.ReplyError)


async def test_who_no_longer_waits_takes_nobody_elses_reply() -> None:
    [server] = await shared_servers(1)
    async with pipeline(server) as (made, _):
        gone = made.send(pack(("ECHO", "1")), 1)
        gone.cancel()
        assert await made.send(pack(("ECHO", "2")), 1) == [b"2"]
        assert made.in_flight == 0


async def test_without_a_connection_nothing_is_taken() -> None:
    made = Pipeline("s1")
    with pytest.raises(BrokerUnavailable, match="shard s1 is not connected"):
        made.send(PING, 1)


async def test_what_has_no_answer_fails_with_the_connection() -> None:
    async with RedisServer() as server, pipeline(server) as (made, lost):
        server.stop()
        asked = [made.send(PING, 1) for _ in range(3)]
        asked[1].cancel()
        made.abort("no answer in time")
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert lost == ["no answer in time"]
        assert [type(outcome) for outcome in outcomes] == [
            BrokerUnavailable,
            asyncio.CancelledError,
            BrokerUnavailable,
        ]
        assert str(outcomes[0]) == "the connection to shard s1 was lost: no answer in time"
        assert outcomes[0] is not outcomes[2]
        assert made.in_flight == 0
        with pytest.raises(BrokerUnavailable, match="not connected"):
            made.send(PING, 1)


async def test_what_has_no_answer_fails_when_it_is_closed() -> None:
    async with RedisServer() as server, pipeline(server) as (made, lost):
        server.stop()
        asked = made.send(PING, 1)
        await made.close()
        with pytest.raises(BrokerUnavailable, match="closed"):
            await asked
        assert not lost


async def test_it_is_late_when_the_oldest_waits_and_nothing_arrives() -> None:
    async with RedisServer() as server, pipeline(server) as (made, _):
        assert made.late(time.monotonic() + 100) == 0
        server.stop()
        asked = made.send(PING, 1)
        sent = time.monotonic()
        assert made.late(sent + 3) == pytest.approx(3, abs=0.1)
        server.go_on()
        await asked
        assert made.late(sent + 3) == 0


async def test_a_part_of_an_answer_shows_that_it_is_not_late() -> None:
    go_on = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await asyncio.sleep(0.05)
        writer.write(b"$5\r\nhe")
        await go_on.wait()
        writer.write(b"llo\r\n")
        writer.close()

    async with peer(answer) as port:
        made = Pipeline("s1")
        wire = await connect(Address("127.0.0.1", port), made.received, made.lost, 5)
        made.attach(wire)
        asked = made.send(PING, 1)
        sent = time.monotonic()
        await until(lambda: wire.heard > sent)
        assert wire.heard > sent + 0.04
        assert made.late(wire.heard + 3) == 3
        go_on.set()
        assert await asked == [b"hello"]
        await made.close()


async def test_beyond_what_may_be_in_flight_it_refuses_unless_it_is_urgent() -> None:
    async with RedisServer() as server, pipeline(server) as (made, _):
        server.stop()
        asked = made.send(PING * IN_FLIGHT_COMMANDS, IN_FLIGHT_COMMANDS)
        with pytest.raises(BrokerUnavailable, match="overloaded"):
            made.send(PING, 1)
        urgent = made.send(PING, 1, urgent=True)
        server.go_on()
        assert len(await asked) == IN_FLIGHT_COMMANDS
        assert await urgent == [b"PONG"]
        assert await made.send(PING, 1) == [b"PONG"]


async def test_more_than_may_be_in_flight_is_taken_by_itself() -> None:
    [server] = await shared_servers(1)
    async with pipeline(server) as (made, _):
        count = IN_FLIGHT_COMMANDS + 1
        assert len(await made.send(PING * count, count)) == count


async def test_it_refuses_when_redis_does_not_take_what_is_sent() -> None:
    async with RedisServer() as server, pipeline(server) as (made, _):
        server.stop()
        command = pack(("SET", "key", b"x" * 1_000_000))
        asked: list[asyncio.Future[list[Reply]]] = []

        async def send_for_ever() -> None:
            while True:
                asked.append(made.send(command, 1))
                await asyncio.sleep(0)

        with pytest.raises(BrokerUnavailable, match="overloaded"):
            await send_for_ever()
        assert WAITING_BYTES < len(asked) * len(command) < 4 * WAITING_BYTES
        server.go_on()
        assert await asyncio.gather(*asked) == [[b"OK"]] * len(asked)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"+PONG\r\n+PONG\r\n", "answered what was not asked"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "sent what is not RESP"),
    ],
    ids=["too much", "something else"],
)
async def test_what_cannot_be_an_answer_ends_the_connection(said: bytes, why: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        await reader.read()
        writer.close()

    async with peer(answer) as port:
        made = Pipeline("s1")
        reasons: list[str] = []
        lost = made.lost

        def was_lost(reason: str) -> None:
            reasons.append(reason)
            lost(reason)

        made.attach(await connect(Address("127.0.0.1", port), made.received, was_lost, 5))
        asked = made.send(PING, 1)
        await until(lambda: reasons)
        assert reasons[0].startswith(why)
        await asyncio.wait([asked])
        assert isinstance(asked.exception(), BrokerUnavailable) or asked.result() == [b"PONG"]
        await made.close()


async def test_the_end_of_the_connection_says_why() -> None:
    async with RedisServer() as server, pipeline(server) as (made, lost):
        await made.send(PING, 1)
        server.kill()
        await until(lambda: lost)
        assert lost in (["closed by the server"], ["Connection reset by peer"])
