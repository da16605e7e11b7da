"""Answers of the private API, the bad ones above all: one shape, whatever went wrong.

    {"error": {"code": "bad_topic", "message": "a topic must not be empty", "topic": ""}}

`code` is for programs (`codes.Code`), `message` for people. An unexpected exception becomes a
500 that says nothing about it; the log does, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import hdrs, web

from clarion_fanout.broker import BrokerUnavailable
from clarion_server.codes import Code
from clarion_server.fleet import Absent
from clarion_server.publishing import Declined

PARTIAL_RETRY_MS = 1000
"""A worker that is late has its answer ready by then; one that was killed is given up 15 s after
its last sign of life."""


class Error(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong.

    retry_ms: where a retry makes sense, when.
    count, unanswered: of what happened in part: how many connections it concerned at the workers
        that answered, and which did not.
    """

    code: Code
    message: str
    topic: str | None = None
    retry_ms: int | None = None
    count: int | None = None
    unanswered: Sequence[Absent] | None = None


class Failure(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: Error


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        code: Code,
        message: str,
        *,
        topic: str | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
        retry_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = Error(code=code, message=message, topic=topic, retry_ms=retry_ms)
        self.headers = headers
        self.close = close
        """Whether the connection ends with the answer: the rest of the request is not wanted."""


HEADERS: Mapping[str, str] = {
    hdrs.CONTENT_TYPE: "application/json",
    # Answers are moments; and no browser should take them for anything else.
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
    # aiohttp would name itself and Python with their versions.
    hdrs.SERVER: "clarion",
}

encode = msgspec.json.Encoder().encode


def answer(body: object, status: int = 200) -> web.Response:
    """A good answer: `body` as JSON."""
    return web.Response(body=encode(body), status=status, headers=HEADERS)


def refuse(refusal: Refusal) -> web.Response:
    if refusal.error.retry_ms is not None:
        return _later(refusal.error, refusal.error.retry_ms, refusal.status)
    headers = {**HEADERS, **refusal.headers} if refusal.headers else HEADERS
    response = web.Response(
        body=encode(Failure(refusal.error)), status=refusal.status, headers=headers
    )
    if refusal.close:
        response.force_close()
    return response


def unavailable(error: BrokerUnavailable) -> Error:
    """Why something was not published, or could not be read."""
    return Error(code=Code.UNAVAILABLE, message=str(error), retry_ms=error.retry_ms)


def busy(error: BrokerUnavailable) -> web.Response:
    """The answer to a request that the broker did not answer: 503, with the time of a retry."""
    return _later(unavailable(error), error.retry_ms)


def declined(why: Declined, topic: str) -> Error:
    """Why a message was not published."""
    return Error(code=why.code, message=why.message, topic=topic, retry_ms=why.retry_ms)


def decline(why: Declined, topic: str) -> web.Response:
    """The answer to a request whose only message was not published."""
    status = _STATUS.get(why.code, 400)
    if why.retry_ms is not None:
        return _later(declined(why, topic), why.retry_ms, status)
    return web.Response(body=encode(Failure(declined(why, topic))), status=status, headers=HEADERS)


def partial(count: int, unanswered: Sequence[Absent]) -> web.Response:
    """The answer to what some workers have not done, as far as is known. Not 2xx: whoever looks at
    nothing but the status must not take a user for disconnected who is not."""
    workers = "a worker" if len(unanswered) == 1 else f"{len(unanswered)} workers"
    error = Error(
        code=Code.UNAVAILABLE,
        message=f"{workers} did not answer, and may not have done it",
        retry_ms=PARTIAL_RETRY_MS,
        count=count,
        unanswered=unanswered,
    )
    return _later(error, PARTIAL_RETRY_MS)


def _later(error: Error, retry_ms: int, status: int = 503) -> web.Response:
    seconds = -(-retry_ms // 1000)  # whole seconds (RFC 9110, section 10.2.3), rounded up
    headers = {**HEADERS, hdrs.RETRY_AFTER: str(max(seconds, 1))}
    return web.Response(body=encode(Failure(error)), status=status, headers=headers)


_STATUS = {
    Code.TOO_LARGE: 413,
    Code.TOO_MANY: 429,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
}
"""Of what is declined; anything else is the publisher's fault (400)."""

_CODES = {
    401: Code.UNAUTHORIZED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    413: Code.TOO_LARGE,
}
_MESSAGES = {
    404: "there is nothing at this path",
    405: "this path does not take this method",
    413: "the body is larger than the limit",
}


def translated(error: web.HTTPException) -> Refusal:
    """What aiohttp refuses by itself, in our shape. Its text may quote the request: not used."""
    status = error.status
    headers: Mapping[str, str] | None = None
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers = {hdrs.ALLOW: ", ".join(sorted(error.allowed_methods))}
    return Refusal(
        status,
        _CODES.get(status, Code.BAD_REQUEST if status < 500 else Code.INTERNAL),
        _MESSAGES.get(status, error.reason),
        headers=headers,
        close=status == 413,
    )
