"""Which web pages may connect: the Origin header against an allow-list.

A browser sends a page's origin with every WebSocket and cross-origin request, and cookies of ours
or the user's network position with it; without this check any page could act for its visitor
(cross-site WebSocket hijacking). Comparison is of whole origins, never of parts of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address

_ORIGIN = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9\-._]+)(?::([0-9]{1,5}))?")


class Origins:
    """Decides about origins.

    allowed: origins such as `https://app.example.com`, or `*` for every page.
    loopback: whether pages from this machine may connect, whatever their port (development).
    """

    def __init__(self, allowed: Iterable[str], *, loopback: bool) -> None:
        allowed = [origin.lower() for origin in allowed]
        self._every = "*" in allowed
        self._allowed = frozenset(allowed)
        self._loopback = loopback

    def allows(self, origin: str | None, host: str) -> bool:
        """Whether a page from `origin` may talk to us.

        origin: the Origin header, None if there was none: then it is no browser.
        host: the Host header. A page that came from the same host and port may connect, unless
            this is a development server: there the name may be an attacker's (DNS rebinding).
        """
        if origin is None or self._every:
            return True
        origin = origin.lower()
        if origin in self._allowed:
            return True
        parts = _ORIGIN.fullmatch(origin)
        if parts is None:
            return False
        if self._loopback:
            return _is_loopback(parts[2])
        scheme, _, authority = origin.partition("://")
        default = ":443" if scheme == "https" else ":80"
        return authority.removesuffix(default) == host.lower().removesuffix(default)


@lru_cache(maxsize=256)
def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
