"""Acting on connected clients through the private API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.roll import Entry
from clarion_server.codes import DISCONNECTED, Close
from support.fleets import Ship, Told
from support.private_api import Api, serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


async def test_a_user_is_disconnected_everywhere_and_told_not_to_come_back(api: Api) -> None:
    assert (await api.post("/v1/disconnect", {"user": "42"})).json == {"count": 2}
    assert api.clients.calls == [("disconnect", "42", None, DISCONNECTED)]


async def test_a_client_is_disconnected_with_a_code_and_a_reason(api: Api) -> None:
    body = {"client": "c-1", "code": 4000, "reason": "umzug: größer"}
    assert (await api.post("/v1/disconnect", body)).json == {"count": 1}
    assert api.clients.calls == [("disconnect", None, "c-1", Close(4000, "umzug: größer"))]


async def test_subscriptions_are_made_and_ended_for_others(api: Api) -> None:
    body = {"user": "42", "topic": "news"}
    assert (await api.post("/v1/subscribe", body)).json == {"count": 2}
    assert (await api.post("/v1/unsubscribe", body)).json == {"count": 2}
    assert api.clients.calls == [
        ("subscribe", "42", None, "news"),
        ("unsubscribe", "42", None, "news", "unsubscribed by the backend"),
    ]


@pytest.mark.parametrize("path", ["disconnect", "subscribe", "unsubscribe"])
@pytest.mark.parametrize(
    "whose",
    [
        {},
        {"user": "1", "client": "2"},
        {"user": ""},
        {"user": None},
        {"client": 1},
        {"user": "x" * 256},
    ],
)
async def test_it_must_be_plain_whom_it_is_about(
    api: Api, path: str, whose: dict[str, object]
) -> None:
    answer = await api.post(f"/v1/{path}", {"topic": "news", **whose})
    assert answer.error == (400, "bad_request")
    assert api.clients.calls == []


@pytest.mark.parametrize(
    "change",
    [
        {"code": 3999},
        {"code": 5000},
        {"code": "4000"},
        {"code": 4000.5},
        {"reason": "x" * 124},
        {"reason": "é" * 62},
        {"reason": "a\r\nb"},
        {"reason": "\x1b[2J"},
        {"reason": "\x85"},
        {"reason": None},
    ],
)
async def test_codes_and_reasons_have_rules(api: Api, change: dict[str, object]) -> None:
    answer = await api.post("/v1/disconnect", {"user": "42", **change})
    assert answer.error == (400, "bad_request")
    assert api.clients.calls == []


async def test_the_longest_reason_fits_a_close_frame(api: Api) -> None:
    reason = "é" * 61 + "x"
    await api.post("/v1/disconnect", {"user": "42", "reason": reason})
    assert api.clients.calls == [("disconnect", "42", None, Close(4502, reason))]


@pytest.mark.parametrize("path", ["subscribe", "unsubscribe"])
async def test_a_bad_topic_is_refused(api: Api, path: str) -> None:
    answer = await api.post(f"/v1/{path}", {"user": "42", "topic": "a b"})
    assert answer.error == (400, "bad_topic")


# Workers that do not answer


ACTS = [
    ("disconnect", {"user": "42"}),
    ("subscribe", {"user": "42", "topic": "news"}),
    ("unsubscribe", {"user": "42", "topic": "news"}),
]


@pytest.mark.parametrize(("path", "body"), ACTS)
async def test_what_every_worker_has_done_is_summed(path: str, body: dict[str, str]) -> None:
    async with serving(others=Told({"b": b'{"count":3}', "c": b'{"count":0}'})) as api:
        assert (await api.post(f"/v1/{path}", body)).json == {"count": 5}


@pytest.mark.parametrize(("path", "body"), ACTS)
async def test_what_a_worker_may_not_have_done_does_not_look_done(
    path: str, body: dict[str, str]
) -> None:
    silent = [Entry("b", msgspec.json.encode(Ship("b", 1).duty.badge)), Entry("c", b"")]
    async with serving(others=Told({"d": b'{"count":1}'}, silent)) as api:
        answer = await api.post(f"/v1/{path}", body)
    assert answer.error == (503, "unavailable")
    assert answer.headers["Retry-After"] == "1"
    error = answer.json["error"]
    assert error["message"] == "2 workers did not answer, and may not have done it"
    assert (error["count"], error["retry_ms"]) == (3, 1000)
    assert error["unanswered"] == [
        {"id": "b", "instance": "i1", "worker": 1, "host": "h", "pid": 1001},
        {"id": "c"},
    ]


async def test_what_could_not_be_told_to_anybody_else_does_not_look_done() -> None:
    async with serving(others=Told(BrokerUnavailable("no shard", 2500))) as api:
        answer = await api.post("/v1/disconnect", {"user": "42"})
    assert answer.error == (503, "unavailable")
    assert answer.headers["Retry-After"] == "3"
    assert "no shard" in answer.json["error"]["message"]
