"""Acting on connected clients through the private API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clarion_server.codes import DISCONNECTED, Close
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
