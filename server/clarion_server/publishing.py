"""The way of a publication from the private API or a client to the broker.

Both hand in drafts and hear of each what became of it; entries of the inbox in Redis have a way of
their own (`clarion_fanout.redis_delivery`). Drafts that are handed in together, or one after the
other, leave in this order as far as they are for the same topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from clarion_fanout.broker import Broker, BrokerUnavailable
from clarion_fanout.publication import Draft, Receipt
from clarion_server.codes import Code
from clarion_server.counters import Counters

Source: TypeAlias = Literal["api", "client"]
"""Who publishes."""


class Declined(NamedTuple):
    """Why a draft was not published, for its publisher.

    retry_ms: when the same draft may be tried again, where that makes sense.
    """

    code: Code
    message: str
    retry_ms: int | None = None


Outcome: TypeAlias = Receipt | Declined


class Publishing:
    """See the module's text."""

    def __init__(self, *, broker: Broker, counters: Counters) -> None:
        self._broker = broker
        self._counters = counters

    async def publish(self, drafts: Sequence[Draft], source: Source) -> Sequence[Outcome]:
        """Publishes each draft and says of each, in the same order, what became of it."""
        outcomes = [_outcome(receipt) for receipt in await self._broker.publish(drafts)]
        self._counters.publications[source] += sum(
            isinstance(outcome, Receipt) and not outcome.duplicate for outcome in outcomes
        )
        return outcomes


def _outcome(receipt: Receipt | BrokerUnavailable) -> Outcome:
    if isinstance(receipt, BrokerUnavailable):
        return Declined(Code.UNAVAILABLE, str(receipt), receipt.retry_ms)
    return receipt
