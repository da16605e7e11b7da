"""A client for Clarion, the real-time notification server.

async with Client("ws://127.0.0.1:8000", token=token) as client:
    async for message in client.subscribe("orders:42"):
        print(message.data)
"""

from __future__ import annotations

from clarion_client.client import Client
from clarion_client.delivery import Draft
from clarion_client.errors import (
    ClarionError,
    Closed,
    MessagesLost,
    NotAllPublished,
    PublishError,
    PublishRefused,
    Refused,
    SlowConsumer,
    Unanswered,
    Unsubscribed,
)
from clarion_client.events import (
    Ended,
    Event,
    History,
    Join,
    Leave,
    Lost,
    Member,
    Message,
    Phase,
    Position,
    Presence,
    Published,
    State,
    Subscribed,
)
from clarion_client.publisher import AsyncPublisher, Publisher
from clarion_client.subscription import Subscription
from clarion_client.version import VERSION as __version__
from clarion_client.wire import Json

__all__ = [
    "AsyncPublisher",
    "ClarionError",
    "Client",
    "Closed",
    "Draft",
    "Ended",
    "Event",
    "History",
    "Join",
    "Json",
    "Leave",
    "Lost",
    "Member",
    "Message",
    "MessagesLost",
    "NotAllPublished",
    "Phase",
    "Position",
    "Presence",
    "PublishError",
    "PublishRefused",
    "Published",
    "Publisher",
    "Refused",
    "SlowConsumer",
    "State",
    "Subscribed",
    "Subscription",
    "Unanswered",
    "Unsubscribed",
    "__version__",
]
