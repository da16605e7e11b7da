"""What there is to know of clients that do not keep up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from clarion_server.broker_metrics import PREFIX
from clarion_server.counters import Counters
from clarion_server.timing import Histogram


def window_metrics(counters: Counters) -> Iterator[Metric]:
    """Samples of all windows. The label `namespace` has only names that are configured, and is
    empty where an answer, or no message at all, was the last straw."""
    windows = counters.windows
    yield GaugeMetricFamily(
        PREFIX + "clients_behind",
        "Clients that have not taken all that was sent to them.",
        value=len(windows),
    )
    yield GaugeMetricFamily(
        PREFIX + "window_bytes",
        "Bytes that wait in their windows; frames are shared, so this is not memory.",
        value=sum(window.bytes for window in windows),
    )
    yield GaugeMetricFamily(
        PREFIX + "window_messages",
        "Messages that wait in their windows, answers included.",
        value=sum(window.messages for window in windows),
    )
    yield _histogram(
        "window_fill_ratio",
        "How full the window of a client that fell behind was at its fullest.",
        counters.window_fill,
    )
    yield _histogram("behind_seconds", "How long clients were behind.", counters.behind)
    dropped = CounterMetricFamily(
        PREFIX + "dropped_messages",
        "Messages that were not sent to a client that is behind, by the policy that dropped them."
        " With close, all that waited counts for the namespace that closed the client.",
        labels=("policy", "namespace"),
    )
    for labels, count in counters.dropped.items():
        dropped.add_metric(labels, count)
    yield dropped
    closed = CounterMetricFamily(
        PREFIX + "slow_consumers",
        "Clients closed with 4001, by the bound that was exceeded.",
        labels=("bound", "namespace"),
    )
    for labels, count in counters.too_slow.items():
        closed.add_metric(labels, count)
    yield closed


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    family.add_metric((), buckets, sum_value=histogram.total)
    return family
