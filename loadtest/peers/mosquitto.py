"""Mosquitto: MQTT 3.1.1, subscribers over WebSocket, publications over TCP, QoS 0."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest import wire
from loadtest.peers import shelf
from loadtest.peers.peer import Peer
from loadtest.play.desk import Answer, Desk, Message
from loadtest.play.stamp import topic_name
from loadtest.play.talk import Client, Greeting, Talk, WebSocket, until, upgrade, upgraded

PACKAGES = (
    "mosquitto", "libcjson1", "libdlt2", "libmosquitto1", "libwrap0", "libwebsockets17", "libev4",
)  # fmt: skip
BINARY = 0x2
CONFIG = """
allow_anonymous true
persistence false
max_queued_messages 0
set_tcp_nodelay true
log_type error
listener %(back)d 127.0.0.1
listener %(port)d 127.0.0.1
protocol websockets
"""


def packet(kind: int, body: bytes) -> bytes:
    """An MQTT control packet (section 2.2): a kind, a length of 7 bits a byte, a body."""
    left, length = len(body), b""
    while True:
        left, low = divmod(left, 128)
        length += bytes([low | 0x80 * (left > 0)])
        if not left:
            return bytes([kind]) + length + body


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("!H", len(data)) + data


CONNECT = packet(0x10, text("MQTT") + bytes([4, 2, 0, 0]) + text(""))
"""Protocol level 4, a clean session, no keep-alive."""


class MqttTalk(WebSocket):
    def arrive(self, client: Client, port: int) -> Greeting:
        yield from upgraded(upgrade(port, "/", "mqtt"))
        yield from until(b"\x20\x02\x00\x00", wire.client_frame(BINARY, CONNECT))
        wishes = b"".join(text(topic_name(topic)) + b"\0" for topic in client.topics)
        subscribe = packet(0x82, b"\0\1" + wishes)
        yield from until(b"\x90", wire.client_frame(BINARY, subscribe))


class MqttDesk:
    answers = False

    def opening(self) -> bytes:
        return CONNECT

    def request(self, messages: Sequence[Message], size: int) -> bytes:
        return b"".join(
            packet(0x30, text(topic_name(each.topic)) + each.data(size).encode())
            for each in messages
        )

    def answer(self, heard: bytes, count: int) -> Answer | None:
        return None


class Mosquitto(Peer):
    name = "mosquitto"
    setting = "WebSocket, QoS 0, no bound on what waits, no persistence"

    def install(self) -> str:
        return shelf.debian_version(shelf.debian("mosquitto", PACKAGES), "mosquitto")

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        root = shelf.debian("mosquitto", PACKAGES)
        config = folder / "mosquitto.conf"
        config.write_text(CONFIG % {"port": port, "back": back})
        return [str(root / "usr/sbin/mosquitto"), "-c", str(config)]

    def environment(self) -> Mapping[str, str]:
        root = shelf.debian("mosquitto", PACKAGES)
        folders = [path.parent for path in root.glob("**/libwebsockets.so*")]
        return {"LD_LIBRARY_PATH": ":".join(map(str, dict.fromkeys(folders)))}

    def talk(self, place: int) -> Talk:
        return MqttTalk()

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        return MqttDesk(), ("127.0.0.1", self._back)
