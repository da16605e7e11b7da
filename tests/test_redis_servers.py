"""The Redis servers of the tests are what they are taken for."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hiredis
import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster as ClusterClient

from support.free_ports import FreePort
from support.redis_cluster import RedisCluster
from support.redis_sentinel import RedisSentinel
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_cluster, shared_servers

FOO_SLOT = 12182
"""Of the key `foo`, the example of the Redis Cluster specification."""


async def refuses(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    writer.transport.abort()
    return False


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(RedisServer, id="plain"),
        pytest.param(partial(RedisServer, password="open: sesame/@"), id="password"),
        pytest.param(partial(RedisServer, tls=True, password="sesame"), id="tls"),
        pytest.param(partial(RedisServer, unixsocket=True, password="sesame"), id="unix"),
    ],
)
async def test_the_url_has_all_that_a_client_needs(make: Callable[[], RedisServer]) -> None:
    async with make() as server:
        async with Redis.from_url(server.url) as client:
            await client.set("key", "value")
        assert await server.command("GET", "key") == "value"


async def test_a_password_keeps_others_out() -> None:
    async with RedisServer(password="sesame") as server:
        server.password = ""
        with pytest.raises(hiredis.ReplyError, match="NOAUTH"):
            await server.command("GET", "key")


async def test_lines_of_configuration_reach_the_server() -> None:
    async with RedisServer("maxclients 77", "client-output-buffer-limit pubsub 1mb 0 0") as server:
        assert await server.command("CONFIG", "GET", "maxclients") == ["maxclients", "77"]


async def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(AssertionError, match="nonsense"):
        await RedisServer("nonsense yes").start()


async def test_a_killed_server_is_gone_and_comes_back_with_its_data() -> None:
    async with RedisServer(appendonly=True) as server:
        await server.command("SET", "key", "value")
        server.kill()
        assert not server.running
        assert await refuses(server.port)
        await server.restart(keep_data=True)
        assert await server.command("GET", "key") == "value"


@pytest.mark.parametrize("appendonly", [True, False])
async def test_a_restart_can_lose_the_data(appendonly: bool) -> None:
    async with RedisServer(appendonly=appendonly) as server:
        await server.command("SET", "key", "value")
        before = (await server.info("server"))["run_id"], server.url
        await server.restart(keep_data=False)
        assert await server.command("GET", "key") is None
        assert (await server.info("server"))["run_id"] != before[0]
        assert server.url == before[1]


async def test_a_stopped_server_accepts_connections_and_answers_none() -> None:
    async with RedisServer() as server:
        server.stop()
        assert not await refuses(server.port)
        with pytest.raises(TimeoutError):
            await server.command("PING", seconds=0.1)
        server.go_on()
        assert await server.command("PING") == "PONG"


async def test_a_stopped_server_can_be_closed() -> None:
    async with RedisServer() as server:
        server.stop()
    assert not server.running
    assert await refuses(server.port)
    assert not server.directory.exists()


async def test_an_operator_can_disconnect_subscribers() -> None:
    async with RedisServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"SUBSCRIBE news\r\n")
        assert await reader.readuntil(b":1\r\n")
        assert await server.command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        assert await reader.read() == b""
        writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent's death")
async def test_no_server_outlives_tests_that_are_killed(tmp_path: Path) -> None:
    tests = """
        import asyncio, signal
        from support.redis_servers import RedisServer

        async def test():
            server = await RedisServer().start()
            print(server.port, flush=True)
            signal.pause()

        asyncio.run(test())
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", textwrap.dedent(tests)),
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parent), "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    assert not await refuses(port)
    process.send_signal(signal.SIGKILL)
    await process.communicate()

    async def gone() -> bool:
        return await refuses(port)

    await eventually(gone)


def test_a_port_is_nobody_elses_until_it_is_released() -> None:
    ports = [FreePort() for _ in range(20)]
    assert len({port.number for port in ports}) == 20
    for port in ports:
        port.release()


async def test_a_cluster_moves_slots_and_fails_over() -> None:
    async with (
        RedisCluster(replicas=True) as cluster,
        ClusterClient("127.0.0.1", cluster.nodes[0].port) as client,
    ):
        await client.set("foo", "bar")
        to, source = cluster.primaries[0], await cluster.owner(FOO_SLOT)
        assert source is cluster.primaries[2]

        await cluster.move_slot(FOO_SLOT, to)
        assert await cluster.owner(FOO_SLOT) is to
        assert await to.command("GET", "foo") == "bar"
        with pytest.raises(hiredis.ReplyError, match=f"MOVED {FOO_SLOT} "):
            await source.command("GET", "foo")
        assert await client.get("foo") == b"bar"

        await cluster.failover(cluster.replicas[0])
        assert await cluster.owner(FOO_SLOT) is cluster.replicas[0]
        assert await cluster.replicas[0].command("GET", "foo") == "bar"
        assert await client.get("foo") == b"bar"


async def test_sentinel_replaces_a_primary_on_command_and_when_it_dies() -> None:
    async with RedisSentinel() as service:
        first, second = service.nodes
        assert await service.primary() is first
        await first.command("SET", "key", "value")
        await first.command("WAIT", 1, 1000)

        assert await service.failover() is second
        assert await second.command("SET", "key", "new") == "OK"

        async def follows() -> bool:
            return (await first.info("replication")).get("master_link_status") == "up"

        await eventually(follows)
        assert await first.command("GET", "key") == "new"

        second.kill()
        assert await service.successor(second) is first


async def test_shared_servers_are_the_same_ones_emptied() -> None:
    servers = await shared_servers()
    digest = await servers[2].command("SCRIPT", "LOAD", "return 1")
    await servers[2].command("SET", "key", "value")
    again = await shared_servers()
    assert again == servers
    assert len({server.port for server in servers}) == 3
    assert await servers[2].command("DBSIZE") == 0
    assert await servers[2].command("SCRIPT", "EXISTS", digest) == [0]


async def test_the_shared_cluster_is_the_same_one_emptied() -> None:
    cluster = await shared_cluster()
    await cluster.primaries[2].command("SET", "foo", "bar")
    assert await shared_cluster() is cluster
    assert await cluster.primaries[2].command("DBSIZE") == 0
