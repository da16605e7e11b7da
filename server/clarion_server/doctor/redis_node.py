"""What a Redis server says of itself: asked once, before the checks, within a deadline.

Nothing is written. What this user may not ask (`CONFIG GET` at many providers) is None.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import hiredis
import msgspec

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_pipeline import Pipeline
from clarion_fanout.redis_query import Refusal, log_in
from clarion_fanout.redis_wire import Reply, pack
from clarion_server.doctor.finding import Plan
from clarion_server.doctor.redis_rights import CHECK, Pool, Words, commands

PINGS = 20
"""Round trips, one after another: a median, and a glimpse of the slowest."""

SETTINGS = (
    "client-output-buffer-limit",
    "maxmemory",
    "maxmemory-policy",
    "maxclients",
    "timeout",
    "tcp-keepalive",
    "appendonly",
    "appendfsync",
    "save",
    "min-replicas-to-write",
    "min-replicas-max-lag",
    "cluster-require-full-coverage",
)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of one server.

    shard: the name of the shard, or of the node in a cluster. pool: what the shard's URL is one of.
    near: whether it is on this machine. encrypted, login: whether TLS is spoken, and as whom we are
        logged in; "" without a password.
    error: why it cannot be asked; then nothing else is known.
    info: INFO, by name. settings: `SETTINGS`.
    scripts: why scripts do not run; "" if they do. refused: commands that this user may not send.
    pings_s: round trips. ahead_s: its clock, less ours.
    certificate_s: for how long its certificate is valid from now on; None without TLS.
    path: why nothing that is published there arrives; "" if it does, None if it was not tried.
    cluster: CLUSTER INFO, by name.
    """

    shard: str
    address: str = ""
    pool: Pool = "server"
    near: bool = True
    encrypted: bool = False
    login: str = ""
    error: str = ""
    info: dict[str, str] = {}
    settings: dict[str, str] | None = None
    scripts: str = ""
    refused: tuple[str, ...] = ()
    pings_s: tuple[float, ...] = ()
    ahead_s: float | None = None
    certificate_s: float | None = None
    path: str | None = None
    cluster: dict[str, str] | None = None


async def ask_node(shard: str, address: Address, pool: Pool, plan: Plan) -> Node:
    """Asks one server. Takes no longer than `PINGS` times a round trip and a few deadlines."""
    node = Node(
        shard=shard,
        address=str(address),
        pool=pool,
        near=is_near(address),
        encrypted=address.tls is not None,
        login=(address.username or "default") if address.password else "",
    )
    try:
        async with _conversation(address, plan.timeout_s) as ask:
            node = await _ask(node, ask, plan)
            if address.tls is not None:
                left = await _certificate_s(address, address.tls, plan.timeout_s)
                node = msgspec.structs.replace(node, certificate_s=left)
            if pool == "cluster":  # there a channel is one node's, and these names are not chosen
                return node
            path = await _path(address, ask, plan)
            return msgspec.structs.replace(node, path=path)
    except (OSError, BrokerUnavailable) as error:
        return msgspec.structs.replace(node, error=plain(error, plan.timeout_s))


class _Conversation:
    """A connection on which commands are answered, each question within the deadline."""

    def __init__(self, pipeline: Pipeline, timeout_s: float) -> None:
        self._pipeline = pipeline
        self._timeout_s = timeout_s

    async def __call__(self, *commands: Words) -> list[Reply]:
        """The replies, errors among them. Raises `TimeoutError` and `BrokerUnavailable`."""
        packed = b"".join([pack(command) for command in commands])
        async with asyncio.timeout(self._timeout_s):
            return await self._pipeline.send(packed, len(commands))


@asynccontextmanager
async def _conversation(address: Address, timeout_s: float) -> AsyncGenerator[_Conversation]:
    wire, _ = await log_in(address, [], timeout_s, client="clarion-doctor")
    pipeline = Pipeline(str(address))
    wire.hand_over(pipeline.received, pipeline.lost)
    pipeline.attach(wire)
    try:
        yield _Conversation(pipeline, timeout_s)
    finally:
        await pipeline.close()


async def _ask(node: Node, ask: _Conversation, plan: Plan) -> Node:
    info, settings, clock, cluster = await ask(
        ("INFO",), ("CONFIG", "GET", *SETTINGS), ("TIME",), ("CLUSTER", "INFO")
    )
    now = time.time()
    if not isinstance(info, bytes):
        raise Refusal(f"answers {info}")
    pings: list[float] = []
    for _ in range(PINGS):
        began = time.perf_counter()
        await ask(("PING",))
        pings.append(time.perf_counter() - began)
    asked = commands(plan.prefix, node.pool)
    (found,) = await ask(("EVAL", CHECK, 0, *(_json(words) for words in asked)))
    scripts, refused = "", list[str]()
    if isinstance(found, list):
        refused = [_short(asked[place]) for place in cast("list[int]", found)]
    elif isinstance(found, hiredis.ReplyError):
        scripts = str(found).splitlines()[0]
    else:
        scripts = "answers as if there was none"
    return msgspec.structs.replace(
        node,
        info=facts(info),
        settings=_settings(settings),
        scripts=scripts,
        refused=tuple(refused),
        pings_s=tuple(pings),
        ahead_s=_seconds(clock, now),
        cluster=facts(cluster) if isinstance(cluster, bytes) else None,
    )


async def _certificate_s(address: Address, tls: ssl.SSLContext, timeout_s: float) -> float:
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(
            address.host, address.port, ssl=tls, server_hostname=address.host
        )
    try:
        return ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"]) - time.time()
    finally:
        writer.transport.abort()


async def _path(address: Address, ask: _Conversation, plan: Plan) -> str:
    """Publishes something where nobody but us listens; why it does not arrive, or ""."""
    channel = Keys(plan.prefix).probe(f"doctor-{secrets.token_hex(4)}")
    arrived = asyncio.Event()
    try:
        wire, _ = await log_in(address, [("SUBSCRIBE", channel)], plan.timeout_s)
        wire.hand_over(lambda _: arrived.set(), lambda _: None)
        try:
            (reply,) = await ask(("PUBLISH", channel, "x"))
            if isinstance(reply, hiredis.ReplyError):
                return str(reply)
            async with asyncio.timeout(plan.timeout_s):
                await arrived.wait()
        finally:
            await wire.close()
    except (OSError, BrokerUnavailable) as error:
        return plain(error, plan.timeout_s)
    return ""


def is_near(address: Address) -> bool:
    """Whether a server is on this machine, as its address says."""
    return bool(address.path) or re.match(r"localhost$|127\.|::1$", address.host) is not None


def plain(error: Exception, timeout_s: float) -> str:
    """Why somebody could not be asked, for people."""
    if isinstance(error, TimeoutError):
        return f"does not answer within {timeout_s:g} s"
    if isinstance(error, Refusal):
        return str(error)
    return f"cannot be reached: {getattr(error, 'strerror', None) or error}"


def facts(reply: bytes) -> dict[str, str]:
    """Lines of `name:value`, as INFO has them."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def pairs(reply: Sequence[bytes | int]) -> dict[str, str]:
    """A flat list of names and values."""
    texts = [
        item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in reply
    ]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def number(told: Mapping[str, str], name: str) -> int:
    """A number among what was told; 0 if it is missing, or none."""
    text = told.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _settings(reply: Reply) -> dict[str, str] | None:
    # Some providers answer with nothing instead of an error.
    return pairs(cast("list[bytes]", reply)) or None if isinstance(reply, list) else None


def _seconds(reply: Reply, now: float) -> float | None:
    if not isinstance(reply, list):
        return None
    seconds, micros = cast("list[bytes]", reply)
    return int(seconds) + int(micros) / 1e6 - now


def _json(words: Words) -> str:
    return json.dumps([w.decode() if isinstance(w, bytes) else str(w) for w in words])


def _short(words: Words) -> str:
    """A command as it is told: with its first key or channel, which may be what is refused."""
    texts = [w.decode() if isinstance(w, bytes) else str(w) for w in words]
    return " ".join(texts[:2])
