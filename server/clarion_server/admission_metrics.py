"""The metrics of who is let in and who is sent away."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from clarion_server.broker_metrics import PREFIX
from clarion_server.edge import Edge
from clarion_server.porter import REASONS

REFUSALS = (
    *REASONS,
    "user",
    "address",
    "proxy_header_malformed",
    "proxy_header_missing",
    "descriptors",
)
"""Why newcomers are sent away. The porter's reasons; too many connections of a user or an address;
what a proxy sent or did not; and no open files left."""


def admission_metrics(edge: Edge) -> Iterator[Metric]:
    counters = edge.counters
    yield GaugeMetricFamily(
        PREFIX + "connections_limit", "Clients that the worker lets in.", value=edge.most
    )
    yield GaugeMetricFamily(
        PREFIX + "handshakes_waiting",
        "Newcomers that wait for their handshake.",
        value=edge.porter.waiting,
    )
    refusals = CounterMetricFamily(
        PREFIX + "refusals",
        "Newcomers that were sent away by reason.",
        labels=("reason",),
    )
    for reason in REFUSALS:
        refusals.add_metric((reason,), counters.refusals[reason])
    yield refusals
    yield CounterMetricFamily(
        PREFIX + "commands_limited",
        "Commands refused because their client sent too many.",
        value=counters.commands_limited,
    )
