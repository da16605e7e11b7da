"""The hub: who gets what, in which order, in how many writes. See also test_hub_machine.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import NamedTuple

import pytest

from clarion_fanout.broker import HistoryOptions
from clarion_fanout.hub import (
    CROWD,
    HOLD_BYTES,
    JOIN_BYTES,
    SCATTER_BYTES,
    SHARED,
    Hold,
    Hub,
    Topic,
)
from clarion_fanout.publication import Arrival, Departure, Loss, Position, Publication, Turn
from support.clock import Clock
from support.receivers import Lines, Socket, Sockets
from support.turning import TurningBroker


class Worker:
    """A hub with clients to make."""

    def __init__(self) -> None:
        self.broker = TurningBroker(history=lambda _topic: HistoryOptions(10, 60), now=Clock())
        self.wakes = 0
        self.hub = Hub(broker=self.broker, outlet=Sockets(), wake=self._wake)
        self.lines = Lines("l")
        self._keys = 0
        self._offset = 0

    def _wake(self) -> None:
        self.wakes += 1

    def client(
        self, *topics: str, form: Lines | None = None, alone: bool = False, room: int | None = None
    ) -> Socket:
        self._keys += 1
        client = Socket(self.hub, self._keys, form or self.lines, alone=alone)
        client.room = room
        self.subscribe(client, *topics)
        return client

    def subscribe(self, client: Socket, *topics: str) -> None:
        for topic in topics:
            self.hub.settle(topic)
            self.broker.attach(topic)
            self.hub.add(client, topic)

    def unsubscribe(self, client: Socket, name: str) -> None:
        topic = self.hub.find(client, name)
        assert topic is not None
        self.hub.remove(client, topic)

    def publish(self, topic: str, *data: str, size: int = 0) -> list[Publication]:
        """Dispatches publications with the given data, padded to `size`."""
        publications: list[Publication] = []
        for each in data:
            self._offset += 1
            padded = each.ljust(size).encode()
            publications.append(Publication(topic, padded, 0, self._offset, "epoch"))
            self.hub.dispatch(publications[-1])
        return publications


@pytest.fixture
def worker() -> Worker:
    return Worker()


# Delivery


def test_a_publication_reaches_every_subscriber_of_its_topic_and_nobody_else(
    worker: Worker,
) -> None:
    clients = [worker.client("a"), worker.client("a", "b"), worker.client("b"), worker.client()]
    worker.publish("a", "1")
    worker.hub.flush()
    assert [client.got("a") for client in clients] == [["1"], ["1"], [], []]
    assert all(client.got("b") == [] for client in clients)


def test_nothing_is_sent_before_the_flush_and_nothing_twice(worker: Worker) -> None:
    client = worker.client("a")
    worker.publish("a", "1")
    assert client.writes == []
    worker.hub.flush()
    worker.hub.flush()
    assert client.got("a") == ["1"]


def test_one_flush_is_asked_for_in_a_turn(worker: Worker) -> None:
    worker.client("a", "b")
    worker.publish("a", "1", "2")
    worker.publish("b", "3")
    worker.hub.settle("a")
    worker.hub.settle("b")
    worker.publish("a", "4")
    assert worker.wakes == 1
    worker.hub.flush()
    worker.publish("b", "5")
    assert worker.wakes == 2


def test_a_topic_without_receivers_asks_for_no_flush_and_is_counted(worker: Worker) -> None:
    worker.publish("a", "1")
    assert worker.wakes == 0
    assert worker.hub.received == 1
    worker.hub.flush()


def test_what_one_turn_brings_for_a_topic_is_one_write(worker: Worker) -> None:
    clients = [worker.client("a") for _ in range(3)]
    worker.publish("a", *map(str, range(100)))
    worker.hub.flush()
    for client in clients:
        assert len(client.writes) == 1
        assert client.got("a") == [str(n) for n in range(100)]


def test_several_topics_are_one_write_for_each_receiver_in_them(worker: Worker) -> None:
    both, one, other = worker.client("a", "b"), worker.client("a"), worker.client("b", "c")
    worker.publish("a", "1", "2")
    worker.publish("b", "3")
    worker.publish("a", "4")
    worker.hub.flush()
    for client in (both, one, other):
        assert len(client.writes) == 1
    assert (both.got("a"), both.got("b")) == (["1", "2", "4"], ["3"])
    assert (one.got("a"), one.got("b")) == (["1", "2", "4"], [])
    assert (other.got("a"), other.got("b")) == ([], ["3"])


def test_each_form_gets_its_own_bytes_and_is_asked_once(worker: Worker) -> None:
    other = Lines("other")
    clients = [worker.client("a", form=form) for form in (worker.lines, other) for _ in range(3)]
    clients.append(worker.client("a", form=other, alone=True))
    clients[0].room = 0
    worker.publish("a", "1", "2")
    worker.hub.flush()
    clients[0].catch_up()
    assert all(client.got("a") == ["1", "2"] for client in clients)
    assert (worker.lines.encoded, other.encoded) == (2, 2)


def test_a_receiver_with_bytes_of_its_own_is_delivered_to_alone(worker: Worker) -> None:
    client = worker.client("a", "b", alone=True)
    worker.publish("a", "1", "2")
    worker.publish("b", "3")
    worker.hub.flush()
    assert client.delivered == [("a", 2), ("b", 1)]
    assert (client.got("a"), client.got("b")) == (["1", "2"], ["3"])


# Bounds on writes


def test_a_write_joins_no_more_than_its_bound(worker: Worker) -> None:
    client = worker.client("a")
    frame = len(b"l|a|;")
    half = JOIN_BYTES // 2 - frame
    worker.publish("a", *"1234", size=half)
    worker.hub.flush()
    assert [len(write) for write in client.writes] == [JOIN_BYTES, JOIN_BYTES]
    client.writes.clear()
    worker.publish("a", *"567", size=half + 1)
    worker.hub.flush()
    assert len(client.writes) == 3
    assert client.got("a") == list("1234567")


@pytest.mark.parametrize("sizes", [[JOIN_BYTES, 0, 0], [0, JOIN_BYTES, 0], [0, 0, JOIN_BYTES]])
def test_a_frame_beyond_the_bound_is_a_write_of_its_own(worker: Worker, sizes: list[int]) -> None:
    client = worker.client("a")
    for data, size in zip("123", sizes, strict=True):
        worker.publish("a", data, size=size)
    worker.hub.flush()
    assert len(client.writes) == (3 if sizes[1] else 2)
    assert all(client.writes)
    assert client.got("a") == ["1", "2", "3"]


def test_what_one_receiver_is_written_over_all_its_topics_is_bounded(worker: Worker) -> None:
    topics = [f"t{n}" for n in range(100)]
    client, slow = worker.client(*topics), worker.client(*topics, room=0)
    for topic in topics:
        worker.publish(topic, "1", "2", size=SCATTER_BYTES // 50)
    worker.hub.flush()
    headers = 100 * len("l|t00|;")
    assert len(client.writes) <= 5
    assert max(map(len, client.writes)) <= SCATTER_BYTES + headers
    # Who fell behind in the first write gets references to the frames that all share.
    assert len(slow.delivered) > 70
    slow.catch_up()
    for topic in topics:
        assert client.got(topic) == slow.got(topic) == ["1", "2"]


# Falling behind


def test_who_is_cut_short_gets_the_rest_and_what_follows_in_order(worker: Worker) -> None:
    slow, fast = worker.client("a", room=12), worker.client("a")
    worker.publish("a", "1", "2", "3")
    worker.hub.flush()
    assert slow.behind
    assert not slow.bulk
    assert slow.got("a") == ["1", "2"]
    worker.publish("a", "4")
    worker.hub.flush()
    assert slow.delivered == [("a", 1)]
    slow.catch_up()
    assert slow.bulk
    worker.publish("a", "5")
    worker.hub.flush()
    assert slow.got("a") == fast.got("a") == list("12345")
    assert slow.delivered == [("a", 1)]


@pytest.mark.parametrize("room", [0, 10, JOIN_BYTES - 1, JOIN_BYTES, 2 * JOIN_BYTES + 7])
@pytest.mark.parametrize("at_once", [False, True])
def test_who_falls_behind_between_writes_gets_the_rest_once(
    worker: Worker, room: int, at_once: bool
) -> None:
    slow, fast = worker.client("a", room=room), worker.client("a")
    slow.catches_up_at_once = at_once
    worker.publish("a", *"1234567", size=JOIN_BYTES // 2 - 5)
    worker.hub.flush()
    assert slow.behind is not at_once
    slow.catch_up()
    assert slow.got("a") == fast.got("a") == list("1234567")
    assert slow.bulk


def test_who_is_cut_short_in_several_topics_gets_the_rest_of_each(worker: Worker) -> None:
    slow, fast = worker.client("a", "b", room=7), worker.client("a", "b")
    for round in "12":
        worker.publish("a", round)
        worker.publish("b", round)
        worker.hub.flush()
    slow.catch_up()
    for topic in "ab":
        assert slow.got(topic) == fast.got(topic) == ["1", "2"]


def test_saying_twice_that_a_receiver_keeps_up_changes_nothing(worker: Worker) -> None:
    client = worker.client("a")
    worker.hub.set_bulk(client, True)
    worker.hub.set_bulk(client, False)
    worker.hub.set_bulk(client, False)
    worker.publish("a", "1")
    worker.hub.flush()
    assert client.got("a") == ["1"]


def test_a_subscription_of_one_who_is_behind_is_delivered_to_it_alone(worker: Worker) -> None:
    client = worker.client("a", room=0)
    worker.publish("a", "1")
    worker.hub.flush()
    worker.subscribe(client, "b")
    worker.publish("b", "2")
    worker.hub.flush()
    assert client.delivered == [("b", 1)]
    client.catch_up()
    assert (client.got("a"), client.got("b")) == (["1"], ["2"])


# Leaving


def test_what_was_dispatched_before_unsubscribing_arrives_and_nothing_after(
    worker: Worker,
) -> None:
    client, other = worker.client("a"), worker.client("a")
    worker.publish("a", "1")
    worker.unsubscribe(client, "a")
    worker.publish("a", "2")
    worker.hub.flush()
    assert client.got("a") == ["1"]
    assert other.got("a") == ["1", "2"]
    assert worker.hub.find(client, "a") is None
    assert client.topics == []


def test_a_subscription_begins_behind_what_is_pending(worker: Worker) -> None:
    early = worker.client("a")
    worker.publish("a", "1")
    late = worker.client("a")
    worker.publish("a", "2")
    worker.hub.flush()
    assert early.got("a") == ["1", "2"]
    assert late.got("a") == ["2"]


@pytest.mark.parametrize("alone", [False, True])
def test_a_receiver_may_end_while_its_last_publications_are_sent(
    worker: Worker, alone: bool
) -> None:
    client = worker.client("a", "b", alone=alone)
    client.dead = True
    worker.publish("a", "1")
    worker.unsubscribe(client, "a")
    assert client.left
    assert worker.hub.topics == {}
    assert worker.hub.subscriptions == 0


def test_leaving_ends_every_subscription_and_forgets_what_nobody_wants(worker: Worker) -> None:
    client, other = worker.client("a", "b", "c"), worker.client("b")
    worker.publish("a", "1")
    worker.publish("b", "2")
    client.leave()
    assert set(worker.hub.topics) == worker.broker.attached_topics == {"b"}
    assert worker.hub.subscriptions == 1
    worker.hub.flush()
    assert client.writes == []
    assert other.got("b") == ["2"]
    worker.publish("a", "3")
    worker.hub.flush()
    client.leave()
    assert worker.hub.subscriptions == 1


def test_the_key_of_one_who_left_may_be_used_anew(worker: Worker) -> None:
    old = worker.client("a", "b")
    worker.publish("a", "1")
    old.leave()
    new = Socket(worker.hub, old.key, worker.lines)
    worker.subscribe(new, "a")
    worker.publish("a", "2")
    worker.publish("b", "3")
    worker.hub.flush()
    worker.hub.set_bulk(old, False)
    assert old.writes == []
    assert new.got("a") == ["2"]
    assert new.got("b") == []


@pytest.mark.parametrize("topics", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_receiver_whose_connection_is_broken_leaves_in_the_middle_of_a_flush(
    worker: Worker, topics: list[str]
) -> None:
    first, broken, last = (worker.client(*topics) for _ in range(3))
    broken.dead = True
    for topic in topics:
        worker.publish(topic, "1", "2")
    worker.hub.flush()
    for topic in topics:
        assert first.got(topic) == last.got(topic) == ["1", "2"]
    assert broken.left
    assert worker.hub.subscriptions == 2 * len(topics)


def test_who_leaves_in_the_first_of_several_writes_gets_none_of_the_others(
    worker: Worker,
) -> None:
    broken, fast = worker.client("a"), worker.client("a")
    broken.dead = True
    worker.publish("a", *"123", size=JOIN_BYTES - 10)
    worker.hub.flush()  # the socket itself refuses what comes after it left
    assert broken.left
    assert fast.got("a") == ["1", "2", "3"]


def test_a_topic_further_on_may_end_with_a_receiver_that_leaves(worker: Worker) -> None:
    client = worker.client("a", "b", "c", alone=True)
    client.room, client.patience = 0, 1
    for topic in "abc":
        worker.publish(topic, "1", "2")
    worker.hub.flush()
    assert client.left
    assert worker.hub.topics == {}
    assert worker.broker.attached_topics == set()
    worker.hub.flush()


def test_the_feed_of_a_topic_ends_with_its_last_receiver(worker: Worker) -> None:
    one, other = worker.client("a"), worker.client("a", form=Lines("other"))
    worker.unsubscribe(one, "a")
    assert worker.broker.attached_topics == {"a"}
    worker.unsubscribe(other, "a")
    assert worker.broker.attached_topics == set()
    assert worker.hub.topics == {}


# Joining a stream whose past must be asked for


def admitted(worker: Worker, client: Socket, *, after: int, held: list[Publication]) -> list[int]:
    """Holds, dispatches `held`, admits; returns the offsets beyond the past."""
    hold = worker.hub.hold("a")
    for publication in held:
        worker.hub.dispatch(publication)
    return [each.offset for each in worker.hub.admit(hold, client, "epoch", after)]


@pytest.mark.parametrize("after", range(6))
def test_a_hold_gives_what_the_past_did_not_contain(worker: Worker, after: int) -> None:
    held = [Publication("a", b"x", 0, offset, "epoch") for offset in (2, 3, 4)]
    newer = admitted(worker, worker.client(), after=after, held=held)
    assert newer == [offset for offset in (2, 3, 4) if offset > after]


def test_what_is_pending_at_the_admission_comes_from_the_hold_only(worker: Worker) -> None:
    early, late = worker.client("a"), worker.client()
    worker.publish("a", "1")
    hold = worker.hub.hold("a")
    worker.publish("a", "2")
    worker.hub.flush()
    worker.publish("a", "3")
    late.replay(worker.hub.admit(hold, late, "epoch", 1))
    worker.publish("a", "4")
    worker.hub.flush()
    assert early.got("a") == ["1", "2", "3", "4"]
    assert late.got("a") == ["2", "3", "4"]
    assert worker.hub.find(late, "a") is not None


def test_a_topic_without_history_has_no_past_that_a_hold_could_repeat(worker: Worker) -> None:
    held = [Publication("a", b"x", 0), Publication("a", b"y", 0)]
    hold = worker.hub.hold("a")
    for publication in held:
        worker.hub.dispatch(publication)
    assert worker.hub.admit(hold, worker.client(), "", 0) == held


def test_another_epoch_is_no_part_of_the_past(worker: Worker) -> None:
    held = [Publication("a", b"x", 0, 1, "new epoch")]
    assert admitted(worker, worker.client(), after=7, held=held) == [1]


def message(epoch: str, offset: int) -> Publication:
    return Publication("a", b"x", 0, offset, epoch)


@pytest.mark.parametrize("after", [0, 2])
def test_what_stands_in_a_hold_before_the_epoch_of_the_past_is_older_than_the_past(
    worker: Worker, after: int
) -> None:
    lost = Loss("a", Position("new", 0), "the shard lost everything")
    newer = [message("new", offset) for offset in (1, 2, 3)]
    hold = worker.hub.hold("a")
    for publication in (message("old", 8), message("old", 9), lost, *newer):
        worker.hub.dispatch(publication)
    assert worker.hub.admit(hold, worker.client(), "new", after) == newer[after:]


class Life(NamedTuple):
    """A topic's life.

    moments: the positions at which its stream ever stood, in order.
    fed: what the feed brought, each with the moment that it leads to; None where it leads to none.
    """

    moments: list[Position]
    fed: list[tuple[Publication, int | None]]


EVENTS = ("message", "quick", "turn", "loss", "restart", "restart and loss")


def life(events: Iterable[str]) -> Life:
    epochs = iter("bcdefg")
    epoch, offset = "a", 4
    moments, fed = [Position(epoch, offset)], list[tuple[Publication, int | None]]()
    for event in events:
        if event == "quick":
            fed.append((Publication("a", b"x", 0), None))
            continue
        former = epoch
        if event in ("turn", "restart", "restart and loss"):
            epoch, offset = next(epochs), offset if event == "turn" else 0
            moments.append(Position(epoch, offset))
        if event in ("message", "loss", "restart and loss"):
            for _ in range(1 if event == "message" else 2):
                offset += 1
                moments.append(Position(epoch, offset))
        position = moments[-1]
        publication: Publication
        if event == "message":
            publication = message(*position)
        elif event == "turn":
            publication = Turn("a", position, former)
        else:
            publication = Loss("a", position, event)
        fed.append((publication, len(moments) - 1))
    return Life(moments, fed)


def joinings(life: Life) -> Iterator[tuple[int, int, int]]:
    """Every way to join: when the hold begins, of which moment the past is, when it arrives.

    The first and the last are places in what is fed. The past is read after the hold has begun.
    When it arrives, what leads up to its moment has been fed, and the feed is in its epoch.
    """
    ends = len(life.fed)
    for moment, (epoch, _) in enumerate(life.moments):
        leads = [to is not None and to <= moment for _, to in life.fed]
        newer = [to is not None and to > moment for _, to in life.fed]
        there = [epoch == life.moments[0].epoch, *(each.epoch == epoch for each, _ in life.fed)]
        first = ends - leads[::-1].index(True) if True in leads else 0
        last = newer.index(True) if True in newer else ends
        for begins in range(last + 1):
            for arrives in range(max(first, begins, there.index(True)), ends + 1):
                yield begins, moment, arrives


@pytest.mark.parametrize("first", EVENTS)
def test_whoever_joins_at_any_time_gets_what_follows_its_past_once_and_in_order(
    first: str,
) -> None:
    """Whatever five things happen in a topic, and whenever the hold begins and the past is read."""
    for events in product([first], *[EVENTS] * 4):
        moments, fed = life(events)
        for begins, moment, arrives in joinings(Life(moments, fed)):
            hold = Hold(Topic("a"))
            for publication, _ in fed[begins:arrives]:
                hold.keep(publication)
            got = hold.beyond(*moments[moment]) + [each for each, _ in fed[arrives:]]
            due = [each for each, to in fed[begins:] if to is None or to > moment]
            assert got == due, (events, begins, moment, arrives)


def test_a_hold_keeps_its_topic_and_the_feed(worker: Worker) -> None:
    worker.broker.attach("a")
    hold = worker.hub.hold("a")
    client = worker.client("a")
    client.leave()
    assert worker.broker.attached_topics == {"a"}
    worker.publish("a", "1")
    late = worker.client()
    assert len(worker.hub.admit(hold, late, "epoch", 0)) == 1
    late.leave()
    assert worker.broker.attached_topics == set()
    assert worker.hub.topics == {}


def test_the_last_hold_that_is_released_ends_the_feed(worker: Worker) -> None:
    worker.broker.attach("a")
    one, other = worker.hub.hold("a"), worker.hub.hold("a")
    worker.publish("a", "1")
    worker.hub.release(one)
    worker.hub.release(one)
    assert worker.broker.attached_topics == {"a"}
    worker.hub.release(other)
    assert worker.broker.attached_topics == set()
    assert worker.hub.topics == {}
    worker.hub.flush()


def test_releasing_after_the_admission_does_nothing(worker: Worker) -> None:
    client, hold = worker.client(), worker.hub.hold("a")
    worker.hub.admit(hold, client, "epoch", 0)
    worker.hub.release(hold)
    worker.publish("a", "1")
    worker.hub.flush()
    assert client.got("a") == ["1"]


@pytest.mark.parametrize("size", [0, 1000, HOLD_BYTES])
def test_a_hold_is_bounded_and_then_knows_only_where_the_topic_goes_on(
    worker: Worker, size: int
) -> None:
    hold = worker.hub.hold("a")
    data = b" " * size
    kept = 0
    while not hold.broken:
        kept += 1
        worker.hub.dispatch(Publication("a", data, 0, kept, "epoch"))
        assert kept < 100_000, "it is never broken"
    assert kept * size <= HOLD_BYTES + size
    worker.hub.dispatch(Publication("a", data, 0, kept + 1, "epoch"))
    assert hold.publications == []
    (loss,) = worker.hub.admit(hold, worker.client(), "epoch", 0)
    assert isinstance(loss, Loss)
    assert (loss.epoch, loss.offset) == ("epoch", kept + 1)
    assert worker.hub.broken_holds == 1


QUICK = Publication("a", b"no position", 0)
FAT = Publication("a", b" " * HOLD_BYTES, 0)


@pytest.mark.parametrize(
    ("held", "position"),
    [
        ([message("e", 3), FAT], ("e", 3)),
        ([message("e", 3), FAT, QUICK, Arrival("a", b"{}", 0)], ("e", 3)),
        ([FAT, message("e", 3), Turn("a", Position("f", 3), "e"), QUICK], ("f", 3)),
        ([FAT, message("e", 3), Loss("a", Position("f", 0), "gone")], ("f", 0)),
        ([FAT, message("e", 3), Loss("a", Position("e", 9), "gone"), QUICK], ("e", 9)),
        ([FAT, Turn("a", Position("f", 2), "e"), message("f", 3)], ("f", 3)),
    ],
)
def test_a_broken_hold_says_where_the_topic_goes_on_whatever_came_last(
    worker: Worker, held: list[Publication], position: tuple[str, int]
) -> None:
    for past, told in [(("e", 2), True), (position, False)]:
        hold = worker.hub.hold("a")
        for publication in held:
            worker.hub.dispatch(publication)
        assert hold.broken
        newer = worker.hub.admit(hold, worker.client(), *past)
        assert [(type(each), each.epoch, each.offset) for each in newer] == [
            (Loss, *position)
        ] * told


def test_a_broken_hold_of_a_topic_without_positions_has_nothing_to_tell(worker: Worker) -> None:
    hold = worker.hub.hold("a")
    for publication in (QUICK, FAT, QUICK):
        worker.hub.dispatch(publication)
    assert worker.hub.admit(hold, worker.client(), "", 0) == []
    assert worker.hub.broken_holds == 1


# What a feed brings besides messages


def test_turns_losses_and_members_come_in_their_place_among_the_messages(worker: Worker) -> None:
    both, one, alone = worker.client("a", "b"), worker.client("a"), worker.client("a", alone=True)
    worker.publish("a", "1")
    worker.hub.dispatch(Turn("a", Position("new", 1), "epoch"))
    worker.publish("a", "2")
    worker.hub.dispatch(Arrival("a", b"ann", 0))
    worker.hub.dispatch(Loss("a", Position("new", 7), "gone"))
    worker.hub.dispatch(Departure("a", b"ann", 0))
    worker.publish("b", "3")
    worker.hub.flush()
    for client in (both, one, alone):
        assert client.got("a") == ["1", "epoch", "2", "ann", "gone", "ann"]
    assert both.got("b") == ["3"]


def test_turns_and_losses_are_counted_with_and_without_receivers(worker: Worker) -> None:
    worker.client("a")
    for topic in ("a", "b"):
        worker.hub.dispatch(Turn(topic, Position("new", 1), "epoch"))
        worker.hub.dispatch(Loss(topic, Position("new", 2), "gone"))
        worker.hub.dispatch(Arrival(topic, b"ann", 0))
    worker.hub.dispatch(Loss("a", Position("new", 3), "gone"))
    assert (worker.hub.turns, worker.hub.losses, worker.hub.received) == (2, 3, 7)


# Counters


def test_the_counters_tell_what_was_handed_out(worker: Worker) -> None:
    worker.client("a")
    worker.client("a", "b")
    worker.client("a", alone=True)
    assert worker.hub.subscriptions == 4
    worker.publish("a", "1", "2")
    worker.hub.flush()
    assert (worker.hub.received, worker.hub.deliveries) == (2, 6)
    assert worker.hub.delivered_bytes == 2 * 2 * len("l|a|1;")
    worker.publish("a", "3")
    worker.publish("b", "4")
    worker.hub.flush()
    assert (worker.hub.received, worker.hub.deliveries) == (4, 10)
    assert worker.hub.delivered_bytes == 7 * len("l|a|1;")


@pytest.mark.parametrize("receivers", [1, SHARED - 1, SHARED, 2 * SHARED])
def test_it_is_crowded_when_much_is_pending_that_few_share(worker: Worker, receivers: int) -> None:
    topics = [f"t{number}" for number in range(CROWD)]
    for _ in range(receivers):
        worker.client(*topics)
    for topic in topics[:-1]:
        worker.publish(topic, "one", "two")
        assert not worker.hub.crowded
    worker.publish(topics[-1], "one")
    assert worker.hub.crowded is (receivers < SHARED)
    worker.hub.flush()
    assert not worker.hub.crowded
    worker.publish(topics[0], "three")
    assert not worker.hub.crowded
