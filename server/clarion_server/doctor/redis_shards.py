"""Every shard that the configuration names, its Sentinels and nodes: who can be asked, and what
they say. All at once, each within the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import hiredis
import msgspec

from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_layout import ask_layout
from clarion_fanout.redis_query import ask, ask_sentinels
from clarion_server.doctor.finding import Plan
from clarion_server.doctor.redis_node import Node, ask_node, pairs, plain

MOST_NODES = 64
"""Primaries of a cluster that are asked; so many are all alike."""


class Sentinel(msgspec.Struct, frozen=True, kw_only=True):
    """What one Sentinel says of the service. error: why it does not."""

    address: str
    error: str = ""
    service: dict[str, str] = {}


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard: its primary, or the primaries of a cluster. error: why none was found."""

    location: str
    service: str = ""
    error: str = ""
    nodes: tuple[Node, ...] = ()
    sentinels: tuple[Sentinel, ...] = ()


async def ask_shards(locations: Sequence[Location], plan: Plan) -> list[Shard]:
    """Asks everybody there is. Raises nothing that a server can bring about."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(_ask_shard(location, plan)) for location in locations]
    return [task.result() for task in asked]


async def _ask_shard(location: Location, plan: Plan) -> Shard:
    shard = Shard(location=location.name, service=location.service)
    sentinels: list[Sentinel] = []
    try:
        if location.kind == "sentinel":
            sentinels = await _ask_sentinels(location, plan.timeout_s)
            addresses = {location.name: await ask_sentinels(location, plan.timeout_s)}
        elif location.kind == "cluster":
            addresses = await _primaries(location, plan.timeout_s)
        else:
            addresses = {location.name: location.addresses[0]}
    except OSError as error:
        why = plain(error, plan.timeout_s)
        return msgspec.structs.replace(shard, error=why, sentinels=tuple(sentinels))
    async with asyncio.TaskGroup() as group:
        nodes = [
            group.create_task(ask_node(name, address, location.kind, plan))
            for name, address in addresses.items()
        ]
    return msgspec.structs.replace(
        shard, nodes=tuple(node.result() for node in nodes), sentinels=tuple(sentinels)
    )


async def _primaries(location: Location, timeout_s: float) -> dict[str, Address]:
    layout = await ask_layout(location.addresses, timeout_s, first=True)
    found: dict[str, Address] = {}
    for _, _, where in layout.ranges:
        host, _, port = where.rpartition(":")
        if len(found) < MOST_NODES:
            found[where] = location.addresses[0].at(host, int(port))
    return found


async def _ask_sentinels(location: Location, timeout_s: float) -> list[Sentinel]:
    username, password = location.sentinel_login

    async def one(address: Address) -> Sentinel:
        try:
            (reply,) = await ask(address, [("SENTINEL", "MASTER", location.service)], timeout_s)
        except OSError as error:
            return Sentinel(address=str(address), error=plain(error, timeout_s))
        assert not isinstance(reply, hiredis.ReplyError)
        return Sentinel(address=str(address), service=pairs(cast("list[bytes]", reply)))

    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(one(address._replace(username=username, password=password, db=0)))
            for address in location.addresses
        ]
    return [task.result() for task in asked]
