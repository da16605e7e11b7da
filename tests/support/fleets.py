"""Workers in one process that are told things together: real hubs, clients that are only names."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.hub import Hub
from clarion_fanout.inquiry import Answers
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.roll import Entry
from clarion_server.counters import Counters
from clarion_server.duty import Duty
from clarion_server.fleet import Fleet, Nobody, Others
from clarion_server.orders import Badge
from support.private_api import Clients, NoBulk, Subscriber


class Ship:
    """A worker: its hub, its clients, and the fleet as it sees it."""

    def __init__(self, name: str, number: int = 0, others: Others | None = None) -> None:
        broker = MemoryBroker(history=lambda topic: None, now=lambda: 0)
        self.hub = Hub(broker=broker, outlet=NoBulk(), wake=lambda: None)
        self.clients = Clients()
        self.counters = Counters()
        self.not_ready: list[str] = []
        badge = Badge(
            id=name,
            instance="i1",
            worker=number,
            pid=1000 + number,
            host="h",
            version="1",
            started_ms=0,
        )
        self.duty = Duty(
            badge=badge,
            directory=self.clients,
            hub=self.hub,
            counters=self.counters,
            not_ready=lambda: self.not_ready,
            shards=lambda: ["s0"],
            now=time.monotonic,
        )
        self.fleet = Fleet(self.duty, others or Nobody())

    def subscribe(self, *topics: str) -> None:
        """Adds a subscriber to each topic."""
        for topic in topics:
            self.hub.add(Subscriber(self.hub.subscriptions), topic)


class Told:
    """Others that answer what they are told to, and remember what they were asked."""

    def __init__(
        self,
        answers: Mapping[str, bytes] | BrokerUnavailable,
        unanswered: Sequence[Entry] = (),
        others: int = 1,
    ) -> None:
        self._answers = answers
        self._unanswered = unanswered
        self.others = others
        self.asked: list[bytes] = []

    async def ask(self, body: bytes) -> Answers:
        self.asked.append(body)
        if isinstance(self._answers, BrokerUnavailable):
            raise self._answers
        return Answers(self._answers, self._unanswered)
