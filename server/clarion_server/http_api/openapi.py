"""The OpenAPI 3.1 document of the private API, made from the Structs that decode and encode it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from clarion_server import __version__
from clarion_server.http_api.bodies import TopicName
from clarion_server.http_api.clients import DisconnectBody, SubscriptionBody, Touched
from clarion_server.http_api.errors import Failure
from clarion_server.http_api.info import Alive, Info, Ready
from clarion_server.http_api.publish import Batch, Broadcast, Message, Published, Results
from clarion_server.http_api.topics import (
    History,
    HistoryQuery,
    Members,
    PresenceQuery,
    Topics,
    TopicsQuery,
)

Schema: TypeAlias = dict[str, Any]

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{name}"

_DESCRIPTION = """\
For backends: publish to topics, read their history, act on connected clients.

An API key travels as `Authorization: Bearer KEY` or `X-API-Key: KEY`. What is not under `/v1/`,
and this document, needs none: the port is private, probes and scrapers have no key, and nothing
there names a topic or a user. Without configured keys (development) everything is open to
programs on the machine; then bodies must be declared as `application/json`, and requests of
pages from elsewhere, or to other host names, are refused with 403.

Errors have one shape, `Failure`. Unknown fields and parameters are ignored.
"""

_HISTORY = """\
Oldest first, from the oldest that is kept, or from behind the position `since_epoch` and
`since_offset`; with `reverse` newest first, from the newest or from before that position. A page
may be shorter than `limit` when messages are large; the next one begins behind the offset of its
last message, until that is `offset` (with `reverse`: until a page is empty)."""

_PRESENCE = """\
A member is a connection that is subscribed; a user may be there several times. `limit=0` asks for
the count alone, which costs the same for any number of members. Who walks through the pages meets
each member once that is there all the time."""


_TOPICS = """\
The subscribers of all workers of all instances are counted; `complete` says whether all of them
answered. Pages are made anew for each request; a page may be shorter than `limit`, and even
empty, while there is a `next`: names are long, or workers many."""

_ACT = """\
Wherever they are connected: at any worker of any instance that shares the shards. 200 says that
every worker has done it. 503 with `count` and `unanswered` in its error says that the others have,
and 503 without them that perhaps nobody else has; asking again does no harm."""


class Operation(NamedTuple):
    """What a method does at a path.

    good: of status 200; a Struct, or a media type.
    body, query: a Struct. topic: whether the path has one.
    errors: statuses of its own, beside those that all operations have.
    key: whether an API key is needed.
    """

    summary: str
    good: Any
    text: str = ""
    body: Any = None
    query: Any = None
    topic: bool = False
    errors: Mapping[int, str] | None = None
    key: bool = True


_BROKER = {503: "The broker did not answer; `Retry-After` says when to try again."}
_PARTIAL = {503: "Some workers did not answer, and may not have done it."}
_BAD = {400: "Something does not fit its schema, or a rule that a schema cannot state."}
_NO_HISTORY = {404: "The topic's namespace keeps no history.", **_BAD, **_BROKER}

_SCRIPT = "text/javascript"

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("post", "/v1/publish"): Operation(
        "Publish a message", Published, body=Message, errors=_BROKER
    ),
    ("post", "/v1/publish/batch"): Operation(
        "Publish many messages",
        Results,
        text="One result each, in order. A message that cannot be published fails alone.",
        body=Batch,
    ),
    ("post", "/v1/broadcast"): Operation(
        "Publish a message to many topics",
        Results,
        text="One result each, in order. A topic that cannot be published to fails alone.",
        body=Broadcast,
    ),
    ("get", "/v1/topics"): Operation(
        "List topics with subscribers",
        Topics,
        text=_TOPICS,
        query=TopicsQuery,
        errors={**_BAD, **_BROKER},
    ),
    ("get", "/v1/topics/{topic}/history"): Operation(
        "Read a topic's history",
        History,
        text=_HISTORY,
        query=HistoryQuery,
        topic=True,
        errors=_NO_HISTORY,
    ),
    ("get", "/v1/topics/{topic}/presence"): Operation(
        "Who is in a topic",
        Members,
        text=_PRESENCE,
        query=PresenceQuery,
        topic=True,
        errors={404: "The topic's namespace keeps no presence.", **_BAD, **_BROKER},
    ),
    ("post", "/v1/disconnect"): Operation(
        "Disconnect clients", Touched, text=_ACT, body=DisconnectBody, errors=_PARTIAL
    ),
    ("post", "/v1/subscribe"): Operation(
        "Subscribe clients",
        Touched,
        text=f"Those that are connected now. {_ACT}",
        body=SubscriptionBody,
        errors=_PARTIAL,
    ),
    ("post", "/v1/unsubscribe"): Operation(
        "Unsubscribe clients", Touched, text=_ACT, body=SubscriptionBody, errors=_PARTIAL
    ),
    ("get", "/v1/info"): Operation("All workers and shards at a glance", Info),
    ("get", "/v1/openapi.json"): Operation("This document", _JSON, key=False),
    ("get", "/metrics"): Operation(
        "Metrics for Prometheus",
        "text/plain",
        text="OpenMetrics for those who ask for it.",
        key=False,
    ),
    ("get", "/livez"): Operation("Whether the event loop answers", Alive, key=False),
    ("get", "/readyz"): Operation(
        "Whether new clients should be sent here", Ready, text="503 when not.", key=False
    ),
    ("get", "/"): Operation("A page to try things on", "text/html", key=False),
    ("get", "/clarion-client.js"): Operation("The client of that page", _SCRIPT, key=False),
    ("get", "/clarion-sse.js"): Operation("A part of that client", _SCRIPT, key=False),
}

_ALL = {
    403: "Without API keys: another origin or host name.",
    417: "An expectation other than `100-continue`.",
    500: "A fault of the server. Its log says more.",
}
_KEYED = {401: "No API key, or none that is known."}
_BODIES = {
    **_BAD,
    408: "The body did not arrive in time.",
    413: "More than is configured: bytes of the body or of `data`, messages, topics.",
    415: "A compressed body; without API keys, one that is not declared as JSON.",
}


def document() -> bytes:
    """The whole document, as JSON."""
    types: list[Any] = [Failure, Message]
    for operation in OPERATIONS.values():
        types += [t for t in (operation.body, operation.query, operation.good) if _is_struct(t)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    table = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, Schema] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = _operation(operation, table, components)
    for query in (HistoryQuery, PresenceQuery, TopicsQuery):
        del components[query.__name__]  # they are parameters, one by one
    whole: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "Clarion",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "security": [{"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }
    return msgspec.json.encode(whole)


def _is_struct(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, str)


def _operation(operation: Operation, table: Mapping[int, Schema], components: Schema) -> Schema:
    described: Schema = {"summary": operation.summary}
    if operation.text:
        described["description"] = operation.text
    if not operation.key:
        described["security"] = []
    parameters = list(_parameters(operation, components))
    if parameters:
        described["parameters"] = parameters
    if operation.body is not None:
        content = {_JSON: {"schema": table[id(operation.body)]}}
        described["requestBody"] = {"required": True, "content": content}
    described["responses"] = dict(_responses(operation, table))
    return described


def _parameters(operation: Operation, components: Schema) -> Iterator[Schema]:
    if operation.topic:
        schema = msgspec.json.schema(TopicName)
        yield {"name": "topic", "in": "path", "required": True, "schema": schema}
    if operation.query is not None:
        for name, schema in components[operation.query.__name__]["properties"].items():
            yield {"name": name, "in": "query", "schema": schema}


def _responses(operation: Operation, table: Mapping[int, Schema]) -> Iterator[tuple[str, Schema]]:
    good = operation.good
    if isinstance(good, str):
        kind: Schema = {"type": "object"} if good == _JSON else {"type": "string"}
        yield "200", {"description": "Done.", "content": {good: {"schema": kind}}}
    elif good is not None:
        yield "200", {"description": "Done.", "content": {_JSON: {"schema": table[id(good)]}}}
    if good is Ready:
        yield "503", {"description": "Not ready.", "content": {_JSON: {"schema": table[id(good)]}}}
    errors = {
        **_ALL,
        **(_KEYED if operation.key else {}),
        **(_BODIES if operation.body is not None else {}),
        **(operation.errors or {}),
    }
    failure = {_JSON: {"schema": table[id(Failure)]}}
    for status, text in sorted(errors.items()):
        answer: Schema = {"description": text, "content": failure}
        if status == 503:
            seconds = {"type": "integer", "minimum": 1}
            answer["headers"] = {"Retry-After": {"required": True, "schema": seconds}}
        if status == 401:
            challenge = {"type": "string"}
            answer["headers"] = {"WWW-Authenticate": {"required": True, "schema": challenge}}
        yield str(status), answer
