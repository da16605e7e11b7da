"""Which pages may connect. The attacks are tests by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.origins import Origins

APP = "https://app.example.com"
LIST = Origins([APP, "http://shop.example.com:8080", "https://[2001:db8::1]"], loopback=False)
HOST = "push.example.com"
DEVELOPMENT = Origins(["https://app.example.com"], loopback=True)


@pytest.mark.parametrize(
    "origin",
    [APP, "http://shop.example.com:8080", "https://[2001:db8::1]", "HTTPS://APP.Example.com"],
)
def test_listed_origins_may_connect(origin: str) -> None:
    """Schemes and hosts have no case (RFC 6454, section 4)."""
    assert LIST.allows(origin, HOST)


def test_the_case_of_the_configuration_does_not_matter() -> None:
    assert Origins(["https://App.Example.com"], loopback=False).allows(APP, HOST)


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("https://evil-app.example.com", id="suffix of the host"),
        pytest.param("https://evilapp.example.com", id="suffix of the label"),
        pytest.param("https://app.example.com.evil.net", id="prefix of the host"),
        pytest.param("https://evil.net/https://app.example.com", id="in the path"),
        pytest.param("https://evil.net?https://app.example.com", id="in the query"),
        pytest.param("https://evil.net#https://app.example.com", id="in the fragment"),
        pytest.param("https://app.example.com@evil.net", id="userinfo"),
        pytest.param("https://evil.net@app.example.com", id="userinfo before"),
        pytest.param("https://app.example.com:x@evil.net", id="userinfo with password"),
        pytest.param("https://example.com", id="parent domain"),
        pytest.param("https://a.app.example.com", id="subdomain"),
        pytest.param("http://app.example.com", id="other scheme"),
        pytest.param("https://app.example.com:8443", id="other port"),
        pytest.param("https://app.example.com:443", id="default port written out"),
        pytest.param("http://shop.example.com", id="port left out"),
        pytest.param("https://app.example.com.", id="trailing dot"),
        pytest.param("https://app.example.com/", id="trailing slash"),
        pytest.param("https://appXexample.com", id="dot as a wildcard"),
        pytest.param("https://app\N{FULLWIDTH FULL STOP}example.com", id="a dot of Unicode"),
        pytest.param("https://ap\N{CYRILLIC SMALL LETTER ER}.example.com", id="homoglyph"),
        pytest.param("https://app.example.com, https://evil.net", id="two headers joined"),
        pytest.param("https://evil.net https://app.example.com", id="a list of origins"),
        pytest.param(" https://app.example.com", id="leading space"),
        pytest.param("https://app.example.com\n", id="line break"),
        pytest.param("https://app.example.com\0.evil.net", id="NUL"),
        pytest.param("null", id="sandboxed frame or file"),
        pytest.param("", id="empty"),
        pytest.param("*", id="star"),
        pytest.param("file://", id="file"),
        pytest.param("chrome-extension://app.example.com", id="extension"),
        pytest.param("app.example.com", id="no scheme"),
        pytest.param("https://[2001:db8::2]", id="other IPv6 address"),
        pytest.param("https://2001:db8::1", id="IPv6 without brackets"),
        pytest.param("https://[2001:db8:0::1]", id="IPv6 spelt otherwise"),
    ],
)
def test_others_may_not(origin: str) -> None:
    assert not LIST.allows(origin, HOST)
    assert not DEVELOPMENT.allows(origin, HOST) or origin == APP


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_is_taken_for_a_listed_origin(before: str, after: str) -> None:
    for text in (before, before + APP, APP + after, before + APP + after):
        if text.lower() != APP:
            assert not LIST.allows(text, HOST), text


def test_without_an_origin_it_is_no_browser() -> None:
    """There is no page to protect anyone from; a token decides."""
    assert LIST.allows(None, HOST)
    assert DEVELOPMENT.allows(None, "localhost:8000")


def test_a_star_is_every_page() -> None:
    every = Origins(["*"], loopback=False)
    assert every.allows("https://anyone.example", HOST)
    assert every.allows("null", HOST)


# Pages that the server's own host serves


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://push.example.com", "push.example.com"),
        ("https://push.example.com", "push.example.com:443"),
        ("http://push.example.com", "push.example.com:80"),
        ("http://push.example.com:8000", "push.example.com:8000"),
        ("https://push.example.com", "PUSH.example.com"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ],
)
def test_a_page_from_our_own_host_may_connect(origin: str, host: str) -> None:
    assert LIST.allows(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        pytest.param("https://push.example.com:8443", "push.example.com", id="other port"),
        pytest.param("https://push.example.com", "push.example.com:8443", id="our port is another"),
        pytest.param("http://push.example.com", "push.example.com:443", id="other scheme's port"),
        pytest.param("https://push.example.com", "push.example.com:80", id="plain port"),
        pytest.param("https://push.example.com.", "push.example.com", id="trailing dot"),
        pytest.param("https://x.push.example.com", "push.example.com", id="subdomain"),
        pytest.param("https://example.com", "push.example.com", id="parent domain"),
        pytest.param("https://evil:443443", "evil:443", id="port with a port's tail"),
        pytest.param("ftp://push.example.com", "push.example.com", id="scheme that serves no page"),
        pytest.param("https://push.example.com", "", id="empty Host"),
        pytest.param("https://", "", id="nothing on both sides"),
        pytest.param("null", "null", id="null on both sides"),
        pytest.param("https://a@push.example.com", "a@push.example.com", id="userinfo"),
        pytest.param("https://a, b", "a, b", id="doubled headers"),
    ],
)
def test_a_page_from_elsewhere_may_not(origin: str, host: str) -> None:
    assert not LIST.allows(origin, host)


# Development: pages of this machine, and no others


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://LOCALHOST:3000",
        "http://app.localhost:5173",
        "http://127.0.0.1:8001",
        "http://127.8.9.10",
        "http://[::1]:8001",
    ],
)
def test_in_development_every_page_of_this_machine_may_connect(origin: str) -> None:
    assert DEVELOPMENT.allows(origin, "127.0.0.1:8000")
    assert not LIST.allows(origin, "127.0.0.1:8000")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost.evil.net",
        "http://evil-localhost",
        "http://evillocalhost",
        "http://localhost@evil.net",
        "http://127.0.0.1.evil.net",
        "http://127.0.0.1@evil.net",
        "http://128.0.0.1",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://[::2]",
        "http://[::ffff:10.0.0.1]",
        "http://localhost:port",
        "null",
    ],
)
def test_in_development_pages_of_other_machines_may_not(origin: str) -> None:
    assert not DEVELOPMENT.allows(origin, "127.0.0.1:8000")


def test_dns_rebinding_does_not_open_a_development_server() -> None:
    """The attacker's name points to 127.0.0.1, so that Host and Origin agree; it is not enough."""
    assert not DEVELOPMENT.allows("http://rebound.evil.net:8000", "rebound.evil.net:8000")
    assert not DEVELOPMENT.allows("http://192.168.0.7:8000", "192.168.0.7:8000")


def test_in_development_the_list_counts_too() -> None:
    assert DEVELOPMENT.allows(APP, "127.0.0.1:8000")
