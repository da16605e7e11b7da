"""The hub and the embedded broker, beside a model that only knows lists.

The model: every publication of a topic in the order it was accepted, what was fed of it, and for
each client and topic the list of what it must have got by now. Clients come and go, subscribe
from any position, fall behind, catch up, break, join while the past is being read; shards turn and
lose something. Whatever happens, what arrived at a client is at all times the beginning of that
list, and all of it once everything is flushed and read. So nothing is lost, doubled or overtaken,
and nobody gets what was not meant for him.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from clarion_fanout.broker import HistoryOptions, Page, Want
from clarion_fanout.hub import JOIN_BYTES, Hold, Hub
from clarion_fanout.publication import Draft, Position, Receipt
from support.clock import Clock
from support.coroutines import result
from support.examples import examples
from support.receivers import Lines, Socket, Sockets
from support.turning import TurningBroker

OPTIONS = HistoryOptions(12, 100)
TOPICS = ("h:a", "h:b", "n:a", "h:c", "n:b")
CLIENTS = 7
FAT = JOIN_BYTES // 3
"""Three of these are just too much for one write."""


@dataclass
class Client:
    """A client, and what the model knows of it."""

    socket: Socket
    due: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in TOPICS})
    """What it must get, by topic, over all its subscriptions to it."""
    seen: dict[str, Position] = field(default_factory=dict)
    """Positions to resume from: where its last subscription to the topic ended."""
    subscribed: set[str] = field(default_factory=set)
    joining: set[str] = field(default_factory=set)

    @property
    def gone(self) -> bool:
        return self.socket.left

    def free_of(self, topic: str) -> bool:
        return not self.gone and topic not in self.subscribed | self.joining


@dataclass(eq=False)
class Joining:
    """A subscription whose past is being asked for."""

    client: Client
    topic: str
    want: Want
    hold: Hold
    begun: int
    """How much the topic had been fed when the hold began."""
    read: int = 0
    """The same when the page was read."""
    page: Page | None = None


class HubMachine(RuleBasedStateMachine):
    clients = Bundle("clients")
    joinings = Bundle("joinings")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.broker = TurningBroker(
            history=lambda topic: OPTIONS if topic.startswith("h:") else None, now=self.clock
        )
        self.hub = Hub(broker=self.broker, outlet=Sockets(), wake=self._wake)
        result(self.broker.start(self.hub))
        self.forms = [Lines("ws"), Lines("sse")]
        self.awake = False
        self.published: dict[str, list[tuple[str, Position | None, int]]] = {
            name: [] for name in TOPICS
        }
        """What a topic's stream was given, since it began."""
        self.turned: dict[str, dict[str, int]] = {name: {} for name in TOPICS}
        """A stream's former epochs, each with the offset up to which its positions are good."""
        self.fed: dict[str, list[tuple[str, bool]]] = {name: [] for name in TOPICS}
        """What everyone who is subscribed was due, and whether it has a position."""
        self.everyone: list[Client] = []
        self.pending: list[Joining] = []
        self.keys = iter(range(1_000_000))
        self.numbers = iter(range(1_000_000))

    def _wake(self) -> None:
        assert not self.awake, "a second flush was asked for"
        self.awake = True

    # Clients

    @initialize(target=clients, alone=st.booleans(), form=st.integers(0, 1))
    def first(self, alone: bool, form: int) -> object:
        """Some clients that are subscribed already, so that every example has something to do."""
        clients = [self._connect(n % 2, alone and n == 2) for n in range(form, form + 4)]
        for place, client in enumerate(clients):
            for topic in TOPICS[: 1 + place]:
                self._subscribe(client, topic, Want(limit=0))
        return multiple(*clients)

    @precondition(lambda self: self.living < CLIENTS)
    @rule(target=clients, form=st.integers(0, 1), alone=st.sampled_from([False, False, True]))
    def connect(self, form: int, alone: bool) -> Client:
        return self._connect(form, alone)

    def _connect(self, form: int, alone: bool) -> Client:
        client = Client(Socket(self.hub, next(self.keys), self.forms[form], alone=alone))
        self.everyone.append(client)
        return client

    @property
    def living(self) -> int:
        return sum(not client.gone for client in self.everyone)

    @rule(client=consumes(clients))
    def disconnect(self, client: Client) -> None:
        client.socket.leave()

    @rule(client=clients, room=st.sampled_from([0, 0, 5, 12, 40, FAT, 4 * FAT]))
    def take_no_more_than(self, client: Client, room: int) -> None:
        """The client's buffer fills up: it falls behind with one of the next writes."""
        client.socket.room = room

    @rule(client=clients, patience=st.integers(0, 6))
    def lose_patience(self, client: Client, patience: int) -> None:
        """The client is given up when more than so many frames wait for it."""
        client.socket.patience = patience

    @rule(client=clients, at_once=st.booleans())
    def catch_up(self, client: Client, at_once: bool) -> None:
        client.socket.catches_up_at_once = at_once
        if client.socket.behind and not client.gone:
            client.socket.catch_up()

    @rule(client=clients)
    def break_connection(self, client: Client) -> None:
        """The next write to the client finds it broken."""
        client.socket.dead = True

    # Subscriptions

    @rule(client=clients, topic=st.sampled_from(TOPICS), data=st.data())
    def subscribe(self, client: Client, topic: str, data: st.DataObject) -> None:
        if client.free_of(topic):
            self._subscribe(client, topic, self._want(client, topic, data))

    def _want(self, client: Client, topic: str, data: st.DataObject) -> Want:
        choices = [Want(limit=0), Want(last=3), Want(since=Position("unknown", 1))]
        if topic in client.seen:
            choices += [Want(since=client.seen[topic])] * 4
        if self.published[topic] and (position := self.published[topic][-1][1]) is not None:
            offset = data.draw(st.integers(0, position.offset + 1))
            choices.append(Want(since=position._replace(offset=offset)))
        return data.draw(st.sampled_from(choices))

    def _subscribe(self, client: Client, topic: str, want: Want) -> None:
        self.hub.settle(topic)
        if client.gone:  # what was pending found it broken; there is nobody to answer
            return
        assert self.broker.attach(topic)
        page = self.broker.peek(topic, want)
        assert page is not None
        self._replay(client, topic, want, page)
        if client.gone:
            # It ended while the past was sent. A hold that is released ends the feed, too.
            self.hub.release(self.hub.hold(topic))
        else:
            self.hub.add(client.socket, topic)
            client.subscribed.add(topic)

    def _replay(self, client: Client, topic: str, want: Want, page: Page) -> None:
        """Sends the past; checks that it is the right one."""
        expected = self._expected(topic, want)
        assert (page.position is not None, page.complete) == (topic[0] == "h", expected is not None)
        if page.complete:
            assert [each.data.decode().strip() for each in page.publications] == expected
            client.due[topic] += expected or []
            client.socket.replay(page.publications)

    def _expected(self, topic: str, want: Want) -> list[str] | None:
        """What the model answers; None if something is missing."""
        everything = self.published[topic]
        if topic.startswith("n:"):
            return []
        oldest = self.clock() - OPTIONS.seconds * 1000
        kept = [each for each in everything[-OPTIONS.size :] if each[2] >= oldest]
        if want.since is not None:
            epoch, offset = want.since
            present = self.broker.position(topic)
            known = {**self.turned[topic], present.epoch: present.offset}
            if offset > known.get(epoch, -1):
                return None
            after = everything[want.since.offset :]
            return [label for label, *_ in after] if len(after) <= len(kept) else None
        return [label for label, *_ in kept[-want.last :]] if want.last else []

    @rule(client=clients, topic=st.sampled_from(TOPICS))
    def unsubscribe(self, client: Client, topic: str) -> None:
        if client.gone or topic not in client.subscribed:
            return
        entry = self.hub.find(client.socket, topic)
        assert entry is not None
        client.subscribed.remove(topic)
        if self.published[topic] and (position := self.published[topic][-1][1]) is not None:
            client.seen[topic] = position
        self.hub.remove(client.socket, entry)
        assert client.gone or client.socket.behind or self._is_served(client, topic)

    @rule(target=joinings, client=clients, topic=st.sampled_from(TOPICS), data=st.data())
    def begin_to_join(self, client: Client, topic: str, data: st.DataObject) -> object:
        if not client.free_of(topic):
            return multiple()
        self.broker.attach(topic)
        want = self._want(client, topic, data)
        joining = Joining(client, topic, want, self.hub.hold(topic), len(self.fed[topic]))
        client.joining.add(topic)
        self.pending.append(joining)
        return joining

    @rule(joining=joinings)
    def read_the_past(self, joining: Joining) -> None:
        """The answer is on its way for a while: it is as old as this."""
        if joining.page is None and joining in self.pending:
            joining.page = result(self.broker.read(joining.topic, joining.want))
            # What the page must contain is known now only.
            joining.read = len(self.fed[joining.topic])
            expected = self._expected(joining.topic, joining.want)
            assert joining.page.complete is (expected is not None)
            if expected is not None:
                assert [
                    each.data.decode().strip() for each in joining.page.publications
                ] == expected

    @rule(joining=joinings)
    def admit(self, joining: Joining) -> None:
        page, client, topic = joining.page, joining.client, joining.topic
        if page is None or joining not in self.pending:
            return
        self._end_joining(joining)
        if client.gone:
            self.hub.release(joining.hold)
            return
        if page.complete:
            client.due[topic] += [each.data.decode().strip() for each in page.publications]
            client.socket.replay(page.publications)
        if client.gone:
            self.hub.release(joining.hold)
            return
        for place, (label, positioned) in enumerate(self.fed[topic]):
            if place >= (joining.read if positioned else joining.begun):
                client.due[topic].append(label)
        client.subscribed.add(topic)
        epoch, offset = page.position or ("", 0)
        client.socket.replay(self.hub.admit(joining.hold, client.socket, epoch, offset))

    @rule(joining=joinings)
    def give_up_joining(self, joining: Joining) -> None:
        if joining in self.pending:
            self._end_joining(joining)
        self.hub.release(joining.hold)

    def _end_joining(self, joining: Joining) -> None:
        self.pending.remove(joining)
        joining.client.joining.discard(joining.topic)

    # Publications

    @rule(topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=6))
    def publish(self, topics: list[str]) -> None:
        self._publish([(topic, 0) for topic in topics])

    @rule(
        topic=st.sampled_from(TOPICS),
        sizes=st.lists(st.sampled_from([0, FAT, FAT, 2 * FAT]), min_size=3, max_size=6),
    )
    def publish_much(self, topic: str, sizes: list[int]) -> None:
        self._publish([(topic, size) for size in sizes])

    def _publish(self, batch: list[tuple[str, int]]) -> None:
        labels = [str(next(self.numbers)) for _ in batch]
        drafts = [
            Draft(topic, label.ljust(size).encode())
            for (topic, size), label in zip(batch, labels, strict=True)
        ]
        for label, receipt in zip(labels, result(self.broker.publish(drafts)), strict=True):
            assert isinstance(receipt, Receipt)
            topic = receipt.topic
            self.published[topic].append((label, receipt.position, self.clock()))
            self._is_fed(topic, label, receipt.position is not None)

    def _is_fed(self, topic: str, label: str, positioned: bool) -> None:
        self.fed[topic].append((label, positioned))
        for client in self.everyone:
            if topic in client.subscribed and not client.gone:
                client.due[topic].append(label)

    @rule(topic=st.sampled_from(["h:a", "h:b", "h:c"]))
    def publish_past_the_stream(self, topic: str) -> None:
        label = str(next(self.numbers))
        self.broker.quick(topic, label.encode())
        self._is_fed(topic, label, False)

    # What happens to shards

    @rule(topic=st.sampled_from(["h:a", "h:b", "h:c"]))
    def turn(self, topic: str) -> None:
        """The shard fails over with everything."""
        if topic in self.broker.attached_topics:
            turn = self.broker.turn(topic)
            self.turned[topic][turn.data.decode()] = turn.offset
            self._is_fed(topic, turn.data.decode(), True)

    @rule(topic=st.sampled_from(["h:a", "h:b", "h:c"]), count=st.integers(1, 2))
    def lose(self, topic: str, count: int) -> None:
        """Some publications cannot be fed any more."""
        self._lose(topic, count, restart=False)

    @rule(topic=st.sampled_from(["h:a", "h:b", "h:c"]), count=st.integers(0, 2))
    def restart(self, topic: str, count: int) -> None:
        """The shard has lost everything."""
        self._lose(topic, count, restart=True)

    def _lose(self, topic: str, count: int, *, restart: bool) -> None:
        if topic in self.broker.attached_topics:
            labels = [str(next(self.numbers)) for _ in range(count)]
            loss = self.broker.lose(topic, *[label.encode() for label in labels], restart=restart)
            if restart:
                self.published[topic].clear()
                self.turned[topic].clear()
            for place, label in enumerate(labels, loss.offset - count + 1):
                position = Position(loss.epoch, place)
                self.published[topic].append((label, position, self.clock()))
            self._is_fed(topic, loss.data.decode(), True)

    @rule()
    def flush(self) -> None:
        """The end of a turn, if anything asked for it."""
        if self.awake:
            self.awake = False
            self.hub.flush()
            for client in self.everyone:
                if not client.gone and not client.socket.behind:
                    assert all(self._is_served(client, topic) for topic in TOPICS)

    @rule(seconds=st.sampled_from([1, 30, 101]))
    def pass_time(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.broker.sweep()

    # What must hold

    def _is_served(self, client: Client, topic: str) -> bool:
        return client.socket.got(topic) == client.due[topic]

    @invariant()
    def what_arrived_is_the_beginning_of_what_is_due(self) -> None:
        for client in self.everyone:
            for topic in TOPICS:
                got, due = client.socket.got(topic), client.due[topic]
                assert got == due[: len(got)]

    @invariant()
    def the_tables_hold_what_is_wanted_and_nothing_else(self) -> None:
        living = [client for client in self.everyone if not client.gone]
        wanted = {topic for client in living for topic in client.subscribed}
        held = {joining.topic for joining in self.pending}
        assert set(self.hub.topics) == self.broker.attached_topics == wanted | held
        assert self.hub.subscriptions == sum(len(client.subscribed) for client in living)
        for client in living:
            assert {topic.name for topic in client.socket.topics} == client.subscribed
            for topic in TOPICS:
                found = self.hub.find(client.socket, topic)
                assert (found is not None) is (topic in client.subscribed)

    def teardown(self) -> None:
        for joining in list(self.pending):
            self.read_the_past(joining)
            self.admit(joining)
        self.flush()
        for client in self.everyone:
            if not client.gone:
                client.socket.catch_up()
        for client in self.everyone:
            assert client.gone or all(self._is_served(client, topic) for topic in TOPICS)
            if not client.gone:
                client.socket.leave()
        assert self.hub.topics == {}
        assert self.hub.subscriptions == 0
        assert self.broker.attached_topics == set()


HubMachine.TestCase.settings = settings(
    max_examples=examples(300),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.data_too_large],
)
test_every_client_gets_what_is_due_to_it_in_order = HubMachine.TestCase
