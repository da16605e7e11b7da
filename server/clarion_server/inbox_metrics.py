"""The metrics of inboxes; see `metrics`, which puts them among the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from clarion_fanout.redis_inbox import Inbox
from clarion_server.broker_metrics import PREFIX

OUTCOMES = ("published", "duplicate", "dead")


def inbox_metrics(inboxes: Sequence[Inbox]) -> Iterator[Metric]:
    """What this worker does with each inbox. Sums over all workers mean something: only an inbox's
    owner tells what is in it."""
    label = ("shard",)
    owner = GaugeMetricFamily(
        PREFIX + "inbox_owner",
        "Whether this worker publishes the shard's inbox. One worker should: 1 in sum.",
        labels=label,
    )
    entries = GaugeMetricFamily(
        PREFIX + "inbox_entries",
        "Entries that are not published yet, as the inbox's owner sees it.",
        labels=label,
    )
    age = GaugeMetricFamily(
        PREFIX + "inbox_oldest_seconds",
        "Since when the oldest of them has been there; 0 when there is none.",
        labels=label,
    )
    waiting = GaugeMetricFamily(
        PREFIX + "inbox_waiting",
        "Entries that were read and wait, for their namespace's steps or as their topic's shard is"
        " away.",
        labels=label,
    )
    done = CounterMetricFamily(
        PREFIX + "inbox_done",
        "Entries that were published, were found to be published already, or are dead letters now.",
        labels=("shard", "outcome"),
    )
    takeovers = CounterMetricFamily(
        PREFIX + "inbox_takeovers", "Times that this worker became the owner.", labels=label
    )
    for inbox in inboxes:
        name = (inbox.name,)
        owner.add_metric(name, inbox.owner)
        entries.add_metric(name, inbox.entries if inbox.owner else 0)
        age.add_metric(name, inbox.age)
        waiting.add_metric(name, inbox.delivery.waiting)
        takeovers.add_metric(name, inbox.takeovers)
        for outcome in OUTCOMES:
            done.add_metric((*name, outcome), inbox.delivery.outcomes[outcome])
    yield from (owner, entries, age, waiting, done, takeovers)
