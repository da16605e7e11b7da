"""Histograms and the worst of late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clarion_server.timing import RECENT_SECONDS, SLOT_SECONDS, Histogram, Worst


def test_a_bound_belongs_to_its_own_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for seconds in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.add(seconds)
    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 7.5


def test_nothing_is_the_worst_of_nothing() -> None:
    assert Worst().get(1000.0) == 0.0


def test_the_worst_is_remembered_for_a_minute_however_often_it_is_asked_for() -> None:
    worst = Worst()
    worst.add(100.0, 0.25)
    worst.add(101.0, 0.125)
    assert [worst.get(101.0), worst.get(101.0), worst.get(100.0 + RECENT_SECONDS)] == [0.25] * 3
    assert worst.get(100.0 + RECENT_SECONDS + SLOT_SECONDS) == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 10)), min_size=1),
    st.floats(0, 200),
)
def test_every_duration_of_the_last_minute_counts_and_none_that_is_much_older(
    steps: list[tuple[float, float]], wait: float
) -> None:
    worst = Worst()
    now = 0.0
    added: list[tuple[float, float]] = []
    for step, seconds in steps:
        now += step
        worst.add(now, seconds)
        added.append((now, seconds))
    now += wait
    answer = worst.get(now)
    assert answer >= max((s for at, s in added if now - at <= RECENT_SECONDS), default=0.0)
    oldest = RECENT_SECONDS + SLOT_SECONDS
    assert answer <= max((s for at, s in added if now - at <= oldest), default=0.0)
