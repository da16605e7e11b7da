"""A real browser, headless, driven through the DevTools protocol.

Only what a test needs: open a page, evaluate an expression, wait until one is true.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
START_S = 30.0
"""A browser's first start, on a machine that is busy with other tests."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Tab:
    """A page in the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol. Events in between are dropped."""
        id = next(self._ids)
        await self._socket.send_json({"id": id, "method": method, "params": params})
        while True:
            answer: dict[str, Any] = await self._socket.receive_json(timeout=START_S)
            if answer.get("id") == id:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    async def open(self, url: str) -> None:
        """Goes to `url`, and returns when the page has loaded."""
        await self.call("Page.enable")
        await self.call("Page.navigate", url=url)
        while (await self._socket.receive_json(timeout=START_S)).get("method") != (
            "Page.loadEventFired"
        ):
            pass

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, of the promise if it is one."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise AssertionError(result["exceptionDetails"])
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 15.0) -> None:
        """Waits until `expression` is true; fails with what the page shows when it never is."""
        watch = f"""new Promise(done => {{
          const last = Date.now() + {seconds * 1000};
          const look = () => {{
            let found = false;
            try {{ found = Boolean({expression}); }} catch {{ /* the page is not there yet */ }}
            if (found || Date.now() > last) done(found);
            else setTimeout(look, 20);
          }};
          look();
        }})"""
        if not await self.evaluate(watch):
            text = await self.evaluate("document.body.innerText")
            raise AssertionError(f"never true: {expression}\nThe page shows:\n{text}")


@asynccontextmanager
async def tab(url: str) -> AsyncIterator[Tab]:
    """A browser of its own with `url` open in it; gone afterwards with all its processes."""
    assert PROGRAM, "no chromium"
    profile = Path(tempfile.mkdtemp(prefix="clarion-browser-"))
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        *FLAGS,
        f"--user-data-dir={profile}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(profile / "DevToolsActivePort", process)
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            session.put("/json/new?about:blank") as response,
            session.ws_connect((await response.json())["webSocketDebuggerUrl"]) as socket,
        ):
            page = Tab(socket)
            await page.open(url)
            yield page
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    """The port that the browser has chosen; it writes it to a file when it listens."""
    async with asyncio.timeout(START_S):
        while process.returncode is None:
            if port := await asyncio.to_thread(_read_port, file):
                return port
            await asyncio.sleep(0.05)
    raise AssertionError(f"the browser ended with {process.returncode}")


def _read_port(file: Path) -> int:
    """0 while the file is not there, or not complete."""
    with suppress(FileNotFoundError):
        first, newline, _ = file.read_text().partition("\n")
        return int(first) if newline else 0
    return 0
