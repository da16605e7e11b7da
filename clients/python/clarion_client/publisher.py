"""Publishing from a backend, over the private HTTP API: for plain programs, and for asyncio.

Both publish one batch after another, which keeps the order within each topic. What is published
while a request is under way (by other threads, or other tasks) goes out together in the next one:
batches form by themselves, and nothing waits for a timer. `delivery.py` decides about repeats.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl as ssl_module
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from clarion_client.delivery import BATCH, Delivery, Draft, Draftable, Entry, Request, outcomes
from clarion_client.errors import PublishError
from clarion_client.events import Published
from clarion_client.http_link import HttpLink, NoAnswer
from clarion_client.tasks import Tasks

log = logging.getLogger("clarion_client")

DEFAULT_URL = "http://127.0.0.1:8001"

WAITING = 10_000
"""Messages that may wait in an `AsyncPublisher`; whoever wants to publish more waits, too."""


class Publisher:
    """Publishes for programs without an event loop. Any number of threads may share one.

        publisher = Publisher("http://127.0.0.1:8001", key=API_KEY)
        publisher.publish("orders:42", {"state": "paid"})

    A message is published once, or the program is told: a request that got no answer is repeated
    under the message's idempotency key until `give_up_s` have passed.

    url        of the private port
    key        one of the server's `api_keys`
    timeout_s  for one request
    give_up_s  for a message, all repeats included
    ssl        a context for `https://`; None: the default one
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 5.0,
        give_up_s: float = 30.0,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self._link = HttpLink(url, key, timeout_s, ssl)
        self._give_up_s = give_up_s
        self._waiting: deque[Entry] = deque()
        self._sending = threading.Lock()

    def publish(
        self, topic: str, data: Any, *, id: str | None = None, key: str | None = None
    ) -> Published:
        """Publishes one message. Raises `PublishError`, most often a `PublishRefused`.

        data: what `json.dumps` takes; `ValueError` or `TypeError` otherwise. id: an idempotency
        key of your own, for repeats across restarts of the program; else a random one. key: the
        conflation key, what the message is the news of; see `Draft`.
        """
        entries = self._entries([Draft(topic, data, id, key)])
        self._send(entries)
        return entries[0].outcome()

    def publish_many(self, messages: Iterable[Draftable]) -> list[Published]:
        """Publishes messages, `(topic, data)` or `Draft(topic, data, id, key)` each, in as few
        requests as possible. Raises `NotAllPublished` if some were not; its `results` say which.
        """
        entries = self._entries(messages)
        self._send(entries)
        return outcomes(entries)

    def broadcast(
        self,
        topics: Iterable[str],
        data: Any,
        *,
        id: str | None = None,
        key: str | None = None,
    ) -> list[Published]:
        """Publishes the same data to many topics. `id` and `key` count in each by itself."""
        return self.publish_many([Draft(topic, data, id, key) for topic in topics])

    @property
    def waiting(self) -> int:
        """Messages that other threads want published, and that no request holds yet."""
        return len(self._waiting)

    def close(self) -> None:
        """Closes the connection. Publishing again would open another."""
        with self._sending:
            self._link.close()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _entries(self, messages: Iterable[Draftable]) -> list[Entry]:
        until = time.monotonic() + self._give_up_s
        return [Entry(message, until) for message in messages]

    def _send(self, entries: Sequence[Entry]) -> None:
        """Returns when every entry has its result."""
        self._waiting.extend(entries)
        try:
            for entry in entries:
                # Whoever has the lock sends for all who wait for it.
                while entry.result is None:
                    with self._sending:
                        if entry.result is None:
                            self._deliver(_taken(self._waiting))
        finally:
            _take_back(self._waiting, entries)  # Ctrl-C while others were sending

    def _deliver(self, entries: Sequence[Entry]) -> None:
        delivery = Delivery(entries, random.uniform)
        try:
            while (step := delivery.next(time.monotonic())) is not None:
                if isinstance(step, Request):
                    _post(self._link, delivery, step)
                else:
                    time.sleep(step)
        finally:
            _abandon(entries)


class AsyncPublisher:
    """Publishes for asyncio programs; the rest is as with `Publisher`.

        async with AsyncPublisher("http://127.0.0.1:8001", key=API_KEY) as publisher:
            await publisher.publish("orders:42", {"state": "paid"})

    The event loop is never blocked: requests are made in a thread. Cancelling a `publish` takes
    the message back if it was not sent yet; otherwise it may be published all the same.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 5.0,
        give_up_s: float = 30.0,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self._link = HttpLink(url, key, timeout_s, ssl)
        self._give_up_s = give_up_s
        self._thread = ThreadPoolExecutor(1, "clarion-client publishes")
        self._tasks = Tasks(self._broken)
        self._waiting: deque[Entry] = deque()
        self._done: dict[Entry, asyncio.Future[None]] = {}
        self._room = asyncio.Semaphore(WAITING)
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    async def publish(
        self, topic: str, data: Any, *, id: str | None = None, key: str | None = None
    ) -> Published:
        """As `Publisher.publish`."""
        entries = self._entries([Draft(topic, data, id, key)])
        await self._send(entries)
        return entries[0].outcome()

    async def publish_many(self, messages: Iterable[Draftable]) -> list[Published]:
        """As `Publisher.publish_many`."""
        entries = self._entries(messages)
        await self._send(entries)
        return outcomes(entries)

    async def broadcast(
        self,
        topics: Iterable[str],
        data: Any,
        *,
        id: str | None = None,
        key: str | None = None,
    ) -> list[Published]:
        """As `Publisher.broadcast`."""
        return await self.publish_many([Draft(topic, data, id, key) for topic in topics])

    async def close(self) -> None:
        """Waits until what is being published is, or is given up; then closes the connection."""
        self._closed = True
        try:
            if self._sender is not None:
                await asyncio.wait([self._sender])
        finally:
            await self._tasks.close()
            self._thread.shutdown(wait=False)
            self._link.close()

    async def __aenter__(self) -> AsyncPublisher:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _entries(self, messages: Iterable[Draftable]) -> list[Entry]:
        if self._closed:
            raise RuntimeError("the publisher is closed")
        until = time.monotonic() + self._give_up_s
        return [Entry(message, until) for message in messages]

    async def _send(self, entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        try:
            for entry in entries:
                await self._room.acquire()
                self._done[entry] = loop.create_future()
                self._waiting.append(entry)
                if self._sender is None:
                    self._sender = self._tasks.start(self._send_all(), "clarion-client publishes")
            for entry in entries:
                if entry in self._done:
                    await self._done[entry]
        finally:
            for entry in _take_back(self._waiting, entries):
                self._end(entry)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._deliver(_taken(self._waiting))
        finally:
            self._sender = None

    async def _deliver(self, entries: Sequence[Entry]) -> None:
        loop = asyncio.get_running_loop()
        delivery = Delivery(entries, random.uniform)
        try:
            while (step := delivery.next(time.monotonic())) is not None:
                if isinstance(step, Request):
                    await loop.run_in_executor(self._thread, _post, self._link, delivery, step)
                else:
                    await asyncio.sleep(step)
        finally:
            _abandon(entries)
            for entry in entries:
                self._end(entry)

    def _end(self, entry: Entry) -> None:
        """Nobody is to wait for it any more."""
        done = self._done.pop(entry, None)
        if done is not None:
            self._room.release()
            if not done.done():
                done.set_result(None)

    def _broken(self, error: Exception) -> None:
        log.error("the publisher has failed", exc_info=error)


def _taken(waiting: deque[Entry]) -> list[Entry]:
    """As many as go out together, in order."""
    return [waiting.popleft() for _ in range(min(len(waiting), BATCH))]


def _take_back(waiting: deque[Entry], entries: Sequence[Entry]) -> list[Entry]:
    """Those that nobody has taken so far; nobody will."""
    left = [entry for entry in entries if entry.result is None and entry in waiting]
    for entry in left:
        waiting.remove(entry)
    return left


def _post(link: HttpLink, delivery: Delivery, request: Request) -> None:
    try:
        status, retry_s, body = link.post(request.path, request.body)
    except NoAnswer as failure:
        delivery.failed(str(failure), time.monotonic())
    else:
        delivery.answered(status, retry_s, body, time.monotonic())


def _abandon(entries: Sequence[Entry]) -> None:
    """What has no result when its sending ends, ends with it."""
    for entry in entries:
        if entry.result is None:
            entry.result = PublishError(f"{entry.topic}: interrupted; perhaps published")
