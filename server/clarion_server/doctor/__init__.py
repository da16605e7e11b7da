"""`clarion doctor`: is it the machine, or Redis, before it is the server?

    machine.py                     readings of /proc, /sys and a few calls
      host.py, network.py          checks of them
    redis_shards.py redis_node.py  everybody who is asked, and what one server says
      redis_checks.py, sentinel_checks.py
    finding.py                     what a check says, and the plan it measures against
    table.py                       findings for people and for programs

Readings are made once; checks are functions of readings and a plan, and do nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from clarion_fanout.redis_address import Location
from clarion_server.doctor import host, machine, network, redis_checks
from clarion_server.doctor.finding import Finding, Plan, bad
from clarion_server.doctor.redis_node import Node
from clarion_server.doctor.redis_shards import Shard, ask_shards
from clarion_server.doctor.sentinel_checks import sentinels

WATCHED_SECONDS = 0.5
"""How long the wall clock is watched at least."""


class Part(NamedTuple):
    """Findings that belong together. title: `machine`, or a shard's or node's name."""

    title: str
    findings: list[Finding]


async def examine(plan: Plan, locations: Sequence[Location]) -> list[Part]:
    """Looks at everything: the machine, then each shard. Takes some deadlines at the longest."""
    readings, began = machine.read(), time.monotonic()
    shards, _ = await asyncio.gather(ask_shards(locations, plan), asyncio.sleep(WATCHED_SECONDS))
    moved = machine.offset() - readings.offset
    step = host.clock_step(moved, time.monotonic() - began)
    parts = [Part("machine", [*check_machine(readings, plan), step])]
    for shard in shards:
        parts += check_shard(shard, plan)
    return parts


def check_machine(readings: machine.Machine, plan: Plan) -> list[Finding]:
    """Everything about the machine but what takes time to see."""
    return [check(readings, plan) for check in (*host.CHECKS, *network.CHECKS)]


def check_shard(shard: Shard, plan: Plan) -> list[Part]:
    """A part for the shard's Sentinels, or that it cannot be found, and one for each node."""
    own = sentinels(shard)
    if shard.error:
        own.append(
            bad(
                "found",
                shard.error,
                "a primary",
                "Topics of this shard cannot be published to, and their subscribers hear nothing.",
                "the URL's hosts; for Sentinels also the name of the service",
            )
        )
    parts = [Part(f"shard {shard.location}: where it is", own)] if own else []
    return parts + [Part(_title(node), check_node(node, plan)) for node in shard.nodes]


def _title(node: Node) -> str:
    what = "node" if node.pool == "cluster" else "shard"
    known = not node.address or node.address in node.shard
    return f"{what} {node.shard}" + ("" if known else f": {node.address}")


def check_node(node: Node, plan: Plan) -> list[Finding]:
    """Everything about one server."""
    findings = [redis_checks.reachable(node, plan)]
    if not node.error:
        checked = [check(node, plan) for check in redis_checks.CHECKS]
        findings += [finding for finding in checked if finding is not None]
    return findings
