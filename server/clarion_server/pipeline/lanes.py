"""Who waits for whom on the way to the broker: a machine.

What enters leaves in the order in which it entered, lane by lane, however long each takes to become
ready; lanes do not wait for each other. A lane is a topic with something on its way, and nothing of
it remains when that has left: a topic without work costs nothing.

    join   enters, behind what is in the lane already
    ready  may leave now, as far as it is concerned
    drop   will never leave: those behind it go on
    take   all that may leave now: in each lane what is ready and has nothing before it that is not.
           Nothing more is taken of these lanes until
    left   they have left: their order is safe, and the next may go

An item that is taken stays in its lane until it has left, so that whoever finds no lane may
overtake nobody.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")

State: TypeAlias = Literal["waits", "ready", "gone"]


class Place(Generic[T]):
    """A place in a lane."""

    __slots__ = ("item", "lane", "state")

    def __init__(self, lane: str, item: T, state: State) -> None:
        self.lane = lane
        self.item = item
        self.state: State = state


class _Lane(Generic[T]):
    __slots__ = ("places", "taken")

    def __init__(self) -> None:
        self.places: deque[Place[T]] = deque()
        self.taken = 0  # of the first places, those that are about to leave


class Lanes(Generic[T]):
    """See the module's text."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane[T]] = {}
        self._due: dict[str, None] = {}
        """Lanes whose first place is ready and not taken, in the order in which they became so."""

    def __len__(self) -> int:
        """Lanes that there are."""
        return len(self._lanes)

    def __contains__(self, lane: str) -> bool:
        return lane in self._lanes

    @property
    def due(self) -> bool:
        """Whether something may leave."""
        return bool(self._due)

    def join(self, lane: str, item: T, *, ready: bool = False) -> Place[T]:
        place = Place(lane, item, "ready" if ready else "waits")
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _Lane()
        found.places.append(place)
        if ready:
            self._settle(lane, found)
        return place

    def ready(self, place: Place[T]) -> None:
        assert place.state == "waits"
        place.state = "ready"
        self._settle(place.lane, self._lanes[place.lane])

    def drop(self, place: Place[T]) -> None:
        assert place.state == "waits"
        place.state = "gone"
        self._settle(place.lane, self._lanes[place.lane])

    def take(self, most: int) -> list[Place[T]]:
        """At most so many, lane after lane, each lane's in order."""
        taken: list[Place[T]] = []
        for name in list(self._due):
            if len(taken) >= most:
                break
            del self._due[name]
            lane = self._lanes[name]
            for place in lane.places:
                if place.state == "waits" or len(taken) >= most:
                    break
                lane.taken += 1
                if place.state == "ready":
                    taken.append(place)
        return taken

    def left(self, lane: str) -> None:
        """All that was taken of a lane has left it."""
        found = self._lanes[lane]
        for _ in range(found.taken):
            found.places.popleft()
        found.taken = 0
        self._settle(lane, found)

    def clear(self) -> list[T]:
        """Drops everything; returns what has not left, lane after lane."""
        places = [place for lane in self._lanes.values() for place in lane.places]
        dropped = [place.item for place in places if place.state != "gone"]
        for place in places:
            place.state = "gone"
        self._lanes.clear()
        self._due.clear()
        return dropped

    def _settle(self, name: str, lane: _Lane[T]) -> None:
        """The lane's first places, or their states, have changed."""
        if lane.taken:
            return
        places = lane.places
        while places and places[0].state == "gone":
            places.popleft()
        if not places:
            del self._lanes[name]
            self._due.pop(name, None)
        elif places[0].state == "ready":
            self._due[name] = None
