"""A client's conversation: who it is, what it may do, what it asked for.

The session is a machine without I/O. Commands go in as text, answers go out through its client
(a WebSocket or an event stream); time is asked from the edge. Its states:

    waiting   no identity yet: only `connect` and `ping` are understood; the edge ends it when
              `limits.connect_s` have passed
    open      `welcome` was sent; every command is understood
    over      `end` was called; whatever comes back late from the broker is dropped

Most commands are answered before `command` returns. Those that must ask a shard, or wait for a
key, become tasks; at most `limits.in_flight` of them run for one client, and what it sends beyond
that waits in a backlog while its socket is not read. Answers to different commands may therefore
change places; the client matches them by `id`.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import NamedTuple, Protocol

from msgspec import UNSET, Raw, UnsetType

from clarion_fanout import payload
from clarion_fanout.broker import BrokerUnavailable, Page, Want
from clarion_fanout.conflation import is_key, why_not_a_key
from clarion_fanout.hub import Hold, Receiver
from clarion_fanout.presence import MAX_MEMBERS, Presence
from clarion_fanout.publication import Draft, PayloadError, Position, Publication
from clarion_fanout.topics import MAX_TOPIC_BYTES, is_topic, why_not_a_topic
from clarion_server import codes, protocol
from clarion_server.auth import ANONYMOUS, Identity, KeyUnknown, TokenRefused
from clarion_server.codes import Close, Code
from clarion_server.edge import Edge
from clarion_server.protocol import Id
from clarion_server.publishing import Declined
from clarion_server.quota import RETRY_MS, Denied, Grant

MAX_HISTORY_PAGE = 1000
"""Publications in one `history` answer; a client reads on from the last one's position."""

MAX_HISTORY_BYTES = 1024 * 1024
"""Data in one `history` answer, so that the answer stays a message that clients accept."""

_TOO_MANY_ERRORS = Close(codes.BAD_REQUEST.code, "too many errors")
_ALREADY_CONNECTED = "already connected; `refresh` renews"


def _client_ids() -> Iterator[str]:
    """Names for connections: 72 random bits each, fetched from the system for many at a time."""
    while True:
        text = secrets.token_urlsafe(9 * 64)
        for place in range(0, len(text), 12):
            yield f"c-{text[place : place + 12]}"


_ids = _client_ids()


class Client(Receiver, Protocol):
    """What a session speaks through."""

    def answer(self, answer: protocol.AnyAnswer) -> None:
        """Sends an answer."""
        ...

    def subscribed(self, answer: protocol.Subscribed, start: Position | None) -> None:
        """Sends the answer to a subscription; what is sent next follows `start`."""
        ...

    def replay(self, publications: Sequence[Publication]) -> None:
        """Sends publications of the past, which the client asked for."""
        ...

    def finish(self, close: Close) -> None:
        """Says goodbye and closes; calls `Session.end`."""
        ...

    def hush(self, quiet: bool) -> None:
        """Stops or goes on reading from the client."""
        ...


class Joining(NamedTuple):
    """A subscription that waits for the topic's past, and the command that asked for it."""

    hold: Hold
    id: Id | UnsetType


class Session:
    """See the module's text."""

    __slots__ = (
        "_backlog",
        "_client",
        "_edge",
        "_errors",
        "_in_flight",
        "_joining",
        "id",
        "identity",
        "over",
    )

    def __init__(self, edge: Edge, client: Client) -> None:
        self._edge = edge
        self._client = client
        self._errors = 0
        self._in_flight = 0
        self._backlog: deque[bytes] | None = None
        self._joining: dict[str, Joining] | None = None
        self.id = next(_ids)
        """Names this connection, unguessably."""
        self.identity: Identity | None = None
        self.over = False

    # Identity

    def identify(self, token: str | None, id: Id | UnsetType = UNSET) -> None:
        """Lets the client in as whoever `token` says, or as nobody if that is allowed."""
        if token is None:
            if self._edge.config.auth.anonymous:
                self._welcome(ANONYMOUS, id)
            return
        try:
            self._welcome(self._edge.authenticator.verify(token, self._edge.now()), id)
        except KeyUnknown:
            # Its key may be newer than our copy of the key set.
            self._start(self._identify_later(token, id), "fetch keys")
        except TokenRefused as refused:
            self._refuse(refused)

    async def _identify_later(self, token: str, id: Id | UnsetType) -> None:
        keys = self._edge.keys
        fetches = keys.fetches
        await keys.refetch()
        if self.over:
            return
        if self.identity is not None:
            self._fail(id, Code.BAD_REQUEST, _ALREADY_CONNECTED)
            return
        try:
            self._welcome(self._edge.authenticator.verify(token, self._edge.now()), id)
        except KeyUnknown as refused:
            if keys.renewable and keys.fetches == fetches:
                # Nobody could be asked: that is no reason to send a user away for good.
                self._client.finish(Close(codes.SERVER_ERROR.code, "the keys are out of reach"))
            else:
                self._refuse(refused)
        except TokenRefused as refused:
            self._refuse(refused)

    def _welcome(self, identity: Identity, id: Id | UnsetType) -> None:
        if full := self._edge.census.join(identity.user):
            self._edge.counters.refusals["user"] += 1
            self._client.finish(codes.limit_reached(full))
            return
        self.identity = identity
        self._answer(
            protocol.Welcome(
                id=id,
                client=self.id,
                user=UNSET if identity.user is None else identity.user,
                ping_ms=int(self._edge.config.keepalive.ping_s * 1000),
                expires_ms=self._expires_ms(identity),
            )
        )

    def _expires_ms(self, identity: Identity) -> int | UnsetType:
        if identity.expires is None:
            return UNSET
        return max(0, int((identity.expires - self._edge.now()) * 1000))

    def _refuse(self, refused: TokenRefused) -> None:
        code = codes.TOKEN_EXPIRED.code if refused.expired else codes.UNAUTHORIZED.code
        self._client.finish(Close(code, str(refused)))

    @property
    def expired(self) -> bool:
        """Whether the token's time is over."""
        identity = self.identity
        if identity is None or identity.expires is None:
            return False
        return self._edge.now() >= identity.expires

    # Commands

    def command(self, text: bytes) -> None:
        """Handles one text message of the client: valid UTF-8, no longer than allowed."""
        if self._backlog is not None:
            self._backlog.append(text)
            return
        if self._in_flight >= self._edge.config.limits.in_flight:
            self._backlog = deque((text,))
            self._client.hush(True)
            return
        self._handle(text)

    def _handle(self, text: bytes) -> None:
        try:
            command = protocol.decode(text)
        except protocol.BadCommand as bad:
            self._fail(bad.id, Code.UNKNOWN_OP if bad.unknown_op else Code.BAD_REQUEST, str(bad))
            return
        edge = self._edge
        edge.counters.commands[protocol.OP[type(command)]] += 1
        topics = isinstance(command, protocol.Subscribe) and command.topics
        wait = edge.command_rate.take(
            self._client.key, edge.wheel.now, len(topics) if topics else 0
        )
        if wait:
            self._too_many(command.id, wait)
            return
        if isinstance(command, protocol.Ping):
            self._answer(protocol.Pong(id=command.id))
        elif isinstance(command, protocol.Connect):
            if self.identity is None:
                self.identify(command.token, command.id)
            else:
                self._fail(command.id, Code.BAD_REQUEST, _ALREADY_CONNECTED)
        elif self.identity is None:
            self._fail(command.id, Code.UNAUTHORIZED, "send `connect` with a token first")
        elif isinstance(command, protocol.Subscribe):
            self._subscribe_command(command)
        elif isinstance(command, protocol.Unsubscribe):
            self._unsubscribe_command(command)
        elif isinstance(command, protocol.Publish):
            self._publish_command(command, self.identity)
        elif isinstance(command, protocol.History):
            self._history_command(command)
        elif isinstance(command, protocol.Presence):
            self._presence_command(command)
        else:
            self._refresh_command(command, self.identity)

    def _answer(self, answer: protocol.AnyAnswer) -> None:
        # Sending may be what finds the connection dead, in the middle of a command.
        if not self.over:
            self._client.answer(answer)

    def _error(
        self,
        id: Id | UnsetType,
        code: Code,
        message: str,
        topic: str | UnsetType = UNSET,
        retry_ms: int | UnsetType = UNSET,
    ) -> None:
        """Answers that a command failed, without holding it against the client."""
        self._edge.counters.errors[code] += 1
        self._answer(
            protocol.Failure(id=id, code=code, topic=topic, message=message, retry_ms=retry_ms)
        )

    def _fail(
        self, id: Id | UnsetType, code: Code, message: str, topic: str | UnsetType = UNSET
    ) -> None:
        """Answers that a command was wrong; a client that goes on like that is closed."""
        self._error(id, code, message, topic)
        self._blame()

    def _blame(self, close: Close = _TOO_MANY_ERRORS) -> None:
        """Holds a command against the client, once, however much was wrong with it."""
        self._errors += 1
        if self._errors >= self._edge.config.limits.errors and not self.over:
            self._client.finish(close)

    def _too_many(self, id: Id | UnsetType, retry_ms: int) -> None:
        """Answers that commands come too fast. Who goes on all the same is closed."""
        self._edge.counters.commands_limited += 1
        limit = self._edge.config.limits.commands_per_s
        message = f"more than {limit:g} commands a second"
        self._error(id, Code.TOO_MANY, message, retry_ms=retry_ms)
        self._blame(codes.limit_reached(message))

    def _bad_topic(self, topic: str, id: Id | UnsetType) -> None:
        self._reject_topic(topic, id)
        self._blame()

    def _reject_topic(self, topic: str, id: Id | UnsetType) -> None:
        """Answers that a topic is none, without holding it against the client."""
        # Named, for those who asked for many at once, unless it is too long to be repeated.
        named = topic if len(topic) <= MAX_TOPIC_BYTES else UNSET
        self._error(id, Code.BAD_TOPIC, why_not_a_topic(topic), named)

    def _start(self, work: Coroutine[object, object, None], name: str) -> None:
        self._in_flight += 1
        self._edge.tasks.start(self._finish_one(work), name)

    async def _finish_one(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception:
            # It waits for an answer that will not come.
            if not self.over:
                self._client.finish(codes.SERVER_ERROR)
            raise
        finally:
            self._in_flight -= 1
            self._catch_up()

    def _catch_up(self) -> None:
        """Handles what waited for a place among the commands in flight."""
        limit = self._edge.config.limits.in_flight
        while self._backlog and self._in_flight < limit and not self.over:
            self._handle(self._backlog.popleft())
        if self._backlog is not None and not self._backlog:
            self._backlog = None
            self._client.hush(False)

    # Subscribing

    def _subscribe_command(self, command: protocol.Subscribe) -> None:
        if (command.topic is None) == (command.topics is None):
            self._fail(command.id, Code.BAD_REQUEST, "subscribe: give `topic` or `topics`")
        elif command.topics is not None:
            right = True
            for wish in command.topics:
                if self.over:
                    return
                right &= self.subscribe(wish.topic, wish.since, wish.last, command.id)
            if not right:
                self._blame()
        elif command.topic is not None and not self.subscribe(
            command.topic, command.since, command.last, command.id
        ):
            self._blame()

    def subscribe(
        self,
        topic: str,
        since: protocol.Since | None = None,
        last: int = 0,
        id: Id | UnsetType = UNSET,
    ) -> bool:
        """Subscribes the client to `topic`, from a position, or the newest `last` first.

        Returns False, and has answered an error, if that is a mistake of the client's.
        """
        return self._may_subscribe(topic, id) and self.join(topic, since, last, id)

    def has(self, topic: str) -> bool:
        """Whether the client is subscribed to `topic`, or about to be."""
        if self._joining is not None and topic in self._joining:
            return True
        return self._edge.hub.find(self._client, topic) is not None

    def join(
        self,
        topic: str,
        since: protocol.Since | None = None,
        last: int = 0,
        id: Id | UnsetType = UNSET,
    ) -> bool:
        """`subscribe` without the question whether the client may: the backend says so."""
        edge = self._edge
        if since is not None and last:
            self._error(id, Code.BAD_REQUEST, "give `since` or `last`, not both", topic)
            return False
        if self.has(topic):
            self._error(id, Code.ALREADY_SUBSCRIBED, "already subscribed", topic)
            return False
        joining = 0 if self._joining is None else len(self._joining)
        if len(self._client.topics) + joining >= edge.config.limits.subscriptions:
            limit = edge.config.limits.subscriptions
            # Not held against the client: a list that is too long is one mistake, not hundreds.
            self._error(id, Code.TOO_MANY, f"a connection has at most {limit} topics", topic)
            return True
        if since is not None:
            want = Want(since=since.position)
        elif last:
            want = Want(last=last)
        else:
            want = Want(limit=0)
        # Publications that are pending belong to those who are subscribed already; the page
        # contains them.
        edge.hub.settle(topic)
        if edge.broker.attach(topic) and (page := edge.broker.peek(topic, want)) is not None:
            # First, as sending may end the session, and nobody may join a hub after that.
            edge.hub.add(self._client, topic)
            self._subscribed(topic, want, page, id)
        else:
            hold = edge.hub.hold(topic)
            if self._joining is None:
                self._joining = {}
            self._joining[topic] = Joining(hold, id)
            self._start(self._join_later(topic, want, hold, id), "subscribe")
        return True

    async def _join_later(self, topic: str, want: Want, hold: Hold, id: Id | UnsetType) -> None:
        broker = self._edge.broker
        try:
            await broker.attached(topic)
            # Where the stream stands is known now, and most want nothing else.
            page = broker.peek(topic, want) or await broker.read(topic, want)
        except BrokerUnavailable as error:
            if self._is_joining(topic, hold):
                self._stop_joining(topic)
                self._error(id, Code.UNAVAILABLE, str(error), topic, error.retry_ms)
            return
        finally:
            if self.over:
                self._edge.hub.release(hold)
        if self._joining is None or not self._is_joining(topic, hold):
            return  # unsubscribed, or gone, meanwhile
        del self._joining[topic]
        epoch, offset = page.position or ("", 0)
        newer = self._edge.hub.admit(hold, self._client, epoch, offset)
        self._subscribed(topic, want, page, id)
        if newer and not self.over:
            self._client.replay(newer)

    def _is_joining(self, topic: str, hold: Hold) -> bool:
        """Whether the subscription that `hold` is for is still wanted, and not complete yet."""
        joining = None if self._joining is None else self._joining.get(topic)
        return joining is not None and joining.hold is hold

    def _stop_joining(self, topic: str) -> Joining | None:
        """Gives up a subscription that is not complete yet; None if there is none."""
        joining = None if self._joining is None else self._joining.pop(topic, None)
        if joining is not None:
            self._edge.hub.release(joining.hold)
        return joining

    def _subscribed(self, topic: str, want: Want, page: Page, id: Id | UnsetType) -> None:
        """Answers, and sends what was missed."""
        if self._edge.presence is not None:
            self._enter(topic)
        counters = self._edge.counters
        recovered: bool | UnsetType = UNSET
        if want.since is not None:
            recovered = page.position is not None and page.complete
            counters.resumes["recovered" if recovered else "lost"] += 1
        position = page.position
        missed = () if recovered is False else page.publications
        answer = protocol.Subscribed(
            id=id,
            topic=topic,
            epoch=position.epoch if position else UNSET,
            offset=position.offset if position else UNSET,
            recovered=recovered,
        )
        if not missed:
            self._client.subscribed(answer, position)
            return
        self._client.subscribed(answer, Position(missed[0].epoch, missed[0].offset - 1))
        if self.over:
            return
        counters.replayed += len(missed)
        self._client.replay(missed)

    def _may_subscribe(self, topic: str, id: Id | UnsetType) -> bool:
        """Whether the client may; if not, it has been told, and nothing was held against it."""
        if not is_topic(topic):
            self._reject_topic(topic, id)
            return False
        if self.identity is None or not self._edge.permissions.may_subscribe(self.identity, topic):
            self._error(id, Code.FORBIDDEN, "this client may not subscribe to the topic", topic)
            return False
        return True

    def _unsubscribe_command(self, command: protocol.Unsubscribe) -> None:
        if not self.leave(command.topic, command.id):
            if not is_topic(command.topic):
                self._bad_topic(command.topic, command.id)
            else:
                self._fail(command.id, Code.NOT_SUBSCRIBED, "not subscribed", command.topic)

    def leave(
        self, topic: str, id: Id | UnsetType = UNSET, reason: str | UnsetType = UNSET
    ) -> bool:
        """Ends a subscription and says so; False if there is none."""
        joining = self._stop_joining(topic)
        if joining is not None:
            if joining.id is not UNSET:
                message = "unsubscribed before it was complete"
                self._error(joining.id, Code.NOT_SUBSCRIBED, message, topic)
        else:
            entry = self._edge.hub.find(self._client, topic)
            if entry is None:
                return False
            self._edge.hub.remove(self._client, entry)
            # Over it may be now: what was pending has found the client gone.
            if self._edge.presence is not None and not self.over:
                self._depart((topic,))
        self._answer(protocol.Unsubscribed(id=id, topic=topic, reason=reason))
        return True

    # Publishing

    def _publish_command(self, command: protocol.Publish, identity: Identity) -> None:
        topic, id = command.topic, command.id
        if not is_topic(topic):
            self._bad_topic(topic, id)
            return
        if not self._edge.permissions.may_publish(identity, topic):
            self._fail(id, Code.FORBIDDEN, "this client may not publish to the topic", topic)
            return
        try:
            publishing = self._edge.publishing
            most, defer = publishing.most_bytes(topic), publishing.has_steps(topic)
            data = payload.check(bytes(command.data), most, defer=defer)
        except PayloadError as error:
            self._fail(id, Code.BAD_DATA, str(error), topic)
            return
        key = command.key
        if key is not UNSET and not is_key(key):
            self._fail(id, Code.BAD_REQUEST, f"publish: {why_not_a_key(key)}", topic)
            return
        quota = self._edge.publishing.quotas.client
        admitted = quota.enter(identity.user, len(data), messages=1)
        if isinstance(admitted, Denied):
            code = Code.TOO_MANY if admitted.scope == "share" else Code.UNAVAILABLE
            self._error(id, code, admitted.text, topic, RETRY_MS)
            return
        draft = Draft(topic, data, key="" if key is UNSET else key)
        self._start(self._publish(draft, id, admitted), "publish")

    async def _publish(self, draft: Draft, id: Id | UnsetType, grant: Grant) -> None:
        with grant:
            (outcome,) = await self._edge.publishing.publish((draft,), "client", grant)
        if self.over:
            return
        if isinstance(outcome, Declined):
            retry_ms = UNSET if outcome.retry_ms is None else outcome.retry_ms
            self._error(id, outcome.code, outcome.message, draft.topic, retry_ms)
        else:
            position = outcome.position
            self._answer(
                protocol.Published(
                    id=id,
                    topic=draft.topic,
                    epoch=position.epoch if position else UNSET,
                    offset=position.offset if position else UNSET,
                )
            )

    # History

    def _history_command(self, command: protocol.History) -> None:
        topic, id = command.topic, command.id
        if not self._may_subscribe(topic, id):
            self._blame()
            return
        if not self._edge.config.namespace(topic).history_size:
            self._fail(id, Code.NO_HISTORY, "the topic's namespace keeps no history", topic)
            return
        since: Position | None = command.since.position if command.since else None
        want = Want(
            since=since, limit=min(command.limit, MAX_HISTORY_PAGE), reverse=command.reverse
        )
        page = self._edge.broker.peek(topic, want)
        if page is None:
            self._start(self._history_later(topic, want, id), "history")
        else:
            self._history(topic, page, id)

    async def _history_later(self, topic: str, want: Want, id: Id | UnsetType) -> None:
        try:
            page = await self._edge.broker.read(topic, want)
        except BrokerUnavailable as error:
            if not self.over:
                self._error(id, Code.UNAVAILABLE, str(error), topic, error.retry_ms)
            return
        if not self.over:
            self._history(topic, page, id)

    def _history(self, topic: str, page: Page, id: Id | UnsetType) -> None:
        assert page.position is not None
        messages: list[protocol.Entry] = []
        size = 0
        for publication in page.publications:
            size += len(publication.data)
            if messages and size > MAX_HISTORY_BYTES:
                break
            messages.append(
                protocol.Entry(publication.offset, publication.ts, Raw(publication.data))
            )
        self._answer(
            protocol.HistoryPage(
                id=id,
                topic=topic,
                epoch=page.position.epoch,
                offset=page.position.offset,
                messages=messages,
            )
        )

    # Presence

    def _keeper(self, topic: str) -> Presence | None:
        """Who keeps the presence of a topic, if anybody does."""
        presence = self._edge.presence
        if presence is None or self._edge.config.namespace(topic).presence == "off":
            return None
        return presence

    def _enter(self, topic: str) -> None:
        """The client is a member of the topic from now on, if it has any."""
        presence = self._keeper(topic)
        if presence is not None:
            user = None if self.identity is None else self.identity.user
            presence.enter(topic, self.id, user)

    def _depart(self, topics: Sequence[str]) -> None:
        """The client was a member of those that have any."""
        for topic in topics:
            presence = self._keeper(topic)
            if presence is not None:
                presence.leave(topic, self.id)

    def _presence_command(self, command: protocol.Presence) -> None:
        topic, id = command.topic, command.id
        if not self._may_subscribe(topic, id):
            self._blame()
            return
        presence = self._keeper(topic)
        if presence is None:
            self._fail(id, Code.NO_PRESENCE, "the topic's namespace keeps no presence", topic)
            return
        self._start(self._presence(presence, command), "presence")

    async def _presence(self, presence: Presence, command: protocol.Presence) -> None:
        topic, id = command.topic, command.id
        try:
            page = await presence.read(topic, min(command.limit, MAX_MEMBERS), command.after)
        except BrokerUnavailable as error:
            if not self.over:
                self._error(id, Code.UNAVAILABLE, str(error), topic, error.retry_ms)
            return
        self._answer(
            protocol.MembersPage(
                id=id,
                topic=topic,
                count=page.count,
                members=[Raw(member) for member in page.members],
                next=page.next or UNSET,
            )
        )

    # The rest

    def _refresh_command(self, command: protocol.Refresh, identity: Identity) -> None:
        try:
            fresh = self._edge.authenticator.verify(command.token, self._edge.now())
        except KeyUnknown:
            self._start(self._refresh_later(command, identity), "fetch keys")
            return
        except TokenRefused as refused:
            self._fail(command.id, Code.UNAUTHORIZED, str(refused))
            return
        self._refresh(command, identity, fresh)

    async def _refresh_later(self, command: protocol.Refresh, identity: Identity) -> None:
        await self._edge.keys.refetch()
        if self.over:
            return
        try:
            fresh = self._edge.authenticator.verify(command.token, self._edge.now())
        except TokenRefused as refused:
            self._fail(command.id, Code.UNAUTHORIZED, str(refused))
            return
        self._refresh(command, identity, fresh)

    def _refresh(self, command: protocol.Refresh, identity: Identity, fresh: Identity) -> None:
        if fresh.user != identity.user:
            self._fail(command.id, Code.FORBIDDEN, "the token is another user's")
            return
        self.identity = fresh
        for name in [*(topic.name for topic in self._client.topics), *(self._joining or ())]:
            if not self._edge.permissions.may_subscribe(fresh, name):
                self.leave(name, reason="the new token does not allow it")
        expires_ms = self._expires_ms(fresh)
        assert not isinstance(expires_ms, UnsetType), "every token expires"
        self._answer(protocol.Refreshed(id=command.id, expires_ms=expires_ms))

    def end(self) -> None:
        """Nothing is sent any more, and nothing is subscribed. A second call does nothing."""
        if self.over:
            return
        self.over = True
        self._backlog = None
        edge, key = self._edge, self._client.key
        edge.command_rate.forget(key)
        edge.census.leave(key)
        if self.identity is not None:
            edge.census.part(self.identity.user)
        for joining in (self._joining or {}).values():
            self._edge.hub.release(joining.hold)
        self._joining = None
        if self._edge.presence is None:
            self._edge.hub.leave(self._client)
            return
        topics = [topic.name for topic in self._client.topics]
        self._edge.hub.leave(self._client)
        self._depart(topics)
