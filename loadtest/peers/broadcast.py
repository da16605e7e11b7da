"""The `websockets` library, with its `broadcast`: what its documentation recommends for fan-out."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("websockets",)


async def serve(port: int, back: int) -> None:
    """The server. Runs in an environment of its own."""
    from websockets.asyncio.server import broadcast, serve

    topics: defaultdict[str, set[Any]] = defaultdict(set)

    async def client(connection: Any) -> None:
        joined = []
        try:
            async for topic in connection:
                topics[topic].add(connection)
                joined.append(topic)
                await connection.send("ok")
        finally:
            for topic in joined:
                topics[topic].discard(connection)

    async def backend(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            topic, data = line.decode().rstrip("\n").split(" ", 1)
            broadcast(topics[topic], data)

    async with serve(client, "127.0.0.1", port, compression=None, ping_interval=None, backlog=4096):
        await (await asyncio.start_server(backend, "127.0.0.1", back)).serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
else:
    from loadtest.peers import shelf
    from loadtest.peers.peer import Peer

    class Broadcast(Peer):
        name = "websockets"
        setting = "websockets.broadcast, asyncio's loop, no compression, no pings"

        def install(self) -> str:
            return shelf.python_version(shelf.python("websockets", PACKAGES), PACKAGES)

        def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
            python = shelf.python("websockets", PACKAGES)
            return [str(python), __file__, str(port), str(back)]
