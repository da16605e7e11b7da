"""The public port under random input, with a witness who must not notice.

All randomness comes from a seed, which the name of the test shows. Each round opens connections,
sends something that was once valid, more or less, reads for a moment, and leaves in some way.
Meanwhile a witness is subscribed, and must get each publication once and in order.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest

from clarion_server.app import Worker
from clarion_server.options import Keepalive, Limits, Namespace, WindowOptions
from support.server import clients, configuration, publish, running
from support.waiting import until
from support.wire import (
    CLOSE,
    Wire,
    closing,
    command,
    connected,
    get,
    handshake,
    masked,
    wire,
)

ROUNDS = 150
"""Connections of each kind and seed: a second, about."""

MEMORY = 3 * 1024 * 1024
"""What the worker may hold more after one half of the rounds than after the other. Growth by a
leak of one connection's objects, 1.5 KB each, is found by the objects' count."""

HEADS = (
    handshake(),
    handshake("/ws?token=x", "Origin: http://localhost", "Cookie: a=b"),
    handshake(protocol="clarion.v1, other"),
    get("/sse?topic=fuzz&topic=b&last=3", "Last-Event-ID: fuzz|x|1;b|y|2"),
    get("/livez"),
    get("/readyz", method="HEAD"),
    get("/sse?topic=a", "Origin: http://localhost", method="OPTIONS"),
    get("/ws", "Content-Length: 10", method="POST") + b"0123456789",
)

COMMANDS = (
    '{"op":"ping","id":1}',
    '{"op":"subscribe","id":"x","topic":"fuzz","last":5}',
    '{"op":"subscribe","topic":"fuzz","since":{"epoch":"x","offset":3}}',
    '{"op":"subscribe","topics":[{"topic":"a"},{"topic":"b","last":2},{"topic":"fuzz"}]}',
    '{"op":"unsubscribe","topic":"fuzz"}',
    '{"op":"publish","topic":"other","data":{"a":[1,2.5,"x",null,true]}}',
    '{"op":"history","topic":"fuzz","limit":10,"reverse":true}',
    '{"op":"presence","topic":"fuzz"}',
    '{"op":"refresh","token":"a.b.c"}',
    '{"op":"connect","token":"a.b.c","name":"x"}',
)

TOKENS = (
    *("{", "}", "[", "]", '"', ":", ",", "\\", "\\u0000", "\\ud83d", "null", "true", "NaN"),
    *("-1", "1e400", "9" * 40, "0.1", '"op"', '"topic"', '"since"', '"' + "x" * 300 + '"'),
    *("\u00e9", "\U0001f600", "\x7f", " ", "\n", "#", "user:ada", "*", "a:b"),
)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, lost, doubled or moved."""
    result = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(result) + 1)
        end = min(place + rng.choice((1, 1, 2, 8, 40)), len(result))
        match rng.randrange(6):
            case 0:
                result[place:end] = rng.randbytes(end - place)
            case 1:
                del result[place:end]
            case 2:
                result[place:place] = result[place:end]
            case 3:
                result[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
            case 4 if place < len(result):
                result[place] ^= 1 << rng.randrange(8)
            case _:
                result[place:end] = rng.choice((b"\r\n", b"\0", b"\r\n\r\n", b" ", b"\xff", b":"))
    return bytes(result)


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 100, 1000, 20_000)))


def heads(rng: random.Random) -> bytes:
    return mutated(rng, rng.choice(HEADS)) + rng.choice((b"", command("ping"), noise(rng)))


def frames(rng: random.Random) -> bytes:
    """Frames, some of them wrong."""
    sent = []
    for _ in range(rng.randint(1, 8)):
        text = rng.choice(COMMANDS).encode()
        cut = rng.randrange(len(text))
        frame = rng.choice(
            (
                masked(text),
                masked(text[:cut], fin=False) + masked(text[cut:], 0),
                masked(rng.randbytes(rng.randrange(126)), rng.choice((9, 10))),
                masked(rng.randbytes(rng.choice((0, 5, 200, 70_000))), rng.randrange(16)),
                closing(rng.choice((999, 1000, 1005, 3000, 65535)), "x" * rng.randrange(120)),
                masked(rng.randbytes(rng.randrange(4)), CLOSE),
            )
        )
        sent.append(mutated(rng, frame) if rng.random() < 0.5 else frame)
    return b"".join(sent)


def commands(rng: random.Random) -> bytes:
    """Whole frames with commands that were changed as text, or made of their parts."""
    sent = []
    for _ in range(rng.randint(1, 20)):
        text = rng.choice(COMMANDS)
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(text) + 1)
            end = min(place + rng.choice((0, 1, 5, 20)), len(text))
            text = text[:place] + rng.choice(TOKENS) + text[end:]
        if rng.random() < 0.1:
            text = "".join(rng.choices(TOKENS, k=30))
        sent.append(masked(text.encode()))
    return b"".join(sent)


async def attack(worker: Worker, rng: random.Random, kind: str, made: bytes) -> None:
    """One connection: sends, in pieces, reads a little, and leaves."""
    async with wire(worker.port, receive_buffer=rng.choice((0, 0, 4096))) as client:
        with suppress(ConnectionError, EOFError):
            if kind in ("frames", "commands"):
                await client.upgrade()
            start = 0
            while start < len(made):
                size = rng.choice((1, 7, 100, 5000, 100_000))
                await client.send(made[start : start + size])
                start += size
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            for _ in range(rng.randrange(3)):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await asyncio.get_running_loop().sock_recv(client.sock, 100_000)
            rng.choice((client.close, client.reset, client.end, lambda: None))()


async def publishes(worker: Worker) -> None:
    number = 0
    try:
        while True:
            for _ in range(3):
                await publish(worker, "fuzz", number)
                number += 1
            await asyncio.sleep(0.002)
    finally:
        await publish(worker, "fuzz", "last")


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    "noise": noise,
    "heads": heads,
    "frames": frames,
    "commands": commands,
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", list(MAKERS))
async def test_the_witness_hears_everything_and_nothing_is_left(kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    config = configuration(
        limits=Limits(handshake_s=0.5, connect_s=0.5),
        keepalive=Keepalive(ping_s=0.5, pong_s=10, close_s=0.3),
        window=WindowOptions(bytes=256 * 1024, seconds=0.5),
        namespaces={"user": Namespace()},
    )
    async with running(config) as worker:
        tasks = len(asyncio.all_tasks())
        async with connected(worker.port) as client:
            await client.subscribe("fuzz")
            memory: list[int] = []
            tracemalloc.start()
            try:
                async with asyncio.TaskGroup() as group:
                    hearing = group.create_task(hears(client))
                    publishing = group.create_task(publishes(worker))
                    for _ in range(2):
                        await rounds(worker, rng, kind)
                        # One that was closed at once may still wait to be accepted.
                        await asyncio.sleep(0.1)
                        await until(lambda: clients(worker) == len(worker.wheel) == 1)
                        gc.collect()
                        memory.append(tracemalloc.get_traced_memory()[0])
                    publishing.cancel()
            finally:
                tracemalloc.stop()
            assert hearing.result() > 10
            assert memory[1] - memory[0] < MEMORY
            assert set(worker.hub.topics) == {"fuzz"}
            assert worker.hub.subscriptions == 1
            assert len(asyncio.all_tasks()) <= tasks
        await until(lambda: not clients(worker))
        assert not worker.hub.topics
        assert not worker.hub.subscriptions
        assert not len(worker.wheel)


async def rounds(worker: Worker, rng: random.Random, kind: str) -> None:
    """Half of the attacks, five at a time."""
    for _ in range(ROUNDS // 10):
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(attack(worker, rng, kind, MAKERS[kind](rng)))


async def hears(client: Wire) -> int:
    """The witness: answers pings, and counts what is published, up to the last."""
    expected = 0
    while True:
        opcode, payload = await client.frame()
        if opcode == 9:
            await client.send(masked(payload, 10))
            continue
        message = json.loads(payload)
        assert message["op"] == "message"
        if message["data"] == "last":
            return expected
        assert message["data"] == expected
        expected += 1
