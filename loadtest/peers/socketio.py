"""npm's socket.io: rooms, over its WebSocket transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest import wire
from loadtest.peers import shelf
from loadtest.peers.peer import HERE, Peer
from loadtest.play.stamp import topic_name
from loadtest.play.talk import Client, Greeting, Talk, WebSocket, until, upgrade, upgraded


class SocketIOTalk(WebSocket):
    """Engine.IO 4 (packet 0: open) and Socket.IO 5 (40: connect, 42: event), in text frames."""

    def arrive(self, client: Client, port: int) -> Greeting:
        yield from upgraded(upgrade(port, "/socket.io/?EIO=4&transport=websocket"))
        yield from until(b'0{"sid"')
        yield from until(b"40{", wire.client_frame(wire.TEXT, b"40"))
        for topic in client.topics:
            event = "42" + json.dumps(["subscribe", topic_name(topic)])
            yield from until(b'42["subscribed"', wire.client_frame(wire.TEXT, event.encode()))


class SocketIO(Peer):
    name = "socket.io"
    setting = "rooms, WebSocket transport, ws as its engine; no compression, no pings"

    def install(self) -> str:
        return shelf.node_version(shelf.node("socketio", ["socket.io"]), "socket.io")

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        return ["node", str(HERE / "socketio.cjs"), str(port), str(back)]

    def environment(self) -> Mapping[str, str]:
        return {"NODE_PATH": str(shelf.node("socketio", ["socket.io"]))}

    def talk(self, place: int) -> Talk:
        return SocketIOTalk()
