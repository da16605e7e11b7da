"""A server of several workers in processes of their own, and a handle on it.

The configuration would ask for Redis, which carries publications between workers; here it does
not matter who carries them, so `python -m support.crew` starts the server past the configuration.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from clarion_fanout.tasks import Tasks
from clarion_server.inheritance import Inheritance
from clarion_server.launch import serve
from clarion_server.options import AuthOptions, Config, Keepalive
from clarion_server.supervisor import Supervisor
from support.server import OPEN
from support.waiting import DEADLINE, until

TESTS = Path(__file__).parents[1]


class Options(msgspec.Struct):
    """What the server is to be; the ports are any that are free unless given."""

    workers: int = 3
    port: int = 0
    close_s: float = 1.0
    jwks_file: str = ""
    work: str = ""
    """A name in `WORKS`, for workers that do nothing but that."""
    ending_s: float = 1.0
    """How long these may take to end."""


class Server:
    """A running server: what it printed, and what it says about itself when asked."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        """For temporary files."""
        self.out = ""
        self.log = ""
        self.port = 0
        self.api_port = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    async def get(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        """GET over a connection of its own, so that any worker may answer."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port or self.api_port}{path}") as answer,
        ):
            return answer.status, await answer.read()

    async def ready(self) -> tuple[bool, list[str]]:
        """What the private port says; its status says the same."""
        status, body = await self.get("/readyz")
        answer = msgspec.json.decode(body)
        assert status == (200 if answer["ready"] else 503)
        return answer["ready"], answer["reasons"]

    async def metrics(self) -> dict[str, dict[str, float]]:
        """The values of each sample by worker, summed over the other labels."""
        _status, body = await self.get("/metrics")
        values: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                by_worker = values.setdefault(sample.name, {})
                worker = sample.labels["worker"]
                by_worker[worker] = by_worker.get(worker, 0.0) + sample.value
        return values

    async def connections(self) -> list[int]:
        """Clients of each worker."""
        metrics = await self.metrics()
        return [int(count) for count in metrics["clarion_connections"].values()]

    async def infos(self) -> list[Any]:
        """`/v1/info` of each worker."""
        count = int(re.findall(r"(\d+) workers", self.out)[0])
        infos: dict[int, Any] = {}
        async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE):
            while len(infos) < count:
                # Connections that stay open, so that the next one is another worker's.
                session = await stack.enter_async_context(aiohttp.ClientSession())
                async with session.get(f"http://127.0.0.1:{self.api_port}/v1/info") as answer:
                    info = await answer.json()
                infos[info["workers"][0]["worker"]] = info
        return [infos[number] for number in range(count)]

    async def pids(self) -> dict[int, int]:
        """The process of each worker."""
        workers = [info["workers"][0] for info in await self.infos()]
        return {worker["worker"]: worker["pid"] for worker in workers}

    async def logged(self, text: str, times: int = 1) -> None:
        """Waits until the log has this text so often."""
        await until(lambda: self.log.count(text) >= times)

    async def ended(self) -> int:
        """The exit code."""
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()

    async def _read(self, stream: asyncio.StreamReader, name: str) -> None:
        while line := await stream.readline():
            setattr(self, name, getattr(self, name) + line.decode())


@asynccontextmanager
async def crew(**options: Any) -> AsyncIterator[Server]:
    """Starts a server and waits for its greeting; in the end nothing is left of it."""
    async with starting(**options) as server:
        await until(lambda: "Ctrl-C" in server.out or server.process.returncode is not None)
        assert server.process.returncode is None, server.log
        ports = dict(re.findall(r"(clients|backends) +\w+://[^:]+:(\d+)/", server.out))
        server.port, server.api_port = int(ports["clients"]), int(ports["backends"])
        yield server


@asynccontextmanager
async def starting(**options: Any) -> AsyncIterator[Server]:
    """The same without waiting."""
    with tempfile.TemporaryDirectory() as folder:
        async with _starting(Path(folder), Options(**options)) as server:
            yield server


@asynccontextmanager
async def _starting(folder: Path, options: Options) -> AsyncIterator[Server]:
    # What the tests import is what the server imports.
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.crew"),
        msgspec.json.encode(options).decode(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder)},
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    server = Server(process, folder)
    readers = Tasks()
    readers.start(server._read(process.stdout, "out"), "output of the server")
    readers.start(server._read(process.stderr, "log"), "log of the server")
    try:
        yield server
    finally:
        _kill_all(process.pid)
        await process.wait()
        await until(lambda: not len(readers))  # the pipes end with the last worker


def _kill_all(session: int) -> None:
    """Kills what is left of a server: its session has nothing else in it."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether a process is there and not merely unreaped."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


# What workers of tests do


def _serve(inherited: Inheritance) -> None:
    """Says that the worker serves, and that it is well."""
    inherited.seat.beat(time.monotonic(), [])
    inherited.lifeline.send(b".")


def _crash(inherited: Inheritance) -> int:
    """Worker 1 ends as soon as it serves."""
    _serve(inherited)
    while inherited.seat.number != 1:
        signal.pause()
    # Not before the parent has seen that all have served.
    time.sleep(0.2)
    return 3


def _stay(inherited: Inheritance) -> int:
    """Worker 1 takes no notice of SIGTERM."""
    if inherited.seat.number == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _serve(inherited)
    while True:
        signal.pause()


WORKS: Mapping[str, Callable[[Inheritance], int]] = {"crash": _crash, "stay": _stay}


def main(options: Options) -> int:
    config = Config(
        workers=options.workers,
        port=options.port,
        api_port=0,
        development=True,
        auth=AuthOptions(anonymous=True, jwks_file=options.jwks_file),
        keepalive=Keepalive(close_s=options.close_s),
        namespaces={"default": OPEN},
    )
    if not options.work:
        return serve(config)
    logging.basicConfig(level="INFO")
    supervisor = Supervisor(
        config,
        work=WORKS[options.work],
        greet=lambda port, api_port: print(f"clients http://:{port}/", flush=True),
        ending_s=options.ending_s,
    )
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(msgspec.json.decode(sys.argv[1], type=Options)))
