"""How publications get into a server: the seam between the publisher and each kind of server.

A `Desk` turns publications into a request, and reads answers. It keeps nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from loadtest.play.stamp import payload, topic_name

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class Message(NamedTuple):
    """A publication on its way."""

    topic: int
    number: int
    due: int

    def data(self, size: int) -> str:
        return payload(self.topic, self.number, self.due, size)


class Answer(NamedTuple):
    """What a server said of a request.

    size: bytes of the answer.
    refused: the places in the request of what was not published and may be tried again.
    error: what went wrong for good.
    """

    size: int
    refused: Sequence[int] = ()
    error: str = ""


class Desk(Protocol):
    """See the module's text."""

    answers: bool
    """Whether requests are answered: then the next one waits for it, on one connection."""

    def opening(self) -> bytes:
        """What is sent first on a connection."""
        ...

    def request(self, messages: Sequence[Message], size: int) -> bytes: ...

    def answer(self, heard: bytes, count: int) -> Answer | None:
        """Reads the answer to a request of `count` messages; None: it is not all there."""
        ...


class ClarionDesk:
    """Clarion's HTTP API. careful: with idempotency keys."""

    answers = True

    def __init__(self, port: int, careful: bool) -> None:
        self._port, self._careful = port, careful

    def opening(self) -> bytes:
        return b""

    def request(self, messages: Sequence[Message], size: int) -> bytes:
        parts = [
            f'{{"topic":"{topic_name(message.topic)}","data":{message.data(size)}'
            + (f',"id":"{message.number}"}}' if self._careful else "}")
            for message in messages
        ]
        if len(parts) == 1:
            return http_post(self._port, "/v1/publish", parts[0].encode())
        body = f'{{"messages":[{",".join(parts)}]}}'
        return http_post(self._port, "/v1/publish/batch", body.encode())

    def answer(self, heard: bytes, count: int) -> Answer | None:
        found = http_answer(heard)
        if found is None:
            return None
        status, body, size = found
        if status == 200 and b'"error"' not in body:
            return Answer(size)
        if status >= 500:
            return Answer(size, range(count))
        results = json.loads(body).get("results", [{"error": body.decode()}])
        refused = [place for place, one in enumerate(results) if _again(one)]
        bad = [one for one in results if "error" in one and not _again(one)]
        return Answer(size, refused, str(bad[0]) if bad else "")


def _again(result: dict[str, object]) -> bool:
    error = result.get("error")
    return isinstance(error, dict) and error.get("code") == "unavailable"


def http_post(port: int, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def http_answer(heard: bytes) -> tuple[int, bytes, int] | None:
    """Status, body, and the size of both with their head; None when it is not all there."""
    head, found, body = heard.partition(b"\r\n\r\n")
    if not found:
        return None
    length = _LENGTH.search(head)
    size = int(length[1]) if length else 0
    if len(body) < size:
        return None
    return int(head[9:12]), body[:size], len(head) + 4 + size


class Lines:
    """A line for each publication, unanswered: what the small servers of `peers` take.

    TOPIC SPACE DATA NEWLINE. It costs them next to nothing.
    """

    answers = False

    def opening(self) -> bytes:
        return b""

    def request(self, messages: Sequence[Message], size: int) -> bytes:
        lines = [f"{topic_name(each.topic)} {each.data(size)}\n" for each in messages]
        return "".join(lines).encode()

    def answer(self, heard: bytes, count: int) -> Answer | None:
        return None
