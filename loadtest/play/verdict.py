"""What a play comes to: its figures, what was wrong, and where they say little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.play.histogram import Histogram
from loadtest.play.plan import Plan
from loadtest.play.stage import Stage, summary
from loadtest.play.tally import Output, Report

FULL = 0.85
"""The share of the generator's cores beyond which it was, or may have been, the limit."""


def measured(stages: Sequence[Stage]) -> list[Stage]:
    """Those that count."""
    return [stage for stage in stages if stage.phase.measured and stage.carried]


def figures(plan: Plan, stages: Sequence[Stage]) -> dict[str, Any]:
    """What the tables and plots of a result show of all phases together."""
    good = measured(stages)
    whole, waited, late = Histogram(), Histogram(), Histogram()
    # A ramp's latencies are those of its first phase: the others are there to overload.
    for stage in good[:1] if plan.ramp else good:
        whole.add(stage.latencies.counts)
        waited.add(stage.waited.counts)
        late.add(stage.late.counts)
    best = max((stage.in_time / stage.seconds for stage in good), default=None)
    in_time = sum(stage.in_time for stage in good)
    seconds = sum(stage.seconds for stage in good)
    cpu_s = sum(stage.cpu_s for stage in good)
    return {
        "deliveries": sum(stage.deliveries for stage in good),
        "per_second": best if plan.ramp else in_time / seconds if seconds else None,
        "best": best,
        "cpu_us": cpu_s / in_time * 1e6 if in_time else None,
        "latency": summary(whole),
        "histogram": whole.pairs(),
        "waited": summary(waited),
        "late": summary(late),
        "steady_us": good[0].document(plan.fan)["cpu_us"] if good else None,
        "steady_latency": summary(good[0].latencies) if good else {"count": 0},
        "generator_busy": max((stage.generator for stage in good), default=0.0),
    }


def counts(total: Report, output: Output, missing: int) -> dict[str, Any]:
    """What was counted beside deliveries."""
    return {
        "lost": total.lost + missing,
        "told": total.told,
        "duplicates": total.duplicates,
        "disordered": total.disordered,
        "swaps": total.swaps,
        "retries": output.retries,
        "ends": dict(total.ends),
    }


def faults(total: Report, output: Output, missing: int, fallen: bool) -> list[str]:
    """What must not be. fallen: whether it ended in more than could be carried, as a ramp may."""
    found = []
    if missing:
        found.append(f"{missing:,} deliveries did not arrive")
    if total.lost:
        found.append(f"{total.lost:,} publications were skipped, {total.told:,} told")
    if total.duplicates:
        found.append(f"{total.duplicates:,} duplicates")
    if total.disordered:
        found.append(f"{total.disordered:,} out of order")
    found += [f"{count:,} times: {text}" for text, count in total.failures.items()]
    if not fallen:
        found += [f"publishing: {text} ({count:,})" for text, count in output.errors.items()]
    return found


def limits(stages: Sequence[Stage], cores: int) -> list[str]:
    """Where the generator, not the server, may have been what was measured."""
    found = []
    whole, waited = Histogram(), Histogram()
    for stage in measured(stages):
        whole.add(stage.latencies.counts)
        waited.add(stage.waited.counts)
        if stage.generator > FULL:
            found.append(
                f"{stage.phase.name}: the generator's cores were {stage.generator:.0%} busy,"
                f" {stage.own / stage.seconds / cores:.0%} with its own work"
            )
    if waited.counts and waited.percentile(0.99) > 0.5 * whole.percentile(0.99):
        found.append(
            f"up to {waited.percentile(0.99) / 1e6:.1f} ms of a p99 of"
            f" {whole.percentile(0.99) / 1e6:.1f} ms may be the generator's own"
        )
    return found
