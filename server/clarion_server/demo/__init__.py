"""`clarion demo`: replays real flights as notifications, so that there is something to look at.

The events of `flights` go to a server's private API at the pace of `replay`, each to the
topics `flights`, `airport:` of both its airports and `airline:`. Once through the week by default.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import TextIO
from urllib.parse import urlsplit

import aiohttp
import orjson

from clarion_server.demo import flights as demo_flights
from clarion_server.demo.flights import Event, Names
from clarion_server.demo.publisher import Message, Publisher, PublishError
from clarion_server.demo.replay import Replay

SPEED = 600.0
"""Ten minutes a second: a day in two and a half minutes, about 20 events a second by day."""

BATCH = 250
"""Events a request: 1,000 messages, some 500 KB, well under the API's limits."""

STATUS_S = 0.25
"""Between two status lines: often enough to look alive."""


def main(argv: list[str], *, api: str = "http://127.0.0.1:8001", key: str = "") -> int:
    """Runs the command and returns its exit status. `api` and `key` are its options' defaults.

    Ctrl-C and a closed pipe are the caller's to handle, as with every command.
    """
    names, flights = demo_flights.load()
    options = _parser(names, api, key).parse_args(argv)
    start: date = options.start
    end = names.last if options.days is None else start + timedelta(days=options.days - 1)
    events = demo_flights.events([f for f in flights if start <= f.departs.date() <= end])
    if options.dry_run:
        _print(events, names, sys.stdout)
        return 0
    try:
        asyncio.run(_run(options, names, events))
    except PublishError as error:
        print(f"clarion demo: cannot publish to {options.api}: {error}", file=sys.stderr)
        print(_advice(error), file=sys.stderr)
        return 1
    return 0


def _advice(error: PublishError) -> str:
    if error.status in (401, 403):
        return "The API wants a key: pass it with --key, or in CLARION_API_KEY."
    return "Is a server running there? `make serve` starts one; --api names another address."


def _parser(names: Names, api: str, key: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clarion demo",
        description="Replay a week of real flights from New York as notifications. "
        f"Source: {names.source}.",
    )

    def day(text: str) -> date:
        value = date.fromisoformat(text)
        if not names.first <= value <= names.last:
            raise argparse.ArgumentTypeError(f"not in {names.first} to {names.last}: {text}")
        return value

    parser.add_argument(
        "--speed", type=_positive, default=SPEED, help="simulated seconds a second (default: 600)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        metavar="DATE",
        type=day,
        default=names.first + timedelta(days=1),
        help="the first day, %(default)s by default: the blizzard's",
    )
    parser.add_argument(
        "--days", metavar="N", type=_count, help=f"days to replay (default: to {names.last})"
    )
    parser.add_argument("--loop", action="store_true", help="begin again at the end, for ever")
    parser.add_argument(
        "--api",
        metavar="URL",
        type=_url,
        default=api,
        help="the private API (default: %(default)s)",
    )
    parser.add_argument("--key", default=key, help="an API key (default: CLARION_API_KEY)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the events, one JSON object a line"
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1e6:  # the whole week in half a second
        raise argparse.ArgumentTypeError(f"not a speed: {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 366:
        raise argparse.ArgumentTypeError(f"not a number of days: {text}")
    return value


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise argparse.ArgumentTypeError(f"not an http:// address: {text}")
    return text


def _print(events: Sequence[Event], names: Names, out: TextIO) -> None:
    for event in events:
        line = {"topics": event.topics, "data": demo_flights.data(event, names), "id": event.id}
        print(orjson.dumps(line).decode(), file=out)


async def _run(options: argparse.Namespace, names: Names, events: Sequence[Event]) -> None:
    async with aiohttp.ClientSession(options.api.rstrip("/") + "/") as session:
        publisher = Publisher(session, options.key)
        status = Status(publisher, options.speed, sys.stderr)
        try:
            while True:
                await replay(publisher, status, names, events, options.speed)
                if not options.loop:
                    break
        finally:
            status.close()


async def replay(
    publisher: Publisher, status: Status, names: Names, events: Sequence[Event], speed: float
) -> None:
    """Publishes `events` once, at their pace."""
    # Part of every idempotency key: a second replay is not a repetition of the first.
    run = secrets.token_hex(4)
    pace = Replay(events, speed, time.monotonic())
    while not pace.done:
        due = pace.take(time.monotonic(), BATCH)
        await publisher.publish(
            [
                Message(event.topics, demo_flights.data(event, names), f"demo/{run}/{event.id}")
                for event in due
            ]
        )
        now = time.monotonic()
        status.show(now, pace.clock(now))
        await asyncio.sleep(min(pace.wait(now), STATUS_S))


class Status:
    """One line about the progress, rewritten in place; on anything but a terminal only the last."""

    def __init__(self, publisher: Publisher, speed: float, out: TextIO) -> None:
        self._publisher = publisher
        self._speed = speed
        self._out = out
        self._terminal = out.isatty()
        self._begun = self._shown = time.monotonic()
        self._shown_count = 0
        self._rate = 0.0
        self._line = ""

    def show(self, now: float, clock: datetime) -> None:
        passed = now - self._shown
        if passed < STATUS_S and self._line:
            return
        published = self._publisher.published
        if passed > 0:
            # Smoothed over a few lines, so that it can be read.
            self._rate += 0.3 * ((published - self._shown_count) / passed - self._rate)
        self._shown, self._shown_count = now, published
        self._line = f"{clock:%a %d %b %Y %H:%M}  {self._counts(self._rate)}  x{self._speed:g}"
        if self._terminal:
            self._out.write(f"\r{self._line}\x1b[K")
            self._out.flush()

    def close(self) -> None:
        """Ends the line; on anything but a terminal, writes the only one."""
        if self._terminal:
            self._out.write("\n")
        elif self._publisher.published:
            passed = max(0.001, time.monotonic() - self._begun)
            self._out.write(f"{self._counts(self._publisher.published / passed)}\n")

    def _counts(self, rate: float) -> str:
        publisher = self._publisher
        text = f"{publisher.published:,} messages published  {rate:,.0f}/s"
        if publisher.retries:
            text += f"  {publisher.retries} retries"
        if publisher.errors:
            text += f"  {publisher.errors} errors, the last: {publisher.last_error[:80]}"
        return text
