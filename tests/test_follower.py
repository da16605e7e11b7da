"""The follower, beside a naive stream: whatever gets lost on the way, what is fed has no hole.

First what it does step by step, then a random life: a stream that is published to, trimmed, turns
and loses what it had; payloads that are lost, doubled and overtaken; subscriptions that are
interrupted; pages and checks that are answered late. What is fed is at all times in order and
without doubles, and once everything is settled nothing is missing but what a `Loss` has told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clarion_fanout.broker import Page, Want
from clarion_fanout.follower import WAITING, Follower, State
from clarion_fanout.publication import Loss, Position, Publication, Turn
from support.examples import examples
from support.naive_stream import TOPIC, NaiveStream, numbers


class Desk:
    """Keeps what a follower asks for, until a test answers it."""

    def __init__(self) -> None:
        self.follower: Follower | None = None
        """Whom it tells that something has happened to the stream."""
        self.fed: list[Publication] = []
        self.others: list[bytes] = []
        self.wants_page = False
        self.wants_check = False
        self.gone = False

    def dispatch(self, publication: Publication) -> None:
        self.fed.append(publication)

    def other(self, topic: str, payload: bytes) -> None:
        self.others.append(payload)
        if payload == b"!" and self.follower is not None:
            self.follower.doubt()

    def behind(self, follower: Follower) -> None:
        assert not self.wants_page, "a page was asked for twice"
        self.wants_page = True

    def doubtful(self, follower: Follower) -> None:
        self.wants_check = True

    def dropped(self, topic: str, listener: object) -> None:
        self.gone = True


class Bench:
    """A follower of a stream, and a desk that answers at once when it is told to."""

    def __init__(self, published: int = 3) -> None:
        self.stream = NaiveStream()
        for _ in range(published):
            self.stream.publish()
        self.desk = Desk()
        self.follower = Follower(TOPIC, self.desk)
        self.follower.subscribed()
        self.follower.begin(self.stream.position)

    def publish(self, count: int = 1) -> None:
        """Publications that arrive."""
        for _ in range(count):
            self.follower.take(self.stream.publish())

    def read(self, limit: int = 500) -> Page:
        assert self.desk.wants_page
        self.desk.wants_page = False
        want = Want(since=self.follower.position, limit=limit)
        return self.stream.page(want, follows=True, former=self.follower.former)

    def check(self) -> bool:
        return self.follower.checked(self.follower.position, *self.stream.position)

    def mend(self) -> None:
        while self.desk.wants_page:
            self.follower.page(self.read())

    @property
    def fed(self) -> list[int]:
        return numbers(self.desk.fed)

    @property
    def told(self) -> list[tuple[type, Position]]:
        """What was fed besides messages."""
        return [
            (type(each), Position(each.epoch, each.offset))
            for each in self.desk.fed
            if type(each) is not Publication
        ]


def test_what_comes_in_order_is_fed_at_once() -> None:
    bench = Bench()
    bench.publish(3)
    assert bench.fed == [4, 5, 6]
    assert bench.follower.position == bench.stream.position
    assert not bench.desk.wants_page


def test_what_comes_before_the_position_is_known_waits_for_it() -> None:
    bench = Bench()
    blind = Follower(TOPIC, bench.desk)
    blind.subscribed()
    payloads = [bench.stream.publish() for _ in range(4)]
    blind.take(payloads[0])
    asked = bench.stream.position._replace(offset=5)  # read after the second
    for payload in payloads[1:]:
        blind.take(payload)
    assert bench.fed == []
    blind.begin(asked)
    assert bench.fed == [6, 7]
    assert blind.state is State.LIVE


def test_what_came_before_an_interruption_does_not_wait_for_the_position() -> None:
    """The shard has forgotten it meanwhile: a follower would stand where there is no stream."""
    bench = Bench()
    blind = Follower(TOPIC, bench.desk)
    blind.subscribed()
    blind.take(bench.stream.publish())
    bench.stream.restart(forgotten=1)
    blind.subscribed()
    blind.begin(bench.stream.position)
    assert bench.fed == []
    assert blind.position == bench.stream.position


def test_a_hole_is_filled_before_what_follows_it() -> None:
    bench = Bench()
    bench.stream.publish()
    bench.publish(2)
    assert bench.fed == []
    assert bench.follower.state is State.BEHIND
    bench.mend()
    assert bench.fed == [4, 5, 6]
    assert bench.told == []


def test_what_comes_again_is_not_fed_again() -> None:
    bench = Bench()
    payloads = [bench.stream.publish() for _ in range(3)]
    for payload in [*payloads, *payloads]:
        bench.follower.take(payload)
    assert bench.fed == [4, 5, 6]
    assert not bench.desk.wants_page


def test_what_arrives_while_a_page_is_read_is_fed_after_it() -> None:
    bench = Bench()
    bench.stream.publish()
    bench.publish()
    page = bench.read()
    bench.publish(2)
    bench.follower.page(page)
    assert bench.fed == [4, 5, 6, 7]
    assert bench.follower.state is State.LIVE


def test_a_page_that_was_cut_is_followed_by_the_next() -> None:
    bench = Bench()
    for _ in range(10):
        bench.stream.publish()
    bench.follower.doubt()
    for fed in (3, 6, 9, 10):
        bench.follower.page(bench.read(limit=3))
        assert bench.fed == list(range(4, 4 + fed))
    assert not bench.desk.wants_page


def test_more_than_may_wait_is_read_again() -> None:
    bench = Bench()
    bench.stream.publish()
    bench.publish()
    page = bench.read()
    bench.publish(WAITING + 10)
    bench.follower.page(page)
    assert bench.follower.state is State.BEHIND
    bench.mend()
    assert bench.fed == list(range(4, 4 + WAITING + 12))


def test_a_turn_is_told_in_its_place() -> None:
    bench = Bench()
    bench.publish()
    bench.stream.restart()
    bench.publish(2)
    bench.mend()
    assert bench.fed == [4, 5, 6]
    assert bench.told == [(Turn, Position("e2", 4))]


def test_a_turn_that_was_missed_together_with_messages_comes_before_them() -> None:
    bench = Bench()
    bench.stream.publish()
    bench.stream.restart()
    bench.stream.publish()
    bench.publish()
    bench.mend()
    assert [type(each) for each in bench.desk.fed] == [Turn, Publication, Publication, Publication]
    assert bench.told == [(Turn, Position("e2", 3))]


@pytest.mark.parametrize("published", [0, 2])
def test_what_was_fed_and_is_gone_is_a_loss(published: int) -> None:
    """The shard has stepped back. With the next publication it gives out offsets again. When the
    follower asks for what follows, the stream learns that it has lost something."""
    bench = Bench()
    bench.publish(2)
    bench.stream.restart(forgotten=2)
    bench.publish(published)
    bench.check()
    bench.mend()
    assert bench.fed == [4, 5, 6, 7][: 2 + published]
    assert bench.told == [(Loss, Position("e3" if published else "e2", 3))]
    assert bench.follower.position == bench.stream.position


def test_what_was_not_fed_and_is_gone_is_a_loss_when_somebody_knew_it() -> None:
    bench = Bench()
    bench.stream.publish()
    gone = bench.stream.position
    bench.stream.restart(forgotten=1)
    bench.publish()
    bench.mend()
    assert bench.told == [(Turn, Position("e2", 3))]
    bench.stream.page(Want(since=gone, limit=0), follows=True)
    bench.follower.doubt()
    bench.mend()
    assert bench.fed == [5]
    assert bench.told[1:] == [(Loss, Position("e3", 4))]
    assert bench.follower.position == bench.stream.position


@pytest.mark.parametrize("limit", [1, 500])
@pytest.mark.parametrize("later", [0, 2])
def test_what_is_gone_is_told_behind_what_came_before_it_and_is_left(
    limit: int, later: int
) -> None:
    bench = Bench()
    bench.stream.publish()
    bench.stream.publish()
    gone = bench.stream.position
    bench.stream.restart(forgotten=1)
    bench.stream.page(Want(since=gone, limit=0), follows=True)  # somebody else had it
    for _ in range(later):
        bench.stream.publish()
    bench.follower.doubt()
    while bench.desk.wants_page:
        bench.follower.page(bench.read(limit))
    assert bench.fed == [4, 6, 7][: 1 + later]
    places = [type(each) for each in bench.desk.fed]
    assert places == [Loss, Publication, Loss, Publication, Publication][: 3 + later]
    assert bench.told[-1] == (Loss, Position("e2", 4))
    assert bench.follower.position == bench.stream.position


def test_a_page_that_may_be_older_than_a_doubt_is_checked() -> None:
    bench = Bench()
    bench.stream.publish()
    bench.publish()
    page = bench.read()
    bench.follower.doubt()
    assert not bench.desk.wants_page
    bench.follower.page(page)
    assert bench.desk.wants_check


@pytest.mark.parametrize("published", [0, 2])
def test_a_stream_that_was_lost_is_a_loss_and_goes_on_from_its_beginning(published: int) -> None:
    bench = Bench()
    bench.publish()
    bench.stream.lose()
    bench.publish(published)
    bench.check()
    bench.mend()
    assert bench.fed == [4, 5, 6][: 1 + published]
    assert bench.told == [(Loss, Position("e2", 0))]


def test_a_position_that_no_shard_has_any_more_is_a_loss() -> None:
    bench = Bench()
    assert not bench.follower.checked(bench.follower.position, None, 0)
    assert bench.desk.wants_page


def test_what_was_trimmed_before_it_was_fed_is_a_loss() -> None:
    bench = Bench()
    for _ in range(5):
        bench.stream.publish()
    bench.stream.trim(2)
    bench.publish()
    bench.mend()
    assert bench.fed == [7, 8, 9]
    assert bench.told == [(Loss, Position("e1", 6))]


def test_what_was_cut_out_before_it_was_fed_is_a_loss() -> None:
    bench = Bench()
    for _ in range(5):
        bench.stream.publish()
    bench.stream.cut_out(6)
    bench.publish()
    bench.mend()
    assert bench.fed == [4, 5, 7, 8, 9]
    assert bench.told == [(Loss, Position("e1", 6))]


def test_an_end_that_was_cut_out_before_it_was_fed_is_a_loss() -> None:
    bench = Bench()
    bench.stream.publish()
    bench.stream.publish()
    bench.stream.cut_out(5)
    bench.follower.doubt()
    bench.mend()
    assert bench.fed == [4]
    assert bench.told == [(Loss, Position("e1", 5))]
    bench.publish()
    assert bench.fed == [4, 6]


def test_a_check_that_is_overtaken_by_messages_means_nothing() -> None:
    bench = Bench()
    asked = bench.follower.position
    bench.publish(2)
    found = bench.stream.position
    bench.publish()
    assert not bench.follower.checked(asked, *found)
    assert not bench.desk.wants_page


def test_a_check_that_finds_more_leaves_it_to_the_desk_how_long_to_wait() -> None:
    bench = Bench()
    bench.stream.publish()
    assert bench.check()
    assert bench.follower.state is State.LIVE
    bench.follower.doubt()
    bench.mend()
    assert bench.fed == [4]


def test_a_subscription_that_was_interrupted_is_checked() -> None:
    bench = Bench()
    assert not bench.desk.wants_check
    bench.follower.subscribed()
    assert bench.desk.wants_check
    assert not bench.desk.wants_page


def test_a_page_that_may_be_older_than_an_interruption_is_checked() -> None:
    """What is published between the page and the new subscription arrives nowhere."""
    bench = Bench()
    bench.stream.publish()
    bench.publish()
    page = bench.read()
    bench.stream.publish()  # and the subscription is interrupted
    bench.follower.subscribed()
    bench.follower.page(page)
    assert bench.fed == [4, 5]
    assert bench.follower.state is State.LIVE
    assert bench.desk.wants_check
    assert bench.check()


def test_whoever_waits_is_told_when_it_has_come() -> None:
    bench = Bench()

    def reached(offset: int) -> Callable[[], bool]:
        return lambda: bench.follower.offset >= offset

    async def wait() -> None:
        now, soon, later = (bench.follower.when(reached(offset)) for offset in (3, 4, 6))
        assert now.done()
        bench.publish()
        assert soon.done()
        later.cancel()
        latest = bench.follower.when(reached(7))
        bench.publish(3)
        assert latest.done()

    asyncio.run(wait())


@pytest.mark.parametrize(
    "payload", [b'{"n":1}', b"#", b"#0 0 - {}", b"#x 0 e {}", b"#-1 0 e {}", b"#4", b"", b"!"]
)
def test_what_no_worker_has_published_goes_elsewhere(payload: bytes) -> None:
    bench = Bench()
    bench.follower.take(payload)
    assert bench.desk.others == [payload]
    assert bench.desk.fed == []


def test_a_subscription_that_has_ended_is_told() -> None:
    bench = Bench()
    bench.follower.dropped()
    assert bench.desk.gone


class FollowerMachine(RuleBasedStateMachine):
    """A random life; see the module's text."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = NaiveStream()
        self.desk = Desk()
        self.follower = self.desk.follower = Follower(TOPIC, self.desk)
        self.wire: deque[bytes] = deque()
        """Payloads on their way to us."""
        self.subscribed = False
        self.page: Page | None = None
        """The answer to its question, on the way."""
        self.found: tuple[Position, Position] | None = None
        """Our position when a check was sent, and the stream's when it was executed."""
        self.first: tuple[int, Position, int] | None = None
        """Of the first question: our confirmations, the stream's position, the newest number."""
        self.silently = False
        """Whether something happened that only checks in turn find."""
        self.forgotten: dict[int, tuple[Position, Sequence[str]]] = {}
        """Publications that a restart has forgotten: who was not fed them cannot know of them,
        unless somebody has testified to them."""
        self.passed: set[int] = set()
        """Those of them that it went past, and was told of no loss since."""
        self.testified: set[int] = set()
        self.read = 0
        """How much of what was fed has been looked at. The rest is what it has told so far:"""
        self.at = Position("", 0)
        self.newest = 0
        self.epochs: list[str] = []
        self.told_of_loss = False

    # The stream

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        for _ in range(count):
            payload = self.stream.publish()
            if self.subscribed:
                self.wire.append(payload)

    @rule(size=st.integers(0, 6))
    def trim(self, size: int) -> None:
        self.stream.trim(size)

    @rule(behind=st.integers(0, 5))
    def cut_out(self, behind: int) -> None:
        self.stream.cut_out(self.stream.position.offset - behind)

    @rule(forgotten=st.integers(0, 3), arrived=st.integers(0, 3), answered=st.booleans())
    def restart(self, forgotten: int, arrived: int, answered: bool) -> None:
        """Every connection ends with the server, and what is on its way may be lost."""
        gone = self.stream.restart(forgotten)
        given = self.stream.given.values()
        self.forgotten |= {
            each.number: (each.position, each.former) for each in given if each.number in gone
        }
        self.interrupt(arrived)
        if not answered:
            self.first = self.found = None
            if self.page is not None:
                self.page = None
                self.desk.wants_page = True

    @rule()
    def lose(self) -> None:
        self.stream.lose()
        self.silently = True

    @rule(data=st.data())
    @precondition(lambda self: self.forgotten)
    def testify(self, data: st.DataObject) -> None:
        """Another worker tells the shard what that has forgotten."""
        number = data.draw(st.sampled_from(sorted(self.forgotten)))
        before = self.stream.position
        position, former = self.forgotten[number]
        self.stream.page(Want(since=position, limit=0), follows=True, former=former)
        if self.stream.position != before:
            self.testified.add(number)
            if self.subscribed:
                self.wire.append(b"!")

    # What arrives

    @rule()
    @precondition(lambda self: not self.subscribed)
    def subscribe(self) -> None:
        self.subscribed = True
        self.follower.subscribed()

    @rule(arrived=st.integers(0, 3))
    def interrupt(self, arrived: int) -> None:
        """What is on its way is lost, but for the first."""
        while self.wire and arrived > 0:
            arrived -= 1
            self.follower.take(self.wire.popleft())
        self.wire.clear()
        self.subscribed = False

    @rule(count=st.integers(1, 2))
    @precondition(lambda self: self.subscribed)
    def miss(self, count: int) -> None:
        """What is published during a short interruption."""
        self.interrupt(arrived=len(self.wire))
        self.publish(count)
        self.subscribe()

    @rule(count=st.integers(1, 5))
    @precondition(lambda self: self.wire)
    def arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self.follower.take(self.wire.popleft())

    @rule(place=st.integers(0, 3))
    @precondition(lambda self: self.wire)
    def lose_a_payload(self, place: int) -> None:
        """A publication that was never pushed: no script of ours does that, but others may."""
        del self.wire[place % len(self.wire)]
        self.silently = True

    @rule(place=st.integers(0, 3))
    @precondition(lambda self: self.wire)
    def double_a_payload(self, place: int) -> None:
        self.wire.append(self.wire[place % len(self.wire)])

    @rule()
    @precondition(lambda self: len(self.wire) > 1)
    def overtake(self) -> None:
        self.wire.rotate()

    # Questions: executed at one time, answered at another

    @rule()
    @precondition(lambda self: self.follower.state is State.BLIND and self.subscribed)
    def ask_where_it_begins(self) -> None:
        newest = len(self.stream.given)
        self.first = self.follower.confirmations, self.stream.position, newest

    @rule()
    @precondition(lambda self: self.follower.state is State.BLIND and self.first is not None)
    def begin(self) -> None:
        assert self.first is not None
        confirmations, position, newest = self.first
        self.first = None
        if confirmations == self.follower.confirmations:
            self.at, self.newest, self.epochs = position, newest, [position.epoch]
            self.follower.begin(position)

    @rule(limit=st.sampled_from([1, 2, 500]))
    @precondition(lambda self: self.desk.wants_page and self.page is None)
    def read_a_page(self, limit: int) -> None:
        self.desk.wants_page = False
        want = Want(since=self.follower.position, limit=limit)
        self.page = self.stream.page(want, follows=True, former=self.follower.former)

    @rule()
    @precondition(lambda self: self.page is not None)
    def get_the_page(self) -> None:
        page, self.page = self.page, None
        assert page is not None
        self.follower.page(page)

    @rule()
    @precondition(lambda self: self.follower.state is not State.BLIND)
    def check(self) -> None:
        self.desk.wants_check = False
        self.found = self.follower.position, self.stream.position

    @rule(patience=st.booleans())
    @precondition(lambda self: self.found is not None)
    def get_the_check(self, patience: bool) -> None:
        assert self.found is not None
        asked, found = self.found
        self.found = None
        if self.follower.checked(asked, *found) and not patience:
            self.follower.doubt()

    # What must hold

    @invariant()
    def what_is_fed_is_in_order_and_complete(self) -> None:
        fed, self.read = self.desk.fed[self.read :], len(self.desk.fed)
        for publication in fed:
            position = Position(publication.epoch, publication.offset)
            if isinstance(publication, Turn):
                assert publication.data.decode() == self.at.epoch
                assert publication.offset == self.at.offset
            elif isinstance(publication, Loss):
                self.told_of_loss = True
                self.passed.clear()
            else:
                assert position == Position(self.at.epoch, self.at.offset + 1)
                given = self.stream.given[publication.data]
                assert given.position.offset == publication.offset
                self.excuse_what_is_missing_before(given.number)
                self.newest = given.number
            self.at = position
            if position.epoch != self.epochs[-1]:
                assert position.epoch not in self.epochs, "it came back to an epoch"
                self.epochs.append(position.epoch)

    def excuse_what_is_missing_before(self, number: int) -> None:
        assert number > self.newest, "it was fed before, or is overtaken"
        missing = set(range(self.newest + 1, number))
        if not self.told_of_loss:
            self.passed |= missing & self.forgotten.keys()
            missing -= self.passed
            assert not missing, f"{sorted(missing)} are missing"
        self.told_of_loss = False

    def teardown(self) -> None:
        """Everything is answered and arrives; then checks find what is left to be found."""
        if not self.subscribed:
            self.subscribe()
        while self.follower.state is State.BLIND:
            if self.first is None:
                self.ask_where_it_begins()
            self.begin()
        while self.wire:
            self.follower.take(self.wire.popleft())
        self.desk.wants_check |= self.silently
        while self.is_asked():
            if self.found is not None:
                self.get_the_check(patience=False)
            elif self.page is not None:
                self.get_the_page()
            elif self.desk.wants_page:
                self.read_a_page(500)
            else:
                self.check()
        assert self.follower.state is State.LIVE
        assert self.follower.position == self.stream.position
        self.what_is_fed_is_in_order_and_complete()
        assert self.at == self.stream.position
        self.excuse_what_is_missing_before(len(self.stream.given) + 1)
        assert not self.passed & self.testified

    def is_asked(self) -> bool:
        on_the_way = self.found is not None or self.page is not None
        return on_the_way or self.desk.wants_page or self.desk.wants_check


FollowerMachine.TestCase.settings = settings(
    max_examples=examples(150), stateful_step_count=40, report_multiple_bugs=False
)
test_nothing_is_missing_but_what_was_told = FollowerMachine.TestCase
