"""What a session speaks through, in tests: it keeps what it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from clarion_fanout.hub import Form, Topic
from clarion_fanout.publication import Position, Publication
from clarion_server import protocol
from clarion_server.codes import Close
from clarion_server.edge import Edge
from clarion_server.forms import WEBSOCKET
from clarion_server.session import Session

Message: TypeAlias = dict[str, Any]
"""A JSON object, as a client reads it."""


class FakeClient:
    """A client at the other end of a session: it says what a test wants, and keeps what it hears.

    closed: how the server ended it. quiet: whether the server has stopped reading from it.
    starts: after which position each answer to a subscription said that the stream goes on.
    ends_at: an op after which its connection is found to be dead, as a write may find at any time.
    """

    form: Form = WEBSOCKET

    def __init__(self, edge: Edge, key: int) -> None:
        self.key = key
        self.bulk = False  # so that the hub delivers to it without a socket
        self.topics: list[Topic] = []
        self.session = Session(edge, self)
        self.closed: Close | None = None
        self.dead = False
        self.ends_at = ""
        self.quiet = False
        self.starts: list[Position | None] = []
        self._heard: list[Message] = []

    # The client's side

    def says(self, text: str | bytes | None = None, /, **command: object) -> None:
        """Sends a message: the text, or a command of these fields."""
        if text is None:
            text = json.dumps(command)
        self.session.command(text.encode() if isinstance(text, str) else text)

    def heard(self) -> list[Message]:
        """What came since the last call, in order."""
        heard, self._heard = self._heard, []
        return heard

    def asks(self, text: str | bytes | None = None, /, **command: object) -> Message:
        """Sends a command and returns the answer, which comes at once and alone."""
        self.says(text, **command)
        (answer,) = self.heard()
        return answer

    def data(self) -> list[Any]:
        """The data of the messages that came since the last call; nothing else may have come."""
        heard = self.heard()
        assert [message["op"] for message in heard] == ["message"] * len(heard), heard
        return [message["data"] for message in heard]

    def vanishes(self) -> None:
        """Its connection breaks: nobody is told anything any more."""
        self.dead = True
        self.session.end()

    # The session's side

    def answer(self, answer: protocol.AnyAnswer) -> None:
        self._hears(protocol.encode(answer))

    def subscribed(self, answer: protocol.Subscribed, start: Position | None) -> None:
        self.starts.append(start)
        self.answer(answer)

    def replay(self, publications: Sequence[Publication]) -> None:
        for publication in publications:
            self._hears(protocol.written(publication))

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        assert topic in self.topics
        self.replay(publications)

    def finish(self, close: Close) -> None:
        self._hears(protocol.encode(protocol.Goodbye(code=close.code, reason=close.reason)))
        self.closed = close
        self.session.end()

    def hush(self, quiet: bool) -> None:
        self.quiet = quiet

    def _hears(self, text: bytes) -> None:
        assert b"\n" not in text
        message: Message = json.loads(text)
        assert self.closed is None, f"{message} after goodbye"
        assert not self.dead, f"{message} to a connection that is gone"
        self._heard.append(message)
        if message["op"] == self.ends_at:
            self.vanishes()
