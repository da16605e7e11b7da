"""Walking the pages of a topic's past and of its members, to the end and no further."""

from __future__ import annotations

import pytest

from clarion_client import History, Member, Message, MessagesLost, Position, Presence
from clarion_client.pages import Members, Past


class Answers:
    """A server that gives one page after another, and keeps from where each was asked for."""

    def __init__(self, *pages: History) -> None:
        self.pages = list(pages)
        self.asked: list[Position | None] = []

    async def __call__(self, since: Position | None) -> History:
        self.asked.append(since)
        return self.pages.pop(0)


def page(epoch: str, newest: int, *offsets: int) -> History:
    messages = [Message("a", offset, 1, offset, epoch) for offset in offsets]
    return History("a", Position(epoch, newest), messages)


async def offsets(past: Past) -> list[int | None]:
    return [message.offset async for message in past]


async def test_the_past_is_read_from_page_to_page() -> None:
    answers = Answers(page("e", 5, 3, 4), page("e", 5, 5), page("e", 5))
    assert await offsets(Past(answers, None, False)) == [3, 4, 5]
    assert answers.asked == [None, Position("e", 4), Position("e", 5)]


async def test_the_past_is_read_backwards() -> None:
    answers = Answers(page("e", 5, 5, 4), page("e", 5, 3), page("e", 5))
    assert await offsets(Past(answers, None, True)) == [5, 4, 3]
    assert answers.asked == [None, Position("e", 4), Position("e", 3)]


async def test_a_hole_is_raised_once_and_it_goes_on_behind_it() -> None:
    answers = Answers(page("e", 9, 4), page("e", 9, 8, 9), page("e", 9))
    past = Past(answers, Position("e", 3), False)
    assert (await anext(past)).offset == 4
    with pytest.raises(MessagesLost, match="does not reach back") as lost:
        await anext(past)
    assert lost.value.lost.position == Position("e", 7)
    assert await offsets(past) == [8, 9]


async def test_what_was_trimmed_to_nothing_is_a_hole_too() -> None:
    past = Past(Answers(page("e", 9)), Position("e", 3), False)
    with pytest.raises(MessagesLost):
        await anext(past)
    assert await offsets(past) == []


async def test_a_stream_that_has_begun_anew_is_a_hole() -> None:
    answers = Answers(page("f", 2, 1, 2), page("f", 2))
    past = Past(answers, Position("e", 3), False)
    with pytest.raises(MessagesLost, match="begun anew"):
        await anext(past)
    assert await offsets(past) == [1, 2]
    past = Past(Answers(page("f", 2)), Position("e", 3), True)
    with pytest.raises(MessagesLost, match="begun anew"):
        await anext(past)
    assert await offsets(past) == []


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_server_that_repeats_itself_is_not_asked_for_ever(reverse: bool) -> None:
    answers = Answers(page("e", 3, 3), page("e", 3, 3))
    assert await offsets(Past(answers, None, reverse)) == [3]


async def test_members_are_read_from_page_to_page() -> None:
    asked: list[str | None] = []
    answers = [
        Presence("a", 3, [Member("c-1", None), Member("c-2", "7")], "x"),
        Presence("a", 3, [], "y"),
        Presence("a", 3, [Member("c-3", None)]),
    ]

    async def ask(after: str | None) -> Presence:
        asked.append(after)
        return answers.pop(0)

    found = [member.client async for member in Members(ask)]
    assert found == ["c-1", "c-2", "c-3"]
    assert asked == [None, "x", "y"]


async def test_members_whose_next_page_is_the_same_are_all() -> None:
    async def ask(after: str | None) -> Presence:
        return Presence("a", 9, [Member("c-1", None)], "x")

    assert len([member async for member in Members(ask)]) == 2
