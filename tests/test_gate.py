"""Who may shake hands, who waits and who is sent away: the machine against a naive one."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clarion_server.gate import Gate
from support.examples import examples

RATE, BURST, ROOM, PATIENCE = 4.0, 3, 5, 1.0


class Model(RuleBasedStateMachine):
    """A list of who waits since when, and tokens that are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Gate[int] = Gate(RATE, BURST, ROOM, PATIENCE)
        self.now = 0.0
        self.tokens = float(BURST)
        self.waiting: list[tuple[int, float]] = []
        self.names = iter(range(1_000_000))
        self.began: list[float] = []

    @rule(eighths=st.integers(1, 12))
    def time_passes(self, eighths: int) -> None:
        self.now += eighths / 8
        self.tokens = min(BURST, self.tokens + eighths / 8 * RATE)

    def _token(self) -> bool:
        if self.tokens < 1:
            return False
        self.tokens -= 1
        self.began.append(self.now)
        return True

    @rule(busy=st.booleans())
    def somebody_comes(self, busy: bool) -> None:
        name = next(self.names)
        verdict = self.gate.enter(name, self.now, busy=busy)
        missing = len(self.waiting) + 1 - self.tokens
        if not self.waiting and not busy and self._token():
            assert verdict == "pass"
        elif len(self.waiting) == ROOM or missing / RATE > PATIENCE:
            assert verdict == "refuse"
        else:
            assert verdict == "wait"
            self.waiting.append((name, self.now))

    @rule()
    def it_is_somebodys_turn(self) -> None:
        expected = self.waiting.pop(0)[0] if self.waiting and self._token() else None
        assert self.gate.next(self.now) == expected

    @rule()
    def somebody_has_waited_too_long(self) -> None:
        late = bool(self.waiting) and self.now - self.waiting[0][1] > PATIENCE
        assert self.gate.overdue(self.now) == (self.waiting.pop(0)[0] if late else None)

    @rule(place=st.integers(0, ROOM + 2))
    def somebody_vanishes(self, place: int) -> None:
        if place < len(self.waiting):
            self.gate.vanish(self.waiting.pop(place)[0])
        else:
            self.gate.vanish(-1)  # who does not wait

    @invariant()
    def as_many_wait(self) -> None:
        assert len(self.gate) == len(self.waiting) <= ROOM

    @invariant()
    def no_more_than_the_rate_and_the_burst_went_through(self) -> None:
        for first, since in enumerate(self.began):
            assert len(self.began) - first <= BURST + (self.now - since) * RATE

    @invariant()
    def it_says_when_there_is_something_to_do(self) -> None:
        if self.waiting:
            assert (self.gate.idle(self.now) == 0) == (self.tokens >= 1)


TestGate = Model.TestCase
TestGate.settings = settings(max_examples=examples(60), stateful_step_count=40)


def test_without_a_rate_only_time_makes_anybody_wait() -> None:
    gate: Gate[int] = Gate(0, 1, 10, 5)
    assert [gate.enter(name, 0.0) for name in range(100)] == ["pass"] * 100
    assert gate.enter(100, 0.0, busy=True) == "wait"
    assert gate.enter(101, 0.0) == "wait"  # nobody overtakes
    assert [gate.next(0.0), gate.next(0.0), gate.next(0.0)] == [100, 101, None]


def test_a_queue_without_room_refuses_whoever_would_have_to_wait() -> None:
    gate: Gate[str] = Gate(1, 1, 0, 5)
    assert gate.enter("first", 0.0) == "pass"
    assert gate.enter("second", 0.5) == "refuse"
    assert gate.enter("third", 1.0) == "pass"


@pytest.mark.parametrize("count", [20_000])
def test_thousands_that_vanish_cost_nothing_to_those_who_stay(count: int) -> None:
    gate: Gate[int] = Gate(0, 1, count, 5)
    for name in range(count):
        gate.enter(name, 0.0, busy=True)
    for name in range(count - 1):
        gate.vanish(name)
    assert gate.next(0.0) == count - 1
    assert len(gate) == 0
