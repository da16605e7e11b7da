"""What the doctor asks of real servers, and of those that are not what they seem."""

from __future__ import annotations

import time
from urllib.parse import quote

from clarion_fanout.publication import Draft, Receipt
from clarion_fanout.redis_address import parse
from clarion_server.doctor import check_shard
from clarion_server.doctor.finding import Finding, Plan
from clarion_server.doctor.redis_rights import rules
from clarion_server.doctor.redis_shards import Shard, ask_shards
from clarion_server.options import Namespace
from support.redis_impostor import bulk, impostor
from support.redis_sentinel import RedisSentinel
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_cluster, shared_servers
from support.server import configuration, running
from support.wire import Wire, command

PLAN = Plan(connections=100, timeout_s=2)
HASTY = PLAN._replace(timeout_s=0.3)
PASSWORD = "a password that nobody may see"


async def asked(*urls: str, plan: Plan = PLAN) -> list[Shard]:
    return await ask_shards([parse(url) for url in urls], plan)


def findings(shard: Shard, plan: Plan = PLAN) -> dict[str, Finding]:
    """By name; of one node."""
    assert len(shard.nodes) <= 1
    return {each.name: each for part in check_shard(shard, plan) for each in part.findings}


def states(shard: Shard, plan: Plan = PLAN) -> dict[str, str]:
    return {name: each.state for name, each in findings(shard, HASTY).items() if each.state != "ok"}


async def told(wire: Wire, op: str) -> None:
    """Returns when the client is told this; there may be other things before it."""
    while (await wire.said())["op"] != op:
        pass


async def test_a_plain_server_can_be_asked_everything() -> None:
    (server,) = await shared_servers(1)
    (shard,) = await asked(server.url)
    assert states(shard) == {"maxmemory": "warn", "persistence": "warn"}
    assert {"publish and receive", "permissions", "scripts", "clock"} <= findings(shard).keys()


async def test_settings_are_read_where_the_server_has_them() -> None:
    async with RedisServer(
        "maxmemory 100mb", "maxmemory-policy allkeys-lru", "timeout 5", appendonly=True
    ) as server:
        (shard,) = await asked(server.url)
        assert states(shard) == {"maxmemory": "bad", "timeout": "warn"}


async def test_servers_are_asked_by_tls_and_at_a_socket_too() -> None:
    async with RedisServer(tls=True) as encrypted, RedisServer(unixsocket=True) as near:
        one, other = await asked(encrypted.url, near.url)
        assert "bad" not in states(one).values()
        assert findings(one)["certificate"].found.startswith("valid for ")
        assert findings(one)["encryption, login"].found.startswith("TLS")
        assert "bad" not in states(other).values()
        assert "certificate" not in findings(other)


async def test_every_primary_of_a_cluster_is_asked() -> None:
    cluster = await shared_cluster()
    (shard,) = await asked(cluster.url)
    assert sorted(node.shard for node in shard.nodes) == sorted(
        f"127.0.0.1:{node.port}" for node in cluster.nodes
    )
    for part in check_shard(shard, PLAN):
        assert [each.name for each in part.findings if each.state == "bad"] == []
        assert "cluster" in [each.name for each in part.findings]


async def test_a_cluster_named_as_a_server_is_noticed_and_the_other_way_round() -> None:
    cluster, (server,) = await shared_cluster(), await shared_servers(1)
    url = f"redis://127.0.0.1:{cluster.nodes[0].port}/0"
    (node,) = await asked(url)
    assert findings(node)["role"].state == "bad"
    (alone,) = await asked(f"redis+cluster://127.0.0.1:{server.port}")
    assert findings(alone)["found"].state == "bad"


async def test_sentinels_are_asked_and_lead_to_the_primary() -> None:
    async with RedisSentinel() as sentinel:
        (shard,) = await asked(sentinel.url)
        seen = findings(shard)
        assert (seen["Sentinels"].state, seen["quorum"].state) == ("ok", "warn")
        assert (seen["role"].state, seen["replicas"].found[0]) == ("ok", "1")
        (other,) = await asked(sentinel.url.replace("/clarion/", "/nobody/"))
        assert findings(other)["Sentinels"].state == "bad"
        assert "found" in findings(other)


async def test_a_server_that_hangs_takes_a_deadline_and_no_longer() -> None:
    async with RedisServer() as server:
        server.stop()
        try:
            began = time.monotonic()
            (shard,) = await asked(server.url, plan=HASTY)
            assert time.monotonic() - began < 5
        finally:
            server.go_on()
    assert findings(shard, HASTY)["reachable"].found == "does not answer within 0.3 s"


async def test_nobody_is_told_a_password() -> None:
    async with RedisServer(password=PASSWORD) as server:
        right, wrong = await asked(server.url, server.url.replace(quote(PASSWORD), "wrong"))
        assert states(right) == {"maxmemory": "warn", "persistence": "warn"}
        assert findings(wrong)["reachable"].state == "bad"
        told = repr((right, wrong, findings(right), findings(wrong)))
        assert PASSWORD not in told
        assert "wrong" not in repr(findings(wrong)["reachable"].found).replace("WRONGPASS", "")


async def test_a_user_that_may_not_is_told_which_commands() -> None:
    async with RedisServer() as server:
        await server.command(
            *("ACL", "SETUSER", "weak", "on", ">pass", "~clarion:*", "&clarion:t:*"),
            *("+@all", "-xadd", "-config", "-publish"),
        )
        (shard,) = await asked(f"redis://weak:pass@127.0.0.1:{server.port}/0")
        seen = findings(shard)
        assert seen["publish and receive"].state == "bad"
        assert seen["permissions"].state == "bad"
        assert "PUBLISH clarion:t:doctor:1" in seen["permissions"].found
        assert seen["timeout"].state == "unknown"
        (node,) = shard.nodes
        # Its channels are of topics alone, so that questions to all workers are refused as well.
        assert {command.split()[0] for command in node.refused} == {"PUBLISH", "SUBSCRIBE", "XADD"}


async def test_a_user_that_may_run_no_script_is_told() -> None:
    async with RedisServer() as server:
        await server.command(
            *("ACL", "SETUSER", "weak", "on", ">pass", "~*", "&*", "+@all", "-@scripting")
        )
        (shard,) = await asked(f"redis://weak:pass@127.0.0.1:{server.port}/0")
        assert "NOPERM" in findings(shard)["scripts"].found


async def test_what_is_no_redis_at_all_is_bad_and_no_error() -> None:
    async with impostor({}) as mute:
        (shard,) = await asked(f"redis://127.0.0.1:{mute.port}/0", plan=HASTY)
        assert "bad" in states(shard).values()


async def test_an_old_server_is_refused_by_its_version() -> None:
    async with impostor({b"INFO": bulk("redis_version:6.2.0\r\nrole:master\r\n")}) as old:
        (shard,) = await asked(f"redis://127.0.0.1:{old.port}/0", plan=HASTY)
        assert findings(shard)["version"].state == "bad"


async def test_a_server_needs_no_more_rights_than_the_doctor_asks_about() -> None:
    async with RedisServer() as server:
        allowed = rules("clarion", "server").replace("'", "").split()
        await server.command("ACL", "SETUSER", "worker", "on", ">pass", *allowed)
        url = f"redis://worker:pass@127.0.0.1:{server.port}/0"
        (shard,) = await asked(url)
        assert findings(shard)["permissions"].state == "ok"
        await server.command("ACL", "LOG", "RESET")
        rooms = Namespace(
            history_size=10, subscribe="everyone", publish="everyone", presence="events"
        )
        config = configuration(redis=(url,), namespaces={"rooms": rooms})
        async with running(config) as worker:
            wire = await Wire.open(worker.port)
            await wire.upgrade()
            await told(wire, "welcome")
            for topic in ("rooms:1", "bare:1"):
                await wire.send(command("subscribe", topic=topic))
                await told(wire, "subscribed")
            await wire.send(command("presence", id=1, topic="rooms:1"))
            await wire.send(command("history", id=2, topic="rooms:1", limit=5))
            await told(wire, "history")
            for topic in ("rooms:1", "no topic"):
                await server.command("XADD", "clarion:inbox", "*", "topic", topic, "data", "1")
            for draft in (
                Draft("rooms:1", b"1"),
                Draft("rooms:1", b"2", "a key"),
                Draft("bare:1", b"3"),
                Draft("bare:1", b"4", "a key"),
            ):
                (receipt,) = await worker.broker.publish([draft])
                assert isinstance(receipt, Receipt)

            async def dead() -> bool:
                letters: int = await server.command("XLEN", "clarion:inbox:dead")
                return letters == 1

            await eventually(dead)
            await worker.fleet.workers()
            await wire.send(command("unsubscribe", id=3, topic="rooms:1"))
            await told(wire, "unsubscribed")
            wire.close()
        assert await server.command("ACL", "LOG") == []
