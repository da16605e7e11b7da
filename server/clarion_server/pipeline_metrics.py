"""The metrics of namespaces' steps; see `metrics`, which puts them among the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import get_args

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from clarion_server.broker_metrics import PREFIX
from clarion_server.pipeline.pool import Cause
from clarion_server.pipeline.preparation import Preparation
from clarion_server.publishing import Publishing
from clarion_server.timing import Histogram


def pipeline_metrics(preparation: Preparation, publishing: Publishing) -> Iterator[Metric]:
    """Labels are namespaces that are configured with steps, and the names of steps."""
    pool = preparation.pool
    yield GaugeMetricFamily(
        PREFIX + "pipeline_processes", "Processes that run steps.", value=len(pool.processes)
    )
    yield GaugeMetricFamily(
        PREFIX + "pipeline_busy", "Those of them that are working.", value=pool.busy
    )
    ended = CounterMetricFamily(
        PREFIX + "pipeline_processes_ended",
        "Processes that were replaced: a job passed its deadline or needed too much memory, the"
        " process crashed or was killed, or could not start.",
        labels=("cause",),
    )
    for cause in get_args(Cause):
        ended.add_metric((cause,), pool.ended[cause])
    yield ended
    held = GaugeMetricFamily(
        PREFIX + "pipeline_held",
        "Publications that are on their way through steps, or wait behind others of their topic.",
        labels=("namespace",),
    )
    waiting = GaugeMetricFamily(
        PREFIX + "pipeline_waiting",
        "Publications that wait until their steps begin.",
        labels=("namespace",),
    )
    for name in preparation.names:
        held.add_metric((name,), publishing.held(name))
        waiting.add_metric((name,), preparation.waiting(name))
    yield from (held, waiting)
    done = CounterMetricFamily(
        PREFIX + "pipeline_done",
        "What steps did with publications: passed (all of them), refused, failed; or the process"
        " ended under them (deadline, memory, crash), or none had time (busy).",
        labels=("namespace", "step", "outcome"),
    )
    for labels, count in sorted(preparation.outcomes.items()):
        done.add_metric(labels, count)
    for name in preparation.names:
        if not preparation.outcomes[name, "", "passed"]:
            done.add_metric((name, "", "passed"), 0)
    yield done
    yield _histogram(
        "pipeline_wait_seconds", "How long publications waited for a process.", pool.waits
    )
    yield _histogram("pipeline_run_seconds", "How long the steps took in a process.", pool.runs)
    yield _histogram(
        "pipeline_moment_seconds",
        "How long the steps took on the event loop.",
        preparation.moments,
    )


def _histogram(name: str, text: str, histograms: Mapping[str, Histogram]) -> Metric:
    labels: Sequence[str] = ("namespace",)
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for namespace, histogram in histograms.items():
        bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric((namespace,), buckets, sum_value=histogram.total)
    return family
