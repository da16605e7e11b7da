"""What all peers have in common: a process with a port for clients and one for publications."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtest import wire
from loadtest.play.desk import Desk, Lines
from loadtest.play.stamp import topic_name
from loadtest.play.talk import Client, Greeting, Talk, WebSocket, until, upgrade, upgraded

HERE = Path(__file__).parent
START_S = 20.0
STOP_S = 5.0


class Named(WebSocket):
    """Over WebSocket: the client says the topic's name, and hears `ok`; then comes what is
    published, as it is."""

    def __init__(self, path: str = "/") -> None:
        self._path = path

    def arrive(self, client: Client, port: int) -> Greeting:
        yield from upgraded(upgrade(port, self._path))
        for topic in client.topics:
            yield from until(b"ok", wire.client_frame(wire.TEXT, topic_name(topic).encode()))


class Peer:
    """A `Target`, see play/target.py. `program` and `install` are the peer's own."""

    name: str
    setting = ""
    """How it is configured, in words; what is not said is its default."""

    has_back = True
    """Whether publications have a port of their own."""

    def __init__(self, cores: tuple[int, ...]) -> None:
        self._cores = cores
        self.version = ""

    def install(self) -> str:
        """Sees to it that it is there; returns its version. May raise `CannotInstall`."""
        raise NotImplementedError

    def program(self, folder: Path, port: int, back: int) -> Sequence[str]:
        """What to start: clients connect to `port`, publications come to `back`."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def talk(self, place: int) -> Talk:
        return Named()

    def desk(self) -> tuple[Desk, tuple[str, int]]:
        return Lines(), ("127.0.0.1", self._back)

    def stops(self) -> Mapping[str, float]:
        return {}

    def strike(self, event: str) -> None:
        raise SystemExit(f"{self.name}: nobody knows how to {event}")

    @property
    def pids(self) -> Sequence[int]:
        return [self._process.pid]

    def __enter__(self) -> Self:
        self.version = self.install()
        self._folder = Path(tempfile.mkdtemp(prefix="loadtest-"))
        self._folder.chmod(0o755)
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as other,
        ):
            self.port: int = one.getsockname()[1]
            self._back: int = other.getsockname()[1]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.program(self._folder, self.port, self._back),
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment()},
                preexec_fn=lambda: os.sched_setaffinity(0, self._cores),
            )
        deadline = time.monotonic() + START_S
        for port in (self.port, self._back) if self.has_back else (self.port,):
            while not _listens(port):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    words = (self._folder / "log").read_text(errors="replace")[-2000:]
                    self.__exit__(None, None, None)
                    raise SystemExit(f"{self.name} did not start: {words}")
                time.sleep(0.05)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if error is not None:
            words = (self._folder / "log").read_text(errors="replace")[-2000:]
            print(f"--- the end of what {self.name} wrote ---\n{words}", file=sys.stderr)
        shutil.rmtree(self._folder, ignore_errors=True)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
