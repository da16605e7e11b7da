"""What one Redis server publishes to us: the connection that is subscribed, and whether it works.

It is opened again when it is lost, after a pause that grows and is random. That it is open proves
little: Redis may have dropped us, and we not have heard of it. So it is given up when an answer to
a subscription, or a probe, does not come although it should have. The probes are published over
another connection; see `redis_shard`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from clarion_fanout.redis_address import Address
from clarion_fanout.redis_probe import Probe
from clarion_fanout.redis_query import log_in
from clarion_fanout.redis_subscriptions import Listener, Subscriptions
from clarion_fanout.redis_wire import Reply, Wire

BUSY = 5
"""So many times longer may a probe take while other things arrive: they were published before."""

AGAIN_SECONDS = (0.1, 2.0)
"""The bounds of the pause before a subscription is tried again that was refused or ended."""


def pause(bounds: tuple[float, float], failures: int) -> float:
    """A random pause that doubles with each failure, from the first bound to the second."""
    least, most = bounds
    bound = min(most, least * 2 ** min(failures, 16))
    return random.uniform(bound / 2, bound)


class Intake:
    """See the module's text.

    subscriptions: those of the connection.
    primary: answers where to connect, once that is known.
    probe_channel: called for the channel of the probes; None if there is none that Redis takes.
    client: what the connection is called in Redis' `CLIENT LIST`.
    ended: called when a connection has ended, with the reason.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        *,
        primary: Callable[[], Awaitable[Address]],
        probe_channel: Callable[[], bytes | None],
        client: str,
        timeout_s: float,
        retry_s: tuple[float, float],
        ended: Callable[[str], None],
    ) -> None:
        self.subscriptions = subscriptions
        self.probe = Probe()
        self.address: Address | None = None
        """Where it is connected."""
        self._primary = primary
        self._probe_channel = probe_channel
        self._client = client
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._tell_ended = ended
        self._wire: Wire | None = None
        self._probing: bytes | None = None
        self._flushing = False
        self._rounds = 0  # of subscribing again, without a pause in which nothing was refused
        self._again_at = 0.0

    # Subscriptions

    def listen(self, channel: bytes, listener: Listener) -> bool:
        """See `Subscriptions.listen`."""
        done = self.subscriptions.listen(channel, listener)
        if not done:
            self._flush_soon()
        return done

    def adopt(self, slot: int, listeners: dict[bytes, Listener]) -> None:
        """See `Subscriptions.adopt`."""
        self.subscriptions.adopt(slot, listeners)
        self._flush_soon()

    @property
    def probing(self) -> bytes | None:
        """The channel of the probes, when they would come back."""
        return self._probing if self._probing in self.subscriptions.confirmed else None

    def renew_probe(self) -> None:
        """Looks for the channel of the probes anew."""
        channel = self._probe_channel()
        if self._probing is not None and self._probing != channel:
            self.probe.forget()
            self.subscriptions.forget(self._probing)
        self._probing = channel
        if channel is not None:
            self.listen(channel, self.probe)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._wire is not None and (data := self.subscriptions.commands(time.monotonic())):
            self._wire.write(data)

    def _received(self, replies: list[Reply]) -> None:
        self.subscriptions.received(replies)
        self._flush()  # answers make room for more

    # Life

    async def keep(self) -> NoReturn:
        """Keeps a connection open, for ever."""
        failures = 0
        while True:
            address = await self._primary()
            try:
                ended = await self._open(address)
            except OSError:
                pass  # whoever watches the probes says so
            else:
                opened = time.monotonic()
                self._tell_ended(await ended)
                if self.probe.proven > opened:
                    failures = 0  # it did work
            # Also after the first time: all workers of all instances may have been cut off.
            await asyncio.sleep(pause(self._retry_s, failures))
            failures += 1

    async def _open(self, address: Address) -> asyncio.Future[str]:
        """Opens the connection; the answer is done when that has ended."""
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def lost(reason: str) -> None:
            self._wire = None
            self.address = None
            self.subscriptions.lost()
            if not ended.done():
                ended.set_result(reason)

        wire, _ = await log_in(address, [], self._timeout_s, client=self._client)
        wire.hand_over(self._received, lost)
        self._wire = wire
        self.address = address
        self.probe.forget()
        self.subscriptions.connected()
        self.renew_probe()
        self._flush()
        return ended

    def look(self, now: float) -> None:
        """Looks at deadlines, and at what nobody listens to any more."""
        wire, subscriptions = self._wire, self.subscriptions
        if wire is None:
            subscriptions.sweep(now)
            return
        silent = now - wire.heard
        patience = self._timeout_s if silent > self._timeout_s else BUSY * self._timeout_s
        asked = subscriptions.waits_since()
        if self.probe.overdue(now) > patience:
            wire.abort("a probe did not come back")
        elif asked is not None and now - asked > patience:
            wire.abort("no answer in time")
        else:
            if now >= self._again_at:
                self._rounds = self._rounds + 1 if subscriptions.again() else 0
                self._again_at = now + pause(AGAIN_SECONDS, self._rounds)
            data = subscriptions.sweep(now) + subscriptions.commands(now)
            if data:
                wire.write(data)

    def abort(self, reason: str) -> None:
        """Gives the connection up."""
        if self._wire is not None:
            self._wire.abort(reason)

    async def close(self) -> None:
        """Ends the connection. The task that keeps it has ended."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
