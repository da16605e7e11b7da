"""Lanes: ways between workers through every shard."""

from __future__ import annotations

import pytest

from clarion_fanout.redis_address import Address, parse
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_lanes import LANES, lanes, one_each
from clarion_fanout.redis_list import ShardList
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_slots import SLOTS, slot_of
from clarion_fanout.tasks import Tasks
from support.controls import KEYS, Nodes, nowhere
from support.redis_shared import shared_servers


async def test_a_list_of_shards_has_a_lane_each_by_the_same_names() -> None:
    locations = [parse(f"redis://h:{port}") for port in (1, 2, 3)]
    shards = ShardList(locations, keys=KEYS, worker="w", options=ShardOptions())
    found = lanes(shards, KEYS)
    assert [lane.shard for lane in found] == list(shards.all())
    assert [lane.name for lane in found] == ["h:1/0", "h:2/0", "h:3/0"]
    assert {lane.suffix for lane in found} == {b""}


@pytest.mark.parametrize("count", [1, 3, 8])
async def test_every_node_of_a_cluster_has_lanes(count: int) -> None:
    nodes = Nodes(*[nowhere] * count)
    found = lanes(nodes, KEYS)
    assert len(found) == len({lane.name for lane in found}) == LANES
    assert {lane.shard for lane in found} == set(nodes.all())


@pytest.mark.parametrize("prefix", ["clarion", "other", "a-much-longer-name_of.ours"])
async def test_lanes_are_spread_evenly_over_the_slots(prefix: str) -> None:
    keys = Keys(prefix)
    slots = sorted(slot_of(keys.questions(lane.suffix)) for lane in lanes(Nodes(nowhere), keys))
    assert [place * LANES // SLOTS for place in slots] == list(range(LANES))


async def test_all_names_of_a_lane_are_in_its_slot_of() -> None:
    nodes = Nodes(*[nowhere] * 8)
    for lane in lanes(nodes, KEYS):
        names = (KEYS.questions, KEYS.roll, lambda suffix: KEYS.answers("w", suffix))
        assert {slot_of(name(lane.suffix)) for name in names} == {slot_of(KEYS.channel(lane.name))}
        assert nodes.of(lane.name) is lane.shard


async def test_the_lanes_of_others_remain_when_nobody_has_a_slot_of() -> None:
    nodes = Nodes(*[nowhere] * 4)
    nodes.unknown.add("n2")
    found = lanes(nodes, KEYS)
    assert len(found) == LANES * 3 // 4
    assert {lane.shard.name for lane in found} == {"n0", "n1", "n3"}


async def test_the_way_to_say_something_is_one_lane_of_each_shard_that_can_be_reached() -> None:
    (server,) = await shared_servers(1)
    tasks = Tasks()
    there = parse(server.url).addresses[0]

    async def locate() -> Address:
        return there

    nodes = Nodes(*[locate] * 3)
    try:
        for shard in nodes.all()[1:]:
            shard.start(tasks)
            await shard.tried()
        found = one_each(lanes(nodes, KEYS))
        assert {lane.shard.name for lane in found} == {"n1", "n2"}
        assert len(found) == 2
    finally:
        await tasks.close()
        for shard in nodes.all():
            await shard.close()
