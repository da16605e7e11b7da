"""How many commands a client may send, against a bucket for each that counts its tokens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clarion_server.command_rate import TOPICS_AS_ONE, CommandRate

RATE, BURST = 20, 6  # two flow in in a tick

steps = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.sampled_from([0, 0, 0, 9, 10, 55])),
    max_size=100,
)


@given(steps)
def test_each_client_has_a_bucket_of_its_own(steps: list[tuple[int, int, int]]) -> None:
    rate = CommandRate(RATE, BURST)
    tokens, at = dict.fromkeys(range(3), float(BURST)), dict.fromkeys(range(3), 0)
    now = 0
    for pause, client, topics in steps:
        now += pause
        rate.sweep(now)
        tokens[client] = min(BURST, tokens[client] + (now - at[client]) * RATE / 10)
        at[client] = now
        wait = rate.take(client, now, topics)
        if tokens[client] < 1 - 1e-6:
            needed = (1 - tokens[client]) / RATE * 1000
            assert needed <= wait <= needed + 2
        else:
            assert wait == 0
            tokens[client] -= 1 + topics // TOPICS_AS_ONE


def test_nothing_is_kept_of_who_is_quiet_or_gone() -> None:
    rate = CommandRate(RATE, BURST)
    for client in range(1000):
        assert rate.take(client, 0) == 0
    assert len(rate) == 1000
    rate.forget(7)
    assert len(rate) == 999
    rate.sweep(1)
    assert len(rate) == 0


def test_a_number_that_another_gets_begins_anew() -> None:
    rate = CommandRate(RATE, BURST)
    while not rate.take(1, 0):
        pass
    rate.forget(1)
    assert rate.take(1, 0) == 0


def test_without_a_rate_everything_is_taken_and_nothing_kept() -> None:
    rate = CommandRate(0, 1)
    assert not any(rate.take(1, 0, 1000) for _ in range(10_000))
    assert len(rate) == 0
