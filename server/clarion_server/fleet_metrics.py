"""The metrics of the workers among each other; see `metrics`, which puts them among the others."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from clarion_fanout.redis_control import DROPPED, Control
from clarion_server.broker_metrics import PREFIX
from clarion_server.fleet import OPS, OUTCOMES, Fleet


def fleet_metrics(fleet: Fleet) -> Iterator[Metric]:
    """What this worker asked of the others, and they of it."""
    requests = CounterMetricFamily(
        PREFIX + "control_requests",
        "What all workers were asked by this one: complete, partial (some did not answer) or"
        " failed (nobody could be asked).",
        labels=("op", "outcome"),
    )
    for op in OPS:
        for outcome in OUTCOMES:
            requests.add_metric((op, outcome), fleet.requests[op, outcome])
    yield requests
    control = fleet.others
    if not isinstance(control, Control):
        return
    yield GaugeMetricFamily(
        PREFIX + "other_workers", "Workers that share the shards, beside this one.", control.others
    )
    yield CounterMetricFamily(
        PREFIX + "control_answers", "Questions of other workers answered.", control.answered
    )
    dropped = CounterMetricFamily(
        PREFIX + "control_dropped",
        "Messages between workers that were not used, by reason.",
        labels=("reason",),
    )
    for reason in DROPPED:
        dropped.add_metric((reason,), control.dropped[reason])
    yield dropped
