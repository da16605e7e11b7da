"""PROXY headers, versions 1 and 2: right ones, wrong ones, and in any pieces."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.proxy_header import MOST, SIGNATURE, BadHeader, Proxied, is_possible, read

INET, INET6 = 0x11, 0x21


def binary(source: str, target: str, tlvs: bytes = b"", command: int = 0x21) -> bytes:
    """A header of version 2."""
    addresses = [ipaddress.ip_address(text) for text in (source, target)]
    family = INET if addresses[0].version == 4 else INET6
    body = b"".join(address.packed for address in addresses) + bytes(4) + tlvs
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2, "big") + body


GOOD = [
    (b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n", "203.0.113.9"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP6 2001:db8::9 fd00::1 0 443\r\n", "2001:db8::9"),
    (b"PROXY TCP6 ::ffff:203.0.113.9 fd00::1 1 443\r\n", "203.0.113.9"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (binary("203.0.113.9", "10.0.0.1"), "203.0.113.9"),
    (binary("2001:db8::9", "fd00::1"), "2001:db8::9"),
    (binary("203.0.113.9", "10.0.0.1", b"\x03\0\x04abcd" * 20), "203.0.113.9"),
    (binary("203.0.113.9", "10.0.0.1", command=0x20), None),  # the balancer's own check
    (SIGNATURE + b"\x20\x00\0\0", None),
    (SIGNATURE + b"\x21\x00\0\x02ab", None),  # of no known family
    (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), None),  # a Unix socket
]


@pytest.mark.parametrize(("header", "source"), GOOD)
def test_a_header_says_who_the_client_is_in_whatever_pieces_it_comes(
    header: bytes, source: str | None
) -> None:
    whole = header + b"GET / HTTP/1.1\r\n"
    for end in range(len(header)):
        assert is_possible(header[:end][:12])
        assert read(header[:end]) is None
    found = read(whole)
    expected = None if source is None else ipaddress.ip_address(source)
    assert found == Proxied(expected, len(header)) == read(bytearray(whole))


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 203.0.113.9 10.0.0.1 1 443\n\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 1\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 1 443 5\r\n",
        b"PROXY TCP4  203.0.113.9 10.0.0.1 1 443\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 01 443\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 1 65536\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 1 -1\r\n",
        b"PROXY TCP4 203.0.113.9:5 10.0.0.1 1 443\r\n",
        b"PROXY TCP4 2001:db8::9 fd00::1 1 443\r\n",
        b"PROXY TCP6 203.0.113.9 10.0.0.1 1 443\r\n",
        b"PROXY TCP6 [2001:db8::9] fd00::1 1 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 fd00::1 1 443\r\n",
        b"PROXY TCP4 \xd9\xa1.0.0.1 10.0.0.1 1 443\r\n",
        b"PROXY UDP4 203.0.113.9 10.0.0.1 1 443\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 96,
        b"proxy TCP4 203.0.113.9 10.0.0.1 1 443\r\n",
        b"POST / HTTP/1.1\r\n",
        SIGNATURE + b"\x11\x11\0\x0c" + bytes(12),  # version 1, in binary
        SIGNATURE + b"\x31\x11\0\x0c" + bytes(12),
        SIGNATURE + b"\x22\x11\0\x0c" + bytes(12),  # a command that there is not
        SIGNATURE + b"\x21\x11\0\x0b" + bytes(11),  # too short for its addresses
        SIGNATURE + b"\x21\x21\0\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\xff\xff",
        SIGNATURE + b"\x21\x11" + (MOST - 15).to_bytes(2, "big"),
        b"\r\n\r\n\0\r\nQUIX\n",
    ],
)
def test_what_is_no_header_is_refused(header: bytes) -> None:
    with pytest.raises(BadHeader):
        read(header)


@given(st.binary(max_size=200))
def test_nothing_that_is_sent_does_any_harm_or_is_waited_for_for_ever(data: bytes) -> None:
    for start in (b"", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"):
        try:
            found = read(start + data)
        except BadHeader:
            continue
        assert found is None or 0 < found.size <= len(start + data)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.binary(max_size=99))
def test_both_versions_say_the_same(
    source: ipaddress.IPv4Address, target: ipaddress.IPv4Address, port: int, rest: bytes
) -> None:
    line = f"PROXY TCP4 {source} {target} {port} {port}\r\n".encode()
    one, two = read(line + rest), read(binary(str(source), str(target)) + rest)
    assert one is not None
    assert two is not None
    assert one.source == two.source == source


def test_a_client_that_speaks_http_is_told_from_one_that_does_not_at_its_first_byte() -> None:
    assert not is_possible(b"G")
    assert not is_possible(b"PO")
    assert is_possible(b"P")
    assert is_possible(b"\r")
    assert not is_possible(b"\n")
