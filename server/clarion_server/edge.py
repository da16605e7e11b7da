"""What all connections of a worker share, and the answers that need no connection's state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from clarion_fanout.broker import Broker
from clarion_fanout.hub import Form, Hub
from clarion_fanout.presence import Presence
from clarion_fanout.tasks import Tasks
from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server import descriptors
from clarion_server.addresses import Proxies
from clarion_server.auth import Authenticator
from clarion_server.auth.keys import KeyRing
from clarion_server.auth.permissions import Permissions
from clarion_server.board import Readiness
from clarion_server.bucket import Bucket
from clarion_server.census import Census
from clarion_server.codes import Close, come_back
from clarion_server.command_rate import CommandRate
from clarion_server.compression import Compressor, rules
from clarion_server.counters import Counters
from clarion_server.forms import compressed_forms
from clarion_server.options import Admission, Config, Namespace
from clarion_server.origins import Origins
from clarion_server.porter import Porter
from clarion_server.publishing import Publishing
from clarion_server.reconnects import Reconnects
from clarion_server.wheel import Wheel, ticks
from clarion_server.window import BOUNDS, DRIP_BYTES, PLAIN, Limit, Rule


@dataclass(slots=True)
class Edge:
    """The parts that connections use; made once by the app.

    now: Unix time in seconds.
    readiness: of the whole server, which is what a balancer sends clients to.
    presence: None where no namespace keeps any.
    """

    config: Config
    broker: Broker
    publishing: Publishing
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
    overloaded: Callable[[], bool] = lambda: False
    """Whether newcomers should be refused."""

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
    message_ticks: int = 0
    most: int = field(init=False)
    """Clients that the worker lets in."""
    proxies: Proxies = field(init=False)
    porter: Porter = field(init=False)
    census: Census = field(init=False)
    reconnects: Reconnects = field(init=False)
    command_rate: CommandRate = field(init=False)
    complaints: Bucket = field(init=False)
    """How often something that everybody might cause is logged, in ticks."""
    limit: Limit = field(init=False)
    """The bounds of every client's window."""
    compressed_forms: dict[int, Form] = field(init=False)
    """The form for clients that have agreed to compression, by their window; empty where no
    namespace wants any, and then nobody is asked."""
    _rules: dict[str, Rule] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.handshake_ticks = ticks(config.limits.handshake_s)
        self.connect_ticks = ticks(config.limits.connect_s)
        self.message_ticks = ticks(config.limits.message_s)
        self.ping_ticks = ticks(config.keepalive.ping_s)
        self.pong_ticks = ticks(config.keepalive.pong_s)
        self.close_ticks = ticks(config.keepalive.close_s)
        limits = config.limits
        self.most = limits.connections or descriptors.shares(descriptors.limit()).connected
        self.proxies = Proxies(config.proxies)
        self.census = Census(limits.user_connections, limits.address_connections)
        self.command_rate = CommandRate(limits.commands_per_s, limits.command_burst)
        self.complaints = Bucket(1 / ticks(60), 1)
        self.reconnects = Reconnects(
            (config.admission.handshakes_per_s or Admission().handshakes_per_s) / 2
        )
        self.porter = Porter(
            config.admission,
            room=self._room,
            overloaded=lambda: self.overloaded(),
        )
        window = config.window
        drip = max(1, int(DRIP_BYTES * window.seconds))
        self.limit = Limit(window.bytes, window.messages, ticks(window.seconds), drip)
        wanted = rules(config)
        self.compressed_forms = (
            compressed_forms(Compressor(wanted, self.counters)) if wanted else {}
        )
        self._rules = {name: _rule(name, options) for name, options in config.namespaces.items()}
        # A rate over a series that begins with its first event would miss that event.
        for name in ("", *self._rules):
            for bound in BOUNDS:
                self.counters.too_slow[bound, name] = 0
            self.counters.dropped["close", name] = 0
        for rule in self._rules.values():
            self.counters.dropped[rule.policy, rule.namespace] = 0

    def rule(self, topic: str) -> Rule:
        """What becomes of `topic`'s messages when a client does not take them."""
        rules = self._rules
        return rules.get(namespace_of(topic)) or rules.get(DEFAULT_NAMESPACE, PLAIN)

    @property
    def connected(self) -> int:
        """How many clients there are."""
        return sum(self.counters.connections.values())

    def _room(self) -> int:
        return self.most - self.connected

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


def _rule(name: str, options: Namespace) -> Rule:
    seconds = options.slow_s
    return Rule(
        name,
        options.slow,
        options.slow_bytes,
        options.slow_messages,
        ticks(seconds) if seconds else 0,
    )
