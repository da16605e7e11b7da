"""Streams, beside a list that does the same the slow way."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from clarion_fanout.broker import HistoryOptions, Page, Want
from clarion_fanout.history import ENTRY_BYTES, QUEUE_BYTES, STREAM_BYTES, Stream
from clarion_fanout.publication import Position
from support.examples import examples

EPOCH = "epoch"


class Kept(NamedTuple):
    offset: int
    ts: int
    data: bytes


class NaiveStream:
    """Every publication there ever was, and answers by going through all of them."""

    def __init__(self) -> None:
        self.all: list[Kept] = []

    def kept(self, now: int, options: HistoryOptions) -> list[Kept]:
        newest = self.all[len(self.all) - min(options.size, len(self.all)) :]
        return [each for each in newest if now - each.ts <= options.seconds * 1000]

    def answer(
        self, want: Want, now: int, options: HistoryOptions
    ) -> tuple[Position, list[int], bool]:
        position = Position(EPOCH, len(self.all))
        offsets = [each.offset for each in self.kept(now, options)]
        complete = True
        if want.since is not None:
            epoch, offset = want.since
            known = epoch == EPOCH and offset in range(len(self.all) + 1)
            if want.reverse:
                offsets = [each for each in offsets if known and each < offset]
                complete = known
            elif known:
                complete = set(range(offset + 1, len(self.all) + 1)) <= set(offsets)
                offsets = [each for each in offsets if each > offset]
            else:
                complete = False
        elif want.last:
            offsets = offsets[-want.last :]
        if want.reverse:
            offsets.reverse()
        return position, offsets[: want.limit], complete


def seen(page: Page) -> tuple[Position | None, list[int], bool]:
    return page.position, [each.offset for each in page.publications], page.complete


positions = st.builds(
    Position, st.sampled_from([EPOCH, EPOCH, EPOCH, "other"]), st.integers(-1, 25)
)
limits = st.none() | st.integers(0, 25)
wants = st.one_of(
    st.builds(Want, since=positions, limit=limits, reverse=st.booleans()),
    st.builds(Want, last=st.integers(0, 25), limit=limits, reverse=st.booleans()),
)
pauses = st.integers(1, 4000) | st.sampled_from([500, 3000])  # exactly the age, too
steps = st.lists(st.one_of(st.binary(max_size=5), pauses, wants), max_size=50)


@given(st.builds(HistoryOptions, st.integers(1, 12), st.sampled_from([0.5, 3, 10, 3600])), steps)
@settings(max_examples=examples(400))
def test_every_question_is_answered_as_by_a_list_of_everything(
    options: HistoryOptions, steps: list[bytes | int | Want]
) -> None:
    now = 1_790_000_000_000
    stream = Stream("topic", EPOCH, now)
    naive = NaiveStream()
    for step in steps:
        match step:
            case bytes():
                publication = stream.append(step, now, options)
                naive.all.append(Kept(publication.offset, publication.ts, publication.data))
                assert (publication.topic, publication.epoch) == ("topic", EPOCH)
                assert (publication.offset, publication.ts) == (len(naive.all), now)
                assert publication.data == step
            case int():
                now += step
            case Want():
                page = stream.answer(step, now, options)
                assert seen(page) == naive.answer(step, now, options)
                for each in page.publications:
                    assert each.data == naive.all[each.offset - 1].data
    stream.trim(now, options)
    kept = naive.kept(now, options)
    assert len(stream) == len(kept)
    entries = sum(2 * len(each.data) + ENTRY_BYTES for each in kept)
    assert stream.bytes == STREAM_BYTES + (entries + QUEUE_BYTES if kept else 0)


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    options = HistoryOptions(10, 60)
    stream = Stream("topic", EPOCH, 1_000_000)
    stream.append(b"1", 1_000_000, options)
    stream.append(b"2", 100_000, options)
    page = stream.answer(Want(since=Position(EPOCH, 0)), 100_000, options)
    assert seen(page) == (Position(EPOCH, 2), [1, 2], True)


def test_a_cleared_stream_keeps_its_position_and_goes_on() -> None:
    options = HistoryOptions(10, 60)
    stream = Stream("topic", EPOCH, 0)
    for _ in range(3):
        stream.append(b"0", 0, options)
    stream.clear()
    assert stream.position == Position(EPOCH, 3)
    assert stream.bytes == STREAM_BYTES
    assert stream.append(b"0", 0, options).offset == 4
    behind, current = Want(since=Position(EPOCH, 2)), Want(since=Position(EPOCH, 3))
    assert seen(stream.answer(behind, 0, options)) == (Position(EPOCH, 4), [4], False)
    assert seen(stream.answer(current, 0, options)) == (Position(EPOCH, 4), [4], True)


def test_being_published_to_or_asked_counts_as_use() -> None:
    options = HistoryOptions(10, 60)
    stream = Stream("topic", EPOCH, 1)
    assert stream.used == 1
    stream.append(b"0", 2, options)
    assert stream.used == 2
    stream.answer(Want(limit=0), 3, options)
    assert stream.used == 3
    stream.trim(4, options)
    assert stream.used == 3


def test_an_answer_stays_as_it_was_when_the_stream_goes_on() -> None:
    options = HistoryOptions(2, 60)
    stream = Stream("topic", EPOCH, 0)
    stream.append(b"0", 0, options)
    page = stream.answer(Want(), 0, options)
    for _ in range(3):
        stream.append(b"0", 0, options)
    assert seen(page) == (Position(EPOCH, 1), [1], True)
