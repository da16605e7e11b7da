"""What a worker does when another tells it to, and what it does not."""

from __future__ import annotations

import json

import pytest

from clarion_server.codes import Close
from support.fleets import Ship


async def answer(ship: Ship, **order: object) -> object:
    return json.loads(await ship.duty.answer(json.dumps(order).encode()))


async def test_clients_are_disconnected_subscribed_and_unsubscribed() -> None:
    ship = Ship("a")
    whose = {"user": "42", "client": None}
    told = {"op": "disconnect", **whose, "code": 4000, "reason": "umzug: größer"}
    assert await answer(ship, **told) == {"count": 2}
    assert await answer(ship, op="subscribe", **whose, topic="news") == {"count": 2}
    told = {"op": "unsubscribe", "user": None, "client": "c-1", "topic": "news", "reason": "over"}
    assert await answer(ship, **told) == {"count": 1}
    assert ship.clients.calls == [
        ("disconnect", "42", None, Close(4000, "umzug: größer")),
        ("subscribe", "42", None, "news"),
        ("unsubscribe", None, "c-1", "news", "over"),
    ]


async def test_topics_and_the_state_are_told() -> None:
    ship = Ship("a", 3)
    ship.subscribe("x", "y")
    told = {"op": "topics", "prefix": "", "after": "", "limit": 1, "bytes": 1000}
    assert await answer(ship, **told) == {"topics": [["x", 1]], "through": "x"}
    state = await answer(ship, op="describe")
    assert isinstance(state, dict)
    assert (state["id"], state["worker"], state["subscriptions"]) == ("a", 3, 2)


async def test_fields_of_later_versions_are_ignored() -> None:
    ship = Ship("a")
    assert await answer(
        ship, op="subscribe", user="42", client=None, topic="news", since={"offset": 1}
    ) == {"count": 2}


GOOD = {"op": "disconnect", "user": "42", "client": None, "code": 4502, "reason": ""}
TOPIC = {"op": "subscribe", "user": "42", "client": None, "topic": "news"}
LIST = {"op": "topics", "prefix": "", "after": "", "limit": 1, "bytes": 1}


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"op": "shutdown"},
        {**GOOD, "code": 1000},
        {**GOOD, "reason": "x" * 124},
        {**GOOD, "reason": "é" * 62},
        {**GOOD, "reason": "a\nb"},
        {**GOOD, "reason": "\ud800"},
        {**GOOD, "user": 42},
        {"op": "disconnect", "user": "42"},
        {**TOPIC, "topic": ""},
        {**TOPIC, "topic": "a b"},
        {**TOPIC, "topic": "x" * 256},
        {**TOPIC, "op": "unsubscribe", "topic": "a b", "reason": ""},
        {**TOPIC, "op": "unsubscribe", "reason": "x" * 256},
        {**LIST, "limit": 0},
        {**LIST, "limit": 10_001},
        {**LIST, "prefix": "x" * 256},
    ],
)
async def test_what_no_worker_of_ours_would_ask_is_not_done(order: dict[str, object]) -> None:
    ship = Ship("a")
    with pytest.raises(ValueError):  # noqa: PT011 - whichever part of it refuses
        await answer(ship, **order)
    assert ship.clients.calls == []


@pytest.mark.parametrize("question", [b"", b"{", b"\xff", b"null", b"[]"])
async def test_what_is_no_order_is_refused(question: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its decoder says what is wrong
        await Ship("a").duty.answer(question)
