"""What the connections of a worker share, as the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from clarion_fanout.broker import Broker
from clarion_fanout.hub import Form, Hub
from clarion_fanout.presence import Presence
from clarion_fanout.tasks import Tasks
from clarion_server import descriptors
from clarion_server.addresses import Proxies
from clarion_server.auth import Authenticator
from clarion_server.auth.keys import KeyRing
from clarion_server.auth.permissions import Permissions
from clarion_server.board import Readiness
from clarion_server.bucket import Bucket
from clarion_server.census import Census
from clarion_server.command_rate import CommandRate
from clarion_server.compression import Compressor, rules
from clarion_server.counters import Counters
from clarion_server.edge import Edge
from clarion_server.forms import compressed_forms
from clarion_server.options import Admission, Config, Namespace, WindowOptions
from clarion_server.origins import Origins
from clarion_server.porter import Porter
from clarion_server.publishing import Publishing
from clarion_server.reconnects import Reconnects
from clarion_server.wheel import Wheel, ticks
from clarion_server.window import BOUNDS, DRIP_BYTES, Limit, Rule

_COMPLAINT_S = 60
"""Between two lines of the log that anybody could cause: enough to be noticed, too few to fill a
disk."""


def make(
    config: Config,
    *,
    now: Callable[[], float],
    wheel: Wheel,
    tasks: Tasks,
    counters: Counters,
    readiness: Callable[[], Readiness],
    overloaded: Callable[[], bool],
    keys: KeyRing,
    broker: Broker,
    publishing: Publishing,
    presence: Presence | None,
    hub: Hub,
) -> Edge:
    """The edge that `config` asks for.

    now, readiness: see `Edge`.
    overloaded: whether newcomers should be refused.
    """
    limits, keepalive, rate = config.limits, config.keepalive, config.admission.handshakes_per_s
    most = limits.connections or descriptors.shares(descriptors.limit()).connected
    namespaces = {name: _rule(name, options) for name, options in config.namespaces.items()}
    _begin_series(counters, namespaces)
    return Edge(
        config=config,
        now=now,
        wheel=wheel,
        tasks=tasks,
        counters=counters,
        readiness=readiness,
        most=most,
        origins=Origins(config.origins, loopback=config.development),
        proxies=Proxies(config.proxies),
        porter=Porter(
            config.admission,
            room=lambda: most - counters.connected,
            overloaded=overloaded,
        ),
        census=Census(limits.user_connections, limits.address_connections),
        complaints=Bucket(1 / ticks(_COMPLAINT_S), 1),
        # Half of who is let in: the other half is left to those who come anew.
        reconnects=Reconnects((rate or Admission().handshakes_per_s) / 2),
        keys=keys,
        authenticator=Authenticator(config.auth, keys),
        permissions=Permissions(config.namespace),
        command_rate=CommandRate(limits.commands_per_s, limits.command_burst),
        broker=broker,
        publishing=publishing,
        presence=presence,
        hub=hub,
        limit=_limit(config.window),
        rules=namespaces,
        compressed_forms=_compressed_forms(config, counters),
        handshake_ticks=ticks(limits.handshake_s),
        connect_ticks=ticks(limits.connect_s),
        message_ticks=ticks(limits.message_s),
        ping_ticks=ticks(keepalive.ping_s),
        pong_ticks=ticks(keepalive.pong_s),
        close_ticks=ticks(keepalive.close_s),
    )


def _limit(window: WindowOptions) -> Limit:
    drip = max(1, int(DRIP_BYTES * window.seconds))
    return Limit(window.bytes, window.messages, ticks(window.seconds), drip)


def _rule(name: str, options: Namespace) -> Rule:
    seconds = options.slow_s
    return Rule(
        name,
        options.slow,
        options.slow_bytes,
        options.slow_messages,
        ticks(seconds) if seconds else 0,
    )


def _compressed_forms(config: Config, counters: Counters) -> Mapping[int, Form]:
    wanted = rules(config)
    return compressed_forms(Compressor(wanted, counters)) if wanted else {}


def _begin_series(counters: Counters, namespaces: Mapping[str, Rule]) -> None:
    """A rate over a series that begins with its first event would miss that event."""
    for name in ("", *namespaces):
        for bound in BOUNDS:
            counters.too_slow[bound, name] = 0
        counters.dropped["close", name] = 0
    for rule in namespaces.values():
        counters.dropped[rule.policy, rule.namespace] = 0
