"""A worker without sockets: real parts around sessions; time and slowness are the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from clarion_fanout.broker import Broker, BrokerUnavailable, Feed, HistoryOptions, Page, Want
from clarion_fanout.hub import Hub
from clarion_fanout.presence import Presence
from clarion_fanout.publication import Draft, Receipt
from clarion_fanout.tasks import Tasks
from clarion_server import edges, presences
from clarion_server.auth import mint, token_claims
from clarion_server.auth.keys import KeyRing
from clarion_server.auth.keyset import Key, KeySet, secret_key
from clarion_server.board import Readiness
from clarion_server.counters import Counters
from clarion_server.options import AuthOptions, Config, Namespace
from clarion_server.outlet import Outlet
from clarion_server.publishing import Publishing
from clarion_server.quota import Quotas
from clarion_server.wheel import Wheel
from support.clients import FakeClient
from support.turning import TurningBroker

NOW = 1_790_000_000.0
SECRET = "a secret of at least thirty-two bytes, for tests alone"
NEW_SECRET = "the secret that the issuer has changed to, as issuers do"

OPEN = Config(
    auth=AuthOptions(anonymous=True, secret=SECRET),
    namespaces={
        "default": Namespace(history_size=5, subscribe="everyone", publish="everyone"),
        "plain": Namespace(subscribe="everyone", publish="everyone"),
        "members": Namespace(history_size=5, subscribe="users", publish="users"),
        "rooms": Namespace(history_size=5, subscribe="granted", publish="granted"),
        "closed": Namespace(history_size=5, subscribe="nobody", publish="nobody"),
        "user": Namespace(history_size=5, publish="everyone"),
    },
)
"""Anonymous clients are welcome; a namespace for each kind of permission."""


async def turns(count: int = 12) -> None:
    """Lets the event loop take some turns: all that waits for nothing outside is done then."""
    for _ in range(count):
        await asyncio.sleep(0)


def but(**changes: Any) -> Config:
    """The open configuration, with some options changed."""
    return msgspec.structs.replace(OPEN, **changes)


class LateKeys(KeyRing):
    """Keys of an issuer that has changed them: `NEW_SECRET` is known after the next fetch.

    answers: set it to let the fetch come to its end.
    """

    def __init__(self) -> None:
        super().__init__(AuthOptions())
        self.known = KeySet([secret_key(SECRET.encode(), "HS256", "old")])
        self.answers = asyncio.Event()
        self.brings = KeySet(
            [
                secret_key(SECRET.encode(), "HS256", "old"),
                secret_key(NEW_SECRET.encode(), "HS256", "new"),
            ]
        )

    def has(self, kid: str) -> bool:
        return self.known.has(kid)

    def find(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        return self.known.find(algorithm, kid)

    async def refetch(self) -> bool:
        await self.answers.wait()
        self.known = self.brings
        self.fetches += 1
        return True


class KeysOutOfReach(LateKeys):
    """Keys of an issuer that does not answer."""

    renewable = True

    async def refetch(self) -> bool:
        await self.answers.wait()
        self.failures += 1
        return False


class SlowBroker:
    """A broker whose every question goes to a shard that answers when the test lets it.

    Behind it is a broker in memory, which may turn and lose something meanwhile. `asked` holds a
    question back before the shard has read it, `answered` holds its answer back on the way home;
    both begin open.
    """

    def __init__(self, inner: TurningBroker) -> None:
        self.inner = inner
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        self.asked.set()
        self.answered.set()
        self.fails: BrokerUnavailable | None = None
        self.breaks: Exception | None = None
        self.attached_topics: set[str] = set()

    def hold_back(self) -> None:
        """From now on nothing is answered, and what is asked for is not read either."""
        self.asked.clear()

    async def _ask(self) -> None:
        await self.asked.wait()
        if self.breaks is not None:
            raise self.breaks
        if self.fails is not None:
            raise self.fails

    async def start(self, feed: Feed) -> None:
        await self.inner.start(feed)

    async def close(self) -> None:
        await self.inner.close()

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        try:
            await self._ask()
        except BrokerUnavailable as error:
            return [error] * len(drafts)
        receipts = await self.inner.publish(drafts)
        await self.answered.wait()
        return receipts

    def shard(self, topic: str) -> str:
        return self.inner.shard(topic)

    def peek(self, topic: str, want: Want) -> Page | None:
        return None

    async def read(self, topic: str, want: Want) -> Page:
        await self._ask()
        page = await self.inner.read(topic, want)
        await self.answered.wait()
        return page

    def attach(self, topic: str) -> bool:
        self.attached_topics.add(topic)
        self.inner.attach(topic)
        return False

    async def attached(self, topic: str) -> None:
        await self._ask()

    def detach(self, topic: str) -> None:
        self.attached_topics.discard(topic)
        self.inner.detach(topic)


class World:
    """The parts that sessions use. `async with` starts and ends them.

    now: Unix time in seconds, the test's to change.
    """

    def __init__(
        self,
        config: Config = OPEN,
        *,
        slow: bool = False,
        keys: KeyRing | None = None,
        presence: Presence | None = None,
    ) -> None:
        self.config = config
        self.now = NOW
        self.memory = TurningBroker(history=self._history, now=lambda: int(self.now * 1000))
        self.slow = SlowBroker(self.memory)
        self.broker: Broker = self.slow if slow else self.memory
        self.hub = Hub(broker=self.broker, outlet=Outlet(), wake=self._wake)
        self.presence = presence or presences.make(
            config,
            broker=self.memory,
            feed=self.hub,
            soon=lambda call: asyncio.get_running_loop().call_soon(call),
        )
        self.keys = keys or KeyRing(config.auth)
        self.counters = Counters()
        self.tasks = Tasks()
        self.edge = edges.make(
            config,
            now=lambda: self.now,
            wheel=Wheel(),
            tasks=self.tasks,
            counters=self.counters,
            readiness=lambda: Readiness(True, []),
            overloaded=lambda: False,
            keys=self.keys,
            broker=self.broker,
            publishing=Publishing(
                broker=self.broker,
                counters=self.counters,
                data_bytes=config.limits.data_bytes,
                quotas=Quotas(config.limits),
            ),
            presence=self.presence,
            hub=self.hub,
        )
        self._clients = 0

    async def __aenter__(self) -> Self:
        await self.keys.start()
        await self.broker.start(self.hub)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.tasks.close()
        await self.broker.close()
        await self.keys.close()

    def _wake(self) -> None:
        asyncio.get_running_loop().call_soon(self.hub.flush)

    def _history(self, topic: str) -> HistoryOptions | None:
        options = self.config.namespace(topic)
        if not options.history_size:
            return None
        return HistoryOptions(options.history_size, options.history_s)

    def arrival(self) -> FakeClient:
        """A client that has connected and not been identified yet."""
        self._clients += 1
        return FakeClient(self.edge, self._clients)

    def client(self, token: str | None = None) -> FakeClient:
        """A client that has its welcome, with `token` or anonymously; the welcome is read."""
        client = self.arrival()
        client.session.identify(token)
        (welcome,) = client.heard()
        assert welcome["op"] == "welcome"
        return client

    def token(
        self,
        sub: str = "ann",
        ttl: float = 3600,
        *,
        subscribe: Sequence[str] = (),
        publish: Sequence[str] = (),
        secret: str = SECRET,
        kid: str = "",
    ) -> str:
        """A token that is good from now on for `ttl` seconds."""
        claims = token_claims(sub=sub, ttl=ttl, now=self.now, subscribe=subscribe, publish=publish)
        return mint(claims, secret, "HS256", kid)

    async def publish(self, topic: str, *data: str, keys: Sequence[str] = ()) -> None:
        """What backends publish, straight to the broker. keys: of each, if any has one."""
        drafts = [Draft(topic, text.encode()) for text in data]
        if keys:
            pairs = zip(drafts, keys, strict=True)
            drafts = [draft._replace(key=key) for draft, key in pairs]
        await self.memory.publish(drafts)
