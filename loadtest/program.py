"""A program that the load test starts, on cores of its own, and certainly ends."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtest import machine

START_S = 20.0
"""How long a server may take until it is ready; Clarion takes about a second."""

STOP_S = 10.0
"""How long a program may take to stop before it is killed: two close timeouts of Clarion's."""

SYNCED = ("--appendonly", "yes", "--appendfsync", "always")
"""A Redis that has each write on disk before it answers."""

WORDS = 2000
"""Of what it wrote last, how many letters are shown when something went wrong."""


class Program:
    """A process with a folder of its own, in a context that ends it. What it says is in a log."""

    cores: tuple[int, ...] = (machine.SERVER_CPU,)
    """On which it runs; set it before `start`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="loadtest-"))

    def start(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        piped: bool = False,
    ) -> None:
        """environment: beside this process's own. piped: whether we talk over its stdin and stdout;
        else it has nothing to read, and what it writes goes to the log."""
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                preexec_fn=lambda: machine.pin(*self.cores),
            )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Waits until the program serves. Ends it, and raises `SystemExit`, when it does not."""
        deadline = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = self.last_words() or "it wrote nothing"
                self.end()
                raise SystemExit(f"{self.name} did not start: {words}")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The end of what it wrote."""
        return (self.folder / "log").read_text(errors="replace")[-WORDS:]

    def end(self) -> None:
        """Stops it, and removes its folder."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and (words := self.last_words()):
            print(f"--- the end of what {self.name} wrote ---\n{words}", file=sys.stderr)
        self.end()


class Redis(Program):
    """A Redis of its own, ready when the constructor returns.

    program: `redis-server`, or one that does the same.
    synced: it keeps every write on disk before it answers; else it has nothing there.
    """

    def __init__(self, program: str, *cores: int, synced: bool = False) -> None:
        super().__init__(program)
        self.cores = cores
        [self.port] = free_ports(1)
        self._argv = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._argv += ["--dir", str(self.folder), *(SYNCED if synced else ())]
        self.serve()

    def serve(self) -> None:
        """Starts it, with the data that a killed one has left on disk."""
        self.start(self._argv)
        self.wait_until(lambda: listens(self.port))

    def kill(self) -> None:
        """Ends it in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, on 127.0.0.1."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in held]


def listens(port: int) -> bool:
    """Whether somebody accepts connections at a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
