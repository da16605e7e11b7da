"""Two lists of shards at once, while topics move from the one to the other: nothing is lost.

A topic whose shard differs between the lists moves when somebody first asks its new shard for it:
the old one *seals* the stream (seal.lua), which ends it there at once and for everybody, and the
new one *adopts* it with all that is kept (adopt.lua), in a new epoch that continues the old one.
Both steps may be repeated by anybody, at any time; whoever dies in between leaves nothing broken.

    prepared   the old list leads: topics stay where they are until they are sealed. Whoever
               finds one sealed goes to the new shard
    moving     the new list leads: every topic that is asked for moves

Processes of both kinds work together, so an installation is told in three steps: all of it
`prepared` (`next_shards`), all of it `moving` (`previous_shards`), and, when what was kept on
the old shards alone has expired, the new list only.

Topics without history have no stream to seal. Both shards are listened to, and publishers use the
one of the list that leads.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import cast

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions
from clarion_fanout.placement import Placement
from clarion_fanout.redis_address import Location
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_list import Primaries
from clarion_fanout.redis_scripts import ADOPT, SEAL
from clarion_fanout.redis_sending import send_each
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_wire import Reply, pack

POSITION_SECONDS = 24 * 3600
"""How long a seal is kept where there was no stream, and a position after the last publication."""

TOGETHER = 50
"""Topics that are handed over at a time: each may bring a whole history."""

MOVED = 100_000
"""Topics that are remembered to have moved, while the old list leads; some 10 MB. One that is
forgotten costs a question to its old shard."""


class MovingShards(Primaries):
    """See the module's text.

    leading: the list whose shards are asked first; `old` or `new`.
    history: the options of a topic's namespace, or None where it keeps no history.
    """

    def __init__(
        self,
        old: Sequence[Location],
        new: Sequence[Location],
        *,
        new_leads: bool,
        keys: Keys,
        worker: str,
        options: ShardOptions,
        history: Callable[[str], HistoryOptions | None],
    ) -> None:
        locations = {location.name: location for location in [*old, *new]}
        super().__init__(list(locations.values()), keys=keys, worker=worker, options=options)
        self._new_leads = new_leads
        self._keys = keys
        self._history = history
        self._epochs = secrets.token_urlsafe(6)
        self._epoch_count = 0
        names = list(locations)
        self._old = Placement([location.name for location in old])
        self._new = Placement([location.name for location in new])
        self._old_shards = [self._shards[names.index(location.name)] for location in old]
        self._new_shards = [self._shards[names.index(location.name)] for location in new]
        self._moved: OrderedDict[str, None] = OrderedDict()
        self.on_move: Callable[[str], None] | None = None
        """Called with a topic that turned out to have moved, so that it is followed there."""
        self.handed_over = 0
        """Topics that this worker has moved."""

    def of(self, topic: str) -> Shard:
        if self._new_leads or topic in self._moved:
            return self._new_shards[self._new.place(topic)]
        return self._old_shards[self._old.place(topic)]

    def other(self, topic: str) -> Shard | None:
        old = self._old_shards[self._old.place(topic)]
        new = self._new_shards[self._new.place(topic)]
        if old is new:
            return None
        return old if self.of(topic) is new else new

    def begins(self, topic: str) -> bool:
        other = self.other(topic)
        return other is None or self.of(topic) is self._old_shards[self._old.place(topic)]

    async def send(
        self, commands: Sequence[tuple[str, bytes]], *, follow: bool = True
    ) -> list[Reply | BrokerUnavailable]:
        outcomes = await send_each([self.of(topic) for topic, _ in commands], commands)
        empty: dict[str, list[int]] = {}
        for place, outcome in enumerate(outcomes):
            if outcome == b"SEALED":
                self._note(commands[place][0])
            elif outcome == b"EMPTY":
                empty.setdefault(commands[place][0], []).append(place)
        topics = list(empty)
        for start in range(0, len(topics), TOGETHER):
            part = topics[start : start + TOGETHER]
            for topic, error in zip(part, await self._hand_over(part), strict=True):
                if error is not None:
                    for place in empty[topic]:
                        outcomes[place] = error
        return outcomes

    async def settle(self, topics: Sequence[str]) -> None:
        """Moves those of `topics` that are to move and have not. Failures show later."""
        asked = [topic for topic in topics if self.other(topic) and not self.begins(topic)]
        commands = [(topic, pack((b"EXISTS", self._keys.meta(topic)))) for topic in asked]
        outcomes = await self.send(commands)
        missing = [topic for topic, outcome in zip(asked, outcomes, strict=True) if outcome == 0]
        for start in range(0, len(missing), TOGETHER):
            await self._hand_over(missing[start : start + TOGETHER])

    def _note(self, topic: str) -> None:
        if self._new_leads or topic in self._moved:
            return
        while len(self._moved) >= MOVED:
            self._moved.popitem(last=False)
        self._moved[topic] = None
        if self.on_move is not None:
            self.on_move(topic)

    async def _hand_over(self, topics: Sequence[str]) -> list[BrokerUnavailable | None]:
        """Seals topics on their old shards and has their new ones adopt them."""
        keys = self._keys
        marker = POSITION_SECONDS * 1000
        sealing = [
            (
                topic,
                SEAL.packed([keys.meta(topic), keys.stream(topic)], [keys.channel(topic), marker]),
            )
            for topic in topics
        ]
        old = [self._old_shards[self._old.place(topic)] for topic, _ in sealing]
        sealed = await send_each(old, sealing)
        errors = [_refusal(reply) for reply in sealed]
        adopting = [
            (topic, self._adopt(topic, cast("list[Reply]", reply)))
            for topic, reply, error in zip(topics, sealed, errors, strict=True)
            if error is None
        ]
        new = [self._new_shards[self._new.place(topic)] for topic, _ in adopting]
        adopted = iter(await send_each(new, adopting))
        for place, error in enumerate(errors):
            if error is None:
                reply = next(adopted)
                errors[place] = None if isinstance(reply, int) else _unavailable(reply)
                self.handed_over += reply == 1
        return errors

    def _adopt(self, topic: str, sealed: list[Reply]) -> bytes:
        options = self._history(topic)
        kept = max(1, int(options.seconds * 1000)) if options is not None else 1
        self._epoch_count += 1
        fresh = f"{self._epochs}{self._epoch_count:x}"
        reign = self._new_shards[self._new.place(topic)].reign
        arguments: list[bytes | str | int] = [fresh, reign, kept, kept + POSITION_SECONDS * 1000]
        if not sealed:
            arguments += ["", 0, ""]
        else:
            epoch, offset, lineage, entries = sealed
            arguments += [epoch, offset, lineage]
            for id, fields in entries:
                arguments += [id, fields[1], fields[3] if len(fields) > 2 else b""]
        return ADOPT.packed([self._keys.meta(topic), self._keys.stream(topic)], arguments)


def _refusal(reply: Reply | BrokerUnavailable) -> BrokerUnavailable | None:
    return None if isinstance(reply, list) else _unavailable(reply)


def _unavailable(reply: Reply | BrokerUnavailable) -> BrokerUnavailable:
    if isinstance(reply, BrokerUnavailable):
        return reply
    return BrokerUnavailable(f"the topic could not be moved: {reply}")
