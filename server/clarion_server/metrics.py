"""Every metric of a worker, and of the workers: its name, meaning and labels, in this one place.

Nothing is counted here. When somebody asks, the numbers that the worker keeps anyway become
samples; a scrape costs about a millisecond, and nothing in between. Labels have few values, all
of them known beforehand: what is not known becomes `other`. Topics and users are never labels.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from clarion_fanout.hub import Hub
from clarion_fanout.presence import Presence
from clarion_fanout.redis_inboxes import Inboxes
from clarion_server import __version__, codes
from clarion_server.admission_metrics import admission_metrics
from clarion_server.broker_metrics import PREFIX, broker_metrics
from clarion_server.brokers import AnyBroker
from clarion_server.compression_metrics import compression_metrics
from clarion_server.counters import Counters
from clarion_server.edge import Edge
from clarion_server.fleet import Fleet
from clarion_server.fleet_metrics import fleet_metrics
from clarion_server.garbage import Garbage
from clarion_server.inbox_metrics import inbox_metrics
from clarion_server.lag import Lag
from clarion_server.pipeline_metrics import pipeline_metrics
from clarion_server.process import Process
from clarion_server.publishing import Publishing
from clarion_server.quota_metrics import quota_metrics
from clarion_server.timing import Histogram
from clarion_server.window_metrics import window_metrics

OTHER = "other"

TRANSPORTS = ("websocket", "sse")
SOURCES = ("api", "client", "inbox")
OPS = ("connect", "subscribe", "unsubscribe", "publish", "history", "presence", "refresh", "ping")
OUTCOMES = ("recovered", "lost")
RESULTS = frozenset({"accepted", "abandoned", *map(str, range(400, 600))})
CLOSES = frozenset(
    {str(value.code) for value in vars(codes).values() if isinstance(value, codes.Close)}
    # What only a peer sends, or no code at all (RFC 6455, section 7.4.1; IANA's registry).
    | {str(code) for code in (1005, 1006, 1008, 1010, 1012, 1013, 1014)}
)


class Metrics:
    """The metrics of one worker.

    clock: seconds; the one that `lag` and `garbage` have.
    """

    def __init__(
        self,
        *,
        counters: Counters,
        hub: Hub,
        broker: AnyBroker,
        lag: Lag,
        garbage: Garbage,
        process: Process,
        clock: Callable[[], float],
        fleet: Fleet,
        presence: Presence | None = None,
        inboxes: Inboxes | None = None,
        publishing: Publishing | None = None,
        edge: Edge | None = None,
    ) -> None:
        self._counters = counters
        self._hub = hub
        self._broker = broker
        self._lag = lag
        self._garbage = garbage
        self._process = process
        self._clock = clock
        self._fleet = fleet
        self._presence = presence
        self._inboxes = inboxes
        self._publishing = publishing
        self._edge = edge

    async def collected(self) -> list[Metric]:
        """All of them, as of now."""
        await self._process.refresh()
        return list(self._all())

    def _all(self) -> Iterator[Metric]:
        yield from self._connections()
        if self._edge is not None:
            yield from admission_metrics(self._edge)
        yield from self._publications()
        yield from window_metrics(self._counters)
        if self._publishing is not None:
            yield from quota_metrics(self._publishing.quotas)
        yield from compression_metrics(self._counters)
        if self._presence is not None:
            yield from self._members(self._presence)
        if self._inboxes is not None:
            yield from inbox_metrics(self._inboxes.all)
        if self._publishing is not None and self._publishing.preparation is not None:
            yield from pipeline_metrics(self._publishing.preparation, self._publishing)
        yield from fleet_metrics(self._fleet)
        yield from self._stops()
        yield from self._resources()

    def _connections(self) -> Iterator[Metric]:
        counters = self._counters
        yield _gauges(
            "connections", "Open connections.", "transport", counters.connections, TRANSPORTS
        )
        yield _handshakes(counters.handshakes)
        closes = {str(code): count for code, count in counters.closes.items()}
        yield _counters("closes", "Ended connections by close code.", "code", closes, CLOSES)
        yield _counters(
            "errors",
            "Errors answered to clients by code.",
            "code",
            counters.errors,
            [str(code) for code in codes.Code],
        )
        yield _counters("commands", "Commands from clients by op.", "op", counters.commands, OPS)
        yield _counter(
            "messages_received", "WebSocket messages from clients.", counters.messages_in
        )
        yield _counter("received_bytes", "Bytes read from clients.", counters.bytes_in)
        yield _counter(
            "written_bytes",
            "Bytes of answers, control frames and replays. Deliveries are in delivered_bytes.",
            counters.written_bytes,
        )

    def _publications(self) -> Iterator[Metric]:
        counters, hub = self._counters, self._hub
        yield _gauge("subscriptions", "Subscriptions, summed over topics.", hub.subscriptions)
        yield _gauge("topics", "Topics with subscribers at this worker.", len(hub.topics))
        yield _counters(
            "publications",
            "Publications accepted by this worker, by source.",
            "source",
            self._sources(),
            SOURCES,
        )
        yield _counter(
            "dispatched",
            "Publications that reached this worker, with and without subscribers.",
            hub.received,
        )
        yield _counter(
            "turns", "Times that a topic went on in another epoch, nothing missing.", hub.turns
        )
        yield _counter(
            "losses", "Times that a topic's subscribers were told of a loss.", hub.losses
        )
        yield _counter(
            "broken_holds",
            "Subscriptions for which too much came while their history was read.",
            hub.broken_holds,
        )
        yield _counter("deliveries", "Publications handed to subscribers.", hub.deliveries)
        yield _counter(
            "delivered_bytes", "Bytes handed to subscribers in bulk.", hub.delivered_bytes
        )
        yield _counters(
            "resumes",
            "Subscriptions with a position by outcome.",
            "outcome",
            counters.resumes,
            OUTCOMES,
        )
        yield _counter(
            "replayed", "Publications sent from history to subscribers.", counters.replayed
        )

    def _sources(self) -> Mapping[str, int]:
        inboxes = self._inboxes.all if self._inboxes is not None else ()
        left = sum(inbox.delivery.outcomes["published"] for inbox in inboxes)
        return {**self._counters.publications, "inbox": left}

    def _members(self, presence: Presence) -> Iterator[Metric]:
        yield _gauge(
            "presence_members",
            "Subscriptions of this worker in topics that keep presence.",
            presence.members,
        )
        yield _counter(
            "presence_announcements",
            "Times that it was announced who joined or left.",
            presence.announced,
        )
        yield _counter(
            "presence_removed",
            "Members of dead workers that this worker removed.",
            presence.removed,
        )
        yield _counter(
            "presence_failures",
            "Times that a shard did not take what was to be told of a topic's members.",
            presence.failures,
        )

    def _stops(self) -> Iterator[Metric]:
        now = self._clock()
        yield _histograms(
            "event_loop_lag_seconds",
            "How late the event loop ran a timer.",
            {(): self._lag.histogram},
        )
        yield _gauge(
            "event_loop_lag_seconds_max",
            "The latest of the last 60 to 65 seconds, whoever scrapes and how often.",
            self._lag.worst(now),
        )
        yield _histograms(
            "gc_pause_seconds",
            "How long the garbage collector stopped the process, by generation.",
            {(str(place),): pauses for place, pauses in enumerate(self._garbage.pauses)},
            labels=("generation",),
        )
        yield _gauge(
            "gc_pause_seconds_max",
            "The longest of the last 60 to 65 seconds, whoever scrapes and how often.",
            self._garbage.worst(now),
        )
        yield _counter("gc_freezes", "Times that survivors were frozen.", self._garbage.freezes)
        yield _counter(
            "gc_deep_collections", "Collections of frozen objects too.", self._garbage.deep
        )

    def _resources(self) -> Iterator[Metric]:
        yield from broker_metrics(self._broker)
        if self._process.pss is not None:
            yield _gauge(
                "memory_pss_bytes",
                "Memory, with what is shared between processes counted in part.",
                self._process.pss,
            )
        build = GaugeMetricFamily(
            PREFIX + "build_info",
            "Always 1; the version and the Python that runs it.",
            labels=("version", "python"),
        )
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
        # The customary names, for the dashboards that know them: process_resident_memory_bytes,
        # process_cpu_seconds_total, process_open_fds, process_max_fds, ...
        yield from self._process.samples


def of_workers(up: Sequence[bool], restarts: Sequence[int]) -> Iterator[Metric]:
    """What is known of the workers by number, whether they can be asked or not."""
    alive = GaugeMetricFamily(
        PREFIX + "worker_up", "Whether the worker told its metrics.", labels=("worker",)
    )
    replaced = CounterMetricFamily(
        PREFIX + "worker_restarts", "Times that another took its place.", labels=("worker",)
    )
    for number, (told, times) in enumerate(zip(up, restarts, strict=True)):
        alive.add_metric((str(number),), told)
        replaced.add_metric((str(number),), times)
    yield alive
    yield replaced


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _gauges(
    name: str, text: str, label: str, values: Mapping[str, int], known: Collection[str]
) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=(label,))
    for value, count in _bounded(values, known).items():
        family.add_metric((value,), count)
    return family


def _counters(
    name: str, text: str, label: str, values: Mapping[str, int], known: Collection[str]
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=(label,))
    for value, count in _bounded(values, known).items():
        family.add_metric((value,), count)
    return family


def _bounded(values: Mapping[str, int], known: Collection[str]) -> Mapping[str, int]:
    """The counts of the known values, those of all others together, and zeros: a rate over a
    series that begins with its first event would miss that event."""
    bounded = Counter(dict.fromkeys(known, 0))
    for value, count in values.items():
        bounded[value if value in known else OTHER] += count
    return bounded


def _handshakes(values: Mapping[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(
        PREFIX + "handshakes",
        "Finished handshakes by result: accepted, abandoned, or the HTTP status.",
        labels=("transport", "result"),
    )
    bounded = Counter({(transport, "accepted"): 0 for transport in TRANSPORTS})
    for (transport, result), count in values.items():
        transport = transport if transport in TRANSPORTS else OTHER
        result = result if result in RESULTS else OTHER
        bounded[transport, result] += count
    for labels, count in bounded.items():
        family.add_metric(labels, count)
    return family


def _histograms(
    name: str,
    text: str,
    histograms: Mapping[Sequence[str], Histogram],
    labels: Sequence[str] = (),
) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for values, histogram in histograms.items():
        bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(values, buckets, sum_value=histogram.total)
    return family
