"""The public port as HTTP: heads, refusals, health, and sockets that end in odd ways."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from clarion_server.app import Worker
from clarion_server.options import Keepalive, Limits
from support.server import clients, configuration, publish, running
from support.waiting import until
from support.wire import (
    PING,
    PONG,
    Answer,
    Frame,
    closing,
    command,
    connected,
    get,
    handshake,
    masked,
    wire,
)

SLACK = 0.25
"""Seconds that the server may be late: a tick for the resolution, the rest for a busy machine."""


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running() as worker:
        yield worker


async def ask(worker: Worker, *request: bytes) -> Answer:
    """The answer to a request that is not upgraded; the server ends its side after it."""
    async with wire(worker.port) as client:
        await client.send(*request)
        answer = await client.answer()
        assert answer.headers["connection"] == "close"
        return answer


def error(answer: Answer) -> str:
    """The code in the answer's body."""
    assert answer.headers["content-type"] == "application/json"
    return str(json.loads(answer.body)["error"]["code"])


# Refusals


@pytest.mark.parametrize("path", ["/", "/ws/", "/WS", "/wss", "/metrics", "/v1/publish", "//ws"])
async def test_a_path_that_is_not_here_is_not_found(worker: Worker, path: str) -> None:
    for request in (get(path), handshake(path)):
        answer = await ask(worker, request)
        assert (answer.status, error(answer)) == (404, "not_found")


async def test_the_echo_is_there_only_if_configured(worker: Worker) -> None:
    assert (await ask(worker, handshake("/echo", protocol=""))).status == 404
    async with running(configuration(echo=True)) as other, wire(other.port) as client:
        await client.send(handshake("/echo", protocol=""))
        assert (await client.head()).status == 101
        await client.send(masked(b"hello"), masked(b"\0\1", 2))
        assert [await client.frame(), await client.frame()] == [(1, b"hello"), (2, b"\0\1")]


async def test_a_request_that_does_not_ask_for_an_upgrade_is_told_to(worker: Worker) -> None:
    answer = await ask(worker, get("/ws"))
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Version: 13", "Version: 8"),
        ("Version: 13", "Version: 13, 8"),
        ("Sec-WebSocket-Version: 13\r\n", ""),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: dGhlIHNhbXBsZSBub25j"),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: not base64"),
        ("Key: dGhlIHNhbXBsZSBub25jZQ==", "Key: \u00e9"),
        ("Host: 127.0.0.1\r\n", ""),
        ("Host: 127.0.0.1\r\n", "Host: 127.0.0.1\r\nHost: evil\r\n"),
        ("HTTP/1.1", "HTTP/2.0"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("GET /ws", "GET  /ws"),
        ("Upgrade: websocket", "Upgrade : websocket"),
        ("Upgrade: websocket", "Upgrade: h2c"),
        ("Connection: Upgrade", "Connection: close"),
        ("Protocol: clarion.v1", "Protocol: clarion.v2"),
        ("Protocol: clarion.v1", "Protocol: \u2603"),
        ("\r\nSec-WebSocket-Version", "\r\n folded\r\nSec-WebSocket-Version"),
    ],
)
async def test_a_handshake_that_is_wrong_is_refused(worker: Worker, old: str, new: str) -> None:
    request = handshake().decode()
    assert old in request
    answer = await ask(worker, request.replace(old, new).encode())
    assert answer.status in (400, 426, 505)
    assert error(answer) == "bad_request"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"])
@pytest.mark.parametrize("path", ["/ws", "/livez"])
async def test_other_methods_are_refused(worker: Worker, path: str, method: str) -> None:
    if (path, method) == ("/livez", "HEAD"):
        return
    async with wire(worker.port) as client:
        await client.send(get(path, method=method))
        answer = await client.head()
        assert answer.status in (400, 405)
        assert "GET" in answer.headers.get("allow", "GET")
        assert (await client.rest() == b"") is (method == "HEAD")


async def test_a_page_of_another_origin_may_not_connect() -> None:
    async with running(configuration(origins=("https://app.example.com",))) as worker:
        for origin in ("https://evil-app.example.com", "https://app.example.com.evil.net", "null"):
            answer = await ask(worker, handshake("/ws", f"Origin: {origin}"))
            assert (answer.status, error(answer)) == (403, "forbidden")
        async with connected(worker.port, "/ws", "Origin: https://app.example.com"):
            pass
        async with connected(worker.port):  # no browser
            pass


# Heads


async def test_a_head_has_a_limit_wherever_it_is_cut() -> None:
    async with running(configuration(limits=Limits(head_bytes=1024))) as worker:
        fitting = get("/livez", "X: " + "x" * (1024 - len(get("/livez", "X: "))))
        assert len(fitting) == 1024
        assert (await ask(worker, fitting)).status == 200
        longer = fitting[:-4] + b"y\r\n\r\n"
        assert (await ask(worker, longer)).status == 431
        for step in (100, 1000, 1024):
            async with wire(worker.port) as client:
                for start in range(0, len(longer), step):
                    await client.send(longer[start : start + step])
                    await asyncio.sleep(0.005)
                answer = await client.answer()
                assert (answer.status, error(answer)) == (431, "too_large")


async def test_a_head_without_end_is_refused_at_the_limit(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.send(b"GET /ws HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
        answer = await client.answer()
        assert (answer.status, error(answer)) == (431, "too_large")


@pytest.mark.parametrize(
    "request_",
    [b"\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"GET /ws\r\n\r\n", b"\x16\x03\x01\r\n\r\n"],
)
async def test_what_is_not_http_is_refused(worker: Worker, request_: bytes) -> None:
    answer = await ask(worker, request_)
    assert (answer.status, error(answer)) == (400, "bad_request")


async def test_lines_and_headers_that_are_too_many_or_too_long_are_refused(worker: Worker) -> None:
    assert (await ask(worker, get("/ws", *["X: y"] * 200))).status == 431
    assert (await ask(worker, get("/ws", "X: " + "y" * 9000))).status == 431
    assert (await ask(worker, get("/ws?" + "y" * 9000))).status in (414, 431)


async def test_text_from_the_client_is_not_repeated_in_headers(worker: Worker) -> None:
    for request in (
        handshake("/ws", "Origin: https://a\x85Set-Cookie: b"),
        get("/sse?topic=a%0d%0aSet-Cookie:%20b"),
        handshake(protocol="clarion.v1\x0bSet-Cookie: b"),
        handshake("/nowhere\x0bSet-Cookie:b"),
    ):
        async with wire(worker.port) as client:
            await client.send(request)
            assert b"Set-Cookie" not in (await client.line(b"\r\n\r\n")).replace(b"\n", b"")


# What follows the head


async def test_frames_behind_the_handshake_are_answered_after_it(worker: Worker) -> None:
    async with wire(worker.port) as client:
        behind = [masked(b"early", PING), command("subscribe", topic="a"), command("ping", id=1)]
        await client.upgrade(behind=b"".join(behind))
        await client.said("welcome")
        assert await client.frame() == Frame(PONG, b"early")
        await client.said("subscribed")
        assert await client.said() == {"op": "pong", "id": 1}


async def test_half_a_frame_behind_the_handshake_is_completed_later(worker: Worker) -> None:
    async with wire(worker.port) as client:
        frame = command("ping", id=1)
        await client.upgrade(behind=frame[:5])
        await client.said("welcome")
        await client.send(frame[5:])
        assert await client.said() == {"op": "pong", "id": 1}


async def test_a_close_behind_the_handshake_is_answered(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.upgrade(behind=closing(1000))
        await client.said("welcome")
        assert (await client.frame()).code == 1000
        assert await client.ended()


async def test_frames_behind_a_handshake_that_is_refused_are_not_answered(worker: Worker) -> None:
    answer = await ask(worker, handshake("/nowhere"), masked(b"early", PING), command("ping"))
    assert answer.status == 404
    assert not worker.counters.commands


async def test_nothing_is_understood_before_the_handshake_is_complete(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.send(handshake()[:-2])
        await client.send(b"X: y\r\n", b"\r\n", command("ping", id=1))
        assert (await client.head()).status == 101
        await client.said("welcome")
        assert await client.said() == {"op": "pong", "id": 1}


@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
async def test_a_body_that_is_not_read_does_not_destroy_the_answer(
    worker: Worker, size: int
) -> None:
    async with wire(worker.port) as client:
        head = get("/v1/publish", f"Content-Length: {size}", method="POST")
        await client.send(head)
        async with asyncio.TaskGroup() as group:
            # Sent while the answer is under way: closing at once would reset the connection.
            group.create_task(client.send(b"x" * size))
            answer = await client.answer()
        assert answer.status in (400, 404, 405)


async def test_a_second_request_is_not_answered(worker: Worker) -> None:
    answer = await ask(worker, get("/livez") + get("/livez"))
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_a_client_that_goes_on_after_a_refusal_is_cut_off() -> None:
    async with running(configuration(keepalive=Keepalive(close_s=0.3))) as worker:
        async with wire(worker.port) as client:
            await client.send(get("/nowhere"))
            assert (await client.answer()).status == 404
            start = time.monotonic()
            with suppress(ConnectionError):
                while time.monotonic() < start + 5:
                    await client.send(b"x" * 1000)
                    await asyncio.sleep(0.01)
            assert 0.2 <= time.monotonic() - start <= 0.3 + SLACK
        await until(lambda: not len(worker.wheel))


# Time


async def test_a_connection_that_says_nothing_is_told_and_ended() -> None:
    config = configuration(limits=Limits(handshake_s=0.3), keepalive=Keepalive(close_s=0.2))
    async with running(config) as worker, wire(worker.port) as client:
        start = time.monotonic()
        answer = await client.answer()
        assert 0.2 <= time.monotonic() - start <= 0.3 + SLACK
        assert (answer.status, error(answer)) == (408, "bad_request")
        # Its socket stays open on our side, but not on the server's.
        await until(lambda: not len(worker.wheel), 0.2 + SLACK)
        assert worker.counters.handshakes == {("unknown", "408"): 1}


async def test_a_handshake_that_drips_has_no_more_time() -> None:
    config = configuration(limits=Limits(handshake_s=0.4))
    async with running(config) as worker, wire(worker.port) as client:
        start = time.monotonic()

        async def drip() -> None:
            for place in range(len(handshake())):
                await client.send(handshake()[place : place + 1])
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip())
            assert (await client.answer()).status == 408
            assert time.monotonic() - start <= 0.4 + SLACK
            dripping.cancel()


# Sockets


async def test_a_client_that_ends_its_side_at_once_still_gets_its_answer(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.send(get("/livez"))
        client.end()
        assert (await client.answer()).body == b"ok\n"


async def test_connections_that_end_half_way_leave_nothing_behind(worker: Worker) -> None:
    for cut in (0, 1, 50, len(handshake()) - 1):
        for how in ("close", "end", "reset"):
            async with wire(worker.port) as client:
                await client.send(handshake()[:cut])
                await until(lambda: len(worker.wheel) == 1)
                getattr(client, how)()
                await until(lambda: not len(worker.wheel))
    assert worker.counters.handshakes == {("unknown", "abandoned"): 12}
    assert not clients(worker)


async def test_a_websocket_whose_client_ends_its_side_is_over(worker: Worker) -> None:
    async with connected(worker.port) as client:
        await client.subscribe("a")
        client.end()
        assert await client.ended()
        await until(lambda: not clients(worker))
    assert worker.counters.closes == {1006: 1}
    assert not worker.hub.topics


async def test_a_websocket_whose_client_crashes_is_over(worker: Worker) -> None:
    async with connected(worker.port) as client:
        await client.subscribe("a")
        client.reset()
        for number in range(10):  # a publication may meet the socket before the loop does
            await publish(worker, "a", number)
        await until(lambda: not clients(worker))
    assert not worker.hub.topics
    assert not len(worker.wheel)


# Health


async def test_health_is_told_to_anybody(worker: Worker) -> None:
    for path in ("/livez", "/readyz", "/livez?verbose"):
        answer = await ask(worker, get(path))
        assert (answer.status, answer.body) == (200, b"ok\n")
        assert answer.headers["cache-control"] == "no-store"
        async with wire(worker.port) as client:
            await client.send(get(path, method="HEAD"))
            head = await client.head()
            assert (head.status, head.headers["content-length"]) == (200, "3")
            assert await client.rest() == b""


async def test_health_is_told_to_balancers_that_ask_in_http_1_0(worker: Worker) -> None:
    assert (await ask(worker, b"GET /livez HTTP/1.0\r\n\r\n")).status == 200
