"""The proxy that client tests put between a client and a server: each fault is what it says."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from support.bad_network import BadNetwork, bad_network
from support.waiting import DEADLINE, until

TESTS = Path(__file__).parent


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Sends back what it gets; yields its port."""
    writers: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while chunk := await reader.read(4096):
                writer.write(chunk)
        except ConnectionError:
            pass
        finally:
            writer.close()
            writers.discard(writer)

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await until(lambda: not writers)


@asynccontextmanager
async def network() -> AsyncIterator[BadNetwork]:
    async with echo_server() as port, bad_network(port) as made:
        yield made


class Wire:
    """A plain connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def echoes(self, text: bytes) -> bool:
        self.writer.write(text)
        async with asyncio.timeout(DEADLINE):
            return await self.reader.readexactly(len(text)) == text

    async def is_reset(self) -> bool:
        async with asyncio.timeout(DEADLINE):
            try:
                await self.reader.read()
            except ConnectionResetError:
                return True
        return False


@asynccontextmanager
async def wire(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def test_carries_both_ways_and_hands_on_an_end() -> None:
    async with network() as bad, wire(bad.port) as talk:
        assert await talk.echoes(b"hello")
        assert bad.open == 1
        talk.writer.write_eof()
        assert await talk.reader.read() == b""
        await until(lambda: bad.open == 0)
        assert bad.fates == ["carried"]


async def test_cut_resets_every_connection() -> None:
    async with network() as bad, wire(bad.port) as one, wire(bad.port) as two:
        assert await one.echoes(b"1")
        assert await two.echoes(b"2")
        bad.cut()
        assert await one.is_reset()
        assert await two.is_reset()
        await until(lambda: bad.open == 0)


async def test_a_stalled_network_holds_everything_back_and_loses_nothing() -> None:
    async with network() as bad, wire(bad.port) as talk:
        assert await talk.echoes(b"before")
        bad.stall()
        talk.writer.write(b"meanwhile")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await talk.reader.read(1)
        bad.flow()
        assert await talk.reader.readexactly(9) == b"meanwhile"


async def test_a_stalled_network_can_be_cut() -> None:
    async with network() as bad, wire(bad.port) as talk:
        assert await talk.echoes(b"before")
        bad.stall()
        talk.writer.write(b"meanwhile")
        bad.cut()
        assert await talk.is_reset()


async def test_attempts_meet_their_fates_in_the_order_planned() -> None:
    async with network() as bad:
        bad.refuse(times=2)
        bad.answer(503, retry_after="7")
        for _ in range(2):
            async with wire(bad.port) as talk:
                assert await talk.is_reset()
        async with wire(bad.port) as talk:
            talk.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answer = await talk.reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 7\r\n" in answer
        async with wire(bad.port) as talk:
            assert await talk.echoes(b"carried")
        assert bad.fates == ["refused", "refused", "answered", "carried"]
        assert bad.attempts == sorted(bad.attempts)


async def test_a_delayed_attempt_is_overtaken() -> None:
    async with network() as bad:
        bad.delay(0.2)
        async with wire(bad.port) as late, wire(bad.port) as early:
            late.writer.write(b"late")
            assert await early.echoes(b"early")
            assert await late.reader.readexactly(4) == b"late"


async def test_a_swallowed_attempt_gets_no_byte() -> None:
    async with network() as bad:
        bad.swallow()
        async with wire(bad.port) as talk:
            talk.writer.write(b"anybody there?")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await talk.reader.read(1)


async def test_a_connection_is_cut_after_the_byte_that_was_named() -> None:
    async with network() as bad:
        bad.cut_after(7)
        async with wire(bad.port) as talk:
            talk.writer.write(b"0123456789")
            assert await talk.reader.readexactly(7) == b"0123456"
            assert await talk.is_reset()


async def test_while_it_is_down_every_attempt_is_refused_and_the_plan_waits() -> None:
    async with network() as bad:
        bad.delay(0)
        bad.down()
        for _ in range(2):
            async with wire(bad.port) as talk:
                assert await talk.is_reset()
        bad.up()
        async with wire(bad.port) as talk:
            assert await talk.echoes(b"up")
        assert bad.state()["planned"] == 0


async def test_as_a_process_it_is_driven_over_http_and_ends_with_its_standard_input() -> None:
    async with echo_server() as port:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "support.bad_network", str(port)),
            cwd=TESTS,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(DEADLINE):
                said = json.loads(await process.stdout.readline())
            async with wire(said["port"]) as talk, aiohttp.ClientSession() as session:
                assert await talk.echoes(b"hello")
                async with session.get(f"{said['control']}/state") as response:
                    state = await response.json()
                assert (state["open"], state["fates"], state["target"]) == (1, ["carried"], port)
                async with session.post(f"{said['control']}/cut") as response:
                    assert response.status == 200
                assert await talk.is_reset()
                async with session.post(f"{said['control']}/refuse?times=3") as response:
                    assert (await response.json())["planned"] == 3
                async with session.post(f"{said['control']}/refuse?times=many") as response:
                    assert response.status == 400
                async with session.post(f"{said['control']}/burn") as response:
                    assert response.status == 404
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(DEADLINE):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
