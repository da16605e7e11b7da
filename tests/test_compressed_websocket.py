"""Compression against a running worker: who gets what, and what hostile clients get."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect

from clarion_server.app import Worker
from clarion_server.deflate import compress
from clarion_server.options import AuthOptions, Config, Keepalive, Limits, Namespace, WindowOptions
from clarion_server.pipeline.options import Compress
from clarion_server.websocket import CompressedWebSocket
from support.server import SECRET, clients, configuration, publish, running
from support.waiting import until
from support.wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    Wire,
    command,
    masked,
    streaming,
    wire,
)

BROWSER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
BOARD = [{"flight": f"B6{number}", "from": "JFK", "delay": number} for number in range(40)]
"""Some 1,700 bytes, which become a sixth."""

TINY = 4096


def compressing(**options: Any) -> Config:
    everybody: dict[str, Any] = {"subscribe": "everyone", "publish": "everyone"}
    steps = (Compress(min_bytes=200, level=6),)
    namespaces = {
        "boards": Namespace(history_size=50, pipeline=steps, **everybody),
        "fleeting": Namespace(pipeline=steps, slow="latest", **everybody),
    }
    return configuration(namespaces=namespaces, **options)


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running(compressing()) as worker:
        yield worker


@asynccontextmanager
async def arriving(
    worker: Worker, offer: str = BROWSER, path: str = "/ws", receive_buffer: int = 0
) -> AsyncIterator[Wire]:
    """A client that has agreed to compression."""
    async with wire(worker.port, receive_buffer=receive_buffer) as client:
        await client.upgrade(path, offer)
        bits = offer.partition("server_max_window_bits=")[2]
        client.window = int(bits or 15)
        yield client


@asynccontextmanager
async def connected(
    worker: Worker, offer: str = BROWSER, receive_buffer: int = 0
) -> AsyncIterator[Wire]:
    async with arriving(worker, offer, receive_buffer=receive_buffer) as client:
        await client.said("welcome")
        yield client


def squeezed(text: bytes, opcode: int = TEXT, **how: Any) -> bytes:
    """A compressed message as a client sends it."""
    return masked(compress(text, 6), RSV1 | opcode, **how)


# Out


async def test_messages_are_compressed_and_answers_are_not(worker: Worker) -> None:
    async with connected(worker) as client:
        await client.subscribe("boards:JFK")
        await publish(worker, "boards:JFK", BOARD)
        assert (await client.said("message"))["data"] == BOARD
        assert len(client.compressed) == 1
        assert len(client.compressed[0]) < 400
        await client.send(command("history", topic="boards:JFK"))
        assert (await client.said("history"))["messages"][0]["data"] == BOARD
        await client.send(masked(b"p", PING))
        assert await client.frame() == Frame(PONG, b"p")
        assert len(client.compressed) == 1


@pytest.mark.parametrize(
    ("topic", "data"),
    [("boards:JFK", "short"), ("bare:JFK", BOARD), ("news", BOARD)],
    ids=["small", "another namespace", "the default one"],
)
async def test_what_the_namespace_does_not_want_compressed_is_not(
    worker: Worker, topic: str, data: object
) -> None:
    async with connected(worker) as client:
        await client.subscribe(topic)
        await publish(worker, topic, data)
        assert (await client.said("message"))["data"] == data
        assert client.compressed == []


async def test_everybody_gets_the_same_message_and_it_is_compressed_once(worker: Worker) -> None:
    """Compressed, plain, through a narrow window, and as an event."""
    narrow = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9"
    async with (
        connected(worker) as one,
        connected(worker) as another,
        connected(worker, narrow) as small,
        connected(worker, "X-None: 1") as plain,
        streaming(worker.port, ["boards:JFK"]) as stream,
    ):
        plain.window = 0
        for client in (one, another, small, plain):
            await client.subscribe("boards:JFK")
        assert (await stream.event())["event"] == "subscribed"
        assert worker.counters.compressed_connections == 3
        await publish(worker, "boards:JFK", BOARD)
        await publish(worker, "boards:JFK", BOARD[:9])  # fits the small window
        for client in (one, another, small, plain):
            heard = [(await client.said("message"))["data"] for _ in range(2)]
            assert heard == [BOARD, BOARD[:9]]
        assert json.loads((await stream.event())["data"])["data"] == BOARD
        assert [len(c.compressed) for c in (one, another, small, plain)] == [2, 2, 1, 0]
        assert small.compressed == one.compressed[1:]
        assert worker.counters.compressed == {"compressed": 2}
    await until(lambda: not clients(worker))
    assert worker.counters.compressed_connections == 0


async def test_what_was_missed_comes_compressed_and_is_not_compressed_again(worker: Worker) -> None:
    async with connected(worker) as client:
        await client.subscribe("boards:JFK")
        for number in range(10):
            await publish(worker, "boards:JFK", [number, *BOARD])
            await client.said("message")
    async with connected(worker) as late:
        await late.subscribe("boards:JFK", last=10)
        heard = [(await late.said("message"))["data"] for _ in range(10)]
        assert heard == [[number, *BOARD] for number in range(10)]
        assert late.compressed == client.compressed
    assert worker.counters.compressed == {"compressed": 10}


async def test_who_is_behind_gets_the_same_frames_and_they_count_as_they_are() -> None:
    """The window would not take so much that is not compressed."""
    window = WindowOptions(bytes=64 * 1024, seconds=60)
    async with running(compressing(window=window)) as worker:
        async with connected(worker, receive_buffer=TINY) as client:
            await client.subscribe("bare:block")
            await client.subscribe("boards:JFK")
            while not worker.counters.windows:
                await publish(worker, "bare:block", "x" * 20_000)
                await asyncio.sleep(0)
            for number in range(100):
                await publish(worker, "boards:JFK", [number, *BOARD])
                await asyncio.sleep(0)
            (behind,) = worker.counters.windows
            assert 100 * 100 < behind.bytes < 100 * 600
            said: list[Any] = []
            while len(said) < 100:
                message = await client.said("message")
                if message["topic"] == "boards:JFK":
                    said.append(message)
            assert [message["data"] for message in said] == [[n, *BOARD] for n in range(100)]
            assert len(client.compressed) == 100
            await until(lambda: not worker.counters.windows)
        assert worker.counters.too_slow.total() == 0


async def test_the_newest_of_a_topic_may_take_the_place_of_another_compressed_one() -> None:
    config = compressing(window=WindowOptions(seconds=60))
    async with running(config) as worker, connected(worker, receive_buffer=TINY) as client:
        for topic in ("bare:block", "fleeting:a"):
            await client.subscribe(topic)
        while not worker.counters.windows:
            await publish(worker, "bare:block", "x" * 20_000)
            await asyncio.sleep(0)
        for number in range(50):
            await publish(worker, "fleeting:a", [number, *BOARD])
            await asyncio.sleep(0)
        while (message := await client.said("message"))["topic"] != "fleeting:a":
            pass
        assert message["data"][0] == 49
        assert len(client.compressed) == 1


async def test_a_turns_publications_are_joined_into_one_write(worker: Worker) -> None:
    """Compressed frames are frames as others are: some of one write may be, and others not."""
    async with connected(worker) as client:
        await client.subscribe("boards:JFK")
        data = [BOARD, "short", BOARD[:20], 1, BOARD]
        await asyncio.gather(*(publish(worker, "boards:JFK", one) for one in data))
        assert [(await client.said("message"))["data"] for _ in data] == data
        assert len(client.compressed) == 3


# In


async def test_commands_may_be_compressed_or_not(worker: Worker) -> None:
    async with connected(worker) as client:
        subscribe = b'{"op":"subscribe","id":1,"topic":"boards:JFK"}'
        await client.send(squeezed(subscribe))
        assert (await client.said("subscribed"))["id"] == 1
        board = json.dumps({"op": "publish", "topic": "boards:JFK", "data": BOARD}).encode()
        body = compress(board, 6)
        await client.send(
            masked(body[:50], RSV1 | TEXT, fin=False),
            masked(b"p", PING),
            masked(body[50:60], 0, fin=False),
            masked(body[60:], 0),
        )
        assert await client.frame() == Frame(PONG, b"p")
        heard = [await client.said() for _ in range(2)]
        assert {message["op"] for message in heard} == {"published", "message"}
        await client.send(command("ping", id=2), squeezed(b'{"op":"ping","id":3}'))
        assert [(await client.said("pong"))["id"] for _ in range(2)] == [2, 3]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(masked(b"\x00", RSV1 | PING), 1002, id="a compressed ping"),
        pytest.param(masked(b"\xff\xff", RSV1 | TEXT), 1002, id="no DEFLATE"),
        pytest.param(masked(b"", RSV1 | TEXT), 1002, id="nothing"),
        pytest.param(masked(compress(b"x", 6) + b"\x03\x00junk", RSV1 | TEXT), 1002, id="junk"),
        pytest.param(squeezed(b"\xff"), 1007, id="no text"),
        pytest.param(squeezed(b"\0" * 65_537), 1009, id="a byte too large"),
        pytest.param(masked(b"\x00", 0x20 | TEXT), 1002, id="RSV2"),
        pytest.param(
            masked(b"\x00", RSV1 | TEXT, fin=False) + masked(b"", RSV1), 1002, id="RSV1 again"
        ),
        pytest.param(
            masked(b"", RSV1 | TEXT, fin=False) + masked(b"", 0, fin=False) * 1024,
            1008,
            id="too many frames",
        ),
    ],
)
async def test_what_breaks_the_rules_is_closed(worker: Worker, frames: bytes, code: int) -> None:
    async with connected(worker) as client:
        await client.send(frames)
        assert (await client.goodbye())[0] == code
        assert await client.ended()
    await until(lambda: not clients(worker))


async def test_a_compressed_binary_message_is_one(worker: Worker) -> None:
    async with connected(worker) as client:
        await client.send(squeezed(b"x", BINARY))
        assert (await client.goodbye())[0] == 1003


async def test_a_bomb_is_refused_before_anybody_knows_who_sends_it() -> None:
    """Up to 64 KiB are decompressed, whatever is announced; a token of that size is none."""
    auth = AuthOptions(secret=SECRET)
    bomb = compress(b'{"op":"connect","token":"' + b"A" * (40 << 20), 9)
    async with running(compressing(auth=auth)) as worker:
        for frames in (
            masked(bomb, RSV1 | TEXT),
            masked(bomb[:30_000], RSV1 | TEXT, fin=False) + masked(bomb[30_000:], 0),
        ):
            began = time.thread_time()
            async with arriving(worker) as client:
                await client.send(frames)
                assert (await client.goodbye())[0] == 1009
            assert time.thread_time() - began < 0.5  # it would take longer to decompress 40 MB


PING_OF_64_KIB = b'{"op":"ping","id":1,"pad":"' + b"x" * 65_000 + b'"}'


async def test_many_bombs_in_one_read_are_all_answered(worker: Worker) -> None:
    async with connected(worker) as client:
        await client.send(squeezed(PING_OF_64_KIB) * 300, command("ping", id=2))
        for _ in range(300):
            assert (await client.said("pong"))["id"] == 1
        assert (await client.said("pong"))["id"] == 2


async def test_bombs_of_who_does_not_read_stay_small(worker: Worker) -> None:
    """What a client sends while it is behind waits compressed, and is answered when it reads."""
    async with connected(worker, receive_buffer=TINY) as client:
        await client.subscribe("bare:block")
        while not worker.counters.windows:
            await publish(worker, "bare:block", "x" * 20_000)
            await asyncio.sleep(0)
        (peer,) = worker.directory.peers()
        assert isinstance(peer, CompressedWebSocket)
        await client.send(squeezed(PING_OF_64_KIB) * 100)  # one read
        await until(lambda: not peer.transport.is_reading())
        assert 0 < held(peer) <= 3 * 65_536
        peer.data_received(command("ping", id=2))  # as from a transport that had read on
        pongs: list[int] = []
        while len(pongs) < 101:
            said = await client.said()
            if said["op"] == "pong":
                pongs.append(said["id"])
        assert pongs == [*[1] * 100, 2]
        await until(lambda: held(peer) == 0)


async def test_bombs_beyond_the_commands_in_flight_stay_small() -> None:
    """What waits for a place among them is put off in the same way."""
    config = compressing(limits=Limits(in_flight=1))
    async with running(config) as worker, connected(worker) as client:
        publication = json.dumps({"op": "publish", "topic": "news", "data": "x" * 60_000}).encode()
        (peer,) = worker.directory.peers()
        assert isinstance(peer, CompressedWebSocket)
        await client.send(squeezed(publication) * 100, command("ping", id=2))
        most = 0
        answers: Counter[str] = Counter()
        while not answers["pong"]:
            answers[(await client.said())["op"]] += 1
            most = max(most, held(peer))
        assert answers["published"] >= 99
        assert most <= 3 * 65_536


def held(peer: CompressedWebSocket) -> int:
    """Bytes of a client's messages that wait to be handled."""
    rest = sum(len(event.payload) for event in peer._rest or ())
    return rest + sum(len(text) for text in peer.session._backlog or ())


@pytest.mark.parametrize("times", [1, 100])
async def test_a_close_behind_bombs_is_seen(worker: Worker, times: int) -> None:
    """Of a client that is closed meanwhile for what it sends."""
    bad = squeezed(b'{"op":"nonsense","pad":"' + b"x" * 65_000 + b'"}')
    async with connected(worker) as client:
        began = time.monotonic()
        await client.send(bad * (100 + times) + masked(b"\x11\x94", CLOSE))
        code, goodbye = await client.goodbye()
        assert code == goodbye["code"] == 4500
        assert await client.ended()  # and not a reset, which would come after `close_s`
        assert time.monotonic() - began < 0.9


async def test_a_compressed_message_may_be_as_large_as_others(worker: Worker) -> None:
    start = b'{"op":"ping","id":1,"pad":"'
    text = start + b"x" * (65_536 - len(start) - 2) + b'"}'
    async with connected(worker) as client:
        await client.send(squeezed(text))
        assert await client.said("pong") == {"op": "pong", "id": 1}


async def test_a_message_that_is_never_completed_does_not_stay() -> None:
    config = compressing(limits=Limits(message_s=0.3), keepalive=Keepalive(ping_s=0.1))
    async with running(config) as worker, connected(worker) as client:
        await client.send(masked(b"\x00", RSV1 | TEXT, fin=False))
        code, goodbye = await client.goodbye()
        assert code == goodbye["code"] == 4500


async def test_nothing_is_agreed_on_where_nothing_is_compressed() -> None:
    async with running(configuration()) as worker, wire(worker.port) as client:
        await client.upgrade("/ws", BROWSER)
        await client.said("welcome")
        await client.send(squeezed(b"{}"))
        assert (await client.goodbye())[0] == 1002
        assert worker.counters.compressed_connections == 0


async def test_echo_sends_back_compressed_what_fits_the_clients_window() -> None:
    config = compressing(development=True, echo=True)
    async with running(config) as worker:
        offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10"
        async with arriving(worker, offer, "/echo") as client:
            for opcode in (TEXT, BINARY):
                for text in (b"", b"a" * 1024, b"b" * 1025):
                    await client.send(squeezed(text, opcode))
                    assert await client.frame() == Frame(opcode, text)
            assert len(client.compressed) == 4


async def test_the_librarys_client_agrees_and_hears(worker: Worker) -> None:
    """As people use it: it offers compression by itself, and compresses what it sends."""
    async with connect(f"ws://127.0.0.1:{worker.port}/ws", proxy=None) as socket:
        (extension,) = socket.protocol.extensions
        assert extension.name == "permessage-deflate"
        async with asyncio.timeout(10):
            assert json.loads(await socket.recv())["op"] == "welcome"
            await socket.send(
                json.dumps({"op": "subscribe", "topic": "boards:JFK", "pad": "x" * 300})
            )
            assert json.loads(await socket.recv())["op"] == "subscribed"
            for number in range(3):
                await publish(worker, "boards:JFK", [number, *BOARD])
                assert json.loads(await socket.recv())["data"] == [number, *BOARD]
    assert worker.counters.compressed == {"compressed": 3}


async def test_a_close_ends_it_as_any_other(worker: Worker) -> None:
    async with connected(worker) as client:
        await client.send(masked(b"\x03\xe8", CLOSE))
        assert (await client.goodbye())[0] == 1000
        assert await client.ended()
