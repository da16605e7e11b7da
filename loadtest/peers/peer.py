"""What all peers have in common: a process with a port for clients and one for publications."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtest import wire
from loadtest.play.desk import Desk, Lines
from loadtest.play.stamp import topic_name
from loadtest.play.talk import Client, Greeting, Talk, WebSocket, until, upgrade, upgraded
from loadtest.program import Program, free_ports, listens

HERE = Path(__file__).parent


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
        return [self._program.pid]

    def __enter__(self) -> Self:
        self.version = self.install()
        self._program = program = Program(self.name)
        program.cores = self._cores
        program.folder.chmod(0o755)  # some serve as another user
        self.port, self._back = free_ports(2)
        program.start(self.program(program.folder, self.port, self._back), self.environment())
        for port in (self.port, self._back) if self.has_back else (self.port,):
            program.wait_until(partial(listens, port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._program.__exit__(kind, error, trace)
