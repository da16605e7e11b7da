"""How long to wait before the next attempt."""

from __future__ import annotations

from clarion_client.backoff import LEAST_RETRY_S, MAX_RETRY_S, STEADY_S, Backoff


def highest(low: float, high: float) -> float:
    assert low == 0
    return high


def test_pauses_have_a_bound_that_doubles_up_to_the_longest() -> None:
    backoff = Backoff(1, 30, highest)
    assert [backoff.pause() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [backoff.pause() for _ in range(5000)][-1] == 30


def test_pauses_are_a_random_part_of_their_bound() -> None:
    asked: list[tuple[float, float]] = []

    def half(low: float, high: float) -> float:
        asked.append((low, high))
        return high / 2

    backoff = Backoff(1, 30, half)
    assert [backoff.pause() for _ in range(3)] == [0.5, 1, 2]
    assert asked == [(0, 1), (0, 2), (0, 4)]


def test_what_the_server_asks_for_is_obeyed_within_reason() -> None:
    backoff = Backoff(1, 30, highest)
    assert backoff.pause(retry_s=7.34) == 7.34
    assert backoff.pause(retry_s=2, spread_s=1) == 3
    assert backoff.pause(retry_s=-5) == backoff.pause(retry_s=0) == LEAST_RETRY_S
    assert backoff.pause(retry_s=1e9) == MAX_RETRY_S


def test_only_a_connection_that_lasted_makes_pauses_short_again() -> None:
    backoff = Backoff(1, 30, highest)
    assert [backoff.pause() for _ in range(3)] == [1, 2, 4]
    backoff.lived(STEADY_S - 0.1)
    assert backoff.pause() == 8
    backoff.lived(STEADY_S)
    assert backoff.pause() == 1
