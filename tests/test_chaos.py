"""Nothing gets lost silently while everything fails: two short runs of many.

More of them, and longer: `make chaos`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from chaos.plan import HARSH, MILD
from chaos.run import run


@pytest.mark.parametrize(
    ("seed", "shards", "kinds", "check_s"),
    [
        # Where nothing is destroyed, every loss shows by itself: nobody need look for it.
        pytest.param(3, 3, MILD, 3600.0, id="nothing is destroyed"),
        pytest.param(6, 1, HARSH, 1.0, id="data are destroyed"),
    ],
)
async def test_whoever_misses_something_was_told(
    seed: int, shards: int, kinds: Mapping[str, int], check_s: float
) -> None:
    result = await run(seed, kinds=kinds, seconds=4.0, shards=shards, check_s=check_s)
    assert not result.findings, result.story()
    # It did happen.
    assert sum(result.done.values()) > 3
    assert result.acknowledged > 10
    assert result.deliveries > 10
