"""A token bucket, against one that counts its tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.bucket import Bucket


class Counted:
    """The naive bucket: so many tokens at such a time."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.at = float(burst), 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1 - 1e-6:
            return False
        self.tokens -= 1
        return True


@given(
    st.sampled_from([0.5, 1.0, 4.0, 128.0]),
    st.integers(1, 20),
    # Eighths are exact, so that both round alike.
    st.lists(st.integers(0, 40).map(lambda eighths: eighths / 8), max_size=100),
)
def test_it_takes_what_a_bucket_that_counts_takes(
    rate: float, burst: int, pauses: list[float]
) -> None:
    bucket, counted = Bucket(rate, burst), Counted(rate, burst)
    now = 0.0
    for pause in pauses:
        now += pause
        assert bucket.take(now) == counted.take(now)


def test_the_wait_is_until_there_is_one_and_longer_behind_others() -> None:
    bucket = Bucket(10, 2)
    assert bucket.wait(0) == 0
    assert bucket.take(0)
    assert bucket.take(0)
    assert not bucket.take(0)
    assert bucket.wait(0) == pytest.approx(0.1, abs=1e-6)
    assert bucket.wait(0, behind=4) == pytest.approx(0.5, abs=1e-6)
    assert bucket.take(bucket.wait(0))


def test_without_a_rate_there_is_always_enough() -> None:
    bucket = Bucket(0, 1)
    assert all(bucket.take(0) for _ in range(1000))
    assert bucket.wait(0, behind=1000) == 0
