"""Backends that publish: one message after another, each until it is acknowledged.

Whatever comes back but an acknowledgement says nothing about whether the message was published.
So it is sent again, to another server, with the same idempotency key.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from chaos.journal import Journal, Position, Sent

ANSWER_SECONDS = 5.0
"""After this a request has failed. A server answers much sooner, unless it was stopped."""

FAT = 20_000
"""Bytes of a message that does not fit into what Redis sends a subscriber at once."""


class Publisher:
    """See the module's text.

    ports: the private ports of the servers that are there now.
    batch: the most messages that it sends in one request. pause_s: between two, about.
    """

    def __init__(
        self,
        name: str,
        topics: Sequence[str],
        *,
        batch: int,
        pause_s: float,
        key: str,
        ports: Callable[[], Sequence[int]],
        journal: Journal,
        chance: random.Random,
    ) -> None:
        self.name = name
        self.requests = 0
        self._topics = topics
        self._batch = batch
        self._pause_s = pause_s
        self._headers = {"Authorization": f"Bearer {key}"}
        self._ports = ports
        self._journal = journal
        self._chance = chance
        self._count = 0
        self._ends = False

    def end(self) -> None:
        """It publishes what it has begun, and no more."""
        self._ends = True

    async def run(self, session: aiohttp.ClientSession) -> None:
        """Returns when it was told to end, and everything is acknowledged."""
        while not self._ends:
            await self._publish(session, [self._new() for _ in range(self._size())])
            await asyncio.sleep(self._chance.expovariate(1 / self._pause_s))

    def _size(self) -> int:
        return self._chance.randint(1, self._batch)

    def _new(self) -> Sent:
        self._count += 1
        sent = Sent(
            f"{self.name}:{self._count}",
            self._chance.choice(self._topics),
            self.name,
            time.monotonic(),
        )
        self._journal.sent[sent.id] = sent
        return sent

    async def _publish(self, session: aiohttp.ClientSession, batch: Sequence[Sent]) -> None:
        messages = {sent.id: self._message(sent) for sent in batch}
        while left := [sent for sent in batch if sent.acked is None]:
            for sent in left:
                sent.tries += 1
            try:
                results = await self._ask(session, [messages[sent.id] for sent in left])
            except (aiohttp.ClientError, OSError, TimeoutError):
                results = []
            now = time.monotonic()
            for sent, result in zip(left, results, strict=False):
                if "offset" in result:
                    sent.acked = now
                    sent.position = Position(result["epoch"], result["offset"])
                elif result["error"]["code"] != "unavailable":
                    self._journal.oddities.append(f"{self.name} was refused: {result}")
            if any(sent.acked is None for sent in left):
                await asyncio.sleep(self._chance.uniform(0.02, 0.2))

    def _message(self, sent: Sent) -> dict[str, object]:
        fat = FAT if self._chance.random() < 0.03 else self._chance.randrange(200)
        return {"topic": sent.topic, "data": {"id": sent.id, "fat": "x" * fat}, "id": sent.id}

    async def _ask(
        self, session: aiohttp.ClientSession, messages: list[dict[str, object]]
    ) -> list[dict[str, Any]]:
        """One result for each message, or none at all. Raises `aiohttp.ClientError` and others."""
        ports = self._ports()
        if not ports:
            return []
        self.requests += 1
        base = f"http://127.0.0.1:{self._chance.choice(ports)}/v1/publish"
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._batch == 1:
                async with session.post(base, json=messages[0], headers=self._headers) as answer:
                    return [await answer.json()]
            body = {"messages": messages}
            async with session.post(f"{base}/batch", json=body, headers=self._headers) as answer:
                results: list[dict[str, Any]] = (await answer.json()).get("results", [])
                return results
