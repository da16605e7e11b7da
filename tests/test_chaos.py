"""Nothing gets lost silently while everything fails: short runs, a few of many.

More of them, and longer: `make chaos`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from chaos.plan import CLUSTER_MILD, HARSH, MILD
from chaos.run import run


@pytest.mark.parametrize(
    ("seed", "shards", "moving", "kinds", "check_s"),
    [
        # Where nothing is destroyed, every loss shows by itself: nobody need look for it.
        pytest.param(3, 3, False, MILD, 3600.0, id="nothing is destroyed"),
        pytest.param(6, 1, False, HARSH, 1.0, id="data are destroyed"),
        pytest.param(701, 3, True, MILD, 1.0, id="a shard is added"),
        pytest.param(801, 0, False, CLUSTER_MILD, 1.0, id="a cluster"),
    ],
)
async def test_whoever_misses_something_was_told(
    seed: int, shards: int, moving: bool, kinds: Mapping[str, int], check_s: float
) -> None:
    result = await run(
        seed, kinds=kinds, seconds=4.0, shards=shards, check_s=check_s, moving=moving
    )
    assert not result.findings, result.story()
    # It did happen.
    assert sum(result.done.values()) > 3
    assert result.acknowledged > 10
    assert result.deliveries > 10
