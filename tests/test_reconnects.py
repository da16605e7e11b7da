"""When those who are sent away come back."""

from __future__ import annotations

import random
from itertools import pairwise

from clarion_server.reconnects import LONGEST, SHORTEST, SPREAD, Reconnects

LAST = SHORTEST + SPREAD


def test_one_who_is_sent_away_comes_back_within_a_moment() -> None:
    reconnects = Reconnects(2500, random.Random(1))
    for turn in range(100):
        assert SHORTEST <= reconnects.seconds(turn * 10.0) <= LAST


def test_twenty_thousand_at_once_come_as_fast_as_they_can_be_received() -> None:
    reconnects = Reconnects(2500, random.Random(1))
    times = sorted(reconnects.seconds(100.0) for _ in range(20_000))
    assert times[0] >= SHORTEST
    assert 8 + SHORTEST <= times[-1] <= 8 + LAST
    # In no second more than the rate, and what chance adds to it.
    for second in range(14):
        assert sum(second <= time < second + 1 for time in times) <= 2500 * 1.1


def test_the_places_of_a_crowd_are_free_again_when_their_time_is_over() -> None:
    reconnects = Reconnects(10, random.Random(1))
    for _ in range(100):
        reconnects.seconds(0.0)
    assert reconnects.seconds(5.0) >= 5
    assert reconnects.seconds(20.0) <= LAST


def test_nobody_waits_for_longer_than_a_client_would() -> None:
    reconnects = Reconnects(10, random.Random(1))
    times = [reconnects.seconds(0.0) for _ in range(10_000)]
    assert max(times) <= LONGEST + LAST + 1
    late = sorted(times[1000:])
    assert max(after - before for before, after in pairwise(late)) < 1  # spread, not heaped


def test_headers_and_goodbyes_say_the_same_in_their_units() -> None:
    reconnects = Reconnects(10, random.Random(1))
    assert SHORTEST * 1000 <= reconnects.retry_ms(0.0) <= LAST * 1000
    assert 1 <= reconnects.retry_after(10.0) <= LAST + 1
