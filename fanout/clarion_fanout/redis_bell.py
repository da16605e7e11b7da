"""The bell at an inbox: rings when an entry has come.

It listens with a blocking `XREAD`, on a connection of its own, since commands that share one would
wait behind it. It takes nothing, so a bell that rings too often, or at two workers, does no harm;
and one that does not ring costs time, as its worker looks now and then by itself.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_pipeline import Pipeline
from clarion_fanout.redis_place import Place
from clarion_fanout.redis_query import login
from clarion_fanout.redis_wire import Argument, Reply, connect, pack

BLOCK_SECONDS = 5.0
"""How long Redis holds a question that it has no answer to. An idle bell asks so often, and notices
so late that its connection is dead."""

PAUSE_SECONDS = 1.0
"""Before it connects again, about."""


class Bell:
    """See the module's text.

    ring: called with the id of an entry that has come.
    client: how the connection calls itself in `CLIENT LIST`.
    """

    def __init__(
        self,
        place: Place,
        inbox: bytes,
        ring: Callable[[bytes], None],
        *,
        client: str,
        timeout_s: float,
    ) -> None:
        self._place = place
        self._inbox = inbox
        self._ring = ring
        self._client = client
        self._timeout_s = timeout_s
        self._after = b""
        self._armed = asyncio.Event()

    def arm(self, after: bytes) -> None:
        """Rings once, when there is an entry behind `after`."""
        self._after = after
        self._armed.set()

    async def run(self) -> None:
        """Listens until it is cancelled."""
        while True:
            try:
                await self._listen()
            except (OSError, BrokerUnavailable):  # TimeoutError is one
                await asyncio.sleep(random.uniform(0.5, 1) * PAUSE_SECONDS)

    async def _listen(self) -> None:
        address = self._place.shard.address
        if address is None:
            raise BrokerUnavailable("it has not been found yet")
        pipeline = Pipeline(self._place.name)
        wire = await connect(address, pipeline.received, pipeline.lost, self._timeout_s)
        pipeline.attach(wire)
        try:
            for command in login(address, self._client):
                await _answer(pipeline, command, self._timeout_s)
            while True:
                await self._armed.wait()
                block_ms = int(BLOCK_SECONDS * 1000)
                command = (
                    *("XREAD", "COUNT", 1, "BLOCK", block_ms),
                    *("STREAMS", self._inbox, self._after),
                )
                reply = await _answer(pipeline, command, BLOCK_SECONDS + self._timeout_s)
                if reply is not None:
                    [[_, [[entry, _]]]] = reply
                    self._armed.clear()
                    self._ring(entry)
        finally:
            await pipeline.close()


async def _answer(pipeline: Pipeline, command: tuple[Argument, ...], seconds: float) -> Reply:
    async with asyncio.timeout(seconds):
        [reply] = await pipeline.send(pack(command), 1)
    if isinstance(reply, hiredis.ReplyError):
        raise BrokerUnavailable(str(reply))
    return reply
