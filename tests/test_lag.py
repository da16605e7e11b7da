"""How late the event loop is, and when that makes a worker unfit for new clients."""

from __future__ import annotations

import asyncio
import time

from clarion_server.lag import Lag
from clarion_server.options import Admission
from support.waiting import until

OPTIONS = Admission(lag_s=0.2, lag_for_s=1, unready_lag_s=0.5, unready_lag_for_s=5)
LATE = 1.0


class Looks:
    """A watch, and the time at which it looks."""

    def __init__(self) -> None:
        self.now = 10.0
        self.lag = Lag(lambda: self.now, OPTIONS)

    def look(self, late: float) -> None:
        self.now += 0.05 + late
        self.lag.note(self.now, late)


def test_a_timer_that_ran_early_was_not_late() -> None:
    lag = Lag(time.monotonic)
    lag.note(10.0, -0.001)
    assert lag.worst(10.0) == 0.0
    assert lag.histogram.counts[0] == 1
    assert lag.histogram.total == 0.0


def test_a_short_overload_is_no_reason_against_new_clients() -> None:
    lag = Lag(time.monotonic, OPTIONS)
    lag.note(10.0, LATE)
    assert lag.reasons(10.0 + OPTIONS.unready_lag_for_s - 2 * LATE) == []


def test_an_overload_that_lasts_is_a_reason_with_its_duration() -> None:
    lag = Lag(time.monotonic, OPTIONS)
    lag.note(10.0 + LATE, LATE)
    lag.note(12.0, LATE)
    assert lag.reasons(16.0) == ["the event loop is late by more than 0.5 s for 6 s"]


def test_one_look_in_time_ends_an_overload() -> None:
    lag = Lag(time.monotonic, OPTIONS)
    lag.note(10.0, LATE)
    lag.note(20.0, 0.0)
    lag.note(20.5, LATE)
    assert lag.reasons(21.0) == []


def test_newcomers_are_refused_long_before_the_worker_is_not_ready() -> None:
    looks = Looks()
    looks.look(0.3)
    assert not looks.lag.refuses()
    for _ in range(3):
        looks.look(0.3)
    assert looks.lag.refuses()
    for _ in range(30):
        looks.look(0.3)
    assert looks.lag.reasons(looks.now) == []  # late, but not by half a second


def test_one_long_stop_refuses_nobody_and_ends_no_readiness() -> None:
    looks = Looks()
    looks.look(0.9)
    assert not looks.lag.refuses()
    looks.look(0.0)
    looks.look(0.9)
    assert not looks.lag.refuses()
    assert looks.lag.reasons(looks.now) == []


def test_newcomers_are_let_in_as_soon_as_the_loop_is_in_time() -> None:
    looks = Looks()
    for _ in range(10):
        looks.look(0.3)
    looks.look(0.1)
    assert not looks.lag.refuses()


async def test_a_callback_that_blocks_the_loop_shows() -> None:
    lag = Lag(time.monotonic)
    async with asyncio.TaskGroup() as group:
        looks = group.create_task(lag.run())
        await until(lambda: sum(lag.histogram.counts) > 0)
        time.sleep(0.2)  # noqa: ASYNC251 - the very thing that is to be noticed
        await until(lambda: lag.worst(time.monotonic()) > 0.1)
        looks.cancel()
    assert lag.histogram.total >= 0.1
