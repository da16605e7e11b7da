"""A worker as a whole: starting, draining, stopping; and the server as a process."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import signal
import socket
import sys
import time

import pytest

from clarion_server.app import Worker
from clarion_server.auth.keys import KeysError
from clarion_server.listener import listen
from clarion_server.options import AuthOptions, Keepalive
from clarion_server.wheel import ABSENT
from support.server import clients, configuration, publish, running, serving
from support.waiting import DEADLINE, until
from support.wire import (
    CLOSE,
    closing,
    command,
    connected,
    get,
    handshake,
    masked,
    streaming,
    wire,
)


def is_free(port: int) -> bool:
    """Whether somebody else could listen there."""
    try:
        listen("127.0.0.1", port).close()
    except OSError:
        return False
    return True


async def only_this_task() -> None:
    """Waits until nothing runs but the test."""
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, 2)


# Starting


@pytest.mark.parametrize("taken", ["port", "api_port"])
async def test_a_port_in_use_is_an_error_that_leaves_nothing_behind(taken: str) -> None:
    with listen("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        config = configuration()
        options = {name: getattr(config, name) for name in config.__struct_fields__}
        worker = Worker(type(config)(**(options | {taken: port})))
        with pytest.raises(OSError, match=f"in use.*127.0.0.1:{port}") as raised:
            await worker.start()
        assert raised.value.errno == errno.EADDRINUSE
        assert not worker.port or is_free(worker.port)
        await only_this_task()
    async with running():
        pass


async def test_keys_that_cannot_be_read_are_an_error_that_leaves_nothing_behind() -> None:
    worker = Worker(configuration(auth=AuthOptions(jwks_file="/nowhere/keys.json")))
    with pytest.raises(KeysError):
        await worker.start()
    assert is_free(worker.port)
    assert is_free(worker.api_port)
    await only_this_task()


async def test_two_workers_live_side_by_side_and_one_after_the_other() -> None:
    async with (
        running() as one,
        running() as two,
        connected(one.port) as client,
        connected(two.port) as other,
    ):
        await client.subscribe("a")
        await other.subscribe("a")
        await publish(one, "a", "of one")
        await publish(two, "a", "of two")
        assert (await client.said("message"))["data"] == "of one"
        assert (await other.said("message"))["data"] == "of two"
    async with running() as three, connected(three.port):
        pass
    await only_this_task()


# Stopping


async def test_closing_leaves_no_task_no_port_and_no_connection() -> None:
    thresholds = gc.get_threshold()
    worker = Worker(configuration())
    await worker.start()
    async with (
        wire(worker.port) as silent,
        connected(worker.port) as client,
        streaming(worker.port, ["a"]) as stream,
        connected(worker.port, receive_buffer=4096) as behind,
    ):
        await client.subscribe("a")
        await behind.subscribe("b")
        await stream.event()
        for _ in range(200):
            await publish(worker, "b", "x" * 20_000)
        assert len(worker.wheel) == 4
        await worker.close()
        await worker.close()  # does nothing
        for one in (silent, client, stream):
            await one.ended()
        assert not len(worker.wheel)
        assert not clients(worker)
        assert not worker.hub.topics
    assert is_free(worker.port)
    assert is_free(worker.api_port)
    assert gc.get_threshold() == thresholds
    await only_this_task()
    gc.collect()  # what was not closed would be told now, as an error


async def test_draining_says_goodbye_and_waits_until_everybody_is_gone() -> None:
    async with running() as worker:
        async with connected(worker.port) as client, streaming(worker.port, ["a"]) as stream:
            await stream.event()
            await client.subscribe("a")
            await publish(worker, "a", "before")
            async with asyncio.TaskGroup() as group:
                draining = group.create_task(worker.drain())
                assert (await client.said("message"))["data"] == "before"
                goodbye = await client.said("goodbye")
                assert (goodbye["code"], goodbye["reason"]) == (4000, "draining")
                assert 500 <= goodbye["retry_ms"] <= 5000
                assert (await client.frame()).code == 4000
                assert not draining.done()
                await client.send(closing(4000))
                assert await client.ended()
                client.close()
                assert json.loads((await stream.event())["data"])["data"] == "before"
                assert json.loads((await stream.event())["data"])["code"] == 4000
                assert await stream.rest() == b""
                stream.close()
                async with asyncio.timeout(0.5):
                    await draining
        assert worker.counters.closes == {4000: 2}


async def test_draining_does_not_wait_for_those_who_never_answer() -> None:
    async with (
        running(configuration(keepalive=Keepalive(close_s=0.3))) as worker,
        connected(worker.port) as silent,
        connected(worker.port, receive_buffer=4096) as behind,
    ):
        await behind.subscribe("a")
        for _ in range(200):
            await publish(worker, "a", "x" * 20_000)
        start = time.monotonic()
        await worker.drain()
        assert 0.2 <= time.monotonic() - start <= 0.7
        assert not clients(worker)
        assert (await silent.goodbye())[0] == 4000


async def test_while_draining_newcomers_are_sent_on_and_health_says_so() -> None:
    async with (
        running(configuration(keepalive=Keepalive(close_s=2))) as worker,
        connected(worker.port) as early,
        wire(worker.port) as half,
        asyncio.TaskGroup() as group,
    ):
        await half.send(handshake()[:40])
        await until(lambda: len(worker.wheel) == 2)
        draining = group.create_task(worker.drain())
        assert (await early.goodbye())[0] == 4000
        for port in (worker.port, worker.api_port):
            async with wire(port) as probe:
                await probe.send(get("/readyz", "Connection: close"))
                answer = await probe.answer()
                assert answer.status == 503
                assert b"draining" in answer.body
            async with wire(port) as probe:
                await probe.send(get("/livez", "Connection: close"))
                assert (await probe.answer()).status == 200
        await half.send(handshake()[40:])
        assert (await half.head()).status == 101
        assert (await half.said("welcome"))["op"]
        code, goodbye = await half.goodbye()
        assert code == 4000
        assert goodbye["retry_ms"] >= 500
        async with streaming(worker.port, ["a"]) as stream:
            while (event := await stream.event())["event"] != "goodbye":
                pass
            assert int(event["retry"]) >= 500
        assert not draining.done()
        for client in (early, half):
            await client.send(closing(4000))
            client.close()


async def test_a_timer_that_fails_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty:
        bucket = ABSENT

        def due(self, now: int) -> int:
            raise ZeroDivisionError

    worker = Worker(configuration(keepalive=Keepalive(ping_s=0.3)))
    await worker.start()
    try:
        async with connected(worker.port) as client:
            worker.wheel.add(Faulty(), 1)
            assert (await client.frame()).payload == b""  # the ping
        assert "a timer failed" in caplog.text
    finally:
        await worker.close()


# The process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_ends_the_process(number: signal.Signals) -> None:
    async with serving() as server, connected(server.port) as client:
        await client.subscribe("a")
        server.process.send_signal(number)
        goodbye = await client.said("goodbye")
        assert (goodbye["code"], goodbye["reason"]) == (4000, "draining")
        assert goodbye["retry_ms"] >= 500
        frame = await client.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 4000)
        await client.send(masked(frame.payload, CLOSE))
        assert await client.ended()
        client.close()
        assert server.process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            errors = await server.process.stderr.read()
            assert await server.process.wait() == 0
        assert b"Traceback" not in errors
        assert b"ERROR" not in errors
    assert is_free(server.port)


async def test_a_client_that_does_not_go_does_not_keep_the_process() -> None:
    async with serving(CLARION_KEEPALIVE_CLOSE_S="0.3") as server, connected(server.port):
        server.process.terminate()
        async with asyncio.timeout(3):
            assert await server.process.wait() == 0


async def test_after_a_kill_the_ports_can_be_used_again_at_once() -> None:
    async with serving() as server, connected(server.port) as client:
        server.process.kill()
        assert await client.ended() in (True, False)
        await server.process.wait()
        assert is_free(server.port)
        assert is_free(server.api_port)


async def test_a_port_in_use_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clarion_server", "serve", "--port", str(port)),
            *("--api-port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE):
            out, errors = await process.communicate()
    assert process.returncode == 1
    assert out == b""
    assert f"in use (127.0.0.1:{port})" in errors.decode()
    assert "--port" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_a_worker_of_the_process_talks_as_one_of_a_test_does() -> None:
    async with serving() as server, connected(server.port) as client:
        await client.subscribe("a")
        body = b'{"topic":"a","data":1}'
        async with wire(server.api_port) as backend:
            head = get(
                "/v1/publish",
                "Content-Type: application/json",
                "Connection: close",
                f"Content-Length: {len(body)}",
                method="POST",
            )
            await backend.send(head + body)
            assert (await backend.answer()).status == 200
        assert (await client.said("message"))["data"] == 1
        await client.send(command("ping"))
        await client.said("pong")
