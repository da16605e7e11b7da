"""The broker contract: one suite for every implementation of `Broker`.

What is pinned here, of the text in `clarion_fanout/broker.py`:

    publish    Receipts come in the order of the drafts. In a topic with history offsets are
               1, 2, 3, ... within one epoch, each given once, however many publish at a time.
               A topic without history has no positions. A broker that is closed answers
               `BrokerUnavailable` for each draft and raises nothing.
    ids        A draft whose id is known gets the position of the first, is marked as duplicate
               and is not dispatched. Ids are per topic and forgotten after their time.
    keys       A draft's key is that of its publication, fed or read.
    read       Every kind of question has one right answer. `peek` gives the same or None.
               Size and age remove the oldest; the position stays. A position that is not the
               stream's, or whose successors were removed, makes the answer incomplete.
    attach     After `attached` every publication is fed, in the order of offsets. What is read
               after that and what is fed leave no gap. Where nothing happened to a stream its
               feed brings messages alone; pages hold nothing else ever.
    loss       A stream that was lost begins a new epoch, and every old position is known as such.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from clarion_fanout.broker import Broker, BrokerUnavailable, Page, Want
from clarion_fanout.publication import Draft, Position, Publication, Receipt
from support.brokers import DEADLINE_SECONDS, FACTORIES, KEPT, BrokerFactory, Opened

END = b'"the end"'


@pytest.fixture(params=list(FACTORIES))
async def broker_factory(request: pytest.FixtureRequest) -> AsyncIterator[BrokerFactory]:
    factory = FACTORIES[request.param]()
    yield factory
    await factory.close()


@pytest.fixture
async def opened(broker_factory: BrokerFactory) -> Opened:
    return await broker_factory.open()


def accepted(answer: Receipt | BrokerUnavailable) -> Receipt:
    assert isinstance(answer, Receipt)
    return answer


async def publish(
    broker: Broker, topic: str, data: bytes = b"0", id: str | None = None, key: str = ""
) -> Receipt:
    (answer,) = await broker.publish([Draft(topic, data, id, key)])
    return accepted(answer)


async def position_after(broker: Broker, topic: str, count: int) -> Position:
    """Publishes `count` times; the data is the offset. Returns the last position."""
    receipts = await broker.publish([Draft(topic, b"%d" % n) for n in range(1, count + 1)])
    position = accepted(receipts[-1]).position
    assert position is not None
    return position


async def attach(broker: Broker, *topics: str) -> None:
    for topic in topics:
        if not broker.attach(topic):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await broker.attached(topic)


def facts(publication: Publication) -> tuple[object, ...]:
    return (
        publication.topic,
        publication.data,
        publication.ts,
        publication.offset,
        publication.epoch,
        publication.key,
    )


def answer(page: Page) -> tuple[object, ...]:
    return page.position, [facts(each) for each in page.publications], page.complete


def offsets(page: Page) -> list[int]:
    return [each.offset for each in page.publications]


async def ask(broker: Broker, topic: str, want: Want) -> Page:
    """The answer of `read`, which that of `peek` must not contradict."""
    page = await broker.read(topic, want)
    peeked = broker.peek(topic, want)
    assert peeked is None or answer(peeked) == answer(page)
    return page


# Publish


async def test_offsets_count_from_one_within_one_epoch_for_each_topic(opened: Opened) -> None:
    for offset in (1, 2, 3):
        for topic in ("few:a", "few:b"):
            receipt = await publish(opened.broker, topic)
            assert receipt.topic == topic
            assert not receipt.duplicate
            assert receipt.position is not None
            assert receipt.position.offset == offset
            page = await ask(opened.broker, topic, Want())
            assert page.position == receipt.position
            assert {each.epoch for each in page.publications} == {receipt.position.epoch}


async def test_receipts_come_in_the_order_of_the_drafts(opened: Opened) -> None:
    topics = ["few:a", "none:a", "few:b", "few:a", "none:b", "few:a", "few:b"]
    receipts = await opened.broker.publish([Draft(topic, b"0") for topic in topics])
    given = [accepted(receipt) for receipt in receipts]
    assert [receipt.topic for receipt in given] == topics
    numbers = [receipt.position.offset if receipt.position else None for receipt in given]
    assert numbers == [1, None, 1, 2, None, 3, 2]


async def test_many_topics_that_are_attached_together_are_all_fed(opened: Opened) -> None:
    topics = [f"{namespace}:{number}" for namespace in ("few", "none") for number in range(200)]
    for topic in topics:
        opened.broker.attach(topic)
    await attach(opened.broker, *topics)
    receipts = await opened.broker.publish([Draft(topic, END) for topic in topics])
    assert len([accepted(receipt) for receipt in receipts]) == len(topics)
    for topic in topics:
        assert len(await opened.feed.expect(topic, END)) == 1


async def test_an_empty_batch_is_answered_with_nothing(opened: Opened) -> None:
    assert list(await opened.broker.publish([])) == []


async def test_what_was_published_is_read_and_fed_unchanged(opened: Opened) -> None:
    topic = "few:" + "".join(map(chr, [*range(0x23, 0x24), *range(0x2B, 0x3B)])) + "=@_Az"
    topic += "x" * (255 - len(topic))
    data = ' {"é": ["\\u0000", "\U0001f600",\t1e3]} '.encode()
    await attach(opened.broker, topic)
    receipt = await publish(opened.broker, topic, data)
    (fed,) = await opened.feed.expect(topic, data)
    page = await ask(opened.broker, topic, Want())
    assert [facts(each) for each in page.publications] == [facts(fed)]
    assert (fed.topic, fed.data) == (topic, data)
    assert Position(fed.epoch, fed.offset) == receipt.position


async def test_a_topic_without_history_is_fed_and_has_no_position(opened: Opened) -> None:
    await attach(opened.broker, "none:a")
    receipt = await publish(opened.broker, "none:a", b"1")
    await publish(opened.broker, "none:a", END)
    assert receipt == Receipt("none:a", None)
    fed = await opened.feed.expect("none:a", END)
    assert [(each.data, each.offset, each.epoch) for each in fed] == [(b"1", 0, ""), (END, 0, "")]
    for want in (Want(), Want(last=3), Want(limit=0), Want(since=Position("x", 1))):
        page = await ask(opened.broker, "none:a", want)
        assert page.position is None
        assert not page.publications


async def test_many_publishers_get_each_offset_once_and_the_feed_is_in_order(
    opened: Opened,
) -> None:
    await attach(opened.broker, "many:a")
    receipts: list[Receipt] = []

    async def publisher(name: int) -> None:
        for n in range(5):
            batch = [Draft("many:a", b"%d" % (name * 100 + n * 10 + place)) for place in range(4)]
            receipts.extend(map(accepted, await opened.broker.publish(batch)))
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as publishers:
        for name in range(20):
            publishers.create_task(publisher(name))
    await publish(opened.broker, "many:a", END)
    given = sorted(receipt.position.offset for receipt in receipts if receipt.position)
    assert given == list(range(1, 401))
    fed = await opened.feed.expect("many:a", END)
    assert [each.offset for each in fed] == list(range(1, 402))
    assert len({each.epoch for each in fed}) == 1
    page = await ask(opened.broker, "many:a", Want())
    assert [each.data for each in page.publications] == [each.data for each in fed]


async def test_a_publisher_finds_its_own_batches_in_order(opened: Opened) -> None:
    await position_after(opened.broker, "few:a", 3)
    page = await ask(opened.broker, "few:a", Want())
    assert [each.data for each in page.publications] == [b"1", b"2", b"3"]


async def test_a_closed_broker_refuses_each_draft_and_raises_nothing(opened: Opened) -> None:
    await opened.broker.close()
    await opened.broker.close()
    answers = await opened.broker.publish([Draft("few:a", b"0"), Draft("none:a", b"0")])
    assert len(answers) == 2
    for refusal in answers:
        assert isinstance(refusal, BrokerUnavailable)
        assert refusal.retry_ms > 0
        assert str(refusal)
    assert opened.feed.publications == []


# Idempotency keys


@pytest.mark.parametrize("topic", ["few:a", "none:a"])
async def test_a_known_key_gets_the_first_position_and_nothing_is_fed_twice(
    opened: Opened, topic: str
) -> None:
    await attach(opened.broker, topic)
    first = await publish(opened.broker, topic, b"1", "key")
    other = await publish(opened.broker, topic, b"2", "other key")
    again = await publish(opened.broker, topic, b"3", "key")
    await publish(opened.broker, topic, END)
    assert not first.duplicate
    assert not other.duplicate
    assert again == Receipt(topic, first.position, duplicate=True)
    fed = await opened.feed.expect(topic, END)
    assert [each.data for each in fed] == [b"1", b"2", END]


async def test_a_key_works_within_one_batch(opened: Opened) -> None:
    answers = await opened.broker.publish([Draft("few:a", b"%d" % n, "key") for n in range(3)])
    receipts = [accepted(each) for each in answers]
    assert [receipt.duplicate for receipt in receipts] == [False, True, True]
    assert len({receipt.position for receipt in receipts}) == 1
    assert offsets(await ask(opened.broker, "few:a", Want())) == [1]


async def test_a_key_is_known_in_its_own_topic_only(opened: Opened) -> None:
    assert not (await publish(opened.broker, "few:a", id="key")).duplicate
    assert not (await publish(opened.broker, "few:b", id="key")).duplicate
    assert not (await publish(opened.broker, "none:a", id="key")).duplicate


@pytest.mark.parametrize("topic", ["few:a", "none:a"])
async def test_a_key_is_forgotten_after_its_time_and_then_begins_anew(
    broker_factory: BrokerFactory, opened: Opened, topic: str
) -> None:
    first = await publish(opened.broker, topic, b"1", "key")
    await broker_factory.pass_time(broker_factory.age / 2)
    # Asking again does not prolong it.
    assert (await publish(opened.broker, topic, b"2", "key")).duplicate
    await broker_factory.pass_time(broker_factory.age * 0.7)
    second = await publish(opened.broker, topic, b"3", "key")
    assert not second.duplicate
    assert second.position is None or second.position != first.position
    await broker_factory.pass_time(broker_factory.age / 2)
    assert await publish(opened.broker, topic, b"4", "key") == second._replace(duplicate=True)


# Conflation keys


@pytest.mark.parametrize("topic", ["few:a", "none:a"])
@pytest.mark.parametrize("id", [None, "an id"])
async def test_a_key_goes_with_its_publication(opened: Opened, topic: str, id: str | None) -> None:
    await attach(opened.broker, topic)
    assert not (await publish(opened.broker, topic, b" [1, 2]", id, "!a~")).duplicate
    await publish(opened.broker, topic, b"3")
    await publish(opened.broker, topic, END, key="k" * 128)
    fed = await opened.feed.expect(topic, END)
    expected = [(b" [1, 2]", "!a~"), (b"3", ""), (END, "k" * 128)]
    assert [(each.data, each.key) for each in fed] == expected
    page = await ask(opened.broker, topic, Want())
    if page.position is not None:
        assert [(each.data, each.key) for each in page.publications] == expected


# Reading


@pytest.mark.parametrize(
    ("want", "expected"),
    [
        (Want(), [3, 4, 5, 6, 7]),
        (Want(reverse=True), [7, 6, 5, 4, 3]),
        (Want(limit=0), []),
        (Want(limit=2), [3, 4]),
        (Want(limit=2, reverse=True), [7, 6]),
        (Want(limit=99), [3, 4, 5, 6, 7]),
        (Want(last=2), [6, 7]),
        (Want(last=99), [3, 4, 5, 6, 7]),
        (Want(last=3, limit=2), [5, 6]),
        (Want(last=3, reverse=True), [7, 6, 5]),
    ],
)
async def test_the_newest_are_kept_and_read_as_asked(
    opened: Opened, want: Want, expected: list[int]
) -> None:
    position = await position_after(opened.broker, "few:a", KEPT + 2)
    page = await ask(opened.broker, "few:a", want)
    assert page.position == position
    assert offsets(page) == expected
    assert page.complete


@pytest.mark.parametrize(
    ("offset", "want", "expected", "complete"),
    [
        (5, Want(), [6, 7], True),
        (5, Want(limit=1), [6], True),
        (5, Want(limit=0), [], True),
        (7, Want(), [], True),
        (2, Want(), [3, 4, 5, 6, 7], True),
        (1, Want(), [3, 4, 5, 6, 7], False),
        (1, Want(limit=0), [], False),
        (0, Want(), [3, 4, 5, 6, 7], False),
        (8, Want(), [3, 4, 5, 6, 7], False),
        (2**52, Want(limit=2), [3, 4], False),
        (5, Want(reverse=True), [4, 3], True),
        (6, Want(reverse=True, limit=2), [5, 4], True),
        (3, Want(reverse=True), [], True),
        (1, Want(reverse=True), [], True),
        (8, Want(reverse=True), [], False),
    ],
)
async def test_what_follows_a_position_is_read_and_gaps_are_told(
    opened: Opened, offset: int, want: Want, expected: list[int], complete: bool
) -> None:
    position = await position_after(opened.broker, "few:a", KEPT + 2)
    want = want._replace(since=position._replace(offset=offset))
    page = await ask(opened.broker, "few:a", want)
    assert page.position == position
    assert offsets(page) == expected
    assert page.complete is complete


@pytest.mark.parametrize("offset", [0, 2, 3, 9])
async def test_a_position_of_another_epoch_is_unknown(opened: Opened, offset: int) -> None:
    position = await position_after(opened.broker, "few:a", 3)
    for want, expected in ((Want(), [1, 2, 3]), (Want(reverse=True), [])):
        want = want._replace(since=Position("another", offset))
        page = await ask(opened.broker, "few:a", want)
        assert page.position == position
        assert offsets(page) == expected
        assert not page.complete


async def test_an_attached_topic_has_a_position_before_its_first_publication(
    opened: Opened,
) -> None:
    await attach(opened.broker, "few:a")
    before = await ask(opened.broker, "few:a", Want(limit=0))
    assert before.position is not None
    assert before.position.offset == 0
    assert not before.publications
    receipt = await publish(opened.broker, "few:a")
    assert receipt.position == before.position._replace(offset=1)
    page = await ask(opened.broker, "few:a", Want(since=before.position))
    assert offsets(page) == [1]
    assert page.complete


async def test_a_topic_that_nobody_ever_used_has_an_empty_stream(opened: Opened) -> None:
    page = await opened.broker.read("few:a", Want(since=Position("x", 3)))
    assert page.position is not None
    assert page.position.offset == 0
    assert not page.publications
    assert not page.complete


async def test_what_is_too_old_is_gone_and_the_position_stays(
    broker_factory: BrokerFactory, opened: Opened
) -> None:
    broker, age = opened.broker, broker_factory.age
    first = (await publish(broker, "brief:a")).position
    assert first is not None
    await broker_factory.pass_time(age * 0.6)
    second = (await publish(broker, "brief:a")).position
    assert offsets(await ask(broker, "brief:a", Want())) == [1, 2]
    await broker_factory.pass_time(age * 0.6)
    page = await ask(broker, "brief:a", Want(since=first))
    assert offsets(page) == [2]
    assert page.complete
    await broker_factory.pass_time(age * 0.6)
    for want in (Want(), Want(last=2), Want(reverse=True), Want(limit=0)):
        page = await ask(broker, "brief:a", want)
        assert page.position == second
        assert offsets(page) == []
    assert (await ask(broker, "brief:a", Want(since=second))).complete
    assert not (await ask(broker, "brief:a", Want(since=first))).complete
    assert (await publish(broker, "brief:a")).position == first._replace(offset=3)


# Attaching


async def test_every_attached_topic_is_fed_until_it_is_detached_and_again_after(
    opened: Opened,
) -> None:
    broker, feed = opened
    await attach(broker, "few:a", "none:a", "few:b")
    await attach(broker, "few:a")
    for topic in ("few:a", "none:a", "few:b"):
        await publish(broker, topic, b"1")
        await feed.expect(topic, b"1")
    broker.detach("few:a")
    broker.detach("none:a")
    await publish(broker, "few:b", b"2")
    assert [each.data for each in await feed.expect("few:b", b"2")] == [b"1", b"2"]
    await attach(broker, "none:a", "few:a")
    for topic in ("few:a", "none:a"):
        await publish(broker, topic, b"3")
        assert [each.data for each in await feed.expect(topic, b"3")] == [b"1", b"3"]


async def test_detaching_what_was_never_attached_does_nothing(opened: Opened) -> None:
    opened.broker.detach("few:a")
    await attach(opened.broker, "few:a")
    opened.broker.detach("few:a")
    opened.broker.detach("few:a")
    assert (await publish(opened.broker, "few:a")).position is not None


async def test_a_position_outlives_its_last_subscriber(opened: Opened) -> None:
    await attach(opened.broker, "few:a")
    position = await position_after(opened.broker, "few:a", 3)
    opened.broker.detach("few:a")
    page = await ask(opened.broker, "few:a", Want(since=position._replace(offset=1)))
    assert page.position == position
    assert offsets(page) == [2, 3]
    assert page.complete


async def test_the_past_read_after_attaching_and_the_feed_leave_no_gap(opened: Opened) -> None:
    broker, feed = opened
    under_way = asyncio.Event()

    async def publisher() -> None:
        for n in range(300):
            await publish(broker, "many:a", b"%d" % n)
            if n == 50:
                under_way.set()
            await asyncio.sleep(0)
        await publish(broker, "many:a", END)

    async with asyncio.TaskGroup() as publishers:
        publishers.create_task(publisher())
        await under_way.wait()
        await attach(broker, "many:a")
        page = await broker.read("many:a", Want())
    fed = await feed.expect("many:a", END)
    known = offsets(page)
    assert known == list(range(1, len(known) + 1))
    assert len(known) >= 50
    joined = known + [each.offset for each in fed if each.offset > known[-1]]
    assert joined == list(range(1, 302))
    assert {each.op for each in (*fed, *page.publications)} == {"message"}


async def test_a_feed_that_begins_anew_tells_of_no_loss_of_what_nobody_wanted(
    opened: Opened,
) -> None:
    broker, feed = opened
    await attach(broker, "few:a")
    await publish(broker, "few:a")
    broker.detach("few:a")
    await publish(broker, "few:a")
    await attach(broker, "few:a")
    page = await broker.read("few:a", Want(limit=0))
    await publish(broker, "few:a", END)
    fed = await feed.expect("few:a", END)
    assert {each.op for each in fed} == {"message"}
    assert page.position is not None
    assert (fed[-1].epoch, fed[-1].offset) == (page.position.epoch, 3)


# Loss


async def test_a_stream_that_was_lost_begins_a_new_epoch(
    broker_factory: BrokerFactory, opened: Opened
) -> None:
    before = await position_after(opened.broker, "few:a", 3)
    await broker_factory.lose_data()
    broker, _feed = await broker_factory.open()
    after = await position_after(broker, "few:a", 3)
    assert after.offset == before.offset
    assert after.epoch != before.epoch
    page = await ask(broker, "few:a", Want(since=before))
    assert page.position == after
    assert not page.complete
