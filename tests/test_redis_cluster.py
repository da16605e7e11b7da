"""A real cluster as shards: slots move, replicas take over, nodes are lost; nothing else is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import pytest

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Want
from clarion_fanout.publication import Draft, Publication, Receipt
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_cluster import ShardCluster
from clarion_fanout.redis_scripts import PUBLISH_ONCE
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import shards_of
from clarion_fanout.redis_slots import SLOTS, slot_of
from clarion_fanout.redis_wire import pack
from clarion_fanout.tasks import Tasks
from support.brokers import Recorder
from support.free_ports import FreePort
from support.redis_cluster import RedisCluster
from support.redis_impostor import bulk, impostor
from support.redis_servers import RedisServer, eventually
from support.redis_shard import KEYS, QUICK, Ear
from support.redis_shared import restless_cluster, shared_cluster, shared_servers
from support.waiting import until

TOPICS = [f"topic:{number}" for number in range(60)]


@asynccontextmanager
async def shards(url: str, options: ShardOptions = QUICK) -> AsyncIterator[ShardCluster]:
    made = shards_of([parse(url)], keys=KEYS, worker="w1", options=options)
    assert isinstance(made, ShardCluster)
    tasks = Tasks()
    await made.start(tasks)
    try:
        yield made
    finally:
        await tasks.close()
        await made.close()


def slot(topic: str) -> int:
    return slot_of(KEYS.channel(topic))


def name(node: RedisServer) -> str:
    return f"127.0.0.1:{node.port}"


def echo(topic: str) -> tuple[str, bytes]:
    """A command that is refused where the topic is not."""
    return topic, pack(("EVAL", "return ARGV[1]", 1, KEYS.meta(topic), topic))


def publication(topic: str, payload: bytes) -> tuple[str, bytes]:
    return topic, pack(("SPUBLISH", KEYS.channel(topic), payload))


def listen(made: ShardCluster, topic: str) -> Ear:
    ear = Ear()
    made.of(topic).listen(KEYS.channel(topic), ear)
    return ear


def listens(made: ShardCluster, topic: str) -> bool:
    return made.of(topic).listens(KEYS.channel(topic))


def well(made: ShardCluster) -> bool:
    return not any(shard.trouble for shard in made.all())


async def works(made: ShardCluster) -> None:
    """Returns when commands for every topic are answered, and all probes come back."""

    async def answered() -> bool:
        outcomes = await made.send([echo(topic) for topic in TOPICS])
        return outcomes == [topic.encode() for topic in TOPICS]

    await eventually(answered)
    await until(lambda: well(made))


# All is well


async def test_each_primary_is_a_shard_that_is_probed() -> None:
    cluster = await shared_cluster()
    async with shards(cluster.url) as made:
        assert [shard.name for shard in made.all()] == [name(node) for node in cluster.primaries]
        await until(lambda: well(made))
        assert len({shard.reign for shard in made.all()}) == 3


async def test_topics_are_where_their_channel_is() -> None:
    cluster = await shared_cluster()
    async with shards(cluster.url) as made:
        for topic in TOPICS:
            assert made.of(topic).name == name(await cluster.owner(slot(topic)))
        outcomes = await made.send([echo(topic) for topic in TOPICS])
        assert outcomes == [topic.encode() for topic in TOPICS]
        assert made.redirections == 0
        assert await made.send([echo("a")]) == [b"a"]
        assert await made.send([]) == []


async def test_what_is_published_is_heard() -> None:
    cluster = await shared_cluster()
    async with shards(cluster.url) as made:
        ears = {topic: listen(made, topic) for topic in TOPICS}
        await until(lambda: all(listens(made, topic) for topic in TOPICS))
        await made.send([publication(topic, topic.encode()) for topic in TOPICS])
        await until(lambda: all(ear.heard for ear in ears.values()))
        assert [ear.heard for ear in ears.values()] == [[topic.encode()] for topic in TOPICS]
        assert {ear.times for ear in ears.values()} == {1}


async def test_scripts_that_a_node_has_forgotten_are_sent_to_it() -> None:
    cluster = await shared_cluster()
    async with shards(cluster.url) as made:
        for node in cluster.primaries:
            await node.command("SCRIPT", "FLUSH")
        commands = [once(topic) for topic in TOPICS]
        assert await made.send(commands) == [0] * len(TOPICS)
        assert await made.send(commands) == [1] * len(TOPICS)


def once(topic: str) -> tuple[str, bytes]:
    arguments = (KEYS.channel(topic), "1", 10_000, "SPUBLISH")
    return topic, PUBLISH_ONCE.packed([KEYS.key(topic, "k")], arguments)


async def test_a_server_that_is_in_no_cluster_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    [server] = await shared_servers(1)
    async with shards(f"redis+cluster://127.0.0.1:{server.port}") as made:
        [nobody] = made.all()
        assert nobody.trouble
        [outcome] = await made.send([echo("a")])
        assert isinstance(outcome, BrokerUnavailable)
        assert outcome.retry_ms > 0
    assert "cluster support disabled" in caplog.text


async def test_one_node_of_those_that_the_url_names_is_enough() -> None:
    cluster = await shared_cluster()
    port = FreePort()
    try:
        url = f"redis+cluster://127.0.0.1:{port.number},127.0.0.1:{cluster.nodes[1].port}"
        async with shards(url) as made:
            await works(made)
    finally:
        port.release()


async def test_a_cluster_that_is_not_there_at_the_start_is_found_later() -> None:
    cluster = RedisCluster()
    try:
        async with shards(cluster.url) as made:
            ears = [listen(made, topic) for topic in TOPICS]
            [outcome] = await made.send([echo("a")])
            assert isinstance(outcome, BrokerUnavailable)
            await cluster.start()
            await works(made)
            await until(lambda: all(ear.times for ear in ears))
    finally:
        cluster.end()


async def test_a_node_that_knows_too_little_is_believed_only_if_nobody_knows_more() -> None:
    info = bulk("redis_version:7.0.0\r\nrole:master\r\nmaster_replid:x\r\n")
    well = bulk("cluster_state:ok\r\n")
    answers = {b"INFO": info, b"CLUSTER INFO": well}
    async with impostor(answers) as one, impostor(answers) as other:
        one.answers[b"CLUSTER SLOTS"] = slots_reply((8192, SLOTS - 1, other.port))
        other.answers[b"CLUSTER SLOTS"] = slots_reply(
            (0, 8191, one.port), (8192, SLOTS - 1, other.port)
        )
        both = {f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}"}
        url = f"redis+cluster://127.0.0.1:{one.port},127.0.0.1:{other.port}"
        for _ in range(4):  # they are asked in random order
            async with shards(url) as made:
                assert {shard.name for shard in made.all()} == both
        async with shards(url) as made:
            other.answers[b"CLUSTER SLOTS"] = one.answers[b"CLUSTER SLOTS"]
            made.refresh_soon()
            expected = {"nobody", f"127.0.0.1:{other.port}"}
            await until(lambda: {shard.name for shard in made.all()} == expected)
            # Cut off from each other, they know nothing of use.
            for node in (one, other):
                node.answers[b"CLUSTER INFO"] = bulk("cluster_state:fail\r\n")
                node.answers[b"CLUSTER SLOTS"] = slots_reply((0, SLOTS - 1, one.port))
            refreshes = made.refreshes
            made.refresh_soon()
            await asyncio.sleep(0.3)
            assert {shard.name for shard in made.all()} == expected
            assert made.refreshes == refreshes


async def test_nodes_that_do_not_know_their_own_host_are_where_they_were_asked() -> None:
    info = bulk("redis_version:7.0.0\r\nrole:master\r\n")
    for host in (bulk(""), b"$-1\r\n", bulk("?")):
        async with impostor({b"INFO": info, b"CLUSTER INFO": bulk("cluster_state:ok")}) as node:
            node.answers[b"CLUSTER SLOTS"] = slots_reply((0, SLOTS - 1, node.port), host=host)
            async with shards(f"redis+cluster://127.0.0.1:{node.port}") as made:
                [shard] = made.all()
                assert shard.name == f"127.0.0.1:{node.port}"
                assert shard.available
                node.answers[b"GET"] = b"-MOVED 17 :%d\r\n" % (node.port + 1)
                with pytest.raises(BrokerUnavailable, match="MOVED"):
                    await shard.call("GET", "key")
                assert {each.name for each in made.all()} == {
                    shard.name,
                    f"127.0.0.1:{node.port + 1}",
                }


def slots_reply(*ranges: tuple[int, int, int], host: bytes = bulk("127.0.0.1")) -> bytes:
    """What CLUSTER SLOTS says of ranges of slots, each with its node's port."""
    parts = [
        b"*3\r\n:%d\r\n:%d\r\n*3\r\n%b:%d\r\n%b" % (first, last, host, port, bulk("id"))
        for first, last, port in ranges
    ]
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


# Slots move


async def test_a_slot_that_moves_takes_its_listeners_along() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        ear, stays = listen(made, "a"), listen(made, "b")
        await until(lambda: ear.times and stays.times)
        source = await cluster.owner(slot("a"))
        to = next(node for node in cluster.primaries if node is not source)
        await cluster.move_slot(slot("a"), to)
        await until(lambda: ear.times == 2 and listens(made, "a"))
        assert made.of("a").name == name(to)
        # By a backend, which goes by nothing but the cluster.
        await to.command("SPUBLISH", KEYS.channel("a"), "1")
        await until(lambda: ear.heard == [b"1"])
        assert stays.times == 1
        assert await made.send([echo("a"), echo("b")]) == [b"a", b"b"]


async def test_a_command_for_a_slot_that_has_moved_is_sent_on() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        for topic in TOPICS[:5]:
            await cluster.move_slot(slot(topic), await another(cluster, topic))
        outcomes = await made.send([echo(topic) for topic in TOPICS for _ in range(2)])
        assert outcomes == [topic.encode() for topic in TOPICS for _ in range(2)]
        assert made.redirections >= 2  # before it was told
        before = made.redirections
        await made.send([echo(topic) for topic in TOPICS])
        assert made.redirections == before


async def another(cluster: RedisCluster, topic: str) -> RedisServer:
    """A node that does not have the topic."""
    owner = await cluster.owner(slot(topic))
    return next(node for node in cluster.primaries if node is not owner)


async def test_what_must_not_be_sent_on_is_answered_and_the_node_is_known() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        to = await another(cluster, "a")
        await cluster.move_slot(slot("a"), to)
        [outcome] = await made.send([echo("a")], follow=False)
        assert isinstance(outcome, hiredis.ReplyError)
        assert str(outcome) == f"MOVED {slot('a')} {name(to)}"
        assert made.of("a").name == name(to)
        assert await made.send([echo("a")], follow=False) == [b"a"]


async def test_a_shard_that_is_asked_directly_tells_as_well() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        to = await another(cluster, "a")
        await cluster.move_slot(slot("a"), to)
        with pytest.raises(BrokerUnavailable, match="MOVED"):
            await made.of("a").call("GET", KEYS.meta("a"))
        assert made.of("a").name == name(to)
        assert await made.of("a").call("GET", KEYS.meta("a")) is None


async def test_nothing_is_lost_unnoticed_while_slots_move_under_load() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        ears = {topic: listen(made, topic) for topic in TOPICS[:6]}
        await until(lambda: all(ear.times for ear in ears.values()))
        sent: list[int] = []
        confirmed: dict[str, int] = dict.fromkeys(ears, 0)
        busy = True

        async def publish() -> None:
            while busy:
                number = len(sent)
                sent.append(number)
                for topic, ear in ears.items():
                    if ear.times > 1 and not confirmed[topic]:
                        confirmed[topic] = number
                outcomes = await made.send([publication(topic, b"%d" % number) for topic in ears])
                assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
                await asyncio.sleep(0.001)

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            for topic in ears:
                await cluster.move_slot(slot(topic), await another(cluster, topic))
                await until(lambda: ears[topic].times == 2)  # noqa: B023
            busy = False
        for topic, ear in ears.items():
            heard = [int(payload) for payload in ear.heard]
            assert heard == sorted(set(heard))
            # What is missing was published before it was subscribed anew.
            assert set(range(confirmed[topic] + 1, len(sent))) <= set(heard)


async def test_a_node_without_slots_is_no_shard_any_more() -> None:
    async with RedisCluster() as cluster, shards(cluster.url) as made:
        ears = [listen(made, topic) for topic in TOPICS]
        await until(lambda: all(ear.times for ear in ears))
        left, to = cluster.primaries[0], cluster.primaries[1]
        identity = await to.command("CLUSTER", "MYID")
        mine = range(SLOTS // 3)
        # First where they leave: who hears from another that its last slot is gone becomes a
        # replica, and takes no such commands.
        for node in (left, to, cluster.primaries[2]):
            await setslots(node, mine, identity)
        left_over = set(names(cluster.primaries[1:]))
        await until(lambda: {shard.name for shard in made.all()} == left_over)
        await until(lambda: all(listens(made, topic) for topic in TOPICS))
        await works(made)

        # Its connections end when what they carried has been answered.
        async def alone() -> bool:
            clients = await left.command("CLIENT", "LIST")
            return "clarion" not in clients

        await eventually(alone)


def names(nodes: tuple[RedisServer, ...]) -> list[str]:
    return [name(node) for node in nodes]


async def setslots(node: RedisServer, slots: range, identity: str) -> None:
    """What an operator does for each slot, in one go."""
    script = (
        "for slot = ARGV[1], ARGV[2] do redis.call('CLUSTER', 'SETSLOT', slot, 'NODE', ARGV[3]) end"
    )
    try:
        await node.command("EVAL", script, 0, slots[0], slots[-1], identity)
    except hiredis.ReplyError:  # not allowed in scripts
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        for each in slots:
            writer.write(pack(("CLUSTER", "SETSLOT", each, "NODE", identity)))
        for _ in slots:
            assert await reader.readuntil(b"\r\n") == b"+OK\r\n"
        writer.close()


async def test_a_probe_whose_slot_moves_finds_another_channel() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        await until(lambda: well(made))
        node = cluster.primaries[0]
        [channel] = await node.command("PUBSUB", "SHARDCHANNELS")
        [shard] = [shard for shard in made.all() if shard.name == name(node)]
        await cluster.move_slot(slot_of(channel.encode()), cluster.primaries[1])
        moved = time.monotonic()
        # A probe that was sent after it.
        await until(lambda: shard.probe_age() < time.monotonic() - moved)
        await until(lambda: well(made))
        assert not any(shard.interruptions for shard in made.all())


# A slot on its way


@asynccontextmanager
async def on_its_way(
    cluster: RedisCluster, number: int, *keys: bytes
) -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A slot that has begun to move, with some of its keys; in the end it has moved."""
    source = await cluster.owner(number)
    to = next(node for node in cluster.primaries if node is not source)
    old, new = await source.command("CLUSTER", "MYID"), await to.command("CLUSTER", "MYID")
    await to.command("CLUSTER", "SETSLOT", number, "IMPORTING", old)
    await source.command("CLUSTER", "SETSLOT", number, "MIGRATING", new)
    if keys:
        await source.command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
    yield source, to
    while rest := await source.command("CLUSTER", "GETKEYSINSLOT", number, 100):
        await source.command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *rest)
    for node in (to, source):
        await node.command("CLUSTER", "SETSLOT", number, "NODE", new)


async def test_keys_that_have_gone_ahead_are_asked_for_there() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        ear = listen(made, "a")
        await until(lambda: ear.times)
        first, second = KEYS.meta("a"), KEYS.stream("a")
        await made.send([("a", pack(("SET", key, key))) for key in (first, second)])
        async with on_its_way(cluster, slot("a"), first) as (source, _):
            commands = [("a", pack(("GET", key))) for key in (first, second, first)]
            assert await made.send(commands) == [first, second, first]
            # Everybody still listens at the old node, where all may publish.
            assert made.of("a").name == name(source)
            assert await made.send([publication("a", b"1")]) == [1]
            await until(lambda: ear.heard == [b"1"])
            assert {shard.name for shard in made.all()} == set(names(cluster.primaries))
            assert ear.times == 1
        await until(lambda: ear.times == 2)
        assert await made.send(commands) == [first, second, first]


async def test_scripts_are_known_to_the_node_that_a_slot_goes_to() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        assert await made.send([once("a")]) == [0]
        async with on_its_way(cluster, slot("a"), KEYS.key("a", "k")) as (_, to):
            assert await made.send([once("a")]) == [1]
            await to.command("SCRIPT", "FLUSH")
            assert await made.send([once("a")]) == [1]


async def test_what_needs_keys_of_both_nodes_waits_for_a_while() -> None:
    cluster = await restless_cluster()
    async with shards(cluster.url) as made:
        keys = KEYS.meta("a"), KEYS.stream("a")
        await made.send([("a", pack(("SET", key, key))) for key in keys])
        command = ("a", pack(("MGET", *keys)))
        async with asyncio.TaskGroup() as group, on_its_way(cluster, slot("a"), keys[0]):
            began = time.monotonic()
            [outcome, beside] = await made.send([command, echo("b")])
            assert isinstance(outcome, BrokerUnavailable)
            assert "moving" in str(outcome)
            assert beside == b"b"
            assert time.monotonic() - began < QUICK.timeout_s + 1
            patient = group.create_task(made.send([command]))
            await until(lambda: made.redirections > 8)
        assert patient.result() == [list(keys)]


# Nodes come and go


async def test_a_replica_that_takes_over_has_all_listeners_of_its_primary() -> None:
    async with RedisCluster(replicas=True) as cluster, shards(cluster.url) as made:
        ears = {topic: listen(made, topic) for topic in TOPICS}
        await until(lambda: all(ear.times for ear in ears.values()))
        await cluster.failover(cluster.replicas[1])
        expected = cluster.primaries[0], cluster.replicas[1], cluster.primaries[2]
        await until(lambda: {shard.name for shard in made.all()} == set(names(expected)))
        await until(lambda: all(listens(made, topic) for topic in TOPICS))
        for topic, ear in ears.items():
            moved = made.of(topic).name == name(cluster.replicas[1])
            assert (ear.times > 1) == moved
        await works(made)
        await made.send([publication(topic, b"1") for topic in TOPICS])
        await until(lambda: all(ear.heard == [b"1"] for ear in ears.values()))


async def test_a_primary_that_dies_is_replaced() -> None:
    async with (
        RedisCluster(replicas=True, node_timeout_ms=500) as cluster,
        shards(cluster.url) as made,
    ):
        ears = {topic: listen(made, topic) for topic in TOPICS}
        await until(lambda: all(ear.times for ear in ears.values()))
        cluster.primaries[0].kill()
        mine = next(topic for topic in TOPICS if slot(topic) < SLOTS // 3)
        await until(lambda: not made.of(mine).available)
        [outcome] = await made.send([echo(mine)])
        assert isinstance(outcome, BrokerUnavailable)
        assert outcome.retry_ms > 0
        await until(lambda: made.of(mine).name == name(cluster.replicas[0]))
        await works(made)
        await until(lambda: all(listens(made, topic) for topic in TOPICS))


async def test_a_node_that_is_lost_is_used_again_when_it_is_back() -> None:
    async with RedisCluster(node_timeout_ms=500) as cluster, shards(cluster.url) as made:
        ears = {topic: listen(made, topic) for topic in TOPICS}
        await until(lambda: all(ear.times for ear in ears.values()))
        lost = cluster.primaries[2]
        lost.kill()

        async def down() -> bool:
            outcomes = await made.send([echo(topic) for topic in TOPICS])
            return all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)

        # With the first of its slots gone a cluster takes no commands at all, as it is by default.
        await eventually(down)
        assert len(made.all()) == 3
        await lost.start()
        await works(made)
        await until(lambda: all(listens(made, topic) for topic in TOPICS))


async def test_slots_that_nobody_has_are_refused_and_kept_for_who_gets_them() -> None:
    async with RedisCluster() as cluster, shards(cluster.url) as made:
        ear = listen(made, "a")
        await until(lambda: ear.times)
        owner = await cluster.owner(slot("a"))
        for node in cluster.primaries:
            await node.command("CONFIG", "SET", "cluster-require-full-coverage", "no")
            await node.command("CLUSTER", "DELSLOTS", slot("a"))
        await until(lambda: any(shard.name == "nobody" for shard in made.all()))
        assert not well(made)
        other = next(topic for topic in TOPICS if slot(topic) != slot("a"))
        refused, done = await made.send([echo("a"), echo(other)])
        assert isinstance(refused, BrokerUnavailable)
        assert done == other.encode()
        late = listen(made, "a")  # takes the first one's place
        await owner.command("CLUSTER", "ADDSLOTS", slot("a"))
        await until(lambda: late.times == 1 and listens(made, "a"))
        await until(lambda: well(made))
        assert {shard.name for shard in made.all()} == set(names(cluster.primaries))


# With a broker


class Cell:
    """A broker over a cluster, and what it feeds."""

    def __init__(self, broker: RedisBroker, feed: Recorder, made: ShardCluster) -> None:
        self.broker, self.feed, self.made = broker, feed, made

    def fed(self, topic: str) -> list[bytes]:
        return [each.data for each in self.feed.of(topic) if type(each) is Publication]


@asynccontextmanager
async def broker(url: str) -> AsyncIterator[Cell]:
    made = shards_of([parse(url)], keys=KEYS, worker="w1", options=QUICK)
    assert isinstance(made, ShardCluster)
    feed = Recorder()
    opened = RedisBroker(
        made,
        keys=KEYS,
        history=lambda topic: HistoryOptions(10_000, 3600),
        now=lambda: int(time.time() * 1000),
    )
    await opened.start(feed)
    try:
        yield Cell(opened, feed, made)
    finally:
        await opened.close()


async def test_a_feed_is_whole_and_in_order_while_its_slot_moves_and_fails_over() -> None:
    async with (
        RedisCluster(replicas=True, node_timeout_ms=500) as cluster,
        broker(cluster.url) as publisher,
        broker(cluster.url) as subscriber,
    ):
        await subscriber.broker.attached("a")
        accepted: list[bytes] = []
        busy = True

        async def publish() -> None:
            number = 0
            while busy:
                number += 1
                data = b"%d" % number
                [answer] = await publisher.broker.publish([Draft("a", data)])
                if isinstance(answer, Receipt):
                    accepted.append(data)
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            for _ in range(2):
                to = await another(cluster, "a")
                await until(lambda: len(accepted) % 50 == 49)
                await cluster.move_slot(slot("a"), to)
            place = cluster.primaries.index(to)
            await until(lambda: len(accepted) % 50 == 49)
            await cluster.failover(cluster.replicas[place])
            count = len(accepted)
            await until(lambda: len(accepted) > count + 50)
            busy = False
        await until(lambda: accepted[-1] in subscriber.fed("a"))
        fed = subscriber.fed("a")
        assert [int(data) for data in fed] == sorted({int(data) for data in fed})
        assert set(accepted) <= set(fed)
        page = await subscriber.broker.read("a", Want())
        assert [each.data for each in page.publications] == fed


async def test_what_is_published_while_its_slot_is_on_its_way_is_fed_at_once() -> None:
    cluster = await restless_cluster()
    async with broker(cluster.url) as cell:
        await cell.broker.attached("a")
        [first] = await cell.broker.publish([Draft("a", b"1")])
        assert isinstance(first, Receipt)
        keys = [KEYS.meta("a"), KEYS.stream("a")]
        async with on_its_way(cluster, slot("a"), *keys):
            for number in (b"2", b"3", b"4"):
                [answer] = await cell.broker.publish([Draft("a", number)])
                assert isinstance(answer, Receipt), answer
                began = time.monotonic()
                await until(lambda: number in cell.fed("a"))  # noqa: B023
                assert time.monotonic() - began < 2  # and not when it is checked next
        await cell.broker.publish([Draft("a", b"5")])
        await until(lambda: b"5" in cell.fed("a"))
        assert cell.fed("a") == [b"1", b"2", b"3", b"4", b"5"]
