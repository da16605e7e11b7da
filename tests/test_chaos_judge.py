"""The judge of chaos runs finds what it is there to find, and excuses what may be."""

from __future__ import annotations

import pytest

from chaos.journal import Deed, Entry, Journal, Log, Position, Sent
from chaos.judge import judge
from chaos.plan import HARSH, MILD, plan

TOPIC = "long:a"


class Story:
    """A run of one topic, told step by step. Each step takes a second."""

    def __init__(self) -> None:
        self.journal = Journal()
        self.now = 0.0
        self._logs: dict[str, Log] = {}

    def log(self, who: str) -> Log:
        if who not in self._logs:
            self._logs[who] = Log(who, TOPIC, asked=self.now)
            self.journal.logs.append(self._logs[who])
        return self._logs[who]

    def publish(self, id: str, epoch: str, offset: int, acked: bool = True) -> Story:
        position = Position(epoch, offset)
        sent = Sent(id, TOPIC, "p", self.now, 1)
        if acked:
            sent.acked, sent.position = self.now + 0.5, position
        self.journal.sent[id] = sent
        self.now += 1
        return self

    def tell(self, who: str, kind: str, epoch: str, offset: int, id: str = "") -> Story:
        log = self.log(who)
        assert kind in ("begin", "resumed", "turn", "gap", "message")
        log.entries.append(Entry(self.now, kind, Position(epoch, offset), id))  # type: ignore[arg-type]
        self.now += 1
        return self

    def destroy(self) -> Story:
        self.journal.deeds.append(Deed(self.now, self.now + 0.5, "flush", frozenset({TOPIC})))
        self.now += 1
        return self

    @property
    def verdict(self) -> list[str]:
        return [finding.kind for finding in judge(self.journal)]


def begun() -> Story:
    """Somebody has seen two publications."""
    story = Story().tell("ann", "begin", "e", 0)
    story.publish("1", "e", 1).publish("2", "e", 2)
    return story.tell("ann", "message", "", 1, "1").tell("ann", "message", "", 2, "2")


def test_everything_in_order_is_well() -> None:
    assert begun().verdict == []


def test_a_publication_that_was_acknowledged_and_never_seen_is_lost() -> None:
    assert begun().publish("3", "e", 3).verdict == ["lost"]


def test_a_publication_that_was_never_acknowledged_may_be_seen_or_not() -> None:
    assert begun().publish("3", "e", 3, acked=False).verdict == []
    story = begun().publish("3", "e", 3, acked=False).tell("ann", "message", "", 3, "3")
    assert story.verdict == []


def test_a_hole_is_a_loss_whatever_was_in_it() -> None:
    story = begun().publish("4", "e", 4).tell("ann", "message", "", 4, "4")
    assert story.verdict == ["lost"]


def test_a_message_twice_is_found() -> None:
    assert begun().tell("ann", "message", "", 2, "2").verdict == ["order", "twice"]
    assert begun().tell("ann", "message", "", 3, "2").verdict == ["twice"]


def test_messages_that_change_places_are_found() -> None:
    story = Story().tell("ann", "begin", "e", 0)
    story.publish("1", "e", 1).publish("2", "e", 2)
    story.tell("ann", "message", "", 2, "2").tell("ann", "message", "", 1, "1")
    assert story.verdict == ["lost", "order"]


def test_what_is_older_than_the_subscription_is_not_missed() -> None:
    story = begun().tell("bob", "begin", "e", 1).tell("bob", "message", "", 2, "2")
    assert story.verdict == []


def test_what_is_newer_than_the_subscription_is_not_missed() -> None:
    story = begun()
    story.log("ann").over = True
    assert story.publish("3", "e", 3).verdict == []


def test_a_gap_without_a_reason_is_found() -> None:
    assert begun().tell("ann", "gap", "f", 0).verdict == ["told"]
    # It was over before the newest that she has seen.
    assert Story().destroy().verdict == []
    story = Story().destroy().tell("ann", "begin", "e", 0).publish("1", "e", 1)
    assert story.tell("ann", "message", "", 1, "1").tell("ann", "gap", "f", 0).verdict == ["told"]


def test_what_lies_in_a_gap_is_excused() -> None:
    story = begun().publish("3", "e", 3).destroy().tell("ann", "gap", "f", 0)
    assert story.publish("4", "f", 1).tell("ann", "message", "", 1, "4").verdict == []


def test_what_lies_before_a_gap_is_not_excused() -> None:
    story = begun()
    story.log("ann").entries.pop()
    story.log("ann").entries.append(Entry(story.now, "message", Position("", 2), "?"))
    story.publish("?", "", 0, acked=False)
    story.destroy().tell("ann", "gap", "f", 0)
    assert story.verdict == ["lost", "fork"]


def test_what_comes_after_a_gap_is_not_excused() -> None:
    story = begun().destroy().publish("3", "f", 1).tell("ann", "gap", "f", 0)
    assert story.verdict == ["lost"]


def test_a_turn_that_hides_a_publication_is_found() -> None:
    story = begun().publish("3", "e", 3).destroy().tell("ann", "turn", "f", 2)
    story.publish("4", "f", 3).tell("ann", "message", "", 3, "4")
    assert story.verdict == ["lost"]
    # Until she is told.
    assert story.tell("ann", "gap", "g", 3).verdict == []


def test_a_turn_at_another_place_is_found() -> None:
    assert begun().tell("ann", "turn", "f", 3).verdict == ["order"]


def test_what_was_resumed_from_before_a_position_is_lost() -> None:
    assert begun().tell("ann", "resumed", "f", 1).verdict == ["lost"]


def test_an_offset_that_was_given_out_twice_is_found() -> None:
    assert begun().publish("3", "e", 2).verdict == ["fork", "order", "lost"]


def test_what_was_published_again_after_its_key_was_lost_is_excused() -> None:
    story = begun().destroy().tell("ann", "gap", "f", 0)
    assert story.tell("ann", "message", "", 1, "2").verdict == []


def test_the_schedule_of_a_seed_is_always_the_same() -> None:
    assert plan(7, 5, HARSH) == plan(7, 5, HARSH) != plan(8, 5, HARSH)
    assert {fault.name for fault in plan(7, 500, MILD)} == set(MILD)
    assert all(0 < fault.at < 5 for fault in plan(7, 5, HARSH))


@pytest.mark.parametrize("kind", ["message", "gap", "turn", "resumed"])
def test_a_log_begins_with_a_subscription(kind: str) -> None:
    assert "odd" in Story().publish("1", "e", 1).tell("ann", kind, "e", 1, "1").verdict
