"""The shards of an installation, as URLs name them, and the names of what is sent there.

    redis://user:password@host:6379/0    rediss:// with TLS    unix:///path/to.sock?db=0
    redis+sentinel://host:26379,host2:26379/service/0     the primary that Sentinels name
    redis+cluster://host:6379,host2:6379                  any nodes of a cluster

These are the server's own URLs: pass the same list. `?name=` names a shard; without it the name is
`host:port/db` (`service/db` with Sentinels), and the names decide where topics are.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from clarion_client import wire

_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")


@dataclass(frozen=True)
class Shard:
    """What one URL says.

    kind: what is found at `hosts`: the shard itself, Sentinels, or nodes of a cluster. options: for
    redis-py, login and TLS.
    """

    kind: Literal["server", "sentinel", "cluster"]
    name: str
    hosts: Sequence[tuple[str, int]]
    path: str = ""
    db: int = 0
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)


def shards(urls: Sequence[str]) -> list[Shard]:
    """Reads the URLs. Raises `ValueError`, which never shows a password."""
    found = [_shard(url) for url in urls]
    if not found:
        raise ValueError("the URL of at least one shard is needed")
    if len({shard.name for shard in found}) < len(found):
        raise ValueError("two shards have the same name")
    if len(found) > 1 and any(shard.kind == "cluster" for shard in found):
        raise ValueError("a cluster is the only one, or there is none")
    return found


def _shard(url: str) -> Shard:
    parts = urlsplit(url)
    fields = dict(parse_qsl(parts.query))
    scheme, _, what = parts.scheme.partition("+")
    login, _, places = parts.netloc.rpartition("@")
    username, _, password = (unquote(part) for part in login.partition(":"))
    options: dict[str, Any] = {}
    if username:
        options["username"] = username
    if password:
        options["password"] = password
    if scheme == "unix" and not what:
        path, db = unquote(parts.path), int(fields.get("db", "0"))
        name = fields.get("name") or f"{path}/{db}"
        return Shard("server", name, (), path=path, db=db, options=options)
    if scheme not in ("redis", "rediss") or what not in ("", "cluster", "sentinel"):
        raise ValueError(
            "a shard's URL begins with redis, rediss, unix, redis+sentinel or +cluster"
        )
    if scheme == "rediss":
        options["ssl"] = True
        options |= {name: fields[name] for name in _TLS if name in fields}
        if "ssl_check_hostname" in options:
            options["ssl_check_hostname"] = options["ssl_check_hostname"] != "false"
    path_parts = [part for part in parts.path.split("/") if part]
    service = path_parts.pop(0) if what == "sentinel" and path_parts else ""
    db = int(path_parts[0] if path_parts else fields.get("db", "0"))
    hosts = [_host(place, 26379 if what == "sentinel" else 6379) for place in places.split(",")]
    place = service or "{}:{}".format(*hosts[0])
    name = fields.get("name") or f"{place}/{db}"
    if what == "cluster":
        return Shard("cluster", name, hosts, options=options)
    if what == "sentinel":
        renamed = {"sentinel_username": "username", "sentinel_password": "password"}
        theirs = {renamed[key]: fields[key] for key in renamed if key in fields}
        theirs |= {key: value for key, value in options.items() if key.startswith("ssl")}
        return Shard(
            "sentinel",
            name,
            hosts,
            db=db,
            service=service,
            options=options,
            sentinel_options=theirs,
        )
    return Shard("server", name, hosts[:1], db=db, options=options)


def _host(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "127.0.0.1", parts.port or port


class Names:
    """Of keys and channels, and what is written to them."""

    def __init__(self, prefix: str) -> None:
        self.inbox = f"{prefix}:inbox"
        self._channel = f"{prefix}:t:"

    def channel(self, topic: str) -> str:
        return self._channel + wire.check_topic(topic)

    @staticmethod
    def payload(data: object, key: str | None) -> str:
        """What is published on a channel. Raises `ValueError` or `TypeError`."""
        text = wire.dumps_data(data)
        return text if key is None else f"@{wire.check_key(key)} {text}"

    @staticmethod
    def entry(topic: str, data: object, id: str | None, key: str | None) -> dict[str, str]:
        """The fields of an entry of the inbox. Raises `ValueError` or `TypeError`.

        It has an idempotency key in any case, so that sending it again is harmless.
        """
        id = secrets.token_urlsafe(16) if id is None else wire.check_id(id)
        fields = {"topic": wire.check_topic(topic), "data": wire.dumps_data(data), "id": id}
        return fields if key is None else fields | {"key": wire.check_key(key)}
