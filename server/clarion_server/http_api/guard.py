"""Who may use the private API.

With API keys configured, a request to `/v1/` needs one of them. What is not under `/v1/`, and the
OpenAPI document, needs none: probes, scrapers and browsers have no key, the port is private, and
nothing there names a topic or a user.

Without keys, which only development allows, the API is open to every program on the machine. A
browser is a program on the machine too, and runs the code of every site that is visited. So then
    - a request with an `Origin` must come from a page of this port: no other site may post;
    - a body must be declared as `application/json`, which a form cannot do, and a script only
      after a preflight that is never granted;
    - the `Host` must be an address, `localhost` or the configured name: a site that lets its own
      name point to 127.0.0.1 (DNS rebinding) would pass as the same origin otherwise.
With keys none of this is needed, because a browser does not add an `Authorization` by itself.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from aiohttp import hdrs, web

from clarion_server.codes import Code
from clarion_server.http_api.errors import Refusal
from clarion_server.options import Config

_PROTECTED = "/v1/"
_OPEN = "/v1/openapi.json"
_PROBES = frozenset({"/livez", "/readyz"})
_API_KEY = "X-API-Key"

API_KEY = web.RequestKey("api_key", str)
"""By which key a request was admitted: its place in the configuration, from 1. Never its text."""


class Guard:
    """Admits requests, or refuses them."""

    def __init__(self, config: Config) -> None:
        # Digests have one length, so that a comparison says nothing about that of a key.
        self._keys = tuple(_digest(key) for key in config.api_keys)
        self._host = config.api_host.lower()

    def admit(self, request: web.Request) -> None:
        """Raises `Refusal`. Notes whose request it is under `API_KEY`."""
        if not self._keys:
            self._admit_local(request)
            return
        # The path as it was sent: what the router would take for another path is another path.
        path = request.rel_url.raw_path
        if path.startswith(_PROTECTED) and path != _OPEN:
            place = self._place(_key(request))
            if not place:
                raise Refusal(
                    401,
                    Code.UNAUTHORIZED,
                    "an API key is needed: Authorization: Bearer KEY, or X-API-Key: KEY",
                    headers={hdrs.WWW_AUTHENTICATE: 'Bearer realm="clarion"'},
                )
            request[API_KEY] = str(place)

    def _place(self, key: str) -> int:
        """The place of a key among the configured ones, from 1; 0 if it is none of them."""
        digest = _digest(key)
        found = 0
        for place, candidate in enumerate(self._keys, 1):
            # All of them, so that the time does not say which one it was.
            found = max(found, place * hmac.compare_digest(candidate, digest))
        return found

    def _admit_local(self, request: web.Request) -> None:
        headers = request.headers
        hosts = headers.getall(hdrs.HOST, ())
        if request.rel_url.raw_path not in _PROBES:
            for host in hosts:
                if not self._is_local(host):
                    text = "this Host is not served in development: use an address or localhost"
                    raise Refusal(403, Code.FORBIDDEN, text)
        if hdrs.ORIGIN in headers:
            own = {f"{scheme}://{host}".lower() for scheme in ("http", "https") for host in hosts}
            if any(origin.lower() not in own for origin in headers.getall(hdrs.ORIGIN)):
                raise Refusal(403, Code.FORBIDDEN, "pages of other origins may not use the API")
        if request.method == hdrs.METH_POST and request.content_type != "application/json":
            text = "without API keys the Content-Type must be application/json"
            raise Refusal(415, Code.BAD_REQUEST, text)

    def _is_local(self, host: str) -> bool:
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        if name in ("localhost", self._host):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _key(request: web.Request) -> str:
    """The key that a request brings; an empty one is never known: keys have 16 characters."""
    scheme, _, key = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return request.headers.get(_API_KEY, "")


def _digest(key: str) -> bytes:
    # Header bytes that are not UTF-8 arrive as lone surrogates.
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
