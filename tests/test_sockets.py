"""Transports over one epoll descriptor: what asyncio promises, in turns, and safe at the end."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from clarion_server.descriptors import MOST
from clarion_server.door import ACCEPTS
from clarion_server.sockets import EVENTS, EXPELLED, Poller, SocketTransport

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")

SECONDS = 5.0


class Recorder(asyncio.Protocol):
    """Notes what the transport tells it."""

    def __init__(self) -> None:
        self.transport: SocketTransport
        self.received = b""
        self.calls: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.on_data: Callable[[bytes], None] = lambda data: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SocketTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.on_data(data)

    def eof_received(self) -> None:
        self.calls.append("eof")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.lost.set_result(exc)


class Place:
    """A poller on a free port, and the protocols of those who came."""

    def __init__(self, most: int = MOST) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.sock.setblocking(False)
        self.protocols: list[Recorder] = []
        self.refused = 0
        self.poller = Poller(
            asyncio.get_running_loop(), self.sock, self._make, self._refuse, most=most
        )

    def _make(self) -> Recorder:
        self.protocols.append(Recorder())
        return self.protocols[-1]

    def _refuse(self) -> None:
        self.refused += 1

    async def connect(self) -> tuple[socket.socket, Recorder]:
        """A client's socket (non-blocking) and the protocol at the other end."""
        count = len(self.protocols)
        client = socket.create_connection(self.sock.getsockname(), timeout=SECONDS)
        client.setblocking(False)
        await until(lambda: len(self.protocols) > count)
        return client, self.protocols[-1]


async def until(true: Callable[[], bool]) -> None:
    """Lets the loop turn until something is true."""
    async with asyncio.timeout(SECONDS):
        while not true():  # noqa: ASYNC110 - what is waited for is the loop's own turns
            await asyncio.sleep(0)


def is_there(protocol: Recorder, end: bytes) -> bool:
    return protocol.received.endswith(end)


async def read(client: socket.socket, size: int = 1 << 20) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await asyncio.get_running_loop().sock_recv(client, size)


async def read_all(client: socket.socket) -> bytes:
    data = b""
    while part := await read(client):
        data += part
    return data


@asynccontextmanager
async def a_place(most: int = MOST) -> AsyncIterator[Place]:
    place = Place(most)
    try:
        yield place
    finally:
        await place.poller.close()
        place.sock.close()


async def test_bytes_go_both_ways() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        client.send(b"hello")
        await until(lambda: protocol.received == b"hello")
        protocol.transport.write(b"good ")
        protocol.transport.write(b"day")
        assert await read(client) == b"good day"
        client.close()
        assert await protocol.lost is None
        assert protocol.calls == ["eof", "lost"]


async def test_what_the_kernel_does_not_take_is_kept_and_written_in_order() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        parts = [bytes([n]) * 3_000_000 for n in range(5)]
        for part in parts:
            protocol.transport.write(part)
        assert protocol.calls[0] == "pause"
        assert "resume" not in protocol.calls
        assert protocol.transport.get_write_buffer_size() > 0
        data = b""
        while len(data) < 15_000_000:
            data += await read(client)
        assert data == b"".join(parts)
        await until(lambda: protocol.calls[-1] == "resume")
        assert protocol.transport.get_write_buffer_size() == 0
        client.close()


async def test_close_comes_after_what_was_written() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        protocol.transport.write(b"x" * 8_000_000)
        protocol.transport.close()
        assert protocol.transport.is_closing()
        assert len(await read_all(client)) == 8_000_000
        assert await protocol.lost is None
        client.close()


async def test_the_end_of_our_side_comes_after_what_was_written_and_theirs_goes_on() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        protocol.transport.write(b"x" * 8_000_000)
        protocol.transport.write_eof()
        assert len(await read_all(client)) == 8_000_000
        client.send(b"still here")
        await until(lambda: protocol.received == b"still here")
        client.close()
        await protocol.lost


async def test_abort_throws_away_what_waits() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        protocol.transport.write(b"x" * 8_000_000)
        protocol.transport.abort()
        assert await protocol.lost is None
        assert len(await read_all(client)) < 8_000_000
        client.close()


async def test_a_reset_by_the_peer_is_an_error_also_while_nobody_reads() -> None:
    async with a_place() as place:
        for reading in (True, False):
            client, protocol = await place.connect()
            protocol.transport.set_protocol(protocol)  # of a newcomer it is seen when he is read
            if not reading:
                protocol.transport.pause_reading()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            async with asyncio.timeout(SECONDS):
                assert isinstance(await protocol.lost, ConnectionResetError)


async def test_nothing_is_read_while_paused() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        protocol.transport.pause_reading()
        assert not protocol.transport.is_reading()
        client.send(b"later")
        other, witness = await place.connect()
        other.send(b"now")
        await until(lambda: witness.received == b"now")
        assert protocol.received == b""
        protocol.transport.resume_reading()
        await until(lambda: protocol.received == b"later")
        client.close()
        other.close()


async def test_an_error_in_a_protocol_ends_that_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        other, witness = await place.connect()

        def fail(data: bytes) -> None:
            raise LookupError("a bug")

        protocol.on_data = fail
        client.send(b"x")
        await protocol.lost
        assert await read_all(client) == b""
        assert "a connection failed" in caplog.text
        other.send(b"fine")
        await until(lambda: witness.received == b"fine")
        client.close()
        other.close()


async def test_one_connection_may_end_another_in_the_same_turn() -> None:
    async with a_place() as place:
        pairs = [await place.connect() for _ in range(10)]

        def end_all(data: bytes) -> None:
            for _, protocol in pairs:
                protocol.transport.abort()

        for _, protocol in pairs:
            protocol.on_data = end_all
        for client, _ in pairs:
            client.send(b"x")
        for client, protocol in pairs:
            await protocol.lost
            client.close()
        assert sum(bool(protocol.received) for _, protocol in pairs) == 1


async def test_a_descriptor_is_closed_only_after_the_protocol_knows() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        fd = protocol.transport.fileno()
        protocol.transport.abort()
        os.fstat(fd)  # still open: whoever goes by number meets nobody else
        await protocol.lost
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        client.close()


async def test_work_is_done_in_turns() -> None:
    async with a_place() as place:
        clients = []
        for _ in range(ACCEPTS + 10):
            client = socket.create_connection(place.sock.getsockname(), timeout=SECONDS)
            clients.append(client)
        await asyncio.sleep(0)
        await until(lambda: bool(place.protocols))
        assert len(place.protocols) <= ACCEPTS
        await until(lambda: len(place.protocols) == len(clients))
        for _ in range(EVENTS + 10 - len(clients)):
            client, _ = await place.connect()
            clients.append(client)
        for client in clients:
            client.send(b"x")
        await until(lambda: all(protocol.received for protocol in place.protocols))
        # Now all of them are in the lobby.
        for client, protocol in zip(clients, place.protocols, strict=True):
            protocol.received = b""
            client.send(b"x")
        await until(lambda: any(protocol.received for protocol in place.protocols))
        assert sum(bool(protocol.received) for protocol in place.protocols) <= EVENTS
        await until(lambda: all(protocol.received for protocol in place.protocols))
        for client in clients:
            client.close()


async def test_what_a_newcomer_sent_is_read_before_anybody_watches_it() -> None:
    async with a_place() as place:
        client = socket.create_connection(place.sock.getsockname(), timeout=SECONDS)
        client.send(b"hello")
        client.shutdown(socket.SHUT_WR)
        await until(lambda: bool(place.protocols))
        (protocol,) = place.protocols
        await until(lambda: protocol.received == b"hello")
        assert await protocol.lost is None
        client.close()


async def test_a_newcomer_that_waits_unread_is_read_when_it_is_read_again() -> None:
    async with a_place() as place:
        for watched in (False, True):
            client, protocol = await place.connect()
            if watched:
                client.send(b"one, ")
                await until(partial(is_there, protocol, b"one, "))
            protocol.transport.pause_reading()
            client.send(b"two")
            for _ in range(5):
                await asyncio.sleep(0)
            assert not protocol.received.endswith(b"two")
            protocol.transport.resume_reading()
            await until(partial(is_there, protocol, b"two"))
            protocol.transport.set_protocol(protocol)
            client.send(b", three")
            await until(partial(is_there, protocol, b", three"))
            protocol.transport.pause_reading()
            protocol.transport.resume_reading()
            client.close()
            assert await protocol.lost is None


async def test_a_newcomer_that_has_gone_while_it_waited_is_met_when_it_is_read_again() -> None:
    async with a_place() as place:
        client, protocol = await place.connect()
        protocol.transport.pause_reading()
        client.close()
        await asyncio.sleep(0)
        assert not protocol.transport.is_closing()
        protocol.transport.resume_reading()
        assert protocol.transport.is_closing()
        assert await protocol.lost is None


async def test_when_it_is_full_who_is_longest_in_the_lobby_makes_room() -> None:
    most = EXPELLED + 3
    async with a_place(most) as place:
        clients = []
        for _ in range(most):
            client, protocol = await place.connect()
            clients.append(client)
            client.send(b"x")  # it is in the lobby once that is read, and so behind the one before
            await until(partial(is_there, protocol, b"x"))
        first, waiting = place.protocols[:2]
        first.transport.set_protocol(first)  # is let in
        waiting.transport.pause_reading()  # has said what it wants
        clients.append((await place.connect())[0])
        assert place.refused == EXPELLED
        gone = place.protocols[2 : EXPELLED + 2]
        await until(lambda: all(there.lost.done() for there in gone))
        staying = [first, waiting, *place.protocols[EXPELLED + 2 :]]
        assert len(staying) == 4
        assert not any(there.lost.done() for there in staying)
        for client in clients:
            client.close()


async def test_without_descriptors_the_backlog_is_told_and_it_goes_on_later() -> None:
    async with a_place() as place:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        waiting = [socket.socket() for _ in range(4)]
        spare = max(int(name) for name in os.listdir("/proc/self/fd"))
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(place.sock.getsockname())
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 3, before[1]))
        held: list[int] = []
        try:
            with suppress(OSError):
                while len(held) < 10_000:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            await until(lambda: place.refused > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for fd in held:
                os.close(fd)
        await until(lambda: len(place.protocols) + place.refused >= len(waiting))
        assert place.protocols, "those who are left are served once there are descriptors"
        for client in waiting:
            client.close()


async def test_close_ends_everyone_and_leaves_nothing_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with a_place() as place:
        pairs = [await place.connect() for _ in range(3)]
    assert all(protocol.lost.done() for _, protocol in pairs)
    for client, _ in pairs:
        client.close()
    assert len(os.listdir("/proc/self/fd")) == before


WITHOUT_EPOLL = """
import asyncio, json, select
del select.epoll, select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
import uvloop, websockets
from clarion_fanout.publication import Draft
from clarion_server import sockets
from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Config, Namespace

OPEN = Namespace(history_size=10, subscribe="everyone", publish="everyone")

async def main():
    anyone = AuthOptions(anonymous=True)
    config = Config(port=0, api_port=0, auth=anyone, namespaces={"default": OPEN})
    worker = Worker(config)
    await worker.start()
    client = await websockets.connect(f"ws://127.0.0.1:{worker.port}/ws")
    await client.recv()
    await client.send(json.dumps({"op": "subscribe", "topic": "a"}))
    await client.recv()
    await worker.broker.publish([Draft("a", b'"hello"')] * 3)
    for offset in (1, 2, 3):
        assert json.loads(await client.recv())["offset"] == offset
    await worker.close()
    await client.wait_closed()
    assert not len(worker.wheel) and not worker.hub.topics
    print("served by", sockets.LoopServer.__name__)

uvloop.run(main())
"""


async def test_without_epoll_the_loops_own_transports_serve() -> None:
    """As on macOS, in a process of its own: what is missing there is taken away first."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WITHOUT_EPOLL, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output == b"served by LoopServer\n"
