"""How long a run still takes."""

from __future__ import annotations

from loadtest.agenda import Agenda, Step


def test_before_the_first_step_all_takes_what_is_expected() -> None:
    agenda = Agenda([Step("a", 20), Step("b", 30)])
    assert agenda.left() == 50
    assert agenda.place() == "1 of 2, 50 s left"


def test_what_was_done_before_takes_as_long_again() -> None:
    agenda = Agenda([Step("a", 10), Step("a", 10)])
    agenda.done(25)
    assert agenda.left() == 25
    assert agenda.place() == "2 of 2, 25 s left"


def test_what_is_new_goes_at_the_pace_of_the_rest() -> None:
    agenda = Agenda([Step("a", 10), Step("b", 40), Step("a", 10)])
    agenda.done(20)
    assert agenda.left() == 2 * 40 + 20


def test_long_times_are_told_in_minutes() -> None:
    assert Agenda([Step("a", 600)]).place() == "1 of 1, 10 min left"


def test_in_the_end_nothing_is_left() -> None:
    agenda = Agenda([Step("a", 10)])
    agenda.done(1)
    assert agenda.left() == 0
