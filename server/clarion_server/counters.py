"""What the worker counts, as plain integers on the hot path.

An increment here is one line of bytecode; metrics.py turns the numbers into Prometheus samples
when somebody asks. Deliveries are counted once a flush, in the hub, never once a delivery.
"""

from __future__ import annotations

from collections import Counter

from clarion_server.timing import Histogram
from clarion_server.window import Window

FILL_BOUNDS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Parts of the window. Whoever is regularly beyond a half is about to lose clients."""

BEHIND_BOUNDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Seconds. The wheel has a grain of 0.1; the window's time is 10."""


class Counters:
    """One worker's counts since it started, and its gauges where the name says so."""

    __slots__ = (
        "behind",
        "bytes_in",
        "closes",
        "commands",
        "commands_limited",
        "compress_seconds",
        "compressed",
        "compressed_bytes",
        "compressed_connections",
        "compressible_bytes",
        "connections",
        "dropped",
        "errors",
        "handshakes",
        "messages_in",
        "publications",
        "refusals",
        "replayed",
        "resumes",
        "too_slow",
        "window_fill",
        "windows",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.connections: Counter[str] = Counter()
        """Gauge: open connections by transport, `websocket` or `sse`."""
        self.compressed_connections = 0
        """Gauge: those of them that have agreed to compression."""
        self.handshakes: Counter[tuple[str, str]] = Counter()
        """Finished handshakes by transport and result: `accepted` or the HTTP status."""
        self.closes: Counter[int] = Counter()
        """Ended connections by close code; 1006 where there was none."""
        self.windows: set[Window] = set()
        """Gauge: those of the clients that are behind."""
        self.window_fill = Histogram(FILL_BOUNDS)
        """How full each was at its fullest, when it was done with."""
        self.behind = Histogram(BEHIND_BOUNDS)
        """How long each was needed, seconds."""
        self.too_slow: Counter[tuple[str, str]] = Counter()
        """Clients closed with 4001 by what was exceeded and, where a message was the last straw,
        its namespace."""
        self.dropped: Counter[tuple[str, str]] = Counter()
        """Messages that were meant for a client and not sent to it, by policy and namespace; with
        `close` everything that waited counts for the namespace of the last straw."""
        self.errors: Counter[str] = Counter()
        """`error` answers to clients by code."""
        self.commands: Counter[str] = Counter()
        """Commands from clients by op."""
        self.commands_limited = 0
        """Those that were refused because the client sent too many."""
        self.refusals: Counter[str] = Counter()
        """Newcomers that were sent away, by reason: see `admission_metrics`."""
        self.publications: Counter[str] = Counter()
        """Accepted publications by source: `api` or `client`."""
        self.messages_in = 0
        """WebSocket messages from clients."""
        self.bytes_in = 0
        """Bytes read from clients."""
        self.written_bytes = 0
        """Bytes of answers, control frames and replays; deliveries are counted by the hub."""
        self.replayed = 0
        """Publications sent from history after a resume or rewind."""
        self.resumes: Counter[str] = Counter()
        """Subscriptions with a position by outcome: `recovered` or `lost`."""
        self.compressed: Counter[str] = Counter()
        """Publications that should leave compressed by what became of that: see `compression`."""
        self.compressible_bytes = 0
        """Of those that were compressed, before."""
        self.compressed_bytes = 0
        """Of the same, after."""
        self.compress_seconds = 0.0
        """Time that compressing took, also where nothing was won."""

    @property
    def connected(self) -> int:
        """How many clients there are."""
        return sum(self.connections.values())
