"""Acting on connected clients through the private API: disconnect, subscribe, unsubscribe."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Protocol

import msgspec
from aiohttp import web

from clarion_server.codes import DISCONNECTED, Close, Code
from clarion_server.http_api.bodies import TopicName, checked, decode, read
from clarion_server.http_api.errors import Refusal, answer
from clarion_server.options import Limits

REASON_BYTES = 123
"""Of UTF-8: a control frame carries 125 bytes, two of them the code (RFC 6455, section 5.5)."""

UNSUBSCRIBED = "unsubscribed by the backend"
"""The `reason` that the client is told."""


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
    """How many connections it concerned. None is not an error."""

    count: int


_ONE = msgspec.Meta(extra_json_schema={"oneOf": [{"required": ["user"]}, {"required": ["client"]}]})
DisconnectBody = Annotated[Disconnect, _ONE]
SubscriptionBody = Annotated[Subscription, _ONE]

_DISCONNECT = msgspec.json.Decoder(Disconnect)
_SUBSCRIPTION = msgspec.json.Decoder(Subscription)


class ClientControl:
    """The handlers of `/v1/disconnect`, `/v1/subscribe` and `/v1/unsubscribe`."""

    def __init__(self, *, limits: Limits, directory: Directory) -> None:
        self._limits = limits
        self._directory = directory

    async def disconnect(self, request: web.Request) -> web.Response:
        asked = decode(_DISCONNECT, await read(request, self._limits))
        user, client = _whose(asked)
        close = Close(asked.code, _reason(asked.reason))
        return answer(Touched(self._directory.disconnect(user=user, client=client, close=close)))

    async def subscribe(self, request: web.Request) -> web.Response:
        asked = decode(_SUBSCRIPTION, await read(request, self._limits))
        user, client = _whose(asked)
        topic = checked(asked.topic)
        return answer(Touched(self._directory.subscribe(user=user, client=client, topic=topic)))

    async def unsubscribe(self, request: web.Request) -> web.Response:
        asked = decode(_SUBSCRIPTION, await read(request, self._limits))
        user, client = _whose(asked)
        count = self._directory.unsubscribe(
            user=user, client=client, topic=checked(asked.topic), reason=UNSUBSCRIBED
        )
        return answer(Touched(count))


def _whose(asked: Disconnect | Subscription) -> tuple[str | None, str | None]:
    user = None if asked.user is msgspec.UNSET else asked.user
    client = None if asked.client is msgspec.UNSET else asked.client
    if (user is None) == (client is None):
        raise Refusal(400, Code.BAD_REQUEST, "either user or client must be given")
    return user, client


def _reason(reason: str) -> str:
    if len(reason.encode()) > REASON_BYTES:
        raise Refusal(400, Code.BAD_REQUEST, f"reason has more than {REASON_BYTES} bytes")
    # It ends up in logs and terminals.
    if any(unicodedata.category(character) == "Cc" for character in reason):
        raise Refusal(400, Code.BAD_REQUEST, "reason has control characters")
    return reason
