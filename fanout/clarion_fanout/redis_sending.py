"""Sending commands to several shards at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_shard import Shard
from clarion_fanout.redis_wire import Reply


async def send_each(
    shards: Sequence[Shard], commands: Sequence[tuple[str, bytes]]
) -> list[Reply | BrokerUnavailable]:
    """Sends each of `commands` to the shard in its place; see `Shards.send`."""
    if len(commands) == 1:  # most are alone
        return await _outcomes(shards[0], [commands[0][1]])
    shares: dict[Shard, list[bytes]] = {}
    for shard, (_, packed) in zip(shards, commands, strict=True):
        share = shares.get(shard)
        if share is None:
            shares[shard] = [packed]
        else:
            share.append(packed)
    if len(shares) == 1:
        [(shard, share)] = shares.items()
        return await _outcomes(shard, share)
    async with asyncio.TaskGroup() as group:
        tasks = {
            shard: group.create_task(_outcomes(shard, share)) for shard, share in shares.items()
        }
    outcomes = {shard: iter(task.result()) for shard, task in tasks.items()}
    return [next(outcomes[shard]) for shard in shards]


async def _outcomes(shard: Shard, commands: list[bytes]) -> list[Reply | BrokerUnavailable]:
    try:
        return await shard.sends(commands)
    except BrokerUnavailable as error:
        # One each: whoever raises it writes into it where it went.
        return [BrokerUnavailable(str(error), error.retry_ms) for _ in commands]
