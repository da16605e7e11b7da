"""The topics a program wants: asked for, granted, refused, taken back, asked for again."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from clarion_client import wire
from clarion_client.backoff import MAX_RETRY_S
from clarion_client.errors import Refused, Unsubscribed
from clarion_client.events import Ended, Event, Join, Leave, Lost, Member, Message, Position
from clarion_client.events import Subscribed as Granted
from clarion_client.interests import ANSWER_S, TRIES, Interests


class Conversation:
    """Interests with a server that says what a test wants. Time stands still."""

    def __init__(self, online: bool = True) -> None:
        self._id = 0
        self.interests = Interests(self._next, 65_536)
        if online:
            self.interests.go_online()

    def _next(self) -> int:
        self._id += 1
        return self._id

    def holds(self, *topics: str, since: Position | None = None, last: int = 0) -> None:
        for topic in topics:
            self.interests.hold(topic, since, last)

    def asks(self, now: float = 0) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.interests.commands(now)]

    def releases(self, topic: str) -> dict[str, Any] | None:
        text = self.interests.release(topic)
        return None if text is None else json.loads(text)

    def hears(self, op: str, **fields: object) -> list[Event]:
        message = wire.decode(json.dumps({"op": op, **fields}))
        interests = self.interests
        if isinstance(message, wire.Subscribed):
            return interests.subscribed(message, 0)
        if isinstance(message, wire.Publication):
            return interests.message(message)
        if isinstance(message, wire.Lost):
            return interests.lost(message)
        if isinstance(message, wire.Unsubscribed):
            return interests.unsubscribed(message)
        if isinstance(message, wire.Movement):
            return interests.moved(message)
        assert isinstance(message, wire.Failure)
        events, commands = interests.failed(message, 0)
        self.told = [json.loads(text) for text in commands]
        return events

    def data(self, topic: str, offset: int | None) -> list[Event]:
        return self.hears("message", topic=topic, offset=offset, ts=5, data=offset)


def test_what_is_wanted_is_asked_for_once_and_together() -> None:
    talk = Conversation(online=False)
    talk.holds("a", "b", last=3)
    assert talk.asks() == []
    talk.interests.go_online()
    wishes = [{"topic": "a", "last": 3}, {"topic": "b", "last": 3}]
    assert talk.asks() == [{"op": "subscribe", "id": 1, "topics": wishes}]
    assert talk.asks() == []
    talk.holds("a")
    assert talk.asks() == []


def test_a_topic_that_is_granted_brings_its_messages() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    assert talk.data("a", 19) == []
    newest = Position("e", 19)
    heard = talk.hears("subscribed", id=1, topic="a", epoch="e", offset=19)
    assert heard == [Granted("a", newest, newest, None)]
    assert talk.data("a", 20) == [Message("a", 20, 5, 20, "e")]
    assert talk.data("a", 20) == []
    assert talk.data("b", 1) == []
    assert talk.interests.granted("a") == Granted("a", Position("e", 20), Position("e", 20), None)


def test_after_a_lost_connection_each_topic_is_asked_for_from_its_position() -> None:
    talk = Conversation()
    talk.holds("a", "b")
    talk.asks()
    talk.hears("subscribed", id=1, topic="a", epoch="e", offset=19)
    talk.hears("subscribed", id=1, topic="b")
    talk.data("a", 20)
    talk.interests.go_offline()
    assert talk.data("a", 21) == []
    assert not talk.interests.held("a")
    talk.interests.go_online()
    ((wish_a, wish_b),) = [command["topics"] for command in talk.asks()]
    assert wish_a == {"topic": "a", "since": {"epoch": "e", "offset": 20}}
    assert wish_b == {"topic": "b"}
    assert talk.hears("subscribed", id=2, topic="a", epoch="e", offset=22, recovered=True) == [
        Granted("a", Position("e", 20), Position("e", 22), True)
    ]
    assert [type(event) for event in talk.data("a", 21) + talk.data("a", 22)] == [Message] * 2


def test_what_could_not_be_recovered_is_said_before_anything_else() -> None:
    talk = Conversation()
    talk.holds("a", since=Position("e", 1))
    talk.asks()
    lost, granted = talk.hears("subscribed", id=1, topic="a", epoch="f", offset=7, recovered=False)
    assert isinstance(lost, Lost)
    assert granted == Granted("a", Position("f", 7), Position("f", 7), False)


def test_a_loss_that_the_server_reports_later_is_handed_on() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    talk.hears("subscribed", id=1, topic="a", epoch="e", offset=19)
    heard = talk.hears("lost", topic="a", epoch="e", offset=25, reason="too much")
    assert heard == [Lost("a", Position("e", 25), "too much")]
    assert talk.hears("lost", topic="b", epoch="e", offset=25, reason="too much") == []
    assert talk.data("a", 25) == []


def test_what_is_refused_ends_and_is_not_asked_for_again() -> None:
    talk = Conversation()
    talk.holds("a", "b")
    talk.asks()
    (ended,) = talk.hears("error", id=1, topic="a", code="forbidden", message="not yours")
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, Refused)
    assert (ended.topic, ended.error.code, ended.error.topic) == ("a", "forbidden", "a")
    talk.hears("subscribed", id=1, topic="b")
    talk.interests.go_offline()
    talk.interests.go_online()
    assert [wish["topic"] for wish in talk.asks()[0]["topics"]] == ["b"]


def test_an_error_without_a_topic_is_about_the_whole_command() -> None:
    talk = Conversation()
    talk.holds("a", "b")
    talk.asks()
    talk.hears("subscribed", id=1, topic="b")
    assert [e.topic for e in talk.hears("error", id=1, code="bad_request", message="?")] == ["a"]
    assert talk.interests.held("b")


def test_an_error_about_a_topic_that_was_not_asked_for_harms_none() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    assert talk.hears("error", id=1, topic="b", code="forbidden", message="no") == []
    assert "a" in talk.interests
    assert len(talk.hears("subscribed", id=1, topic="a")) == 1


def test_a_passing_error_puts_a_topic_off() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    fields = {"id": 1, "topic": "a", "code": "unavailable", "message": "busy", "retry_ms": 1000}
    assert talk.hears("error", **fields) == []
    assert talk.interests.due() == 1
    assert talk.interests.tick(0.5)
    assert talk.asks() == []
    assert talk.interests.tick(1)
    assert talk.asks() == [{"op": "subscribe", "id": 2, "topics": [{"topic": "a"}]}]


def test_a_topic_is_put_off_for_an_hour_at_most() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    fields = {"id": 1, "topic": "a", "code": "unavailable", "message": "busy", "retry_ms": 2**53}
    assert talk.hears("error", **fields) == []
    assert talk.interests.due() == MAX_RETRY_S


def test_a_topic_that_nobody_wants_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert Conversation().hears("subscribed", topic="a\nERROR b") == []
    assert "a\\nERROR b: subscribed by the backend" in caplog.text


def test_an_answer_that_does_not_come_is_noticed() -> None:
    talk = Conversation()
    talk.holds("a", "b")
    talk.asks(now=100)
    assert talk.interests.due() == 100 + ANSWER_S
    assert talk.interests.tick(100 + ANSWER_S - 1)
    assert not talk.interests.tick(100 + ANSWER_S)
    talk.hears("subscribed", id=1, topic="a")
    assert talk.interests.due() is not None
    talk.hears("subscribed", id=1, topic="b")
    assert talk.interests.due() is None


def test_a_topic_that_is_given_up_is_unsubscribed_if_the_server_knows_of_it() -> None:
    talk = Conversation()
    talk.holds("a", "b")
    talk.interests.release("a")
    assert talk.asks()[0]["topics"] == [{"topic": "b"}]
    assert talk.releases("b") == {"op": "unsubscribe", "id": 2, "topic": "b"}
    assert talk.releases("b") is None
    assert talk.interests.due() is None


def test_what_an_earlier_subscription_still_brings_is_dropped() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    talk.releases("a")
    talk.holds("a")
    talk.asks()  # id 3
    assert talk.hears("subscribed", id=1, topic="a", epoch="e", offset=5) == []
    assert talk.data("a", 6) == []
    assert talk.hears("unsubscribed", topic="a", reason="an old story") == []
    assert talk.hears("error", id=1, topic="a", code="not_subscribed", message="") == []
    assert len(talk.hears("subscribed", id=3, topic="a", epoch="e", offset=6)) == 1
    assert len(talk.data("a", 7)) == 1


def test_the_server_may_end_a_subscription() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    talk.hears("subscribed", id=1, topic="a")
    (ended,) = talk.hears("unsubscribed", topic="a", reason="the new token does not allow it")
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, Unsubscribed)
    assert ended.error.reason == "the new token does not allow it"
    assert "a" not in talk.interests


def test_the_answer_to_our_own_unsubscribe_ends_nothing() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    talk.hears("subscribed", id=1, topic="a")
    assert talk.hears("unsubscribed", id=9, topic="a") == []
    assert talk.interests.held("a")


def test_a_new_epoch_that_nobody_asked_for_only_replaces_the_epoch() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    talk.hears("subscribed", id=1, topic="a", epoch="e", offset=19)
    talk.data("a", 20)
    heard = talk.hears("subscribed", topic="a", epoch="f", offset=22, recovered=True)
    assert heard == []
    assert talk.data("a", 21) == [Message("a", 21, 5, 21, "f")]
    talk.interests.go_offline()
    talk.interests.go_online()
    assert talk.asks()[0]["topics"][0]["since"] == {"epoch": "f", "offset": 21}


def test_what_the_backend_subscribes_us_to_counts_only_if_somebody_wants_it() -> None:
    talk = Conversation()
    assert talk.hears("subscribed", topic="a", epoch="e", offset=19) == []
    assert talk.data("a", 20) == []
    talk.interests.takes_given = True
    assert len(talk.hears("subscribed", topic="a", epoch="e", offset=19)) == 1
    assert len(talk.data("a", 20)) == 1
    talk.interests.go_offline()
    talk.interests.go_online()
    assert talk.asks()[0]["topics"][0]["since"] == {"epoch": "e", "offset": 20}


def test_a_topic_that_the_backend_gave_us_in_the_same_moment_is_asked_for_anew() -> None:
    talk = Conversation()
    talk.holds("a", since=Position("e", 3))
    fields = {"topic": "a", "code": "already_subscribed", "message": "already subscribed"}
    for _ in range(TRIES):
        (command,) = talk.asks()
        assert talk.hears("error", id=command["id"], **fields) == []
        assert [(c["op"], c["topic"]) for c in talk.told] == [("unsubscribe", "a")]
    (command,) = talk.asks()
    (ended,) = talk.hears("error", id=command["id"], **fields)
    assert isinstance(ended, Ended)


def test_members_come_and_go() -> None:
    talk = Conversation()
    talk.holds("a")
    talk.asks()
    talk.hears("subscribed", id=1, topic="a")
    member = {"client": "c-1", "user": "42"}
    assert talk.hears("join", topic="a", member=member) == [Join("a", Member("c-1", "42"))]
    assert talk.hears("leave", topic="a", member={"client": "c-2"}) == [
        Leave("a", Member("c-2", None))
    ]
    assert talk.hears("join", topic="b", member=member) == []
