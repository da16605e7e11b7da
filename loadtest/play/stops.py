"""How long a server's event loop stood still lately, out of the histograms in its /metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping


def longest(before: Mapping[str, float], now: Mapping[str, float], name: str) -> float:
    """Seconds that nothing counted between two looks has exceeded; 0 when nothing was counted.

    before, now: samples such as `clarion_gc_pause_seconds_bucket{generation="0",le="0.01"}`.
    name: a part of the metric's name. Its buckets are coarse, and so is the answer.
    """
    series: defaultdict[str, dict[float, float]] = defaultdict(dict)
    for sample, count in now.items():
        if name in sample and 'le="' in sample:
            head, _, tail = sample.partition('le="')
            bound, _, rest = tail.partition('"')
            series[head + rest][float(bound)] = count - before.get(sample, 0.0)
    worst = 0.0
    for counts in series.values():
        new = max(counts.values())
        if new > 0:
            worst = max(worst, min(bound for bound, count in counts.items() if count == new))
    return worst


def worst(now: Mapping[str, float], name: str) -> float:
    """Seconds of the longest stop of the last minute, exactly; 0 when there is no such sample.

    now: samples such as `clarion_gc_pause_seconds_max{worker="1"}`. name: a part of the metric's.
    """
    return max(
        (value for sample, value in now.items() if f"{name}_seconds_max" in sample), default=0.0
    )
