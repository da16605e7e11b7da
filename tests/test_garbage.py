"""The collector under our own rules: nothing dead is kept for long, nothing alive walked often."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from clarion_server import garbage
from clarion_server.garbage import Garbage


class Clock:
    """Time by hand; a step for each reading, so that every pause has the same length."""

    def __init__(self) -> None:
        self.now = 0.0
        self.step = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Node:
    """An object that can be part of a cycle, and be watched."""

    def __init__(self) -> None:
        self.other: object = None


def cycle() -> tuple[Node, weakref.ref[Node]]:
    node = Node()
    node.other = node
    return node, weakref.ref(node)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collector(clock: Clock) -> Iterator[Garbage]:
    collector = Garbage(owned=lambda: 0, clock=clock)
    collector.install()
    yield collector
    collector.remove()


def test_installing_freezes_what_is_alive_and_removing_undoes_it() -> None:
    thresholds = gc.get_threshold()
    callbacks = list(gc.callbacks)
    frozen = gc.get_freeze_count()
    collector = Garbage(owned=lambda: 0, clock=Clock())
    collector.install()
    collector.install()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[0] == garbage.YOUNG_OBJECTS
    collector.remove()
    collector.remove()
    assert (gc.get_threshold(), gc.callbacks, gc.get_freeze_count()) == (
        thresholds,
        callbacks,
        frozen,
    )


def test_a_tick_frees_a_dead_cycle(collector: Garbage) -> None:
    node, watch = cycle()
    del node
    collector.tick(1.0)
    assert watch() is None
    assert collector.collected[2] >= 1


def test_a_short_collection_leaves_survivors_where_the_next_one_finds_them(
    collector: Garbage,
) -> None:
    node, watch = cycle()
    collector.tick(1.0)
    del node
    collector.tick(2.0)
    assert watch() is None
    assert collector.freezes == 0


def test_after_a_long_collection_the_survivors_are_not_walked_again(
    collector: Garbage, clock: Clock
) -> None:
    node, watch = cycle()
    before = gc.get_freeze_count()
    clock.step = 0.01
    collector.tick(1.0)
    assert collector.freezes == 1
    assert gc.get_freeze_count() > before
    del node
    clock.step = 0.0
    collector.tick(2.0)
    assert watch() is not None  # the price, until the next deep collection


def test_ticks_pause_in_proportion_to_what_the_last_one_took(
    collector: Garbage, clock: Clock
) -> None:
    clock.step = 0.0005
    collector.tick(10.0)
    count = sum(collector.pauses[2].counts)
    collector.tick(10.0 + 0.0005 * garbage.SHARE * 0.9)
    assert sum(collector.pauses[2].counts) == count
    collector.tick(10.0 + 0.0005 * garbage.SHARE * 1.1)
    assert sum(collector.pauses[2].counts) == count + 1


def test_while_little_is_alive_a_review_finds_what_died_frozen(
    collector: Garbage, clock: Clock
) -> None:
    node, watch = cycle()
    clock.step = 0.01
    collector.tick(1.0)
    del node
    clock.step = 0.0
    collector.tick(clock.now + garbage.REVIEW_SECONDS)
    assert watch() is None
    assert collector.deep == 1
    assert sum(collector.pauses[2].counts) == 3


def kept(count: int) -> list[object]:
    return [[] for _ in range(count)]


def test_what_the_server_can_account_for_is_left_alone(clock: Clock) -> None:
    collector = Garbage(owned=lambda: garbage.FEW_BLOCKS * 2, clock=clock)
    collector.install()
    try:
        alive = kept(garbage.FEW_BLOCKS * 2)
        clock.step = 0.01
        collector.tick(1.0)
        collector.tick(clock.now + garbage.REVIEW_SECONDS)
        assert collector.freezes == 2
        assert collector.deep == 0
        assert len(alive) == garbage.FEW_BLOCKS * 2
    finally:
        collector.remove()


def test_what_it_cannot_account_for_is_looked_at_once(collector: Garbage, clock: Clock) -> None:
    alive = kept(garbage.LOST_BLOCKS + garbage.FEW_BLOCKS)
    clock.step = 0.01
    collector.tick(1.0)
    collector.tick(clock.now + garbage.REVIEW_SECONDS)
    assert collector.deep == 1
    collector.tick(clock.now + 1)
    collector.tick(clock.now + 2 * garbage.REVIEW_SECONDS)
    assert collector.deep == 1
    assert len(alive) > garbage.LOST_BLOCKS


def test_pauses_are_counted_by_generation_and_the_worst_is_known(
    collector: Garbage, clock: Clock
) -> None:
    clock.step = 0.004
    gc.collect(0)
    clock.step = 0.0
    gc.collect()
    assert sum(collector.pauses[0].counts) == 1
    assert collector.pauses[0].total == pytest.approx(0.004)
    assert sum(collector.pauses[2].counts) == 1
    assert collector.worst(clock.now) == pytest.approx(0.004)
