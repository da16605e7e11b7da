"""The send window beside a model: what goes in, what may be missing, and what is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clarion_fanout.publication import Loss, Position, Publication, Turn
from clarion_fanout.topics import namespace_of
from clarion_server.window import REASON, Bound, Limit, Policy, Rule, Window
from support.examples import examples

LIMIT = Limit(bytes=400, messages=24, ticks=10, drip=100)
PATIENCE = 30


class Texts:
    """A wire form: `message topic offset number`, and for a loss `lost topic epoch offset`."""

    def encode(self, publication: Publication) -> bytes:
        if isinstance(publication, Loss):
            assert publication.data == REASON.encode()
            return b"lost %b %b %d" % (
                publication.topic.encode(),
                publication.epoch.encode(),
                publication.offset,
            )
        text = b"%b %b %d %b" % (
            publication.op.encode(),
            publication.topic.encode(),
            publication.offset,
            publication.data,
        )
        return text.ljust(len(publication.data) + publication.ts)


FORM = Texts()


def message(topic: str, number: int, offset: int = 0, size: int = 0, key: str = "") -> Publication:
    """`ts` carries the size of the frame: nothing here looks at times."""
    return Publication(topic, b"%d" % number, size, offset, "A" if offset else "", key)


def window(limit: Limit = LIMIT) -> Window:
    return Window(0, limit, Counter())


def deliver(window: Window, rule: Rule, *publications: Publication, now: int = 0) -> Bound | None:
    """Delivers each; returns the last one's outcome."""
    bound: Bound | None = None
    for each in publications:
        bound = window.deliver(rule, each, FORM.encode(each), now)
    return bound


def taken(window: Window) -> list[str]:
    """Everything that goes out, one frame at a time."""
    texts: list[str] = []
    while frames := window.take(1, FORM):
        texts += [frame.decode().strip() for frame in frames]
    assert (window.bytes, window.messages, len(window)) == (0, 0, 0)
    return texts


def drop_oldest(**bounds: int) -> Rule:
    return Rule("n", "drop_oldest", **bounds)


# What single policies do


def test_frames_are_shared_not_copied() -> None:
    frame = b"one for all"
    windows = [window() for _ in range(3)]
    for each in windows:
        each.push(frame)
    assert all(each.take(1, FORM)[0] is frame for each in windows)


def test_a_replay_that_was_asked_for_does_not_count() -> None:
    some = window(Limit(20, 2, 10, 1))
    for _ in range(5):
        assert some.push(b"history" * 10, counts=False) is None
    assert some.push(b"news") is None
    assert (some.bytes, some.messages) == (4, 1)
    assert taken(some) == ["history" * 10] * 5 + ["news"]


@pytest.mark.parametrize(
    ("frames", "bound"),
    [
        ([b"x" * 20], None),
        ([b"x" * 19, b"x", b""], None),
        ([b"x" * 20, b"x"], "bytes"),
        ([b"x", b"x" * 20], "bytes"),
        ([b"x" * 1000], None),
        ([b"", b"", b""], None),
        ([b"", b"", b"", b""], "messages"),
    ],
)
def test_a_bound_is_exceeded_by_what_is_beyond_it(frames: list[bytes], bound: str | None) -> None:
    some = window(Limit(bytes=20, messages=3, ticks=10, drip=1))
    assert [some.push(frame) for frame in frames][-1] == bound


def test_where_everything_counts_it_makes_no_difference_who_brought_it() -> None:
    some = window(Limit(bytes=1000, messages=3, ticks=10, drip=1))
    rule = Rule("other", "close", messages=2)
    some.push(b"answer")
    assert deliver(some, Rule("plain"), message("a", 1)) is None
    assert deliver(some, rule, message("other:a", 2)) is None
    assert deliver(some, rule, message("other:a", 3)) == "messages"


def test_a_namespaces_own_bound_closes_before_the_windows_is_reached() -> None:
    rule = Rule("n", "close", bytes=50)
    some = window()
    assert deliver(some, rule, message("n:a", 1, size=100)) is None  # one is always within it
    assert deliver(some, rule, message("n:a", 2)) == "bytes"
    assert some.clear() == 2


def test_the_oldest_of_a_namespace_are_dropped_whatever_their_topic() -> None:
    some = window()
    rule = drop_oldest(messages=3)
    for number in range(1, 7):
        assert deliver(some, rule, message("n:a" if number % 2 else "n:b", number)) is None
    assert taken(some) == ["message n:b 0 4", "message n:a 0 5", "message n:b 0 6"]


def test_where_there_is_a_history_what_was_dropped_is_told_in_its_place() -> None:
    some = window()
    rule = drop_oldest(messages=2)
    some.push(b"first")
    deliver(some, rule, message("n:a", 1, 1), message("n:b", 2, 9))
    some.push(b"second")
    deliver(some, rule, message("n:a", 3, 2), message("n:a", 4, 3), message("n:a", 5, 4))
    assert taken(some) == [
        "first",
        "lost n:a A 2",
        "lost n:b A 9",
        "second",
        "message n:a 3 4",
        "message n:a 4 5",
    ]


def test_a_loss_is_told_anew_when_more_is_dropped_after_it_was_told() -> None:
    some = window()
    rule = drop_oldest(messages=1)
    deliver(some, rule, message("n:a", 1, 1), message("n:a", 2, 2))
    assert taken(some) == ["lost n:a A 1", "message n:a 2 2"]
    deliver(some, rule, message("n:a", 3, 3), message("n:a", 4, 4), message("n:a", 5, 5))
    assert taken(some) == ["lost n:a A 4", "message n:a 5 5"]


def test_whole_topics_are_given_up_those_with_the_most_first() -> None:
    some = window()
    rule = Rule("n", "resync", messages=9)
    deliver(some, rule, message("n:quiet", 1, 70))
    deliver(some, rule, *(message("n:noisy", n, n) for n in range(1, 9)))
    assert (some.messages, len(some)) == (9, 9)
    deliver(some, rule, message("n:noisy", 9, 9))
    assert some.messages == 1
    # And it goes on.
    deliver(some, rule, message("n:noisy", 10, 10))
    assert taken(some) == ["message n:quiet 70 1", "lost n:noisy A 9", "message n:noisy 10 10"]


def test_a_topic_that_is_given_up_alone_still_says_so() -> None:
    some = window()
    rule = Rule("n", "resync", messages=2)
    deliver(some, rule, *(message("n:a", n, n) for n in range(1, 4)))
    assert (some.messages, some.bytes) == (0, 0)
    assert taken(some) == ["lost n:a A 3"]


def test_only_the_newest_of_a_topic_waits_in_the_place_of_the_first() -> None:
    some = window()
    rule = Rule("n", "latest")
    other = Rule("other")
    for number in range(1, 5):
        deliver(some, rule, message("n:a", number), message("n:b", number, number))
        deliver(some, other, message("other:a", number))
        assert some.messages == 2 + number
    assert taken(some) == [
        "message n:a 0 4",
        "lost n:b A 3",
        "message n:b 4 4",
        *(f"message other:a 0 {number}" for number in range(1, 5)),
    ]


def test_the_newest_of_each_key_waits_and_of_those_without_one() -> None:
    some = window()
    rule = Rule("n", "latest")
    for number in range(1, 4):
        deliver(some, rule, message("n:a", number, key="x"), message("n:a", number, key="y"))
        deliver(some, rule, message("n:a", number), message("n:b", number, key="x"))
    assert some.messages == 4
    assert taken(some) == ["message n:a 0 3"] * 3 + ["message n:b 0 3"]


def test_what_changes_often_keeps_its_turn() -> None:
    """Else a client that is slow enough would never get it."""
    some = window()
    rule = Rule("n", "latest")
    deliver(some, rule, message("n:a", 1, key="busy"), message("n:a", 2, key="quiet"))
    deliver(some, rule, message("n:a", 3, key="busy"))
    assert taken(some) == ["message n:a 0 3", "message n:a 0 2"]


def test_where_there_is_a_history_nothing_overtakes_a_smaller_offset() -> None:
    some = window()
    rule = Rule("n", "latest")
    deliver(some, rule, *(message("n:a", n, n, key=key) for n, key in enumerate("abcab", 1)))
    assert taken(some) == [
        "lost n:a A 2",
        "message n:a 3 3",
        "message n:a 4 4",
        "message n:a 5 5",
    ]


def test_each_loss_is_told_before_the_next_of_the_topic_and_not_earlier() -> None:
    some = window()
    rule = Rule("n", "latest")
    deliver(some, rule, *(message("n:a", n, n, key=key) for n, key in enumerate("abacb", 1)))
    # 1 and 2 were replaced by 3 and 5; then 3 by 6.
    deliver(some, rule, message("n:a", 6, 6, key="a"))
    assert taken(some) == [
        "lost n:a A 3",
        "message n:a 4 4",
        "message n:a 5 5",
        "message n:a 6 6",
    ]


def test_a_loss_of_keys_is_told_however_many_places_were_given_up() -> None:
    some = window()
    some.push(b"the client is stuck here")
    rule = Rule("n", "latest")
    for number in range(1, 5000):
        deliver(some, rule, message("n:a", number, number, key=str(number % 7)))
        assert len(some) < 100
    assert taken(some)[1:] == [
        "lost n:a A 4992",
        *(f"message n:a {number} {number}" for number in range(4993, 5000)),
    ]


def test_more_keys_than_there_is_room_for_close_as_their_newest_are_never_given_up() -> None:
    some = window(Limit(bytes=10_000, messages=4, ticks=10, drip=1))
    rule = Rule("n", "latest")
    assert deliver(some, rule, *(message("n:a", n, n, key=str(n)) for n in range(1, 5))) is None
    assert deliver(some, rule, message("n:a", 5, 5, key="1")) is None
    assert deliver(some, rule, message("n:a", 6, 6, key="5")) == "messages"


def test_the_newest_of_a_topic_is_not_given_up_for_others() -> None:
    some = window(Limit(bytes=10_000, messages=4, ticks=10, drip=1))
    rule = Rule("n", "latest")
    assert deliver(some, rule, *(message(f"n:{n}", n) for n in range(4))) is None
    assert deliver(some, rule, message("n:0", 9)) is None
    assert deliver(some, rule, message("n:4", 4)) == "messages"


def test_a_full_window_takes_what_may_be_dropped_before_it_closes_anybody() -> None:
    some = window(Limit(bytes=10_000, messages=4, ticks=10, drip=1))
    deliver(some, Rule("news"), message("news:a", 1))
    deliver(some, drop_oldest(), message("n:a", 1), message("n:a", 2))
    deliver(some, Rule("r", "resync"), message("r:a", 1, 1))
    assert some.push(b"answer") is None  # n:a 1 went
    assert deliver(some, Rule("r", "resync"), message("r:a", 2, 2)) is None  # its own first
    assert some.messages == 3
    assert [some.push(b"answer") for _ in range(2)] == [None, None]  # n:a 2 went
    assert some.push(b"answer") == "messages"


def test_what_may_be_dropped_never_closes_anybody() -> None:
    some = window(Limit(bytes=10_000, messages=2, ticks=10, drip=1))
    some.push(b"one")
    some.push(b"two")
    assert deliver(some, drop_oldest(), message("n:a", 1, 1)) is None
    assert taken(some) == ["one", "two", "lost n:a A 1"]


@pytest.mark.parametrize("policy", ["latest", "drop_oldest", "resync"])
def test_nothing_overtakes_what_is_said_of_a_topic(policy: Policy) -> None:
    some = window()
    rule = Rule("n", policy, messages=1 if policy != "latest" else 0)
    deliver(some, rule, message("n:a", 1, 1), message("n:a", 2, 2))
    some.part("n:a")
    some.push(b"turn n:a")
    new = Publication("n:a", b"3", 0, 3, "B")
    deliver(some, rule, new)
    first, last = {
        # The epoch of each loss is that of its place in the stream.
        "latest": (["lost n:a A 1", "message n:a 2 2"], ["message n:a 3 3"]),
        "drop_oldest": (["lost n:a A 2"], ["message n:a 3 3"]),
        "resync": (["lost n:a A 2"], ["message n:a 3 3"]),
    }[policy]
    assert taken(some) == [*first, "turn n:a", *last]


def test_what_has_no_position_is_dropped_in_silence() -> None:
    """Backends may publish past a stream: then nothing of it is missing."""
    some = window()
    rule = drop_oldest(messages=1)
    deliver(some, rule, message("n:a", 1, 1), message("n:a", 2, 0), message("n:a", 3, 2))
    assert taken(some) == ["lost n:a A 1", "message n:a 2 3"]


def test_what_waits_too_long_for_its_namespace_goes() -> None:
    some = window()
    rule = drop_oldest(ticks=5)
    deliver(some, rule, message("n:a", 1), now=0)
    deliver(some, rule, message("n:a", 2), now=3)
    assert some.expire(4) is None
    assert some.messages == 2
    assert some.expire(5) is None
    assert some.messages == 1
    assert some.expire(8) is None
    assert some.messages == 0


def test_a_namespace_that_closes_says_so_when_something_waits_too_long() -> None:
    some = window()
    rule = Rule("n", "close", ticks=5)
    deliver(some, rule, message("n:a", 1), now=0)
    assert some.expire(4) is None
    assert some.expire(5) is rule


def test_what_has_gone_out_is_not_dropped_any_more() -> None:
    some = window()
    rule = drop_oldest(messages=2)
    deliver(some, rule, message("n:a", 1), message("n:a", 2))
    assert some.take(1, FORM) == [FORM.encode(message("n:a", 1))]
    deliver(some, rule, message("n:a", 3), message("n:a", 4))
    assert taken(some) == ["message n:a 0 3", "message n:a 0 4"]


def test_the_newest_of_a_topic_waits_anew_when_the_one_before_has_gone_out() -> None:
    some = window()
    rule = Rule("n", "latest")
    deliver(some, rule, message("n:a", 1))
    some.push(b"answer")
    assert some.take(1, FORM) == [FORM.encode(message("n:a", 1))]
    deliver(some, rule, message("n:a", 2))
    assert taken(some) == ["answer", "message n:a 0 2"]


def test_a_loss_is_told_however_many_dropped_letters_are_taken_out() -> None:
    some = window(Limit(bytes=100_000, messages=1000, ticks=10, drip=1))
    some.push(b"the client is stuck here")
    deliver(some, Rule("r", "resync", messages=1), message("r:a", 1, 1), message("r:a", 2, 2))
    rule = drop_oldest(messages=1)
    for number in range(300):
        deliver(some, rule, message("n:a", number))
    assert taken(some)[1:] == ["lost r:a A 2", "message n:a 0 299"]


def test_dropped_letters_do_not_pile_up_behind_what_is_never_dropped() -> None:
    some = window()
    some.push(b"the client is stuck here")
    rule = drop_oldest(messages=5)
    for number in range(1, 10_000):
        deliver(some, rule, message(f"n:{number % 3}", number, number))
        assert len(some) < 150
    assert len(taken(some)) == 1 + 3 + 5


# Time


@pytest.mark.parametrize(("tick", "stuck"), [(10, False), (14, False), (15, True), (99, True)])
def test_a_client_is_stuck_when_it_took_nothing_for_the_limit(tick: int, stuck: bool) -> None:
    some = Window(5, LIMIT, Counter())
    assert some.stuck(tick, -7) is stuck


def test_whoever_takes_enough_gets_the_time_anew() -> None:
    some = window()
    assert not some.stuck(2, 1000)
    assert not some.stuck(9, 1100)
    assert not some.stuck(18, 1199)
    assert some.stuck(19, 1199)
    assert not some.stuck(19, 1200)


def test_a_drip_is_not_enough() -> None:
    some = window()
    assert [some.stuck(tick, tick) for tick in range(12)] == [False] * 10 + [True] * 2


# All of it together

RULES = {
    "plain": Rule("plain"),
    "close": Rule("close", "close", bytes=150, messages=6),
    "old": Rule("old", "drop_oldest", bytes=160),
    "drop": Rule("drop", "drop_oldest", messages=6, ticks=PATIENCE),
    "sync": Rule("sync", "resync", messages=8, ticks=PATIENCE),
    "resync": Rule("resync", "resync"),
    "latest": Rule("latest", "latest"),
    "few": Rule("few", "latest", messages=2),
}
STREAMS = frozenset({"plain", "close", "drop", "sync", "resync", "latest"})
"""Namespaces with a history."""
TOPICS = tuple(f"{name}:{topic}" for name in RULES for topic in "ab")
TURN = "a turn"


class WindowMachine(RuleBasedStateMachine):
    """The model: what was pushed and not read yet, in order, and what a reader may conclude.

    The reader follows each topic's positions as clients do. Whatever is missing must have been
    told, or have had no position; and nothing is told that is not so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = iter(range(1, 1_000_000))
        self.now = 0
        self.topics: list[str] = []
        self.connect()

    @initialize(topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=4, unique=True))
    def choose(self, topics: list[str]) -> None:
        """The client is subscribed to few topics, so that much happens in each."""
        self.topics = topics

    def connect(self) -> None:
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.window = Window(self.now, LIMIT, self.dropped)
        self.answers: list[tuple[str, bool]] = []
        """What belongs to no topic, and whether it counts."""
        self.due: dict[str, list[tuple[str, int]]] = {topic: [] for topic in TOPICS}
        """What was pushed of each topic: its text and offset."""
        self.waits: dict[str, list[tuple[str, int, str]]] = {topic: [] for topic in TOPICS}
        """With `latest`: what waits of each topic: its text, offset and key."""
        self.keys: dict[str, str] = {}
        """Of messages, by their text."""
        self.newest = dict.fromkeys(TOPICS, (0, 0))
        """The number of its epoch, and the offset, of each topic's stream."""
        self.told = dict.fromkeys(TOPICS, (0, 0))
        """The same as the reader knows them."""
        self.counted = 0
        """Messages pushed, less those that were read."""

    @contextmanager
    def pushing(self, size: int, *, fits: bool) -> Iterator[Callable[[Bound | None], object]]:
        """Where there is room for everything, nothing may happen to what waits."""
        window = self.window
        fits = fits and window.messages < LIMIT.messages
        fits = fits and (not window.messages or window.bytes + size <= LIMIT.bytes)
        dropped = self.dropped.total()
        bounds: list[Bound | None] = []
        yield bounds.append
        assert not fits or (bounds == [None] and self.dropped.total() == dropped)
        if bounds != [None]:
            assert window.clear() > 0
            self.connect()

    @rule(size=st.sampled_from([0, 30, 90]), counts=st.booleans())
    def answer(self, size: int, counts: bool) -> None:
        text = f"answer {next(self.numbers)}"
        frame = text.ljust(size).encode()
        with self.pushing(len(frame), fits=True) as result:
            self.answers.append((text, counts))
            self.counted += counts
            result(self.window.push(frame, counts=counts))

    @rule(
        place=st.integers(0, 3),
        sizes=st.lists(
            st.tuples(st.sampled_from([0, 0, 60, 120]), st.sampled_from(["", "", "x", "y", "z"])),
            min_size=1,
            max_size=6,
        ),
        positioned=st.sampled_from([True, True, True, False]),
    )
    def publish(self, place: int, sizes: list[tuple[int, str]], positioned: bool) -> None:
        topic = self.topics[place % len(self.topics)]
        of = RULES[namespace_of(topic)]
        for size, key in sizes:
            epoch, offset = self.newest[topic]
            if positioned and namespace_of(topic) in STREAMS:
                self.newest[topic] = epoch, offset = epoch, offset + 1
            else:
                offset = 0
            data = b"%d" % next(self.numbers)
            epoch_name = f"e{epoch}" if offset else ""
            publication = Publication(topic, data, size, offset, epoch_name, key)
            frame = FORM.encode(publication)
            unbounded = not (of.bytes or of.messages or of.policy == "latest")
            with self.pushing(len(frame), fits=unbounded) as result:
                text = frame.decode().strip()
                self.keys[text] = key
                self.due[topic].append((text, offset))
                self.renew(topic, text, offset, key)
                self.counted += 1
                bound = self.window.deliver(of, publication, frame, self.now)
                assert bound is None or of.policy in ("close", "latest")
                result(bound)

    def renew(self, topic: str, text: str, offset: int, key: str) -> None:
        """The newest of each key waits, in the place of the one before it where that may be."""
        waits = self.waits[topic]
        for place in reversed(range(len(waits))):
            if waits[place][2] == TURN:
                break
            if waits[place][2] == key:
                if not offset or place == len(waits) - 1:
                    waits[place] = text, offset, key
                    return
                del waits[place]
                break
        waits.append((text, offset, key))

    @rule(place=st.integers(0, 3))
    def turn(self, place: int) -> None:
        """Something is said of a topic: here, that it goes on in another epoch."""
        topic = self.topics[place % len(self.topics)]
        epoch, offset = self.newest[topic]
        self.newest[topic] = epoch + 1, offset
        number = str(next(self.numbers))
        frame = FORM.encode(Turn(topic, Position(f"e{epoch + 1}", offset), number))
        with self.pushing(len(frame), fits=True) as result:
            self.due[topic].append((frame.decode().strip(), offset))
            self.waits[topic].append((frame.decode().strip(), offset, TURN))
            self.counted += 1
            self.window.part(topic)
            result(self.window.push(frame))

    @rule(ticks=st.sampled_from([1, PATIENCE // 2, PATIENCE]))
    def wait(self, ticks: int) -> None:
        self.now += ticks
        assert self.window.expire(self.now) is None

    @rule(size=st.sampled_from([0, 50, 200, 1000]))
    def read(self, size: int) -> None:
        frames = self.window.take(size, FORM)
        others = [frame for frame in frames if not frame.startswith(b"lost ")]
        assert len(others) <= 1 or sum(map(len, others)) <= size
        for frame in frames:
            op, *fields = frame.decode().split()
            if op == "answer":
                text, counts = self.answers.pop(0)
                assert text == frame.decode().strip()
                self.counted -= counts
            elif op == "lost":
                self.is_told(fields[0], fields[1], int(fields[2]))
            else:
                self.is_read(fields[0], frame.decode().strip())

    def is_told(self, topic: str, epoch: str, offset: int) -> None:
        known, after = self.told[topic]
        assert epoch == f"e{known}"
        assert offset > after
        self.told[topic] = known, offset
        due = self.due[topic]
        place = [at for _, at in due].index(offset)
        missing = [text for text, _ in due[: place + 1]]
        assert all(text.startswith("message ") for text in missing), "told too late"
        if RULES[namespace_of(topic)].policy != "latest":
            del due[: place + 1]
            return
        for text, at in due[: place + 1]:
            if at:
                assert self.is_replaced(topic, text), f"{text} is the newest"
                due.remove((text, at))

    def is_replaced(self, topic: str, text: str) -> bool:
        """Whether a newer one of the same key comes before anything else is said of the topic."""
        texts = [each for each, _ in self.due[topic]]
        for later in texts[texts.index(text) + 1 :]:
            if not later.startswith("message "):
                return False
            if self.keys[later] == self.keys[text]:
                return True
        return False

    def is_read(self, topic: str, text: str) -> None:
        epoch, offset = self.told[topic]
        due = self.due[topic]
        if RULES[namespace_of(topic)].policy == "latest":
            assert self.waits[topic].pop(0)[0] == text
            self.forget_what_it_replaces(topic, text)
        while due[0][0] != text:
            missing, at = due.pop(0)
            assert missing.startswith("message "), f"{missing} is never dropped"
            assert not at, f"{missing} is missing, and nobody was told"
        self.keys.pop(text, None)
        _, at = due.pop(0)
        self.counted -= 1
        if not text.startswith("message "):
            assert at == offset
            self.told[topic] = epoch + 1, offset
        elif at:
            assert at == offset + 1
            self.told[topic] = epoch, at

    def forget_what_it_replaces(self, topic: str, text: str) -> None:
        """And puts it first: those of other keys before it may come later."""
        due = self.due[topic]
        place = [each for each, _ in due].index(text)
        for before in due[:place]:
            if self.keys.get(before[0]) == self.keys.get(text):
                assert not before[1], f"{before} is missing, and nobody was told"
                due.remove(before)
        due.insert(0, due.pop([each for each, _ in due].index(text)))

    @invariant()
    def it_knows_what_waits_and_keeps_its_bounds(self) -> None:
        window = self.window
        assert window.messages == self.counted - self.dropped.total() <= LIMIT.messages
        assert window.bytes <= LIMIT.bytes or window.messages == 1
        assert bool(window.messages) <= bool(len(window))

    def teardown(self) -> None:
        while len(self.window):
            self.read(100)
        assert (self.window.bytes, self.window.messages) == (0, 0)
        assert not self.answers
        for topic, due in self.due.items():
            if namespace_of(topic) in STREAMS:
                assert self.told[topic] == self.newest[topic]
            # Messages without a position may be missing, but not where nothing may be dropped;
            # and of `latest` the newest never is.
            assert not [text for text, offset in due if offset or not text.startswith("message ")]
            assert not due or RULES[namespace_of(topic)].policy in ("drop_oldest", "resync")


WindowMachine.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=40)
test_what_is_missing_was_told_and_what_is_never_dropped_is_there = WindowMachine.TestCase
