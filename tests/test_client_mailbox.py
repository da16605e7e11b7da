"""The queue of a subscription: its bound, and what happens beyond it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_client.errors import Refused, SlowConsumer
from clarion_client.events import Ended, Event, Lost, Message, Subscribed
from clarion_client.mailbox import Mailbox, WhenFull


def message(n: int, topic: str = "a") -> Message:
    return Message(topic, n, 0, n, "e")


def lost(reason: str, topic: str = "a") -> Lost:
    return Lost(topic, None, reason)


def granted(topic: str = "a") -> Subscribed:
    return Subscribed(topic, None, None, None)


def mailbox(limit: int, when_full: WhenFull = WhenFull.WAIT) -> Mailbox:
    box = Mailbox(limit, when_full)
    box.join("a")
    return box


def taken(box: Mailbox) -> list[object]:
    """What is queued, messages as their data."""
    events: list[Event] = []
    while (event := box.take()) is not None:
        events.append(event)
    return [event.data if isinstance(event, Message) else event for event in events]


def test_it_blocks_when_full_and_no_more_when_there_is_room() -> None:
    box = mailbox(2)
    box.put(message(1))
    assert not box.blocks
    box.put(message(2))
    assert box.blocks
    box.take()
    assert not box.blocks


def test_a_frame_that_was_read_already_is_not_lost_when_it_is_full() -> None:
    box = mailbox(1)
    for n in range(3):
        box.put(message(n))
    assert taken(box) == [0, 1, 2]


def test_the_oldest_message_gives_way_and_is_counted() -> None:
    box = mailbox(2, WhenFull.DROP_OLDEST)
    for n in range(5):
        box.put(message(n))
    assert not box.blocks
    assert box.dropped == 3
    assert taken(box) == [3, 4]


def test_a_loss_never_gives_way() -> None:
    box = mailbox(2, WhenFull.DROP_OLDEST)
    box.put(lost("x"))
    for n in range(5):
        box.put(message(n))
    assert taken(box) == [lost("x"), 3, 4]


def test_notices_do_not_fill_the_queue_of_one_that_takes_nothing() -> None:
    box = mailbox(1)
    box.put(message(1))
    for n in range(1000):
        box.put(lost(str(n)))
        box.put(granted())
        box.put(lost(str(n), topic="b"))
    assert len(box) == 4
    assert taken(box) == [1, lost("999"), granted(), lost("999", "b")]
    assert len(box) == 0


def test_notices_alone_do_not_fill_it_either() -> None:
    box = mailbox(3)
    for _ in range(1000):
        box.put(granted())
    assert taken(box) == [granted()] * 3


def test_thousands_of_topics_that_come_back_while_it_is_full_cost_no_search() -> None:
    box = mailbox(1)
    box.put(message(1))
    topics = [f"t{n}" for n in range(20_000)]
    for _ in range(5):
        for topic in topics:
            box.put(granted(topic))
    assert taken(box) == [1, *map(granted, topics)]


@given(st.lists(st.sampled_from(["a", "b", "message", "take"]), max_size=300), st.integers(1, 5))
def test_the_last_loss_of_each_topic_comes_in_any_case(steps: list[str], limit: int) -> None:
    box = mailbox(limit, WhenFull.DROP_OLDEST)
    last: dict[str, str] = {}
    heard: dict[str, str] = {}

    def hear(events: list[object]) -> None:
        heard.update((event.topic, event.reason) for event in events if isinstance(event, Lost))

    for number, step in enumerate(steps):
        if step == "take":
            event = box.take()
            hear([event])
        elif step == "message":
            box.put(message(number))
        else:
            box.put(lost(str(number), step))
            last[step] = str(number)
        assert len(box) <= 2 * limit + 2
    hear(taken(box))
    assert heard == last


def test_the_subscription_ends_behind_what_is_queued_if_it_is_to_raise() -> None:
    box = mailbox(2, WhenFull.RAISE)
    for n in range(5):
        box.put(message(n))
    assert box.over
    assert isinstance(box.error, SlowConsumer)
    assert taken(box) == [0, 1]


def test_the_last_topic_ends_it_unless_it_is_to_last() -> None:
    box = mailbox(2)
    box.put(Ended("a", Refused("no", "forbidden", "a")))
    assert box.over
    assert len(box.refusals()) == 1
    box = Mailbox(2, WhenFull.WAIT, lasting=True)
    box.join("a")
    box.part("a")
    assert not box.over


def test_nothing_comes_after_the_end() -> None:
    box = mailbox(2)
    box.put(message(1))
    box.end()
    box.put(message(2))
    box.end(SlowConsumer())
    assert taken(box) == [1]
    assert box.error is None


def test_there_must_be_room_for_one_message() -> None:
    with pytest.raises(ValueError, match="room for one"):
        Mailbox(0, WhenFull.WAIT)


async def test_waiting_ends_with_an_arrival_or_with_the_end() -> None:
    box = mailbox(2)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(box.arrival())
        await asyncio.sleep(0)
        box.put(message(1))
    box.take()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(box.arrival())
        group.create_task(box.granted())
        await asyncio.sleep(0)
        box.end()


async def test_it_is_granted_when_every_topic_has_its_answer() -> None:
    box = mailbox(2)
    box.join("b")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(box.granted())
        box.put(granted("a"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        box.put(Ended("b", Refused("no", "forbidden", "b")))
