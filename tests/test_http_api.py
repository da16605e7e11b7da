"""What holds for every request to the private port, and what the port tells about the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from clarion_server import __version__
from clarion_server.options import Config, Limits
from support.private_api import BADGE, KEY, NAMESPACES, Api, serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


def request(path: str, *lines: str, method: str = "POST", body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"X-API-Key: {KEY}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.rpartition(b"\r\n\r\n")
    return int(head.rpartition(b"HTTP/1.1 ")[2][:3]), json.loads(body)["error"]["code"]


# Errors


async def test_an_unknown_path_is_an_error_like_any_other(api: Api) -> None:
    assert (await api.get("/v1/nothing")).error == (404, "not_found")
    assert (await api.get("/<script>")).error == (404, "not_found")


async def test_a_wrong_method_is_told_which_ones_are_right(api: Api) -> None:
    answer = await api.get("/v1/publish")
    assert answer.error == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"
    answer = await api.post("/v1/info", {})
    assert answer.headers["Allow"] == "GET, HEAD"


async def test_answers_do_not_name_versions_and_are_not_kept_or_guessed_at(api: Api) -> None:
    for answer in (await api.get("/v1/info"), await api.get("/nothing"), await api.get("/")):
        assert answer.headers["Server"] == "clarion"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] in ("no-store", "no-cache")


# Bodies


async def test_a_body_that_is_announced_too_large_is_not_read() -> None:
    limits = Limits(body_bytes=2000)
    async with serving(Config(api_keys=(KEY,), limits=limits, namespaces=NAMESPACES)) as api:
        answer = await api.raw(request("/v1/publish", "Content-Length: 2001"))
        assert error(answer) == (413, "too_large")


async def test_a_body_that_turns_out_too_large_is_not_read_on() -> None:
    limits = Limits(body_bytes=2000)
    async with serving(Config(api_keys=(KEY,), limits=limits, namespaces=NAMESPACES)) as api:
        chunk = b"7d0\r\n" + b"x" * 2000 + b"\r\n"
        sent = request("/v1/publish", "Transfer-Encoding: chunked", body=chunk * 2)
        assert error(await api.raw(sent)) == (413, "too_large")


async def test_a_body_that_does_not_arrive_is_not_waited_for_for_ever() -> None:
    limits = Limits(handshake_s=0.05)
    async with serving(Config(api_keys=(KEY,), limits=limits, namespaces=NAMESPACES)) as api:
        answer = await api.raw(request("/v1/publish", "Content-Length: 10", body=b"{"))
        assert error(answer) == (408, "bad_request")


async def test_a_body_in_pieces_is_read(api: Api) -> None:
    body = b'{"topic":"a","data":1}'
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    lines = ("Transfer-Encoding: chunked", "Connection: close")
    answer = await api.raw(request("/v1/publish", *lines, body=pieces))
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x"])
async def test_a_compressed_body_is_refused_unopened(api: Api, encoding: str) -> None:
    answer = await api.post("/v1/publish", data=b"...", headers={"Content-Encoding": encoding})
    assert answer.error == (415, "bad_request")


async def test_a_client_that_leaves_in_the_middle_is_no_fault_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving() as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(request("/v1/publish", "Content-Length: 10", "Expect: 100-continue"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        writer.write(b"{")
        writer.close()
        await writer.wait_closed()
        assert (await api.get("/livez")).status == 200
    # The server has ended, and with it the request that was in progress.
    assert not caplog.records


async def test_expectations_are_met_or_refused(api: Api) -> None:
    body = b'{"topic":"a","data":1}'
    lines = (f"Content-Length: {len(body)}", "Connection: close")
    met = await api.raw(request("/v1/publish", *lines, "Expect: 100-continue", body=body))
    assert met.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    refused = await api.raw(request("/v1/publish", *lines, "Expect: cake", body=body))
    assert error(refused) == (417, "bad_request")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/publish HTTP/1.1\r\nHost: a\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nHo",
    ],
)
async def test_a_connection_without_a_whole_request_does_not_stay(sent: bytes) -> None:
    async with serving(idle_seconds=0.1) as api, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(sent)
        answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200 ") == sent.count(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()


# What is not HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: x\r\n" % n for n in range(500)) + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/publish HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"GET / FTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_400_that_fills_no_log(
    api: Api, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    answer = await api.raw(sent)
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert len(answer) < 2000
    for secret in (b"Traceback", b"site-packages", b".py"):
        assert secret not in answer
    assert not caplog.records


async def test_a_broken_chunk_is_a_400(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    answer = await api.raw(
        request("/v1/publish", "Transfer-Encoding: chunked", body=b"zz\r\n{\r\n")
    )
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert not caplog.records


# About the server


async def test_info_names_the_worker_and_what_it_holds(api: Api) -> None:
    api.counters.connections["websocket"] = 3
    info = (await api.get("/v1/info")).json
    assert info["version"] == __version__
    assert info["broker"] == "memory"
    assert info["connections"] == 3
    (worker,) = info["workers"]
    assert worker["connections"] == 3
    assert (worker["id"], worker["worker"], worker["pid"]) == (BADGE.id, 0, BADGE.pid)
    assert (info["shards"], info["unanswered"], info["complete"]) == ([], [], True)
    assert info["instance"] == BADGE.instance


async def test_a_worker_that_is_not_ready_says_why_and_lives(api: Api) -> None:
    assert (await api.get("/readyz")).json == {"ready": True, "reasons": []}
    api.reasons.append("draining")
    answer = await api.get("/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "reasons": ["draining"]})
    assert (await api.get("/livez")).json == {"alive": True}
    head = await api.request("HEAD", "/livez")
    assert (head.status, head.body) == (200, b"")


async def test_metrics_are_negotiated(api: Api) -> None:
    plain = await api.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert b'clarion_subscriptions{worker="0"} 0.0' in plain.body
    open_ = await api.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert open_.headers["Content-Type"].startswith("application/openmetrics-text")
    assert open_.body.endswith(b"# EOF\n")


async def test_the_page_knows_the_public_port(api: Api) -> None:
    answer = await api.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src" in answer.headers["Content-Security-Policy"]
    assert f":{api.config.port}/ws".encode() in answer.body
