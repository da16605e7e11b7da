"""Clarion's two protocols, see clients/PROTOCOL.md: a WebSocket and an event stream.

The publisher numbers the publications of each topic from 1, and so does a new server with history:
a publication's number is its offset. That is how clients know what the first one after
`subscribed` must be, and from where to resume.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from loadtest import wire
from loadtest.play.stamp import topic_name
from loadtest.play.talk import (
    NOTHING,
    Aside,
    Client,
    Cut,
    Greeting,
    Refused,
    WebSocket,
    until,
    upgrade,
    upgraded,
)

TOPICS_EACH = 200
"""In one `subscribe`: a message from a client has at most 64 KiB."""


class ClarionWebSocket(WebSocket):
    name = "websocket"
    resumes = True

    def arrive(self, client: Client, port: int) -> Greeting:
        yield from upgraded(upgrade(port, "/ws", "clarion.v1"))
        yield from until(wire.WELCOME)
        for at in range(0, len(client.topics), TOPICS_EACH):
            part = client.topics[at : at + TOPICS_EACH]
            heard = yield wire.command("subscribe", id=1, topics=[_wish(client, t) for t in part])
            for left in range(len(part) - 1, -1, -1):
                if wire.SUBSCRIBED not in heard:
                    raise Refused(_complaint(heard))
                if left:
                    heard = yield b""

    def aside(self, client: Client, piece: bytes) -> Aside | None:
        if not piece.startswith(b"{"):
            return super().aside(client, piece)
        return told(client, json.loads(piece))

    def swap(self, client: Client, old: int, new: int) -> bytes:
        return wire.command("unsubscribe", id=2, topic=topic_name(old)) + wire.command(
            "subscribe", id=3, topic=topic_name(new)
        )


class ClarionEvents:
    """Server-Sent Events."""

    name = "sse"
    resumes = True

    def arrive(self, client: Client, port: int) -> Greeting:
        topics = "&".join(f"topic={topic_name(topic)}" for topic in client.topics)
        resume = ""
        if client.epochs and client.seen:
            places = [
                f"{topic_name(topic)}|{client.epochs[topic]}|{number}"
                for topic, number in client.seen.items()
            ]
            resume = f"Last-Event-ID: {';'.join(places)}\r\n"
        head = f"GET /sse?{topics} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{resume}\r\n"
        answer = yield head.encode()
        if not answer.startswith(b"HTTP/1.1 200"):
            raise Refused(answer.split(b"\r\n", 1)[0].decode(errors="replace"))
        for _ in client.topics:
            yield from until(b"event: subscribed")

    def cut(self, data: bytearray, size: int) -> Cut:
        end = max(data.rfind(b"\n\n", 0, size) + 2, data.rfind(b"\r\n\r\n", 0, size) + 4)
        if end < 4:
            return Cut(0, 0, b"")
        return Cut(end, data.count(b"\n\n", 0, end), b"")

    def pieces(self, data: bytearray, end: int) -> Iterator[bytes]:
        whole = bytes(data[:end])
        if whole.startswith(b"HTTP/"):
            head, _, whole = whole.partition(b"\r\n\r\n")
            yield head
        yield from filter(None, whole.split(b"\n\n"))

    def aside(self, client: Client, piece: bytes) -> Aside | None:
        at = piece.find(b"data: ")
        return told(client, json.loads(piece[at + 6 :])) if at >= 0 else NOTHING

    def swap(self, client: Client, old: int, new: int) -> bytes:
        raise NotImplementedError("the topics of an event stream stay as they are")


def _complaint(heard: bytes) -> str:
    """Why a client is not subscribed; the topic left out, so that a reason is counted as one."""
    if heard.startswith(b"{"):
        said = json.loads(heard)
        if said["op"] == "error":
            return f"{said['code']}: {said['message']}"
    return heard[:200].decode(errors="replace")


def _wish(client: Client, topic: int) -> dict[str, object]:
    """What a client asks for: a topic, and to go on where it was."""
    wish: dict[str, object] = {"topic": topic_name(topic)}
    if client.epochs and topic in client.epochs:
        wish["since"] = {"epoch": client.epochs[topic], "offset": client.seen[topic]}
    return wish


def told(client: Client, said: dict[str, Any]) -> Aside:
    """Takes over what the server says of a client's positions."""
    match said["op"]:
        case "subscribed":
            return _subscribed(client, said)
        case "unsubscribed":
            topic = number_of(said["topic"])
            client.seen.pop(topic, None)
            if client.epochs:
                client.epochs.pop(topic, None)
            return Aside(answers=1)
        case "lost":
            topic = number_of(said["topic"])
            gone = said["offset"] - client.seen.get(topic, said["offset"])
            client.seen[topic] = said["offset"]
            if client.epochs is not None:
                client.epochs[topic] = said["epoch"]
            return Aside(told=max(0, gone))
        case "error":
            return Aside(answers=1, error=f"{said['code']}: {said['message']}")
        case "goodbye":
            text = f"{said['code']} {said['reason']}"
            return Aside(over=text, retry_ms=said.get("retry_ms"))
        case _:
            return NOTHING


def _subscribed(client: Client, said: dict[str, Any]) -> Aside:
    topic, gone = number_of(said["topic"]), 0
    known = client.epochs is not None and topic in client.epochs
    if "epoch" in said:
        if client.epochs is None:
            client.epochs = {}
        client.epochs[topic] = said["epoch"]
    if not known:
        client.seen[topic] = said.get("offset", 0)
    elif not said.get("recovered", True):
        gone = max(0, said["offset"] - client.seen[topic])
        client.seen[topic] = said["offset"]
    return Aside(told=gone, answers=int("id" in said))


def number_of(topic: str) -> int:
    """The number of a topic by its name."""
    return int(topic.removeprefix("load"))
