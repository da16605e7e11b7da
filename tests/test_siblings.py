"""Workers that tell each other's metrics, and what those do who do not play by the rules."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from clarion_fanout.tasks import Tasks
from clarion_server.board import Board, Seat
from clarion_server.options import Config
from clarion_server.siblings import DEADLINE_SECONDS, MAX_QUESTION_BYTES, Siblings
from support.private_api import Api
from support.waiting import DEADLINE, until

COUNT = 3


class House:
    """Three workers in this loop, that know each other as processes would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board = Board(COUNT)
        self.tasks = Tasks()
        self.apis = [Api(Config(), None) for _ in range(COUNT)]
        self.siblings = [
            Siblings(
                seat=Seat(self.board, number),
                metrics=api.metrics,
                tasks=self.tasks,
                folder=folder,
            )
            for number, api in enumerate(self.apis)
        ]
        for number, api in enumerate(self.apis):
            api.counters.messages_in = number + 1
            self.board.place(number, 100 + number)

    def beat(self) -> None:
        for number in range(COUNT):
            self.board.beat(number, time.monotonic(), [])

    async def told(self, by: int = 0) -> tuple[dict[str, float], dict[str, float]]:
        """Who is up and what each has counted, by worker, according to one of them."""
        self.beat()
        text, _kind = await self.siblings[by].exposition("")
        families = {
            family.name: {sample.labels["worker"]: sample.value for sample in family.samples}
            for family in text_string_to_metric_families(text.decode())
        }
        return families["clarion_worker_up"], families["clarion_messages_received"]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    for one in house.siblings:
        await one.start()
    yield house
    for one in house.siblings:
        one.close()
        one.close()  # does nothing
    await house.tasks.close()
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nobody waits


@asynccontextmanager
async def impostor(house: House, number: int, answer: bytes | None) -> AsyncIterator[None]:
    """In the place of a worker: says `answer`, or nothing at all."""
    house.siblings[number].close()
    done = asyncio.Event()

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await done.wait()
        else:
            writer.write(answer)
        writer.close()

    path = house.folder / str(number)
    server = await asyncio.start_unix_server(reply, path)
    try:
        yield
    finally:
        done.set()
        server.close()
        await server.wait_closed()
        path.unlink(missing_ok=True)


async def test_whoever_is_asked_tells_of_all(house: House) -> None:
    for by in range(COUNT):
        assert await house.told(by) == (
            {"0": 1, "1": 1, "2": 1},
            {"0": 1, "1": 2, "2": 3},
        )


async def test_restarts_are_told_too(house: House) -> None:
    house.board.replaced(2)
    house.beat()
    text, _kind = await house.siblings[0].exposition("")
    assert b'clarion_worker_restarts_total{worker="2"} 1.0\n' in text
    assert b'clarion_worker_restarts_total{worker="1"} 0.0\n' in text


async def test_open_metrics_are_spoken_among_them_too(house: House) -> None:
    house.beat()
    text, kind = await house.siblings[1].exposition("application/openmetrics-text;version=1.0.0")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    families = {
        family.name: family
        for family in openmetrics_families(text.decode())  # type: ignore[no-untyped-call]
    }
    topics = families["clarion_topics"]
    assert [sample.labels["worker"] for sample in topics.samples] == ["0", "1", "2"]
    assert len(families["clarion_gc_pause_seconds"].samples) % COUNT == 0


async def test_who_is_not_there_is_down_and_the_others_are_told(house: House) -> None:
    house.siblings[1].close()
    assert await house.told() == ({"0": 1, "1": 0, "2": 1}, {"0": 1, "2": 3})


async def test_one_that_does_not_answer_costs_a_second_and_no_more(house: House) -> None:
    async with impostor(house, 1, None):
        start = time.monotonic()
        up, _counts = await house.told()
        took = time.monotonic() - start
    assert up == {"0": 1, "1": 0, "2": 1}
    assert DEADLINE_SECONDS * 0.9 < took < DEADLINE_SECONDS + 1


async def test_one_that_is_known_to_hang_is_not_waited_for(house: House) -> None:
    async with impostor(house, 1, None):
        house.beat()
        house.board.beat(1, time.monotonic() - 5, [])
        start = time.monotonic()
        text, _kind = await house.siblings[0].exposition("")
        assert time.monotonic() - start < DEADLINE_SECONDS / 2
    assert b'clarion_worker_up{worker="1"} 0.0\n' in text
    assert b'clarion_worker_up{worker="2"} 1.0\n' in text


@pytest.mark.parametrize("answer", [b"", b"\x93", b"no msgpack", b"\x91\x01"])
async def test_an_answer_that_makes_no_sense_is_none(house: House, answer: bytes) -> None:
    async with impostor(house, 2, answer):
        assert (await house.told())[0] == {"0": 1, "1": 1, "2": 0}


async def test_the_socket_of_a_predecessor_that_was_killed_is_no_hindrance(
    house: House,
) -> None:
    house.siblings[1].close()
    server = await asyncio.start_unix_server(lambda _r, _w: None, house.folder / "1")
    server.close()
    await server.wait_closed()
    await house.siblings[1].start()
    assert (await house.told())[0]["1"] == 1


async def test_who_asks_too_much_or_nothing_is_let_go(house: House) -> None:
    for question in (b"x" * (MAX_QUESTION_BYTES + 1), b""):
        reader, writer = await asyncio.open_unix_connection(house.folder / "0")
        writer.write(question)
        async with asyncio.timeout(DEADLINE):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
    assert len(house.tasks) == 0


async def test_who_has_left_before_the_answer_is_no_fault(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    theirs.close()
    transport.abort()
    house.siblings[0].answer("", transport)
    await until(lambda: len(house.tasks) == 0)
    assert "failed" not in caplog.text


async def test_an_only_worker_needs_no_socket(tmp_path: Path) -> None:
    board = Board(1)
    api = Api(Config(), None)
    one = Siblings(seat=Seat(board, 0), metrics=api.metrics, tasks=Tasks(), folder=None)
    await one.start()
    text, kind = await one.exposition("")
    assert kind.startswith("text/plain")
    assert b'clarion_worker_up{worker="0"} 1.0\n' in text
    assert b'clarion_worker_restarts_total{worker="0"} 0.0\n' in text
    assert b'clarion_messages_received_total{worker="0"} 0.0\n' in text
    one.close()
