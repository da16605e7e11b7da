"""Logging in to a Redis server, and questions that are asked over a connection of their own: of
Sentinels, and of any cluster node. They are rare, and come when the usual connection is gone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_pipeline import Pipeline
from clarion_fanout.redis_wire import Argument, Reply, Wire, connect, pack

T = TypeVar("T")

STAGGER_SECONDS = 0.25
"""How long one server is given to answer before the next is asked as well: many times what an
answer takes, and a few that hang do not add up to what somebody notices."""


class Refusal(OSError):
    """A server answered that it can not or will not do what we need. The text says why."""


def login(address: Address, client: str = "") -> list[tuple[Argument, ...]]:
    """The commands that a connection begins with. client: what it is called in `CLIENT LIST`."""
    commands: list[tuple[Argument, ...]] = []
    if address.username:
        commands.append(("AUTH", address.username, address.password))
    elif address.password:
        commands.append(("AUTH", address.password))
    if address.db:
        commands.append(("SELECT", address.db))
    if client:
        commands.append(("CLIENT", "SETNAME", client))
    return commands


async def log_in(
    address: Address,
    commands: Sequence[tuple[Argument, ...]],
    timeout_s: float,
    *,
    client: str = "",
) -> tuple[Wire, list[Reply]]:
    """Opens a connection and sends commands; answers both, with the replies to these.

    Raises `OSError`; `Refusal` when a reply is an error. Nobody is told what else the connection
    brings, nor its end, until it is handed over.
    """
    pipeline = Pipeline(str(address))
    wire = await connect(address, pipeline.received, pipeline.lost, timeout_s)
    try:
        pipeline.attach(wire)
        all_commands = [*login(address, client), *commands]
        packed = b"".join([pack(command) for command in all_commands])
        async with asyncio.timeout(timeout_s):
            replies = await pipeline.send(packed, len(all_commands))
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                # What follows may be a password.
                text, _, _ = str(reply).partition(", with args beginning with")
                raise Refusal(f"answers {text}")
        if wire.lost:
            raise ConnectionError(wire.lost)
    except BaseException as error:
        await wire.close()
        if isinstance(error, BrokerUnavailable):
            raise ConnectionError(wire.lost or str(error)) from None
        raise
    return wire, replies[len(replies) - len(commands) :]


async def ask(
    address: Address, commands: Sequence[tuple[Argument, ...]], timeout_s: float
) -> list[Reply]:
    """Connects, asks and closes. Raises `OSError`; `Refusal` when an answer is an error."""
    wire, replies = await log_in(address, commands, timeout_s)
    await wire.close()
    return replies


async def ask_any(
    addresses: Sequence[Address],
    commands: Sequence[tuple[Argument, ...]],
    timeout_s: float,
    useful: Callable[[Address, list[Reply]], T],
) -> T:
    """Asks several servers, in random order, until what one answers is of use.

    useful: what an answer means. Raises `OSError` if it is of no use.
    Raises `OSError` when no server has a useful answer.
    """

    async def answer(address: Address) -> T | OSError:
        try:
            return useful(address, await ask(address, commands, timeout_s))
        except OSError as error:
            return error

    left = random.sample(addresses, len(addresses))
    failure = OSError("there is nobody to ask")
    asking: set[asyncio.Task[T | OSError]] = set()
    async with asyncio.TaskGroup() as group:
        try:
            while left or asking:
                if left:
                    asking.add(group.create_task(answer(left.pop())))
                done, asking = await asyncio.wait(
                    asking,
                    timeout=STAGGER_SECONDS if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    found = task.result()
                    if not isinstance(found, OSError):
                        return found
                    failure = found
        finally:
            for task in asking:
                task.cancel()
    raise failure


async def ask_sentinels(location: Location, timeout_s: float) -> Address:
    """Where the Sentinels say that the primary is. Raises `OSError` when none knows."""
    username, password = location.sentinel_login
    sentinels = [
        address._replace(username=username, password=password, db=0)
        for address in location.addresses
    ]

    def primary(_: Address, replies: list[Reply]) -> Address:
        if replies[0] is None:
            raise Refusal(f"is not known to the Sentinels as {location.service}")
        host, port = cast("list[bytes]", replies[0])
        return location.addresses[0].at(host.decode(), int(port))

    command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", location.service)
    try:
        return await ask_any(sentinels, [command], timeout_s, primary)
    except Refusal:
        raise
    except OSError as error:
        raise OSError(f"no Sentinel can be asked: {error.strerror or error}") from None
