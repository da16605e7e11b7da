"""Questions that are asked over a connection of their own: of Sentinels, and of any cluster node.

They are rare, and come when the usual connection is gone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_pipeline import Pipeline
from clarion_fanout.redis_wire import Argument, Reply, connect, pack


def login(address: Address, client: str) -> list[tuple[Argument, ...]]:
    """The commands that a connection begins with."""
    commands: list[tuple[Argument, ...]] = []
    if address.username:
        commands.append(("AUTH", address.username, address.password))
    elif address.password:
        commands.append(("AUTH", address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    commands.append(("CLIENT", "SETNAME", client))
    return commands


async def ask(
    address: Address, commands: Sequence[tuple[Argument, ...]], timeout_s: float
) -> list[Reply]:
    """Connects, asks and closes. Raises `OSError`, also when an answer is an error."""
    pipeline = Pipeline(str(address))
    commands = [*login(address, "clarion-query"), *commands]
    wire = await connect(address, pipeline.received, pipeline.lost, timeout_s)
    try:
        pipeline.attach(wire)
        packed = b"".join([pack(command) for command in commands])
        async with asyncio.timeout(timeout_s):
            replies = await pipeline.send(packed, len(commands))
    except BrokerUnavailable as error:
        raise OSError(str(error)) from None
    finally:
        await pipeline.close()
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError):
            raise OSError(f"{address} answered {reply}")
    return replies


async def ask_any(
    addresses: Sequence[Address], command: tuple[Argument, ...], timeout_s: float
) -> Reply:
    """The first answer that any of several servers gives. Raises `OSError` when none does."""
    failure = OSError("there is nobody to ask")
    for address in random.sample(addresses, len(addresses)):
        try:
            return (await ask(address, [command], timeout_s))[-1]
        except OSError as error:
            failure = error
    raise failure


async def ask_sentinels(location: Location, timeout_s: float) -> Address:
    """Where the Sentinels say that the primary is. Raises `OSError` when none knows."""
    username, password = location.sentinel_login
    sentinels = [
        address._replace(username=username, password=password, db=0)
        for address in location.addresses
    ]
    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", location.service)
    reply = await ask_any(sentinels, command, timeout_s)
    if reply is None:
        raise OSError(f"the Sentinels know no service {location.service}")
    host, port = cast("list[bytes]", reply)
    return location.addresses[0].at(host.decode(), int(port))
