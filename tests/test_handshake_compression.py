"""Agreeing on compression (RFC 7692, section 7.1): what we answer, and what others make of it."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.http11 import Request as LibraryRequest
from websockets.server import ServerProtocol

from clarion_server.deflate import compress, decompress
from clarion_server.handshake import Accepted, Refusal, Request, parse, upgrade
from support.examples import examples
from support.wire import handshake

NOTHING = "server_no_context_takeover; client_no_context_takeover"


def asked(*extensions: str, compress: bool = True) -> Accepted | Refusal:
    lines = [f"Sec-WebSocket-Extensions: {value}" for value in extensions]
    request = parse(handshake("/ws", *lines))
    assert isinstance(request, Request)
    return upgrade(request, compress=compress)


def agreed(answer: Accepted | Refusal) -> str | None:
    """The answer's `Sec-WebSocket-Extensions`."""
    assert isinstance(answer, Accepted)
    name = b"\r\nSec-WebSocket-Extensions: "
    _, found, value = answer.head.partition(name)
    assert name not in value
    return value.partition(b"\r\n")[0].decode() if found else None


@pytest.mark.parametrize(
    ("offer", "more", "window"),
    [
        ("permessage-deflate", "", 15),
        ("permessage-deflate; client_max_window_bits", "", 15),
        ("permessage-deflate;client_max_window_bits", "", 15),
        ("permessage-deflate; client_no_context_takeover", "", 15),
        ("permessage-deflate; client_max_window_bits=10", "client_max_window_bits=10", 15),
        ("permessage-deflate; server_max_window_bits=15", "server_max_window_bits=15", 15),
        ("permessage-deflate; server_max_window_bits=9", "server_max_window_bits=9", 9),
        ('permessage-deflate; server_max_window_bits="12"', "server_max_window_bits=12", 12),
        ("x-webkit-deflate-frame, permessage-deflate", "", 15),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", "", 15),
        ("permessage-deflate, permessage-deflate", "", 15),
    ],
)
def test_an_offer_that_we_can_meet_is_accepted(offer: str, more: str, window: int) -> None:
    got = asked(offer)
    assert agreed(got) == f"permessage-deflate; {NOTHING}" + (f"; {more}" if more else "")
    assert isinstance(got, Accepted)
    assert got.window == window


@pytest.mark.parametrize(
    "offer",
    [
        "permessage-bzip2",
        "permessage-deflate; server_max_window_bits=8",  # zlib has no such window
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_no_context_takeover=yes",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; no_such_parameter",
        "PERMESSAGE-DEFLATE",
        "permessage-deflate; " + "x" * 2000,
        ", ".join(["permessage-deflate"] * 400),
    ],
)
def test_an_offer_that_we_cannot_meet_is_declined(offer: str) -> None:
    """The connection goes on without; declining is never an error (section 5)."""
    got = asked(offer)
    assert agreed(got) is None
    assert isinstance(got, Accepted)
    assert got.window == 0


@pytest.mark.parametrize("header", ["permessage-deflate; =", 'permessage-deflate; a="', ";", "a b"])
def test_a_header_that_is_none_is_a_bad_request(header: str) -> None:
    got = asked(header)
    assert isinstance(got, Refusal)
    assert got.status == 400


def test_several_headers_are_one_list() -> None:
    got = asked("x-webkit-deflate-frame", "permessage-deflate; server_max_window_bits=10")
    assert agreed(got) == f"permessage-deflate; {NOTHING}; server_max_window_bits=10"


@pytest.mark.parametrize(
    "header",
    ["permessage-deflate", "permessage-deflate; client_max_window_bits", "permessage-;=", ""],
)
def test_where_no_namespace_compresses_nothing_is_agreed_on_or_looked_at(header: str) -> None:
    assert agreed(asked(header, compress=False)) is None
    assert asked(header, compress=False) == asked(compress=False) == asked()


names = st.sampled_from(
    ["server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits",
     "client_max_window_bits", "other"]
)  # fmt: skip
values = st.none() | st.integers(7, 16).map(str)
offers = st.lists(
    st.tuples(
        st.sampled_from(["permessage-deflate"] * 3 + ["other"]),
        st.lists(st.tuples(names, values), max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=examples(300))
@given(offers)
@example([("permessage-deflate", [("client_max_window_bits", None)])])
@example([("permessage-deflate", [])])
def test_our_answer_is_the_librarys(
    offers: list[tuple[str, list[tuple[str, str | None]]]],
) -> None:
    header = build_extension(offers)  # type: ignore[arg-type]
    library = ServerProtocol(extensions=[ServerPerMessageDeflateFactory(True, True)])
    library.receive_data(handshake("/ws", f"Sec-WebSocket-Extensions: {header}", protocol=""))
    (request,) = library.events_received()
    assert isinstance(request, LibraryRequest)
    expected = library.accept(request).headers.get("Sec-WebSocket-Extensions")
    got = asked(header)
    assert agreed(got) == expected
    assert isinstance(got, Accepted)
    assert bool(got.window) == (expected is not None)


@settings(max_examples=examples(200))
@given(
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(9, 15),
    st.none() | st.just(True) | st.integers(9, 15),
    st.binary(max_size=1500),
)
def test_the_librarys_client_takes_our_answer_and_both_read_each_other(
    server_nothing: bool,
    client_nothing: bool,
    server_bits: int | None,
    client_bits: int | bool | None,
    text: bytes,
) -> None:
    factory = ClientPerMessageDeflateFactory(
        server_nothing,
        client_nothing,
        server_bits,
        client_bits,
    )
    header = build_extension([(factory.name, list(factory.get_request_params()))])
    got = asked(header)
    value = agreed(got)
    assert isinstance(got, Accepted)
    assert value is not None
    ((name, params),) = parse_extension(value)
    accepted: list[Extension] = []
    client = factory.process_response_params(params, accepted)
    assert name == factory.name
    assert isinstance(client, PerMessageDeflate)
    assert client.remote_no_context_takeover
    assert client.local_no_context_takeover
    assert got.window == (server_bits or 15)
    for _ in range(2):  # each message is one by itself
        theirs = bytes(client.encode(Frame(Opcode.TEXT, text)).data)
        assert decompress(theirs, len(text)) == text
        if len(text) <= 1 << got.window:
            frame = Frame(Opcode.TEXT, compress(text, 6), rsv1=True)
            assert bytes(client.decode(frame).data) == text


@pytest.mark.parametrize(
    "header",
    [
        "permessage-deflate; a, " * 330,
        "," * 8000,
        "permessage-deflate" + ";a=1" * 1900,
        "permessage-deflate; " + "a;" * 240,
        'permessage-deflate;a="' + "\\" * 480,
        "permessage-deflate, " * 25,
        "a" * 500 + ";",
    ],
    ids=lambda value: value[:24],
)
def test_hostile_headers_are_cheap(header: str) -> None:
    """What is left to the library takes half a millisecond at most, a whole handshake a twentieth
    of that."""
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        asked(header, header)
        best = min(best, time.process_time() - began)
    assert best < 0.005  # ten times as much, for slow machines
