"""Rules that a configuration must follow beyond the type and bounds of each option.

Each rule is a function from the configuration to the conflicts in it. Those of `[auth]` have a
file of their own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from clarion_fanout import redis_address
from clarion_server.config.auth import auth_conflicts
from clarion_server.config.pipelines import pipeline_conflicts
from clarion_server.option_values import MAKE_KEY, Conflict, is_loopback, join
from clarion_server.options import Config

_REDIS_URL = "such as redis://127.0.0.1:6379/0, redis+sentinel://host/service, redis+cluster://host"
MIN_API_KEY = 16  # characters: 96 bits of base64, beyond any guessing over a network
_ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*)://(?:[a-z0-9_.\-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}
_PREFIX = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


def conflicts(config: Config) -> Iterator[Conflict]:
    """Everything in `config` that cannot work, or should not."""
    for rule in _RULES:
        yield from rule(config)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _hosts(config: Config) -> Iterator[Conflict]:
    for key, host in (("host", config.host), ("api_host", config.api_host)):
        if not host:
            yield Conflict((key,), "is empty", 'an address, such as "127.0.0.1" or "0.0.0.0"')
        elif config.development and not is_loopback(host):
            yield Conflict(
                (key, "development"),
                f'is "{host}", but development mode is open to everyone who reaches it',
                "a loopback address, or development = false with keys of your own",
            )


def _ports(config: Config) -> Iterator[Conflict]:
    if config.port != config.api_port or config.port == 0:
        return
    addresses = (_address(config.host), _address(config.api_host))
    if config.host == config.api_host or any(one and one.is_unspecified for one in addresses):
        yield Conflict(
            ("api_port", "port", "host", "api_host"),
            f"is {config.api_port}, and so is port",
            "two different ports: the private API must not share the public one",
        )


def _workers(config: Config) -> Iterator[Conflict]:
    if config.workers > 1 and not config.redis:
        yield Conflict(
            ("workers", "redis"),
            f"is {config.workers}, but --workers needs Redis: it carries publications between the"
            " workers",
            "also --redis redis://127.0.0.1:6379/0",
        )


def _redis(config: Config) -> Iterator[Conflict]:
    lists = {
        "redis": config.redis,
        "next_shards": config.next_shards,
        "previous_shards": config.previous_shards,
    }
    clusters: list[str] = []
    for key, urls in lists.items():
        locations: list[redis_address.Location] = []
        for place, url in enumerate(urls, 1):
            try:
                locations.append(redis_address.parse(url))
            except redis_address.BadURL as bad:
                # It may hold a password: not shown.
                yield Conflict((key,), f"URL number {place}: {bad}", _REDIS_URL)
        names = [location.name for location in locations]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Conflict((key,), f'names the shard "{name}" twice', "each shard once")
        clusters += [key for location in locations if location.kind == "cluster"]
    if "redis" in clusters and len(config.redis) > 1:
        yield Conflict(
            ("redis",),
            f"has {len(config.redis)} URLs, one of them of a cluster",
            "one URL for a cluster (it may name several of its nodes), or none of a cluster",
        )


def _moving(config: Config) -> Iterator[Conflict]:
    moving = [key for key in ("next_shards", "previous_shards") if getattr(config, key)]
    if len(moving) == 2:
        yield Conflict(
            ("previous_shards", "next_shards"),
            "is there, and so is next_shards",
            "one step at a time: next_shards everywhere first, then previous_shards",
        )
    for key in moving:
        if not config.redis:
            yield Conflict((key, "redis"), "is there, but no redis", "the shards in use in redis")
        elif any("+cluster:" in url for url in (*config.redis, *getattr(config, key))):
            yield Conflict(
                (key, "redis"),
                "is for lists of shards, and one is a cluster",
                "a cluster moves its slots by itself",
            )


def _prefix(config: Config) -> Iterator[Conflict]:
    if not _PREFIX.fullmatch(config.prefix):
        yield Conflict(("prefix",), "does not fit a key's name", "1 to 64 of A-Z a-z 0-9 _ . -")


def _origins(config: Config) -> Iterator[Conflict]:
    for origin in config.origins:
        if origin == "*":
            continue
        found = _ORIGIN.fullmatch(origin.lower())
        if found is None:
            expected = 'scheme://host or scheme://host:port without a path, or "*"'
            yield Conflict(("origins",), f"{origin!r} is not an origin", expected)
        elif found.groups() in _DEFAULT_PORTS:
            bare = origin.rpartition(":")[0]
            yield Conflict(
                ("origins",), f"{origin!r}: browsers leave the default port out", f'"{bare}"'
            )


def _proxies(config: Config) -> Iterator[Conflict]:
    for network in config.proxies:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            expected = 'an address or a network without bits beyond its mask, "10.0.0.0/8"'
            yield Conflict(("proxies",), f"{network!r} is not a network: {error}", expected)
    if config.proxy_protocol and not config.proxies:
        yield Conflict(
            ("proxy_protocol", "proxies"),
            "is on, but there are no proxies that it could be believed from",
            'their networks in proxies, such as ["10.0.0.0/8"]',
        )


def _lag(config: Config) -> Iterator[Conflict]:
    admission = config.admission
    if admission.unready_lag_s < admission.lag_s:
        yield Conflict(
            ("admission.unready_lag_s", "admission.lag_s"),
            f"is {admission.unready_lag_s:g}: a balancer would send everyone elsewhere before"
            " anybody is refused",
            "at least admission.lag_s",
        )


def _api_keys(config: Config) -> Iterator[Conflict]:
    if not config.development and not config.api_keys:
        yield Conflict(
            ("api_keys", "development"),
            "is empty: nobody could publish through the private API",
            f"one key or more; {MAKE_KEY}",
        )
    for place, key in enumerate(config.api_keys):
        if len(key) < MIN_API_KEY:
            yield Conflict(
                ("api_keys",),
                f"key number {place + 1} has {len(key)} characters",
                f"{MIN_API_KEY} or more; {MAKE_KEY}",
            )
        elif not key.isascii() or " " in key:
            yield Conflict(
                ("api_keys",),
                f"key number {place + 1} does not fit an HTTP header",
                "ASCII without spaces",
            )


def _development_only(config: Config) -> Iterator[Conflict]:
    if config.echo and not config.development:
        yield Conflict(("echo", "development"), "is for development only", "false")


def _namespaces(config: Config) -> Iterator[Conflict]:
    for name, namespace in config.namespaces.items():
        if namespace.history_size > 0 and namespace.history_s <= 0:
            path = join("namespaces", name)
            yield Conflict(
                (f"{path}.history_s", f"{path}.history_size"),
                f"is 0, so that none of {namespace.history_size} publications would be kept",
                "more than 0 seconds, or history_size = 0",
            )


def _sizes(config: Config) -> Iterator[Conflict]:
    for key, size in (
        ("window.bytes", config.window.bytes),
        ("limits.body_bytes", config.limits.body_bytes),
    ):
        if size < config.limits.data_bytes:
            yield Conflict(
                (key, "limits.data_bytes"),
                f"is {size}, but one publication may have {config.limits.data_bytes}",
                "at least limits.data_bytes",
            )


def _slow(config: Config) -> Iterator[Conflict]:
    for name, namespace in config.namespaces.items():
        place = join("namespaces", name)
        if namespace.slow == "resync" and not namespace.history_size:
            yield Conflict(
                (f"{place}.slow", f"{place}.history_size"),
                'is "resync", but there is no history to resume from',
                'a history_size, or "drop_oldest"',
            )
        for key, size, whole in (
            ("slow_bytes", namespace.slow_bytes, config.window.bytes),
            ("slow_messages", namespace.slow_messages, config.window.messages),
        ):
            if size > whole:
                window = f"window.{key.removeprefix('slow_')}"
                yield Conflict(
                    (f"{place}.{key}", window),
                    f"is {size}, but in all only {whole} may wait",
                    f"no more than {window}",
                )


_RULES = (
    _hosts,
    _ports,
    _workers,
    _redis,
    _moving,
    _prefix,
    _origins,
    _proxies,
    _lag,
    _api_keys,
    _development_only,
    _sizes,
    _slow,
    _namespaces,
    auth_conflicts,
    pipeline_conflicts,
)
