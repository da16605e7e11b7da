"""`clarion doctor`: what in the machine and in Redis would spoil it, and how to change that."""

from __future__ import annotations

import argparse
import asyncio
import sys

from clarion_server import __version__, config
from clarion_server.cli.serve import add_config
from clarion_server.cli.terminal import Paint

CONNECTIONS = 10_000
"""What a server that is meant seriously should take."""


def arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--redis", metavar="URL", action="append", help="a shard, instead of those configured"
    )
    parser.add_argument(
        "--connections",
        metavar="N",
        type=_count,
        help="clients at once that the machine is to take; default: what limits.connections allows"
        f" all workers, or {CONNECTIONS}",
    )
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    parser.epilog = "Changes nothing. The exit status is 1 when something is bad."


def _count(text: str) -> int:
    number = int(text.replace(",", "").replace("_", ""))
    if number < 1:
        raise ValueError
    return number


def run(options: argparse.Namespace) -> int:
    loaded = config.read(options.config, flags={"redis": options.redis})
    # Only here: what is wrong with a configuration shows at once.
    from clarion_fanout import redis_address
    from clarion_server.doctor import examine
    from clarion_server.doctor.finding import Plan
    from clarion_server.doctor.table import as_json, count, table

    c = loaded.config
    locations = {
        location.name: location
        for url in (*c.redis, *c.next_shards, *c.previous_shards)
        for location in [redis_address.parse(url)]
    }
    plan = Plan(
        connections=options.connections or c.limits.connections * c.workers or CONNECTIONS,
        workers=c.workers,
        ports=(c.port, c.api_port),
        prefix=c.prefix,
        history_bytes=0 if locations else c.history.memory_bytes,
        timeout_s=c.shards.timeout_s,
    )
    parts = asyncio.run(examine(plan, list(locations.values())))
    if options.json:
        print(as_json(parts))
    else:
        shards = f"{len(locations)} shard{'s' * (len(locations) > 1)}" if locations else "no Redis"
        workers = f"{plan.workers} worker{'s' * (plan.workers > 1)}"
        print(f"Clarion {__version__} for {plan.connections:,} connections, {workers}, {shards}\n")
        print("\n".join(table(parts, Paint(sys.stdout))))
    return 1 if count(parts)["bad"] else 0
