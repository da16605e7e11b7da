"""The private API on a free port, with a real broker and hub, and clients that are only names."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from clarion_fanout.broker import Broker, BrokerUnavailable, Feed, HistoryOptions, Page, Want
from clarion_fanout.hub import Form, Hub, Receiver, Topic
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.memory_presence import MemoryPresence
from clarion_fanout.presence import Presence
from clarion_fanout.publication import Draft, Publication, Receipt
from clarion_fanout.tasks import Tasks
from clarion_server import __version__, http_api
from clarion_server.board import Readiness, alone
from clarion_server.codes import Close
from clarion_server.counters import Counters
from clarion_server.duty import Duty
from clarion_server.fleet import Fleet, Nobody, Others
from clarion_server.garbage import Garbage
from clarion_server.lag import Lag
from clarion_server.metrics import Metrics
from clarion_server.options import Config, Namespace
from clarion_server.orders import Badge
from clarion_server.process import Process
from clarion_server.publishing import Publishing
from clarion_server.quota import Quotas
from clarion_server.siblings import Siblings

BADGE = Badge(
    id="i-0-1", instance="i", worker=0, pid=17, host="h", version=__version__, started_ms=1
)
"""Of the worker that is asked."""

KEY = "a key of sixteen characters or more"

NAMESPACES: Mapping[str, Namespace] = {
    "default": Namespace(history_size=10_000),
    "bare": Namespace(history_size=0),
    "counted": Namespace(presence="count"),
    "known": Namespace(presence="members"),
}


class JsonForm:
    """Subscribers of the tests get nothing but what was published."""

    def encode(self, publication: Publication) -> bytes:
        return publication.data


class Subscriber:
    """A receiver that remembers."""

    bulk = False

    def __init__(self, key: int = 1) -> None:
        self.key = key
        self.form: Form = FORM
        self.topics: list[Topic] = []
        self.received: list[tuple[str, bytes]] = []

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        self.received += [(topic.name, publication.data) for publication in publications]


FORM = JsonForm()


class NoBulk:
    """An outlet without receivers in bulk."""

    def broadcast(self, receivers: Mapping[int, Receiver], payload: bytes) -> None:
        raise AssertionError

    def scatter(
        self, payloads: Mapping[int, bytes], receivers: Callable[[], Mapping[int, Receiver]]
    ) -> None:
        raise AssertionError


class Clients:
    """A directory in which every user has two connections and every client is one."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def disconnect(self, *, user: str | None, client: str | None, close: Close) -> int:
        self.calls.append(("disconnect", user, client, close))
        return 2 if user else 1

    def subscribe(self, *, user: str | None, client: str | None, topic: str) -> int:
        self.calls.append(("subscribe", user, client, topic))
        return 2 if user else 1

    def unsubscribe(self, *, user: str | None, client: str | None, topic: str, reason: str) -> int:
        self.calls.append(("unsubscribe", user, client, topic, reason))
        return 2 if user else 1


class FailingBroker:
    """Answers nothing: every call fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def start(self, feed: Feed) -> None:
        pass

    async def close(self) -> None:
        pass

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        if isinstance(self._error, BrokerUnavailable):
            return [self._error for _ in drafts]
        raise self._error

    def shard(self, topic: str) -> str:
        return ""

    def peek(self, topic: str, want: Want) -> Page | None:
        return None

    async def read(self, topic: str, want: Want) -> Page:
        raise self._error

    def attach(self, topic: str) -> bool:
        return True

    async def attached(self, topic: str) -> None:
        pass

    def detach(self, topic: str) -> None:
        pass


class Answer:
    """What came back: the status, the headers, the body."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.body)

    @property
    def error(self) -> tuple[int, str]:
        """Status and code of an error, which has a message too."""
        failure = self.json["error"]
        assert failure["message"]
        return self.status, failure["code"]


class Api:
    """A running private API and the parts behind it."""

    def __init__(
        self,
        config: Config,
        broker: Broker | None,
        presence: Presence | None = None,
        others: Others | None = None,
    ) -> None:
        self.config = config
        memory = MemoryBroker(
            history=lambda topic: (
                HistoryOptions(namespace.history_size, namespace.history_s)
                if (namespace := config.namespace(topic)).history_size
                else None
            ),
            now=lambda: int(time.time() * 1000),
        )
        self.broker = broker or memory
        self.flushes: list[None] = []
        self.hub = Hub(broker=self.broker, outlet=NoBulk(), wake=lambda: self.flushes.append(None))
        self.presence = presence or MemoryPresence(
            keeps=lambda topic: config.namespace(topic).presence,
            feed=self.hub,
            wake=lambda: None,
        )
        self.clients = Clients()
        self.counters = Counters()
        self.reasons: list[str] = []
        clock = time.monotonic
        duty = Duty(
            badge=BADGE,
            directory=self.clients,
            hub=self.hub,
            counters=self.counters,
            not_ready=lambda: self.reasons,
            shards=list,
            now=clock,
        )
        self.fleet = Fleet(duty, others or Nobody())
        self.metrics = Metrics(
            counters=self.counters,
            hub=self.hub,
            broker=memory,
            lag=Lag(clock),
            garbage=Garbage(owned=lambda: 0, clock=clock),
            process=Process(clock),
            clock=clock,
            fleet=self.fleet,
        )
        self.publishing = Publishing(
            broker=self.broker,
            counters=self.counters,
            data_bytes=self.config.limits.data_bytes,
            quotas=Quotas(self.config.limits),
        )
        self.port = 0
        self._session: aiohttp.ClientSession | None = None

    def application(self) -> web.Application:
        siblings = Siblings(seat=alone(), metrics=self.metrics, tasks=Tasks(), folder=None)
        return http_api.build(
            config=self.config,
            broker=self.broker,
            publishing=self.publishing,
            presence=self.presence,
            fleet=self.fleet,
            shards=lambda: (),
            readiness=lambda: Readiness(not self.reasons, self.reasons),
            metrics=siblings.exposition,
        )

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = KEY,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Asks; `body` is sent as JSON, `data` as it is. The path is sent as it is written."""
        sent = {"Authorization": f"Bearer {key}"} if key is not None else {}
        if body is not None or data is not None:
            sent["Content-Type"] = "application/json"
        if body is not None:
            data = json.dumps(body).encode()
        sent.update(headers or {})
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self._session.request(method, url, data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: object = None, **options: Any) -> Answer:
        return await self.request("POST", path, body, **options)

    async def raw(self, sent: bytes) -> bytes:
        """The answers to these bytes: all until the server closes, or until one has a body."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(sent)
                answer = b""
                while not _has_body(answer) and (piece := await reader.read(65_536)):
                    answer += piece
                return answer
            finally:
                writer.close()
                await writer.wait_closed()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _has_body(answer: bytes) -> bool:
    head, end, body = answer.rpartition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


@asynccontextmanager
async def serving(
    config: Config | None = None,
    broker: Broker | None = None,
    presence: Presence | None = None,
    others: Others | None = None,
    idle_seconds: float = http_api.IDLE_SECONDS,
) -> AsyncIterator[Api]:
    """Runs the private API; without `config`, with a key and the namespaces above."""
    api = Api(config or Config(api_keys=(KEY,), namespaces=NAMESPACES), broker, presence, others)
    runner = http_api.runner(api.application(), api.config, idle_seconds)
    await api.broker.start(api.hub)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.port = runner.addresses[0][1]
        yield api
    finally:
        await api.close()
        await runner.cleanup()
        await api.broker.close()
