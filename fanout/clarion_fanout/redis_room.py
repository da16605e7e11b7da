"""What a worker knows of one topic's presence in Redis, and has not told it yet. A machine
without I/O.

    unsent    changes that Redis has not been told of
    aloft     a call is on its way; what changes meanwhile waits for the next one
    held      Redis has our lease, as far as we know, and with it all that we have told
    quiet     all that there is to do is to renew the lease, which is done for many rooms together

Being told the same twice does no harm, so what got no answer is told again. Redis may also know
less than we told it, or more: it lost its data, or they stepped back when it restarted or failed
over, or it was away for so long that we gave up noting what to tell it. Then we are in doubt: all
members are told again, and we walk through what it has of ours, to take back those that have left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple, TypeVar, cast

import orjson

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.presence import user_json
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_scripts import PRESENCE, PRESENCE_COUNT
from clarion_fanout.redis_wire import Argument, Reply, pack

T = TypeVar("T")

REMOVED = 500
"""Members of dead workers that one call removes: 1 ms, or 2 with announcements, in which Redis does
nothing else."""

WALKED = 500
"""Entries of ours that are looked at together when we are in doubt."""

_UNKNOWN, _BEING_REMOVED = 0, 3  # what presence.lua calls a lease


def member_keys(keys: Keys, topic: str) -> tuple[bytes, bytes]:
    """The keys of presence.lua and presence_read.lua."""
    prefix = keys.presence(topic)
    return prefix + b":l", prefix + b":m"


def count_keys(keys: Keys, topic: str) -> tuple[bytes, bytes]:
    """The keys of presence_count.lua. Others, so that a namespace may come to keep more or less."""
    prefix = keys.presence(topic)
    return prefix + b":cl", prefix + b":c"


class House(NamedTuple):
    """What all rooms of a worker have in common.

    worker: names the process among all that share the shards, as clients are named.
    lease_ms: how long its members outlive it.
    publish: the command with which announcements reach a topic's channel.
    """

    keys: Keys
    worker: bytes
    lease_ms: int
    publish: bytes

    @property
    def kept_ms(self) -> int:
        """How long Redis keeps what nobody renews: the others must have had the time to announce
        that it is over."""
        return 4 * self.lease_ms


class Landing(NamedTuple):
    """What became of a call.

    announced: arrivals and departures. removed: members of dead workers.
    again: whether more is to be done by another call at once.
    """

    announced: int = 0
    removed: int = 0
    again: bool = False


def fail(waiting: Iterable[asyncio.Future[T]], error: BrokerUnavailable) -> None:
    """Fails futures, each with an exception of its own, as raising one changes it."""
    for future in waiting:
        if not future.done():
            future.set_exception(BrokerUnavailable(str(error), error.retry_ms))


class Room:
    """One topic: what its two kinds share."""

    __slots__ = ("_held", "_house", "_loaded", "_noted", "_regular", "_told", "_waiting", "aloft",
                 "renewed", "shard", "size", "topic")  # fmt: skip

    def __init__(self, topic: str, house: House) -> None:
        self.topic = topic
        self.shard = ""
        """The name of the one that is told."""
        self.size: int = 0
        """Members of this worker."""
        self.renewed = 0.0
        """When the lease was looked after last, monotonic seconds."""
        self.aloft = False
        self._house = house
        self._held = False
        self._regular = True  # whether the lease was as it should be when it was renewed
        self._noted: int = 0  # changes, ever
        self._loaded: int = 0  # of these, those that are told when the call lands
        self._told: int = 0  # of these, those that are told
        self._waiting: list[asyncio.Future[None]] | None = None

    @property
    def keys(self) -> tuple[bytes, bytes]:
        raise NotImplementedError

    @property
    def unsettled(self) -> bool:
        """Whether something is to be told, or on its way."""
        return self._told != self._noted

    @property
    def over(self) -> bool:
        """Whether the room can be forgotten."""
        return not self.size and not self.aloft and not self.unsettled

    def enter(self, client: str, user: str | None) -> None:
        raise NotImplementedError

    def leave(self, client: str) -> None:
        raise NotImplementedError

    def doubt(self) -> None:
        """Nothing is known any more of what the shard has; it will be told of all members."""
        raise NotImplementedError

    # Calls

    def quiet(self, reign: bytes) -> bool:
        """Whether the lease is all that there is to be done. reign: of the shard."""
        return self._held and self._regular and not self.unsettled

    def renew(self) -> tuple[bytes, bytes]:
        """The keys for presence_renew.lua."""
        self.aloft = True
        return self.keys

    def lease_renewed(self, regular: bool) -> None:
        """It was, or there is more to be done."""
        self.aloft = False
        self._regular = regular

    def load(self, most: int, reign: bytes) -> tuple[bytes, int]:
        """The next call, with `most` changes at most, and about how many pieces of work it is."""
        raise NotImplementedError

    def landed(self, reply: Reply) -> Landing:
        """The call was answered."""
        raise NotImplementedError

    def lost(self, error: BrokerUnavailable) -> None:
        """What is aloft was not answered: nobody knows whether it was executed."""
        self.aloft = False
        waiting, self._waiting = self._waiting, None
        fail(waiting or (), error)

    async def settled(self) -> None:
        """Returns when all that changed before was told. Raises `BrokerUnavailable`."""
        noted = self._noted
        while self._told < noted:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(future)
            await future

    def _land(self) -> None:
        self.aloft = False
        self._regular = True
        self._told = self._loaded
        waiting, self._waiting = self._waiting, None
        for future in waiting or ():
            if not future.done():
                future.set_result(None)


class CountRoom(Room):
    """A topic of which the count is kept: it is told whole each time."""

    __slots__ = ()

    @property
    def keys(self) -> tuple[bytes, bytes]:
        return count_keys(self._house.keys, self.topic)

    def enter(self, client: str, user: str | None) -> None:
        self.size += 1
        self._noted += 1

    def leave(self, client: str) -> None:
        self.size -= 1
        self._noted += 1

    def doubt(self) -> None:
        self._held = False
        self._told = self._loaded = self._noted

    def load(self, most: int, reign: bytes) -> tuple[bytes, int]:
        house = self._house
        self.aloft = True
        self._loaded = self._noted
        self._held = self.size > 0
        arguments = (house.worker, self.size, house.lease_ms, house.kept_ms)
        return PRESENCE_COUNT.packed(self.keys, arguments), 1

    def landed(self, reply: Reply) -> Landing:
        self._land()
        return Landing(removed=cast("int", reply))


class MemberRoom(Room):
    """A topic of which the members are kept.

    announced: whether those who come and go are.
    """

    __slots__ = ("_announced", "_doubtful", "_flying", "_last", "_members", "_reign", "_unsent",
                 "_walk", "_walking")  # fmt: skip

    def __init__(self, topic: str, house: House, announced: bool) -> None:
        super().__init__(topic, house)
        self._announced = announced
        self._members: dict[str, str | None] = {}  # and their users
        # Who came or went, and its user; which of the two it was, `_members` says.
        self._unsent: dict[str, str | None] = {}
        self._flying: dict[str, str | None] = {}
        self._last = False  # whether the call that is aloft gives up the lease
        self._reign = b""  # in which the last call was made
        self._doubtful = False
        self._walk: bytes | None = None  # the entry behind which the walk goes on; b"": the first
        self._walking = False  # whether that is what is aloft

    @property
    def keys(self) -> tuple[bytes, bytes]:
        return member_keys(self._house.keys, self.topic)

    @property
    def unsettled(self) -> bool:
        return bool(self._unsent or self._flying or self._doubtful) or self._walk is not None

    def enter(self, client: str, user: str | None) -> None:
        self._members[client] = user
        self.size += 1
        self._note(client, user)

    def leave(self, client: str) -> None:
        user = self._members.pop(client)
        self.size -= 1
        self._note(client, user)

    def _note(self, client: str, user: str | None) -> None:
        self._noted += 1
        self._unsent[client] = user

    def doubt(self) -> None:
        self._unsent.clear()
        self._doubtful = True

    def quiet(self, reign: bytes) -> bool:
        return reign == self._reign and super().quiet(reign)

    def load(self, most: int, reign: bytes) -> tuple[bytes, int]:
        self.aloft = True
        if self._doubtful or (self._held and reign != self._reign):
            self._doubtful = False
            self._tell_all()
            self._walk = b""
        self._reign = reign
        self._walking = self._walk is not None and not self._unsent
        return self._packed_walk() if self._walking else self._packed_changes(most)

    def _tell_all(self) -> None:
        self._unsent = {**self._members, **self._unsent}

    def _packed_changes(self, most: int) -> tuple[bytes, int]:
        house = self._house
        if len(self._unsent) <= most:
            self._flying, self._unsent = self._unsent, {}
            self._loaded = self._noted
        else:
            self._flying = dict(islice(self._unsent.items(), most))
            for client in self._flying:
                del self._unsent[client]
            self._loaded = self._told
        members = self._members
        self._last = not members and not self._unsent
        arguments: list[Argument] = [
            house.worker,
            0 if self._last else house.lease_ms,
            house.kept_ms,
            house.publish if self._announced else b"",
            house.keys.channel(self.topic),
            REMOVED,
            *[
                b"%b%b %b" % (b"+" if client in members else b"-", client.encode(), user_json(user))
                for client, user in self._flying.items()
            ],
        ]
        return PRESENCE.packed(self.keys, arguments), len(self._flying) + 1

    def _packed_walk(self) -> tuple[bytes, int]:
        worker = self._house.worker
        _, members = self.keys
        first = b"(" + self._walk if self._walk else b"[" + worker + b" "
        call = (b"ZRANGEBYLEX", members, first, b"(" + worker + b"!", b"LIMIT", 0, WALKED)
        self._loaded = self._told
        return pack(call), WALKED

    def landed(self, reply: Reply) -> Landing:
        if self._walking:
            self._walked(cast("list[bytes]", reply))
            self._land()
            return Landing(again=self.unsettled)
        lease, changed, removed, more = cast("list[int]", reply)
        if lease == _BEING_REMOVED:
            self._take_back()
        else:
            if self._held and lease == _UNKNOWN:
                self._tell_all()  # it has nothing of ours but this
            elif not self._held and lease != _UNKNOWN:
                self._tell_all()  # it has what we do not know of
                self._walk = b""
            self._held = not self._last
            self._flying = {}
        self._land()
        self._regular = not more
        announced = changed + removed if self._announced else 0
        return Landing(announced, removed, bool(more) or self.unsettled)

    def _walked(self, entries: list[bytes]) -> None:
        """Notes for whom Redis has an entry that should not be there."""
        for entry in entries:
            _, client, user = entry.split(b" ", 2)
            name = client.decode()
            if name not in self._members:
                self._unsent[name] = orjson.loads(user) if user else None
        self._walk = entries[-1] if len(entries) == WALKED else None

    def lost(self, error: BrokerUnavailable) -> None:
        self._take_back()
        super().lost(error)

    def _take_back(self) -> None:
        """What is aloft must be told again."""
        self._unsent = {**self._flying, **self._unsent}
        self._flying = {}
        self._loaded = self._told
