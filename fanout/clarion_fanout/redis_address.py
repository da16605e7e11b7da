"""Where a Redis server is, and how to log in to it: what a shard's URL says.

    redis://user:password@host:6379/0        rediss:// with TLS        unix:///path/to.sock?db=0
    redis+sentinel://host:26379,host2:26379/service/0     the primary that Sentinels name
    redis+cluster://host:6379,host2:6379                  any nodes of a cluster
    rediss+sentinel://, rediss+cluster://                 the same with TLS

`?name=` gives a shard its name, which decides where topics are placed: a shard that moves to
another host keeps its topics by keeping its name. Without it the name is `host:port/db`.
TLS: `?ssl_ca_certs=FILE`, `?ssl_certfile=FILE&ssl_keyfile=FILE`, and `?ssl_check_hostname=false`
for a certificate that names no host. An unverified certificate is not accepted at all.
"""

from __future__ import annotations

import ssl
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_PORTS = {"": 6379, "cluster": 6379, "sentinel": 26379}
_TLS_FIELDS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}
_SENTINEL_FIELDS = {"sentinel_username", "sentinel_password"}
_FIELDS = {"name", "db"} | _SENTINEL_FIELDS | _TLS_FIELDS


class Address(NamedTuple):
    """A server to connect to. `path` is that of a unix socket; then host and port mean nothing."""

    host: str
    port: int
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None

    def at(self, host: str, port: int) -> Address:
        """The same login on another server."""
        return self._replace(host=host, port=port)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def __repr__(self) -> str:  # never the password
        return f"Address({self!s})"


class Location(NamedTuple):
    """What a URL says.

    kind: what is found at `addresses`: the shard itself, Sentinels, or nodes of a cluster.
    service: the Sentinels' name for the shard.
    sentinel_login: user and password for the Sentinels themselves.
    """

    kind: Literal["server", "sentinel", "cluster"]
    name: str
    addresses: tuple[Address, ...]
    service: str = ""
    sentinel_login: tuple[str, str] = ("", "")

    def __repr__(self) -> str:  # never the password
        return f"Location({self.kind} {self.name!r} at {', '.join(map(str, self.addresses))})"


class BadURL(ValueError):
    """A shard's URL cannot be used. The text says why and never contains the URL."""


def parse(url: str) -> Location:
    """Reads a URL. Raises `BadURL`."""
    parts = _split(url)
    scheme, _, what = parts.scheme.partition("+")
    fields = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(fields.keys() - _FIELDS):
        raise BadURL(f"unknown option ?{unknown[0]}=; known are {', '.join(sorted(_FIELDS))}")
    # What is given in vain was meant for something, such as a connection that is encrypted.
    if scheme != "rediss" and (idle := sorted(fields.keys() & _TLS_FIELDS)):
        raise BadURL(
            f"?{idle[0]}= needs TLS: the scheme is rediss, rediss+sentinel, rediss+cluster"
        )
    if what != "sentinel" and (idle := sorted(fields.keys() & _SENTINEL_FIELDS)):
        raise BadURL(f"?{idle[0]}= is for Sentinels")
    if parts.fragment:
        raise BadURL("has a # in it; write %23")
    if scheme == "unix" and not what:
        return _unix(parts, fields)
    if scheme not in ("redis", "rediss") or what not in _PORTS:
        raise BadURL("the scheme is not one of redis, rediss, unix, redis+sentinel, redis+cluster")
    tls = _tls(fields) if scheme == "rediss" else None
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = (unquote(part) for part in login.partition(":"))
    service, number = "", fields.get("db", "0")
    path: list[str] = [part for part in parts.path.split("/") if part]
    if what == "sentinel":
        if not path:
            raise BadURL("a redis+sentinel URL ends with the service's name: .../service/0")
        service = path.pop(0)
    if path:
        number = path.pop(0)
    if path:
        raise BadURL("the path has too many parts")
    db = _db(number)
    if what == "cluster" and db:
        raise BadURL("a cluster has no database but 0")
    places = hosts.split(",")
    if len(places) > 1 and not all(places):
        raise BadURL("one of its hosts has no name")
    addresses: tuple[Address, ...] = tuple(
        Address(*_host(place, _PORTS[what]), "", db, username, password, tls) for place in places
    )
    first = addresses[0]
    if not what and len(addresses) > 1:
        raise BadURL("names several hosts; give each shard a URL of its own")
    name = fields.get("name") or f"{service or first}/{db}"
    return Location(
        "sentinel" if what == "sentinel" else "cluster" if what == "cluster" else "server",
        name,
        addresses,
        service,
        (fields.get("sentinel_username", ""), fields.get("sentinel_password", "")),
    )


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise BadURL("is not a URL") from None


def _unix(parts: SplitResult, fields: dict[str, str]) -> Location:
    login, _, host = parts.netloc.rpartition("@")
    if host:
        raise BadURL("a unix URL names no host: it begins unix:/// or unix://user:password@/")
    if not parts.path:
        raise BadURL("has no path")
    db = _db(fields.get("db", "0"))
    username, _, password = (unquote(part) for part in login.partition(":"))
    path = unquote(parts.path)
    address = Address("", 0, path, db, username, password)
    return Location("server", fields.get("name") or f"{path}/{db}", (address,))


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host = parts.hostname or "127.0.0.1"
        given = parts.port
        host.encode("idna")  # as it will be when its address is asked for
    except UnicodeError:
        raise BadURL("has a host that is not one") from None
    except ValueError:
        raise BadURL("has a port that is not one") from None
    if given == 0:
        raise BadURL("has a port that is not one")
    return host, given or port


def _db(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadURL("the database is not a number")
    return int(text)


def _tls(fields: dict[str, str]) -> ssl.SSLContext:
    if "ssl_keyfile" in fields and "ssl_certfile" not in fields:
        raise BadURL("?ssl_keyfile= needs ?ssl_certfile=")
    try:
        context = ssl.create_default_context(cafile=fields.get("ssl_ca_certs"))
        if certificate := fields.get("ssl_certfile"):
            context.load_cert_chain(certificate, fields.get("ssl_keyfile"))
    except OSError as error:  # ssl.SSLError is one
        raise BadURL(f"its certificates cannot be loaded: {error.strerror or error}") from None
    check = fields.get("ssl_check_hostname", "true")
    if check not in ("true", "false"):
        raise BadURL("ssl_check_hostname is true or false")
    context.check_hostname = check == "true"
    return context
