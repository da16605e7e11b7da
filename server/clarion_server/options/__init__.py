"""Every option of the server: its name, type, unit, bounds, default, and why that default.

This is the one place: a module for each subject, and here the options that stand in no section. The
configuration file, the environment (`CLARION_LIMITS_MESSAGE_BYTES`), the flags of `clarion serve`,
every error about them and the reference table are made from it. Constructing one of these checks
nothing: `config.load` does, for what comes from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server.option_values import Section, option
from clarion_server.options.auth import ALGORITHMS, Algorithm, AuthOptions, KeyOptions
from clarion_server.options.broker import (
    HistoryLimits,
    InboxOptions,
    PresenceOptions,
    ShardOptions,
)
from clarion_server.options.connections import Admission, Keepalive, WindowOptions
from clarion_server.options.limits import Limits
from clarion_server.options.namespaces import Namespace, Who
from clarion_server.options.pipeline import PipelineOptions

__all__ = [
    "ALGORITHMS",
    "Admission",
    "Algorithm",
    "AuthOptions",
    "Config",
    "HistoryLimits",
    "InboxOptions",
    "Keepalive",
    "KeyOptions",
    "Limits",
    "LogLevel",
    "Namespace",
    "PipelineOptions",
    "PresenceOptions",
    "ShardOptions",
    "Who",
    "WindowOptions",
]

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

_UNCONFIGURED = Namespace()


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration. The attribute path of an option is its key path in the file."""

    development: Annotated[
        bool,
        option(
            "open to everyone on this machine, and to nobody else; `auth.anonymous` and the"
            " default namespace have other defaults then",
            "True only without a configuration file: the first start needs none, and a server"
            " that was configured is never open by accident.",
            flag=True,
        ),
    ] = False
    host: Annotated[
        str,
        option(
            "address of the public port",
            "Reachable from outside only when that is asked for.",
            flag=True,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        option(
            "public port: /ws, /sse; 0: any that is free",
            "The customary port of a Python web service.",
            least=0,
            most=65_535,
            flag=True,
        ),
    ] = 8000
    api_host: Annotated[
        str,
        option(
            "address of the private port",
            "Backends on other hosts need it open; the internet never does.",
            flag=True,
        ),
    ] = "127.0.0.1"
    api_port: Annotated[
        int,
        option(
            "private port: /v1, /metrics; 0: any that is free",
            "Next to the public one.",
            least=0,
            most=65_535,
            flag=True,
        ),
    ] = 8001
    workers: Annotated[
        int,
        option(
            "event-loop processes",
            "One needs no Redis to reach all subscribers. One a core is the most that helps.",
            unit="processes",
            least=1,
            most=1024,
            flag=True,
        ),
    ] = 1
    redis: Annotated[
        tuple[str, ...],
        option(
            "URLs of the shards",
            "None: publications stay in this process.",
            secret=True,
            flag=True,
        ),
    ] = ()
    next_shards: Annotated[
        tuple[str, ...],
        option(
            "URLs of the shards that `redis` is about to become; the first of three steps",
            "None: the shards stay as they are.",
            secret=True,
        ),
    ] = ()
    previous_shards: Annotated[
        tuple[str, ...],
        option(
            "URLs of the shards that `redis` was until now, which topics leave; the second step",
            "None: there is nothing left to move.",
            secret=True,
        ),
    ] = ()
    prefix: Annotated[
        str,
        option(
            "what the names of all keys and channels in Redis begin with",
            "The product's name, until two installations share a Redis.",
        ),
    ] = "clarion"
    proxies: Annotated[
        tuple[str, ...],
        option(
            'networks of the proxies and balancers before this server, such as "10.0.0.0/8": what'
            " they say of a client's address, in `X-Forwarded-For` or a PROXY header, is believed",
            "Nobody's: anyone could claim to be somebody else.",
        ),
    ] = ()
    proxy_protocol: Annotated[
        bool,
        option(
            "whether connections from `proxies` begin with a PROXY header, version 1 or 2, and are"
            " refused without one; only /livez and /readyz do without",
            "A balancer has to be told to send it.",
        ),
    ] = False
    origins: Annotated[
        tuple[str, ...],
        option(
            'browser origins that may connect, such as "https://app.example.com"; "*": any',
            "None but those that the server itself serves: a page elsewhere must not act for its"
            " visitor unasked.",
        ),
    ] = ()
    api_keys: Annotated[
        tuple[str, ...],
        option(
            "keys of the private API, 16 characters or more; several, so that they can be changed"
            " without a gap",
            "No default: a key that ships with a program is none. Development needs none.",
            secret=True,
        ),
    ] = ()
    log_level: Annotated[
        LogLevel,
        option(
            "what is logged",
            "Starts, stops and faults; debug logs every connection.",
            flag=True,
        ),
    ] = "info"
    echo: Annotated[
        bool,
        option(
            "serve /echo, which sends back what it gets; only in development",
            "For conformance suites and clients under test.",
            flag=True,
        ),
    ] = False
    auth: AuthOptions = msgspec.field(default_factory=AuthOptions)
    limits: Limits = msgspec.field(default_factory=Limits)
    admission: Admission = msgspec.field(default_factory=Admission)
    keepalive: Keepalive = msgspec.field(default_factory=Keepalive)
    window: WindowOptions = msgspec.field(default_factory=WindowOptions)
    history: HistoryLimits = msgspec.field(default_factory=HistoryLimits)
    shards: ShardOptions = msgspec.field(default_factory=ShardOptions)
    presence: PresenceOptions = msgspec.field(default_factory=PresenceOptions)
    inbox: InboxOptions = msgspec.field(default_factory=InboxOptions)
    pipeline: PipelineOptions = msgspec.field(default_factory=PipelineOptions)
    namespaces: Mapping[str, Namespace] = msgspec.field(
        default_factory=lambda: {DEFAULT_NAMESPACE: Namespace()}
    )

    def namespace(self, topic: str) -> Namespace:
        """The options of `topic`'s namespace, or of `default` when that is not configured."""
        namespaces = self.namespaces
        found = namespaces.get(namespace_of(topic))
        return found or namespaces.get(DEFAULT_NAMESPACE, _UNCONFIGURED)
