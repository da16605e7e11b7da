"""The channels that one connection is subscribed to, and those it should be. A machine without I/O.

    queued       somebody listens, and the command waits for its turn
    sent         it is on its way
    confirmed    Redis has answered: what is published from now on arrives
    ended        Redis refused it, or ended it unasked; `again` queues it anew
    lingering    one of these, but nobody listens any more; it is given up when it has been so for
                 a while, so that a topic whose only subscriber comes and goes costs Redis nothing

Commands leave in batches, and only so many are outstanding: 100,000 channels are subscribed in a
second or two without an answer that would fill Redis's output buffer. Redis Cluster takes one
slot a command (`SSUBSCRIBE`), so there the batches are per slot.

Answers carry no id. They come in the order of the commands, a line for each channel or an error
for the whole command; what comes out of that order was not asked for: Redis Cluster ends
subscriptions of a slot that has moved away.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import NamedTuple, Protocol

import hiredis

from clarion_fanout.redis_wire import Reply, pack

log = logging.getLogger(__name__)

BATCH = 500
"""Channels of one command: some 20 KB."""

OUTSTANDING = 8000
"""Channels without an answer; their answers are about 0.5 MB, far below any limit of Redis."""

_MESSAGES = frozenset({b"message", b"smessage"})
_CONFIRMED = frozenset({b"subscribe", b"ssubscribe"})
_ENDED = frozenset({b"unsubscribe", b"sunsubscribe"})


class Listener(Protocol):
    """Who gets what is published on a channel. None of it waits or raises."""

    def take(self, payload: bytes) -> None:
        """Takes a payload."""
        ...

    def subscribed(self) -> None:
        """From now on payloads arrive; before this they may have been missed."""
        ...

    def dropped(self) -> None:
        """Nobody had listened for a while: this listener is no longer used."""
        ...


class _Batch(NamedTuple):
    """A command on its way. channels: those without an answer yet."""

    wanted: bool
    channels: deque[bytes]
    sent: float


class Subscriptions:
    """See the module's text.

    linger_s: how long a channel lingers.
    slot_of: the slot of a channel where there are slots; then commands are sharded ones.
    ended: called with a channel that this connection can not, or no longer, be subscribed to, and
        why: an error of Redis, or nothing when it ended the subscription unasked.
    """

    def __init__(
        self,
        *,
        linger_s: float,
        ended: Callable[[bytes, str], None],
        slot_of: Callable[[bytes], int] | None = None,
    ) -> None:
        self._linger_s = linger_s
        self._slot_of = slot_of
        self._tell_ended = ended
        self._subscribe = b"SUBSCRIBE" if slot_of is None else b"SSUBSCRIBE"
        self._unsubscribe = b"UNSUBSCRIBE" if slot_of is None else b"SUNSUBSCRIBE"
        self._connected = False
        self.listeners: dict[bytes, Listener] = {}
        """Everybody who wants to hear, confirmed or not, and those who linger."""
        self.confirmed: set[bytes] = set()
        self._lingering: dict[bytes, float] = {}  # since when; the longest first
        self._queue: dict[bytes, None] = {}
        self._ended: dict[bytes, None] = {}
        self._sent: deque[_Batch] = deque()
        self._outstanding = 0
        self._leaving: dict[bytes, int] = {}  # how many commands to unsubscribe are on their way
        self._slots: dict[int, set[bytes]] = {}  # of the listeners
        self.payloads = 0
        """Payloads received."""
        self.interrupted = 0
        """Subscriptions that Redis refused, or ended by itself."""

    def listen(self, channel: bytes, listener: Listener) -> bool:
        """Wants to hear a channel; says whether it is confirmed already."""
        self._lingering.pop(channel, None)
        if channel not in self.listeners:
            self._queue[channel] = None
            if self._slot_of is not None:
                self._slots.setdefault(self._slot_of(channel), set()).add(channel)
        self.listeners[channel] = listener
        return channel in self.confirmed

    def unlisten(self, channel: bytes, now: float) -> None:
        """Nobody listens any more. The listener may be given payloads for a while yet."""
        if channel in self.listeners:
            self._lingering.setdefault(channel, now)

    def again(self) -> bool:
        """Queues what was refused or ended; says whether there was any."""
        ended, self._ended = self._ended, {}
        self._queue.update(ended)
        return bool(ended)

    def forget(self, channel: bytes) -> None:
        """Takes a listener out without a word to Redis or to itself."""
        if channel in self.listeners:
            self._remove(channel)
            if self._slot_of is not None:
                slot = self._slot_of(channel)
                channels = self._slots[slot]
                channels.remove(channel)
                if not channels:
                    del self._slots[slot]

    def _remove(self, channel: bytes) -> Listener:
        self._lingering.pop(channel, None)
        self._queue.pop(channel, None)
        self._ended.pop(channel, None)
        self.confirmed.discard(channel)
        return self.listeners.pop(channel)

    # Slots

    def slots(self) -> Collection[int]:
        """Those of the channels that somebody listens to."""
        return self._slots.keys()

    def release(self, slot: int) -> dict[bytes, Listener]:
        """Takes out all listeners of a slot, without a word to Redis, which ends subscriptions of
        a slot that it gives away. Those who linger are dropped; the others are to be heard of
        elsewhere."""
        channels = self._slots.pop(slot, None)
        if channels is None:
            return {}
        # A node may lose all its slots at once, with tens of thousands of channels.
        released = {channel: self.listeners.pop(channel) for channel in channels}
        self.confirmed -= channels
        for waiting in (self._queue, self._ended):
            if waiting:
                for channel in channels:
                    waiting.pop(channel, None)
        if self._lingering:
            for channel in channels:
                if self._lingering.pop(channel, None) is not None:
                    released.pop(channel).dropped()
        return released

    def adopt(self, slot: int, listeners: Mapping[bytes, Listener]) -> None:
        """Wants to hear, for listeners that were released elsewhere, the channels of a slot."""
        self.listeners.update(listeners)
        self._queue.update(dict.fromkeys(listeners))
        self._slots.setdefault(slot, set()).update(listeners)

    # The connection

    def connected(self) -> None:
        """There is a new connection: everything is to be subscribed again."""
        self.lost()
        self._connected = True
        for channel in list(self._lingering):
            self._drop(channel)

    def lost(self) -> None:
        """There is no connection."""
        self._connected = False
        self.confirmed.clear()
        self._sent.clear()
        self._leaving.clear()
        self._ended.clear()
        self._outstanding = 0
        self._queue = dict.fromkeys(self.listeners)

    def commands(self, now: float) -> bytes:
        """What should be sent now."""
        # A read brings some hundred answers; what fills the gap each leaves would be small change.
        if not self._connected or not self._queue or self._outstanding > OUTSTANDING - BATCH:
            return b""
        channels = list(islice(self._queue, OUTSTANDING - self._outstanding))
        for channel in channels:
            del self._queue[channel]
        return self._send(True, channels, now)

    def sweep(self, now: float) -> bytes:
        """What should be sent about channels that nobody has listened to for long."""
        over: list[bytes] = []
        for channel, since in self._lingering.items():
            if now - since < self._linger_s or len(over) >= OUTSTANDING:
                break
            over.append(channel)
        # What waits for its turn Redis does not know yet.
        known = [channel for channel in over if channel not in self._queue]
        for channel in over:
            self._drop(channel)
        if not self._connected:
            return b""
        for channel in known:
            self._leaving[channel] = self._leaving.get(channel, 0) + 1
        return self._send(False, known, now)

    def waits_since(self) -> float | None:
        """When the oldest command without an answer was sent."""
        return self._sent[0].sent if self._sent else None

    def _drop(self, channel: bytes) -> None:
        listener = self.listeners[channel]
        self.forget(channel)
        listener.dropped()

    def _send(self, wanted: bool, channels: list[bytes], now: float) -> bytes:
        name = self._subscribe if wanted else self._unsubscribe
        packed: list[bytes] = []
        for batch in self._batches(channels):
            packed.append(pack((name, *batch)))
            self._sent.append(_Batch(wanted, deque(batch), now))
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
                if isinstance(reply, hiredis.ReplyError):
                    self._refused(str(reply))
                continue
            if kind in _MESSAGES:
                self.payloads += 1
                listener = listeners.get(channel)
                if listener is not None:
                    try:
                        listener.take(payload)
                    except Exception:  # a bug; what else the connection brought goes on
                        log.exception("a payload on %r could not be taken", channel)
            elif kind in _CONFIRMED:
                if self._answered(True, channel):
                    self._confirm(channel)
            elif kind in _ENDED and not self._answered(False, channel):
                self._end(channel, "")

    def _answered(self, wanted: bool, channel: bytes) -> bool:
        """Whether this is the answer that is due next; then it is no longer."""
        if not self._sent:
            return False
        batch = self._sent[0]
        if batch.wanted is not wanted or batch.channels[0] != channel:
            return False
        batch.channels.popleft()
        if not batch.channels:
            self._sent.popleft()
        self._outstanding -= 1
        if not wanted:
            self._left(channel)
        return True

    def _left(self, channel: bytes) -> None:
        """A command to unsubscribe has its answer."""
        count = self._leaving.pop(channel, 0) - 1
        if count > 0:
            self._leaving[channel] = count

    def _confirm(self, channel: bytes) -> None:
        listener = self.listeners.get(channel)
        # Somebody may have come back after the command to unsubscribe was sent: its answer, and
        # that to another command to subscribe, are yet to come.
        if listener is not None and channel not in self._leaving:
            self._ended.pop(channel, None)
            self.confirmed.add(channel)
            listener.subscribed()

    def _refused(self, error: str) -> None:
        """A command failed as a whole."""
        if not self._sent:
            return
        slot = _moved_slot(error)
        if self._slot_of is not None and slot not in (
            None,
            self._slot_of(self._sent[0].channels[0]),
        ):
            # Redis ended subscriptions while our command to do so was on its way. What it told then
            # was taken for the answer, and this is the real one.
            return
        batch = self._sent.popleft()
        self._outstanding -= len(batch.channels)
        for channel in batch.channels:
            if batch.wanted:
                self._end(channel, error)
            else:
                self._left(channel)

    def _end(self, channel: bytes, reason: str) -> None:
        self.confirmed.discard(channel)
        # In the queue it is subscribed to again anyway.
        if channel in self.listeners and channel not in self._queue:
            self.interrupted += 1
            self._ended[channel] = None
            self._tell_ended(channel, reason)


def _moved_slot(error: str) -> int | None:
    """The slot of `MOVED slot host:port`."""
    words = error.split(" ", 2)
    return int(words[1]) if words[0] == "MOVED" and words[1].isdigit() else None
