"""A worker's own part in what all workers are told: its clients, its topics, its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from clarion_fanout.hub import Hub
from clarion_fanout.topics import is_topic, why_not_a_topic
from clarion_server.codes import Close, why_not_a_reason
from clarion_server.counters import Counters
from clarion_server.orders import (
    Act,
    Badge,
    Count,
    Describe,
    Disconnect,
    ListTopics,
    Order,
    State,
    Subscribe,
    TopicPage,
)
from clarion_server.topic_pages import page_of


class Directory(Protocol):
    """The connected clients, found by user or by client id: one of the two is given.

    Each call says how many connections it touched. None of them waits or raises.
    """

    def disconnect(self, *, user: str | None, client: str | None, close: Close) -> int:
        """Ends the connections with `close`."""
        ...

    def subscribe(self, *, user: str | None, client: str | None, topic: str) -> int:
        """Subscribes the connections to `topic`, whatever their own rights are."""
        ...

    def unsubscribe(self, *, user: str | None, client: str | None, topic: str, reason: str) -> int:
        """Ends the connections' subscriptions of `topic`, and tells each client the reason."""
        ...


class Duty:
    """Does what this worker is told.

    not_ready: why no new clients should be sent here.
    shards: the names of those of the broker now.
    now: seconds, monotonic.
    """

    def __init__(
        self,
        *,
        badge: Badge,
        directory: Directory,
        hub: Hub,
        counters: Counters,
        not_ready: Callable[[], list[str]],
        shards: Callable[[], list[str]],
        now: Callable[[], float],
    ) -> None:
        self.badge = badge
        self._directory = directory
        self._hub = hub
        self._counters = counters
        self._not_ready = not_ready
        self._shards = shards
        self._now = now
        self._started = now()

    def act(self, order: Act) -> int:
        """Acts on clients; says how many connections it concerned."""
        user, client, directory = order.user, order.client, self._directory
        if isinstance(order, Disconnect):
            close = Close(order.code, order.reason)
            return directory.disconnect(user=user, client=client, close=close)
        if isinstance(order, Subscribe):
            return directory.subscribe(user=user, client=client, topic=order.topic)
        return directory.unsubscribe(
            user=user, client=client, topic=order.topic, reason=order.reason
        )

    async def topics(self, order: ListTopics) -> TopicPage:
        return await page_of(self._hub.topics, order)

    def state(self) -> State:
        return State(
            **msgspec.structs.asdict(self.badge),
            uptime_s=int(self._now() - self._started),
            connections=self._counters.connections.total(),
            subscriptions=self._hub.subscriptions,
            topics=len(self._hub.topics),
            not_ready=self._not_ready(),
            shards=self._shards(),
        )

    async def answer(self, question: bytes) -> bytes:
        """Does what another worker asks. Raises `ValueError` when that is not to be understood."""
        order = _orders.decode(question)
        report: Count | TopicPage | State
        if isinstance(order, ListTopics):
            report = await self.topics(order)
        elif isinstance(order, Describe):
            report = self.state()
        else:
            _check(order)
            report = Count(self.act(order))
        return msgspec.json.encode(report)


def _check(order: Act) -> None:
    """Raises `ValueError` for what the API that sent the order should have refused."""
    if isinstance(order, Disconnect):
        if why := why_not_a_reason(order.reason):
            raise ValueError(why)
    elif not is_topic(order.topic):
        raise ValueError(why_not_a_topic(order.topic))


_orders = msgspec.json.Decoder[Order](Order)
