"""Taking connections from a socket at which others wait too. Descriptors: test_sockets.py."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest

from clarion_server.board import CLIENTS, Board, Seat
from clarion_server.door import ACCEPTS, COURTESY_SECONDS, Door
from support.waiting import until


class House:
    """Two workers at one listening socket, each with a door; all in this loop."""

    def __init__(self) -> None:
        self.exits = ExitStack()
        self.sock = self.exits.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        self.sock.setblocking(False)
        board = Board(2)
        self.seats = [Seat(board, 0), Seat(board, 1)]
        for seat in self.seats:
            board.place(seat.number, 100 + seat.number)
        self.beat()
        self.taken: list[list[socket.socket]] = [[], []]
        self.doors = [self._door(number) for number in range(2)]

    def _door(self, number: int) -> Door:
        taken = self.taken[number]
        # As after a fork: another descriptor of the same socket.
        sock = self.exits.enter_context(self.sock.dup())
        door = Door(
            sock,
            lambda fd: taken.append(self.exits.enter_context(socket.socket(fileno=fd))),
            count=lambda: len(taken),
            refused=lambda: None,
            share=self.seats[number].share(CLIENTS),
        )
        self.exits.callback(door.stop)
        return door

    def beat(self, *reasons: str) -> None:
        """Both are alive; the second one is as ready as `reasons` say."""
        self.seats[0].beat(time.monotonic(), [])
        self.seats[1].beat(time.monotonic(), reasons)

    @property
    def counts(self) -> list[int]:
        return [len(taken) for taken in self.taken]

    async def knock(self, times: int = 1) -> None:
        """Somebody comes, and another when the one before is in."""
        for _ in range(times):
            before = sum(self.counts)
            self.exits.enter_context(socket.create_connection(self.sock.getsockname()))
            await self._taken(before + 1)

    async def _taken(self, count: int) -> None:
        await until(lambda: sum(self.counts) == count)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    with house.exits:
        yield house


async def test_those_who_come_one_by_one_are_shared_evenly(house: House) -> None:
    await house.knock(21)
    assert sorted(house.counts) == [10, 11]


async def test_a_newcomer_gets_everybody_until_it_has_as_many(house: House) -> None:
    house.doors[1].stop()
    house.beat("is not there yet")
    await house.knock(8)
    house.doors[1] = house._door(1)
    house.beat()
    await house.knock(8)
    assert house.counts == [8, 8]


async def test_what_the_other_does_not_take_is_taken_a_moment_later(house: House) -> None:
    house.doors[1].stop()  # and still it says that it is ready, and has fewer
    await house.knock()
    start = time.monotonic()
    await house.knock()
    took = time.monotonic() - start
    assert house.counts == [2, 0]
    assert COURTESY_SECONDS / 2 < took < 1


async def test_a_worker_that_drains_takes_nobody_while_another_does(house: House) -> None:
    house.beat("draining")
    await house.knock(5)
    assert house.counts == [5, 0]
    house.doors[0].stop()
    await house.knock()
    assert house.counts == [5, 1]


async def test_many_at_once_are_taken_in_turns_by_both(house: House) -> None:
    for _ in range(ACCEPTS + 100):
        house.exits.enter_context(socket.create_connection(house.sock.getsockname()))
    await asyncio.sleep(0)
    await until(lambda: sum(house.counts) == ACCEPTS + 100)
    assert min(house.counts) > 0


async def test_a_stopped_door_takes_nobody(house: House) -> None:
    house.doors[0].stop()
    house.doors[0].stop()  # does nothing
    house.doors[1].stop()
    house.exits.enter_context(socket.create_connection(house.sock.getsockname()))
    await asyncio.sleep(COURTESY_SECONDS * 3)
    assert house.counts == [0, 0]


async def test_no_more_are_taken_than_leaves_descriptors_for_the_rest(house: House) -> None:
    house.doors[1].stop()
    house.doors[0].stop()
    taken: list[socket.socket] = []
    refused: list[None] = []
    door = Door(
        house.sock,
        lambda fd: taken.append(socket.socket(fileno=fd)),
        count=lambda: len(taken),
        refused=lambda: refused.append(None),
        most=2,
    )
    try:
        for _ in range(3):
            house.exits.enter_context(socket.create_connection(house.sock.getsockname()))
        await until(lambda: refused)
        assert len(taken) == 2
        taken.pop().close()
        house.exits.enter_context(socket.create_connection(house.sock.getsockname()))
        await until(lambda: len(taken) == 2)
    finally:
        door.stop()
        for sock in taken:
            sock.close()
