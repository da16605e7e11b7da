"""The topics that a program wants, and how far the server has granted them: a machine.

A topic is, on each connection anew,

    wanted    and not asked for yet; the next `commands` does that, for many topics at once
    asked     under the id of a command
    held      the server has granted it: its messages count
    put off   the server could not say; it is asked again at a time

and in every state it has a place (`place.py`). Messages of a topic that is not held are those of
an earlier subscription, still under way when that was given up; they are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from clarion_client import wire
from clarion_client.backoff import MAX_RETRY_S
from clarion_client.errors import ClarionError, Refused, Unsubscribed
from clarion_client.events import (
    Ended,
    Event,
    Join,
    Leave,
    Lost,
    Message,
    Position,
    Subscribed,
)
from clarion_client.place import Place

log = logging.getLogger("clarion_client")

ANSWER_S = 30.0
"""A server that is alive and yet answers no subscription for so long is given up: ten times what
the failover of a shard takes."""

AGAIN_S = 0.1
"""The shortest time until a topic is asked for again, whatever the server says."""

TRIES = 3
"""How often a topic is asked for on one connection that the server says we have already: the
backend subscribed us in the same moment, and we need an answer of our own."""


@dataclass(slots=True)
class _Topic:
    place: Place
    asked: int | None = None
    held: bool = False
    tries: int = 0


class Interests:
    """See the module's text.

    next_id: makes the id of a command. max_bytes: the longest command. takes_given: whether topics
    that the backend subscribes us to are held like those that were asked for.
    """

    def __init__(self, next_id: Callable[[], int], max_bytes: int) -> None:
        self.takes_given = False
        self._next_id = next_id
        self._max_bytes = max_bytes
        self._topics: dict[str, _Topic] = {}
        self._wanted: dict[str, None] = {}
        self._asked: dict[int, set[str]] = {}
        self._put_off: dict[str, float] = {}
        self._progress_at = 0.0
        self._online = False

    def __contains__(self, topic: object) -> bool:
        return topic in self._topics

    @property
    def waiting(self) -> bool:
        """Whether `commands` may have something to say."""
        return bool(self._wanted)

    def granted(self, topic: str) -> Subscribed | None:
        """How the server has granted a topic on this connection, for one who joins in."""
        found = self._topics.get(topic)
        if found is None or not found.held:
            return None
        return Subscribed(topic, found.place.start, found.place.position, None)

    def held(self, topic: str) -> bool:
        """Whether the server has granted the topic, on this connection."""
        found = self._topics.get(topic)
        return found is not None and found.held

    # What the program wants

    def hold(self, topic: str, since: Position | None, last: int) -> None:
        """The topic is wanted. Where it is already, nothing changes."""
        if topic not in self._topics:
            self._topics[topic] = _Topic(Place(topic, since, last))
            self._wanted[topic] = None

    def release(self, topic: str) -> str | None:
        """The topic is not wanted any more. Returns the command that says so, if one must."""
        found = self._topics.get(topic)
        if found is None:
            return None
        known = found.held or found.asked is not None
        self._remove(topic)
        if not (self._online and known):
            return None
        return wire.encode("unsubscribe", self._next_id(), topic=topic)

    # The connection

    def go_online(self) -> None:
        """There is a connection, and it knows nothing yet."""
        self._online = True
        self._wanted = dict.fromkeys(self._topics)

    def go_offline(self) -> None:
        """The connection is lost, and with it what was granted."""
        self._online = False
        self._asked.clear()
        self._put_off.clear()
        for topic in self._topics.values():
            topic.asked, topic.held, topic.tries = None, False, 0

    def commands(self, now: float) -> list[str]:
        """What asks for all that is wanted and not asked for yet."""
        if not self._online or not self._wanted:
            return []
        names = list(self._wanted)
        self._wanted.clear()
        wishes = [self._topics[name].place.wish() for name in names]
        rest = iter(names)
        texts: list[str] = []
        for id, text, count in wire.encode_subscribes(wishes, self._next_id, self._max_bytes):
            asked = {next(rest) for _ in range(count)}
            self._asked[id] = asked
            for name in asked:
                self._topics[name].asked = id
            texts.append(text)
        self._progress_at = now
        return texts

    # Time

    def due(self) -> float | None:
        """When `tick` is to be called."""
        times = [self._progress_at + ANSWER_S] if self._asked else []
        if self._put_off:
            times.append(min(self._put_off.values()))
        return min(times, default=None)

    def tick(self, now: float) -> bool:
        """Time has passed. Returns False when the server has owed answers for too long."""
        for name in [name for name, at in self._put_off.items() if at <= now]:
            del self._put_off[name]
            self._wanted[name] = None
        return not self._asked or now < self._progress_at + ANSWER_S

    def progress(self, now: float) -> None:
        """Answers could not be read until now."""
        self._progress_at = now

    # What the server says

    def subscribed(self, answer: wire.Subscribed, now: float) -> list[Event]:
        """The server has granted a topic."""
        name = answer.topic
        topic = self._topics.get(name)
        if answer.id is None:
            return self._given(answer, topic)
        if topic is None or topic.asked != answer.id:
            return []  # an answer to what was taken back meanwhile
        self._progress_at = now
        self._answered(name, topic)
        topic.held = True
        again = topic.place.position is not None
        lost = topic.place.subscribed(answer)
        recovered = (lost is None) if again else None
        granted = Subscribed(name, topic.place.start, _newest(answer), recovered)
        return [granted] if lost is None else [lost, granted]

    def message(self, message: wire.Publication) -> list[Event]:
        """A publication."""
        topic = self._topics.get(message.topic)
        if topic is None or not topic.held:
            return []
        place = topic.place
        is_new, lost = place.received(message.offset)
        if not is_new:
            return []
        event = Message(message.topic, message.data, message.ts, message.offset, place.epoch)
        return [event] if lost is None else [lost, event]

    def lost(self, lost: wire.Lost) -> list[Event]:
        """The server could not keep what it promised, and says so."""
        topic = self._topics.get(lost.topic)
        if topic is None or not topic.held:
            return []
        topic.place.lost(lost)
        return [Lost(lost.topic, topic.place.position, lost.reason)]

    def moved(self, movement: wire.Movement) -> list[Event]:
        """Somebody came or left."""
        if not self.held(movement.topic):
            return []
        kind = Join if movement.joined else Leave
        return [kind(movement.topic, movement.member)]

    def unsubscribed(self, answer: wire.Unsubscribed) -> list[Event]:
        """The subscription is over; with an id, because we said so."""
        if answer.id is not None or not self.held(answer.topic):
            return []
        return self._end(answer.topic, Unsubscribed(answer.topic, answer.reason or ""))

    def failed(self, failure: wire.Failure, now: float) -> tuple[list[Event], list[str]]:
        """An error, perhaps the answer to a `subscribe`. Returns events, and commands to send."""
        names = self._asked.get(failure.id) if isinstance(failure.id, int) else None
        if names is None:
            return [], []
        self._progress_at = now
        # Without a topic, the whole command has failed.
        concerned = sorted(names) if failure.topic is None else [failure.topic]
        events: list[Event] = []
        commands: list[str] = []
        for name in concerned:
            topic = self._topics.get(name)
            if topic is None or topic.asked != failure.id:
                continue
            self._answered(name, topic)
            if failure.retry_ms is not None:
                log.info("%s: %s (%s); asked again", name, failure.message, failure.code)
                self._put_off[name] = now + min(max(failure.retry_ms / 1000, AGAIN_S), MAX_RETRY_S)
            elif failure.code == "already_subscribed" and topic.tries < TRIES:
                topic.tries += 1
                self._wanted[name] = None
                commands.append(wire.encode("unsubscribe", self._next_id(), topic=name))
            else:
                refused = Refused(failure.message, failure.code, name)
                events += self._end(name, refused)
        return events, commands

    def _given(self, answer: wire.Subscribed, topic: _Topic | None) -> list[Event]:
        """The backend has subscribed us, or the epoch of what we hold is another one now."""
        name = answer.topic
        if topic is not None:
            if topic.held:
                topic.place.renewed(answer.epoch)
            return []
        if not self.takes_given:
            told = wire.plain(name)
            log.info("%s: subscribed by the backend, which nobody here listens to", told)
            return []
        topic = self._topics[name] = _Topic(Place(name), held=True)
        topic.place.subscribed(answer)
        return [Subscribed(name, topic.place.start, _newest(answer), None)]

    def _answered(self, name: str, topic: _Topic) -> None:
        if topic.asked is None:
            return
        names = self._asked[topic.asked]
        names.discard(name)
        if not names:
            del self._asked[topic.asked]
        topic.asked = None

    def _end(self, name: str, error: ClarionError) -> list[Event]:
        self._remove(name)
        return [Ended(name, error)]

    def _remove(self, name: str) -> None:
        topic = self._topics.pop(name)
        self._answered(name, topic)
        self._wanted.pop(name, None)
        self._put_off.pop(name, None)


def _newest(answer: wire.Subscribed) -> Position | None:
    if answer.epoch is None or answer.offset is None:
        return None
    return Position(answer.epoch, answer.offset)
