"""A shard whose Redis is killed, stopped, replaced, misconfigured: it says so, and comes back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address
from clarion_fanout.redis_pipeline import IN_FLIGHT_COMMANDS
from clarion_fanout.redis_shard import GRACE_SECONDS, Shard
from clarion_fanout.redis_wire import pack
from clarion_fanout.tasks import Tasks
from support.redis_impostor import bulk, impostor
from support.redis_sentinel import RedisSentinel
from support.redis_servers import RedisServer, eventually
from support.redis_shard import KEYS, QUICK, Ear, open_shard, works
from support.redis_shared import shared_servers
from support.waiting import until

PING = pack(("PING",))


async def kill(server: RedisServer, link: str) -> None:
    """Ends a connection of the shard as an operator does."""
    clients = (await server.command("CLIENT", "LIST")).splitlines()
    [client] = [line for line in clients if f"name=clarion-{link} " in line]
    identity = dict(field.split("=", 1) for field in client.split())["id"]
    assert await server.command("CLIENT", "KILL", "ID", identity) == 1


async def refusal(shard: Shard) -> BrokerUnavailable:
    with pytest.raises(BrokerUnavailable) as refused:
        await shard.call("PING")
    return refused.value


async def is_refused_at_once(shard: Shard) -> None:
    began, refused = time.monotonic(), shard.refused
    error = await refusal(shard)
    assert time.monotonic() - began < GRACE_SECONDS / 2
    assert shard.refused == refused + 1
    assert 0 < error.retry_ms < 5000
    assert "not connected" in str(error)


# Connections that end


async def test_a_command_after_the_loss_of_its_connection_waits_for_the_next() -> None:
    [server] = await shared_servers(1)
    async with open_shard(server.url) as shard:
        await kill(server, "commands")
        await until(lambda: not shard.available)
        assert await shard.call("PING") == b"PONG"
        await works(shard)
        assert shard.refused == 0
        assert shard.interruptions == {("commands", "closed"): 1}


async def test_after_the_loss_of_the_intake_everything_is_subscribed_again() -> None:
    [server] = await shared_servers(1)
    async with open_shard(server.url) as shard:
        ears = {b"test:t:%d" % number: Ear() for number in range(50)}
        for channel, ear in ears.items():
            shard.listen(channel, ear)
        await until(lambda: all(map(shard.listens, ears)))
        await kill(server, "intake")
        await until(lambda: not any(map(shard.listens, ears)))
        assert shard.available
        await until(lambda: all(map(shard.listens, ears)))
        assert {ear.times for ear in ears.values()} == {2}
        await works(shard)
        assert shard.interruptions == {("intake", "closed"): 1}


async def test_the_loss_of_the_intake_while_subscribing_loses_no_channel() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        ears = {b"test:t:%d" % number: Ear() for number in range(20_000)}
        for channel, ear in ears.items():
            shard.listen(channel, ear)
        for _ in range(2):
            await until(lambda: any(map(shard.listens, ears)))
            assert not all(map(shard.listens, ears))
            await kill(server, "intake")
            await until(lambda: not any(map(shard.listens, ears)))
        await until(lambda: all(map(shard.listens, ears)))
        subscribed = await server.command("PUBSUB", "CHANNELS", "test:t:*")
        assert len(subscribed) == len(ears)


async def test_a_killed_server_is_refused_at_once_and_used_again_when_it_is_back() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        await works(shard)
        reign = shard.reign
        server.kill()
        await refusal(shard)
        await is_refused_at_once(shard)
        assert shard.trouble == "not connected"
        await server.restart(keep_data=False)
        await works(shard)
        assert shard.reign != reign


async def test_a_server_that_is_not_there_at_the_start_is_found_later() -> None:
    server = RedisServer()
    try:
        async with open_shard(server.url) as shard:
            await is_refused_at_once(shard)
            await server.start()
            await works(shard)
    finally:
        server.end()


async def test_connections_that_end_at_once_are_not_opened_without_a_pause() -> None:
    info = bulk("redis_version:7.0.0\r\nrole:master\r\n")
    async with impostor({b"INFO": info}, patience_s=0.01) as server:
        async with open_shard(f"redis://127.0.0.1:{server.port}") as shard:
            await asyncio.sleep(1)
            assert shard.interruptions["commands", "closed"] > 2
            await until(lambda: not shard.available)
        # Pauses are at least 50 ms soon; so are those of the intake, which has connections too.
        assert server.connections < 50


# Servers that do not answer


async def test_a_stopped_server_is_given_up_and_refused_at_once_until_it_goes_on() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        ear = Ear()
        shard.listen(b"test:t:a", ear)
        await works(shard)
        server.stop()
        began = time.monotonic()
        error = await refusal(shard)
        assert QUICK.timeout_s <= time.monotonic() - began < QUICK.timeout_s + 0.5
        assert "no answer in time" in str(error)
        for _ in range(3):
            await is_refused_at_once(shard)
            await asyncio.sleep(0.1)
        assert shard.trouble == "not connected"
        assert shard.interruptions["commands", "timeout"] == 1
        server.go_on()
        await works(shard)
        await until(lambda: shard.listens(b"test:t:a"))
        assert shard.probe_age() < 1


async def test_a_server_that_was_stopped_for_a_moment_keeps_its_connections() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        await works(shard)
        server.stop()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(shard.call("PING")) for _ in range(3)]
            await asyncio.sleep(QUICK.timeout_s / 3)
            server.go_on()
        assert [task.result() for task in asked] == [b"PONG"] * 3
        await works(shard)
        assert not shard.interruptions


async def test_a_worker_that_was_stopped_itself_keeps_its_connections() -> None:
    [server] = await shared_servers(1)
    async with open_shard(server.url) as shard:
        await works(shard)
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(shard.call("PING"))
                await asyncio.sleep(0)
                time.sleep(QUICK.timeout_s * 1.5)  # noqa: ASYNC251 - that is the point
            assert asked.result() == b"PONG"
        await works(shard)
        assert not shard.interruptions


class Relay:
    """Between a shard and its server: can hold back what is published to it, and nothing else."""

    def __init__(self, port: int) -> None:
        self.deaf = False
        self._port = port

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        subscribed = False

        async def forth() -> None:
            nonlocal subscribed
            while data := await reader.read(65536):
                subscribed = subscribed or b"\r\nSUBSCRIBE\r\n" in data
                server_writer.write(data)
            server_writer.transport.abort()

        async def back() -> None:
            with suppress(OSError):
                while data := await server_reader.read(65536):
                    if not (self.deaf and subscribed):
                        writer.write(data)
            writer.transport.abort()

        async with asyncio.TaskGroup() as group:
            group.create_task(forth())
            group.create_task(back())


@asynccontextmanager
async def relay(port: int) -> AsyncIterator[tuple[Relay, str]]:
    made = Relay(port)
    server = await asyncio.start_server(made.carry, "127.0.0.1", 0)
    try:
        yield made, f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_an_intake_on_which_nothing_arrives_any_more_is_found_by_its_probes() -> None:
    [server] = await shared_servers(1)
    async with relay(server.port) as (network, url), open_shard(url) as shard:
        await works(shard)
        network.deaf = True
        await until(lambda: shard.interruptions["intake", "probe"] == 1)
        assert shard.available
        # The next are never confirmed, so no probe is sent: that is found as well.
        await until(lambda: shard.interruptions["intake", "timeout"] == 2)
        assert shard.trouble.startswith("no probe for ")
        network.deaf = False
        await works(shard)
        assert shard.interruptions["commands", "closed"] == 0


async def test_an_intake_that_redis_drops_for_being_slow_is_opened_again() -> None:
    async with (
        RedisServer("client-output-buffer-limit pubsub 1mb 0 0") as server,
        open_shard(server.url) as shard,
    ):
        ear = Ear()
        shard.listen(b"test:t:a", ear)
        await works(shard)
        publish = pack(("PUBLISH", "test:t:a", b"x" * 1_000_000))
        # We do not read in the meantime.
        with socket.create_connection(("127.0.0.1", server.port)) as backend:
            for _ in range(60):
                backend.sendall(publish)
                if backend.recv(100) == b":0\r\n":
                    break
        await until(lambda: ear.times == 2)
        assert len(ear.heard) < 60
        await works(shard)
        assert shard.interruptions == {("intake", "closed"): 1}


# Bounds


async def test_more_than_it_can_carry_is_refused_and_the_rest_goes_on() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        await works(shard)
        server.stop()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(shard.send(PING * IN_FLIGHT_COMMANDS, IN_FLIGHT_COMMANDS))
            await until(lambda: shard.in_flight >= IN_FLIGHT_COMMANDS)
            error = await refusal(shard)
            assert "overloaded" in str(error)
            assert error.retry_ms > 0
            assert shard.refused == 1
            await asyncio.sleep(2 * QUICK.probe_s)
            server.go_on()
        assert len(asked.result()) == IN_FLIGHT_COMMANDS
        went_on = time.monotonic()
        await until(lambda: shard.probe_age() < time.monotonic() - went_on)
        await works(shard)
        assert not shard.interruptions


async def test_only_so_many_commands_wait_for_a_connection() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        await works(shard)
        server.stop()
        shard.reopen("for a test")
        await until(lambda: not shard.available)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(shard.send(PING * IN_FLIGHT_COMMANDS, IN_FLIGHT_COMMANDS))
            await asyncio.sleep(0)
            await is_refused_at_once(shard)
            server.go_on()
        assert len(waiting.result()) == IN_FLIGHT_COMMANDS


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    async with RedisServer() as server, open_shard(server.url) as shard:
        server.stop()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(shard.call("PING"))
            await until(lambda: shard.in_flight)
            asked.cancel()
        server.go_on()
        await until(lambda: shard.in_flight == 0)
        assert await shard.call("PING") == b"PONG"


async def test_an_unused_subscription_is_given_up_after_a_while() -> None:
    [server] = await shared_servers(1)
    async with open_shard(server.url) as shard:
        ear = Ear()
        shard.listen(b"test:t:a", ear)
        await until(lambda: ear.times)
        shard.unlisten(b"test:t:a")
        assert shard.listens(b"test:t:a")
        await until(lambda: ear.gone)

        async def unsubscribed() -> bool:
            return not await server.command("PUBSUB", "CHANNELS", "test:t:*")

        await eventually(unsubscribed)


async def test_a_closed_shard_refuses_at_once() -> None:
    [server] = await shared_servers(1)
    async with open_shard(server.url) as shard:
        pass
    await is_refused_at_once(shard)


# Servers that will not do


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_server_that_does_not_let_us_in_is_told_in_the_log_without_the_password(
    password: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with RedisServer(password="sesame") as server:
        url = server.url.replace("sesame", password).replace(":@", "")
        async with open_shard(url) as shard:
            await is_refused_at_once(shard)
            await asyncio.sleep(0.2)  # several attempts
    assert len([record for record in caplog.records if "trying again" in record.message]) == 1
    assert ("WRONGPASS" if password else "NOAUTH") in caplog.text
    assert "wrong" not in caplog.text.replace("WRONGPASS", "")


async def test_a_server_that_repeats_the_password_does_not_get_it_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        RedisServer('rename-command AUTH ""') as server,
        open_shard(server.url.replace("//", "//me:sesame@")) as shard,
    ):
        await is_refused_at_once(shard)
    assert "unknown command 'AUTH'" in caplog.text
    assert "sesame" not in caplog.text


async def test_a_replica_is_no_shard(caplog: pytest.LogCaptureFixture) -> None:
    [primary] = await shared_servers(1)
    async with (
        RedisServer(f"replicaof 127.0.0.1 {primary.port}") as replica,
        open_shard(replica.url) as shard,
    ):
        await is_refused_at_once(shard)
        assert "is a slave" in caplog.text
        await replica.command("REPLICAOF", "NO", "ONE")
        await works(shard)


@pytest.mark.parametrize("how", ["a write", "a probe"])
async def test_a_primary_that_becomes_a_replica_is_left(how: str) -> None:
    [other] = await shared_servers(1)
    async with RedisServer() as server, open_shard(server.url) as shard:
        await works(shard)
        await server.command("REPLICAOF", "127.0.0.1", other.port)
        if how == "a write":
            with pytest.raises(BrokerUnavailable, match="READONLY"):
                await shard.call("SET", "key", "value")
        await until(lambda: shard.trouble)
        await is_refused_at_once(shard)


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ("redis_version:6.2.14\r\nrole:master\r\n", "is Redis 6.2; 7.0 is the oldest"),
        ("role:sentinel\r\n", "is a sentinel"),
        ("", "is a server that says no role"),
        ("redis_version:7.4.0\r\nrole:master\r\n", ""),
        ("redis_version:next\r\nrole:master\r\n", ""),
    ],
)
async def test_only_what_says_that_it_will_do_is_used(
    info: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        impostor({b"INFO": bulk(info)}) as server,
        open_shard(f"redis://127.0.0.1:{server.port}") as shard,
    ):
        assert shard.available == (not why)
        assert why in caplog.text


async def test_a_host_that_has_no_name_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_shard("redis://no-such-host.invalid") as shard:
        await is_refused_at_once(shard)
    assert "cannot be reached" in caplog.text


async def test_channels_that_we_may_not_hear_are_told_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with RedisServer() as server:
        rules = ("on", ">sesame", "+@all", "~*", "&test:probe:*")
        await server.command("ACL", "SETUSER", "me", *rules)
        async with open_shard(server.url.replace("//", "//me:sesame@")) as shard:
            await until(lambda: not shard.trouble)
            ears = {b"test:t:%d" % number: Ear() for number in range(3)}
            for channel, ear in ears.items():
                shard.listen(channel, ear)
            await until(lambda: shard.subscriptions.interrupted > 9)
            assert shard.interruptions == {}
            refused = [line for line in caplog.messages if "refused to subscribe" in line]
            assert len(refused) == 1
            assert "NOPERM" in refused[0]
            await server.command("ACL", "SETUSER", "me", "&test:t:*")
            await until(lambda: all(map(shard.listens, ears)))


# Ways to a server


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(RedisServer, password="open: sesame/@"), id="password"),
        pytest.param(partial(RedisServer, tls=True, password="sesame"), id="tls"),
        pytest.param(partial(RedisServer, unixsocket=True, password="sesame"), id="unix"),
    ],
)
async def test_it_connects_as_the_url_says(make: Callable[[], RedisServer]) -> None:
    async with make() as server, open_shard(server.url) as shard:
        await works(shard)
        server.stop()
        await refusal(shard)
        server.go_on()
        await works(shard)


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with RedisServer(tls=True) as server, open_shard(server.url.split("?")[0]) as shard:
        await is_refused_at_once(shard)
    assert "certificate verify failed" in caplog.text.lower()


async def test_commands_and_intake_follow_a_failover() -> None:
    async with RedisSentinel() as service, open_shard(service.url) as shard:
        ear = Ear()
        shard.listen(b"test:t:a", ear)
        await works(shard)
        first, reign = shard.address, shard.reign
        successor = await service.failover()
        await until(lambda: shard.address != first and shard.address is not None)
        await works(shard)
        assert shard.address is not None
        assert shard.address.port == successor.port
        assert shard.reign != reign
        await successor.command("PUBLISH", "test:t:a", "after")
        await until(lambda: b"after" in ear.heard)


async def test_the_intake_does_not_stay_where_the_primary_was() -> None:
    old, new = await shared_servers(2)
    there = old

    async def locate() -> Address:
        return Address("127.0.0.1", there.port)

    shard = Shard("s1", locate, options=QUICK, scripts=(), probe_channel=lambda: KEYS.probe("w1"))
    tasks = Tasks()
    try:
        shard.start(tasks)
        ear = Ear()
        shard.listen(b"test:t:a", ear)
        await works(shard)
        there = new
        await kill(old, "commands")
        await until(lambda: ear.times == 2)
        await new.command("PUBLISH", "test:t:a", "here")
        await until(lambda: ear.heard == [b"here"])
        assert shard.interruptions["intake", "probe"] == 0  # it need not be found out
        await works(shard)
    finally:
        await tasks.close()
        await shard.close()


async def test_a_primary_that_dies_is_replaced_by_its_successor() -> None:
    async with RedisSentinel() as service, open_shard(service.url) as shard:
        await works(shard)
        first = await service.primary()
        first.kill()
        await service.successor(first)
        await works(shard)
        assert shard.address is not None
        assert shard.address.port != first.port
