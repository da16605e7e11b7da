"""The metrics of a broker; see `metrics`, which puts them among the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from clarion_fanout.memory import MemoryBroker
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_shard import Shard
from clarion_server.brokers import AnyBroker

PREFIX = "clarion_"

INTERRUPTIONS = [
    (link, reason)
    for link, reasons in (
        ("commands", ("closed", "timeout")),
        ("intake", ("closed", "probe")),
    )
    for reason in reasons
]
"""Which connection of a shard ended, and why: closed by Redis or the network (a full output buffer
looks so too), no answer in time, a probe that did not come back."""


def broker_metrics(broker: AnyBroker) -> Iterator[Metric]:
    """The metrics of either kind of broker."""
    if isinstance(broker, MemoryBroker):
        yield from _memory(broker)
    else:
        yield from _redis(broker)
        yield from _shards(broker.shards.all())


def _memory(broker: MemoryBroker) -> Iterator[Metric]:
    yield _gauge("broker_streams", "Topics that history is kept of.", broker.stream_count)
    yield _gauge("broker_bytes", "Held by history and idempotency keys, about.", broker.bytes)
    yield _counter(
        "broker_evictions", "Topics that gave up history for want of memory.", broker.evictions
    )


def _redis(broker: RedisBroker) -> Iterator[Metric]:
    yield _counter("gaps", "Times that something of a topic had not arrived.", broker.mender.gaps)
    yield _counter(
        "repaired", "Publications that were fetched from history then.", broker.mender.repaired
    )
    yield _counter(
        "position_checks",
        "Topics whose position was compared with their shard's.",
        broker.mender.checks,
    )
    yield _counter("stream_reads", "Questions to topics' histories.", broker.reader.reads)
    quick = CounterMetricFamily(
        PREFIX + "quick_publications",
        "What backends published on topics' channels themselves, by outcome.",
        labels=("outcome",),
    )
    quick.add_metric(("accepted",), broker.quick)
    quick.add_metric(("refused",), broker.quick_refused)
    yield quick


def _shards(shards: Sequence[Shard]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        PREFIX + "shard_up", "Whether the shard can be relied on: 1 or 0.", labels=("shard",)
    )
    age = GaugeMetricFamily(
        PREFIX + "shard_probe_age_seconds",
        "Since when no newer probe has come back through the shard.",
        labels=("shard",),
    )
    flight = GaugeMetricFamily(
        PREFIX + "shard_commands_in_flight", "Commands without an answer yet.", labels=("shard",)
    )
    channels = GaugeMetricFamily(
        PREFIX + "shard_subscriptions", "Channels subscribed at the shard.", labels=("shard",)
    )
    payloads = CounterMetricFamily(
        PREFIX + "shard_payloads", "Payloads that the shard sent us.", labels=("shard",)
    )
    refused = CounterMetricFamily(
        PREFIX + "shard_refused",
        "Commands that were refused at once because the shard was away.",
        labels=("shard",),
    )
    interruptions = CounterMetricFamily(
        PREFIX + "shard_interruptions",
        "Connections to the shard that ended, by which and why.",
        labels=("shard", "link", "reason"),
    )
    for shard in shards:
        name = (shard.name,)
        up.add_metric(name, 0 if shard.trouble else 1)
        age.add_metric(name, shard.probe_age())
        flight.add_metric(name, shard.in_flight)
        channels.add_metric(name, len(shard.subscriptions.confirmed))
        payloads.add_metric(name, shard.subscriptions.payloads)
        refused.add_metric(name, shard.refused)
        for link, reason in INTERRUPTIONS:
            interruptions.add_metric((*name, link, reason), shard.interruptions[link, reason])
    yield from (up, age, flight, channels, payloads, refused, interruptions)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)
