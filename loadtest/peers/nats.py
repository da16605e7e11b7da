"""nats-server, in its own protocol over TCP: lines, with payloads between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.peers import shelf
from loadtest.peers.peer import Peer
from loadtest.play.desk import Answer, Desk, Message
from loadtest.play.stamp import topic_name
from loadtest.play.talk import Aside, Client, Cut, Greeting, Talk, until

CONNECT = b'CONNECT {"verbose":false,"pedantic":false}\r\n'


class NatsTalk:
    name = "nats"
    resumes = False

    def arrive(self, client: Client, port: int) -> Greeting:
        yield from until(b"INFO ")
        subs = "".join(f"SUB {topic_name(topic)} 1\r\n" for topic in client.topics)
        yield from until(b"PONG", CONNECT + subs.encode() + b"PING\r\n")

    def cut(self, data: bytearray, size: int) -> Cut:
        end = data.rfind(b"\r\n", 0, size) + 2
        if end < 2:
            return Cut(0, 0, b"")
        ping = data.find(b"PING\r\n", 0, end) >= 0
        # MSG subject sid size, then the payload: two lines each. An odd one is something else.
        return Cut(end, (data.count(b"\r\n", 0, end) + 1) // 2, b"PONG\r\n" if ping else b"")

    def pieces(self, data: bytearray, end: int) -> Iterator[bytes]:
        yield from bytes(data[: end - 2]).split(b"\r\n")

    def aside(self, client: Client, piece: bytes) -> Aside | None:
        return Aside(over=piece.decode(errors="replace")) if piece.startswith(b"-ERR") else None

    def swap(self, client: Client, old: int, new: int) -> bytes:
        raise NotImplementedError


class NatsDesk:
    answers = False

    def opening(self) -> bytes:
        return CONNECT

    def request(self, messages: Sequence[Message], size: int) -> bytes:
        return "".join(
            f"PUB {topic_name(each.topic)} {size}\r\n{each.data(size)}\r\n" for each in messages
        ).encode()

    def answer(self, heard: bytes, count: int) -> Answer | None:
        return None


class Nats(Peer):
    name = "nats-server"
    setting = "TCP, not WebSocket; no persistence"
    has_back = False

    def install(self) -> str:
        return shelf.debian_version(shelf.debian("nats", ["nats-server"]), "nats-server")

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        server = shelf.debian("nats", ["nats-server"]) / "usr/sbin/nats-server"
        return [str(server), "-a", "127.0.0.1", "-p", str(port)]

    def talk(self, place: int) -> Talk:
        return NatsTalk()

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        return NatsDesk(), ("127.0.0.1", self.port)
