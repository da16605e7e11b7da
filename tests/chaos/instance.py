"""A Clarion server under test: a process of its own, with its workers' if it has several."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from support.waiting import until

START_SECONDS = 60.0
"""A busy machine takes a while to start a server."""


class Instance:
    """See the module's text. config: its configuration file; log: where its words go; count: of
    its workers."""

    def __init__(self, config: Path, log: Path, count: int) -> None:
        self.count = count
        self.port = 0
        self.api_port = 0
        self._config = config
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def up(self) -> bool:
        """Whether it takes connections, as far as we know."""
        return self.port > 0

    def configure(self, text: str) -> None:
        """Writes the configuration, which counts from the next start on."""
        self._config.touch(mode=0o600)
        self._config.write_text(text)

    async def start(self) -> None:
        """Returns when it takes connections."""
        self._spawn()
        out = self._log.with_suffix(".out")
        ports: dict[str, int] = {}

        def greeted() -> bool:
            found = re.findall(r"(clients|backends) +\w+://[^:]+:(\d+)/", out.read_text())
            ports.update({name: int(port) for name, port in found})
            assert self._is_running(), self._log.read_text()[-2000:]
            return len(ports) == 2

        await until(greeted, START_SECONDS)
        self.port, self.api_port = ports["clients"], ports["backends"]

    def _spawn(self) -> None:
        guard = shutil.which("setpriv") if sys.platform == "linux" else None
        with self._log.open("ab") as log, self._log.with_suffix(".out").open("wb") as out:
            self._process = subprocess.Popen(
                [
                    # Else a test that is killed would leave it behind.
                    *((guard, "--pdeathsig", "KILL") if guard else ()),
                    *(sys.executable, "-m", "clarion_server", "serve"),
                    *("--config", str(self._config), "--port", "0", "--api-port", "0"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def _is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def workers(self) -> list[int]:
        """The processes that serve clients: its children, or itself if it has none."""
        if self._process is None:
            return []
        own = self._process.pid
        file = Path(f"/proc/{own}/task/{own}/children")
        children = file.read_text(encoding="ascii").split() if file.exists() else []
        return [int(child) for child in children] or [own]

    def kill(self) -> None:
        """Ends all its processes at once."""
        self.port = self.api_port = 0
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    async def drain(self, seconds: float) -> None:
        """Asks it to end; returns when it has, or after so long, when it is killed."""
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await until(lambda: process.poll() is not None, seconds)
        self.kill()

    async def freeze(self, place: int, seconds: float) -> None:
        """Stops one of its workers for a while."""
        worker = self._worker(place)
        if worker is not None and _signal(worker, signal.SIGSTOP):
            try:
                await asyncio.sleep(seconds)
            finally:
                _signal(worker, signal.SIGCONT)

    def kill_worker(self, place: int) -> bool:
        """Kills one of several workers, which is replaced; False if there is only one."""
        if len(self.workers) < 2:
            return False
        worker = self._worker(place)
        return worker is not None and _signal(worker, signal.SIGKILL)

    def _worker(self, place: int) -> int | None:
        workers = self.workers
        return workers[place % len(workers)] if workers else None


def _signal(process: int, number: signal.Signals) -> bool:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True
