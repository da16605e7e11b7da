"""`clarion subscribe`: a live tail of topics, over a WebSocket like any client's."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
)
from websockets.typing import Subprotocol

from clarion_fanout.topics import is_topic, why_not_a_topic
from clarion_server import __version__, config
from clarion_server.cli.tail import (
    Again,
    Backoff,
    Goodbye,
    Notice,
    Shown,
    Tail,
    Welcomed,
    why_not_come_back,
)
from clarion_server.cli.terminal import (
    BOLD,
    CYAN,
    DIM,
    YELLOW,
    Failure,
    Paint,
    printable,
    put,
)
from clarion_server.option_values import is_loopback
from clarion_server.protocol import SUBPROTOCOL

DEFAULT_URL = "ws://127.0.0.1:8000/ws"
URL_VARIABLE, TOKEN_VARIABLE = "CLARION_URL", "CLARION_TOKEN"

MAX_MESSAGE_BYTES = 2 * 67_108_864
"""Twice the largest `limits.data_bytes` that can be configured."""

PATIENCE_S = 2.0
"""A welcome comes within milliseconds. Without a token, none at all may come."""

CLOSE_S = 1.0
"""For the server to finish our close: after Ctrl-C nobody wants to wait."""


def arguments(parser: argparse.ArgumentParser) -> None:
    environ = config.environment()
    parser.add_argument("topics", metavar="TOPIC", nargs="+")
    url = environ.get(URL_VARIABLE) or DEFAULT_URL
    parser.add_argument(
        "--url", default=url, help=f"of the WebSocket (default: {DEFAULT_URL}; also {URL_VARIABLE})"
    )
    token = environ.get(TOKEN_VARIABLE, "")
    parser.add_argument("--token", default=token, help=f"better in {TOKEN_VARIABLE}")
    parser.add_argument(
        "--last", type=int, default=0, metavar="N", help="begin with the newest N of the history"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the server's objects as they come, one a line"
    )
    parser.epilog = (
        "Messages go to standard output, everything else to standard error. A lost connection is\n"
        "made again, and what was missed in between is fetched from the topic's history."
    )


def run(options: argparse.Namespace) -> int:
    for topic in options.topics:
        if not is_topic(topic):
            raise Failure(f"{topic!r}: {why_not_a_topic(topic)}", status=2)
    if options.last < 0:
        raise Failure("--last must be 0 or more", status=2)
    return asyncio.run(_Subscriber(options).run())


class _Subscriber:
    def __init__(self, options: argparse.Namespace) -> None:
        self._url: str = options.url
        self._token: str = options.token
        self._tail = Tail(options.topics, options.last)
        self._backoff = Backoff(random.Random())
        self._screen = _Screen(options.topics, raw=options.json)
        self._retry_s: float | None = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        was_there = False
        while True:
            began, self._retry_s = loop.time(), None
            why = "connection closed"
            try:
                async with self._connection() as socket:
                    was_there = True
                    try:
                        await self._talk(socket)
                    finally:
                        await socket.close()  # to leave is no error, whatever the reason
            except ConnectionClosed as closed:
                self._backoff.lived(loop.time() - began)
                frame = closed.rcvd
                code, reason = (frame.code, frame.reason) if frame else (1006, "")
                failure = why_not_come_back(code, reason, bool(self._token))
                if failure is not None:
                    raise failure from None
                why = f"connection closed: {reason or 'without a word'} ({code})"
            except InvalidStatus as refused:
                why = self._refused(refused)
            except (OSError, TimeoutError, InvalidHandshake) as error:
                why = f"cannot connect to {self._url}: {_reason(error)}"
                if not was_there:
                    advice = "Is a server running? `clarion serve` starts one; --url: where it is."
                    raise Failure(why, advice) from None
            except (InvalidURI, ValueError):
                raise Failure(
                    f"--url {self._url} is no address", f"Such as {DEFAULT_URL}.", 2
                ) from None
            pause = self._backoff.pause(self._retry_s)
            self._screen.notice(f"{why}; again in {pause:.1f} s", bad=True)
            await asyncio.sleep(pause)

    def _connection(self) -> connect:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        # A proxy of the environment is meant for the world outside, never for this machine.
        here = is_loopback(urlsplit(self._url).hostname or "")
        return connect(
            self._url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            user_agent_header=f"clarion/{__version__}",
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            close_timeout=CLOSE_S,
            proxy=None if here else True,
        )

    async def _talk(self, socket: ClientConnection) -> None:
        """Shows what comes, until the connection ends, which raises `ConnectionClosed`."""
        loop = asyncio.get_running_loop()
        patience = None if self._token else loop.time() + PATIENCE_S
        due: dict[str, float] = {}
        while True:
            times = [*due.values(), *([patience] if patience else [])]
            try:
                async with asyncio.timeout_at(min(times, default=None)):
                    text = await socket.recv()
            except TimeoutError:
                now = loop.time()
                if patience is not None and patience <= now:
                    patience = None
                    self._screen.notice(
                        "no welcome yet: does this server want a --token?", bad=True
                    )
                for topic in [topic for topic, time in due.items() if time <= now]:
                    del due[topic]
                    await socket.send(self._tail.subscription(topic))
                continue
            self._screen.object(str(text))
            for event in self._tail.received(str(text)):
                match event:
                    case Welcomed(user):
                        patience = None
                        who = f"as {user}" if user else "anonymously"
                        self._screen.notice(f"connected to {self._url} {who}")
                        for topic in self._tail.topics:
                            await socket.send(self._tail.subscription(topic))
                    case Shown():
                        self._screen.message(event)
                    case Notice(line, bad):
                        self._screen.notice(line, bad=bad)
                    case Again(topic, seconds):
                        due[topic] = loop.time() + seconds
                    case Goodbye(seconds):
                        self._retry_s = seconds
            if not self._tail.topics:
                raise Failure("no topic is left to watch")

    def _refused(self, refused: InvalidStatus) -> str:
        response = refused.response
        status = response.status_code
        why = f"{self._url} refused the connection with status {status}"
        if status != 429 and status < 500:
            text = (response.body or b"").decode("utf-8", "replace").strip()[:200]
            advice = f"Is it the public port's /ws? It is {DEFAULT_URL} unless configured."
            raise Failure(f"{why}: {text}" if text else why, advice) from None
        wait = response.headers.get("Retry-After", "")
        self._retry_s = min(float(wait), 3600.0) if wait.isascii() and wait.isdigit() else None
        return why


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__


class _Screen:
    """Lines for people, or with `raw` for programs."""

    def __init__(self, topics: Sequence[str], raw: bool) -> None:
        self._raw = raw
        self._width = max(map(len, topics))
        self._out = Paint(sys.stdout)
        self._error = Paint(sys.stderr)

    def object(self, text: str) -> None:
        if self._raw:
            put(sys.stdout, printable(text) if sys.stdout.isatty() else text)

    def message(self, message: Shown) -> None:
        if self._raw:
            return
        time = datetime.fromtimestamp(message.ts / 1000)
        shown = time.strftime("%H:%M:%S.%f")[:-3]
        if time.date() != datetime.now().date():
            shown = time.strftime("%Y-%m-%d ") + shown
        topic = self._out(f"{message.topic:{self._width}}", CYAN)
        offset = self._out(f"{'-' if message.offset is None else message.offset:>6}", DIM)
        cells = (self._out(shown, DIM), topic, offset, printable(message.data))
        put(sys.stdout, "  ".join(cells))

    def notice(self, text: str, bad: bool = False) -> None:
        if self._raw and not bad:
            return  # the server's own object says it
        line = f"-- {printable(text)}"
        put(sys.stderr, self._error(line, BOLD, YELLOW) if bad else self._error(line, DIM))
