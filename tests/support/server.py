"""A server to test against: a worker in the test's own loop, or a process of its own."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import msgspec

from clarion_fanout.publication import Draft, Position, Receipt
from clarion_server.app import Worker
from clarion_server.auth import mint, token_claims
from clarion_server.options import (
    AuthOptions,
    Config,
    HistoryLimits,
    Keepalive,
    Limits,
    Namespace,
    WindowOptions,
)
from support.waiting import DEADLINE

SECRET = "a secret for tests that is long enough for every HS algorithm, 64"

OPEN = Namespace(history_size=100, subscribe="everyone", publish="everyone")
"""Topics with a history, open to everyone."""

BARE = Namespace(subscribe="everyone", publish="everyone")
"""The same without a history."""


def configuration(
    *,
    auth: AuthOptions | None = None,
    limits: Limits | None = None,
    keepalive: Keepalive | None = None,
    window: WindowOptions | None = None,
    namespaces: Mapping[str, Namespace] | None = None,
    **rest: Any,
) -> Config:
    """A server for tests: any port, open to everyone, with a history unless in `bare:`."""
    return Config(
        port=0,
        api_port=0,
        auth=auth or AuthOptions(anonymous=True, secret=SECRET),
        limits=limits or Limits(),
        keepalive=keepalive or Keepalive(close_s=1),
        window=window or WindowOptions(),
        history=HistoryLimits(memory_bytes=64 * 1024 * 1024),
        namespaces={"default": OPEN, "bare": BARE} | dict(namespaces or {}),
        **rest,
    )


@asynccontextmanager
async def running(config: Config | None = None) -> AsyncIterator[Worker]:
    """A worker, started; afterwards it is closed without saying goodbye to anybody.

    That it logs an error, as it does where an exception surprised it, fails the test.
    """
    worker = Worker(configuration() if config is None else config)
    # The worker begins with a full collection, which has no business with the test session's
    # objects: it would take longer than many a test.
    gc.freeze()
    with no_errors():
        await worker.start()
        try:
            yield worker
        finally:
            await worker.close()


@contextmanager
def no_errors() -> Iterator[None]:
    """Fails if an error is logged meanwhile, by the server or by the event loop."""
    errors = _Errors(logging.ERROR)
    logging.getLogger().addHandler(errors)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(errors)
    assert not errors.texts, "\n".join(errors.texts)


class _Errors(logging.Handler):
    """Keeps the text of every record."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


async def publish(worker: Worker, topic: str, data: object) -> Position | None:
    """Publishes as a backend does."""
    (receipt,) = await worker.broker.publish([Draft(topic, msgspec.json.encode(data))])
    assert isinstance(receipt, Receipt)
    return receipt.position


def token(sub: str, ttl: float = 60, subscribe: Sequence[str] = ()) -> str:
    """A token that servers with `SECRET` accept."""
    claims = token_claims(sub=sub, ttl=ttl, now=time.time(), subscribe=subscribe)
    return mint(claims, SECRET, "HS256")


def clients(worker: Worker) -> int:
    """Connections that are open."""
    return sum(worker.counters.connections.values())


class Process(NamedTuple):
    """`clarion serve` in a process of its own."""

    process: asyncio.subprocess.Process
    port: int
    api_port: int


@asynccontextmanager
async def serving(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    """Starts `clarion serve` on free ports, in development mode; in the end it is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clarion_server", "serve", "--port", "0", "--api-port", "0"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE):
            greeting = ""
            ports: dict[str, int] = {}
            while len(ports) < 2:
                line = (await process.stdout.readline()).decode()
                assert line, f"no ports in {greeting!r}, {await process.stderr.read()!r}"
                greeting += line
                if found := re.search(r"(clients|backends) +\w+://[^:]+:(\d+)/", line):
                    ports[found[1]] = int(found[2])
        yield Process(process, ports["clients"], ports["backends"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
