"""The timer wheel against a plain list of deadlines: never early, late only after a stall."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from clarion_server.wheel import ABSENT, BUCKETS, TICK_SECONDS, Entry, Wheel, ticks
from support.examples import examples


class Timer:
    """An entry that notes when it was asked, and then does what it was told to do."""

    def __init__(self, reaction: Callable[[int], int] = lambda _now: 0) -> None:
        self.bucket = ABSENT
        self.reaction = reaction
        self.asked: list[int] = []

    def due(self, now: int) -> int:
        self.asked.append(now)
        return self.reaction(now)


delays = st.one_of(
    st.integers(min_value=1, max_value=30),
    st.integers(min_value=1, max_value=4 * BUCKETS),
    st.sampled_from([BUCKETS - 1, BUCKETS, BUCKETS + 1, 2 * BUCKETS, 2 * BUCKETS + 1]),
)
spans = st.one_of(
    st.integers(min_value=0, max_value=5),
    st.integers(min_value=0, max_value=3 * BUCKETS),
    st.sampled_from([BUCKETS - 1, BUCKETS, BUCKETS + 1]),
)


class WheelMachine(RuleBasedStateMachine):
    """Timers come, move and go, and act on each other while they are asked."""

    timers = Bundle("timers")

    def __init__(self) -> None:
        super().__init__()
        self.wheel = Wheel()
        self.deadlines: dict[Timer, int] = {}
        self.from_tick = 0
        """Where the advance under way began. A stall of more than a turn is made up for late."""
        self.to_tick = 0

    @rule(target=timers, delay=delays)
    def add(self, delay: int) -> Timer:
        timer = Timer()
        timer.reaction = lambda now: self.asked(timer, now, lambda: 0)
        self.wheel.add(timer, delay)
        self.deadlines[timer] = self.wheel.now + delay
        return timer

    @rule(target=timers, delay=delays, again=delays)
    def add_one_that_asks_to_be_asked_again(self, delay: int, again: int) -> Timer:
        timer = Timer()

        def ask_again() -> int:
            self.deadlines[timer] = self.wheel.now + again
            return again

        timer.reaction = lambda now: self.asked(timer, now, ask_again)
        self.wheel.add(timer, delay)
        self.deadlines[timer] = self.wheel.now + delay
        return timer

    @rule(target=timers, delay=delays, again=delays, ignored=delays)
    def add_one_that_moves_itself(self, delay: int, again: int, ignored: int) -> Timer:
        timer = Timer()

        def move() -> int:
            self.wheel.move(timer, again)
            self.deadlines[timer] = self.wheel.now + again
            return ignored

        timer.reaction = lambda now: self.asked(timer, now, move)
        self.wheel.add(timer, delay)
        self.deadlines[timer] = self.wheel.now + delay
        return timer

    @rule(target=timers, delay=delays, other=timers, again=delays, move=st.booleans())
    def add_one_that_acts_on_another(
        self, delay: int, other: Timer, again: int, move: bool
    ) -> Timer:
        timer = Timer()

        def act() -> int:
            if move:
                self.wheel.move(other, again)
                self.deadlines[other] = self.wheel.now + again
            else:
                self.wheel.remove(other)
                self.deadlines.pop(other, None)
            return 0

        timer.reaction = lambda now: self.asked(timer, now, act)
        # Often due together with the other one.
        delay = max(1, self.deadlines.get(other, 0) - self.wheel.now) if again % 2 else delay
        self.wheel.add(timer, delay)
        self.deadlines[timer] = self.wheel.now + delay
        return timer

    def asked(self, timer: Timer, now: int, react: Callable[[], int]) -> int:
        deadline = self.deadlines.pop(timer)
        assert now == self.wheel.now
        assert now >= deadline, "early"
        assert now <= max(deadline, self.to_tick), "late"
        if self.to_tick - self.from_tick <= BUCKETS:
            assert now == deadline
        return react()

    @rule(timer=timers, delay=delays)
    def move(self, timer: Timer, delay: int) -> None:
        self.wheel.move(timer, delay)
        self.deadlines[timer] = self.wheel.now + delay

    @rule(timer=consumes(timers))
    def remove(self, timer: Timer) -> None:
        self.wheel.remove(timer)
        self.deadlines.pop(timer, None)

    @rule(span=spans)
    def advance(self, span: int) -> None:
        self.from_tick, self.to_tick = self.wheel.now, self.wheel.now + span
        self.wheel.advance(self.to_tick)
        assert self.wheel.now == self.to_tick

    @invariant()
    def nobody_who_is_due_is_left(self) -> None:
        assert all(deadline > self.wheel.now for deadline in self.deadlines.values())

    @invariant()
    def it_holds_those_who_wait_and_nobody_else(self) -> None:
        assert len(self.wheel) == len(self.deadlines)
        assert set(self.wheel) == set(self.deadlines)


TestWheel = WheelMachine.TestCase
TestWheel.settings = settings(max_examples=examples(60), stateful_step_count=30)


@pytest.mark.parametrize("delay", [1, BUCKETS - 1, BUCKETS, BUCKETS + 1, 3 * BUCKETS, 36_000])
def test_an_entry_is_asked_once_and_at_its_tick(delay: int) -> None:
    """An hour ahead as well as a tick: what may be configured goes that far."""
    wheel, timer = Wheel(), Timer()
    wheel.add(timer, delay)
    for now in range(1, delay + 2 * BUCKETS):
        wheel.advance(now)
    assert timer.asked == [delay]
    assert (len(wheel), timer.bucket) == (0, ABSENT)


def test_a_stall_asks_everyone_once_who_became_due_in_it() -> None:
    wheel = Wheel()
    due = [Timer() for _ in range(20)]
    later = Timer()
    for place, timer in enumerate(due):
        wheel.add(timer, 1 + place * 100)
    wheel.add(later, 50_000)
    wheel.advance(49_999)
    assert [len(timer.asked) for timer in due] == [1] * 20
    assert later.asked == []
    wheel.advance(50_000)
    assert later.asked == [50_000]


def test_no_delay_is_a_tick() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.add(timer, 0)
    wheel.advance(1)
    assert timer.asked == [1]


def test_time_does_not_go_back() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.advance(100)
    wheel.add(timer, 5)
    wheel.advance(50)
    assert (wheel.now, timer.asked) == (100, [])


def test_removing_the_absent_does_nothing() -> None:
    wheel, timer = Wheel(), Timer()
    wheel.remove(timer)
    wheel.add(timer, 3)
    wheel.remove(timer)
    wheel.remove(timer)
    wheel.advance(10)
    assert (len(wheel), timer.asked) == (0, [])


def test_entries_may_come_and_go_while_the_wheel_is_walked() -> None:
    wheel = Wheel()
    timers = [Timer() for _ in range(5)]
    for timer in timers:
        wheel.add(timer, 7)
    seen: list[Entry] = []
    for entry in wheel:
        seen.append(entry)
        wheel.move(entry, 1)
    assert set(seen) == set(timers)


@settings(max_examples=examples(300))
@given(st.floats(min_value=0, max_value=100_000))
def test_ticks_are_not_shorter_than_the_seconds_and_by_less_than_one_longer(seconds: float) -> None:
    count = ticks(seconds)
    assert count >= 1
    tick = Fraction(TICK_SECONDS)  # without rounding
    assert count * tick >= Fraction(seconds)
    assert count == 1 or (count - 1) * tick < Fraction(seconds)


def test_an_entry_that_fails_neither_stops_the_others_nor_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(now: int) -> int:
        raise LookupError("a bug")

    wheel = Wheel()
    timers = [Timer(fail), Timer(), Timer(fail), Timer()]
    for timer in timers:
        wheel.add(timer, 3)
    wheel.advance(3)
    assert [timer.asked for timer in timers] == [[3]] * 4
    assert caplog.text.count("a timer failed") == 2
    wheel.advance(3 + ticks(1))
    assert [len(timer.asked) for timer in timers] == [2, 1, 2, 1]
