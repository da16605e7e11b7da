"""A client of Server-Sent Events (HTML standard, section 9.2): a GET that never ends.

The topics stand in the URL. Events are the same `message` objects as on a WebSocket; what else
the server says comes as events named after their op (`subscribed`, `lost`, `goodbye`, `error`).

Resuming: every event that moves a position has an id that holds the position of each topic of the
stream, and the browser sends the last one back. With one topic that is the publication's own
position, so all such streams share their bytes. With several, the id depends on the stream, and
each gets bytes of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from urllib.parse import parse_qsl

from clarion_fanout.hub import Form, Topic
from clarion_fanout.publication import Position, Publication
from clarion_fanout.topics import is_topic, why_not_a_topic
from clarion_server import protocol
from clarion_server.auth import Identity
from clarion_server.codes import Close, Code
from clarion_server.edge import Edge
from clarion_server.forms import EVENT, event, position_id, published
from clarion_server.handshake import Refusal, Request
from clarion_server.peer import Peer
from clarion_server.protocol import Since
from clarion_server.window import Rule

_HEARTBEAT = b":\n\n"

_RETRY_MS = (1000, 9000)
"""Between these is the pause after which a browser comes back whose stream broke without a word,
different for each: when a server is killed, nobody tells its clients when to come."""

_OTHER_FIELDS = 100
"""Fields in a query string beside the topics: `last`, `token`, and what proxies and pages add."""

_ID_BYTES = 7000
"""The longest event id: the browser sends it back in a header, and 8 KiB is the longest line that
we and most proxies take. A stream that could not resume is refused when it begins."""

_POSITION_BYTES = 26
"""A topic's part of it beside the name: an epoch of 8 characters, an offset of up to 15 digits."""


def topics_of(request: Request, edge: Edge) -> tuple[dict[str, Since | None], int] | Refusal:
    """The topics that a request asks for, each with where to resume, and `last`."""
    limit = edge.config.limits.sse_topics
    most = limit + _OTHER_FIELDS
    try:
        fields = parse_qsl(request.query, keep_blank_values=True, max_num_fields=most)
    except ValueError:
        return Refusal(400, Code.BAD_REQUEST, "too many fields in the query")
    names = [value for name, value in fields if name == "topic"]
    if not names:
        return Refusal(400, Code.BAD_REQUEST, "name the topics: /sse?topic=a&topic=b")
    if len(names) > limit:
        return Refusal(400, Code.TOO_MANY, f"a stream has at most {limit} topics")
    positioned = {name for name in names if edge.config.namespace(name).history_size}
    if sum(len(name) + _POSITION_BYTES for name in positioned) > _ID_BYTES:
        return Refusal(400, Code.TOO_MANY, "too many topics with such long names; use two streams")
    for name in names:
        if not is_topic(name):
            return Refusal(400, Code.BAD_TOPIC, why_not_a_topic(name))
    last = next((value for name, value in fields if name == "last"), "0")
    if not (last.isascii() and last.isdigit() and len(last) <= 6):
        return Refusal(400, Code.BAD_REQUEST, "`last` is a number of publications")
    positions = _positions(request.headers.get("last-event-id", ""))
    return {name: positions.get(name) for name in names}, int(last)


def _positions(event_id: str) -> dict[str, Since]:
    """Reads the id of an event. What is not one of ours means: no position."""
    positions: dict[str, Since] = {}
    for part in event_id.split(";"):
        match part.split("|"):
            case [topic, epoch, offset] if offset.isascii() and offset.isdigit():
                if len(offset) <= 15 and len(epoch) <= 64:
                    positions[topic] = Since(epoch, int(offset))
            case _:
                pass
    return positions


class EventStream(Peer):
    """One client that reads an event stream."""

    __slots__ = ("_positions",)

    kind = "sse"
    form: Form = EVENT

    def __init__(
        self, edge: Edge, transport: asyncio.Transport, key: int, identity: Identity
    ) -> None:
        super().__init__(edge, transport, key)
        self.session.identity = identity  # `Session.end` gives its place free
        # The position of each topic with history, where the stream has more than one topic.
        self._positions: dict[str, str] | None = None

    def begin(self, head: bytes, topics: dict[str, Since | None], last: int) -> None:
        """Answers the request and subscribes to its topics."""
        edge = self.edge
        edge.wheel.add(self, edge.ping_ticks)
        if len(topics) > 1:
            # Every id has the position of every topic from the start. The stream may be cut
            # while the first topic is replayed, and the others must not lose theirs.
            self._positions = {
                topic: position_id(topic, since.epoch, since.offset)
                for topic, since in topics.items()
                if since is not None
            }
            self.bulk = False
        edge.corked = self
        edge.cork.append(head + f"retry: {random.randint(*_RETRY_MS)}\n\n".encode())
        for topic, since in topics.items():
            if self.session.over:
                return  # a replay found the client gone; the hub must not get to know it again
            self.session.subscribe(topic, since, 0 if since else last)
        self.uncork()
        self.mind_expiry()

    def may_bulk(self) -> bool:
        return self._positions is None

    def encode_answer(self, answer: protocol.AnyAnswer) -> bytes:
        encoded = event(str(answer.__struct_config__.tag), protocol.encode(answer))
        if isinstance(answer, protocol.Goodbye) and isinstance(answer.retry_ms, int):
            encoded = f"retry: {answer.retry_ms}\n".encode() + encoded
        return encoded

    def subscribed(self, answer: protocol.Subscribed, start: Position | None) -> None:
        # The id is where the stream stands now, not where it will when all that was missed is
        # sent: the connection may break in between.
        self.part(answer.topic)
        self.send(event("subscribed", protocol.encode(answer), self._note(answer.topic, start)))

    def _note(self, topic: str, position: Position | None) -> str:
        """Notes a topic's position; returns the event id that holds all of them."""
        if position is not None:
            part = position_id(topic, position.epoch, position.offset)
            if self._positions is None:
                return part
            self._positions[topic] = part
        return ";".join((self._positions or {}).values())

    def encode_end(self, close: Close) -> bytes:
        return b""

    def half_closes(self) -> bool:
        return True

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        if self._positions is None:
            super().deliver(topic, publications)
            return
        rule = self.edge.rule(topic.name)
        for publication in publications:
            # An id says where all topics stand, so that no event which has one may be dropped, or
            # overtake another.
            its_rule = Rule(rule.namespace) if publication.epoch else rule
            self.deliver_frame(publication, self._own(publication), its_rule)

    def replay(self, publications: Sequence[Publication]) -> None:
        if self._positions is None:
            super().replay(publications)
        else:
            self.replay_frames([self._own(publication) for publication in publications])

    def _own(self, publication: Publication) -> bytes:
        """A publication as an event of this stream."""
        id = ""
        if publication.epoch:
            position = Position(publication.epoch, publication.offset)
            id = self._note(publication.topic, position)
        return published(publication, id)

    def data_received(self, data: bytes) -> None:
        """A client of an event stream has nothing more to say; what it says is not kept."""
        self.edge.counters.bytes_in += len(data)

    def keep_alive(self, now: int) -> int:
        self.send(_HEARTBEAT)
        return self.edge.ping_ticks
