"""What Redis does with the subscriptions of one connection, as a model without I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import hiredis

from clarion_fanout.redis_subscriptions import Subscriptions
from clarion_fanout.redis_wire import Reply


class Line:
    """A connection that is subscribed: commands go in, and wait until they are executed; answers
    and messages come out, and wait until they are brought.

    slot_of: the slot of a channel, in a cluster.
    owner: the name of a slot's present owner, empty if it has none.
    """

    def __init__(
        self,
        name: str = "",
        slot_of: Callable[[bytes], int] | None = None,
        owner: Callable[[int], str] = lambda slot: "",
    ) -> None:
        self.name = name
        self.subscribed: set[bytes] = set()
        self.error = ""
        """What commands to subscribe are answered, as long as it is not empty."""
        self._slot_of = slot_of
        self._owner = owner
        self._reader = hiredis.Reader()
        self._asked: deque[list[bytes]] = deque()
        self._answers: deque[Reply] = deque()

    # What the client does

    def send(self, data: bytes) -> None:
        self._reader.feed(data)
        while (command := self._reader.gets()) is not False:
            self._asked.append(command)

    # What the server does

    def work(self) -> bool:
        """Executes the next command; says whether there was one."""
        if not self._asked:
            return False
        name, *channels = self._asked.popleft()
        sharded = self._slot_of is not None
        assert name in (
            (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        )
        assert channels
        subscribes = name.endswith(b"SUBSCRIBE") and b"UNSUB" not in name
        error = self._elsewhere(channels)
        if not error and subscribes:
            error = self.error
        if error:
            self._answers.append(hiredis.ReplyError(error))
            return True
        for channel in channels:
            (self.subscribed.add if subscribes else self.subscribed.discard)(channel)
            self._answers.append([name.lower(), channel, len(self.subscribed)])
        return True

    def _elsewhere(self, channels: list[bytes]) -> str:
        if self._slot_of is None:
            return ""
        slots = {self._slot_of(channel) for channel in channels}
        assert len(slots) == 1, "Redis takes one slot a command"
        [slot] = slots
        owner = self._owner(slot)
        if not owner:
            return "CLUSTERDOWN Hash slot not served"
        return "" if owner == self.name else f"MOVED {slot} {owner}"

    def give_up(self, slot: int) -> None:
        """Ends the subscriptions of a slot that has been given away."""
        assert self._slot_of is not None
        for channel in sorted(self.subscribed):
            if self._slot_of(channel) == slot:
                self.subscribed.remove(channel)
                self._answers.append([b"sunsubscribe", channel, len(self.subscribed)])

    def publish(self, channel: bytes, payload: bytes) -> bool:
        """Says whether the payload is on its way."""
        if channel not in self.subscribed:
            return False
        kind = b"message" if self._slot_of is None else b"smessage"
        self._answers.append([kind, channel, payload])
        return True

    # What the network does

    def bring(self, to: Subscriptions, count: int) -> bool:
        """Brings the client the next answers, at most `count`; says whether there were any."""
        answers = [self._answers.popleft() for _ in range(min(count, len(self._answers)))]
        if answers:
            to.received(answers)
        return bool(answers)

    @property
    def lines(self) -> list[list[bytes]]:
        """What was not brought yet, errors left out."""
        return [answer for answer in self._answers if isinstance(answer, list)]

    @property
    def waiting(self) -> list[list[bytes]]:
        """The commands that were not executed yet."""
        return list(self._asked)


class Ear:
    """A `Listener` that remembers.

    heard: the payloads it got.
    since: when its subscription was confirmed last; -1 is never.
    """

    def __init__(self, channel: bytes, now: Callable[[], int]) -> None:
        self.channel = channel
        self.heard: list[bytes] = []
        self.since = -1
        self.gone = False
        self._now = now

    def take(self, payload: bytes) -> None:
        assert not self.gone
        self.heard.append(payload)

    def subscribed(self) -> None:
        assert not self.gone
        self.since = self._now()

    def dropped(self) -> None:
        assert not self.gone
        self.gone = True
