"""A replay keeps the pace, the order and everything in it, however its caller dawdles."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.demo import flights as demo_flights
from clarion_server.demo.flights import Event
from clarion_server.demo.replay import Replay

EVENTS = demo_flights.events(demo_flights.load()[1])[:300]
START = EVENTS[0].at


def test_an_event_is_due_when_its_time_has_come_at_that_speed() -> None:
    replay = Replay(EVENTS, speed=60, now=100.0)
    later = next(event for event in EVENTS if event.at > START)
    seconds = (later.at - START).total_seconds() / 60
    first = replay.take(100.0, 1000)
    assert [event.at for event in first] == [START] * len(first)
    assert replay.wait(100.0) == pytest.approx(seconds)
    assert replay.take(100.0 + seconds - 0.001, 1000) == []
    assert replay.take(100.0 + seconds, 1000)[0] is later


def test_the_clock_runs_at_that_speed() -> None:
    replay = Replay(EVENTS, speed=600, now=0.0)
    replay.take(1.0, 1000)
    assert replay.clock(1.0) == START + timedelta(minutes=10)


@given(
    st.floats(1, 1e6),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), min_size=1, max_size=60),
)
def test_nothing_is_left_out_turned_or_early(speed: float, steps: list[tuple[float, int]]) -> None:
    replay = Replay(EVENTS, speed, now=0.0)
    taken: list[Event] = []
    now = 0.0
    for passed, most in steps:
        now += passed
        due = replay.take(now, most)
        assert len(due) <= most
        taken += due
        slack = timedelta(milliseconds=1)
        assert all(event.at <= START + timedelta(seconds=now * speed) + slack for event in due)
        if not replay.done:
            assert replay.clock(now) <= EVENTS[len(taken)].at
    assert taken == EVENTS[: len(taken)]
    assert replay.done == (len(taken) == len(EVENTS))


def test_waiting_as_told_replays_everything() -> None:
    replay = Replay(EVENTS, speed=5000, now=0.0)
    now, taken = 0.0, 0
    while not replay.done:
        taken += len(replay.take(now, 40))
        now += replay.wait(now) + 1e-6
    assert taken == len(EVENTS)
    assert replay.wait(now) == 0


def test_a_caller_that_falls_behind_slows_the_clock_instead_of_losing_the_pace() -> None:
    replay = Replay(EVENTS, speed=600, now=0.0)
    (taken,) = replay.take(60.0, 1)  # ten simulated hours late
    assert taken is EVENTS[0]
    assert replay.clock(60.0) == EVENTS[1].at
    assert replay.wait(60.0) == pytest.approx(0)
    still = replay.take(60.0 + 1, 1000)
    assert still[-1].at <= EVENTS[1].at + timedelta(minutes=10)
