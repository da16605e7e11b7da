"""What there is to know of compression."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from clarion_server.broker_metrics import PREFIX
from clarion_server.counters import Counters

OUTCOMES = ("compressed", "no_smaller", "no_time", "too_large")
"""What becomes of a publication that is due for it; see `compression`."""


def compression_metrics(counters: Counters) -> Iterator[Metric]:
    """Samples of a worker. A publication is compressed once, whoever and how many receive it."""
    yield GaugeMetricFamily(
        PREFIX + "compressed_connections",
        "Open connections that have agreed to compressed messages.",
        value=counters.compressed_connections,
    )
    outcomes = CounterMetricFamily(
        PREFIX + "compressed_publications",
        "Publications that were to be compressed, by outcome: all but the first left as they are.",
        labels=("outcome",),
    )
    for outcome in OUTCOMES:
        outcomes.add_metric((outcome,), counters.compressed[outcome])
    yield outcomes
    yield CounterMetricFamily(
        PREFIX + "compression_input_bytes",
        "Messages that were compressed, before.",
        value=counters.compressible_bytes,
    )
    yield CounterMetricFamily(
        PREFIX + "compression_output_bytes", "The same, after.", value=counters.compressed_bytes
    )
    yield CounterMetricFamily(
        PREFIX + "compression_seconds",
        "Time of the event loop that compressing took.",
        value=counters.compress_seconds,
    )
