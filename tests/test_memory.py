"""The embedded broker's bounds. What it shares with every broker is in test_broker_contract.py."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clarion_fanout.broker import HistoryOptions, Page, Want
from clarion_fanout.history import ENTRY_BYTES, QUEUE_BYTES, STREAM_BYTES
from clarion_fanout.memory import KEY_BYTES, POSITION_SECONDS, SWEEP_STREAMS, MemoryBroker
from clarion_fanout.publication import Draft, Position, Publication, Receipt
from clarion_server.forms import WEBSOCKET
from support.clock import Clock
from support.coroutines import result
from support.examples import examples
from support.feeds import Roomy

LONG = HistoryOptions(100, 3600)


class Feed(Roomy):
    def __init__(self) -> None:
        self.publications: list[Publication] = []

    def dispatch(self, publication: Publication) -> None:
        self.publications.append(publication)


class Encoder(Roomy):
    """A feed of somebody who sends everything to WebSockets."""

    def dispatch(self, publication: Publication) -> None:
        WEBSOCKET.encode(publication)


class Embedded:
    """A memory broker that was started, with its clock and its feed."""

    def __init__(
        self,
        options: HistoryOptions | None = LONG,
        *,
        memory_bytes: int = 1 << 30,
        key_seconds: float = 300,
        key_count: int = 100_000,
    ) -> None:
        self.clock = Clock()
        self.feed = Feed()
        self.broker = MemoryBroker(
            history=lambda topic: None if topic.startswith("none:") else options,
            now=self.clock,
            memory_bytes=memory_bytes,
            key_seconds=key_seconds,
            key_count=key_count,
        )
        result(self.broker.start(self.feed))

    def publish(self, topic: str, data: bytes = b"0", key: str | None = None) -> Receipt:
        (receipt,) = result(self.broker.publish([Draft(topic, data, key)]))
        assert isinstance(receipt, Receipt)
        return receipt

    def peek(self, topic: str, want: Want = Want()) -> Page:  # noqa: B008 (a constant)
        page = self.broker.peek(topic, want)
        assert page is not None
        return page

    def offsets(self, topic: str) -> list[int]:
        return [each.offset for each in self.peek(topic).publications]

    def sweep(self) -> None:
        """Sweeps as often as it takes to see everything once."""
        for _ in range(2 + self.broker.stream_count // SWEEP_STREAMS):
            self.broker.sweep()


def stream_bytes(sizes: Iterable[int]) -> int:
    """What a stream counts that keeps publications of these sizes."""
    return STREAM_BYTES + QUEUE_BYTES + sum(2 * size + ENTRY_BYTES for size in sizes)


# Any traffic


class Publish(NamedTuple):
    topic: str
    size: int
    key: str | None


class Attach(NamedTuple):
    topic: str


class Detach(NamedTuple):
    topic: str


class Ask(NamedTuple):
    topic: str
    want: Want


class Pass(NamedTuple):
    seconds: float
    sweep: bool


Step = Publish | Attach | Detach | Ask | Pass

topics = st.sampled_from([f"t{n}" for n in range(6)] + ["none:a"])
steps = st.lists(
    st.one_of(
        st.builds(Publish, topics, st.sampled_from([1, 1, 50, 900, 4000]), st.none()),
        st.builds(Publish, topics, st.just(1), st.sampled_from("abcdef")),
        st.builds(Attach, topics),
        st.builds(Detach, topics),
        st.builds(Ask, topics, st.sampled_from([Want(), Want(limit=0), Want(last=1)])),
        st.builds(Pass, st.sampled_from([0.5, 30.0, 200.0, 100_000.0]), st.booleans()),
    ),
    max_size=60,
)


@given(steps, st.sampled_from([1_500, 3_000, 6_000, 12_000, 1 << 30]))
@settings(max_examples=examples(300))
def test_any_traffic_stays_in_bounds_and_in_order_and_leaves_nothing_behind(
    steps: list[Step], memory_bytes: int
) -> None:
    options = HistoryOptions(5, 100)
    embedded = Embedded(options, memory_bytes=memory_bytes, key_seconds=60, key_count=4)
    broker = embedded.broker
    attached: dict[str, Position | None] = {}
    published: dict[str, list[Publication]] = {}
    for step in steps:
        match step:
            case Publish(topic, size, key):
                receipt = embedded.publish(topic, b"x" * size, key)
                if not receipt.duplicate:
                    published.setdefault(topic, []).append(embedded.feed.publications[-1])
                    before = attached.get(topic)
                    if before is not None:
                        assert receipt.position == (before.epoch, before.offset + 1)
                if topic in attached and not receipt.duplicate:
                    attached[topic] = receipt.position
            case Attach(topic):
                assert broker.attach(topic)
                attached[topic] = embedded.peek(topic, Want(limit=0)).position
            case Detach(topic):
                broker.detach(topic)
                attached.pop(topic, None)
            case Ask(topic, want):
                embedded.peek(topic, want)
            case Pass(seconds, sweep):
                embedded.clock.advance(seconds)
                if sweep:
                    embedded.sweep()
        assert 0 <= broker.bytes <= memory_bytes
        for topic, position in attached.items():
            page = embedded.peek(topic)
            # Whatever was given up: the position of who is subscribed stays true,
            assert page.position == position
            # and what is kept is the newest, without a hole.
            newest = published.get(topic, [])[-len(page.publications) :]
            assert list(page.publications) == (newest if page.publications else [])
    for topic in attached:
        broker.detach(topic)
    for _ in range(2):
        embedded.clock.advance(POSITION_SECONDS + 1)
        embedded.sweep()
    assert broker.stream_count == 0
    assert broker.bytes == 0


# Eviction


@pytest.mark.parametrize("asks", [False, True])
def test_the_stream_used_longest_ago_gives_up_its_history_first(asks: bool) -> None:
    embedded = Embedded(memory_bytes=3 * stream_bytes([1, 1]))
    for topic in ("a", "b", "c"):
        embedded.publish(topic)
        embedded.publish(topic)
    assert embedded.broker.bytes == 3 * stream_bytes([1, 1])
    assert embedded.broker.evictions == 0
    if asks:
        embedded.peek("a", Want(limit=0))
        embedded.publish("c")
    else:
        embedded.publish("a")
    assert embedded.broker.evictions == 1
    assert embedded.offsets("b") == []
    assert len(embedded.offsets("a") + embedded.offsets("c")) == 5


def test_who_comes_back_after_an_eviction_is_told() -> None:
    embedded = Embedded(memory_bytes=stream_bytes([1, 1]))
    position = embedded.publish("a").position
    embedded.publish("b")
    page = embedded.peek("a", Want(since=position))
    assert not page.complete
    assert embedded.publish("a").position != position


def test_a_subscribed_topic_gives_up_its_publications_and_keeps_its_position() -> None:
    embedded = Embedded(memory_bytes=stream_bytes([1, 1]))
    embedded.broker.attach("a")
    first = embedded.publish("a").position
    second = embedded.publish("a").position
    assert first is not None
    embedded.publish("b")
    assert embedded.broker.evictions == 1
    page = embedded.peek("a")
    assert page == Page(second, [])
    assert embedded.peek("a", Want(since=second)).complete
    assert not embedded.peek("a", Want(since=first)).complete
    assert embedded.publish("a").position == first._replace(offset=3)


def test_a_publication_larger_than_all_memory_is_delivered_and_not_kept() -> None:
    embedded = Embedded(memory_bytes=5_000)
    embedded.broker.attach("a")
    receipt = embedded.publish("a", b"x" * 10_000)
    assert receipt.position is not None
    assert embedded.feed.publications[-1].offset == receipt.position.offset == 1
    assert embedded.offsets("a") == []
    assert embedded.broker.bytes == 0


def test_keys_go_last_and_the_oldest_first() -> None:
    embedded = Embedded(memory_bytes=2 * (KEY_BYTES + len("none:a") + 1))
    for key in "abc":
        assert not embedded.publish("none:a", key=key).duplicate
    assert embedded.publish("none:a", key="b").duplicate
    assert embedded.publish("none:a", key="c").duplicate
    assert not embedded.publish("none:a", key="a").duplicate
    embedded = Embedded(memory_bytes=stream_bytes([1]) + 2 * KEY_BYTES)
    embedded.publish("none:a", key="a")
    for _ in range(3):
        embedded.publish("b", b"x" * 100)
    assert embedded.broker.evictions > 0
    assert embedded.publish("none:a", key="a").duplicate


def test_the_number_of_keys_is_bounded() -> None:
    embedded = Embedded(key_count=2)
    for key in "abc":
        embedded.publish("none:a", key=key)
    assert [embedded.publish("none:a", key=key).duplicate for key in "cb"] == [True, True]
    assert not embedded.publish("none:a", key="a").duplicate


def test_a_multitude_of_subscribed_topics_pushes_nothing_out() -> None:
    embedded = Embedded(memory_bytes=stream_bytes([1, 1]))
    embedded.publish("a")
    for n in range(1000):
        embedded.broker.attach(f"t{n}")
        embedded.peek(f"t{n}", Want(limit=0))
    embedded.publish("a")
    assert embedded.offsets("a") == [1, 2]
    assert embedded.broker.evictions == 0


def test_positions_that_subscribers_left_behind_are_bounded_too() -> None:
    embedded = Embedded(memory_bytes=10 * STREAM_BYTES)
    for n in range(100):
        embedded.broker.attach(f"t{n}")
        embedded.publish(f"t{n}")
    for n in range(100):
        embedded.broker.detach(f"t{n}")
        assert embedded.broker.bytes <= 10 * STREAM_BYTES
    assert embedded.broker.stream_count <= 10


# What stays behind


def test_a_question_alone_leaves_nothing_behind() -> None:
    embedded = Embedded()
    for n in range(10):
        page = embedded.peek(f"t{n}")
        assert page.position is not None
        assert page.position.offset == 0
    assert embedded.broker.stream_count == 0
    assert embedded.broker.bytes == 0


def test_a_subscription_to_which_nothing_came_leaves_nothing_behind() -> None:
    embedded = Embedded()
    embedded.broker.attach("a")
    embedded.peek("a", Want(limit=0))
    assert embedded.broker.stream_count == 1
    embedded.broker.detach("a")
    assert embedded.broker.stream_count == 0
    assert embedded.broker.bytes == 0


def test_who_comes_back_to_a_topic_that_nobody_published_to_has_missed_nothing() -> None:
    embedded = Embedded()
    embedded.broker.attach("a")
    before = embedded.peek("a", Want(limit=0)).position
    embedded.broker.detach("a")
    page = embedded.peek("a", Want(since=before))
    assert page.complete
    assert page.position == before


def test_nobody_meets_old_offsets_in_a_stream_that_was_lost_and_begun_anew() -> None:
    embedded = Embedded(memory_bytes=stream_bytes([1, 1]))
    epochs = set()
    for _ in range(3):
        position = embedded.publish("a").position
        assert position is not None
        assert position.offset == 1
        epochs.add(position.epoch)
        embedded.publish("b")  # pushes the other out
    assert len(epochs) == 3


def test_a_sweep_removes_what_is_too_old_and_keeps_the_position_for_a_day() -> None:
    embedded = Embedded()
    position = embedded.publish("a").position
    embedded.clock.advance(LONG.seconds + 1)
    embedded.sweep()
    assert embedded.broker.bytes == STREAM_BYTES
    assert embedded.broker.stream_count == 1
    embedded.clock.advance(POSITION_SECONDS - LONG.seconds - 10)
    embedded.sweep()
    assert embedded.peek("a", Want(since=position)).complete  # which is a use
    embedded.clock.advance(POSITION_SECONDS - 1)
    embedded.sweep()
    assert embedded.broker.stream_count == 1
    embedded.clock.advance(2)
    embedded.sweep()
    assert embedded.broker.stream_count == 0
    assert embedded.broker.bytes == 0


def test_a_stream_that_a_sweep_forgot_is_not_met_by_eviction() -> None:
    embedded = Embedded(memory_bytes=5_000)
    embedded.publish("a")
    embedded.clock.advance(POSITION_SECONDS + 1)
    embedded.sweep()
    embedded.publish("b", b"x" * 5_000)
    assert embedded.broker.evictions == 1


def test_a_stream_whose_history_outlasts_a_day_is_not_forgotten_before_it() -> None:
    embedded = Embedded(HistoryOptions(10, 3 * POSITION_SECONDS))
    embedded.publish("a")
    embedded.clock.advance(2 * POSITION_SECONDS)
    embedded.sweep()
    assert embedded.offsets("a") == [1]


def test_a_key_is_known_until_the_very_end_of_its_time() -> None:
    embedded = Embedded(key_seconds=10)
    embedded.publish("none:a", key="a")
    embedded.clock.advance(9.999)
    assert embedded.publish("none:a", key="a").duplicate
    embedded.clock.advance(0.001)
    assert not embedded.publish("none:a", key="a").duplicate


def test_a_sweep_forgets_keys_whose_time_is_over() -> None:
    embedded = Embedded(key_seconds=10)
    embedded.publish("none:a", key="a")
    embedded.clock.advance(6)
    embedded.publish("none:a", key="b")
    embedded.clock.advance(6)
    embedded.broker.sweep()
    assert embedded.broker.bytes == KEY_BYTES + len("none:a") + 1
    assert embedded.publish("none:a", key="b").duplicate


def test_a_sweep_is_bounded_and_the_next_ones_go_on() -> None:
    embedded = Embedded(key_seconds=10)
    count = 2 * SWEEP_STREAMS + 10
    for n in range(count):
        embedded.publish(f"t{n}", key="key")
    embedded.clock.advance(POSITION_SECONDS + 1)
    for left in (count - SWEEP_STREAMS, count - 2 * SWEEP_STREAMS, 0):
        embedded.broker.sweep()
        assert embedded.broker.stream_count == left
    assert embedded.broker.bytes == 0


def test_a_sweep_copes_with_streams_that_vanish_meanwhile() -> None:
    embedded = Embedded(memory_bytes=(SWEEP_STREAMS + 10) * stream_bytes([1]))
    for n in range(SWEEP_STREAMS + 10):
        embedded.publish(f"t{n}")
    embedded.broker.sweep()
    embedded.publish("large", b"x" * 100_000)
    assert embedded.broker.evictions > 10
    embedded.broker.sweep()
    assert embedded.offsets("large") == [1]


# What the constants claim


def fill_streams(broker: MemoryBroker) -> None:
    for n in range(2000):
        broker.attach(f"topic:{n}")
        broker.peek(f"topic:{n}", Want(limit=0))
        result(broker.publish([Draft(f"topic:{n}", b"")]))
        broker.detach(f"topic:{n}")


def fill_entries(size: int) -> Callable[[MemoryBroker], None]:
    def fill(broker: MemoryBroker) -> None:
        for n in range(2000):
            data = b"%d" % n + b" " * size
            result(broker.publish([Draft(f"a-topic-of-usual-length:{n % 3}", data)]))

    return fill


def fill_keys(broker: MemoryBroker) -> None:
    for n in range(5000):
        result(broker.publish([Draft("".join(("topic:", str(n % 3))), b"", f"{n:032}")]))


@pytest.mark.parametrize(
    ("fill", "size"),
    [
        pytest.param(fill_streams, 1, id="streams"),
        pytest.param(fill_entries(0), 10_000, id="tiny publications"),
        pytest.param(fill_entries(256), 10_000, id="small publications"),
        pytest.param(fill_entries(10_000), 10_000, id="large publications"),
        pytest.param(fill_keys, 1, id="keys"),
    ],
)
def test_what_is_counted_is_what_it_takes(fill: Callable[[MemoryBroker], None], size: int) -> None:
    clock = Clock()

    def now() -> int:
        clock.advance(0.001)  # a number of its own for each, as in real life
        return clock()

    options = HistoryOptions(size, 3600)
    broker = MemoryBroker(history=lambda _topic: options, now=now)
    result(broker.start(Encoder()))
    gc.collect()
    tracemalloc.start()
    try:
        fill(broker)
        gc.collect()
        taken, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.7 < broker.bytes / taken < 1.4
