"""A backend's side of the private HTTP API, for a program that wants no loss and no doubles.

Every message carries an idempotency key, so a request whose answer was lost is simply sent again:
what had been accepted is not published twice. Requests go out one after another, which keeps the
order within each topic. Each has a deadline, and so has all trying again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import NamedTuple

import aiohttp
import msgspec
import orjson

REQUEST_S = 5.0
"""Deadline of one request. A publish takes milliseconds; this is a server that does not answer."""

TRIES = 8
"""With the pauses below 13 seconds on average, 26 at most, and the deadlines on top."""

PAUSE_S, LONGEST_PAUSE_S = 0.2, 8.0
"""The first and the longest pause between tries. Full jitter: a random part of it."""


class Message(NamedTuple):
    """`data` for each of `topics`. `id` is the idempotency key, one for all the topics."""

    topics: Sequence[str]
    data: object
    id: str


class PublishError(Exception):
    """The API cannot be reached, or refuses what it is asked. The text is for people.

    status: that of the refusal; 0 when there was no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class _Problem(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Result(msgspec.Struct):
    error: _Problem | None = None


class _Answer(msgspec.Struct):
    results: list[_Result] = []
    error: _Problem | None = None


class Publisher:
    """Publishes through `session`, whose base URL is the API's, with a slash at its end.

    published: messages the API accepted, one a topic. errors: those it refused. retries: requests
    that were sent again.
    """

    def __init__(
        self, session: aiohttp.ClientSession, key: str = "", request_s: float = REQUEST_S
    ) -> None:
        self.published = 0
        self.errors = 0
        self.retries = 0
        self.last_error = ""
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=request_s)
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    async def publish(self, messages: Sequence[Message]) -> None:
        """Publishes all, in order. Raises `PublishError` when the API is not there to be asked."""
        if len(messages) == 1:
            topics, data, key = messages[0]
            await self._send("v1/broadcast", {"topics": topics, "data": data, "id": key})
        elif messages:
            batch = [
                {"topic": topic, "data": data, "id": key}
                for topics, data, key in messages
                for topic in topics
            ]
            await self._send("v1/publish/batch", {"messages": batch})

    async def _send(self, path: str, request: object) -> None:
        body = orjson.dumps(request)
        pause, status = PAUSE_S, 0
        for attempt in range(TRIES):
            if attempt:
                self.retries += 1
                await asyncio.sleep(random.random() * pause)
                pause = min(LONGEST_PAUSE_S, 2 * pause)
            try:
                status, answer = await self._post(path, body)
            except TimeoutError:
                self.last_error = "no answer in time"
                continue
            except aiohttp.ClientError as error:
                self.last_error = str(error) or type(error).__name__
                if isinstance(error, aiohttp.ClientConnectorError):
                    self.last_error = error.strerror or "no connection"
                    if not self.published:
                        break  # never there: the address is wrong or the server not started
                continue
            if status == 200:
                if any(r.error and r.error.code == "unavailable" for r in answer.results):
                    self.last_error = "the broker is not available"
                    if attempt < TRIES - 1:
                        continue
                self._count(answer.results)
                return
            problem = answer.error or _Problem()
            self.last_error = f"{status} {problem.code}: {problem.message}".rstrip(": ")
            if status != 429 and status < 500:
                break  # asking again would not change the answer
        raise PublishError(self.last_error, status)

    async def _post(self, path: str, body: bytes) -> tuple[int, _Answer]:
        # A redirect would carry the key elsewhere.
        async with self._session.post(
            path, data=body, headers=self._headers, timeout=self._timeout, allow_redirects=False
        ) as response:
            content = await response.read()
        try:
            return response.status, msgspec.json.decode(content, type=_Answer)
        except msgspec.DecodeError:
            # An error page of something in between; its status says enough.
            return response.status if response.status != 200 else 502, _Answer()

    def _count(self, results: Sequence[_Result]) -> None:
        for result in results:
            if result.error is None:
                self.published += 1
            else:
                self.errors += 1
                self.last_error = f"{result.error.code}: {result.error.message}"
