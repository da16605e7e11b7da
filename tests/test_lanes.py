"""Lanes against a list that is looked through from its beginning each time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clarion_server.pipeline.lanes import Lanes, Place
from support.examples import examples

NAMES = st.sampled_from("abc")


def items(places: list[Place[int]]) -> list[int]:
    return [place.item for place in places]


def test_what_is_ready_leaves_at_once_and_its_lane_with_it() -> None:
    lanes: Lanes[int] = Lanes()
    lanes.join("a", 1, ready=True)
    assert "a" in lanes
    assert items(lanes.take(10)) == [1]
    assert "a" in lanes
    lanes.left("a")
    assert "a" not in lanes
    assert not len(lanes)


def test_what_is_ready_waits_for_what_entered_before_it_in_its_lane_alone() -> None:
    lanes: Lanes[int] = Lanes()
    slow = lanes.join("a", 1)
    lanes.join("a", 2, ready=True)
    lanes.join("b", 3, ready=True)
    assert items(lanes.take(10)) == [3]
    lanes.ready(slow)
    assert items(lanes.take(10)) == [1, 2]


def test_nothing_is_taken_of_a_lane_until_what_was_taken_has_left() -> None:
    lanes: Lanes[int] = Lanes()
    lanes.join("a", 1, ready=True)
    assert items(lanes.take(10)) == [1]
    lanes.join("a", 2, ready=True)
    assert not lanes.due
    assert items(lanes.take(10)) == []
    lanes.left("a")
    assert items(lanes.take(10)) == [2]


def test_what_is_dropped_holds_nobody_up() -> None:
    lanes: Lanes[int] = Lanes()
    first, second = lanes.join("a", 1), lanes.join("a", 2)
    lanes.join("a", 3, ready=True)
    lanes.drop(second)
    assert not lanes.due
    lanes.drop(first)
    assert items(lanes.take(10)) == [3]
    lanes.left("a")
    lanes.drop(lanes.join("a", 4))
    assert not len(lanes)


class Model(RuleBasedStateMachine):
    """All that ever entered, in order, with what became of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[int] = Lanes()
        self.all: list[tuple[Place[int], str]] = []  # waits, ready, gone, taken, left
        self.order: list[tuple[str, int]] = []  # as they were taken

    def note(self, place: Place[int], state: str) -> None:
        number = next(n for n, (each, _) in enumerate(self.all) if each is place)
        self.all[number] = (place, state)

    @rule(lane=NAMES, ready=st.booleans())
    def join(self, lane: str, ready: bool) -> None:
        place = self.lanes.join(lane, len(self.all), ready=ready)
        self.all.append((place, "ready" if ready else "waits"))

    @precondition(lambda self: any(state == "waits" for _, state in self.all))
    @rule(data=st.data(), drop=st.booleans())
    def decide(self, data: st.DataObject, drop: bool) -> None:
        place = data.draw(st.sampled_from([each for each, state in self.all if state == "waits"]))
        if drop:
            self.lanes.drop(place)
            self.note(place, "gone")
        else:
            self.lanes.ready(place)
            self.note(place, "ready")

    @rule()
    def clear(self) -> None:
        there = [each for each, state in self.all if state in ("waits", "ready", "taken")]
        assert sorted(self.lanes.clear()) == items(there)
        for place in there:
            self.note(place, "gone")

    @rule(most=st.integers(1, 5))
    def take(self, most: int) -> None:
        taken = self.lanes.take(most)
        free = self.free()
        assert set(items(taken)) <= {each.item for each in free}
        assert len(taken) == min(most, len(free))
        for place in taken:
            self.note(place, "taken")
            self.order.append((place.lane, place.item))

    @precondition(lambda self: any(state == "taken" for _, state in self.all))
    @rule(data=st.data())
    def left(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([e.lane for e, state in self.all if state == "taken"]))
        self.lanes.left(lane)
        for place, state in list(self.all):
            if place.lane == lane and state == "taken":
                self.note(place, "left")

    def free(self) -> list[Place[int]]:
        """What may leave: ready, of lanes of which nothing is about to leave, and behind nothing
        that waits."""
        found = []
        closed = {each.lane for each, state in self.all if state == "taken"}
        for place, state in self.all:
            if state == "waits":
                closed.add(place.lane)
            elif state == "ready" and place.lane not in closed:
                found.append(place)
        return found

    @invariant()
    def lanes_are_there_as_long_as_something_is_in_them(self) -> None:
        there = {each.lane for each, state in self.all if state in ("waits", "ready", "taken")}
        assert {name for name in "abc" if name in self.lanes} == there
        assert len(self.lanes) == len(there)
        assert self.lanes.due == bool(self.free())

    @invariant()
    def nobody_has_overtaken_anybody(self) -> None:
        for name in "abc":
            numbers = [number for lane, number in self.order if lane == name]
            assert numbers == sorted(numbers)


TestLanes = Model.TestCase
TestLanes.settings = settings(max_examples=examples(150), stateful_step_count=40)
