"""The PROXY protocol, versions 1 and 2: what a balancer says before it hands a client's bytes on.

https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt. Only a few bytes are ever held: version
1 is a line of at most 107, version 2 says how long it is, and more than `MOST` is refused. What
stands behind the addresses (TLVs) is passed over.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from clarion_server.addresses import Address, parsed, plain

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
MOST = 4096
"""Of version 2, bytes: a header with a client's certificate in its TLVs has some hundred."""

_LINE_BYTES = 107  # section 2.1
_HEAD = len(SIGNATURE) + 4
_PORTS = re.compile(r"(?:0|[1-9][0-9]{0,4})")
_LOCAL, _PROXIED = 0x20, 0x21
_INET, _INET6 = 0x11, 0x21


class Proxied(NamedTuple):
    """A header that was read.

    source: the client's address; None: that of the connection, because the proxy speaks for itself
        (a health check), or does not know.
    size: bytes of it, behind which the client's begin.
    """

    source: Address | None
    size: int


class BadHeader(ValueError):
    """Bytes that begin like a header and are none."""


def is_possible(data: bytes | bytearray) -> bool:
    """Whether `data`, which may be the beginning only, begins a header."""
    return any(data.startswith(start[: len(data)]) for start in (SIGNATURE, b"PROXY "))


def read(data: bytes | bytearray) -> Proxied | None:
    """Reads the header that `data` begins with; None when it is not complete yet.

    Raises `BadHeader`.
    """
    if data[:1] == SIGNATURE[:1]:
        return _read_binary(data)
    return _read_line(data)


def _read_line(data: bytes | bytearray) -> Proxied | None:
    end = data.find(b"\r\n", 0, _LINE_BYTES)
    if end < 0:
        if len(data) >= _LINE_BYTES:
            raise BadHeader("a line that does not end")
        if not is_possible(data):
            raise BadHeader("no PROXY header")
        return None
    try:
        words = bytes(data[:end]).decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise BadHeader("a line with characters beyond ASCII") from None
    match words:
        case ["PROXY", "UNKNOWN", *_]:
            return Proxied(None, end + 2)
        case ["PROXY", "TCP4" | "TCP6" as family, source, target, *ports] if len(ports) == 2:
            version = 4 if family == "TCP4" else 6
            addresses = [_address(text, version) for text in (source, target)]
            if all(_PORTS.fullmatch(port) and int(port) <= 65_535 for port in ports):
                return Proxied(addresses[0], end + 2)
        case _:
            pass
    raise BadHeader("a line of another form")


def _address(text: str, version: int) -> Address:
    address = parsed(text)
    # `parsed` also takes a port, and an IPv4 address that was written as one of IPv6.
    if address is None or (":" in text) != (version == 6) or "[" in text:
        raise BadHeader("an address that is none")
    return address


def _read_binary(data: bytes | bytearray) -> Proxied | None:
    if not is_possible(data[: len(SIGNATURE)]):
        raise BadHeader("no PROXY header")
    if len(data) < _HEAD:
        return None
    command, family = data[12], data[13]
    size = _HEAD + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXIED):
        raise BadHeader("another version or command")
    if size > MOST:
        raise BadHeader("a header that is too long")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return Proxied(None, size)
    length = {_INET: 4, _INET6: 16}.get(family)
    if length is None:
        return Proxied(None, size)  # section 2.2: what is not spoken of is not looked at
    if size < _HEAD + 2 * length + 4:
        raise BadHeader("too short for its addresses")
    source = ipaddress.ip_address(bytes(data[_HEAD : _HEAD + length]))
    return Proxied(plain(source), size)
