"""The client, as programs use it. What moves it is in `engine.py`, what decides in `machine.py`."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import ssl as ssl_module
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar

from clarion_client import wire
from clarion_client.engine import Engine
from clarion_client.errors import ClarionError, Refused, Unanswered, Unsubscribed
from clarion_client.events import (
    History,
    Member,
    Message,
    Position,
    Presence,
    Published,
    State,
)
from clarion_client.link import Target, checked_headers, websocket_url
from clarion_client.machine import Machine, Timing
from clarion_client.mailbox import Mailbox, WhenFull
from clarion_client.pages import Members, Past
from clarion_client.subscription import OnLost, Subscription
from clarion_client.tokens import Tokens, TokenSource
from clarion_client.version import VERSION

log = logging.getLogger("clarion_client")

PAGE = 1000
"""Messages that are asked for at once: the most that a server gives."""

Policy: TypeAlias = Literal["wait", "drop_oldest", "raise"]
Since: TypeAlias = Position | Mapping[str, Position] | None

_Kind = TypeVar("_Kind", bound=wire.Answer)


class Client:
    """A connection to a Clarion server that comes back by itself.

        async with Client("wss://example.org", token=get_token) as client:
            async for message in client.subscribe("orders:42"):
                print(message.data)

    Entering does not wait for the server: subscriptions and commands do. A server that is not there
    is waited for (a warning is logged for each attempt), unless `give_up_s` says for how long.

    All of it belongs to one event loop. Options:

    url              of the server, or of its WebSocket: "wss://example.org", "ws://host:8000/ws"
    token            a string, or a callback that returns one or is a coroutine function; then it is
                     called again before a token expires, and when one has
    on_state         called with each change of `state`
    buffer           events that wait for a slow program, in each subscription
    when_full        what then happens to a subscription: "wait", "drop_oldest" or "raise"
    answer_s         the time for the answer to a command, connecting included
    connect_s        the time for an attempt to connect, from the token to `welcome`
    ping_s, pong_s   silence until a ping, and from there until the link is given up
    close_s          the time for the server to finish our close
    pause_s          between attempts, a random part of: the first bound and the longest
    give_up_s        without a connection for so long, the client closes; None: never
    max_message_bytes  the longest message that is taken from the server
    max_command_bytes  the longest that the server takes from us; `limits.message_bytes` of it
    loads            reads the server's JSON; a faster one than Python's own, such as `orjson.loads`
    headers          more of them for the handshake
    ssl              a context for `wss://`; None: the default one
    proxy            True: the environment's, except for this machine; False: none; or its URL
    """

    def __init__(
        self,
        url: str,
        *,
        token: TokenSource = None,
        on_state: Callable[[State], None] | None = None,
        buffer: int = 1000,
        when_full: Policy = "wait",
        answer_s: float = 10.0,
        connect_s: float = 15.0,
        ping_s: float = 20.0,
        pong_s: float = 10.0,
        close_s: float = 2.0,
        pause_s: tuple[float, float] = (1.0, 30.0),
        give_up_s: float | None = None,
        max_message_bytes: int = 4 * 1024 * 1024,
        max_command_bytes: int = 64 * 1024,
        loads: wire.Loads | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        proxy: str | bool = True,
    ) -> None:
        address = websocket_url(url)
        if ssl is not None and not address.startswith("wss:"):
            raise ValueError("ssl goes with wss://, which this address is not")
        self._target = Target(
            url=address,
            headers=checked_headers(headers or {}),
            user_agent=f"clarion-client/{VERSION}",
            max_message_bytes=max_message_bytes,
            close_s=close_s,
            ssl=ssl,
            proxy=proxy,
        )
        self._tokens = Tokens(token, connect_s)
        self._on_state = on_state
        self._buffer = buffer
        self._when_full = WhenFull(when_full)
        self._answer_s = answer_s
        first_s, longest_s = pause_s
        self._machine = Machine(
            Timing(connect_s, ping_s, pong_s, first_s, longest_s, give_up_s),
            random.uniform,
            renewable=self._tokens.renewable,
            max_bytes=max_command_bytes,
            loads=loads or wire.loads,
        )
        self._engine: Engine | None = None

    def __repr__(self) -> str:
        return f"<Client {self._target.shown}, {self.state.phase.value}>"

    # The life of a client

    async def __aenter__(self) -> Client:
        if self._engine is not None:
            raise RuntimeError("a client is used once; make another")
        loop = asyncio.get_running_loop()
        self._engine = Engine(loop, self._machine, self._target, self._tokens, self._on_state)
        self._engine.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends everything, within about `close_s`: iterations end, the server knows we went."""
        if self._engine is not None:
            await self._engine.close()

    @property
    def state(self) -> State:
        """How it stands with the connection."""
        return self._machine.state

    async def connected(self) -> State:
        """Waits for a connection. Raises `Closed` when there will be none."""
        return await self._running().connected()

    # Subscribing

    def subscribe(
        self,
        *topics: str,
        since: Since = None,
        last: int = 0,
        on_lost: OnLost | None = None,
        buffer: int | None = None,
        when_full: Policy | None = None,
    ) -> Subscription:
        """Messages of these topics, from now on.

        since: from behind this position instead; for several topics, from those of a mapping.
        last: the newest so many of the history come first, of topics without a position. on_lost:
        what to do where messages are lost; see `Subscription`. buffer, when_full: instead of the
        client's.

        A topic that this client has subscribed already is shared: the second subscription gets what
        comes from now on, and may say neither `since` nor `last` for it.
        """
        if not topics:
            raise ValueError("subscribe to which topics?")
        wishes = _wishes(topics, since, last)
        engine = self._open_engine()
        mailbox = self._mailbox(buffer, when_full)
        for topic in topics:
            engine.check_wish(mailbox, topic, wishes.get(topic), 0 if topic in wishes else last)
        subscription = Subscription(engine, mailbox, on_lost)
        for topic in dict.fromkeys(topics):
            engine.extend(mailbox, topic, wishes.get(topic), 0 if topic in wishes else last)
        return subscription

    def given(
        self,
        *,
        on_lost: OnLost | None = None,
        buffer: int | None = None,
        when_full: Policy | None = None,
    ) -> Subscription:
        """Messages of all topics that the *backend* subscribes this client to, now and later.

        Without it they are ignored. They are asked for again after a reconnect like any other.
        """
        engine = self._open_engine()
        mailbox = self._mailbox(buffer, when_full, lasting=True)
        engine.take_given(mailbox)
        return Subscription(engine, mailbox, on_lost)

    def listen(
        self,
        *topics: str,
        on_message: Callable[[Message], object],
        on_lost: OnLost,
        since: Since = None,
        last: int = 0,
        buffer: int | None = None,
        when_full: Policy | None = None,
    ) -> Subscription:
        """`subscribe` with callbacks instead of iteration: one call after another, in order.

        A callback may be a coroutine function; the next one waits for it. What a callback raises is
        logged, and the next message comes. The subscription lasts until `close`, or as long as the
        client: it need not be kept. on_lost is not optional, as nothing else would tell.
        """
        subscription = self.subscribe(
            *topics,
            since=since,
            last=last,
            on_lost=_guarded(on_lost),
            buffer=buffer,
            when_full=when_full,
        )
        listening = _listen(subscription, _guarded(on_message))
        self._running().run(listening, f"clarion-client listens to {topics[0]}")
        return subscription

    # Commands

    async def publish(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        answer_s: float | None = None,
    ) -> Published:
        """Publishes as this client's user, where the namespace allows it.

        key: the conflation key, what the message is the news of; see `Draft`. Raises `Refused`, or
        `Unanswered` when nobody knows whether it was published. A backend that must know is better
        off with `clarion_client.Publisher`.
        """
        answer = await self._ask(
            lambda id: wire.encode_publish(id, topic, data, key), wire.Published, False, answer_s
        )
        return Published(answer.topic, _position(answer.epoch, answer.offset))

    async def history(
        self,
        topic: str,
        *,
        limit: int = 100,
        since: Position | None = None,
        reverse: bool = False,
        answer_s: float | None = None,
    ) -> History:
        """A part of a topic's history: the oldest that is kept, or what follows `since`.

        reverse: the newest first, or what stands before `since`. The server gives at most 1,000
        messages and 1 MiB at once; read on from the last one's position. Raises `Refused`.
        """
        fields: dict[str, object] = {"topic": topic, "limit": limit}
        fields |= {"since": wire.since_fields(since), "reverse": reverse or None}
        page = await self._ask(
            lambda id: wire.encode("history", id, **fields), wire.HistoryPage, True, answer_s
        )
        messages = [
            Message(page.topic, kept.data, kept.ts, kept.offset, page.epoch)
            for kept in page.messages
        ]
        return History(page.topic, Position(page.epoch, page.offset), messages)

    def past(
        self,
        topic: str,
        *,
        since: Position | None = None,
        reverse: bool = False,
        answer_s: float | None = None,
    ) -> AsyncIterator[Message]:
        """All of a topic's history, page by page: what is kept, or what follows `since`.

        reverse: the newest first, or what stands before `since`. Raises as `history` does, and
        `MessagesLost` where messages are gone that should have followed; iterate again, and it goes
        on behind the hole.
        """

        async def page(since: Position | None) -> History:
            return await self.history(
                topic, limit=PAGE, since=since, reverse=reverse, answer_s=answer_s
            )

        return Past(page, since, reverse)

    async def presence(
        self,
        topic: str,
        *,
        limit: int | None = None,
        after: str | None = None,
        answer_s: float | None = None,
    ) -> Presence:
        """Who is subscribed to a topic whose namespace keeps presence. Raises `Refused`.

        A page has at most `limit` members (1,000, which is the most); its `next` is the `after` of
        the one that follows. A limit of 0 asks for the count alone.
        """
        fields: dict[str, object] = {"topic": topic, "limit": limit, "after": after}
        page = await self._ask(
            lambda id: wire.encode("presence", id, **fields), wire.PresenceList, True, answer_s
        )
        return Presence(page.topic, page.count, list(page.members), page.next)

    def members(self, topic: str, *, answer_s: float | None = None) -> AsyncIterator[Member]:
        """All who are subscribed, page by page. Raises as `presence` does.

        Who is there all the time comes; who comes or goes meanwhile may be missed.
        """

        async def page(after: str | None) -> Presence:
            return await self.presence(topic, after=after, answer_s=answer_s)

        return Members(page)

    async def _ask(
        self,
        encode: Callable[[int], str],
        kind: type[_Kind],
        reads: bool,
        answer_s: float | None,
    ) -> _Kind:
        limit_s = self._answer_s if answer_s is None else answer_s
        answer = await self._open_engine().ask(encode, reads, limit_s)
        if not isinstance(answer, kind):
            raise Unanswered(f"the server's answer is another command's: {type(answer).__name__}")
        return answer

    def _running(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("use it as a context manager: async with Client(...) as client")
        return self._engine

    def _open_engine(self) -> Engine:
        engine = self._running()
        engine.check_open()
        return engine

    def _mailbox(
        self, buffer: int | None, when_full: Policy | None, lasting: bool = False
    ) -> Mailbox:
        limit = self._buffer if buffer is None else buffer
        policy = self._when_full if when_full is None else WhenFull(when_full)
        return Mailbox(limit, policy, lasting=lasting)


def _wishes(topics: tuple[str, ...], since: Since, last: int) -> Mapping[str, Position]:
    """The positions to begin behind, by topic."""
    if since is None:
        return {}
    if isinstance(since, Position):
        if len(topics) != 1:
            raise ValueError("a position belongs to one topic; for several, pass a mapping")
        if last:
            raise ValueError("since or last, not both")
        return {topics[0]: since}
    return since


def _position(epoch: str | None, offset: int | None) -> Position | None:
    return None if epoch is None or offset is None else Position(epoch, offset)


_Event = TypeVar("_Event")


def _guarded(callback: Callable[[_Event], object]) -> Callable[[_Event], Awaitable[None]]:
    """A callback of the program: what it raises is logged, and goes no further."""

    async def call(event: _Event) -> None:
        try:
            outcome = callback(event)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            log.exception("a callback of a subscription failed")

    return call


async def _listen(
    subscription: Subscription, on_message: Callable[[Message], Awaitable[None]]
) -> None:
    while True:
        try:
            async for message in subscription:
                await on_message(message)
            return
        except (Refused, Unsubscribed) as error:
            log.error("%s", error)
        except ClarionError as error:
            log.error("no more messages: %s", error)
            return
