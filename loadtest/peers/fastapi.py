"""FastAPI on uvicorn, as its documentation has it: one awaited send after the other."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("fastapi", "uvicorn[standard]")


async def serve(port: int, back: int) -> None:
    """The server. Runs in an environment of its own."""
    import fastapi  # type: ignore[import-not-found, unused-ignore]
    import uvicorn  # type: ignore[import-not-found, unused-ignore]

    app = fastapi.FastAPI()
    topics: defaultdict[str, list[Any]] = defaultdict(list)

    async def client(connection: Any) -> None:
        await connection.accept()
        joined = []
        try:
            while True:
                topic = await connection.receive_text()
                topics[topic].append(connection)
                joined.append(topic)
                await connection.send_text("ok")
        except fastapi.WebSocketDisconnect:
            for topic in joined:
                topics[topic].remove(connection)

    # Not a decorator with an annotation: those are looked up in a module that lacks the package.
    client.__annotations__["connection"] = fastapi.WebSocket
    app.websocket("/ws")(client)

    async def backend(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            topic, data = line.decode().rstrip("\n").split(" ", 1)
            for connection in list(topics[topic]):
                await connection.send_text(data)

    config = uvicorn.Config(
        app, port=port, log_level="warning", ws_ping_interval=None, ws_per_message_deflate=False,
        backlog=4096,
    )  # fmt: skip
    async with await asyncio.start_server(backend, "127.0.0.1", back):
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, in which this file is called like the package
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
else:
    from loadtest.peers import shelf
    from loadtest.peers.peer import Named, Peer
    from loadtest.play.talk import Talk

    NAMES = ("fastapi", "starlette", "uvicorn", "websockets", "uvloop")

    class FastAPI(Peer):
        name = "FastAPI"
        setting = "uvicorn, one process, uvloop; awaits each send; no compression, no pings"

        def install(self) -> str:
            return shelf.python_version(shelf.python("fastapi", PACKAGES), NAMES)

        def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
            python = shelf.python("fastapi", PACKAGES)
            return [str(python), __file__, str(port), str(back)]

        def talk(self, place: int) -> Talk:
            return Named("/ws")
