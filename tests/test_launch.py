"""One worker in the process that was started. Several: test_supervisor.py; signals: test_app.py."""

from __future__ import annotations

import asyncio
import signal

from support.server import serving
from support.waiting import DEADLINE
from support.wire import connected


async def test_a_second_ctrl_c_does_not_wait_for_the_clients() -> None:
    async with serving(CLARION_KEEPALIVE_CLOSE_S="60") as server, connected(server.port) as client:
        server.process.send_signal(signal.SIGINT)
        assert (await client.goodbye())[0] == 4000  # and the client does not go
        assert server.process.returncode is None
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE):
            assert await server.process.wait() == 130
        await client.ended()


async def test_a_second_sigterm_changes_nothing() -> None:
    """Service managers send it to everybody, and the parent of workers to its children again."""
    async with serving(CLARION_KEEPALIVE_CLOSE_S="0.5") as server, connected(server.port) as client:
        server.process.terminate()
        assert (await client.goodbye())[0] == 4000
        server.process.terminate()
        async with asyncio.timeout(DEADLINE):
            assert await server.process.wait() == 0
