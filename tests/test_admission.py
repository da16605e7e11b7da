"""Who is let in: a worker, real sockets, and clients that try everything."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from clarion_server.app import Worker
from clarion_server.options import Admission, AuthOptions, Keepalive, Limits
from clarion_server.porter import Porter
from clarion_server.proxy_header import SIGNATURE
from support.server import SECRET, clients, configuration, publish, running, token
from support.waiting import DEADLINE, until
from support.wire import Answer, Wire, closing, command, connected, get, handshake, streaming, wire

HERE = ("127.0.0.0/8",)
STREAM = get("/sse?topic=bare:a")


async def refused(worker: Worker, *request: bytes) -> Answer:
    async with wire(worker.port) as client:
        await client.send(*request)
        return await client.answer()


async def limited(worker: Worker, *headers: str, path: str = "/ws") -> str:
    """Why a WebSocket was opened only to be closed with 4503."""
    async with wire(worker.port) as client:
        await client.upgrade(path, *headers)
        code, goodbye = await client.goodbye()
        assert code == 4503
        assert "retry_ms" not in goodbye
        return str(goodbye["reason"])


# As many as there is room for


async def test_a_full_worker_refuses_newcomers_says_when_to_come_and_answers_health() -> None:
    limits = Limits(connections=2)
    async with running(configuration(limits=limits)) as worker:
        async with connected(worker.port), streaming(worker.port, ["bare:a"]):
            for request in (handshake(), STREAM):
                answer = await refused(worker, request)
                assert answer.status == 503
                assert 1 <= int(answer.headers["retry-after"]) <= 6
            assert (await refused(worker, get("/livez"))).status == 200
            answer = await refused(worker, get("/readyz"))
            assert (answer.status, b"as many clients as it takes" in answer.body) == (503, True)
            assert worker.counters.refusals == {"connections": 2}
        await until(lambda: not clients(worker))
        assert (await refused(worker, get("/readyz"))).status == 200
        async with connected(worker.port):
            pass


async def test_a_page_may_read_when_to_come_back() -> None:
    config = configuration(limits=Limits(connections=1), origins=("https://app.example",))
    async with running(config) as worker, connected(worker.port):
        request = get("/sse?topic=bare:a", "Origin: https://app.example")
        answer = await refused(worker, request)
        assert answer.status == 503
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert answer.headers["access-control-expose-headers"] == "Retry-After"
        answer = await refused(worker, get("/sse?topic=bare:a", "Origin: https://evil.example"))
        assert answer.status == 503
        assert "access-control-allow-origin" not in answer.headers


async def test_a_users_connections_are_limited_on_both_transports() -> None:
    config = configuration(limits=Limits(user_connections=2))
    bearer = f"Authorization: Bearer {token('ann')}"
    async with running(config) as worker, AsyncExitStack() as stack:
        await stack.enter_async_context(connected(worker.port, "/ws", bearer))
        second = await stack.enter_async_context(streaming(worker.port, ["bare:a"], bearer))
        assert await limited(worker, bearer) == "limit reached: a user's connections, at most 2"
        answer = await refused(worker, get("/sse?topic=bare:a", bearer))
        assert (answer.status, answer.headers["retry-after"]) == (429, "60")
        assert b"too_many" in answer.body
        async with connected(worker.port), connected(worker.port):
            pass  # nobody's
        second.reset()
        await until(lambda: worker.counters.connections["sse"] == 0)
        await stack.enter_async_context(connected(worker.port, "/ws", bearer))
        assert worker.counters.refusals == {"user": 2}


async def test_a_token_that_comes_late_is_counted_too() -> None:
    auth = AuthOptions(secret=SECRET)
    config = configuration(auth=auth, limits=Limits(user_connections=1))
    async with running(config) as worker, wire(worker.port) as first, wire(worker.port) as second:
        await first.upgrade()
        await first.send(command("connect", token=token("ann")))
        await first.said("welcome")
        await second.upgrade()
        await second.send(command("connect", token=token("ann")))
        assert (await second.goodbye())[0] == 4503


async def test_an_address_has_so_many_connections_and_frees_them() -> None:
    config = configuration(limits=Limits(address_connections=2), keepalive=Keepalive(close_s=1))
    async with running(config) as worker:
        async with connected(worker.port) as first, streaming(worker.port, ["bare:a"]):
            assert "an address's connections, at most 2" in await limited(worker)
            assert (await refused(worker, STREAM)).status == 429
            await first.send(closing(1000))
            await first.goodbye()
            async with connected(worker.port):
                assert "address" in await limited(worker)
        await until(lambda: not clients(worker))
        assert len(worker.edge.census) == 0
        assert worker.counters.refusals == {"address": 3}


async def test_a_client_that_is_refused_on_an_open_websocket_may_have_said_more_already() -> None:
    config = configuration(limits=Limits(address_connections=1))
    async with running(config) as worker, connected(worker.port), wire(worker.port) as client:
        await client.upgrade(behind=command("subscribe", topic="bare:a") + closing(1000))
        assert (await client.goodbye())[0] == 4503
        assert worker.hub.subscriptions == 0


# Where clients come from


async def test_forwarded_addresses_are_believed_of_proxies_only() -> None:
    limits = Limits(address_connections=1)
    async with (
        running(configuration(limits=limits, proxies=HERE)) as worker,
        connected(worker.port, "/ws", "X-Forwarded-For: 203.0.113.1"),
        connected(worker.port, "/ws", "X-Forwarded-For: 203.0.113.1, 203.0.113.2, 127.0.0.9"),
        connected(worker.port, "/ws", "X-Forwarded-For: 2001:db8::1"),
    ):
        # Whatever a client claims in front of what its proxy adds.
        assert await limited(worker, "X-Forwarded-For: 9.9.9.9, 203.0.113.1")
        assert await limited(worker, "X-Forwarded-For: 2001:db8::2")
        two = ("X-Forwarded-For: 9.9.9.9", "X-Forwarded-For: 203.0.113.2")
        assert await limited(worker, *two)
    async with running(configuration(limits=limits)) as worker, connected(worker.port):
        assert await limited(worker, "X-Forwarded-For: 203.0.113.1")


def proxied(source: str, version: int = 1) -> bytes:
    if version == 1:
        return f"PROXY TCP4 {source} 127.0.0.1 1000 80\r\n".encode()
    addresses = ipaddress.ip_address(source).packed + bytes((127, 0, 0, 1)) + bytes(4)
    return SIGNATURE + b"\x21\x11\0\x0c" + addresses


@pytest.fixture
async def behind() -> AsyncIterator[Worker]:
    """A worker behind a balancer with the PROXY protocol; an address has one connection."""
    config = configuration(
        limits=Limits(address_connections=1, handshake_s=1), proxies=HERE, proxy_protocol=True
    )
    async with running(config) as worker:
        yield worker


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dribbled", [False, True])
async def test_a_proxy_header_says_where_a_client_comes_from(
    behind: Worker, version: int, dribbled: bool
) -> None:
    async with AsyncExitStack() as stack:
        for source in ("203.0.113.1", "203.0.113.2", "203.0.113.1"):
            client = await stack.enter_async_context(wire(behind.port))
            if dribbled:
                await client.dribble(proxied(source, version))
                await client.upgrade()
            else:
                await client.send(proxied(source, version), handshake())
                assert (await client.head()).status == 101
            last = await client.said()
        assert last["op"] == "goodbye"
        assert last["reason"] == "limit reached: an address's connections, at most 1"


async def test_a_header_of_the_balancer_itself_leaves_its_own_address(behind: Worker) -> None:
    async with wire(behind.port) as one, wire(behind.port) as other:
        await one.send(SIGNATURE + b"\x20\x00\0\0", handshake())
        assert (await one.head()).status == 101
        await one.said("welcome")
        await other.send(b"PROXY UNKNOWN\r\n", handshake())
        assert (await other.head()).status == 101
        assert (await other.goodbye())[0] == 4503


async def test_two_kinds_of_proxies_behind_each_other(behind: Worker) -> None:
    request = handshake("/ws", "X-Forwarded-For: 203.0.113.7")
    async with wire(behind.port) as one, wire(behind.port) as other:
        await one.send(proxied("127.0.0.5"), request)
        assert (await one.head()).status == 101
        await one.said("welcome")
        await other.send(proxied("127.0.0.6"), request)
        assert (await other.head()).status == 101
        await other.said("goodbye")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (handshake(), "proxy_header_missing"),
        (STREAM, "proxy_header_missing"),
        (get("/nowhere"), "proxy_header_missing"),
        (b"PROXY TCP4 203.0.113.1 x 1 1\r\n" + handshake(), "proxy_header_malformed"),
        (b"PROXY " + b"x" * 200, "proxy_header_malformed"),
        (SIGNATURE + b"\x99" + bytes(100), "proxy_header_malformed"),
    ],
)
async def test_no_header_or_a_bad_one_is_refused_and_counted(
    behind: Worker, data: bytes, reason: str
) -> None:
    assert (await refused(behind, data)).status == 400
    assert behind.counters.refusals == {reason: 1}


async def test_health_checks_need_no_header(behind: Worker) -> None:
    for path in ("/livez", "/readyz"):
        assert (await refused(behind, get(path))).status == 200
        assert (await refused(behind, proxied("203.0.113.1"), get(path))).status == 200
    assert not behind.counters.refusals


async def test_a_header_that_does_not_end_is_not_waited_for_for_ever(behind: Worker) -> None:
    async with wire(behind.port) as client:
        await client.send(b"PROXY TCP4 203.0")
        assert (await client.answer()).status == 408


async def test_from_elsewhere_a_header_is_not_http() -> None:
    config = configuration(proxies=("10.0.0.0/8",), proxy_protocol=True)
    async with running(config) as worker:
        assert (await refused(worker, proxied("203.0.113.1"), handshake())).status == 400
        async with connected(worker.port):
            pass
        assert not worker.counters.refusals


# Waiting for one's turn


SLOW = Admission(handshakes_per_s=20, handshake_burst=2, queue=4, queue_s=5)


async def test_a_rate_of_handshakes_makes_newcomers_wait_and_refuses_what_is_too_much() -> None:
    async with running(configuration(admission=SLOW)) as worker, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(wire(worker.port)) for _ in range(10)]
        for client in crowd:
            await client.send(handshake())
        await until(lambda: worker.counters.handshakes["websocket", "503"] >= 3)
        await until(lambda: not worker.edge.porter.waiting)
        statuses = [(await client.head()).status for client in crowd]
        assert statuses.count(503) == worker.counters.refusals["queue"]
        assert statuses.count(101) == clients(worker) >= 6
        assert statuses[:2] == [101, 101]


async def test_slow_requests_take_nobodys_place_in_the_queue() -> None:
    async with running(configuration(admission=SLOW)) as worker, AsyncExitStack() as stack:
        for _ in range(50):
            client = await stack.enter_async_context(wire(worker.port))
            await client.send(handshake()[:-4])
        await until(lambda: len(worker.wheel) == 50)
        assert worker.edge.porter.waiting == 0
        async with connected(worker.port):
            pass


async def test_who_vanishes_while_waiting_leaves_nothing_behind() -> None:
    async with running(configuration(admission=SLOW)) as worker:
        for turn in range(30):
            client = await Wire.open(worker.port)
            await client.send(handshake())
            if turn % 3:
                await asyncio.sleep(0)
            client.reset() if turn % 2 else client.close()
        await until(lambda: not len(worker.wheel))
        assert worker.edge.porter.waiting == 0
        assert clients(worker) == 0
        async with connected(worker.port):
            pass


async def test_what_a_client_sends_while_it_waits_is_kept_within_bounds_and_heard() -> None:
    admission = Admission(handshakes_per_s=5, handshake_burst=1)
    async with (
        running(configuration(admission=admission)) as worker,
        connected(worker.port),
        wire(worker.port) as client,
    ):
        await client.send(handshake() + command("subscribe", id=1, topic="bare:a"))
        await until(lambda: worker.edge.porter.waiting)
        await client.send(b"".join(command("ping") for _ in range(2000)))
        assert (await client.head()).status == 101
        await client.said("welcome")
        await client.said("subscribed")
        # The rate of commands counts for these as for any.
        answers = [(await client.said())["op"] for _ in range(1000)]
        assert answers.count("pong") >= 999


async def test_draining_sends_clients_back_over_as_long_as_it_takes_to_receive_them() -> None:
    config = configuration(admission=Admission(handshakes_per_s=10))
    async with running(config) as worker, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(connected(worker.port)) for _ in range(30)]
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(worker.drain())
            times = []
            for client in crowd:
                code, goodbye = await client.goodbye()
                assert code == 4000
                times.append(goodbye["retry_ms"])
                client.close()
            await drain
        # Five a second, and up to five seconds by chance on top.
        assert min(times) >= 500
        assert 6300 <= max(times) <= 11_000


# Overload


async def test_a_loop_that_is_late_refuses_newcomers_and_keeps_who_is_there() -> None:
    async with running() as worker, connected(worker.port) as client:
        await client.subscribe("bare:a")
        usual = worker.edge.porter
        worker.edge.porter = Porter(Admission(), room=lambda: 1, overloaded=lambda: True)
        for request in (handshake(), STREAM):
            answer = await refused(worker, request)
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
        assert worker.counters.refusals == {"overloaded": 2}
        await publish(worker, "bare:a", 1)
        assert (await client.said("message"))["data"] == 1
        worker.edge.porter = usual
        async with connected(worker.port):
            pass


async def test_a_loop_that_stands_still_again_and_again_is_overloaded() -> None:
    admission = Admission(lag_s=0.05, lag_for_s=0.1)
    async with running(configuration(admission=admission)) as worker:

        async def stand_still() -> None:
            while not worker.lag.refuses():
                time.sleep(0.2)  # noqa: ASYNC251 - the very thing that is to be noticed
                await asyncio.sleep(0.001)

        async with asyncio.timeout(DEADLINE):
            await stand_still()
        await until(lambda: not worker.lag.refuses())
        async with connected(worker.port):
            pass


# Counters


async def test_after_thousands_of_lives_and_ends_of_every_kind_all_counts_are_zero() -> None:
    """Every way a connection can end, at random, with all limits on."""
    chance = random.Random(11)
    limits = Limits(connections=40, user_connections=2, address_connections=30)
    config = configuration(
        limits=limits,
        keepalive=Keepalive(close_s=0.2),
        admission=Admission(handshakes_per_s=3000, handshake_burst=20, queue=20, queue_s=1),
        proxies=HERE,
    )
    async with running(config) as worker:

        async def live(number: int) -> None:
            headers = [f"X-Forwarded-For: 203.0.113.{chance.randrange(4)}"]
            if chance.random() < 0.7:
                headers.append(f"Authorization: Bearer {token(chance.choice('abcdef'))}")
            stream = chance.random() < 0.3
            async with wire(worker.port) as client:
                request = (
                    get("/sse?topic=bare:a", *headers) if stream else handshake("/ws", *headers)
                )
                if chance.random() < 0.1:
                    await client.send(request[:-3])
                    return
                await client.send(request)
                if chance.random() < 0.1:
                    client.reset()
                    return
                status = (await client.head()).status
                assert status in (101, 200, 429, 503)
                way = chance.randrange(5)
                if status not in (101, 200):
                    await client.rest()
                elif way == 0:
                    client.reset()
                elif way == 1:
                    client.end()
                    await client.ended()
                elif way == 2 and not stream:
                    await client.send(closing(1000))
                    await client.ended()
                elif way == 3 and not stream:
                    await client.send(b"\xff\xff\xff")
                    await client.ended()
                elif way == 4:
                    for peer in list(worker.directory.peers())[:1]:
                        peer.abort()

        async def lives(first: int) -> None:
            for number in range(first, first + 40):
                with suppress(OSError, EOFError):
                    await live(number)

        async with asyncio.TaskGroup() as group:
            for first in range(25):
                group.create_task(lives(first * 40))
        await until(lambda: not len(worker.wheel))
        assert clients(worker) == 0
        assert len(worker.edge.census) == 0
        assert len(worker.edge.command_rate) == 0
        assert worker.edge.porter.waiting == 0
        assert worker.counters.refusals["user"] > 0
