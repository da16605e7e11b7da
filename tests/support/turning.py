"""The embedded broker, made to turn and to lose what a Redis shard can."""

from __future__ import annotations

from collections.abc import Callable

from clarion_fanout.broker import HistoryOptions, Page, Want
from clarion_fanout.history import STREAM_BYTES, Stream
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.publication import Draft, Loss, Position, Publication, Receipt, Turn
from support.feeds import Roomy


class TurningBroker(MemoryBroker):
    """A memory broker whose shard fails over or restarts when a test says so.

    What the shard has and what was fed are one at all times, as the contract allows.
    """

    def __init__(
        self, *, history: Callable[[str], HistoryOptions | None], now: Callable[[], int]
    ) -> None:
        super().__init__(history=history, now=now)
        self._epochs = 0
        self._former: dict[str, dict[str, tuple[int, str]]] = {}
        """By topic: of each epoch that turned, up to which offset it is good, and in which."""

    @property
    def attached_topics(self) -> set[str]:
        return set(self._attached)

    def position(self, topic: str) -> Position:
        """Where a topic's stream stands. The topic must have history."""
        page = self.peek(topic, Want(limit=0))
        assert page is not None
        assert page.position is not None
        return page.position

    def peek(self, topic: str, want: Want) -> Page | None:
        if want.since is not None:
            epoch, offset = want.since
            former = self._former.get(topic, {})
            while epoch in former and offset <= former[epoch][0]:
                epoch = former[epoch][1]
            want = want._replace(since=Position(epoch, offset))
        return super().peek(topic, want)

    def quick(self, topic: str, data: bytes) -> None:
        """A backend's `PUBLISH`: it is fed, and no part of the stream."""
        self._dispatch(Publication(topic, data, self._now()))

    def turn(self, topic: str) -> Turn:
        """The shard failed over with all that it had given out. The topic must be attached."""
        previous, offset = self.position(topic)
        epoch = self._anew(topic)
        self._former.setdefault(topic, {})[previous] = (offset, epoch)
        turn = Turn(topic, Position(epoch, offset), previous)
        self._dispatch(turn)
        return turn

    def lose(self, topic: str, *missed: bytes, restart: bool = False) -> Loss:
        """The shard restarted with nothing, or not; it took `missed`, which were not fed.

        The topic must be attached.
        """
        if restart:
            stream = self._streams.pop(topic, None)
            self._evictable.pop(topic, None)
            if stream is not None:
                self.bytes -= stream.bytes - STREAM_BYTES
            self._former.pop(topic, None)
        position = self.position(topic)
        if restart:
            position = Position(self._anew(topic), 0)
        feed, self._feed = self._feed, Nobody()
        now = self._now()
        for data in missed:
            receipt = self._publish(Draft(topic, data), now, self._feed)
            assert isinstance(receipt, Receipt)
            assert receipt.position is not None
            position = receipt.position
        self._feed = feed
        loss = Loss(topic, position, f"the shard lost {position.epoch}, {position.offset}")
        self._dispatch(loss)
        return loss

    def _anew(self, topic: str) -> str:
        """Gives a topic's stream a new epoch, which stays that of this stream alone."""
        self._epochs += 1
        epoch = f"{self._process}-{self._epochs}"
        self._streams[topic].epoch = epoch
        return epoch

    def _forget(self, topic: str, stream: Stream) -> None:
        super()._forget(topic, stream)
        self._former.pop(topic, None)

    def _dispatch(self, publication: Publication) -> None:
        assert self._feed is not None, "it is not started"
        if publication.topic in self._attached:
            self._feed.dispatch(publication)


class Nobody(Roomy):
    """A feed that is not listened to."""

    def dispatch(self, publication: Publication) -> None:
        pass
