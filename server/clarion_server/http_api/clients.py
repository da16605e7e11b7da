"""Acting on connected clients through the private API: disconnect, subscribe, unsubscribe.

Wherever they are connected. An answer of 200 says that every worker has done it; if one may not
have, that is an error with its name in it, and asking again does no harm.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from clarion_server import orders
from clarion_server.codes import DISCONNECTED, REASON_BYTES, Code, why_not_a_reason
from clarion_server.fleet import Fleet
from clarion_server.http_api.bodies import TopicName, checked, decode, read
from clarion_server.http_api.errors import Refusal, answer, partial
from clarion_server.options import Limits

UNSUBSCRIBED = "unsubscribed by the backend"
"""The `reason` that the client is told."""


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
User = Annotated[Name, msgspec.Meta(description="The `sub` of the clients' tokens.")]
Client = Annotated[Name, msgspec.Meta(description="A client's id, from its `welcome`.")]


class Disconnect(msgspec.Struct, frozen=True, kw_only=True):
    """Whose connections are to end, either `user` or `client`, and what they are told.

    code: of the close frame; 4000-4499 mean "come back", 4500-4999 mean "do not".
    reason: for people; at most 123 bytes of UTF-8, without control characters.
    """

    user: User | msgspec.UnsetType = msgspec.UNSET
    client: Client | msgspec.UnsetType = msgspec.UNSET
    code: Annotated[int, msgspec.Meta(ge=4000, le=4999)] = DISCONNECTED.code
    reason: Annotated[
        str,
        msgspec.Meta(
            extra_json_schema={
                "maxLength": REASON_BYTES,
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
            }
        ),
    ] = DISCONNECTED.reason


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A topic, and whose connections it is about, either `user` or `client`."""

    user: User | msgspec.UnsetType = msgspec.UNSET
    client: Client | msgspec.UnsetType = msgspec.UNSET
    topic: TopicName


class Touched(msgspec.Struct, frozen=True):
    """How many connections it concerned, at all workers. None is not an error."""

    count: int


_ONE = msgspec.Meta(extra_json_schema={"oneOf": [{"required": ["user"]}, {"required": ["client"]}]})
DisconnectBody = Annotated[Disconnect, _ONE]
SubscriptionBody = Annotated[Subscription, _ONE]

_DISCONNECT = msgspec.json.Decoder(Disconnect)
_SUBSCRIPTION = msgspec.json.Decoder(Subscription)


class ClientControl:
    """The handlers of `/v1/disconnect`, `/v1/subscribe` and `/v1/unsubscribe`."""

    def __init__(self, *, limits: Limits, fleet: Fleet) -> None:
        self._limits = limits
        self._fleet = fleet

    async def disconnect(self, request: web.Request) -> web.Response:
        asked = decode(_DISCONNECT, await read(request, self._limits))
        user, client = _whose(asked)
        reason = _reason(asked.reason)
        return await self._act(
            orders.Disconnect(user=user, client=client, code=asked.code, reason=reason)
        )

    async def subscribe(self, request: web.Request) -> web.Response:
        asked = decode(_SUBSCRIPTION, await read(request, self._limits))
        user, client = _whose(asked)
        topic = checked(asked.topic)
        return await self._act(orders.Subscribe(user=user, client=client, topic=topic))

    async def unsubscribe(self, request: web.Request) -> web.Response:
        asked = decode(_SUBSCRIPTION, await read(request, self._limits))
        user, client = _whose(asked)
        topic = checked(asked.topic)
        return await self._act(
            orders.Unsubscribe(user=user, client=client, topic=topic, reason=UNSUBSCRIBED)
        )

    async def _act(self, order: orders.Act) -> web.Response:
        connections, unanswered = await self._fleet.act(order)
        if unanswered:
            return partial(connections, unanswered)
        return answer(Touched(connections))


def _whose(asked: Disconnect | Subscription) -> tuple[str | None, str | None]:
    user = None if asked.user is msgspec.UNSET else asked.user
    client = None if asked.client is msgspec.UNSET else asked.client
    if (user is None) == (client is None):
        raise Refusal(400, Code.BAD_REQUEST, "either user or client must be given")
    return user, client


def _reason(reason: str) -> str:
    if why := why_not_a_reason(reason):
        raise Refusal(400, Code.BAD_REQUEST, why)
    return reason
