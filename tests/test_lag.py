"""How late the event loop is, and when that makes a worker unfit for new clients."""

from __future__ import annotations

import asyncio
import time

from clarion_server.lag import OVERLOADED_FOR_SECONDS, OVERLOADED_SECONDS, Lag
from support.waiting import until

LATE = OVERLOADED_SECONDS * 2


def test_a_timer_that_ran_early_was_not_late() -> None:
    lag = Lag(time.monotonic)
    lag.note(10.0, -0.001)
    assert lag.worst(10.0) == 0.0
    assert lag.histogram.counts[0] == 1
    assert lag.histogram.total == 0.0


def test_a_short_overload_is_no_reason_against_new_clients() -> None:
    lag = Lag(time.monotonic)
    lag.note(10.0, LATE)
    assert lag.reasons(10.0 + OVERLOADED_FOR_SECONDS - 2 * LATE) == []


def test_an_overload_that_lasts_is_a_reason_with_its_duration() -> None:
    lag = Lag(time.monotonic)
    lag.note(10.0 + LATE, LATE)
    lag.note(12.0, LATE)
    assert lag.reasons(16.0) == ["the event loop is late by more than 0.5 s for 6 s"]


def test_one_look_in_time_ends_an_overload() -> None:
    lag = Lag(time.monotonic)
    lag.note(10.0, LATE)
    lag.note(20.0, 0.0)
    lag.note(20.5, LATE)
    assert lag.reasons(21.0) == []


async def test_a_callback_that_blocks_the_loop_shows() -> None:
    lag = Lag(time.monotonic)
    async with asyncio.TaskGroup() as group:
        looks = group.create_task(lag.run())
        await until(lambda: sum(lag.histogram.counts) > 0)
        time.sleep(0.2)  # noqa: ASYNC251 - the very thing that is to be noticed
        await until(lambda: lag.worst(time.monotonic()) > 0.1)
        looks.cancel()
    assert lag.histogram.total >= 0.1
