"""A subscriber of Server-Sent Events: it resumes with the last event's id, as browsers do.

A topic that could not be subscribed to is asked for by connecting again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import aiohttp

from chaos.journal import Entry, Journal, Kind, Log, Position
from chaos.subscriber import ANSWER_SECONDS, PAUSE_SECONDS, Temperament


class EventStream:
    """See the module's text. ports: the public ports of the servers that are there now."""

    def __init__(
        self,
        name: str,
        topics: Sequence[str],
        temperament: Temperament,
        *,
        ports: Callable[[], Sequence[int]],
        journal: Journal,
        chance: random.Random,
    ) -> None:
        self.name = name
        self._temperament = temperament
        self._ports = ports
        self._journal = journal
        self._chance = chance
        self._calm = False
        self._id = ""
        self._logs = {topic: Log(name, topic) for topic in topics}
        self._on: set[str] = set()
        journal.logs.extend(self._logs.values())

    def calm_down(self) -> None:
        """From now on it stays."""
        self._calm = True

    @property
    def standing(self) -> dict[str, Position | None]:
        """Where it stands in each topic; None where it is not subscribed now."""
        return {
            topic: log.position if topic in self._on else None for topic, log in self._logs.items()
        }

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Its life, which ends by cancellation."""
        while True:
            ports = self._ports()
            if ports:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    async with asyncio.timeout(self._stay()):
                        await self._visit(session, self._chance.choice(ports))
            self._on.clear()
            await asyncio.sleep(self._chance.uniform(0, 2 * PAUSE_SECONDS))

    def _stay(self) -> float | None:
        leaves_s = self._temperament.leaves_s
        return self._chance.expovariate(1 / leaves_s) if leaves_s and not self._calm else None

    async def _visit(self, session: aiohttp.ClientSession, port: int) -> None:
        """One connection, from its beginning to its end."""
        for log in self._logs.values():
            if not log.entries:
                log.asked = time.monotonic()
        asked = session.get(
            f"http://127.0.0.1:{port}/sse",
            params=[("topic", topic) for topic in self._logs],
            headers={"Last-Event-ID": self._id} if self._id else {},
            timeout=aiohttp.ClientTimeout(sock_connect=ANSWER_SECONDS),
        )
        async with asked as answer:
            if answer.status != 200:
                if answer.status != 503:
                    self._odd(f"was refused: {answer.status}")
                return
            async for name, id, data in _events(answer):
                if name == "error":
                    if data["code"] != "unavailable":
                        self._odd(f"was refused: {data}")
                    return
                if name != "goodbye":
                    self._take(name, data)
                # After that: what it says is the position up to here.
                self._id = id or self._id

    def _take(self, name: str, said: dict[str, Any]) -> None:
        topic = said["topic"]
        log = self._logs[topic]
        position = Position(said.get("epoch", ""), said["offset"])
        kind: Kind
        if name == "message":
            kind = "message"
        elif name == "lost":
            kind = "gap"
        elif name != "subscribed":
            self._odd(f"was told {said}")
            return
        elif topic in self._on:
            kind = "turn"
        elif "recovered" in said:
            kind = "resumed" if said["recovered"] else "gap"
        else:
            kind = "begin"
        if name == "subscribed":
            self._on.add(topic)
        elif topic not in self._on:
            self._odd(f"was told {said} before it was subscribed")
        id = said["data"]["id"] if kind == "message" else ""
        log.entries.append(Entry(time.monotonic(), kind, position, id))

    def _odd(self, text: str) -> None:
        self._journal.oddities.append(f"{self.name} {text}")


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Name, id and data of each event (HTML standard, 9.2.6)."""
    name, id, data = "message", "", ""
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.decode().partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                id = value
            elif field == "data":
                data = value
            elif not line:
                if data:
                    yield name, id, json.loads(data)
                name, id, data = "message", "", ""
