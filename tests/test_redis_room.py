"""What a worker tells Redis of a topic's members, whatever becomes of its calls."""

from __future__ import annotations

import json
from typing import Any

import hiredis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_room import WALKED, CountRoom, House, Landing, MemberRoom
from clarion_fanout.redis_scripts import PRESENCE, PRESENCE_COUNT
from support.examples import examples

HOUSE = House(Keys(), b"w1", 15_000, b"PUBLISH")
UNKNOWN, HELD, ENDED, BEING_REMOVED = range(4)
GONE = BrokerUnavailable("gone", 5)


def words(packed: bytes) -> list[bytes]:
    """The words of a call."""
    reader = hiredis.Reader()
    reader.feed(packed)
    call = reader.gets()
    assert isinstance(call, list)
    return call


class Call:
    """A call of presence.lua, as Redis reads it."""

    def __init__(self, packed: bytes) -> None:
        name, sha, count, *rest = words(packed)
        assert (name, sha, count) == (b"EVALSHA", PRESENCE.sha, b"2")
        assert rest[:2] == [b"clarion:p:{clarion:t:a}:l", b"clarion:p:{clarion:t:a}:m"]
        worker, lease, kept, publish, channel, removed, *changes = rest[2:]
        assert (worker, kept, channel) == (b"w1", b"60000", b"clarion:t:a")
        assert publish in (b"", b"PUBLISH")
        assert int(removed) == 500
        self.lease = int(lease)
        self.announces = bool(publish)
        self.changes = [change.decode() for change in changes]


def user(client: str) -> str | None:
    """Every other client is nobody in particular."""
    return f'the "user" {client}' if int(client) % 2 else None


def entry(client: str) -> str:
    return f"{client} {json.dumps(user(client))}" if user(client) else f"{client} "


def change(sign: str, client: str) -> str:
    return sign + entry(client)


def enter(room: MemberRoom, *clients: str) -> None:
    for client in clients:
        room.enter(client, user(client))


def call(room: MemberRoom, most: int = 500, reign: bytes = b"r") -> Call:
    packed, _ = room.load(most, reign)
    assert room.aloft
    return Call(packed)


@pytest.fixture
def room() -> MemberRoom:
    return MemberRoom("a", HOUSE, announced=False)


async def settles(room: MemberRoom | CountRoom) -> bool:
    """Whether all has been told, so that nobody need wait."""
    work = room.settled()
    try:
        work.send(None)
    except StopIteration:
        return True
    work.close()
    return False


# Telling


def test_changes_are_told_in_order_with_the_lease(room: MemberRoom) -> None:
    enter(room, "1", "2")
    room.leave("1")
    told = call(room)
    assert told.changes == [change("-", "1"), change("+", "2")]
    assert told.lease == 15_000
    assert not told.announces
    assert room.landed([UNKNOWN, 1, 0, 0]) == Landing()
    assert not room.unsettled
    assert not room.over


def test_the_lease_is_given_up_with_the_last_member(room: MemberRoom) -> None:
    enter(room, "1", "2")
    call(room)
    room.landed([UNKNOWN, 2, 0, 0])
    room.leave("1")
    room.leave("2")
    told = call(room, most=1)
    assert (told.changes, told.lease) == ([change("-", "1")], 15_000)
    assert room.landed([HELD, 1, 0, 0]).again
    told = call(room)
    assert (told.changes, told.lease) == ([change("-", "2")], 0)
    assert not room.over
    room.landed([HELD, 1, 0, 0])
    assert room.over


def test_what_changes_while_a_call_is_aloft_is_told_by_the_next(room: MemberRoom) -> None:
    enter(room, "1")
    call(room)
    room.leave("1")
    enter(room, "2")
    assert room.landed([UNKNOWN, 1, 0, 0]).again
    assert call(room).changes == [change("-", "1"), change("+", "2")]


def test_what_was_not_answered_is_told_again_as_it_is_by_then(room: MemberRoom) -> None:
    enter(room, "1", "2")
    call(room)
    room.leave("1")
    enter(room, "3")
    room.lost(GONE)
    assert not room.aloft
    assert call(room).changes == [change("-", "1"), change("+", "2"), change("+", "3")]


async def test_all_that_was_noted_has_been_told_when_it_settles(room: MemberRoom) -> None:
    enter(room, "1", "2", "3")
    assert not await settles(room)
    call(room, most=2)
    room.landed([UNKNOWN, 2, 0, 0])
    assert not await settles(room)
    call(room, most=2)
    enter(room, "4")
    room.landed([HELD, 1, 0, 0])
    assert not await settles(room)
    call(room)
    room.lost(GONE)
    assert not await settles(room)
    call(room)
    room.landed([HELD, 1, 0, 0])
    assert await settles(room)


def test_announcements_and_removals_are_counted() -> None:
    room = MemberRoom("a", HOUSE, announced=True)
    enter(room, "1")
    assert call(room).announces
    assert room.landed([UNKNOWN, 1, 40, 1]) == Landing(41, 40, again=True)
    assert not room.quiet(b"r")
    assert call(room).changes == []
    assert room.landed([HELD, 0, 3, 0]) == Landing(3, 3)
    assert room.quiet(b"r")


# Leases


def test_a_room_is_quiet_when_there_is_nothing_but_the_lease(room: MemberRoom) -> None:
    assert not room.quiet(b"r")
    enter(room, "1")
    assert not room.quiet(b"r")
    call(room)
    room.landed([UNKNOWN, 1, 0, 0])
    assert room.quiet(b"r")
    assert not room.quiet(b"another")
    assert room.renew() == (b"clarion:p:{clarion:t:a}:l", b"clarion:p:{clarion:t:a}:m")
    assert room.aloft
    room.lease_renewed(True)
    assert room.quiet(b"r")
    room.renew()
    room.lease_renewed(False)
    assert not room.quiet(b"r")
    assert call(room).changes == []
    room.landed([HELD, 0, 0, 0])
    assert room.quiet(b"r")
    enter(room, "2")
    assert not room.quiet(b"r")


def test_who_changed_while_the_lease_was_renewed_is_told_of(room: MemberRoom) -> None:
    enter(room, "1")
    call(room)
    room.landed([UNKNOWN, 1, 0, 0])
    room.renew()
    enter(room, "2")
    room.lease_renewed(True)
    assert room.unsettled
    assert call(room).changes == [change("+", "2")]


def test_all_enter_anew_when_the_lease_is_not_known_any_more(room: MemberRoom) -> None:
    enter(room, "1", "2")
    call(room)
    room.landed([UNKNOWN, 2, 0, 0])
    enter(room, "3")
    call(room)
    assert room.landed([UNKNOWN, 1, 0, 0]).again
    assert sorted(call(room).changes) == [change("+", client) for client in "123"]
    room.landed([HELD, 2, 0, 0])
    assert room.quiet(b"r")


def test_nothing_was_done_while_our_members_are_being_removed(room: MemberRoom) -> None:
    enter(room, "1")
    call(room)
    assert room.landed([BEING_REMOVED, 0, 500, 1]).again
    assert call(room).changes == [change("+", "1")]


# Doubt


def test_a_walk_takes_back_whom_redis_should_not_have(room: MemberRoom) -> None:
    enter(room, "1", "2")
    call(room)
    room.landed([HELD, 1, 0, 0])  # it knew us, and we did not know
    assert sorted(call(room).changes) == [change("+", client) for client in "12"]
    assert room.landed([HELD, 0, 0, 0]).again
    packed, _ = room.load(500, b"r")
    name, key, first, last, *limit = words(packed)
    assert (name, key) == (b"ZRANGEBYLEX", b"clarion:p:{clarion:t:a}:m")
    assert (first, last, limit) == (b"[w1 ", b"(w1!", [b"LIMIT", b"0", b"%d" % WALKED])
    entries = [f"w1 {entry(str(place))}".encode() for place in range(1, WALKED + 1)]
    assert room.landed(entries).again
    told = call(room)
    assert told.changes == [change("-", str(place)) for place in range(3, WALKED + 1)]
    assert room.landed([HELD, WALKED - 2, 0, 0]).again
    packed, _ = room.load(500, b"r")
    assert words(packed)[2] == b"(" + entries[-1]
    assert not room.landed([]).again
    assert room.quiet(b"r")


def test_a_walk_that_was_not_answered_is_made_again(room: MemberRoom) -> None:
    enter(room, "1")
    call(room)
    room.landed([UNKNOWN, 1, 0, 0])
    assert call(room, reign=b"new").changes == [change("+", "1")]
    room.landed([HELD, 0, 0, 0])
    for _ in range(2):
        packed, _ = room.load(500, b"new")
        assert words(packed)[0] == b"ZRANGEBYLEX"
        room.lost(GONE)
    assert room.unsettled


def test_what_is_in_doubt_is_told_as_a_whole(room: MemberRoom) -> None:
    enter(room, "1", "2")
    call(room)
    room.landed([UNKNOWN, 2, 0, 0])
    room.leave("1")
    enter(room, "3")
    room.doubt()
    room.leave("2")
    room.doubt()
    assert room.unsettled
    assert call(room).changes == [change("+", "3")]


# Counts


def count_call(room: CountRoom) -> int:
    packed, _ = room.load(500, b"r")
    name, sha, count, *rest = words(packed)
    assert (name, sha, count) == (b"EVALSHA", PRESENCE_COUNT.sha, b"2")
    assert rest[:2] == [b"clarion:p:{clarion:t:a}:cl", b"clarion:p:{clarion:t:a}:c"]
    worker, size, lease, kept = rest[2:]
    assert (worker, lease, kept) == (b"w1", b"15000", b"60000")
    return int(size)


async def test_a_count_is_told_whole() -> None:
    room = CountRoom("a", HOUSE)
    room.enter("1", None)
    room.enter("2", None)
    assert count_call(room) == 2
    room.leave(
        "1",
    )
    assert room.landed(7) == Landing(removed=7)
    assert room.unsettled
    assert count_call(room) == 1
    room.lost(GONE)
    assert room.unsettled
    assert not await settles(room)
    assert count_call(room) == 1
    room.landed(0)
    assert await settles(room)
    assert room.quiet(b"r")
    assert room.renew() == (b"clarion:p:{clarion:t:a}:cl", b"clarion:p:{clarion:t:a}:c")
    room.lease_renewed(True)
    room.doubt()
    assert not room.quiet(b"r")
    room.leave("2")
    assert count_call(room) == 0
    room.landed(0)
    assert room.over


# At random


class Conversations(RuleBasedStateMachine):
    """Clients come and go, calls are executed or not and answered or not, and Redis forgets."""

    def __init__(self) -> None:
        super().__init__()
        self.room = MemberRoom("a", HOUSE, announced=False)
        self.inside: set[str] = set()
        self.reign = 1
        self.lease = UNKNOWN
        self.entries: set[str] = set()
        self.remembered: tuple[int, set[str]] = (UNKNOWN, set())

    @rule(client=st.sampled_from("123456"))
    def comes_or_goes(self, client: str) -> None:
        if client in self.inside:
            self.inside.remove(client)
            self.room.leave(client)
        else:
            self.inside.add(client)
            enter(self.room, client)

    @rule(
        executed=st.booleans(), answered=st.booleans(), meanwhile=st.none() | st.sampled_from("123")
    )
    def is_called(self, executed: bool, answered: bool, meanwhile: str | None) -> None:
        packed, _ = self.room.load(2, b"%d" % self.reign)
        reply = self.execute(packed) if executed else None
        if meanwhile is not None:
            self.comes_or_goes(meanwhile)
        if executed and answered:
            self.room.landed(reply)
        else:
            self.room.lost(GONE)

    @precondition(lambda self: self.room.quiet(b"%d" % self.reign))
    @rule(answered=st.booleans())
    def lease_is_renewed(self, answered: bool) -> None:
        self.room.renew()
        if answered:
            self.room.lease_renewed(self.lease == HELD)
        else:
            self.room.lost(GONE)

    @rule()
    def redis_forgets(self) -> None:
        self.lease, self.entries = UNKNOWN, set()

    @rule()
    def the_lease_ends(self) -> None:
        if self.lease == HELD:
            self.lease = ENDED

    @rule()
    def is_remembered(self) -> None:
        self.remembered = (self.lease, set(self.entries))

    @rule()
    def redis_steps_back(self) -> None:
        self.reign += 1
        self.lease, entries = self.remembered
        self.entries = set(entries)

    @rule()
    def is_away_for_long(self) -> None:
        self.room.doubt()

    def execute(self, packed: bytes) -> Any:
        if words(packed)[0] == b"ZRANGEBYLEX":
            first = words(packed)[2].decode()
            found = sorted(f"w1 {each}" for each in self.entries)
            return [each.encode() for each in found if first[0] == "[" or each > first[1:]]
        told, before = Call(packed), self.lease
        for each in told.changes:
            if each[0] == "+":
                self.entries.add(each[1:])
            else:
                self.entries.discard(each[1:])
        self.lease = HELD if told.lease else UNKNOWN
        if not told.lease:
            self.entries.clear()  # the script sees to it that nobody sees them
        return [before, len(told.changes), 0, 0]

    @invariant()
    def the_size_is_right(self) -> None:
        assert self.room.size == len(self.inside)

    def teardown(self) -> None:
        """Nothing goes wrong any more; the lease is looked after once more at least."""
        if self.room.over:
            return  # it is forgotten: what Redis may remember of it is over with the lease
        reign = b"%d" % self.reign
        for _ in range(40):
            if self.room.quiet(reign):
                self.room.renew()
                self.room.lease_renewed(self.lease == HELD)
            if self.room.quiet(reign) or self.room.over:
                break
            packed, _ = self.room.load(2, reign)
            self.room.landed(self.execute(packed))
        assert not self.room.unsettled
        assert self.entries == {entry(client) for client in self.inside}
        assert (self.lease == HELD) is bool(self.inside)
        assert self.room.over is not bool(self.inside)


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=examples(150), stateful_step_count=30)
