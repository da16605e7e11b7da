"""What publishers have in flight, and what they were refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from clarion_server.broker_metrics import PREFIX
from clarion_server.quota import Quota, Quotas


def quota_metrics(quotas: Quotas) -> Iterator[Metric]:
    """Samples of both quotas, by source, `api` or `client`.

    The label `key` is the place of an API key in the configuration, from 1; it is empty for
    clients, of whom there may be any number, and where there are no keys.
    """
    sources = {"api": quotas.api, "client": quotas.client}
    for what in ("requests", "messages", "bytes"):
        yield _in_flight(what, sources)
    refused = CounterMetricFamily(
        PREFIX + "publish_refused",
        "Requests to publish that were refused because too much was in flight: by source, API key,"
        " whose bound was met (share or worker) and which.",
        labels=("source", "key", "scope", "bound"),
    )
    for source, quota in sources.items():
        for (label, scope, kind), count in quota.refused.items():
            refused.add_metric((source, label, scope, kind), count)
    yield refused


def _in_flight(what: str, sources: Mapping[str, Quota]) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + f"publish_in_flight_{what}",
        f"{what.capitalize()} of publishers that are not answered yet, by source.",
        labels=("source",),
    )
    for source, quota in sources.items():
        family.add_metric((source,), getattr(quota.load, what))
    return family
