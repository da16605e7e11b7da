"""What all connections of a worker share, and the answers that need no connection's state."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from clarion_fanout.broker import Broker
from clarion_fanout.hub import Hub
from clarion_fanout.presence import Presence
from clarion_fanout.tasks import Tasks
from clarion_server.auth import Authenticator
from clarion_server.auth.keys import KeyRing
from clarion_server.auth.permissions import Permissions
from clarion_server.board import Readiness
from clarion_server.codes import Close, come_back
from clarion_server.counters import Counters
from clarion_server.options import Config
from clarion_server.origins import Origins
from clarion_server.wheel import Wheel, ticks

RETRY_MS = (500, 5000)
"""Between these a client that is sent away comes back, at random, so that those who were sent
away together do not return together. The upper end is what people take for "a moment"."""


@dataclass(slots=True)
class Edge:
    """The parts that connections use; made once by the app.

    now: Unix time in seconds.
    readiness: of the whole server, which is what a balancer sends clients to.
    presence: None where no namespace keeps any.
    """

    config: Config
    broker: Broker
    hub: Hub
    permissions: Permissions
    authenticator: Authenticator
    keys: KeyRing
    origins: Origins
    counters: Counters
    wheel: Wheel
    tasks: Tasks
    now: Callable[[], float]
    readiness: Callable[[], Readiness]
    presence: Presence | None = None

    when_empty: Callable[[], object] | None = None
    """Called when the last client is gone; set when the worker drains."""
    corked: object | None = None
    """The connection whose input is being handled: its answers are gathered into one write."""
    cork: list[bytes] = field(default_factory=list[bytes])

    handshake_ticks: int = 0
    connect_ticks: int = 0
    ping_ticks: int = 0
    pong_ticks: int = 0
    close_ticks: int = 0
    window_ticks: int = 0
    message_ticks: int = 0

    def __post_init__(self) -> None:
        config = self.config
        self.handshake_ticks = ticks(config.limits.handshake_s)
        self.connect_ticks = ticks(config.limits.connect_s)
        self.message_ticks = ticks(config.limits.message_s)
        self.ping_ticks = ticks(config.keepalive.ping_s)
        self.pong_ticks = ticks(config.keepalive.pong_s)
        self.close_ticks = ticks(config.keepalive.close_s)
        self.window_ticks = ticks(config.window.seconds)

    @property
    def draining(self) -> bool:
        """Whether the worker is about to end, and newcomers should go elsewhere."""
        return self.when_empty is not None


def retry_ms(close: Close) -> int | None:
    """When a client that is closed with `close` should come back; None if it should not."""
    return random.randint(*RETRY_MS) if come_back(close.code) else None
