"""`clarion subscribe`: a live tail of topics, by the Python client (`clarion_client`)."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from clarion_client import (
    Client,
    Closed,
    Ended,
    Event,
    Join,
    Leave,
    Lost,
    Message,
    Phase,
    Position,
    State,
    Subscribed,
)
from clarion_fanout.topics import is_topic, why_not_a_topic
from clarion_server import codes, config
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

DEFAULT_URL = "ws://127.0.0.1:8000/ws"
URL_VARIABLE, TOKEN_VARIABLE = "CLARION_URL", "CLARION_TOKEN"

MAX_MESSAGE_BYTES = 2 * 67_108_864
"""Twice the largest `limits.data_bytes` that can be configured."""

PATIENCE_S = 2.0
"""A welcome comes within milliseconds. Without a token, none at all may come."""

CLOSE_S = 1.0
"""For the server to finish our close: after Ctrl-C nobody wants to wait."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between tries to connect, at most. Somebody is watching: half of the client's own first."""

PROTOCOL_ERROR, NO_CLOSE_FRAME = 1002, 1006  # RFC 6455, section 7.4.1


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
        "--since",
        metavar="EPOCH:OFFSET",
        help="begin behind this position of a single TOPIC; with = if the epoch begins with a dash",
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
    tail = _Tail(options)
    with _told_to(tail):
        return asyncio.run(tail.run())


def _position(options: argparse.Namespace) -> Position | None:
    if options.since is None:
        return None
    epoch, _, offset = options.since.rpartition(":")
    if not (epoch and offset.isascii() and offset.isdigit()):
        raise Failure(f"--since {options.since} is no position, such as x8Qz:17", status=2)
    if len(set(options.topics)) > 1 or options.last:
        raise Failure("--since goes with a single topic, and without --last", status=2)
    return Position(epoch, int(offset))


class _Tail:
    """Shows what the client hears. Only a callback's failure cannot be raised; it ends the tail."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._url: str = options.url.partition("?")[0]  # a token is nobody's business
        self._topics: Sequence[str] = options.topics
        self._last: int = options.last
        self._since = _position(options)
        self._raw: bool = options.json
        self._screen = _Screen(options.topics, raw=self._raw)
        self._failure: Exception | None = None
        self._was_there = False
        self._has_token = bool(options.token)
        self._patience: asyncio.TimerHandle | None = None
        try:
            self._client = Client(
                options.url,
                token=options.token or None,
                on_state=self._on_state,
                loads=self._read,
                pause_s=(FIRST_PAUSE_S, LONGEST_PAUSE_S),
                close_s=CLOSE_S,
                max_message_bytes=MAX_MESSAGE_BYTES,
            )
        except ValueError as error:
            raise Failure(str(error), status=2) from None

    async def run(self) -> int:
        async with self._client as client:
            subscription = client.subscribe(*self._topics, since=self._since, last=self._last)
            self._stop = subscription.close
            try:
                async for event in subscription.events():
                    self._show(event)
            except Closed as closed:
                raise self._ending(closed) from None
        raise self._failure or Failure("no topic is left to watch")

    def notice(self, text: str, bad: bool = False) -> None:
        """A line about the connection, unless it is over already."""
        if self._failure is None:
            try:
                self._screen.notice(text, bad)
            except BrokenPipeError as error:
                self._fail(error)

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._stop()

    def _show(self, event: Event) -> None:
        if isinstance(event, Message):
            self._screen.message(event)
        else:
            self._screen.notice(_told(event), bad=isinstance(event, (Lost, Ended)))

    def _read(self, text: str) -> dict[str, Any]:
        """A message of the server, with its `data` as it was written."""
        if self._raw and self._failure is None:
            try:
                self._screen.object(text)
            except BrokenPipeError as error:
                self._fail(error)
        fields = _FIELDS.decode(text)
        return {
            name: bytes(value).decode() if name == "data" else msgspec.json.decode(value)
            for name, value in fields.items()
        }

    def _on_state(self, state: State) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if state.phase is Phase.CONNECTING and not self._has_token:
            loop = asyncio.get_running_loop()
            text = "no welcome yet: does this server want a --token?"
            self._patience = loop.call_later(PATIENCE_S, self.notice, text, True)
        elif state.phase is Phase.CONNECTED:
            self._was_there = True
            who = f"as {state.user}" if state.user else "anonymously"
            self.notice(f"connected to {self._url} {who}")
        elif state.phase is Phase.BACKING_OFF:
            if state.code == PROTOCOL_ERROR:
                advice = "Is --url the public port's /ws, of a server of this version?"
                what = "the server sent something that is not clarion.v1"
                self._fail(Failure(what, advice))
            elif state.code == NO_CLOSE_FRAME and not self._was_there:
                advice = "Is a server running? `clarion serve` starts one; --url: where it is."
                self._fail(Failure(f"{self._url}: {state.why}", advice))

    def _ending(self, closed: Closed) -> Failure:
        """Why the client will not come back, and what to do about it."""
        if closed.code == codes.TOKEN_EXPIRED.code:
            return Failure("the token has expired", "Make another: clarion token --sub ...")
        if closed.code == codes.UNAUTHORIZED.code:
            advice = f"Pass a token with --token or {TOKEN_VARIABLE}; `clarion token` makes one."
            return Failure(str(closed), advice)
        if closed.code < 1000:
            advice = f"Is it the public port's /ws? It is {DEFAULT_URL} unless configured."
            return Failure(f"{self._url}: {closed}", advice)
        return Failure(str(closed), "What it was asked has to change first.")


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _told(event: Subscribed | Lost | Join | Leave | Ended) -> str:
    topic = event.topic
    match event:
        case Subscribed(position=Position(_, before), newest=Position(_, newest), recovered=True):
            return f"{topic}: subscribed, nothing lost ({newest - before} missed)"
        case Subscribed(newest=Position(epoch, newest)):
            return f"{topic}: subscribed at offset {newest}, epoch {epoch}"
        case Subscribed():
            return f"{topic}: subscribed (no history)"
        case Lost(position=Position(_, offset), reason=reason):
            return f"{topic}: LOST some messages ({reason}); goes on after {offset}"
        case Lost(reason=reason):
            return f"{topic}: LOST some messages ({reason})"
        case Join(member=member):
            return f"{topic}: join {member.client} {member.user or ''}".rstrip()
        case Leave(member=member):
            return f"{topic}: leave {member.client} {member.user or ''}".rstrip()
        case Ended(error=error):
            return str(error)


@contextmanager
def _told_to(tail: _Tail) -> Generator[None]:
    """What the client writes to its log (why a connection was lost, when it tries again) is for
    whoever watches the tail."""
    log, handler = logging.getLogger("clarion_client"), _Handler(tail)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


class _Handler(logging.Handler):
    def __init__(self, tail: _Tail) -> None:
        super().__init__()
        self._tail = tail

    def emit(self, record: logging.LogRecord) -> None:
        self._tail.notice(record.getMessage(), bad=record.levelno >= logging.WARNING)


class _Screen:
    """Lines for people, or with `raw` for programs."""

    def __init__(self, topics: Sequence[str], raw: bool) -> None:
        self._raw = raw
        self._width = max(map(len, topics))
        self._out = Paint(sys.stdout)
        self._error = Paint(sys.stderr)

    def object(self, text: str) -> None:
        put(sys.stdout, printable(text) if sys.stdout.isatty() else text)

    def message(self, message: Message) -> None:
        if self._raw:
            return
        time = datetime.fromtimestamp(message.ts / 1000)
        shown = time.strftime("%H:%M:%S.%f")[:-3]
        if time.date() != datetime.now().date():
            shown = time.strftime("%Y-%m-%d ") + shown
        topic = self._out(f"{message.topic:{self._width}}", CYAN)
        offset = self._out(f"{'-' if message.offset is None else message.offset:>6}", DIM)
        cells = (self._out(shown, DIM), topic, offset, printable(str(message.data)))
        put(sys.stdout, "  ".join(cells))

    def notice(self, text: str, bad: bool = False) -> None:
        if self._raw and not bad:
            return  # the server's own object says it
        line = f"-- {printable(text)}"
        put(sys.stderr, self._error(line, BOLD, YELLOW) if bad else self._error(line, DIM))
