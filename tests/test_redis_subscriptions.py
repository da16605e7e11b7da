"""Subscriptions beside a model of Redis: no channel is lost, whatever happens to the connection."""

from __future__ import annotations

import logging
import time

import hiredis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clarion_fanout.redis_subscriptions import BATCH, OUTSTANDING, Subscriptions
from support.examples import examples
from support.redis_model import Ear, Line

LINGER = 5.0
SLOTS = 3


def slot_of(channel: bytes) -> int:
    return channel[0] % SLOTS


class Machine(RuleBasedStateMachine):
    """Channels come and go, the connection flaps, Redis refuses, messages are published.

    Time is the number of steps. A payload that did not arrive must have been published before the
    listener's last `subscribed`: so whoever reads the stream then misses nothing.
    """

    sharded = False
    channels = st.sampled_from([b"a", b"b", b"c", b"d"])

    @initialize()
    def begin(self) -> None:
        self.now = 0
        self.owned = set(range(SLOTS))
        self.ended: list[tuple[bytes, str]] = []
        self.subscriptions = Subscriptions(
            linger_s=LINGER,
            ended=lambda channel, error: self.ended.append((channel, error)),
            slot_of=slot_of if self.sharded else None,
        )
        self.line: Line | None = None
        self.error = ""
        self.ears: dict[bytes, Ear] = {}
        self.wanted: set[bytes] = set()
        self.published: list[tuple[int, bytes, bytes]] = []

    # The client

    @rule(channel=channels)
    def listen(self, channel: bytes) -> None:
        ear = self.ears.get(channel)
        if ear is None or ear.gone:
            ear = self.ears[channel] = Ear(channel, self.clock)
        done = self.subscriptions.listen(channel, ear)
        assert done == (channel in self.subscriptions.confirmed)
        if done and channel not in self.wanted:
            ear.since = self.clock()
        self.wanted.add(channel)
        self.flush()

    @rule(channel=channels)
    def unlisten(self, channel: bytes) -> None:
        self.subscriptions.unlisten(channel, self.now)
        self.wanted.discard(channel)

    @rule(steps=st.sampled_from([1, 4, 20]))
    def look(self, steps: int) -> None:
        self.now += steps
        self.subscriptions.again()
        data = self.subscriptions.sweep(self.now)
        if self.line is not None:
            self.line.send(data)
        else:
            assert not data
        self.flush()

    def clock(self) -> int:
        self.now += 1
        return self.now

    def flush(self) -> None:
        data = self.subscriptions.commands(self.now)
        if self.line is not None:
            self.line.send(data)
        else:
            assert not data

    # Redis

    @precondition(lambda self: self.line is not None)
    @rule(commands=st.integers(1, 5))
    def work(self, commands: int) -> None:
        assert self.line is not None
        self.line.error = self.error
        for _ in range(commands):
            self.line.work()

    @rule(error=st.sampled_from(["", "NOPERM no permission", "LOADING the dataset"]))
    def turn_nasty(self, error: str) -> None:
        self.error = error

    @precondition(lambda self: self.sharded)
    @rule(slot=st.integers(0, SLOTS - 1))
    def move(self, slot: int) -> None:
        if slot in self.owned:
            self.owned.remove(slot)
            if self.line is not None:
                self.line.give_up(slot)
        else:
            self.owned.add(slot)

    @rule(channel=channels)
    def publish(self, channel: bytes) -> None:
        payload = b"%d" % self.clock()
        if self.line is not None:
            self.line.publish(channel, payload)
        if channel in self.wanted:
            self.published.append((self.now, channel, payload))

    # The network

    @precondition(lambda self: self.line is not None)
    @rule(count=st.integers(1, 5))
    def bring(self, count: int) -> None:
        assert self.line is not None
        self.line.bring(self.subscriptions, count)
        self.flush()

    @precondition(lambda self: self.line is None)
    @rule()
    def connect(self) -> None:
        self.line = Line("us", slot_of if self.sharded else None, self.owner)
        self.subscriptions.connected()
        self.flush()

    @precondition(lambda self: self.line is not None)
    @rule()
    def lose(self) -> None:
        self.line = None
        self.subscriptions.lost()

    def owner(self, slot: int) -> str:
        return "us" if slot in self.owned else "them"

    # What holds

    @invariant()
    def what_is_confirmed_arrives(self) -> None:
        subscriptions, line = self.subscriptions, self.line
        if line is None:
            assert not subscriptions.confirmed
            return
        for channel in subscriptions.confirmed:
            assert channel in subscriptions.listeners
            said = [answer[0] for answer in line.lines if answer[1] == channel]
            assert channel in line.subscribed or said[-1:] == [b"sunsubscribe"]
            assert not any(
                b"UNSUB" in name and channel in channels for name, *channels in line.waiting
            )

    @invariant()
    def nobody_who_is_wanted_is_dropped(self) -> None:
        for channel in self.wanted:
            assert self.subscriptions.listeners[channel] is self.ears[channel]
            assert not self.ears[channel].gone

    @invariant()
    def everybody_has_a_slot(self) -> None:
        if self.sharded:
            assert set(self.subscriptions.slots()) == set(
                map(slot_of, self.subscriptions.listeners)
            )

    def teardown(self) -> None:
        """When the trouble is over everybody who is wanted is subscribed, and nobody else."""
        self.error = ""
        self.owned = set(range(SLOTS))
        if self.line is None:
            self.connect()
        for _ in range(3):
            self.settle()
            self.look(20)
        self.settle()
        assert self.line is not None
        assert self.subscriptions.confirmed == self.line.subscribed == self.wanted
        assert self.subscriptions.listeners.keys() == self.wanted
        assert self.subscriptions.waits_since() is None
        for step, channel, payload in self.published:
            ear = self.ears[channel]
            assert ear.gone or payload in ear.heard or step < ear.since
        for ear in self.ears.values():
            assert ear.heard == sorted(set(ear.heard), key=int)

    def settle(self) -> None:
        assert self.line is not None
        self.line.error = ""
        while self.line.work() or self.line.bring(self.subscriptions, 7):
            self.flush()


class ShardedMachine(Machine):
    sharded = True


TestPlain = Machine.TestCase
TestSharded = ShardedMachine.TestCase
TestPlain.settings = settings(max_examples=examples(150), stateful_step_count=60)
TestSharded.settings = TestPlain.settings


# By themselves


def plain(linger_s: float = LINGER) -> tuple[Subscriptions, list[tuple[bytes, str]]]:
    ended: list[tuple[bytes, str]] = []
    return Subscriptions(linger_s=linger_s, ended=lambda *end: ended.append(end)), ended


def sharded() -> tuple[Subscriptions, list[tuple[bytes, str]]]:
    ended: list[tuple[bytes, str]] = []
    return (
        Subscriptions(linger_s=LINGER, ended=lambda *end: ended.append(end), slot_of=slot_of),
        ended,
    )


def ear(channel: bytes = b"a") -> Ear:
    return Ear(channel, lambda: 1)


def test_a_subscription_that_is_about_to_be_undone_is_not_confirmed() -> None:
    subscriptions, _ = plain()
    line = Line()
    subscriptions.connected()
    subscriptions.listen(b"a", ear())
    line.send(subscriptions.commands(0))
    subscriptions.unlisten(b"a", 0)
    line.send(subscriptions.sweep(LINGER))
    subscriptions.listen(b"a", ear())
    line.send(subscriptions.commands(LINGER))
    assert [name for name, *_ in line.waiting] == [b"SUBSCRIBE", b"UNSUBSCRIBE", b"SUBSCRIBE"]
    for confirmed in (False, False, True):
        line.work()
        line.bring(subscriptions, 1)
        assert (b"a" in subscriptions.confirmed) == confirmed


def test_who_comes_back_while_the_channel_lingers_costs_redis_nothing() -> None:
    subscriptions, _ = plain()
    line, listener = Line(), ear()
    subscriptions.connected()
    subscriptions.listen(b"a", listener)
    line.send(subscriptions.commands(0))
    line.work()
    line.bring(subscriptions, 1)
    for now in range(20):
        subscriptions.unlisten(b"a", now)
        assert subscriptions.sweep(now + LINGER / 2) == b""
        assert subscriptions.listen(b"a", listener)
        assert subscriptions.commands(now) == b""
    assert not listener.gone


def test_channels_that_nobody_wants_are_forgotten_without_a_connection_too() -> None:
    subscriptions, _ = plain()
    listener = ear()
    subscriptions.listen(b"a", listener)
    subscriptions.unlisten(b"a", 0)
    assert subscriptions.sweep(LINGER) == b""
    assert listener.gone
    assert not subscriptions.listeners
    subscriptions.connected()
    assert subscriptions.commands(LINGER) == b""


def test_a_hundred_thousand_channels_are_subscribed_again_in_bounded_batches() -> None:
    subscriptions, _ = plain()
    listener = ear()
    channels = [b"clarion:t:topic:%d" % number for number in range(100_000)]
    for channel in channels:
        subscriptions.listen(channel, listener)
    began = time.process_time()
    for _ in range(2):
        line = Line()
        subscriptions.connected()
        line.send(subscriptions.commands(0))
        unanswered = 0
        while line.waiting:
            sizes = [len(command) - 1 for command in line.waiting]
            assert max(sizes) <= BATCH
            assert sum(sizes) <= OUTSTANDING
            unanswered = max(unanswered, sum(sizes))
            line.work()
            line.bring(subscriptions, BATCH)
            line.send(subscriptions.commands(0))
        assert unanswered > OUTSTANDING - BATCH
        assert subscriptions.confirmed == line.subscribed == set(channels)
        assert subscriptions.waits_since() is None
    assert time.process_time() - began < 10  # it is about 0.5


def test_a_refused_command_is_told_for_each_of_its_channels_and_sent_again() -> None:
    subscriptions, ended = plain()
    line = Line()
    subscriptions.connected()
    subscriptions.listen(b"a", ear(b"a"))
    subscriptions.listen(b"b", ear(b"b"))
    line.error = "NOPERM no"
    line.send(subscriptions.commands(0))
    line.work()
    line.bring(subscriptions, 1)
    assert ended == [(b"a", "NOPERM no"), (b"b", "NOPERM no")]
    assert subscriptions.interrupted == 2
    assert subscriptions.commands(0) == b""
    assert subscriptions.again()
    assert not subscriptions.again()
    line.error = ""
    line.send(subscriptions.commands(0))
    line.work()
    line.bring(subscriptions, 2)
    assert subscriptions.confirmed == {b"a", b"b"}


def test_the_oldest_command_without_an_answer_is_known() -> None:
    subscriptions, _ = plain()
    line = Line()
    subscriptions.connected()
    assert subscriptions.waits_since() is None
    for now, channel in enumerate([b"a", b"b"], 1):
        subscriptions.listen(channel, ear(channel))
        line.send(subscriptions.commands(now))
    for now in (1, 2):
        assert subscriptions.waits_since() == now
        line.work()
        line.bring(subscriptions, 1)
    assert subscriptions.waits_since() is None


class Clumsy(Ear):
    def take(self, payload: bytes) -> None:
        raise KeyError(payload)


def test_a_listener_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    subscriptions, _ = plain()
    line, good = Line(), ear(b"b")
    subscriptions.connected()
    subscriptions.listen(b"a", Clumsy(b"a", lambda: 1))
    subscriptions.listen(b"b", good)
    line.send(subscriptions.commands(0))
    line.work()
    line.publish(b"a", b"1")
    line.publish(b"b", b"2")
    with caplog.at_level(logging.ERROR):
        line.bring(subscriptions, 4)
    assert good.heard == [b"2"]
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_errors_that_nothing_was_sent_for_are_passed_over() -> None:
    subscriptions, ended = plain()
    subscriptions.connected()
    subscriptions.received([hiredis.ReplyError("ERR what"), b"OK", 1])
    assert not ended


# In a cluster


def test_a_released_slot_is_forgotten_with_all_its_listeners() -> None:
    subscriptions, _ = sharded()
    line = Line("us", slot_of, lambda _: "us")
    subscriptions.connected()
    ears = {channel: ear(channel) for channel in (b"a", b"b", b"d", b"g")}  # a, d, g: one slot
    for channel, listener in ears.items():
        subscriptions.listen(channel, listener)
    line.send(subscriptions.commands(0))
    while line.work():
        line.bring(subscriptions, 9)
    subscriptions.unlisten(b"g", 0)

    assert subscriptions.release(slot_of(b"a")) == {b"a": ears[b"a"], b"d": ears[b"d"]}
    assert ears[b"g"].gone
    assert subscriptions.listeners.keys() == subscriptions.confirmed == {b"b"}
    assert subscriptions.slots() == {slot_of(b"b")}
    assert subscriptions.release(slot_of(b"a")) == {}
    # What Redis says then is of no interest.
    line.give_up(slot_of(b"a"))
    line.bring(subscriptions, 9)
    assert not subscriptions.again()


def test_an_ending_that_crosses_our_own_does_not_mislead() -> None:
    """Redis ends a subscription when we want it ended: that looks like the answer. The real answer
    is an error, which is not that to the next command."""
    subscriptions, ended = sharded()
    owned = {0, 1, 2}
    line = Line("us", slot_of, lambda slot: "us" if slot in owned else "them")
    subscriptions.connected()
    subscriptions.listen(b"a", ear(b"a"))
    line.send(subscriptions.commands(0))
    line.work()
    line.bring(subscriptions, 1)
    subscriptions.unlisten(b"a", 0)
    line.send(subscriptions.sweep(LINGER))
    owned.remove(slot_of(b"a"))
    line.give_up(slot_of(b"a"))
    subscriptions.listen(b"b", ear(b"b"))
    line.send(subscriptions.commands(LINGER))
    while line.work():
        line.bring(subscriptions, 9)
    assert subscriptions.confirmed == {b"b"}
    assert not ended
