"""A careful client, written from clients/PROTOCOL.md alone: it keeps to the rules and notes all.

Its temperament decides how it makes life hard for the server: it stays, or leaves and comes back to
another instance, with a pause or without, or gives up single topics and asks for them again.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp

from chaos.journal import Entry, Journal, Kind, Log, Position

PAUSE_SECONDS = 0.1
"""Between attempts to connect. What the server asks for (`retry_ms`) would be longer than a run."""

ANSWER_SECONDS = 10.0
"""An attempt to connect that takes longer has failed."""

_CLOSING = aiohttp.ClientWSTimeout(ws_close=0.2)


class Temperament(NamedTuple):
    """leaves_s, pauses_s: how long it stays connected, and away, about; 0: it stays.
    drops_s: how long it keeps a topic, about, before it unsubscribes for a moment; 0: for good.
    forgets: whether it comes back as somebody new, who knows no positions.
    """

    leaves_s: float = 0.0
    pauses_s: float = 0.05
    drops_s: float = 0.0
    forgets: bool = False


class Topic:
    """A topic that it wants, on the present connection."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.state = "none"
        """none, asked (`subscribe` is unanswered), on, or leaving (`unsubscribe` is unanswered)."""


class Subscriber:
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
        self.connections = 0
        self._temperament = temperament
        self._ports = ports
        self._journal = journal
        self._chance = chance
        self._lives = 0
        self._calm = False
        self._asks = 0
        self._topics = {topic: Topic(self._new_log(topic)) for topic in topics}
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    def _new_log(self, topic: str) -> Log:
        name = self.name if not self._lives else f"{self.name}.{self._lives}"
        log = Log(name, topic)
        self._journal.logs.append(log)
        return log

    def calm_down(self) -> None:
        """From now on it stays, with all its topics."""
        self._calm = True

    @property
    def standing(self) -> dict[str, Position | None]:
        """Where it stands in each topic; None where it is not subscribed now."""
        return {
            name: topic.log.position if topic.state == "on" else None
            for name, topic in self._topics.items()
        }

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Its life, which ends by cancellation."""
        while True:
            ports = self._ports()
            if ports:
                with suppress(aiohttp.ClientError, OSError, TimeoutError):
                    await self._visit(session, self._chance.choice(ports))
            await asyncio.sleep(self._about(PAUSE_SECONDS))
            temperament = self._temperament
            if temperament.leaves_s and not self._calm:
                await asyncio.sleep(self._about(temperament.pauses_s))
                if temperament.forgets:
                    self._lives += 1
                    for topic in self._topics.values():
                        topic.log.over = True
                        topic.log = self._new_log(topic.log.topic)

    def _about(self, seconds: float) -> float:
        return min(self._chance.expovariate(1 / seconds), 4 * seconds) if seconds else 0.0

    async def _visit(self, session: aiohttp.ClientSession, port: int) -> None:
        """One connection, from its beginning to its end."""
        url = f"http://127.0.0.1:{port}/ws"
        async with asyncio.timeout(ANSWER_SECONDS):
            socket = await session.ws_connect(
                url, protocols=["clarion.v1"], max_msg_size=0, timeout=_CLOSING
            )
        self.connections += 1
        self._socket = socket
        for topic in self._topics.values():
            topic.state = "none"
        try:
            async with asyncio.TaskGroup() as group:
                tasks = group.create_task(self._read(socket)), group.create_task(self._act())
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        finally:
            self._socket = None
            for topic in self._topics.values():
                topic.state = "none"
            await socket.close()

    async def _act(self) -> None:
        """Does what its temperament says; returns when it leaves."""
        temperament = self._temperament
        until = time.monotonic() + self._about(temperament.leaves_s)
        while self._calm or not temperament.leaves_s or time.monotonic() < until:
            await asyncio.sleep(self._about(0.05))
            often = 0.05 / temperament.drops_s if temperament.drops_s else 0.0
            topic = self._topics[self._chance.choice(list(self._topics))]
            if self._chance.random() < often and topic.state == "on" and not self._calm:
                topic.state = "leaving"
                await self._send(op="unsubscribe", topic=topic.log.topic)

    async def _send(self, **fields: object) -> None:
        if self._socket is not None:
            self._asks += 1
            with suppress(aiohttp.ClientError, OSError):  # whoever reads notices, too
                await self._socket.send_str(json.dumps({"id": self._asks, **fields}))

    async def _subscribe(self, topics: Sequence[Topic]) -> None:
        wishes: list[dict[str, object]] = []
        for topic in topics:
            wish: dict[str, object] = {"topic": topic.log.topic}
            position = topic.log.position
            if position is None:
                topic.log.asked = time.monotonic()
            else:
                wish["since"] = position._asdict()
            topic.state = "asked"
            wishes.append(wish)
        await self._send(op="subscribe", topics=wishes)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Handles what the server says; returns at the end of the connection."""
        async with asyncio.TaskGroup() as group:
            while True:
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                said = json.loads(message.data)
                match said["op"]:
                    case "welcome":
                        await self._subscribe(list(self._topics.values()))
                    case "goodbye":
                        if said["code"] >= 4500:
                            self._odd(f"was sent away for good: {said}")
                    case "error":
                        topic = self._topics.get(said.get("topic", ""))
                        if said["code"] != "unavailable" or topic is None:
                            self._odd(f"was refused: {said}")
                        else:
                            topic.state = "refused"
                            pause = min(said["retry_ms"] / 1000, 0.5)
                            group.create_task(self._ask_again(topic, pause))
                    case "unsubscribed":
                        topic = self._topics[said["topic"]]
                        if topic.state != "leaving":
                            self._odd(f"was unsubscribed: {said}")
                        topic.state = "left"
                        pause = self._about(self._temperament.drops_s / 4)
                        group.create_task(self._ask_again(topic, pause))
                    case _:
                        self._take(said)

    async def _ask_again(self, topic: Topic, pause: float) -> None:
        await asyncio.sleep(pause)
        if topic.state in ("refused", "left"):
            await self._subscribe([topic])

    def _take(self, said: dict[str, Any]) -> None:
        """Notes what concerns a topic's stream."""
        topic = self._topics[said["topic"]]
        log = topic.log
        position = Position(said.get("epoch", ""), said["offset"])
        now = time.monotonic()
        if said["op"] == "message":
            self._expect(topic, ("on", "leaving"), said)
            log.entries.append(Entry(now, "message", position, said["data"]["id"]))
        elif said["op"] == "lost":
            self._expect(topic, ("on", "leaving"), said)
            log.entries.append(Entry(now, "gap", position))
        elif said["op"] == "subscribed" and "id" in said:
            self._expect(topic, ("asked",), said)
            topic.state = "on"
            log.entries.append(Entry(now, _kind(log, said), position))
        elif said["op"] == "subscribed":
            self._expect(topic, ("on", "leaving"), said)
            log.entries.append(Entry(now, "turn", position))
        else:
            self._odd(f"was told {said}")

    def _expect(self, topic: Topic, states: tuple[str, ...], said: dict[str, Any]) -> None:
        if topic.state not in states:
            self._odd(f"was told {said}, while the topic's state was {topic.state}")

    def _odd(self, text: str) -> None:
        self._journal.oddities.append(f"{self.name} {text}")


def _kind(log: Log, said: dict[str, Any]) -> Kind:
    """What an answer to `subscribe` is to the log."""
    if log.position is None:
        return "begin"
    return "resumed" if said["recovered"] else "gap"
