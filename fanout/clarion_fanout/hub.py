"""The hub: a worker's own table of topics and receivers, and the dispatch of publications.

Theory of operation

A *receiver* is a connected client as the hub sees it: a key (the edge uses the socket's file
descriptor), a wire form, and whether it may be written to in bulk. A *form* turns a publication
into bytes, once for all receivers of that form. Each topic has a *lane* for each form.

`dispatch` only notes a publication and asks for a flush; the flush comes at the end of the same
turn of the event loop. So whatever one read brought for a topic is joined and written once per
receiver: under load a turn takes longer, brings more, and the cost of a delivery falls. No timer
is involved, and at low load nothing waits. Where there is nothing to join, as with a topic for each
user, a long turn only makes everybody wait: then the hub is `crowded`, and a flush comes earlier.

A flush meets two kinds of receivers. Those *in bulk* keep up with what they are sent: all of a
lane's get the same bytes in one call that runs no Python per receiver. The others, which are
behind or need bytes of their own, get `deliver` calls and look after their own window. A receiver
that falls behind during a flush is moved between the two tables by `set_bulk`.

When one flush has several topics to serve, receivers that are in more than one of them get all
their bytes in one write too: a system call costs some twenty times what joining does.

Joining a stream: a topic's past comes from the broker, its present from `dispatch`. Where the
past is at hand (`Broker.peek`), `add` after `settle` leaves no gap: pending publications went to
the others and are part of the past. Where it must be asked for, `hold` first; what is dispatched
meanwhile waits in the hold, and `admit` returns what the past did not contain.

A hold may span several epochs, whose names have no order; their places in the hold have. When the
past arrives, the feed has reached it and is in its epoch, and epochs never come back (see
`broker`). So what stands in the hold before the first publication of the past's epoch is older
than the past, and what is of another epoch behind it is newer. If none is of the past's epoch, then
the stream has not been in it since the hold began, and the hold as a whole is newer. What has no
epoch is part of no past.

Order: a receiver gets a topic's publications in the order of `dispatch`, and in their place among
them what else a feed brings, turns and losses. Between topics no order is promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from clarion_fanout.broker import Broker
from clarion_fanout.publication import Loss, Position, Publication, Turn

JOIN_BYTES = 128 * 1024
"""The most that is joined into one write. The gain is used up long before (100 frames of 256
bytes cost 1/40 of 100 writes), and a socket whose peer reads takes about this much at once."""

SCATTER_BYTES = 1024 * 1024
"""The most data that one scatter takes on, over all its topics. Its writes are each receiver's
own, so a receiver that does not take one keeps a copy of up to this size: that of a full window.
4,000 publications of 256 bytes fit, more than a worker is fed in one turn."""

CROWD = 64
"""Topics with something pending, at which it may be better not to wait for the end of the turn: a
read from Redis may bring thousands, and by then what was read first has left the processor's
caches. 16 to 256 were measured to save a fifth of a delivery to a user with a topic of its own."""

SHARED = 4
"""Receivers of a topic, on average, from which on waiting is better all the same: then what a topic
may yet get, and what that saves when it is joined, counts for more."""

HOLD_BYTES = 4 * 1024 * 1024
"""What may be dispatched in a topic while one receiver waits for its past: some 8,000 publications
of 256 bytes. Beyond it the hold is broken and the receiver is told that publications were lost."""

_HELD_BYTES = 256
"""What a publication counts in a hold beside its data, so that empty ones are bounded too."""


class Form(Protocol):
    """A wire form: how a publication looks to a kind of receiver."""

    def encode(self, publication: Publication) -> bytes:
        """The publication's bytes, the same object each time it is asked."""
        ...


class Receiver(Protocol):
    """A connected client, as the hub sees it. Hashable by identity.

    key: unique among the live receivers of this hub.
    bulk: whether bytes may be written to it together with others; `Hub.set_bulk` changes it.
    topics: those it is subscribed to; the hub keeps this list.

    While it is being delivered to, a receiver may call `Hub.set_bulk` and `Hub.leave` for itself.
    Whatever else it wants of the hub must wait until the delivery is over.
    """

    key: int
    form: Form
    bulk: bool
    topics: list[Topic]

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        """Takes publications one by one. Never waits or raises."""
        ...


class Outlet(Protocol):
    """How bytes get to many receivers at once. Never waits or raises.

    A receiver that cannot take all of its bytes is told how many it took, and looks after the
    rest itself; it may call `Hub.set_bulk` or `Hub.leave` then. `receivers` may be the hub's own
    table, which these change: tell them after the loop over it.
    """

    def broadcast(self, receivers: Mapping[int, Receiver], payload: bytes) -> None:
        """Writes the same bytes to each receiver."""
        ...

    def scatter(
        self, payloads: Mapping[int, bytes], receivers: Callable[[], Mapping[int, Receiver]]
    ) -> None:
        """Writes to each receiver what stands under its key. receivers: makes a table of them, for
        when one is cut short."""
        ...


class Lane:
    """A topic's receivers of one form."""

    __slots__ = ("bulk", "form", "others")

    def __init__(self, form: Form) -> None:
        self.form = form
        self.bulk: dict[int, Receiver] = {}
        """Those that are written to in bulk."""
        self.others: dict[int, Receiver] | None = None
        """Those that are delivered to one by one. Rare, so the dict is made when needed."""


class Hold:
    """What is dispatched in a topic while a receiver waits for the topic's past."""

    __slots__ = ("_bytes", "_newest", "broken", "publications", "topic")

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.publications: list[Publication] = []
        self.broken = False
        """Whether more came than the hold takes: then nothing is kept any more."""
        self._newest: Publication | None = None  # of those with a position
        self._bytes = 0

    def keep(self, publication: Publication) -> None:
        if publication.epoch:
            self._newest = publication
        self._bytes += len(publication.data) + _HELD_BYTES
        if self._bytes <= HOLD_BYTES:
            self.publications.append(publication)
        elif not self.broken:
            self.broken = True
            self.publications.clear()

    def beyond(self, epoch: str, after: int) -> list[Publication]:
        """What the past up to a position does not contain; see the module's text.

        Of a broken hold that is a `Loss` up to the newest position, if the past ends before it.
        What has no position is promised to nobody who is not subscribed yet.
        """
        kept = self.publications
        if self.broken:
            newest = self._newest
            if newest is None or (newest.epoch == epoch and newest.offset <= after):
                return []
            position = Position(newest.epoch, newest.offset)
            reason = "too much was published while the history was read"
            return [Loss(self.topic.name, position, reason)]
        epochs = [publication.epoch for publication in kept]
        first = epochs.index(epoch) if epoch and epoch in epochs else 0
        return [
            publication
            for place, publication in enumerate(kept)
            if not publication.epoch
            or (place >= first and (publication.epoch != epoch or publication.offset > after))
        ]


class Topic:
    """A topic that has receivers at this worker, or somebody who waits to become one."""

    __slots__ = ("holds", "lanes", "name", "pending", "size")

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = 0
        """Receivers."""
        self.lanes: list[Lane] = []
        self.pending: list[Publication] | None = None
        self.holds: dict[Hold, None] | None = None

    def lane(self, form: Form) -> Lane:
        for lane in self.lanes:
            if lane.form is form:
                return lane
        lane = Lane(form)
        self.lanes.append(lane)
        return lane

    def take(self) -> list[Publication]:
        """What is pending, which is then no longer."""
        publications, self.pending = self.pending, None
        assert publications is not None, "a topic is dirty as long as something is pending"
        return publications

    def has(self, receiver: Receiver) -> bool:
        """Whether `receiver` is subscribed."""
        for lane in self.lanes:
            if lane.form is receiver.form:
                table = lane.bulk if receiver.bulk else lane.others
                return table is not None and receiver.key in table
        return False


class Hub:
    """See the module's text.

    wake: asks the event loop to call `flush` at the end of this turn.
    """

    def __init__(self, *, broker: Broker, outlet: Outlet, wake: Callable[[], object]) -> None:
        self._broker = broker
        self._outlet = outlet
        self._wake = wake
        # In order of their first pending publication; a dict, as `settle` takes out any of them.
        self._dirty: dict[Topic, None] = {}
        self._awake = False
        self._writes = 0
        """That what is pending takes, about."""
        self.crowded = False
        """Whether so much is pending for so few that it should go before more is dispatched."""
        self.topics: dict[str, Topic] = {}
        self.subscriptions = 0
        """Receivers, summed over topics."""
        self.received = 0
        """Publications dispatched, with and without receivers, turns and losses included."""
        self.turns = 0
        """Those of them that told that a topic goes on in another epoch."""
        self.losses = 0
        """Those of them that told that publications may be missing."""
        self.broken_holds = 0
        """Receivers for which more came than is kept while their past was asked for."""
        self.deliveries = 0
        """Publications handed to receivers: one for each receiver that each went to."""
        self.delivered_bytes = 0
        """Bytes handed to the outlet, frames' headers included: those of bulk deliveries."""

    # Receivers

    def add(self, receiver: Receiver, name: str) -> Topic:
        """Subscribes `receiver`, which is not subscribed yet. The topic must be settled."""
        topic = self._topic(name)
        self._join(topic, receiver)
        return topic

    def find(self, receiver: Receiver, name: str) -> Topic | None:
        """The topic called `name` if `receiver` is subscribed to it."""
        topic = self.topics.get(name)
        return topic if topic is not None and topic.has(receiver) else None

    def remove(self, receiver: Receiver, topic: Topic) -> None:
        """Ends the subscription of `receiver`, which is subscribed."""
        # Whatever was accepted before the client asked to leave still reaches it.
        self.settle(topic.name)
        if topic.has(receiver):  # that may have ended it: its socket is dead, or its window full
            self._part(topic, receiver)
            receiver.topics.remove(topic)

    def leave(self, receiver: Receiver) -> None:
        """Ends every subscription of `receiver`. Its key may be used anew afterwards."""
        for topic in receiver.topics:
            self._part(topic, receiver)
        receiver.topics.clear()

    def set_bulk(self, receiver: Receiver, bulk: bool) -> None:
        """Says whether `receiver` keeps up with bulk writes from now on."""
        if receiver.bulk is bulk:
            return
        for topic in receiver.topics:
            lane = topic.lane(receiver.form)
            if bulk:
                assert lane.others is not None
                del lane.others[receiver.key]
                lane.bulk[receiver.key] = receiver
            else:
                del lane.bulk[receiver.key]
                if lane.others is None:
                    lane.others = {}
                lane.others[receiver.key] = receiver
        receiver.bulk = bulk

    # Joining a stream whose past must be asked for

    def hold(self, name: str) -> Hold:
        """Begins to keep what is dispatched in a topic, for `admit`."""
        topic = self._topic(name)
        hold = Hold(topic)
        if topic.holds is None:
            topic.holds = {}
        topic.holds[hold] = None
        return hold

    def admit(self, hold: Hold, receiver: Receiver, epoch: str, after: int) -> list[Publication]:
        """Subscribes `receiver`; returns what came beyond the past, which the caller sends at once.

        epoch, after: the position at which the past ended; "" and 0 if the topic has none. If
        more came than is kept, that is a `Loss`.
        """
        topic = hold.topic
        self.settle(topic.name)
        self._drop(hold)
        self._join(topic, receiver)
        self.broken_holds += hold.broken
        return hold.beyond(epoch, after)

    def release(self, hold: Hold) -> None:
        """Ends a hold without subscribing. A second call does nothing."""
        topic = hold.topic
        if topic.holds is not None and hold in topic.holds:
            self._drop(hold)
            self._discard(topic)

    # Publications

    def dispatch(self, publication: Publication) -> None:
        """Notes a publication for the receivers of its topic; see `Feed.dispatch`."""
        self.received += 1
        if type(publication) is not Publication:
            self._count(publication)
        topic = self.topics.get(publication.topic)
        if topic is None:
            return
        if topic.pending is None:
            topic.pending = [publication]
            dirty = self._dirty
            dirty[topic] = None
            self._writes += topic.size
            if len(dirty) >= CROWD:
                self.crowded = self._writes < SHARED * len(dirty)
            if not self._awake:
                self._awake = True
                self._wake()
        else:
            topic.pending.append(publication)
        if topic.holds is not None:
            for hold in topic.holds:
                hold.keep(publication)

    def _count(self, publication: Publication) -> None:
        """Counts what is no message."""
        if isinstance(publication, Turn):
            self.turns += 1
        elif isinstance(publication, Loss):
            self.losses += 1

    def settle(self, name: str) -> None:
        """Sends what is pending in one topic now, to those who are subscribed now."""
        topic = self.topics.get(name)
        if topic is not None and topic.pending is not None:
            del self._dirty[topic]
            self._send(topic, topic.take())

    def flush(self) -> None:
        """Sends everything that is pending. Not to be called by a receiver."""
        self._awake = self.crowded = False
        self._writes = 0
        # All taken first: a delivery may end its receiver, and with it a topic further on.
        batches = [(topic, topic.take()) for topic in self._dirty]
        self._dirty.clear()
        group: list[tuple[Topic, list[Publication]]] = []
        size = 0
        for batch in batches:
            publications = batch[1]
            batch_bytes = len(publications[0].data)
            if len(publications) > 1:
                batch_bytes = sum([len(publication.data) for publication in publications])
            if group and size + batch_bytes > SCATTER_BYTES:
                self._send_group(group)
                group, size = [], 0
            group.append(batch)
            size += batch_bytes
        if group:
            self._send_group(group)

    def _send_group(self, batches: list[tuple[Topic, list[Publication]]]) -> None:
        if len(batches) == 1:
            self._send(*batches[0])
        else:
            self._send_joined(batches)

    def _send(self, topic: Topic, publications: list[Publication]) -> None:
        """Sends one topic's publications."""
        for lane in topic.lanes:
            # Taken first: who falls behind in the broadcast is in `others` after it.
            others = list(lane.others.values()) if lane.others else ()
            if lane.bulk:
                self._send_bulk(topic, lane, publications)
            self._deliver(others, topic, publications)

    def _send_bulk(self, topic: Topic, lane: Lane, publications: list[Publication]) -> None:
        self.deliveries += len(publications) * len(lane.bulk)
        writes = _joined(lane.form, publications)
        if len(writes) == 1:
            payload = writes[0][0]
            self.delivered_bytes += len(payload) * len(lane.bulk)
            self._outlet.broadcast(lane.bulk, payload)
            return
        receivers = dict(lane.bulk)
        sent = 0
        for payload, count in writes:
            self.delivered_bytes += len(payload) * len(receivers)
            self._outlet.broadcast(receivers, payload)
            sent += count
            for receiver in [r for r in receivers.values() if r.key not in lane.bulk]:
                del receivers[receiver.key]
                # Who fell behind takes the rest for itself; who left must get nothing more.
                if sent < len(publications) and topic.has(receiver):
                    receiver.deliver(topic, publications[sent:])

    def _send_joined(self, batches: list[tuple[Topic, list[Publication]]]) -> None:
        """Sends several topics' publications, one write for each receiver.

        With a topic for each user this runs for each delivery, between system calls that have
        emptied the processor's caches: it touches no receiver unless that is cut short.
        """
        payloads: dict[int, bytes] = {}
        several: dict[int, list[bytes]] = {}
        for topic, publications in batches:
            count = len(publications)
            for lane in topic.lanes:
                bulk = lane.bulk
                if bulk:
                    encode = lane.form.encode
                    payload = encode(publications[0])
                    if count > 1:
                        payload = b"".join(map(encode, publications))
                    self.deliveries += count * len(bulk)
                    self.delivered_bytes += len(payload) * len(bulk)
                    for key in bulk:
                        if key not in payloads:
                            payloads[key] = payload
                        elif key in several:
                            several[key].append(payload)
                        else:
                            several[key] = [payloads[key], payload]
                if lane.others:
                    self._deliver(list(lane.others.values()), topic, publications)
        for key, pieces in several.items():
            payloads[key] = b"".join(pieces)
        if payloads:
            self._outlet.scatter(payloads, lambda: _in_bulk(batches))

    def _deliver(
        self, receivers: Sequence[Receiver], topic: Topic, publications: list[Publication]
    ) -> None:
        self.deliveries += len(publications) * len(receivers)
        for receiver in receivers:
            receiver.deliver(topic, publications)

    # The tables

    def _topic(self, name: str) -> Topic:
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name)
        return topic

    def _join(self, topic: Topic, receiver: Receiver) -> None:
        lane = topic.lane(receiver.form)
        if receiver.bulk:
            lane.bulk[receiver.key] = receiver
        else:
            if lane.others is None:
                lane.others = {}
            lane.others[receiver.key] = receiver
        topic.size += 1
        self.subscriptions += 1
        receiver.topics.append(topic)

    def _part(self, topic: Topic, receiver: Receiver) -> None:
        lane = topic.lane(receiver.form)
        if receiver.bulk:
            del lane.bulk[receiver.key]
        else:
            assert lane.others is not None
            del lane.others[receiver.key]
        topic.size -= 1
        self.subscriptions -= 1
        self._discard(topic)

    def _drop(self, hold: Hold) -> None:
        holds = hold.topic.holds
        assert holds is not None
        del holds[hold]
        if not holds:
            hold.topic.holds = None

    def _discard(self, topic: Topic) -> None:
        """Forgets a topic that nobody here wants any more."""
        if not topic.size and topic.holds is None:
            # What is pending meets no receivers in the flush.
            del self.topics[topic.name]
            self._broker.detach(topic.name)


def _in_bulk(batches: Iterable[tuple[Topic, object]]) -> dict[int, Receiver]:
    """Those who are in bulk in one of these topics."""
    receivers: dict[int, Receiver] = {}
    for topic, _ in batches:
        for lane in topic.lanes:
            receivers.update(lane.bulk)
    return receivers


def _joined(form: Form, publications: list[Publication]) -> list[tuple[bytes, int]]:
    """The publications' frames joined into writes, each with how many it holds."""
    if len(publications) == 1:
        return [(form.encode(publications[0]), 1)]
    writes: list[tuple[bytes, int]] = []
    frames: list[bytes] = []
    size = 0
    for publication in publications:
        frame = form.encode(publication)
        if frames and size + len(frame) > JOIN_BYTES:
            writes.append((b"".join(frames), len(frames)))
            frames, size = [], 0
        frames.append(frame)
        size += len(frame)
    writes.append((b"".join(frames), len(frames)))
    return writes
