"""What is installed: two distributions, built as they are published, without the sources around."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from support.free_ports import FreePort

ROOT = Path(__file__).parents[1]

PROGRAM = """\
import sys
sys.path[:0] = [{installed!r}]
sys.path.append({libraries!r})
from clarion_server.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Wheel:
    """A built wheel: the names in it, and what it says of itself."""

    def __init__(self, file: Path) -> None:
        self.file = file
        with zipfile.ZipFile(file) as archive:
            self.names = archive.namelist()
            [metadata] = [name for name in self.names if name.endswith(".dist-info/METADATA")]
            self.metadata: Message = message_from_bytes(archive.read(metadata))

    @property
    def packages(self) -> set[str]:
        tops = {name.partition("/")[0] for name in self.names}
        return {top for top in tops if not top.endswith(".dist-info")}

    def needs(self) -> list[str]:
        return self.metadata.get_all("Requires-Dist") or []


def built(source: Path, folder: Path) -> Wheel:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    [file] = folder.glob("*.whl")
    return Wheel(file)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return built(ROOT, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    return built(ROOT / "clients/python", tmp_path_factory.mktemp("client"))


def test_each_package_is_in_one_distribution(server: Wheel, client: Wheel) -> None:
    assert server.packages == {"clarion_server", "clarion_fanout"}
    assert client.packages == {"clarion_client"}


def test_the_server_brings_the_client_and_the_client_brings_little(
    server: Wheel, client: Wheel
) -> None:
    [needed] = [need for need in server.needs() if need.startswith("clarion-client")]
    name, _, version = needed.partition(">=")
    assert name == client.metadata["Name"] == "clarion-client"
    assert str(client.metadata["Version"]).startswith(version), "released together"
    plain = [need for need in client.needs() if "extra" not in need]
    assert [need.partition(">")[0] for need in plain] == ["websockets"]


def test_types_scripts_and_licences_are_there(server: Wheel, client: Wheel) -> None:
    assert "clarion_client/py.typed" in client.names
    for file in ("publish.lua", "inbox.lua"):
        assert f"clarion_fanout/{file}" in server.names
    for file in ("page.html", "clarion-client.js", "clarion-sse.js"):
        assert f"clarion_server/http_api/{file}" in server.names
    for wheel in (server, client):
        assert any(name.endswith("/licenses/LICENSE") for name in wheel.names)


def test_the_command_line_works_from_the_wheels_alone(
    server: Wheel, client: Wheel, tmp_path: Path
) -> None:
    for wheel in (server, client):
        with zipfile.ZipFile(wheel.file) as archive:
            archive.extractall(tmp_path)
    program = PROGRAM.format(installed=str(tmp_path), libraries=sysconfig.get_path("purelib"))

    def clarion(*argv: str) -> subprocess.CompletedProcess[str]:
        # -S: without the .pth files that lead to the checkout. -I: without the folder we are in.
        command = [sys.executable, "-I", "-S", "-c", program, *argv]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)

    port = FreePort()
    assert clarion("--version").stdout.startswith("clarion ")
    refused = clarion("subscribe", "a", "--url", f"ws://127.0.0.1:{port.number}/ws")
    assert "connection refused\nIs a server running?" in refused.stderr
    refused = clarion("publish", "a", "1", "--api", f"http://127.0.0.1:{port.number}")
    assert "connection refused\nIs a server running?" in refused.stderr
    port.release()


def test_the_server_uses_the_client_in_its_command_line_only() -> None:
    """A server must start without it, and the wire must have two ends that were written twice."""
    for package in ("server/clarion_server", "fanout/clarion_fanout"):
        for file in (ROOT / package).rglob("*.py"):
            if file.parent.name != "cli":
                assert not {name for name in imports(file) if name == "clarion_client"}, file


def test_the_client_uses_neither_server_nor_broker() -> None:
    for file in (ROOT / "clients/python").rglob("*.py"):
        assert not imports(file) & {"clarion_server", "clarion_fanout"}, file


def imports(file: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found
