"""Where a client comes from, and what is believed of it."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.addresses import HOPS, Proxies, household, parsed

OURS = Proxies(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])


def client(nearest: str, forwarded: str) -> str:
    return str(OURS.client(ipaddress.ip_address(nearest), forwarded))


def test_what_a_stranger_says_means_nothing() -> None:
    assert client("198.51.100.1", "203.0.113.9") == "198.51.100.1"
    assert client("198.51.100.1", "10.1.1.1, 10.2.2.2") == "198.51.100.1"


def test_the_first_from_the_right_that_is_no_proxy_is_the_client() -> None:
    assert client("10.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert client("10.0.0.1", "203.0.113.9, 10.0.0.2,192.0.2.7 ,fd00::1") == "203.0.113.9"


def test_what_a_client_puts_in_front_of_its_own_address_is_not_looked_at() -> None:
    assert client("10.0.0.1", "1.1.1.1, 203.0.113.9") == "203.0.113.9"
    assert client("10.0.0.1", "1.1.1.1, 10.0.0.2, 203.0.113.9, 10.0.0.3") == "203.0.113.9"
    assert client("10.0.0.1", "garbage, 203.0.113.9") == "203.0.113.9"


def test_a_proxy_that_says_nothing_usable_is_the_client_itself() -> None:
    for forwarded in ("", " ", ",", "unknown", "203.0.113.9,", "1.2.3", "203.0.113.9, _hidden"):
        assert client("10.0.0.1", forwarded) == "10.0.0.1"


def test_the_nearest_proxy_of_a_client_that_is_one_is_the_last_that_was_named() -> None:
    assert client("10.0.0.1", "10.0.0.3, 10.0.0.2") == "10.0.0.3"


def test_a_header_that_names_thousands_of_proxies_is_read_no_further_than_it_makes_sense() -> None:
    assert client("10.0.0.1", ",".join(["203.0.113.9", *["10.0.0.2"] * 5000])) == "10.0.0.2"
    few = ",".join(["203.0.113.9", *["10.0.0.2"] * (HOPS - 2)])
    assert client("10.0.0.1", few) == "203.0.113.9"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9\t", "203.0.113.9"),
        ("203.0.113.9:65535", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[::ffff:203.0.113.9]:1", "203.0.113.9"),
    ],
)
def test_an_address_may_have_a_port(text: str, address: str) -> None:
    assert str(parsed(text)) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "unknown", "203.0.113", "203.0.113.999", "0x7f.1", "127.1", "01.02.03.04"),
        *("203.0.113.9:", "203.0.113.9:x", "203.0.113.9:123456", "203.0.113.9:\u0661"),
        *("[203.0.113.9", "[::1]x", "[::1]:", "[::1", "::1]", "fe80::1%eth0", "1::2::3", "\u0661"),
        "1" * 10_000,
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parsed(text) is None


@given(st.text())
def test_nothing_that_is_said_does_any_harm(text: str) -> None:
    OURS.client(ipaddress.ip_address("10.0.0.1"), text)


@given(st.ip_addresses(), st.text(alphabet="0123456789abcdef.,: []", max_size=60))
def test_whoever_is_no_proxy_cannot_seem_to_be_another(
    address: ipaddress.IPv4Address, said: str
) -> None:
    if not OURS.trusts(address):
        assert OURS.client(address, said) == address
        # Nor can it through a proxy, which adds its address on the right.
        if address not in ipaddress.ip_network("::ffff:0:0/96"):
            assert OURS.client(ipaddress.ip_address("10.0.0.1"), f"{said},{address}") == address


def test_a_customer_of_ipv6_has_a_whole_64() -> None:
    one, other, neighbour = (
        household(ipaddress.ip_address(text))
        for text in ("2001:db8::1", "2001:db8::ffff:1:2:3", "2001:db8:0:1::1")
    )
    assert one == other != neighbour
    assert household(ipaddress.ip_address("::1")) != household(ipaddress.ip_address("0.0.0.0"))


def test_a_network_must_be_one() -> None:
    for text in ("10.0.0.1/8", "localhost", "10.0.0.0/33", ""):
        with pytest.raises(ValueError, match=r"."):
            Proxies([text])
