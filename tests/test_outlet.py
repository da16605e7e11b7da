"""The way out, over real socket pairs: who keeps up, who is cut short, and who is gone."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Literal, TypeAlias

import pytest

from clarion_fanout.hub import Form, Receiver, Topic
from clarion_fanout.publication import Publication
from clarion_server.forms import WEBSOCKET
from clarion_server.outlet import FAILED, Outlet, write


class Line:
    """A receiver with a real socket, and the other end of it.

    short: what it was told: the payload, and how many bytes of it the kernel took.
    """

    form: Form = WEBSOCKET

    def __init__(self, stack: ExitStack, on_short: Callable[[Line], object] | None = None) -> None:
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            stack.enter_context(end)
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.key = self.near.fileno()
        self.bulk = True
        self.topics: list[Topic] = []
        self.short: list[tuple[bytes, int]] = []
        self.on_short = on_short

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        raise AssertionError("an outlet writes, it does not deliver")

    def cut_short(self, payload: bytes, written: int) -> None:
        self.short.append((payload, written))
        if self.on_short is not None:
            self.on_short(self)

    def fill(self) -> int:
        """Writes until the kernel takes no more; returns how much that was."""
        size = 0
        while (written := write(self.key, b"." * 1024)) > 0:
            size += written
        assert written == 0
        return size

    def received(self) -> bytes:
        data = b""
        while True:
            try:
                piece = self.far.recv(65536)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def by_key(lines: Sequence[Line]) -> dict[int, Receiver]:
    return {line.key: line for line in lines}


Way: TypeAlias = Literal["broadcast", "scatter"]
both = pytest.mark.parametrize("way", ["broadcast", "scatter"])


def send(way: Way, lines: Sequence[Line], payload: bytes) -> None:
    """The same bytes for each line, in either way."""
    if way == "broadcast":
        Outlet().broadcast(by_key(lines), payload)
    else:
        Outlet().scatter({line.key: payload for line in lines}, lambda: by_key(lines))


@both
def test_everyone_who_keeps_up_gets_all_of_it(way: Way, stack: ExitStack) -> None:
    lines = [Line(stack) for _ in range(100)]
    send(way, lines, b"hello")
    assert [line.received() for line in lines] == [b"hello"] * 100
    assert all(not line.short for line in lines)


@both
def test_a_full_buffer_is_told_with_how_much_was_taken(way: Way, stack: ExitStack) -> None:
    line = Line(stack)
    payload = bytes(range(256)) * 4096  # more than any buffer of 4 KiB takes
    send(way, [line], payload)
    ((told, written),) = line.short
    assert told == payload
    assert 0 < written < len(payload)
    assert line.received() == payload[:written]


@both
def test_a_buffer_without_any_room_took_nothing(way: Way, stack: ExitStack) -> None:
    line = Line(stack)
    before = line.fill()
    send(way, [line], b"hello")
    assert line.short == [(b"hello", 0)]
    assert line.received() == b"." * before


@both
def test_a_peer_that_is_gone_is_told_as_failed(way: Way, stack: ExitStack) -> None:
    line = Line(stack)
    line.far.close()
    send(way, [line], b"hello")
    assert line.short == [(b"hello", FAILED)]


@both
def test_one_receivers_trouble_is_not_the_others(way: Way, stack: ExitStack) -> None:
    lines = [Line(stack) for _ in range(9)]
    full, gone, rest = lines[0], lines[4], [*lines[1:4], *lines[5:]]
    full.fill()
    gone.far.close()
    send(way, lines, b"hello")
    assert full.short == [(b"hello", 0)]
    assert gone.short == [(b"hello", FAILED)]
    assert [line.received() for line in rest] == [b"hello"] * 7
    assert all(not line.short for line in rest)


def test_who_is_cut_short_may_leave_the_table_that_is_being_served(stack: ExitStack) -> None:
    """The hub hands over its own table, and moves receivers in it when they fall behind."""
    table: dict[int, Receiver] = {}

    def leave(line: Line) -> None:
        del table[line.key]

    lines = [Line(stack, leave) for _ in range(6)]
    for line in lines[::2]:
        line.far.close()
    table.update(by_key(lines))
    Outlet().broadcast(table, b"hello")
    assert set(table) == {line.key for line in lines[1::2]}
    assert [line.received() for line in lines[1::2]] == [b"hello"] * 3


def test_each_gets_what_stands_under_its_key(stack: ExitStack) -> None:
    first, second = Line(stack), Line(stack)
    payloads = {first.key: b"one two three", second.key: b"only"}
    Outlet().scatter(payloads, lambda: by_key([first, second]))
    assert (first.received(), second.received()) == (b"one two three", b"only")


def test_who_is_cut_short_is_looked_up_in_one_table_for_all(stack: ExitStack) -> None:
    lines = [Line(stack) for _ in range(5)]
    for line in lines:
        line.fill()
    tables: list[dict[int, Receiver]] = []

    def table() -> dict[int, Receiver]:
        tables.append(by_key(lines))
        return tables[-1]

    Outlet().scatter({line.key: b"hello" for line in lines}, table)
    assert [line.short for line in lines] == [[(b"hello", 0)]] * 5
    assert len(tables) == 1


def test_nobody_is_looked_for_who_takes_everything(stack: ExitStack) -> None:
    line = Line(stack)

    def look() -> dict[int, Receiver]:
        raise AssertionError

    Outlet().scatter({line.key: b"hello"}, look)
    assert line.received() == b"hello"


def test_write_says_what_the_kernel_took(stack: ExitStack) -> None:
    line = Line(stack)
    assert write(line.key, b"hello") == 5
    line.fill()
    assert write(line.key, b"hello") == 0
    line.far.close()
    assert write(line.key, b"hello") == FAILED
