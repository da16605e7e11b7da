"""Which node of a Redis Cluster has which slot, and who listens where. A machine without I/O.

Whoever listens to a channel is to be found at one *home*, that of the node which has the channel's
slot as far as we know; and at the home of nobody, as long as no node has. When a slot turns out to
be elsewhere its listeners move there in the same breath, so nobody is ever between two homes:

    learn    a node said where one slot is, in place of an answer (`MOVED`)
    adopt    a node said where all slots are

What nodes say differs while a slot moves. A word that sends a slot back and forth is therefore
heeded once in a while only. What is not heeded does no harm: a home goes on trying to subscribe.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Callable, Collection, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from clarion_fanout.redis_subscriptions import Listener

SLOTS = 16384

SETTLED_SECONDS = 0.1
"""A slot that was learned of so lately stays where it is. While it moves, either node may send us
to the other, as fast as we ask; that a node knows takes it some milliseconds."""


def slot_of(name: bytes) -> int:
    """The slot of a key or channel: of what stands in its first braces, if anything does."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return crc_hqx(name, 0) % SLOTS  # Redis' CRC16 is the one of XMODEM


class Range(NamedTuple):
    """Slots from `first` to `last`, and the name of the node that has them."""

    first: int
    last: int
    node: str


class Home(Protocol):
    """Where the listeners of a node's slots are."""

    def release(self, slot: int) -> dict[bytes, Listener]:
        """Gives away all listeners of a slot, by channel."""
        ...

    def adopt(self, slot: int, listeners: dict[bytes, Listener]) -> None:
        """Takes in listeners of a slot."""
        ...

    def renew_probe(self) -> None:
        """Called when its slots have changed: its own channel may not be in them any more."""
        ...


H = TypeVar("H", bound=Home)


class Slots(Generic[H]):
    """See the module's text.

    nobody: the home of slots that no node has.
    home: the home of a node, made if there was none.
    left: called with a home that has no slots any more.
    """

    def __init__(self, nobody: H, *, home: Callable[[str], H], left: Callable[[H], None]) -> None:
        self.owners: list[H] = [nobody] * SLOTS
        """The home of each slot."""
        self._nobody = nobody
        self._home = home
        self._left = left
        self._counts = {nobody: SLOTS}
        self._learned: dict[int, float] = {}

    @property
    def homes(self) -> Collection[H]:
        """Those that have slots, nobody's too."""
        return self._counts.keys()

    @property
    def complete(self) -> bool:
        """Whether every slot is some node's."""
        return self._nobody not in self._counts

    def learn(self, slot: int, node: str, now: float) -> None:
        """A node said that a slot is another's. now: monotonic seconds."""
        if now - self._learned.get(slot, -SETTLED_SECONDS) < SETTLED_SECONDS:
            return
        home = self._home(node)
        if self.owners[slot] is not home:
            self._learned[slot] = now
            self._move({slot: home})

    def adopt(self, layout: Sequence[Range]) -> bool:
        """A node said where all slots are. Says whether that is news."""
        self._learned.clear()
        owners: list[H] = [self._nobody] * SLOTS
        for first, last, node in layout:
            owners[first : last + 1] = [self._home(node)] * (last + 1 - first)
        moves = {
            slot: owner
            for slot, (owner, before) in enumerate(zip(owners, self.owners, strict=True))
            if owner is not before
        }
        self._move(moves)
        return bool(moves)

    def _move(self, moves: dict[int, H]) -> None:
        before = {slot: self.owners[slot] for slot in moves}
        counts = self._counts
        for slot, home in moves.items():
            self.owners[slot] = home
            counts[home] = counts.get(home, 0) + 1
        for home in before.values():
            counts[home] -= 1
        # Those without slots are no homes from here on: they would look for a channel in vain.
        empty = [home for home in dict.fromkeys(before.values()) if not counts[home]]
        for home in empty:
            del counts[home]
        # First, so that a probe is not taken for one of those who move.
        for home in {**dict.fromkeys(before.values()), **dict.fromkeys(moves.values())}:
            home.renew_probe()
        for slot, old in before.items():
            if listeners := old.release(slot):
                moves[slot].adopt(slot, listeners)
        for home in empty:
            if home is not self._nobody:
                self._left(home)
