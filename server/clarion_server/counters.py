"""What the worker counts, as plain integers on the hot path.

An increment here is one line of bytecode; metrics.py turns the numbers into Prometheus samples
when somebody asks. Deliveries are counted once a flush, in the hub, never once a delivery.
"""

from __future__ import annotations

from collections import Counter


class Counters:
    """One worker's counts since it started, and its gauges where the name says so."""

    __slots__ = (
        "bytes_in",
        "closes",
        "commands",
        "connections",
        "drops",
        "errors",
        "handshakes",
        "messages_in",
        "publications",
        "replayed",
        "resumes",
        "written_bytes",
    )

    def __init__(self) -> None:
        self.connections: Counter[str] = Counter()
        """Gauge: open connections by transport, `websocket` or `sse`."""
        self.handshakes: Counter[tuple[str, str]] = Counter()
        """Finished handshakes by transport and result: `accepted` or the HTTP status."""
        self.closes: Counter[int] = Counter()
        """Ended connections by close code; 1006 where there was none."""
        self.drops: Counter[str] = Counter()
        """Frames that were meant for a client and not sent to it, by reason: `slow_consumer`."""
        self.errors: Counter[str] = Counter()
        """`error` answers to clients by code."""
        self.commands: Counter[str] = Counter()
        """Commands from clients by op."""
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
