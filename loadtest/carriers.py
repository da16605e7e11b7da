"""What a crowd is served by: Clarion, or a bare loop of sends. A process on a core of its own."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtest import machine

START_S = 20.0
"""How long a server may take until it is ready; Clarion takes about a second."""

STOP_S = 10.0
"""How long a server may take to stop before it is killed: two close timeouts of Clarion's."""

HERE = Path(__file__).parent
NAMESPACES = "CLARION_NAMESPACES_"
CLARION = f"{shlex.quote(str(Path(sys.executable).with_name('clarion')))} serve"


class Carrier:
    """A process on the server's core, in a context that ends it. What it says is in `log`."""

    port: int
    """Where clients connect, on 127.0.0.1."""
    cores: tuple[int, ...] = (machine.SERVER_CPU,)

    def __init__(self, name: str, argv: list[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._folder = Path(tempfile.mkdtemp(prefix="loadtest-"))
        self.log = self._folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if isinstance(self, Loop) else log,
                stderr=log,
                env={**os.environ, **self.configured(environment)},
                preexec_fn=lambda: machine.pin(*self.cores),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def configured(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """What the process gets as its environment beside this one's."""
        return environment

    def last_words(self) -> str:
        """The end of what the process wrote."""
        return self.log.read_text(errors="replace")[-2000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        if error is not None and (words := self.last_words()):
            print(f"--- the end of what {self.name} wrote ---\n{words}", file=sys.stderr)
        shutil.rmtree(self._folder)


class Clarion(Carrier):
    """A development server of its own, ready when the constructor returns.

    command: what to start; `--port N --api-port M` is added.
    environment: options as `CLARION_...` variables; `CLARION_NAMESPACES_DEFAULT_HISTORY_SIZE` and
        its like too, which the server itself does not know.
    """

    def __init__(self, command: str = CLARION, **environment: str) -> None:
        self.port, self.api_port = _free_port(), _free_port()
        ports = ["--port", str(self.port), "--api-port", str(self.api_port)]
        super().__init__("clarion", [*shlex.split(command), *ports], environment)
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                words = self.last_words()
                self.__exit__(None, None, None)
                raise SystemExit(f"the server did not start: {words or 'it wrote nothing'}")
            time.sleep(0.05)

    def configured(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The server takes the options of namespaces from a file alone: it gets one."""
        plain = {k: v for k, v in environment.items() if not k.startswith(NAMESPACES)}
        tables: dict[str, str] = {}
        for key in environment.keys() - plain.keys():
            name, _, option = key.removeprefix(NAMESPACES).lower().partition("_")
            value = environment[key]
            shown = value if value.isdigit() else json.dumps(value)
            tables[name] = f"{tables.get(name, '')}{option} = {shown}\n"
        if tables:
            path = self._folder / "clarion.toml"
            text = "".join(f"[namespaces.{name}]\n{table}" for name, table in tables.items())
            path.write_text(f"development = true\n{text}")
            plain["CLARION_CONFIG"] = str(path)
        return plain

    def _ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def get(self, path: str) -> tuple[int, str]:
        """GET from the private port: the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self, *words: str) -> dict[str, float]:
        """The samples of /metrics whose name holds one of `words`."""
        status, text = self.get("/metrics")
        samples = {}
        for line in text.splitlines() if status == 200 else []:
            name, _, value = line.rpartition(" ")
            if not line.startswith("#") and any(word in name for word in words):
                samples[name] = float(value)
        return samples


class Loop(Carrier):
    """A bare loop that sends one frame to each of `clients`: send_loop.c, or send_loop.py."""

    def __init__(self, language: str, clients: int, frame: bytes) -> None:
        assert language in ("C", "Python")
        self.frame_size = len(frame)
        file, path = tempfile.mkstemp(prefix="loadtest-")
        with open(file, "wb") as out:
            out.write(frame)
        self._frame = Path(path)
        program = [sys.executable, str(HERE / "send_loop.py")]
        if language == "C":
            program = [compiled_loop()]
        super().__init__(f"{language} loop", [*program, str(clients), str(self._frame)], {})
        self.port = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode().strip()

    def ready(self) -> None:
        """Returns when every client was accepted."""
        if self._line() != "ready":
            raise SystemExit(f"{self.name}: {self.last_words()}")

    def send(self, joined: int) -> None:
        """Makes it send `joined` copies of the frame, as one buffer, to every client."""
        assert self.process.stdin
        self.process.stdin.write(b"%d\n" % joined)
        self.process.stdin.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self._frame.unlink()


def has_compiler() -> bool:
    """Whether the bare loop in C can be had."""
    return shutil.which("cc") is not None


def compiled_loop() -> str:
    """The path of send_loop, compiled when it is not there yet or older than its source."""
    source, program = HERE / "send_loop.c", HERE / "build" / "send_loop"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        subprocess.run(["cc", "-O2", "-Wall", "-o", program, source], check=True)
    return str(program)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
