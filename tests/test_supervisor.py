"""Several workers and their parent, as processes: one port, and nobody notices an accident.

What should run when is decided in test_crew.py; here it does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import pytest

from clarion_server.listener import listen
from support.crew import Server, crew, is_running, starting
from support.redis_shared import shared_servers
from support.server import serving
from support.waiting import DEADLINE, until
from support.wire import Wire, closing, command, connected, wire

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")


def left_behind(server: Server) -> list[Path]:
    """What a server has in the folder for temporary files."""
    return list(server.folder.iterdir())


def is_free(port: int) -> bool:
    """Whether somebody else could listen there."""
    try:
        listen("127.0.0.1", port).close()
    except OSError:
        return False
    return True


async def clients(stack: AsyncExitStack, server: Server, count: int) -> list[Wire]:
    """Clients that came one by one, each with a subscription."""
    wires = [await stack.enter_async_context(connected(server.port)) for _ in range(count)]
    for client in wires:
        await client.subscribe("a")
    return wires


async def one_each(stack: AsyncExitStack, server: Server) -> list[Wire]:
    """A client of each worker, by its number."""
    found: dict[int, Wire] = {}
    before = await server.connections()
    for _ in before:
        (client,) = await clients(stack, server, 1)
        after = await server.connections()
        (number,) = (place for place, count in enumerate(after) if count > before[place])
        found[number] = client
        before = after
    return [found[number] for number in range(len(before))]


async def goodbye(client: Wire) -> int:
    """The code with which a client is sent away; it goes."""
    code, _said = await client.goodbye()
    await client.send(closing(code))
    assert await client.ended()
    client.close()
    return code


async def is_served(client: Wire) -> bool:
    await client.send(command("ping"))
    return bool(await client.said("pong"))


async def until_ready(server: Server, *reasons: str, ready: bool = True) -> None:
    """Waits until the server says so."""
    async with asyncio.timeout(DEADLINE):
        while await server.ready() != (ready, list(reasons)):  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.01)


async def workers_ended(pids: dict[int, int]) -> None:
    await until(lambda: not any(is_running(pid) for pid in pids.values()))


# Serving


async def test_workers_share_the_ports_evenly_and_tell_of_each_other() -> None:
    async with crew(workers=3) as server, AsyncExitStack() as stack:
        assert ", 3 workers" in server.out
        await clients(stack, server, 6)
        assert await server.connections() == [2, 2, 2]
        assert await server.ready() == (True, [])
        assert await server.get("/readyz", server.port) == (200, b"ok\n")
        pids = await server.pids()
        assert server.pid not in pids.values()
        assert len(set(pids.values())) == 3
        metrics = await server.metrics()
        assert metrics["clarion_worker_up"] == {"0": 1, "1": 1, "2": 1}
        assert metrics["clarion_worker_restarts_total"] == {"0": 0, "1": 0, "2": 0}
        for number in range(3):
            assert f"worker {number} clarion_server" in server.log


async def test_the_workers_are_one_server_but_share_no_chance() -> None:
    """What is drawn at random differs, though all come from one memory."""
    async with crew(workers=2) as server:
        one, two = await server.infos()
        assert one["instance"] == two["instance"]
        ids = []
        epochs = []
        async with AsyncExitStack() as stack:
            for _ in range(4):
                client = await stack.enter_async_context(wire(server.port))
                await client.upgrade()
                ids.append((await client.said("welcome"))["client"])
                epochs.append((await client.subscribe("a"))["epoch"])
            assert await server.connections() == [2, 2]
        assert len(set(ids)) == 4
        assert len(set(epochs)) == 2


async def test_with_redis_a_publication_reaches_the_clients_of_every_worker() -> None:
    (redis,) = await shared_servers(1)
    async with (
        serving(
            *("--workers", "2", "--redis", redis.url),
            CLARION_KEEPALIVE_CLOSE_S="0.3",
            CLARION_PREFIX="workers",
        ) as server,
        connected(server.port) as one,
        connected(server.port) as two,
        aiohttp.ClientSession() as backend,
    ):
        for client in (one, two):
            await client.subscribe("a")
        for number in range(3):
            async with backend.post(
                f"http://127.0.0.1:{server.api_port}/v1/publish",
                json={"topic": "a", "data": number},
            ) as answer:
                assert answer.status == 200
        for client in (one, two):
            assert [(await client.said("message"))["data"] for _ in range(3)] == [0, 1, 2]
        server.process.terminate()
        for client in (one, two):
            assert await goodbye(client) == 4000
        async with asyncio.timeout(DEADLINE):
            assert await server.process.wait() == 0


async def test_open_metrics_are_told_of_all_too() -> None:
    async with crew(workers=2) as server:
        _status, plain = await server.get("/metrics")
        assert plain.count(b"# TYPE clarion_topics gauge\n") == 1
        assert plain.count(b"\nclarion_topics{") == 2


# Accidents


async def test_a_worker_that_is_killed_is_replaced_and_nobody_else_notices() -> None:
    async with crew(workers=3) as server, AsyncExitStack() as stack:
        wires = await one_each(stack, server)
        pids = await server.pids()
        os.kill(pids[1], signal.SIGKILL)
        assert await wires[1].ended()
        await server.logged("was killed by SIGKILL; another starts now")
        await server.logged("worker 1 clarion_server.launch: serves", 2)
        await until_ready(server)
        after = await server.pids()
        assert after[1] != pids[1]
        assert (after[0], after[2]) == (pids[0], pids[2])
        metrics = await server.metrics()
        assert metrics["clarion_worker_restarts_total"] == {"0": 0, "1": 1, "2": 0}
        assert metrics["clarion_worker_up"]["1"] == 1
        assert await server.connections() == [1, 0, 1]
        await clients(stack, server, 1)  # the new one has the fewest
        assert await server.connections() == [1, 1, 1]
        assert await is_served(wires[0])
        assert await is_served(wires[2])


async def test_a_worker_that_hangs_is_told_and_others_take_its_clients() -> None:
    async with crew(workers=3) as server, AsyncExitStack() as stack:
        pids = await server.pids()
        os.kill(pids[2], signal.SIGSTOP)
        start = time.monotonic()
        await clients(stack, server, 6)  # nobody waits for it
        await until_ready(server, "worker 2: has given no sign of life for 1 s")
        assert time.monotonic() - start < 2
        status, body = await server.get("/readyz", server.port)
        assert (status, msgspec.json.decode(body)["ready"]) == (200, True)

        start = time.monotonic()
        metrics = await server.metrics()
        assert time.monotonic() - start < 2
        assert metrics["clarion_worker_up"] == {"0": 1, "1": 1, "2": 0}
        assert sum(metrics["clarion_connections"].values()) == 6

        os.kill(pids[1], signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE):
            while (await server.ready())[0]:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.01)
        assert (await server.get("/readyz", server.port))[0] == 503
        for number in (1, 2):
            os.kill(pids[number], signal.SIGCONT)
        await until_ready(server)


async def test_a_worker_that_is_aborted_says_where_it_was() -> None:
    async with crew(workers=2) as server:
        os.kill((await server.pids())[1], signal.SIGABRT)
        await server.logged("was killed by SIGABRT")
        await server.logged("Fatal Python error: Aborted")
        await server.logged("launch.py")


async def test_a_crash_loop_backs_off() -> None:
    async with starting(workers=2, work="crash") as server:
        await server.logged("ended with exit code 3; another starts in 2 s")
        text = "worker 1 (pid "
        assert server.log.count(text) == 3
        assert "another starts now" in server.log
        assert "another starts in 1 s" in server.log
        server.process.terminate()  # while the next one is waited for
        assert await server.ended() == 0
        assert server.log.count("ended with exit code 3") == 3


async def test_when_the_parent_is_killed_the_workers_say_goodbye_and_end() -> None:
    async with crew(workers=2) as server, AsyncExitStack() as stack:
        wires = await clients(stack, server, 4)
        pids = await server.pids()
        server.process.kill()
        codes = [await goodbye(wire) for wire in wires]
        assert codes == [4000] * 4
        await workers_ended(pids)
        assert is_free(server.port)
        assert is_free(server.api_port)
        assert "the parent is gone" in server.log
        assert left_behind(server) == []


async def test_the_ports_are_free_for_a_successor_before_the_orphans_are_gone() -> None:
    async with crew(workers=2, close_s=30) as server, connected(server.port) as client:
        pids = await server.pids()
        server.process.kill()
        assert (await client.goodbye())[0] == 4000
        await until(lambda: is_free(server.port) and is_free(server.api_port))
        assert any(is_running(pid) for pid in pids.values())


# Ending


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_all_workers(number: signal.Signals) -> None:
    async with crew(workers=2) as server, AsyncExitStack() as stack:
        wires = await clients(stack, server, 4)
        assert len(left_behind(server)) == 1
        server.process.send_signal(number)
        assert [await goodbye(wire) for wire in wires] == [4000] * 4
        assert await server.ended() == 0
        assert left_behind(server) == []
        assert "Traceback" not in server.log
        assert "ERROR" not in server.log
        assert is_free(server.port)


async def test_ctrl_c_in_a_terminal_reaches_everybody_and_is_heeded_once() -> None:
    async with crew(workers=2) as server, AsyncExitStack() as stack:
        wires = await clients(stack, server, 2)
        os.killpg(server.pid, signal.SIGINT)
        assert [await goodbye(wire) for wire in wires] == [4000] * 2
        assert await server.ended() == 0
        assert "Traceback" not in server.log


async def test_a_second_ctrl_c_ends_at_once() -> None:
    async with crew(workers=2, close_s=60) as server, connected(server.port) as client:
        pids = await server.pids()
        server.process.send_signal(signal.SIGINT)
        assert (await client.goodbye())[0] == 4000  # and the client does not go
        assert server.process.returncode is None
        start = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert await server.ended() == 130
        assert time.monotonic() - start < 0.9
        assert not any(is_running(pid) for pid in pids.values())


async def test_who_does_not_end_is_killed() -> None:
    async with starting(workers=2, work="stay", ending_s=0.3) as server:
        await until(lambda: "clients" in server.out)
        start = time.monotonic()
        server.process.terminate()
        assert await server.ended() == 0
        assert 0.25 < time.monotonic() - start < 5
        assert "it did not end within 0.3 s; SIGKILL" in server.log
        assert server.log.count("was killed by SIGTERM") == 1


async def test_a_single_worker_that_is_told_to_end_goes_gently_and_is_replaced() -> None:
    async with crew(workers=2, close_s=5) as server, AsyncExitStack() as stack:
        wires = await one_each(stack, server)
        pids = await server.pids()
        os.kill(pids[0], signal.SIGTERM)
        assert (await wires[0].goodbye())[0] == 4000
        # Who comes now is taken by the other one.
        await clients(stack, server, 3)
        assert await server.connections() == [1, 4]
        wires[0].close()
        await server.logged("worker 0 clarion_server.launch: serves", 2)
        assert await is_served(wires[1])
        assert (await server.pids())[1] == pids[1]


# Starting


async def test_what_is_wrong_with_the_keys_is_said_once() -> None:
    async with starting(workers=3, jwks_file="/nowhere/keys.json") as server:
        assert await server.ended() == 1
        await server.logged("worker 0 (pid ")
        assert server.log.count("under [auth]") == 1
        assert server.out == ""


async def test_a_port_in_use_is_told_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        async with starting(port=port) as server:
            assert await server.ended() == 1
            await until(lambda: "--api-port" in server.log)
            assert f"in use (127.0.0.1:{port})" in server.log
            assert "Traceback" not in server.log


async def test_two_servers_do_not_share_a_port_by_mistake() -> None:
    async with crew(workers=2) as server, starting(workers=2, port=server.port) as second:
        assert await second.ended() == 1
        await until(lambda: "in use" in second.log)
        assert await server.ready() == (True, [])
