"""A subscriber that reads nothing until a test asks what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clarion_server.app import Worker
from clarion_server.options import Namespace
from support.server import publish
from support.wire import Wire, connected

TINY = 4096
"""A receive buffer that is full soon."""

BLOCK = "x" * 20_000

LATEST = Namespace(subscribe="everyone", publish="everyone", slow="latest")
"""Topics of which a client that is behind gets the newest of each key."""


@asynccontextmanager
async def blocked(worker: Worker, *topics: str) -> AsyncIterator[Wire]:
    """A client that has not taken what it was sent in `bare:block`, and subscribed to `topics`."""
    async with connected(worker.port, receive_buffer=TINY) as client:
        for topic in (*topics, "bare:block"):
            await client.subscribe(topic)
        while not worker.counters.windows:
            await publish(worker, "bare:block", BLOCK)
            await asyncio.sleep(0)
        yield client


async def heard(client: Wire, last: object) -> list[str]:
    """What else than blocks is said, up to the message `last`: op, topic and data or offset."""
    said: list[str] = []
    while True:
        message = await client.said()
        if message.get("data") != BLOCK:
            rest = message.get("data", message.get("offset"))
            said.append(f"{message['op']} {message.get('topic', '')} {rest}")
            if message.get("data") == last:
                return said
