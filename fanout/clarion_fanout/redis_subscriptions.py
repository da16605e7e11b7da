"""The channels that one connection is subscribed to, and those it should be. A machine without I/O.

    wanted       somebody listens; `SUBSCRIBE` is on its way, or waits for its turn
    confirmed    Redis has answered: what is published from now on arrives
    lingering    nobody listens any more; it is unsubscribed when it has been so for a while, so
                 that a topic whose only subscriber comes and goes costs Redis nothing

Commands leave in batches, and only so many are outstanding: 100,000 channels are subscribed in a
second or two without an answer that would fill Redis's output buffer. Redis Cluster takes one
slot a command (`SSUBSCRIBE`), so there the batches are per slot.

Answers carry no id. They come in the order of the commands, a line for each channel or an error
for the whole command; what comes out of that order was not asked for: Redis Cluster ends
subscriptions of a slot that has moved away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import hiredis

from clarion_fanout.redis_wire import Reply, pack

BATCH = 500
"""Channels of one command: some 20 KB."""

OUTSTANDING = 8000
"""Channels without an answer; their answers are about 0.5 MB, far below any limit of Redis."""

_MESSAGES = frozenset({b"message", b"smessage"})
_CONFIRMED = frozenset({b"subscribe", b"ssubscribe"})
_ENDED = frozenset({b"unsubscribe", b"sunsubscribe"})


class Listener(Protocol):
    """Who gets what is published on a channel."""

    def take(self, payload: bytes) -> None:
        """Takes a payload."""
        ...

    def subscribed(self) -> None:
        """From now on payloads arrive; before this they may have been missed."""
        ...

    def dropped(self) -> None:
        """Nobody had listened for a while: this listener is no longer used."""
        ...


class Subscriptions:
    """See the module's text.

    slot_of: the slot of a channel where there are slots; then commands are sharded ones.
    moved: called with a channel that this connection can not, or no longer, be subscribed to.
    """

    def __init__(
        self,
        *,
        linger_s: float,
        slot_of: Callable[[bytes], int] | None = None,
        moved: Callable[[bytes, str], None] | None = None,
    ) -> None:
        self._linger_s = linger_s
        self._slot_of = slot_of
        self._moved = moved
        self._subscribe = b"SUBSCRIBE" if slot_of is None else b"SSUBSCRIBE"
        self._unsubscribe = b"UNSUBSCRIBE" if slot_of is None else b"SUNSUBSCRIBE"
        self.listeners: dict[bytes, Listener] = {}
        """Everybody who wants to hear, confirmed or not, and those who linger."""
        self.confirmed: set[bytes] = set()
        self._lingering: dict[bytes, float] = {}  # since when; the longest first
        self._queue: dict[bytes, None] = {}  # to be subscribed
        self._sent: deque[tuple[bool, deque[bytes]]] = deque()
        self._outstanding = 0
        self.payloads = 0
        """Payloads received."""
        self.ended = 0
        """Subscriptions that Redis ended by itself."""

    def listen(self, channel: bytes, listener: Listener) -> bool:
        """Wants to hear a channel; says whether it is confirmed already."""
        self._lingering.pop(channel, None)
        if channel not in self.listeners:
            self._queue[channel] = None
        self.listeners[channel] = listener
        return channel in self.confirmed

    def unlisten(self, channel: bytes, now: float) -> None:
        """Nobody listens any more. The listener may be given payloads for a while yet."""
        if channel in self.listeners:
            self._lingering[channel] = now

    def lingers(self, channel: bytes) -> bool:
        return channel in self._lingering

    # The connection

    def connected(self) -> None:
        """There is a new connection: everything is to be subscribed again."""
        self.lost()
        for channel in self._lingering:
            self.listeners.pop(channel).dropped()
        self._lingering.clear()
        self._queue = dict.fromkeys(self.listeners)

    def lost(self) -> None:
        """There is no connection."""
        self.confirmed.clear()
        self._sent.clear()
        self._outstanding = 0

    def commands(self) -> bytes:
        """What should be sent now."""
        if not self._queue or self._outstanding >= OUTSTANDING:
            return b""
        channels = list(self._queue)[: OUTSTANDING - self._outstanding]
        for channel in channels:
            del self._queue[channel]
        return self._send(True, channels)

    def sweep(self, now: float) -> bytes:
        """What should be sent about channels that nobody has listened to for long."""
        over: list[bytes] = []
        for channel, since in self._lingering.items():
            if now - since < self._linger_s or len(over) >= OUTSTANDING:
                break
            over.append(channel)
        sent: list[bytes] = []
        for channel in over:
            del self._lingering[channel]
            self.listeners.pop(channel).dropped()
            self.confirmed.discard(channel)
            if self._queue.pop(channel, channel) is not None:
                # It was not waiting for its turn: Redis knows it, or is about to.
                sent.append(channel)
        return self._send(False, sent)

    def _send(self, wanted: bool, channels: list[bytes]) -> bytes:
        name = self._subscribe if wanted else self._unsubscribe
        packed: list[bytes] = []
        for batch in self._batches(channels):
            packed.append(pack((name, *batch)))
            self._sent.append((wanted, deque(batch)))
            self._outstanding += len(batch)
        return b"".join(packed)

    def _batches(self, channels: list[bytes]) -> list[list[bytes]]:
        if self._slot_of is None:
            groups = [channels]
        else:
            slots: dict[int, list[bytes]] = {}
            for channel in channels:
                slots.setdefault(self._slot_of(channel), []).append(channel)
            groups = list(slots.values())
        return [
            group[start : start + BATCH]
            for group in groups
            for start in range(0, len(group), BATCH)
        ]

    # What arrives

    def received(self, replies: list[Reply]) -> None:
        """Takes what the connection brought."""
        listeners = self.listeners
        for reply in replies:
            try:
                kind, channel, payload = reply
            except (TypeError, ValueError):
                # An error, or the answer to a command of the login.
                if isinstance(reply, hiredis.ReplyError):
                    self._refused(str(reply))
                continue
            if kind in _MESSAGES:
                self.payloads += 1
                listener = listeners.get(channel)
                if listener is not None:
                    listener.take(payload)
            elif kind in _CONFIRMED and self._answered(True, channel):
                self._confirm(channel)
            elif kind in _ENDED and not self._answered(False, channel):
                self._end(channel, "the slot has moved")

    def _answered(self, wanted: bool, channel: bytes) -> bool:
        """Whether this is the answer that is due next; then it is no longer."""
        if not self._sent or self._sent[0][0] is not wanted or self._sent[0][1][0] != channel:
            return False
        channels = self._sent[0][1]
        channels.popleft()
        self._outstanding -= 1
        if not channels:
            self._sent.popleft()
        return True

    def _confirm(self, channel: bytes) -> None:
        listener = self.listeners.get(channel)
        if listener is not None:
            self.confirmed.add(channel)
            listener.subscribed()

    def _refused(self, error: str) -> None:
        """A command failed as a whole."""
        if not self._sent:
            return
        wanted, channels = self._sent.popleft()
        self._outstanding -= len(channels)
        if wanted:
            for channel in channels:
                self._end(channel, error)

    def _end(self, channel: bytes, reason: str) -> None:
        self.ended += 1
        self.confirmed.discard(channel)
        if channel in self.listeners and self._moved is not None:
            self._moved(channel, reason)

    def again(self, channel: bytes) -> None:
        """Subscribes to a channel anew that was refused or ended."""
        if channel in self.listeners:
            self._queue[channel] = None

    def forget(self, channel: bytes) -> Listener | None:
        """Takes a listener out without a word to Redis: another connection serves it now."""
        self._lingering.pop(channel, None)
        self._queue.pop(channel, None)
        self.confirmed.discard(channel)
        return self.listeners.pop(channel, None)
