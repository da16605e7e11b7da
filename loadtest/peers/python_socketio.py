"""python-socketio: Socket.IO's rooms, on uvicorn."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("python-socketio", "uvicorn[standard]")


async def serve(port: int, back: int) -> None:
    """The server. Runs in an environment of its own."""
    import socketio  # type: ignore[import-not-found, unused-ignore]
    import uvicorn  # type: ignore[import-not-found, unused-ignore]

    server = socketio.AsyncServer(async_mode="asgi", ping_interval=3600, cors_allowed_origins="*")

    @server.event  # type: ignore[untyped-decorator, unused-ignore]
    async def subscribe(sid: str, topic: str) -> None:
        await server.enter_room(sid, topic)
        await server.emit("subscribed", topic, to=sid)

    async def backend(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            topic, data = line.decode().rstrip("\n").split(" ", 1)
            await server.emit("message", json.loads(data), room=topic)

    config = uvicorn.Config(
        socketio.ASGIApp(server), port=port, log_level="warning", ws_ping_interval=None,
        ws_per_message_deflate=False, backlog=4096,
    )  # fmt: skip
    async with await asyncio.start_server(backend, "127.0.0.1", back):
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    sys.path.pop(0)
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
else:
    from loadtest.peers import shelf
    from loadtest.peers.peer import Peer
    from loadtest.peers.socketio import SocketIOTalk
    from loadtest.play.talk import Talk

    NAMES = ("python-socketio", "python-engineio", "uvicorn", "uvloop")

    class PythonSocketIO(Peer):
        name = "python-socketio"
        setting = "rooms, WebSocket transport, uvicorn with uvloop; no compression, no pings"

        def install(self) -> str:
            return shelf.python_version(shelf.python("python-socketio", PACKAGES), NAMES)

        def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
            python = shelf.python("python-socketio", PACKAGES)
            return [str(python), __file__, str(port), str(back)]

        def talk(self, place: int) -> Talk:
            return SocketIOTalk()
