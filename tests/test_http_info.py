"""What the private API tells about all workers and shards."""

from __future__ import annotations

import msgspec

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.roll import Entry
from support.fleets import Ship, Told
from support.private_api import BADGE, serving


async def described(ship: Ship) -> bytes:
    return await ship.duty.answer(b'{"op":"describe"}')


async def test_counts_are_summed_over_workers_and_by_instance() -> None:
    one, two = Ship("b", 1), Ship("c", 2)
    one.counters.connections["websocket"] = 5
    one.subscribe("x", "y")
    two.counters.connections["sse"] = 1
    others = Told({"b": await described(one), "c": await described(two)})
    async with serving(others=others) as api:
        api.counters.connections["websocket"] = 3
        info = (await api.get("/v1/info")).json
    assert (info["connections"], info["subscriptions"], info["topics"]) == (9, 2, 2)
    assert info["instance"] == BADGE.instance
    assert [worker["id"] for worker in info["workers"]] == [BADGE.id, "b", "c"]
    assert info["instances"] == [
        {
            "instance": BADGE.instance,
            "host": "h",
            "version": BADGE.version,
            "workers": 1,
            "connections": 3,
            "subscriptions": 0,
        },
        {
            "instance": "i1",
            "host": "h",
            "version": "1",
            "workers": 2,
            "connections": 6,
            "subscriptions": 2,
        },
    ]
    assert (info["complete"], info["unanswered"]) == (True, [])


async def test_a_worker_is_told_with_what_speaks_against_it() -> None:
    async with serving() as api:
        api.reasons.append("shard a: not connected")
        (worker,) = (await api.get("/v1/info")).json["workers"]
    uptime = worker.pop("uptime_s")
    assert 0 <= uptime < 60
    assert worker == {
        **msgspec.structs.asdict(BADGE),
        "connections": 0,
        "subscriptions": 0,
        "topics": 0,
        "not_ready": ["shard a: not connected"],
        "shards": [],
    }


async def test_who_does_not_answer_is_named() -> None:
    silent = Entry("b", msgspec.json.encode(Ship("b", 1).duty.badge))
    async with serving(others=Told({}, [silent])) as api:
        info = (await api.get("/v1/info")).json
    assert not info["complete"]
    assert info["unanswered"] == [
        {"id": "b", "instance": "i1", "worker": 1, "host": "h", "pid": 1001}
    ]


async def test_without_any_shard_this_worker_is_told_and_that_others_are_unknown() -> None:
    async with serving(others=Told(BrokerUnavailable("no shard"))) as api:
        answer = await api.get("/v1/info")
    assert answer.status == 200
    assert (len(answer.json["workers"]), answer.json["complete"]) == (1, False)
