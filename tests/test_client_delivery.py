"""Messages on their way to the private API: what is repeated, what is not, and when it ends."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, cast

import pytest

from clarion_client.delivery import BATCH, Delivery, Draft, Draftable, Entry, Request, outcomes
from clarion_client.errors import NotAllPublished, PublishError, PublishRefused
from clarion_client.events import Position, Published


def highest(low: float, high: float) -> float:
    return high


class Sending:
    """A delivery, and an API that says what a test wants. `now` is the time."""

    def __init__(self, *drafts: Draftable, until: float = 30) -> None:
        self.now = 0.0
        self.entries = [Entry(draft, until) for draft in drafts]
        self.delivery = Delivery(self.entries, highest)

    def posts(self) -> tuple[str, Any]:
        """The request that is due."""
        step = self.delivery.next(self.now)
        assert isinstance(step, Request)
        return step.path, json.loads(step.body)

    def waits(self) -> float:
        """The pause that is due, which passes."""
        step = self.delivery.next(self.now)
        assert isinstance(step, float)
        self.now += step
        return step

    def over(self) -> bool:
        return self.delivery.next(self.now) is None

    def hears(self, status: int, answer: object, retry_s: float | None = None) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.delivery.answered(status, retry_s, body, self.now)


def refused(code: str, retry_ms: int | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": "no"}
    return {"error": error if retry_ms is None else {**error, "retry_ms": retry_ms}}


def test_one_message_has_a_request_of_its_own() -> None:
    sending = Sending(Draft("a", {"n": 1}, "key"))
    message = {"topic": "a", "data": {"n": 1}, "id": "key"}
    assert sending.posts() == ("/v1/publish", message)
    sending.hears(200, {"topic": "a", "epoch": "e", "offset": 7})
    assert sending.over()
    assert outcomes(sending.entries) == [Published("a", Position("e", 7))]


def test_several_go_together_in_order_each_with_a_key() -> None:
    sending = Sending(("a", 1), ("b", None), Draft("a", "x", "mine"))
    path, body = sending.posts()
    assert path == "/v1/publish/batch"
    assert [(m["topic"], m["data"]) for m in body["messages"]] == [
        ("a", 1),
        ("b", None),
        ("a", "x"),
    ]
    keys = [m["id"] for m in body["messages"]]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"
    results: list[dict[str, Any]] = [
        {"topic": "a", "epoch": "e", "offset": 7},
        {"topic": "b"},
        {"topic": "a", "epoch": "e", "offset": 1, "duplicate": True},
    ]
    sending.hears(200, {"results": results})
    assert sending.over()
    assert outcomes(sending.entries) == [
        Published("a", Position("e", 7)),
        Published("b", None),
        Published("a", Position("e", 1), duplicate=True),
    ]


def test_a_request_without_an_answer_is_repeated_under_the_same_keys() -> None:
    sending = Sending(("a", 1), ("b", 2))
    first = sending.posts()
    pauses = []
    for _ in range(8):
        sending.delivery.failed("connection refused", sending.now)
        pauses.append(sending.waits())
        assert sending.posts() == first
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5])


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_status_of_the_moment_is_tried_again_when_it_says(status: int) -> None:
    sending = Sending(("a", 1))
    first = sending.posts()
    sending.hears(status, b"<html>", retry_s=3)
    assert sending.waits() == 3
    assert sending.posts() == first


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 415, 422])
def test_a_status_that_will_not_change_is_a_refusal(status: int) -> None:
    sending = Sending(("a", 1), ("b", 2))
    sending.posts()
    sending.hears(status, refused("forbidden"))
    assert sending.over()
    for entry in sending.entries:
        assert isinstance(entry.result, PublishRefused)
        assert (entry.result.code, entry.result.status) == ("forbidden", status)


def test_a_page_of_something_in_between_is_no_answer() -> None:
    sending = Sending(("a", 1), ("b", 2))
    first = sending.posts()
    other = b'{"results":[{"topic":"a"},{"topic":"c"}]}'
    for body in (b"<html>", b"[]", b'{"results":[]}', b'{"results":7}', b"\xff", other):
        sending.hears(200, body)
        sending.waits()
        assert sending.posts() == first
    sending.hears(404, b"<html>")
    assert isinstance(sending.entries[0].result, PublishRefused)
    assert sending.entries[0].result.code == "404"


@pytest.mark.parametrize("body", [b"{}", b"<html>", b'{"topic":5}', b'{"topic":"b","offset":1}'])
def test_nothing_counts_as_published_that_nobody_says_is(body: bytes) -> None:
    sending = Sending(("a", 1), until=0)
    sending.posts()
    sending.hears(200, body)
    assert sending.over()
    with pytest.raises(PublishError, match="is not that of a Clarion server") as failed:
        sending.entries[0].outcome()
    assert failed.value.status == 200


@pytest.mark.parametrize("retry_ms", [10**400, -5, 1e300, True, "1"])
def test_a_wait_that_makes_no_sense_does_no_harm(retry_ms: Any) -> None:
    sending = Sending(("a", 1))
    sending.posts()
    sending.hears(200, refused("unavailable", retry_ms))
    assert sending.over() or 0 <= sending.waits() <= 30


def test_only_what_may_yet_be_taken_is_sent_again() -> None:
    sending = Sending(("a", 1), ("b", 2), ("c", 3))
    sending.posts()
    sending.hears(200, {"results": [{"topic": "a"}, refused("unavailable", 700), refused("bad")]})
    assert sending.waits() == pytest.approx(0.7)
    path, body = sending.posts()
    assert (path, body["topic"]) == ("/v1/publish", "b")
    sending.hears(200, {"topic": "b"})
    assert sending.over()
    with pytest.raises(NotAllPublished, match="1 of 3 not published; first: c: no") as failed:
        outcomes(sending.entries)
    kinds = [type(result) for result in failed.value.results]
    assert kinds == [Published, Published, PublishRefused]


def test_a_key_of_ones_own_counts_in_every_form_of_a_message() -> None:
    sending = Sending(Draft("a", 1, "x"), ("a", 1, "y"), ("a", 1))
    keys = [message["id"] for message in sending.posts()[1]["messages"]]
    assert keys[:2] == ["x", "y"]
    assert len(keys[2]) > 20


def test_a_conflation_key_goes_with_its_message() -> None:
    sending = Sending(("a", 1), Draft("a", 1, key="~x"), ("a", 1, "id", '"!'), Draft("a", 1, "id"))
    messages = sending.posts()[1]["messages"]
    assert [message.get("key", ...) for message in messages] == [..., "~x", '"!', ...]


class Name(str, Enum):  # noqa: UP042 - as Python 3.10 has them, whose text is "Name.ORDERS"
    ORDERS = "orders"


def test_a_member_of_an_enumeration_stands_for_its_value() -> None:
    sending = Sending(Draft(Name.ORDERS, Name.ORDERS, Name.ORDERS, Name.ORDERS))
    assert set(sending.posts()[1].values()) == {"orders"}


def test_it_is_given_up_at_the_deadline_and_says_why() -> None:
    sending = Sending(("a", 1))
    while not sending.over():
        sending.posts()
        sending.delivery.failed("connection refused", sending.now)
        if not sending.over():
            sending.waits()
    assert sending.now < 30
    with pytest.raises(PublishError, match="a: not published in time: connection refused") as gone:
        sending.entries[0].outcome()
    assert (gone.value.reason, gone.value.status) == ("connection refused", None)


def test_what_is_to_wait_beyond_the_deadline_is_given_up_at_once() -> None:
    sending = Sending(("a", 1))
    sending.posts()
    sending.hears(503, b"", retry_s=31)
    assert sending.over()


def test_whoever_had_to_wait_for_others_still_gets_one_try() -> None:
    sending = Sending(("a", 1), until=5)
    sending.now = 100
    sending.posts()
    sending.delivery.failed("timeout", sending.now)
    assert sending.over()


def test_an_answer_counts_however_late_it_comes() -> None:
    sending = Sending(("a", 1), ("b", 2), until=5)
    sending.posts()
    sending.now = 9
    sending.hears(200, {"results": [{"topic": "a"}, refused("bad_data")]})
    assert sending.over()
    assert sending.entries[0].outcome() == Published("a", None)
    assert isinstance(sending.entries[1].result, PublishRefused)


def test_batches_have_a_bound_in_messages_and_in_bytes() -> None:
    sending = Sending(*[("a", n) for n in range(BATCH + 1)])
    assert len(sending.posts()[1]["messages"]) == BATCH
    sending.hears(200, {"results": [{"topic": "a"}] * BATCH})
    assert sending.posts()[0] == "/v1/publish"
    sending = Sending(*[("a", "x" * 1_000_000) for _ in range(10)])
    assert len(sending.posts()[1]["messages"]) == 4


def test_a_batch_that_is_too_large_for_this_server_is_halved() -> None:
    sending = Sending(*[("a", n) for n in range(5)])
    sizes = []
    for _ in range(2):
        sizes.append(len(sending.posts()[1]["messages"]))
        sending.hears(413, refused("too_large"))
    assert sizes == [5, 2]
    assert sending.posts()[0] == "/v1/publish"
    sending.hears(413, refused("too_large"))
    assert isinstance(sending.entries[0].result, PublishRefused)
    assert not sending.over()


@pytest.mark.parametrize(
    "draft",
    [
        ("a b", 1),
        ("a", {1, 2}),
        ("a", float("nan")),
        Draft("a", 1, ""),
        Draft("a", 1, "x" * 129),
        Draft("a", 1, "\ud800"),
        Draft("a", 1, cast("str", b"id")),
        Draft("a", 1, key=""),
        Draft("a", 1, key="a b"),
        Draft("a", 1, key="x" * 129),
        Draft("a", 1, key=cast("str", 7)),
    ],
)
def test_what_cannot_be_published_is_the_callers_mistake(draft: tuple[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Entry(draft, 0)
