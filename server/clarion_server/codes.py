"""How connections end and what errors are called: the catalogue.

Close codes follow one rule that a client can act on without knowing the code: RFC 6455's own
where they apply, 4000-4499 mean "come back", 4500-4999 mean "do not, until something changed".
clients/PROTOCOL.md shows the same tables; a test compares them.
"""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from typing import NamedTuple

REASON_BYTES = 123
"""Of UTF-8: a control frame carries 125 bytes, two of them the code (RFC 6455, section 5.5)."""


class Close(NamedTuple):
    """A way to end a connection: the code of the close frame and the reason, for people."""

    code: int
    reason: str


# RFC 6455, section 7.4.1
NORMAL = Close(1000, "")
GOING_AWAY = Close(1001, "going away")
PROTOCOL_ERROR = Close(1002, "protocol error")
UNSUPPORTED_DATA = Close(1003, "binary messages are not part of clarion.v1")
INVALID_DATA = Close(1007, "text is not valid UTF-8")
TOO_BIG = Close(1009, "message too big")
INTERNAL_ERROR = Close(1011, "internal error")

# Ours: come back.
DRAINING = Close(4000, "draining")
SLOW_CONSUMER = Close(4001, "slow consumer")
TOKEN_EXPIRED = Close(4002, "token expired")
NO_PONG = Close(4003, "no answer to ping")
OVERLOADED = Close(4004, "overloaded")
SERVER_ERROR = Close(4005, "internal error")
REBALANCED = Close(4006, "rebalanced")

# Ours: do not come back until something changed.
BAD_REQUEST = Close(4500, "bad request")
UNAUTHORIZED = Close(4501, "unauthorized")
DISCONNECTED = Close(4502, "disconnected by the backend")
LIMIT_REACHED = Close(4503, "limit reached")


def limit_reached(what: str) -> Close:
    """Closes a client for a limit. what: which one, for people."""
    return Close(LIMIT_REACHED.code, f"{LIMIT_REACHED.reason}: {what}")


def come_back(code: int) -> bool:
    """Whether a client that was closed with `code` should reconnect."""
    return not (4500 <= code <= 4999 or code in (1002, 1003, 1007, 1008, 1009))


def why_not_a_reason(text: str) -> str:
    """What keeps `text` from being the reason of a close; empty if it is one."""
    if len(text.encode(errors="replace")) > REASON_BYTES:
        return f"reason has more than {REASON_BYTES} bytes"
    # It ends up in logs and terminals.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return "reason has control characters"
    return ""


class Code(StrEnum):
    """`code` of an `error` op and of the HTTP API's error object."""

    BAD_REQUEST = "bad_request"  # malformed JSON, a field that is missing or of a wrong type
    UNKNOWN_OP = "unknown_op"
    BAD_TOPIC = "bad_topic"  # against the grammar of topics
    BAD_DATA = "bad_data"  # data that cannot be published: not JSON, too deep
    UNAUTHORIZED = "unauthorized"  # no token yet, or one that is not accepted
    FORBIDDEN = "forbidden"  # this identity may not do this here
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    NOT_SUBSCRIBED = "not_subscribed"
    ALREADY_SUBSCRIBED = "already_subscribed"
    NO_HISTORY = "no_history"  # the topic's namespace keeps none
    NO_PRESENCE = "no_presence"  # the topic's namespace keeps none
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"  # a limit of this connection, user or API key is reached
    UNAVAILABLE = "unavailable"  # no answer of the broker, or too much to do; retry_ms says when
    INTERNAL = "internal"
