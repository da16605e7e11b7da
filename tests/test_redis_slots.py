"""Slots and those who listen in them: whatever nodes say, everybody ends up where his slot is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from redis.crc import key_slot

from clarion_fanout.redis_slots import SETTLED_SECONDS, SLOTS, Range, Slots, slot_of
from clarion_fanout.redis_subscriptions import Listener, Subscriptions
from support.examples import examples
from support.redis_model import Ear, Line

NODES = ("n:1", "n:2", "n:3")
CHANNELS = (b"a", b"b", b"c{a}")
LINGER = 50.0


@given(st.binary(max_size=20) | st.text("ab{}", max_size=8).map(str.encode))
def test_slots_are_those_that_redis_finds(name: bytes) -> None:
    assert slot_of(name) == key_slot(name)


def test_the_examples_of_the_cluster_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"{user1000}.following") == slot_of(b"{user1000}.followers")
    assert slot_of(b"foo{}{bar}") == key_slot(b"foo{}{bar}")


# The table


class Place:
    """A home that writes down what it is asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners: dict[bytes, Listener] = {}
        self.probed = 0

    def adopt(self, slot: int, listeners: dict[bytes, Listener]) -> None:
        assert {slot_of(channel) for channel in listeners} == {slot}
        self.listeners.update(listeners)

    def release(self, slot: int) -> dict[bytes, Listener]:
        released = {c: each for c, each in self.listeners.items() if slot_of(c) == slot}
        for channel in released:
            del self.listeners[channel]
        return released

    def renew_probe(self) -> None:
        self.probed += 1


class Table:
    def __init__(self) -> None:
        self.nobody = Place("")
        self.places: dict[str, Place] = {}
        self.left: list[str] = []
        self.slots = Slots(
            self.nobody, home=self.home, left=lambda place: self.left.append(place.name)
        )

    def home(self, name: str) -> Place:
        return self.places.setdefault(name, Place(name))


HALVES = [Range(0, 8191, "n:1"), Range(8192, SLOTS - 1, "n:2")]
A = slot_of(b"a")
B = slot_of(b"b")


def test_at_first_all_slots_are_nobodys() -> None:
    table = Table()
    assert not table.slots.complete
    assert list(table.slots.homes) == [table.nobody]
    assert set(table.slots.owners) == {table.nobody}


def test_a_layout_is_adopted_and_listeners_move_with_it() -> None:
    table = Table()
    ear = Ear(b"a", int)
    table.slots.owners[A].adopt(A, {b"a": ear})
    assert table.slots.adopt(HALVES)
    assert table.slots.complete
    assert [home.name for home in table.slots.homes] == ["n:1", "n:2"]
    assert table.places["n:2"].listeners == {b"a": ear}
    assert not table.nobody.listeners
    assert not table.slots.adopt(HALVES)
    assert {place.probed for place in table.places.values()} == {1}


def test_a_slot_that_was_learned_of_moves_alone() -> None:
    table = Table()
    table.slots.adopt(HALVES)
    ear = Ear(b"a", int)
    table.slots.owners[A].adopt(A, {b"a": ear})
    table.slots.learn(A, "n:3", now=1)
    assert table.slots.owners[A] is table.places["n:3"]
    assert table.places["n:3"].listeners == {b"a": ear}
    assert {table.slots.owners[slot].name for slot in (A - 1, A + 1)} == {"n:2"}
    assert [place.probed for place in table.places.values()] == [1, 2, 1]
    assert not table.left


def test_a_node_that_has_no_slots_any_more_is_left() -> None:
    table = Table()
    table.slots.adopt(HALVES)
    table.slots.adopt([Range(0, SLOTS - 1, "n:2")])
    assert table.left == ["n:1"]
    assert [home.name for home in table.slots.homes] == ["n:2"]
    for slot in range(SLOTS):
        table.slots.learn(slot, "n:4", now=1)
    assert table.left == ["n:1", "n:2"]


class Seeker(Place):
    """Looks for a slot of its own, as a shard does for its probe's channel."""

    def __init__(self, name: str, table: Callable[[], Slots[Seeker]]) -> None:
        super().__init__(name)
        self._table = table

    def renew_probe(self) -> None:
        slots = self._table()
        assert (self in slots.homes) == (self in slots.owners)


def test_a_node_that_loses_all_its_slots_is_not_told_to_look_for_one() -> None:
    seekers: dict[str, Seeker] = {}
    left: list[str] = []
    slots: Slots[Seeker] = Slots(
        Seeker("", lambda: slots),
        home=lambda name: seekers.setdefault(name, Seeker(name, lambda: slots)),
        left=lambda seeker: left.append(seeker.name),
    )
    slots.adopt(HALVES)
    slots.adopt([Range(0, 8191, "n:1"), Range(8192, SLOTS - 1, "n:3")])  # as in a failover
    assert left == ["n:2"]


def test_slots_that_are_missing_in_a_layout_are_nobodys() -> None:
    table = Table()
    table.slots.adopt(HALVES)
    table.slots.owners[A].adopt(A, {b"a": (ear := Ear(b"a", int))})
    table.slots.adopt(HALVES[:1])
    assert not table.slots.complete
    assert table.nobody in table.slots.homes
    assert table.nobody.listeners == {b"a": ear}
    table.slots.adopt(HALVES)
    assert table.nobody not in table.slots.homes
    assert table.left == ["n:2"]


def test_two_nodes_that_send_us_to_each_other_are_heeded_once_in_a_while() -> None:
    table = Table()
    table.slots.adopt(HALVES)
    table.slots.learn(A, "n:1", now=1)
    table.slots.learn(A, "n:2", now=1 + SETTLED_SECONDS / 2)
    assert table.slots.owners[A].name == "n:1"
    table.slots.learn(B, "n:1", now=1 + SETTLED_SECONDS / 2)
    assert table.slots.owners[B].name == "n:1"
    table.slots.learn(A, "n:2", now=1 + SETTLED_SECONDS * 1.01)
    assert table.slots.owners[A].name == "n:2"


# Beside a model of a cluster


class ModelNode:
    """A node's home: its subscriptions, over a connection of the model when there is one."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = name
        self._cluster = cluster
        self.subscriptions = Subscriptions(linger_s=LINGER, ended=self._ended, slot_of=slot_of)
        self.line: Line | None = None

    def listen(self, channel: bytes, listener: Listener) -> bool:
        done = self.subscriptions.listen(channel, listener)
        self.flush()
        return done

    def release(self, slot: int) -> dict[bytes, Listener]:
        return self.subscriptions.release(slot)

    def adopt(self, slot: int, listeners: dict[bytes, Listener]) -> None:
        self.subscriptions.adopt(slot, listeners)
        self.flush()

    def renew_probe(self) -> None:
        pass

    def _ended(self, channel: bytes, error: str) -> None:
        kind, _, where = error.partition(" ")
        if kind == "MOVED":
            slot, _, node = where.partition(" ")
            assert slot_of(channel) == int(slot)
            self._cluster.slots.learn(int(slot), node, self._cluster.now)

    def flush(self) -> None:
        if self.line is not None:
            self.line.send(self.subscriptions.commands(self._cluster.now))

    def connect(self, owner: Callable[[int], str]) -> None:
        self.line = Line(self.name, slot_of, owner)
        self.subscriptions.connected()
        self.flush()

    def lose(self) -> None:
        self.line = None
        self.subscriptions.lost()

    def look(self) -> None:
        self.subscriptions.again()
        data = self.subscriptions.sweep(self._cluster.now)
        if self.line is not None:
            self.line.send(data)
        self.flush()


class Cluster(RuleBasedStateMachine):
    """Slots move, nodes vanish and come back, tell of layouts that are over, or of none; listeners
    come and go; connections flap. Time is the number of steps."""

    channels = st.sampled_from(CHANNELS)
    slot_choices = st.sampled_from(sorted({slot_of(channel) for channel in CHANNELS}))
    nodes = st.sampled_from(NODES)

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.truth = {slot_of(channel): NODES[0] for channel in CHANNELS}
        self.views: list[dict[int, str]] = []
        self.homes: dict[str, ModelNode] = {}
        self.nobody = ModelNode("", self)
        self.slots = Slots(self.nobody, home=self.home, left=self.leave)
        self.ears: dict[bytes, Ear] = {}
        self.wanted: set[bytes] = set()
        self.published: list[tuple[int, bytes, bytes]] = []

    def home(self, name: str) -> ModelNode:
        if name not in self.homes:
            self.homes[name] = ModelNode(name, self)
        return self.homes[name]

    def leave(self, node: ModelNode) -> None:
        assert not node.subscriptions.listeners
        del self.homes[node.name]

    def clock(self) -> int:
        self.now += 1
        return int(self.now)

    def believed(self, channel: bytes) -> ModelNode:
        return self.slots.owners[slot_of(channel)]

    # The client

    @rule(channel=channels)
    def listen(self, channel: bytes) -> None:
        ear = self.ears.get(channel)
        if ear is None or ear.gone:
            ear = self.ears[channel] = Ear(channel, self.clock)
        if self.believed(channel).listen(channel, ear) and channel not in self.wanted:
            ear.since = self.clock()
        self.wanted.add(channel)

    @rule(channel=channels)
    def unlisten(self, channel: bytes) -> None:
        self.believed(channel).subscriptions.unlisten(channel, self.now)
        self.wanted.discard(channel)

    @rule(steps=st.sampled_from([0.01, 1, 60]))
    def look(self, steps: float) -> None:
        self.now += steps
        for home in [self.nobody, *self.homes.values()]:
            home.look()

    # The cluster

    @rule(slot=slot_choices, node=nodes | st.just(""))
    def move(self, slot: int, node: str) -> None:
        self.views.append(dict(self.truth))
        old = self.homes.get(self.truth[slot])
        self.truth[slot] = node
        if old is not None and old.name != node and old.line is not None:
            old.line.give_up(slot)

    @rule(node=nodes, successor=nodes)
    def fail_over(self, node: str, successor: str) -> None:
        """A node is gone, and all it had is another's."""
        if node in self.homes:
            self.homes[node].lose()
        if node != successor:
            for slot, owner in list(self.truth.items()):
                if owner == node:
                    self.move(slot, successor)

    @rule(channel=channels)
    def publish(self, channel: bytes) -> None:
        payload = b"%d" % self.clock()
        node = self.homes.get(self.truth[slot_of(channel)])
        if node is not None and node.line is not None:
            node.line.publish(channel, payload)
        if channel in self.wanted:
            self.published.append((int(self.now), channel, payload))

    @rule()
    def tell_the_layout(self) -> None:
        self.slots.adopt(layout(self.truth))

    @precondition(lambda self: self.views)
    @rule(age=st.integers(0, 5))
    def tell_what_was(self, age: int) -> None:
        self.slots.adopt(layout(self.views[max(0, len(self.views) - 1 - age)]))

    @rule(slot=slot_choices, node=nodes)
    def tell_nonsense(self, slot: int, node: str) -> None:
        self.slots.learn(slot, node, self.now)

    # The network

    @rule(node=nodes)
    def connect(self, node: str) -> None:
        if node in self.homes:
            self.homes[node].connect(self.truth.__getitem__)

    @rule(node=nodes)
    def lose(self, node: str) -> None:
        if node in self.homes:
            self.homes[node].lose()

    @rule(node=nodes, count=st.integers(1, 4))
    def work(self, node: str, count: int) -> None:
        if node in self.homes and (line := self.homes[node].line) is not None:
            for _ in range(count):
                line.work()

    @rule(node=nodes, count=st.integers(1, 4))
    def bring(self, node: str, count: int) -> None:
        if node in self.homes and (line := self.homes[node].line) is not None:
            home = self.homes[node]
            line.bring(home.subscriptions, count)
            home.flush()

    @rule()
    def have_a_quiet_moment(self) -> None:
        self.settle()

    # What holds

    @invariant()
    def everybody_has_one_home_that_of_his_slot(self) -> None:
        found: list[bytes] = []
        for home in [self.nobody, *self.homes.values()]:
            for channel in home.subscriptions.listeners:
                assert self.believed(channel) is home
                found.append(channel)
        assert len(found) == len(set(found))
        for channel in self.wanted:
            listeners = self.believed(channel).subscriptions.listeners
            assert listeners[channel] is self.ears[channel]
            assert not self.ears[channel].gone

    @invariant()
    def homes_are_those_that_have_slots(self) -> None:
        assert set(self.slots.homes) == set(self.slots.owners)
        assert set(self.homes.values()) == set(self.slots.owners) - {self.nobody}
        assert self.slots.complete == (self.nobody not in self.slots.owners)

    def teardown(self) -> None:
        """When all is well everybody who is wanted is subscribed where his slot is."""
        for slot, node in list(self.truth.items()):
            self.truth[slot] = node or NODES[1]
        if self.nobody in self.slots.owners:
            self.slots.adopt(layout(self.truth))  # as is done every second as long as this is so
        for _ in range(len(CHANNELS) + 3):
            self.settle()
            self.look(60)
        self.settle()
        for channel in CHANNELS:
            home = self.homes.get(self.truth[slot_of(channel)])
            for other in self.homes.values():
                wanted = other is home and channel in self.wanted
                assert (channel in other.subscriptions.listeners) == wanted
                assert (channel in other.subscriptions.confirmed) == wanted
        for step, channel, payload in self.published:
            ear = self.ears[channel]
            assert ear.gone or payload in ear.heard or step < ear.since
        for ear in self.ears.values():
            assert ear.heard == sorted(set(ear.heard), key=int)

    def settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for home in list(self.homes.values()):
                if home.line is None:
                    home.connect(self.truth.__getitem__)
                assert home.line is not None
                busy = home.line.work() or home.line.bring(home.subscriptions, 7) or busy
                home.flush()


def layout(truth: dict[int, str]) -> list[Range]:
    """All slots are the first node's, unless it is known better."""
    bounds = sorted({0, SLOTS, *truth, *(slot + 1 for slot in truth)})
    ranges = [
        Range(first, after - 1, truth.get(first, NODES[0])) for first, after in pairwise(bounds)
    ]
    return [each for each in ranges if each.node]


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=examples(40), stateful_step_count=50)
