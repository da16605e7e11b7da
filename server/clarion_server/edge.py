"""What all connections of a worker share, and the answers that need no connection's state.

`edges.py` makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from clarion_fanout.broker import Broker
from clarion_fanout.hub import Form, Hub
from clarion_fanout.presence import Presence
from clarion_fanout.tasks import Tasks
from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server.addresses import Proxies
from clarion_server.auth import Authenticator
from clarion_server.auth.keys import KeyRing
from clarion_server.auth.permissions import Permissions
from clarion_server.board import Readiness
from clarion_server.bucket import Bucket
from clarion_server.census import Census
from clarion_server.codes import Close, come_back
from clarion_server.command_rate import CommandRate
from clarion_server.counters import Counters
from clarion_server.options import Config
from clarion_server.origins import Origins
from clarion_server.porter import Porter
from clarion_server.publishing import Publishing
from clarion_server.reconnects import Reconnects
from clarion_server.wheel import Wheel
from clarion_server.window import PLAIN, Limit, Rule


@dataclass(slots=True, kw_only=True)
class Edge:
    """The parts that connections use.

    now: Unix time in seconds.
    readiness: of the whole server, which is what a balancer sends clients to.
    presence: None where no namespace keeps any.
    most: clients that the worker lets in.
    complaints: how often something that everybody might cause is logged, in ticks.
    limit: the bounds of every client's window.
    rules: by namespace, what becomes of messages that a client does not take.
    compressed_forms: the form for clients that have agreed to compression, by their window; empty
        where no namespace wants any, and then nobody is asked.
    """

    config: Config
    now: Callable[[], float]
    wheel: Wheel
    tasks: Tasks
    counters: Counters
    readiness: Callable[[], Readiness]

    most: int
    origins: Origins
    proxies: Proxies
    porter: Porter
    census: Census
    complaints: Bucket
    reconnects: Reconnects

    keys: KeyRing
    authenticator: Authenticator
    permissions: Permissions
    command_rate: CommandRate

    broker: Broker
    publishing: Publishing
    presence: Presence | None
    hub: Hub
    limit: Limit
    rules: Mapping[str, Rule]
    compressed_forms: Mapping[int, Form]

    handshake_ticks: int
    connect_ticks: int
    message_ticks: int
    ping_ticks: int
    pong_ticks: int
    close_ticks: int

    when_empty: Callable[[], object] | None = None
    """Called when the last client is gone; set when the worker drains."""
    corked: object | None = None
    """The connection whose input is being handled: its answers are gathered into one write."""
    cork: list[bytes] = field(default_factory=list[bytes])

    def rule(self, topic: str) -> Rule:
        """What becomes of `topic`'s messages when a client does not take them."""
        rules = self.rules
        return rules.get(namespace_of(topic)) or rules.get(DEFAULT_NAMESPACE, PLAIN)

    def retry_ms(self, close: Close) -> int | None:
        """When a client that is closed with `close` should come back; None if it should not."""
        return self.reconnects.retry_ms(time.monotonic()) if come_back(close.code) else None

    def retry_after(self) -> str:
        """When a newcomer that is refused should come back."""
        return str(self.reconnects.retry_after(time.monotonic()))

    @property
    def draining(self) -> bool:
        """Whether the worker is about to end, and newcomers should go elsewhere."""
        return self.when_empty is not None
