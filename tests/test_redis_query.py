"""Questions over connections of their own: any server may hang, lie or be gone."""

from __future__ import annotations

import time

import pytest

from clarion_fanout.redis_address import Address, parse
from clarion_fanout.redis_query import STAGGER_SECONDS, Refusal, ask, ask_any, ask_sentinels, log_in
from clarion_fanout.redis_wire import Reply
from support.free_ports import FreePort
from support.redis_impostor import bulk, impostor
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers

TIMEOUT = 3.0


def at(server: RedisServer) -> Address:
    return Address("127.0.0.1", server.port)


def answer(_: Address, replies: list[Reply]) -> bytes:
    found: bytes = replies[0]
    return found


async def test_each_command_has_its_reply_and_the_login_none() -> None:
    async with RedisServer(password="sesame") as server:
        address = at(server)._replace(password="sesame", db=3)
        assert await ask(address, [("PING",), ("ECHO", "a")], TIMEOUT) == [b"PONG", b"a"]
        with pytest.raises(Refusal, match="answers NOAUTH"):
            await ask(at(server), [("PING",)], TIMEOUT)


async def test_a_connection_has_a_name() -> None:
    [server] = await shared_servers(1)
    wire, replies = await log_in(at(server), [("CLIENT", "GETNAME")], TIMEOUT, client="clarion-x")
    assert replies == [b"clarion-x"]
    await wire.close()
    assert wire.lost


async def test_a_server_that_is_gone_or_hangs_is_told() -> None:
    port = FreePort()
    with pytest.raises(ConnectionRefusedError):
        await ask(Address("127.0.0.1", port.number), [("PING",)], TIMEOUT)
    port.release()
    async with RedisServer() as server:
        server.stop()
        with pytest.raises(TimeoutError):
            await ask(at(server), [("PING",)], 0.1)


async def test_a_connection_that_ends_before_the_answer_is_told() -> None:
    async with impostor({b"PING": b""}, patience_s=0) as server:
        with pytest.raises(OSError, match=r"closed|reset"):
            await ask(Address("127.0.0.1", server.port), [("PING",)], TIMEOUT)


async def test_servers_that_hang_delay_an_answer_for_a_moment_each() -> None:
    [server] = await shared_servers(1)
    async with RedisServer() as one, RedisServer() as other:
        one.stop()
        other.stop()
        began = time.monotonic()
        addresses = [at(one), at(other), at(server)]
        assert await ask_any(addresses, [("PING",)], TIMEOUT, answer) == b"PONG"
        assert time.monotonic() - began < 2 * STAGGER_SECONDS + 1


async def test_what_is_of_no_use_is_asked_of_the_next() -> None:
    servers = await shared_servers(3)
    for server, value in zip(servers, "abc", strict=True):
        await server.command("SET", "key", value)

    def only_b(asked: Address, replies: list[Reply]) -> Address:
        if replies[0] != b"b":
            raise Refusal("is not the one")
        return asked

    addresses = [at(server) for server in servers]
    for _ in range(5):  # the order is random
        assert await ask_any(addresses, [("GET", "key")], TIMEOUT, only_b) == addresses[1]
    with pytest.raises(Refusal, match="is not the one"):
        await ask_any([addresses[0]], [("GET", "key")], TIMEOUT, only_b)
    with pytest.raises(OSError, match="nobody to ask"):
        await ask_any([], [("GET", "key")], TIMEOUT, only_b)


async def test_sentinels_that_do_not_know_a_service_are_told_from_those_that_are_gone() -> None:
    port = FreePort()
    location = parse(f"redis+sentinel://127.0.0.1:{port.number}/orders")
    with pytest.raises(OSError, match="no Sentinel can be asked: Connection refused"):
        await ask_sentinels(location, TIMEOUT)
    port.release()
    async with impostor({b"SENTINEL": b"*-1\r\n"}) as one, impostor({}) as other:
        other.answers[b"SENTINEL"] = b"*2\r\n" + bulk("10.0.0.7") + bulk("6380")
        location = parse(f"redis+sentinel://:sesame@127.0.0.1:{one.port}/orders/2")
        with pytest.raises(Refusal, match="is not known to the Sentinels as orders"):
            await ask_sentinels(location, TIMEOUT)
        both = location.addresses[0].at("127.0.0.1", other.port)
        location = location._replace(addresses=(*location.addresses, both))
        for _ in range(3):
            found = await ask_sentinels(location, TIMEOUT)
            assert found == Address("10.0.0.7", 6380, "", 2, "", "sesame")
