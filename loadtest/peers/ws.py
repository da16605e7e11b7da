"""npm's `ws`, with the loop of sends that its documentation has for broadcasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest.peers import shelf
from loadtest.peers.peer import HERE, Peer


class Ws(Peer):
    name = "ws"
    setting = "no compression, no pings"

    def install(self) -> str:
        return shelf.node_version(shelf.node("ws", ["ws"]), "ws")

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        return ["node", str(HERE / "ws.cjs"), str(port), str(back)]

    def environment(self) -> Mapping[str, str]:
        return {"NODE_PATH": str(shelf.node("ws", ["ws"]))}
