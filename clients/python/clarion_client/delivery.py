"""Messages on their way to the private HTTP API: a machine without I/O, for both publishers.

A message gets its idempotency key before it is sent for the first time, so that a request whose
answer was lost is simply sent again: what had been accepted is not published twice. What cannot be
sent again with any hope (the message is refused) has its result at once; all else is tried until
its deadline.

    while (step := delivery.next(now)) is not None:
        if isinstance(step, float):        wait so many seconds
        else:                              send the request; then `answered` or `failed`
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, cast

from clarion_client import codes, wire
from clarion_client.backoff import Backoff
from clarion_client.errors import NotAllPublished, PublishError, PublishRefused
from clarion_client.events import Position, Published

BATCH = 1000
"""Messages in one request: more are no faster (a request's own cost is spread over enough), and
the server takes 10,000 unless it is configured otherwise."""

BATCH_BYTES = 4 * 1024 * 1024
"""Of one request: half of what the server takes by default."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between tries, a random part of: a server that restarts is back in a second or two."""


MAX_RETRY_MS = 3_600_000
"""A server that asks for more than an hour is not believed."""


class Draft(NamedTuple):
    """A message to publish.

    id: its idempotency key, by which a repetition is known; None: a random one. key: its conflation
    key, 1 to 128 characters of visible ASCII: what it is the news of, within its topic. Where the
    namespace's policy is `latest`, it takes the place of one with the same key that still waits for
    a client that is behind.
    """

    topic: str
    data: Any
    id: str | None = None
    key: str | None = None


Draftable: TypeAlias = (
    Draft | tuple[str, Any] | tuple[str, Any, str | None] | tuple[str, Any, str | None, str | None]
)

Result: TypeAlias = Published | PublishError


class Entry:
    """A message on its way. `result` is None until it is known.

    until: when it is given up, on the clock of whoever asks.
    """

    __slots__ = ("data", "id", "key", "result", "topic", "tried", "until")

    def __init__(self, draft: Draftable, until: float) -> None:
        topic, data, *rest = draft
        _, _, id, key = Draft(topic, data, *rest)
        self.topic = wire.check_topic(topic)
        self.data = wire.dumps_data(data)
        self.id = secrets.token_urlsafe(16) if id is None else wire.check_id(id)
        self.key = None if key is None else wire.check_key(key)
        self.until = until
        self.tried = False
        self.result: Result | None = None

    @property
    def text(self) -> str:
        """The message as the API takes it."""
        key = "" if self.key is None else f',"key":{wire.dumps(self.key)}'
        return f'{{"topic":"{self.topic}","data":{self.data},"id":{wire.dumps(self.id)}{key}}}'

    def outcome(self) -> Published:
        """The result. Raises it, if it is an error."""
        if isinstance(self.result, Published):
            return self.result
        assert self.result is not None
        raise self.result


def outcomes(entries: Sequence[Entry]) -> list[Published]:
    """All results. Raises `NotAllPublished` if one is an error."""
    results = [entry.result for entry in entries]
    published = [result for result in results if isinstance(result, Published)]
    if len(published) < len(entries):
        raise NotAllPublished([result for result in results if result is not None])
    return published


@dataclass(frozen=True)
class Request:
    """`body` is to be posted to `path`."""

    path: str
    body: bytes
    entries: Sequence[Entry]


class Delivery:
    """See the module's text. uniform: like `random.uniform`."""

    def __init__(self, entries: Iterable[Entry], uniform: Callable[[float, float], float]) -> None:
        self._left = list(entries)
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, uniform)
        self._again_at = 0.0
        self._batch = BATCH
        self._under_way: Request | None = None
        self._why = ""
        self._status: int | None = None

    def next(self, now: float) -> Request | float | None:
        """The next step: a request, seconds to wait, or None when every message has a result."""
        soonest = max(now, self._again_at)
        for entry in self._left:
            if entry.result is None and entry.tried and entry.until <= soonest:
                text = f"{entry.topic}: not published in time: {self._why}"
                entry.result = PublishError(text, self._why, self._status)
        self._left = [entry for entry in self._left if entry.result is None]
        if not self._left:
            return None
        if now < self._again_at:
            return self._again_at - now
        self._under_way = request = _request(self._left, self._batch)
        for entry in request.entries:
            entry.tried = True
        return request

    def failed(self, why: str, now: float) -> None:
        """The request has no answer: it may have been carried out or not."""
        self._why, self._status = why, None
        self._again_at = now + self._backoff.pause()

    def answered(self, status: int, retry_s: float | None, body: bytes, now: float) -> None:
        """The answer of the API, or of whoever answers in its place."""
        request = self._under_way
        assert request is not None
        entries = request.entries
        answer = _object(body)
        if status == 200:
            self._accepted(entries, answer, now)
        elif codes.status_comes_back(status):
            self._why = _problem(answer)[1] or f"the server answered with status {status}"
            self._status = status
            self._again_at = now + self._backoff.pause(retry_s)
        elif status == 413 and len(entries) > 1:
            self._batch = len(entries) // 2  # this server takes less at once than most
        else:
            code, message = _problem(answer)
            for entry in entries:
                entry.result = PublishRefused(
                    message or f"the server answered with status {status}",
                    code or str(status),
                    entry.topic,
                    status,
                )

    def _accepted(self, entries: Sequence[Entry], answer: Mapping[str, Any], now: float) -> None:
        results: object = answer.get("results") if len(entries) > 1 else [answer]
        listed: Sequence[object] = ()
        if isinstance(results, list):
            listed = cast("Sequence[object]", results)
        answers = [_fields(result) for result in listed]
        if len(answers) != len(entries) or not all(map(_answers, answers, entries)):
            # A page of something in between, say. Nothing was published by that.
            self.failed("the answer is not that of a Clarion server", now)
            self._status = 200
            return
        waits = [wait for wait in map(_settle, entries, answers) if wait is not None]
        if waits:
            self._why, self._status = "the server's broker is not available", 503
            self._again_at = now + self._backoff.pause(max(waits))


def _request(entries: Sequence[Entry], most: int) -> Request:
    if len(entries) == 1 or most == 1:
        return Request("/v1/publish", entries[0].text.encode(), entries[:1])
    texts: list[bytes] = []
    size = 0
    for entry in entries[:most]:
        text = entry.text.encode()
        size += len(text) + 1
        if texts and size > BATCH_BYTES:
            break
        texts.append(text)
    if len(texts) == 1:
        return Request("/v1/publish", texts[0], entries[:1])
    body = b'{"messages":[' + b",".join(texts) + b"]}"
    return Request("/v1/publish/batch", body, entries[: len(texts)])


def _answers(result: Mapping[str, Any], entry: Entry) -> bool:
    """Whether the server speaks of this message."""
    return result.get("topic") == entry.topic or bool(_problem(result)[0])


def _settle(entry: Entry, result: Mapping[str, Any]) -> float | None:
    """Takes over a result. Returns in how many seconds it may become another one."""
    code, message = _problem(result)
    if not code:
        epoch, offset = result.get("epoch"), result.get("offset")
        position: Position | None = None
        if isinstance(epoch, str) and type(offset) is int:
            position = Position(epoch, offset)
        entry.result = Published(entry.topic, position, result.get("duplicate") is True)
        return None
    retry_ms: object = _fields(result.get("error")).get("retry_ms")
    if type(retry_ms) is int:
        return max(0, min(retry_ms, MAX_RETRY_MS)) / 1000
    entry.result = PublishRefused(message, code, entry.topic)
    return None


def _object(body: bytes) -> dict[str, Any]:
    try:
        found: Any = wire.loads(body)
    except wire.NotClarion:
        return {}  # an error page of something in between; its status says enough
    return _fields(found)


def _problem(answer: Mapping[str, Any]) -> tuple[str, str]:
    """Code and message of an error."""
    error = _fields(answer.get("error"))
    return wire.plain(str(error.get("code", ""))), wire.plain(str(error.get("message", "")))


def _fields(found: object) -> dict[str, Any]:
    """Of a JSON object; none of anything else."""
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
