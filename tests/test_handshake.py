"""The opening handshake: the quick way gives the library's answers, and refusals are plain HTTP."""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import NegotiationError
from websockets.http11 import Request as LibraryRequest
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from clarion_server.handshake import END, Refusal, Request, parse, response, upgrade
from clarion_server.proxy_header import SIGNATURE
from support.examples import examples

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""RFC 6455, section 1.3: the example's key and the answer to it."""

PLAIN = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}

SILENT = logging.getLogger("tests.silent")
SILENT.setLevel(logging.CRITICAL)


class Answer(NamedTuple):
    """What a client learns: the status, and of a 101 what was agreed on."""

    status: int
    accept: str | None = None
    subprotocol: str | None = None


class Pipe:
    """Bytes that were received, as `http.client` wants to have them."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def makefile(self, _mode: str) -> io.BytesIO:
        return self.file


def received(data: bytes) -> tuple[http.client.HTTPResponse, bytes, bytes]:
    """A response as the standard library reads it, its body, and what is left over."""
    pipe = Pipe(data)
    answer = http.client.HTTPResponse(cast(socket.socket, pipe))
    answer.begin()
    rest = pipe.file
    body = answer.read()
    return answer, body, b"" if rest.closed else rest.read()


def head(
    headers: Sequence[tuple[str, str]] | dict[str, str],
    line: str = "GET /ws HTTP/1.1",
) -> bytes:
    items = headers.items() if isinstance(headers, dict) else headers
    lines = [line, *(f"{name}: {value}" for name, value in items)]
    return "\r\n".join(lines).encode("latin-1") + END


def but(**changes: str | None) -> dict[str, str]:
    """The plain headers with some changed, added or (None) left out; `_` stands for `-`."""
    headers: dict[str, str | None] = dict(PLAIN)
    for name, value in changes.items():
        headers[name.replace("_", "-")] = value
    return {name: value for name, value in headers.items() if value is not None}


def ours(data: bytes) -> Answer:
    request = parse(data)
    answer = request if isinstance(request, Refusal) else upgrade(request)
    if isinstance(answer, Refusal):
        return Answer(answer.status)
    read, body, rest = received(answer.head)
    assert (body, rest) == (b"", b"")
    assert read.headers["Upgrade"] == "websocket"
    assert read.headers["Connection"] == "Upgrade"
    assert "Sec-WebSocket-Extensions" not in read.headers
    accept = read.headers["Sec-WebSocket-Accept"]
    return Answer(read.status, accept, read.headers["Sec-WebSocket-Protocol"])


def select(_library: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    if offered and "clarion.v1" not in offered:
        raise NegotiationError("another subprotocol")
    return Subprotocol("clarion.v1") if offered else None


def the_librarys(data: bytes) -> Answer:
    """What `websockets` answers, changed only where we differ on purpose."""
    library = ServerProtocol(select_subprotocol=select, logger=SILENT)
    library.receive_data(data)
    events = library.events_received()
    line, _, _ = data.partition(b"\r\n")
    if not events:
        written = library.data_to_send()[0]
        if is_other_method_with_body(line):
            return Answer(405)
        if not written:
            return closes_silently()
        status = int(written.split(b" ")[1])
        return long_line_is_a_large_head() if status == 414 else Answer(status)
    request = events[0]
    assert isinstance(request, LibraryRequest)
    if not is_visible(request.method) or not is_visible(request.path):
        return control_characters_in_the_request_line()
    if request.protocol == "HTTP/1.1" and len(request.headers.get_all("Host")) != 1:
        return host_is_a_must()
    answer = library.accept(request)
    if answer.status_code != 101:
        return Answer(answer.status_code)
    return Answer(101, answer.headers["Sec-WebSocket-Accept"], library.subprotocol)


# Where we differ from the library


def host_is_a_must() -> Answer:
    """RFC 9112, section 3.2; the library leaves it to us."""
    return Answer(400)


def closes_silently() -> Answer:
    """The library closes without a word; we say that it is no request."""
    return Answer(400)


def long_line_is_a_large_head() -> Answer:
    """The library has a status for each; PROTOCOL.md has one, 431."""
    return Answer(431)


def control_characters_in_the_request_line() -> Answer:
    """RFC 9112, section 3: neither a method nor a target has them, and neither is empty."""
    return Answer(400)


def is_visible(text: str) -> bool:
    return bool(text) and all("\x21" <= c <= "\x7e" for c in text)


def is_other_method_with_body(line: bytes) -> bool:
    """The library closes without a word, for want of the body; we say what is wrong: 405."""
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    methods = (b"POST", b"PUT", b"PATCH", b"DELETE", b"CONNECT", b"TRACE")
    return method in methods and is_visible(target.decode("latin-1")) and version == b"HTTP/1.1"


# Heads

SIXTEEN = base64.b64encode(bytes(range(16))).decode()
keys = st.sampled_from(
    [
        KEY,
        SIXTEEN,
        base64.b64encode(b"x" * 15).decode(),
        base64.b64encode(b"x" * 17).decode(),
        KEY.rstrip("="),
        KEY[:-1],
        KEY[:-3] + "x==",  # the unused bits are not zero
        KEY + "=",
        KEY[:8] + " " + KEY[8:],
        "-" + KEY[1:],
        "é" + KEY[1:],
        "",
    ]
)
variants: dict[str, st.SearchStrategy[str]] = {
    "Host": st.sampled_from(["server.example.com", "127.0.0.1:8000", "[::1]", "", "a b"]),
    "Upgrade": st.sampled_from(
        ["websocket", "WebSocket", "websocket, h2c", "websocket/13", "h2c", "", ",websocket,"]
    ),
    "Connection": st.sampled_from(
        [
            "Upgrade",
            "upgrade",
            "keep-alive, Upgrade",
            "Keep-Alive,Upgrade",
            "Upgrade, keep-alive",
            ", ,Upgrade",
            "keep-alive",
            "close",
            "Upgrade;",
            "",
        ]
    ),
    "Sec-WebSocket-Key": keys,
    "Sec-WebSocket-Version": st.sampled_from(["13", " 13 ", "13, 8", "8", "013", "13.0", ""]),
    "Sec-WebSocket-Protocol": st.sampled_from(
        [
            "clarion.v1",
            "clarion.v2",
            "clarion.v2, clarion.v1",
            "clarion.v1,other",
            "Clarion.v1",
            "clarion.v1, clarion.v1",
            "clarion v1",
            "é",
            "",
            ",",
        ]
    ),
    "Sec-WebSocket-Extensions": st.sampled_from(
        ["permessage-deflate; client_max_window_bits", "x; y=", '"', "permessage-deflate, x"]
    ),
    "Origin": st.sampled_from(["https://a.example", "null", "é"]),
    "Content-Length": st.sampled_from(["0", "5", "-0", "00", "zero"]),
    "Transfer-Encoding": st.sampled_from(["chunked", "identity"]),
}
required = list(PLAIN)
optional = [name for name in variants if name not in PLAIN]


@st.composite
def fields(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Headers: the plain ones, with a few things changed, left out, doubled and added."""
    fields = [(name, PLAIN[name]) for name in required]
    for _ in range(draw(st.integers(0, 3))):
        change = draw(st.sampled_from(["vary", "vary", "drop", "double", "add", "add", "other"]))
        if change == "other":
            # The control characters include CR, LF and NUL: attempts to inject a header.
            value = draw(st.text(st.characters(max_codepoint=255), max_size=30))
            name = draw(st.sampled_from(["X", "X-Y", "x y", "", "Host ", "é", "Cookie"]))
            fields.append((name, value))
        elif change == "add":
            name = draw(st.sampled_from(optional))
            fields.append((name, draw(variants[name])))
        elif fields:
            place = draw(st.integers(0, len(fields) - 1))
            name, value = fields[place]
            if change == "drop":
                del fields[place]
            elif name in variants:
                varied = (name, draw(variants[name]))
                fields[place : place + (change == "vary")] = [varied]
    if draw(st.booleans()):
        fields = draw(st.permutations(fields))
    return fields


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    line = draw(
        st.just("GET /ws HTTP/1.1")
        | st.builds(
            "{}{}{}{}HTTP/{}".format,
            st.sampled_from(
                ["GET", "GET", "HEAD", "POST", "DELETE", "get", "OPTIONS", "", "BR,EW"]
            ),
            st.sampled_from([" ", " ", " ", "  ", "\t"]),
            st.sampled_from(
                ["/ws", "/", "/ws?token=a.b.c&x", "http://host/ws", "*", "", "/é", "/a\rb", "/\0"]
            ),
            st.sampled_from([" ", " ", " ", "  "]),
            st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0", "1.1 "]),
        )
    )
    spacing = draw(st.sampled_from([": ", ": ", ":", ":\t ", " : "]))
    ending = draw(st.sampled_from(["", "", " ", "\t"]))
    cases: list[Callable[[str], str]] = [str, str, str.lower, str.upper]
    case = draw(st.sampled_from(cases))
    lines = [case(name) + spacing + value + ending for name, value in draw(fields())]
    eol = draw(st.sampled_from(["\r\n", "\r\n", "\r\n", "\n"]))
    data = eol.join([line, *lines]).encode("latin-1") + END
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + draw(st.binary(min_size=1, max_size=2)) + data[place:]
    return first_head(data)


def first_head(data: bytes) -> bytes:
    """What the edge takes for the head: everything to the first empty line."""
    return data.partition(END)[0] + END


@settings(max_examples=examples(300))
@given(heads())
@example(head(PLAIN))
@example(head(but(Connection="keep-alive, Upgrade", Sec_WebSocket_Protocol="clarion.v1")))
@example(head(but(Host=None)))
@example(head([*PLAIN.items(), ("Host", "another.example.com")]))
@example(head([*PLAIN.items(), ("Sec-WebSocket-Key", KEY)]))
@example(head([*PLAIN.items(), ("Sec-WebSocket-Version", "8")]))
@example(head([*PLAIN.items(), ("Connection", "close")]))
@example(head([*PLAIN.items(), ("Sec-WebSocket-Protocol", "a"), ("Sec-WebSocket-Protocol", "b")]))
@example(head(but(Content_Length="5")))
@example(head(but(Content_Length="0")))
@example(head(but(Transfer_Encoding="chunked")))
@example(head(but(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")))
@example(head(PLAIN, "GET /ws HTTP/1.0"))
@example(head(PLAIN, "GET http://server.example.com/ws HTTP/1.1"))
@example(head(PLAIN, "POST /ws HTTP/1.1"))
@example(head(but(Content_Length="5"), "POST /ws HTTP/1.1"))
@example(head(but(Content_Length="5"), "OPTIONS /ws HTTP/1.1"))
@example(head(PLAIN, "GET /" + "a" * 8177 + " HTTP/1.1"))
@example(head(PLAIN, "GET /" + "a" * 8178 + " HTTP/1.1"))
@example(head(but(X="a" * 8187)))
@example(head(but(X="a" * 8188)))
@example(head(PLAIN | {f"X-{n}": "" for n in range(123)}))
@example(head(PLAIN | {f"X-{n}": "" for n in range(124)}))
@example(head(but(X="a\r\n folded")))
@example(head(but(X="\x7f")))
@example(head(but(X="\x80\xff")))
def test_both_ways_give_the_same_answer(data: bytes) -> None:
    assert ours(data) == the_librarys(data)


@settings(max_examples=examples(100))
@given(st.binary(max_size=80), heads(), st.integers(min_value=0, max_value=400))
def test_arbitrary_bytes_get_an_answer(noise: bytes, data: bytes, place: int) -> None:
    for mixed in (noise + END, data[:place] + noise + data[place:]):
        assert ours(first_head(mixed)).status in (101, 400, 405, 426, 431, 505)


# What clients send


@pytest.mark.parametrize(
    "headers",
    [
        PLAIN,
        but(Connection="keep-alive, Upgrade", Upgrade="WebSocket"),
        but(Sec_WebSocket_Protocol="clarion.v1"),
        but(Sec_WebSocket_Extensions="permessage-deflate", Origin="https://a.example"),
    ],
    ids=["plain", "Firefox's Connection", "subprotocol", "extensions"],
)
def test_what_browsers_send_goes_the_quick_way(headers: dict[str, str]) -> None:
    request = parse(head(headers))
    assert isinstance(request, Request)
    assert request.plain
    assert ours(head(headers)) == Answer(101, ACCEPT, headers.get("Sec-WebSocket-Protocol"))


def test_a_request_is_read_into_its_parts() -> None:
    data = head(but(X_Thing=" \t a  b \t"), "GET /ws?token=a%20b&c=? HTTP/1.1")
    request = parse(data)
    assert isinstance(request, Request)
    assert (request.method, request.path, request.query) == ("GET", "/ws", "token=a%20b&c=?")
    assert request.headers["x-thing"] == "a  b"
    assert request.headers["sec-websocket-key"] == KEY
    assert request.head == data


def test_values_of_a_repeated_header_are_joined_in_order() -> None:
    request = parse(head([("Host", "a"), ("X", "1"), ("x", "2")]))
    assert isinstance(request, Request)
    assert request.headers["x"] == "1, 2"
    assert not request.plain


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_health_check_needs_no_headers_but_host(version: str) -> None:
    headers = {"Host": "a"} if version == "1.1" else {}
    request = parse(head(headers, f"GET /livez HTTP/{version}"))
    assert isinstance(request, Request)
    assert request.path == "/livez"


@pytest.mark.parametrize(
    ("headers", "line", "status"),
    [
        (but(Host=None), "GET /ws HTTP/1.1", 400),
        (but(Upgrade=None), "GET /ws HTTP/1.1", 426),
        (but(Connection="keep-alive"), "GET /ws HTTP/1.1", 426),
        (but(Sec_WebSocket_Version="8"), "GET /ws HTTP/1.1", 400),
        (but(Sec_WebSocket_Key=None), "GET /ws HTTP/1.1", 400),
        (but(Sec_WebSocket_Protocol="graphql-ws"), "GET /ws HTTP/1.1", 400),
        (PLAIN, "GET /ws HTTP/1.0", 505),
        (PLAIN, "POST /ws HTTP/1.1", 405),
        (but(Content_Length="5"), "PUT /ws HTTP/1.1", 405),
        (but(Content_Length="5"), "GET /ws HTTP/1.1", 400),
        (but(X="a" * 9000), "GET /ws HTTP/1.1", 431),
        (PLAIN | {f"X-{n}": "" for n in range(200)}, "GET /ws HTTP/1.1", 431),
        (PLAIN, "SSH-2.0-OpenSSH_9.6", 400),
    ],
)
def test_refusals_are_of_the_statuses_that_the_protocol_names(
    headers: dict[str, str], line: str, status: int
) -> None:
    assert ours(head(headers, line)).status == status


# Refusals as bytes

OF_OURS = {
    "content-type",
    "content-length",
    "cache-control",
    "connection",
    "allow",
    "upgrade",
    "sec-websocket-version",
}


@settings(max_examples=examples(100))
@given(heads())
@example(head(but(Sec_WebSocket_Version="8")))
@example(head(but(Sec_WebSocket_Key='"\\é')))
@example(head(but(Upgrade="é, \x80")))
@example(head(PLAIN, 'BRE"W /ws HTTP/1.1'))
def test_refusals_are_http_and_carry_no_header_of_the_clients(data: bytes) -> None:
    request = parse(data)
    answer = request if isinstance(request, Refusal) else upgrade(request)
    if not isinstance(answer, Refusal):
        return
    read, body, rest = received(answer.serialize())
    assert read.status == answer.status
    assert rest == b""
    assert {name.lower() for name in read.headers} <= OF_OURS
    error = json.loads(body)["error"]
    assert error == {"code": answer.code, "message": answer.message}
    assert len(read.headers["Content-Length"]) < 6
    if answer.status == 405:
        assert read.headers["Allow"] == "GET"
    if answer.status == 426:
        assert read.headers["Upgrade"] == "websocket"
        assert read.headers["Sec-WebSocket-Version"] == "13"


@settings(max_examples=examples(100))
@given(heads())
def test_no_value_that_is_read_can_end_a_line(data: bytes) -> None:
    """What is echoed, such as an origin, cannot become a header of its own."""
    request = parse(data)
    if isinstance(request, Request):
        for value in (*request.headers, *request.headers.values(), request.path, request.query):
            assert all(c == "\t" or " " <= c <= "~" or "\x80" <= c <= "\xff" for c in value), value


def test_a_response_is_complete_and_ends_the_connection() -> None:
    read, body, rest = received(response(503, b"busy", headers=(("Retry-After", "5"),)))
    assert (read.status, read.reason) == (503, "Service Unavailable")
    assert (read.headers["Retry-After"], read.headers["Connection"]) == ("5", "close")
    assert (body, rest) == (b"busy", b"")


def test_a_response_without_content_does_not_speak_of_its_length() -> None:
    read, body, rest = received(response(204, b"", headers=(("Vary", "Origin"),)))
    assert (read.status, body, rest) == (204, b"", b"")
    assert set(read.headers) == {"Cache-Control", "Connection", "Vary"}


def test_a_response_refuses_a_header_that_would_become_two() -> None:
    with pytest.raises(ValueError, match="header"):
        response(403, b"", headers=(("Access-Control-Allow-Origin", "https://a\r\nSet-Cookie: b"),))


@pytest.mark.parametrize("header", [b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n\r\n", SIGNATURE])
def test_a_proxy_header_that_nobody_expects_is_told_what_to_set(header: bytes) -> None:
    refusal = parse(header[: header.index(END) + len(END)])
    assert isinstance(refusal, Refusal)
    assert (refusal.status, "`proxy_protocol`" in refusal.message) == (400, True)
