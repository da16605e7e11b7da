"""What a crowd is served by: Clarion, or a bare loop of sends. A process on a core of its own."""

from __future__ import annotations

import http.client
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from loadtest.program import Program, free_ports

HERE = Path(__file__).parent
NAMESPACES = "CLARION_NAMESPACES_"
CLARION = f"{shlex.quote(str(Path(sys.executable).with_name('clarion')))} serve"


class Clarion(Program):
    """A development server of its own, ready when the constructor returns.

    command: what to start; `--port N --api-port M` is added.
    environment: options as `CLARION_...` variables; `CLARION_NAMESPACES_DEFAULT_HISTORY_SIZE` and
        its like too, which the server itself does not know.
    """

    def __init__(self, command: str = CLARION, **environment: str) -> None:
        super().__init__("clarion")
        self.port, self.api_port = free_ports(2)
        ports = ["--port", str(self.port), "--api-port", str(self.api_port)]
        self.start([*shlex.split(command), *ports], self._configured(environment))
        self.wait_until(self._ready)

    def _configured(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The server takes the options of namespaces from a file alone: it gets one."""
        plain = {k: v for k, v in environment.items() if not k.startswith(NAMESPACES)}
        tables: dict[str, str] = {}
        for key in environment.keys() - plain.keys():
            name, _, option = key.removeprefix(NAMESPACES).lower().partition("_")
            value = environment[key]
            shown = value if value.isdigit() else json.dumps(value)
            tables[name] = f"{tables.get(name, '')}{option} = {shown}\n"
        if tables:
            path = self.folder / "clarion.toml"
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


class Loop(Program):
    """A bare loop that sends one frame to each of `clients`: send_loop.c, or send_loop.py."""

    def __init__(self, language: str, clients: int, frame: bytes) -> None:
        assert language in ("C", "Python")
        super().__init__(f"{language} loop")
        self.frame_size = len(frame)
        path = self.folder / "frame"
        path.write_bytes(frame)
        program = [sys.executable, str(HERE / "send_loop.py")]
        if language == "C":
            program = [compiled_loop()]
        self.start([*program, str(clients), str(path)], piped=True)
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
