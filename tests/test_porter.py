"""Letting newcomers in beside everything else that an event loop has to do."""

from __future__ import annotations

import asyncio

from clarion_server.options import Admission
from clarion_server.porter import LONGEST, PAUSE, SHORTEST, Porter
from support.waiting import until

HANDSHAKE = 0.001
"""Seconds that one takes here, by the clock of these tests."""


class Hall:
    """A porter and those who come to him. Time is what their handshakes take, and what is added."""

    def __init__(self, room: int = 10_000, **options: float) -> None:
        self.now = 100.0
        self.room = room
        self.overloaded = False
        self.inside: list[Guest] = []
        self.refused: list[str] = []
        self.porter = Porter(
            Admission(**{"handshakes_per_s": 0, **options}),  # type: ignore[arg-type]
            room=lambda: self.room - len(self.inside),
            overloaded=lambda: self.overloaded,
            clock=lambda: self.now,
        )

    def come(self, count: int) -> list[Guest]:
        guests = [Guest(self) for _ in range(count)]
        for guest in guests:
            self.porter.knock(guest)
        return guests


class Guest:
    def __init__(self, hall: Hall) -> None:
        self.hall = hall

    def let_in(self) -> None:
        self.hall.now += HANDSHAKE
        self.hall.inside.append(self)

    def turn_away(self, reason: str) -> None:
        self.hall.refused.append(reason)


async def test_who_comes_alone_need_not_wait() -> None:
    hall = Hall()
    hall.come(1)
    assert len(hall.inside) == 1
    assert hall.porter.waiting == 0


async def test_a_storm_takes_no_more_of_a_turn_than_its_share_and_all_get_in_in_order() -> None:
    hall = Hall()
    guests = hall.come(500)
    assert SHORTEST / HANDSHAKE <= len(hall.inside) <= LONGEST / HANDSHAKE + 1
    turns = 0
    while hall.porter.waiting:
        before, began = len(hall.inside), hall.now
        await asyncio.sleep(0)
        turns += 1
        assert hall.now - began <= SHORTEST + HANDSHAKE  # nothing else takes time here
        assert len(hall.inside) > before
    assert hall.inside == guests
    assert turns >= 50


async def test_a_loop_that_is_busy_with_others_does_more_in_a_turn_but_not_without_bound() -> None:
    hall = Hall()
    hall.come(1000)
    await asyncio.sleep(0)
    for busy, most in ((0.02, 0.01), (1, LONGEST)):
        before = len(hall.inside)
        hall.now += busy  # everything else
        await asyncio.sleep(0)
        took = (len(hall.inside) - before) * HANDSHAKE
        assert SHORTEST < took <= most + HANDSHAKE * 1.5


async def test_nobody_overtakes() -> None:
    hall = Hall()
    first = hall.come(100)
    await asyncio.sleep(0)
    second = hall.come(100)
    await until(lambda: not hall.porter.waiting)
    assert hall.inside == first + second


async def test_who_vanishes_while_he_waits_is_not_let_in_and_frees_his_place() -> None:
    hall = Hall(queue=30)
    guests = hall.come(100)
    waiting = [guest for guest in guests if guest not in hall.inside][: hall.porter.waiting]
    assert hall.porter.waiting == 30
    for guest in waiting:
        hall.porter.vanish(guest)
    assert hall.porter.waiting == 0
    await asyncio.sleep(0)
    assert not set(waiting) & set(hall.inside)
    refused = len(hall.refused)
    hall.come(1)
    assert len(hall.refused) == refused


async def test_more_than_the_queue_takes_are_refused() -> None:
    hall = Hall(queue=10)
    hall.come(100)
    assert len(hall.inside) + len(hall.refused) + hall.porter.waiting == 100
    assert hall.porter.waiting == 10
    assert set(hall.refused) == {"queue"}


async def test_a_rate_makes_newcomers_wait_and_who_would_wait_too_long_is_refused() -> None:
    hall = Hall(handshakes_per_s=100, handshake_burst=2, queue_s=0.05)
    hall.come(20)
    assert len(hall.inside) == 2
    assert 4 <= hall.porter.waiting <= 5
    assert len(hall.inside) + len(hall.refused) + hall.porter.waiting == 20
    await asyncio.sleep(PAUSE * 2)
    assert len(hall.inside) <= 3  # no time has passed by the porter's clock but theirs
    refused = len(hall.refused)
    while hall.porter.waiting:
        hall.now += 0.01
        await asyncio.sleep(PAUSE * 1.1)
    # Nobody was promised too much, but for the grain of these steps.
    assert len(hall.refused) - refused <= 1
    assert len(hall.inside) + len(hall.refused) == 20


async def test_who_has_waited_too_long_is_refused_in_his_turn() -> None:
    hall = Hall(queue_s=1)
    hall.come(50)
    inside, waiting = len(hall.inside), hall.porter.waiting
    assert waiting
    hall.now += 2  # the loop was stopped
    await until(lambda: not hall.porter.waiting)
    assert len(hall.inside) == inside
    assert hall.refused == ["queue"] * waiting


async def test_there_is_never_more_than_the_worker_takes_whoever_waits() -> None:
    hall = Hall(room=30)
    hall.come(100)
    await until(lambda: not hall.porter.waiting)
    assert len(hall.inside) == 30
    assert hall.refused == ["connections"] * 70


async def test_while_the_worker_is_overloaded_newcomers_are_refused_and_others_stay() -> None:
    hall = Hall()
    hall.come(1)
    hall.overloaded = True
    hall.come(3)
    assert hall.refused == ["overloaded"] * 3
    assert len(hall.inside) == 1
    hall.overloaded = False
    hall.come(1)
    assert len(hall.inside) == 2


async def test_a_closed_porter_lets_nobody_in_any_more() -> None:
    hall = Hall()
    hall.come(100)
    inside = len(hall.inside)
    hall.porter.close()
    await asyncio.sleep(PAUSE * 3)
    assert len(hall.inside) == inside
