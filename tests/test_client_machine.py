"""The life of a client as a machine: no network, no sleep, time is a number."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_client import wire
from clarion_client.errors import ClarionError, Closed, Refused, Unanswered
from clarion_client.events import Ended, Lost, Message, Phase, Position, State, Subscribed
from clarion_client.machine import (
    GOODBYE_S,
    Drop,
    Effect,
    Leave,
    Machine,
    Open,
    Outcome,
    Renew,
    Send,
    Timing,
)


def highest(low: float, high: float) -> float:
    return high


class Client:
    """A machine, and a server that says what a test wants. `now` is the time."""

    def __init__(self, *, renewable: bool = False, give_up_s: float | None = None) -> None:
        timing = Timing(give_up_s=give_up_s)
        self.machine = Machine(timing, highest, renewable=renewable)
        self.now = 1000.0
        self.machine.start(self.now)

    def effects(self) -> list[Effect]:
        """What the machine wants done, without changes of state."""
        return [e for e in self.machine.effects(self.now) if not isinstance(e, State)]

    def sent(self) -> list[dict[str, Any]]:
        """What the machine sends, and nothing else may it want."""
        effects = self.effects()
        assert all(isinstance(effect, Send) for effect in effects), effects
        return [json.loads(effect.text) for effect in effects if isinstance(effect, Send)]

    def hears(self, op: str, **fields: object) -> None:
        self.machine.received(json.dumps({"op": op, **fields}), self.now)

    def connects(self, **fields: object) -> None:
        """Up to `welcome`."""
        assert self.effects() == [Open(fresh=False)]
        self.hears("welcome", client="c-1", ping_ms=25000, **fields)
        assert self.machine.phase is Phase.CONNECTED

    def subscribes(self, topic: str, **answer: object) -> None:
        """Up to the server's answer."""
        self.machine.interests.hold(topic, None, 0)
        (command,) = self.sent()
        self.hears("subscribed", id=command["id"], topic=topic, **answer)
        (granted,) = self.effects()
        assert isinstance(granted, Subscribed)

    def waits(self) -> float:
        """Lets the time pass until something is due. Returns how long that was."""
        due = self.machine.due()
        assert due is not None
        passed, self.now = due - self.now, due
        self.machine.ticked(self.now)
        return passed

    def asks(self, reads: bool = True) -> int:
        return self.machine.ask(lambda id: wire.encode("presence", id, topic="a"), reads=reads)


def connected(**options: Any) -> Client:
    client = Client(**options)
    client.connects()
    return client


# Connecting


def test_it_begins_with_an_attempt_and_is_connected_with_welcome() -> None:
    client = Client()
    assert client.machine.state == State(Phase.CONNECTING)
    assert client.effects() == [Open(fresh=False)]
    client.hears("welcome", client="c-1", user="42", ping_ms=25000)
    assert client.machine.state == State(Phase.CONNECTED, client="c-1", user="42")


def test_an_attempt_without_a_welcome_is_given_up() -> None:
    client = Client()
    client.effects()
    assert client.waits() == Timing().connect_s
    assert client.effects() == [Drop()]
    assert client.machine.phase is Phase.BACKING_OFF


def test_attempts_that_fail_are_repeated_with_growing_pauses() -> None:
    client = Client()
    pauses = []
    for _ in range(7):
        assert client.effects() == [Open(fresh=False)]
        client.machine.not_opened("connection refused", client.now)
        assert client.effects() == []
        assert client.machine.state.why == "connection refused"
        pauses.append(client.waits())
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_retry_after_is_obeyed_and_spread() -> None:
    client = Client()
    client.effects()
    client.machine.not_opened("503", client.now, retry_s=7)
    assert client.waits() == 8


def test_the_state_has_the_status_of_a_refusal_for_programs() -> None:
    client = Client()
    client.effects()
    client.machine.not_opened("refused", client.now, 503)
    assert client.machine.state.code == 503
    client.waits()
    client.machine.not_opened("connection refused", client.now)
    assert client.machine.state.code == 1006


def test_a_retry_after_is_not_believed_beyond_an_hour() -> None:
    client = Client()
    client.effects()
    client.machine.not_opened("503", client.now, retry_s=1e12)
    assert client.waits() == 3601


def test_an_end_by_the_network_is_followed_by_a_pause_and_another_attempt() -> None:
    client = connected()
    client.machine.ended(1006, "", client.now)
    assert client.machine.state == State(
        Phase.BACKING_OFF, why="the connection was lost (1006)", code=1006, retry_s=1
    )
    client.waits()
    assert client.effects() == [Open(fresh=False)]


def test_a_connection_that_is_thrown_out_at_once_each_time_makes_pauses_grow() -> None:
    client = Client()
    pauses = []
    for _ in range(4):
        client.connects()
        client.now += 1
        client.machine.ended(4004, "overloaded", client.now)
        pauses.append(client.waits())
    assert pauses == [1, 2, 4, 8]
    client.connects()
    client.now += 10
    client.machine.ended(1006, "", client.now)
    assert client.waits() == 1


def test_goodbye_says_when_to_come_back() -> None:
    client = connected()
    client.hears("goodbye", code=4000, reason="draining", retry_ms=7340)
    client.machine.ended(4000, "draining", client.now)
    assert client.machine.state.why == "draining (4000)"
    assert client.waits() == pytest.approx(7.34)


def test_goodbye_counts_without_its_close_frame() -> None:
    client = connected()
    client.hears("goodbye", code=4502, reason="disconnected by the backend")
    client.machine.ended(1006, "", client.now)
    assert client.machine.state.error is not None
    assert client.machine.state.error.code == 4502


def test_a_close_frame_that_never_comes_is_not_waited_for() -> None:
    client = connected()
    client.hears("goodbye", code=4000, reason="draining", retry_ms=100)
    assert client.waits() == GOODBYE_S
    assert client.effects() == [Drop()]
    assert client.waits() == pytest.approx(0.1)


def test_a_refusal_in_words_before_welcome_ends_it() -> None:
    client = Client()
    client.effects()
    client.hears("goodbye", code=4501, reason="no token")
    client.machine.ended(4501, "no token", client.now)
    assert client.machine.phase is Phase.CLOSED
    assert client.machine.due() is None
    assert str(client.machine.state.error) == "the server closed the connection: no token (4501)"


def test_without_a_connection_for_too_long_it_gives_up() -> None:
    client = Client(give_up_s=5)
    began = client.now
    while client.machine.due() is not None:
        client.effects()
        client.machine.not_opened("connection refused", client.now)
        if client.machine.due() is not None:
            client.waits()
    assert client.now == began + 5
    assert "connection refused" in str(client.machine.state.error)


def test_it_gives_up_rather_than_come_sooner_than_the_server_asked() -> None:
    client = Client(give_up_s=5)
    client.effects()
    client.machine.not_opened("503", client.now, retry_s=60)
    assert client.machine.phase is Phase.CLOSED


def test_the_time_to_give_up_begins_with_the_loss() -> None:
    client = connected(give_up_s=5)
    client.now += 3600
    client.machine.ended(1006, "", client.now)
    assert client.machine.phase is Phase.BACKING_OFF


def test_garbage_costs_the_connection_and_no_more() -> None:
    client = connected()
    client.machine.received("<html>", client.now)
    assert client.effects() == [Drop()]
    assert client.machine.phase is Phase.BACKING_OFF
    client.machine.received('{"op":"pong"}', client.now)
    client.machine.ended(4501, "too late", client.now)
    assert client.machine.phase is Phase.BACKING_OFF


def test_a_binary_message_is_garbage() -> None:
    client = connected()
    client.machine.received(b"{}", client.now)
    assert client.effects() == [Drop()]


# Topics


def test_messages_reach_the_program_in_order_with_what_is_missing() -> None:
    client = connected()
    client.subscribes("a", epoch="e", offset=19)
    for offset in (20, 21, 21, 24):
        client.hears("message", topic="a", offset=offset, ts=1, data=offset)
    assert client.effects() == [
        Message("a", 20, 1, 20, "e"),
        Message("a", 21, 1, 21, "e"),
        Lost("a", Position("e", 23), "22 to 23 never came"),
        Message("a", 24, 1, 24, "e"),
    ]


def test_after_a_reconnect_all_topics_are_asked_for_in_one_command() -> None:
    client = connected()
    client.subscribes("a", epoch="e", offset=19)
    client.subscribes("b")
    client.machine.ended(1006, "", client.now)
    client.waits()
    client.connects()
    (command,) = client.sent()
    assert command["topics"] == [
        {"topic": "a", "since": {"epoch": "e", "offset": 19}},
        {"topic": "b"},
    ]


def test_a_refused_topic_is_an_event() -> None:
    client = connected()
    client.machine.interests.hold("a", None, 0)
    (command,) = client.sent()
    client.hears("error", id=command["id"], topic="a", code="forbidden", message="no")
    (ended,) = client.effects()
    assert isinstance(ended, Ended)


def test_a_topic_that_is_not_wanted_any_more_is_unsubscribed() -> None:
    client = connected()
    client.subscribes("a")
    client.machine.release("a")
    assert [command["op"] for command in client.sent()] == ["unsubscribe"]
    client.machine.release("never held")
    assert client.sent() == []


def test_what_the_server_says_of_a_topic_becomes_events() -> None:
    client = connected()
    client.subscribes("a", epoch="e", offset=1)
    client.hears("join", topic="a", member={"client": "c-2"})
    client.hears("leave", topic="a", member={"client": "c-2"})
    client.hears("lost", topic="a", epoch="e", offset=9, reason="too slow")
    client.hears("unsubscribed", topic="a", reason="enough")
    kinds = [type(event).__name__ for event in client.effects()]
    assert kinds == ["Join", "Leave", "Lost", "Ended"]


def test_a_subscription_that_is_not_answered_costs_the_connection() -> None:
    client = connected()
    client.machine.interests.hold("a", None, 0)
    client.sent()
    for _ in range(10):
        client.waits()
        if Drop() in client.effects():
            break
        client.hears("pong")
    assert client.machine.state.why == "no answer to a subscription"


# Silence


def test_a_dead_link_is_dropped() -> None:
    client = connected()
    assert client.waits() == 20
    assert client.sent() == [{"op": "ping"}]
    assert client.waits() == 10
    assert client.effects() == [Drop()]
    assert client.machine.state.why == "no answer to a ping"
    assert client.machine.state.code == 4003


def test_a_machine_that_slept_asks_before_it_drops() -> None:
    client = connected()
    client.waits()
    client.sent()
    client.now += 3600
    client.machine.ticked(client.now)
    assert client.sent() == [{"op": "ping"}]
    assert client.waits() == 10
    assert client.effects() == [Drop()]


def test_while_the_program_is_behind_the_link_is_not_dead() -> None:
    client = connected()
    client.machine.interests.hold("a", None, 0)
    client.sent()
    client.machine.read(False, client.now)
    for _ in range(10):
        assert client.waits() == 20
        assert client.sent() == [{"op": "ping"}]
    client.machine.read(True, client.now)
    assert client.machine.due() == client.now + 20


# Tokens


def test_a_token_is_renewed_before_it_expires() -> None:
    client = Client(renewable=True)
    client.connects(expires_ms=10_000)
    assert client.waits() == 8
    assert client.effects() == [Renew()]
    client.machine.renewed("new")
    (command,) = client.sent()
    assert (command["op"], command["token"]) == ("refresh", "new")
    client.hears("refreshed", id=command["id"], expires_ms=10_000)
    assert client.waits() == 8
    assert client.effects() == [Renew()]


def test_a_token_that_lasts_is_renewed_a_minute_before_its_end() -> None:
    client = Client(renewable=True)
    client.connects(expires_ms=3_600_000)
    heard_at = client.now
    while (due := client.machine.due()) is not None and not client.now >= heard_at + 3540:
        client.now = due
        client.machine.ticked(client.now)
        client.hears("pong")
    assert client.now == heard_at + 3540
    assert Renew() in client.effects()


def test_a_token_that_cannot_be_had_is_asked_for_again() -> None:
    client = Client(renewable=True)
    client.connects(expires_ms=10_000)
    client.waits()
    client.effects()
    client.machine.not_renewed(client.now)
    assert client.waits() == 2
    assert client.effects() == [Renew()]


def test_a_renewed_token_that_is_refused_ends_nothing() -> None:
    client = Client(renewable=True)
    client.connects(expires_ms=10_000)
    client.waits()
    client.effects()
    client.machine.renewed("another user's")
    (command,) = client.sent()
    client.hears("error", id=command["id"], code="forbidden", message="another user's")
    assert client.machine.phase is Phase.CONNECTED
    client.waits()
    assert client.effects() == [Renew()]


def test_no_expiry_makes_it_renew_more_than_once_a_second() -> None:
    client = Client(renewable=True)
    client.connects(expires_ms=0)
    assert client.waits() == 1


def test_a_plain_token_is_not_renewed() -> None:
    client = Client()
    client.connects(expires_ms=10_000)
    assert client.waits() == 20


def test_after_4002_the_next_attempt_begins_with_a_new_token() -> None:
    client = connected(renewable=True)
    client.machine.ended(4002, "token expired", client.now)
    client.waits()
    assert client.effects() == [Open(fresh=True)]
    client.machine.not_opened("connection refused", client.now)
    client.waits()
    assert client.effects() == [Open(fresh=False)]


def test_4002_ends_it_where_there_is_no_way_to_a_new_token() -> None:
    client = connected()
    client.machine.ended(4002, "token expired", client.now)
    assert client.machine.state.error is not None
    assert client.machine.state.error.code == 4002


# Commands


def outcomes(client: Client) -> list[tuple[int, object]]:
    effects = [effect for effect in client.effects() if isinstance(effect, Outcome)]
    return [
        (e.id, type(e.result) if isinstance(e.result, ClarionError) else e.result) for e in effects
    ]


def test_a_command_waits_for_a_connection_and_for_its_answer() -> None:
    client = Client()
    id = client.asks()
    client.connects()
    assert client.sent() == [{"op": "presence", "id": id, "topic": "a"}]
    client.hears("presence", id=id, topic="a", count=0, members=[])
    assert client.effects() == [Outcome(id, wire.PresenceList("a", 0, [], id=id))]
    client.hears("presence", id=id, topic="a", count=0, members=[])
    assert client.effects() == []


def test_an_error_is_the_outcome_of_its_command() -> None:
    client = connected()
    id = client.asks()
    client.sent()
    fields: dict[str, object] = {"code": "unavailable", "message": "busy", "retry_ms": 1500}
    client.hears("error", id=id, topic="a", **fields)
    (outcome,) = client.effects()
    assert isinstance(outcome, Outcome)
    assert isinstance(outcome.result, Refused)
    assert (outcome.result.code, outcome.result.retry_s) == ("unavailable", 1.5)


def test_what_only_reads_is_sent_again_and_what_changes_something_is_not() -> None:
    client = connected()
    reading, changing = client.asks(reads=True), client.asks(reads=False)
    client.sent()
    client.machine.ended(1006, "", client.now)
    assert outcomes(client) == [(changing, Unanswered)]
    client.waits()
    client.connects()
    assert [command["id"] for command in client.sent()] == [reading]


def test_a_change_that_was_not_sent_yet_waits_for_the_next_connection() -> None:
    client = Client()
    id = client.asks(reads=False)
    client.effects()
    client.machine.not_opened("connection refused", client.now)
    client.waits()
    client.connects()
    assert [command["id"] for command in client.sent()] == [id]


def test_a_command_that_would_end_the_connection_is_not_sent() -> None:
    client = connected()
    for text in ("x" * 70_000, "ü" * 40_000):
        encode = partial(wire.encode_publish, topic="a", data=text)
        with pytest.raises(ValueError, match="max_command_bytes=65536"):
            client.machine.ask(encode, reads=False)
    assert client.effects() == []


def test_a_command_that_nobody_waits_for_is_forgotten() -> None:
    client = Client()
    assert client.machine.forget(client.asks()) is False
    client.connects()
    id = client.asks()
    client.sent()
    assert client.machine.forget(id) is True
    client.hears("presence", id=id, topic="a", count=0, members=[])
    assert client.effects() == []


# The end


def test_stopping_leaves_properly_and_ends_what_waits() -> None:
    client = connected()
    id = client.asks()
    client.sent()
    client.machine.stop()
    leave, outcome = client.effects()
    assert leave == Leave()
    assert isinstance(outcome, Outcome)
    assert outcome.id == id
    assert isinstance(outcome.result, Closed)
    assert client.machine.state == State(Phase.CLOSED, why="closed by the program")


def test_nothing_happens_after_the_end() -> None:
    client = connected()
    client.machine.stop()
    client.effects()
    client.machine.stop()
    client.machine.fail(Closed("too late"))
    client.machine.ended(4000, "", client.now)
    client.machine.not_opened("", client.now)
    client.machine.received('{"op":"pong"}', client.now)
    client.machine.renewed("token")
    client.machine.ticked(client.now + 3600)
    assert client.effects() == []
    assert outcomes(client) == []
    id = client.asks()
    assert outcomes(client) == [(id, Closed)]


def test_stopping_between_attempts_needs_no_leave() -> None:
    client = connected()
    client.machine.ended(1006, "", client.now)
    client.machine.stop()
    assert client.effects() == []


def test_an_error_that_answers_nothing_is_survived() -> None:
    client = connected()
    client.hears("error", code="bad_request", message="a message is a JSON object")
    client.hears("error", id="not ours", code="bad_request", message="?")
    client.hears("weather", sky="blue")
    client.hears("welcome", client="c-2", ping_ms=1)
    assert client.effects() == []
    assert client.machine.state.client == "c-1"


# Any conversation

SAYS = st.sampled_from(
    [
        '{"op":"welcome","client":"c","ping_ms":1}',
        '{"op":"welcome","client":"c","ping_ms":1,"expires_ms":5000}',
        '{"op":"subscribed","id":1,"topic":"a","epoch":"e","offset":3}',
        '{"op":"subscribed","id":2,"topic":"a","epoch":"f","offset":3,"recovered":false}',
        '{"op":"subscribed","topic":"a"}',
        '{"op":"message","topic":"a","offset":4,"ts":1,"data":1}',
        '{"op":"message","topic":"a","offset":9,"ts":1,"data":1}',
        '{"op":"lost","topic":"a","epoch":"g","offset":2,"reason":""}',
        '{"op":"unsubscribed","topic":"a","reason":"x"}',
        '{"op":"error","id":1,"topic":"a","code":"unavailable","message":"","retry_ms":50}',
        '{"op":"error","id":2,"topic":"a","code":"already_subscribed","message":""}',
        '{"op":"error","id":3,"code":"internal","message":""}',
        '{"op":"refreshed","id":4,"expires_ms":1}',
        '{"op":"goodbye","code":4000,"reason":"","retry_ms":10}',
        '{"op":"goodbye","code":4500,"reason":""}',
        "garbage",
    ]
)
STEPS = st.one_of(
    st.tuples(st.just("hear"), SAYS),
    st.tuples(st.just("end"), st.sampled_from([1000, 1006, 4000, 4002, 4001])),
    st.tuples(st.just("wait"), st.floats(0, 60)),
    st.tuples(st.sampled_from(["hold", "release", "ask", "slow", "fast", "renew", "fail"])),
)


@given(st.lists(STEPS, max_size=60))
def test_no_conversation_confuses_it(steps: list[tuple[Any, ...]]) -> None:
    """One socket or attempt at a time, always something due unless closed, sends only when open."""
    client = Client(renewable=True)
    machine = client.machine
    sockets = 0
    for step in steps:
        match step:
            case ("hear", text):
                machine.received(text, client.now)
            case ("end", code):
                if sockets:
                    machine.ended(code, "", client.now)
                    sockets = 0
            case ("wait", seconds):
                client.now += seconds
                machine.ticked(client.now)
            case ("hold",):
                machine.interests.hold("a", None, 0)
            case ("release",):
                machine.release("a")
            case ("ask",):
                client.asks(reads=False)
            case ("slow",) | ("fast",):
                machine.read(step == ("fast",), client.now)
            case ("renew",):
                machine.renewed("token")
            case ("fail",):
                if sockets:
                    machine.not_opened("refused", client.now)
                    sockets -= machine.phase is Phase.BACKING_OFF
        for effect in machine.effects(client.now):
            if isinstance(effect, Open):
                assert sockets == 0
                sockets = 1
            elif isinstance(effect, (Drop, Leave)):
                sockets = 0
            elif isinstance(effect, Send):
                assert sockets == 1
        due = machine.due()
        assert (due is None) is (machine.phase is Phase.CLOSED)
        assert sockets == (machine.phase in (Phase.CONNECTING, Phase.CONNECTED))
