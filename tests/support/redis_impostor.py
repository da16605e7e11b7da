"""What answers as a Redis of another kind does: another version, or a node that is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress


class Impostor:
    """Answers commands by their first word, or their first two; `OK` to all others.

    answers: what it answers, as RESP.
    patience_s: it closes a connection on which nothing is asked for so long.
    """

    def __init__(self, answers: Mapping[bytes, bytes], patience_s: float = 60) -> None:
        self.answers = dict(answers)
        self.port = 0
        self.connections = 0
        self._patience_s = patience_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, TimeoutError, OSError):
            while True:
                async with asyncio.timeout(self._patience_s):
                    command = await _command(reader)
                answer = self.answers.get(b" ".join(command[:2])) or self.answers.get(command[0])
                writer.write(answer or b"+OK\r\n")
        writer.close()


async def _command(reader: asyncio.StreamReader) -> list[bytes]:
    words = int((await reader.readuntil(b"\r\n"))[1:])
    command: list[bytes] = []
    for _ in range(words):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        command.append((await reader.readexactly(size + 2))[:-2])
    return command


def bulk(text: str) -> bytes:
    """A text as an answer."""
    return b"$%d\r\n%b\r\n" % (len(text.encode()), text.encode())


@asynccontextmanager
async def impostor(
    answers: Mapping[bytes, bytes], patience_s: float = 60
) -> AsyncIterator[Impostor]:
    made = Impostor(answers, patience_s)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
