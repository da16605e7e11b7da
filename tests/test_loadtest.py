"""The load generator tells the truth: what it counts, and that it notices what is wrong."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loadtest import carriers, wire
from loadtest.crowd import Crowd
from loadtest.forks import LEAVE_S, Forks
from loadtest.program import Program
from loadtest.report import percentile, table
from loadtest.stand import Stand
from loadtest.tail import Tail, payload
from websockets.extensions.base import Extension
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

NO_EXTENSIONS: list[Extension] = []
LENGTHS = st.sampled_from([0, 1, 125, 126, 127, 65535, 65536])


def message(number: int, offset: int) -> bytes:
    data = payload(number, 80, 1)
    text = f'{{"op":"message","topic":"t","offset":{offset},"ts":1,"data":{data}}}'
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=False, extensions=NO_EXTENSIONS)


@given(st.lists(LENGTHS, max_size=4), st.integers(min_value=1, max_value=9))
def test_complete_frames_are_found_and_the_rest_is_left(lengths: list[int], cut: int) -> None:
    bodies = [bytes([65 + place]) * length for place, length in enumerate(lengths)]
    sent = [
        Frame(Opcode.TEXT, body).serialize(mask=False, extensions=NO_EXTENSIONS) for body in bodies
    ]
    whole, rest = (
        b"".join(sent),
        Frame(Opcode.TEXT, b"x" * 200).serialize(mask=False, extensions=NO_EXTENSIONS),
    )
    found = [(opcode, whole[a:b]) for opcode, a, b in wire.frames(whole + rest[:cut])]
    assert found == [(wire.TEXT, body) for body in bodies]


@given(LENGTHS)
def test_a_client_frame_is_what_a_server_reads(length: int) -> None:
    reader = StreamReader()
    reader.feed_data(wire.client_frame(wire.TEXT, b"x" * length))
    parser = Frame.parse(reader.read_exact, mask=True, max_size=None)
    with pytest.raises(StopIteration) as stop:
        next(parser)
    assert stop.value.value == Frame(Opcode.TEXT, b"x" * length)


def test_a_payload_has_the_size_that_was_asked_for() -> None:
    assert [len(payload(7, size, 10**15)) for size in (60, 256, 5000)] == [60, 256, 5000]


@given(st.data())
def test_a_tail_takes_the_bytes_in_any_pieces(data: st.DataObject) -> None:
    sent = b"".join(message(number, 100 + number) for number in range(1, 6))
    tail = Tail()
    at = 0
    while at < len(sent):
        size = data.draw(st.integers(min_value=1, max_value=len(sent) - at))
        tail.take(sent[at : at + size], now_ns=5)
        at += size
    assert (tail.size, tail.numbers, tail.latencies_ns) == (len(sent), [1, 2, 3, 4, 5], [4] * 5)
    assert tail.faults(1, 5) == []


@pytest.mark.parametrize(
    ("numbers", "offsets", "fault"),
    [
        ([1, 3], [1, 2], "1 lost, the first is 2"),
        ([1, 2, 2, 3], [1, 2, 3, 4], "1 duplicates"),
        ([2, 1, 3], [1, 2, 3], "out of order"),
        ([1, 2, 3], [1, 2, 4], "offsets are not consecutive"),
    ],
)
def test_a_tail_notices(numbers: list[int], offsets: list[int], fault: str) -> None:
    tail = Tail()
    for number, offset in zip(numbers, offsets, strict=True):
        tail.take(message(number, offset), now_ns=5)
    assert fault in tail.faults(1, 3)


def test_a_tail_notices_what_is_no_message() -> None:
    tail = Tail()
    tail.take(wire.client_frame(wire.TEXT, b"")[:1] + b"\x02{}", now_ns=0)
    assert tail.faults(1, 0) == ["unexpected: opcode 1: b'{}'"]


@pytest.mark.parametrize("language", ["C", "Python"])
def test_every_byte_of_a_bare_loop_is_counted_and_a_missing_one_noticed(language: str) -> None:
    if language == "C" and not carriers.has_compiler():
        pytest.skip("no C compiler")
    with carriers.Loop(language, 20, b"x" * 329) as loop:
        stand = Stand(loop, 20, "")
        stand.publish(1, 0)
        stand.arrival()
        stand.read(stand.got)
        stand.publish(10, 0)
        stand.drain()
        assert set(stand.got.values()) == {11 * 329}
        assert stand.backlog() == 0
        assert stand.faults() == []
        assert stand.cpu_seconds() > 0
        stand.got[stand.samples[0]] -= 1
        assert stand.faults() == [f"{language} loop: 1 subscribers have not received 3619 bytes"]
        stand.close()


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a server that answers every handshake with 503."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(5):
                client, _ = listener.accept()
                with client:
                    client.recv(65536)
                    client.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_clients_that_are_refused_are_counted_with_the_reason(refusing: int) -> None:
    crowd = Crowd()
    arrivals = crowd.arrive(5, refusing, lambda place: "t")
    assert arrivals.failures == {"HTTP/1.1 503 Service Unavailable": 5}
    assert arrivals.latencies == []
    assert not crowd.sockets
    crowd.close()


def test_percentiles_and_tables() -> None:
    assert percentile([5, 1, 3, 2, 4], 0.5) == 3
    assert percentile(range(100), 0.99) == 99
    rows = [{"": "a", "n": 12345}, {"": "bb", "n": 0.5}]
    assert table(rows).splitlines() == ["         n", "a   12,345", "bb    0.50"]


def test_options_of_a_namespace_reach_the_server() -> None:
    options = {"CLARION_NAMESPACES_DEFAULT_HISTORY_SIZE": "0"}
    with carriers.Clarion(carriers.CLARION, **options) as clarion:
        status, text = clarion.get("/v1/topics/any/history")
    assert status >= 400
    assert "no_history" in text


def test_a_program_that_ends_before_it_serves_is_quoted_and_leaves_nothing() -> None:
    program = Program("bad luck")
    program.start(["sh", "-c", "echo nothing works; exit 1"])
    with pytest.raises(SystemExit, match="bad luck did not start: nothing works"):
        program.wait_until(lambda: program.process.wait() == 0)
    assert not program.folder.exists()


def fall_asleep(program: Program) -> None:
    with program:
        program.start(["sh", "-c", "echo good night; exec sleep 1000"])
        deadline = time.monotonic() + 10
        while "good night" not in program.last_words():
            assert time.monotonic() < deadline
        raise RuntimeError


def test_a_program_is_ended_and_what_it_said_last_is_shown_with_a_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    program = Program("sleeper")
    with pytest.raises(RuntimeError):
        fall_asleep(program)
    assert program.process.returncode == -signal.SIGTERM
    assert "what sleeper wrote ---\ngood night" in capfd.readouterr().err
    assert not program.folder.exists()


def test_forks_leave_when_their_pipes_end() -> None:
    def live(pipe: Connection, number: int) -> None:
        with suppress(EOFError):
            while True:
                pipe.send((number, pipe.recv()))

    before = multiprocessing.active_children()
    with Forks() as forks:
        for number in range(3):
            forks.fork(live, number)
        for pipe in forks.pipes:
            pipe.send("who")
        assert [pipe.recv() for pipe in forks.pipes] == [(0, "who"), (1, "who"), (2, "who")]
        began = time.monotonic()
    assert time.monotonic() - began < LEAVE_S
    assert multiprocessing.active_children() == before
