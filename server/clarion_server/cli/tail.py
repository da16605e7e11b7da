"""What `clarion subscribe` knows: where it stands in each topic, and what a frame means.

No socket and no clock: text frames go in, events come out, and the edge (`cli.subscribe`) shows
them and obeys. After a lost connection every topic is asked for from its own position on, so
nothing is shown twice, and what could not be had is said.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
import orjson

from clarion_server import codes
from clarion_server.cli.terminal import Failure

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Between tries to connect, at most: the first doubles up to the longest. A server that restarts is
back in seconds; one that is down for long is not hammered."""

STEADY_S = 10.0
"""A connection that lived so long was a good one: the next pause is the first again."""

MAX_RETRY_S = 3600.0
"""A server that asks for more than an hour is not believed."""


class Frame(msgspec.Struct):
    """Any object from the server, as far as it matters here."""

    op: str = ""
    topic: str = ""
    epoch: str = ""
    offset: int | None = None
    ts: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)] = 0  # to the end of 9999
    data: msgspec.Raw = msgspec.Raw(b"null")
    recovered: bool | None = None
    user: str = ""
    reason: str = ""
    code: int | str = ""
    message: str = ""
    retry_ms: Annotated[float, msgspec.Meta(ge=0)] | None = None


_FRAMES = msgspec.json.Decoder(Frame)


class Welcomed(NamedTuple):
    user: str


class Shown(NamedTuple):
    """A message: `ts` Unix milliseconds, `offset` None where there is no history."""

    ts: int
    topic: str
    offset: int | None
    data: str


class Notice(NamedTuple):
    """A line about the subscription itself. `bad`: something went wrong."""

    text: str
    bad: bool = False


class Again(NamedTuple):
    """The topic is to be subscribed again after so many seconds."""

    topic: str
    seconds: float


class Goodbye(NamedTuple):
    """The server is about to close."""

    retry_s: float | None


Event: TypeAlias = Welcomed | Shown | Notice | Again | Goodbye


class Tail:
    """The topics that are watched, and the position that was reached in each."""

    def __init__(self, topics: Sequence[str], last: int) -> None:
        self._positions: dict[str, tuple[str, int] | None] = dict.fromkeys(topics)
        self._last = last

    @property
    def topics(self) -> Sequence[str]:
        """Those that are still wanted: the server may have refused some."""
        return tuple(self._positions)

    def subscription(self, topic: str) -> str:
        """The command that subscribes to `topic` from where it was left."""
        command: dict[str, object] = {"op": "subscribe", "topic": topic}
        position = self._positions[topic]
        if position is not None:
            command["since"] = {"epoch": position[0], "offset": position[1]}
        elif self._last:
            command["last"] = self._last
        return orjson.dumps(command).decode()

    def received(self, text: str) -> Iterator[Event]:
        """What a frame means. Raises `Failure` for one that is not of clarion.v1."""
        try:
            frame = _FRAMES.decode(text)
        except (msgspec.DecodeError, UnicodeError):
            advice = "Is --url the public port's /ws, of a server of this version?"
            raise Failure("the server sent something that is not clarion.v1", advice) from None
        if frame.op == "welcome":
            yield Welcomed(frame.user)
        elif frame.op == "goodbye":
            if codes.come_back(
                frame.code if isinstance(frame.code, int) else 0
            ):  # otherwise the close that follows says it
                yield self._goodbye(frame)
            yield Goodbye(_seconds(frame.retry_ms))
        elif frame.topic in self._positions:
            yield from self._about_topic(frame)
        elif frame.op == "error":
            yield Notice(f"error {frame.code}: {frame.message}", bad=True)

    def _about_topic(self, frame: Frame) -> Iterator[Event]:
        topic = frame.topic
        if frame.op == "message":
            position = self._positions[topic]
            if frame.offset is not None and position is not None:
                self._positions[topic] = (position[0], frame.offset)
            yield Shown(frame.ts, topic, frame.offset, bytes(frame.data).decode())
        elif frame.op == "subscribed":
            yield self._subscribed(frame)
        elif frame.op == "lost":
            self._positions[topic] = (frame.epoch, frame.offset or 0)
            text = f"{topic}: LOST some messages ({frame.reason}); goes on after {frame.offset}"
            yield Notice(text, bad=True)
        elif frame.op == "unsubscribed":
            del self._positions[topic]
            yield Notice(f"{topic}: unsubscribed by the server: {frame.reason}", bad=True)
        elif frame.op in ("join", "leave"):
            yield Notice(f"{topic}: {frame.op}")
        elif frame.op == "error":
            yield Notice(f"{topic}: {frame.message or frame.code} ({frame.code})", bad=True)
            wait = _seconds(frame.retry_ms)
            if wait is None:
                del self._positions[topic]
            else:
                yield Again(topic, wait)

    def _subscribed(self, frame: Frame) -> Notice:
        topic, before = frame.topic, self._positions[frame.topic]
        if frame.offset is None:
            return Notice(f"{topic}: subscribed (no history)")
        # What is recovered comes after this, and moves the offset message by message. The epoch
        # may be another one all the same: offsets count on in it.
        offset = frame.offset if before is None or frame.recovered is False else before[1]
        self._positions[topic] = (frame.epoch, offset)
        if frame.recovered is False:
            text = f"{topic}: LOST some messages since {before and before[1]} (recovered: false);"
            return Notice(f"{text} goes on after {frame.offset}", bad=True)
        if before is not None:
            return Notice(
                f"{topic}: subscribed again, nothing lost ({frame.offset - before[1]} missed)"
            )
        return Notice(f"{topic}: subscribed at offset {frame.offset}")

    def _goodbye(self, frame: Frame) -> Notice:
        wait = _seconds(frame.retry_ms)
        again = "" if wait is None else f"; to come back in {wait:.1f} s"
        return Notice(f"goodbye from the server: {frame.reason} ({frame.code}){again}", bad=True)


def _seconds(retry_ms: float | None) -> float | None:
    return None if retry_ms is None else min(retry_ms / 1000, MAX_RETRY_S)


def why_not_come_back(code: int, reason: str, has_token: bool) -> Failure | None:
    """The end of it, when a close with `code` means that trying again is of no use."""
    if code == codes.TOKEN_EXPIRED.code and has_token:
        return Failure("the token has expired", "Make another: clarion token --sub ...")
    if codes.come_back(code):
        return None
    advice = "What it was asked has to change first."
    if code == codes.UNAUTHORIZED.code:
        advice = "Pass a token with --token or CLARION_TOKEN; `clarion token` makes one."
    return Failure(f"the server closed the connection: {reason or 'no reason'} ({code})", advice)


class Backoff:
    """How long to wait before connecting again: full jitter, and never before the server's time."""

    def __init__(self, uniform: random.Random) -> None:
        self._random = uniform
        self._tries = 0

    def pause(self, retry_s: float | None = None) -> float:
        """Seconds. `retry_s`: the earliest that the server asked for."""
        # 2.0 ** 16 is beyond the longest pause, and a float.
        most = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._tries, 16))
        self._tries += 1
        return (retry_s or 0.0) + self._random.uniform(0, most)

    def lived(self, seconds: float) -> None:
        """A connection lasted so long."""
        if seconds >= STEADY_S:
            self._tries = 0
