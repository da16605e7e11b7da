"""Where a client comes from, as far as it can be believed.

A connection has an address of its own. When that is one of our proxies', the client's is what the
proxy says: in a PROXY header (see `proxy_header`), in `X-Forwarded-For`, or both. Each proxy adds,
on the right, the address from which it was asked. So the list is read from the right for as long as
it names proxies of ours; the first that is none is the client, and everything to the left of it is
what the client says itself, which is not looked at. From anybody else the header means nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

HOPS = 16
"""Proxies behind each other at most. Nobody has more, and a header may name thousands."""

_LONGEST = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")


class Proxies:
    """The networks from which we believe what is said of others."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Raises `ValueError` for what is not a network."""
        self._networks: list[Network] = [ipaddress.ip_network(text) for text in networks]

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: Address) -> bool:
        """Whether the address is that of a proxy of ours."""
        return any(address in network for network in self._networks)

    def client(self, nearest: Address, forwarded: str) -> Address:
        """The client's address. nearest: who speaks to us; forwarded: `X-Forwarded-For`."""
        for _ in range(HOPS):
            if not self.trusts(nearest):
                break
            forwarded, _, last = forwarded.rpartition(",")
            before = parsed(last)
            if before is None:
                break  # a proxy that says nothing, or does not know
            nearest = before
        return nearest


def parsed(text: str) -> Address | None:
    """An address, with or without a port; None for anything else."""
    text = text.strip(" \t")
    if len(text) > _LONGEST or "%" in text:
        return None  # a zone means something on the machine that wrote it only
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or not (not port or (port[0] == ":" and _is_port(port[1:]))):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(port):
            return None
    try:
        return plain(ipaddress.ip_address(text))
    except ValueError:
        return None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


def plain(address: Address) -> Address:
    """An IPv4 address that was written as one of IPv6 (RFC 4291, section 2.5.5.2) as what it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def household(address: Address) -> int:
    """A number for all addresses that are one customer's: of IPv6 a /64, which one has whole."""
    if isinstance(address, ipaddress.IPv6Address):
        return 1 << 64 | int(address) >> 64
    return int(address)
