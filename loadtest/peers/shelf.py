"""Where peers are installed: `.loadtest-peers`, made when they are first wanted.

From the package registries, in the versions that are current on that day; delete the folder to
have them anew. Nothing is installed into the system.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtest.report import progress

SHELF = Path(__file__).parent.parent.parent / ".loadtest-peers"
INSTALL_S = 300.0


class CannotInstall(Exception):
    """A peer cannot be had here; the text says why."""


def _run(command: Sequence[str | Path], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotInstall(f"{command[0]}: {error}") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise CannotInstall(f"{' '.join(map(str, command))}: {' '.join(last)}")


def _fresh(name: str) -> Path:
    """A folder to install into, which takes its place only once all went well."""
    folder = SHELF / f"{name}.new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def python(name: str, packages: Sequence[str], shelf: Path = SHELF) -> Path:
    """The interpreter of an environment with these packages."""
    folder = shelf / name
    if not folder.exists():
        progress(f"installing {', '.join(packages)} into {folder}")
        shelf.mkdir(exist_ok=True)
        _run([sys.executable, "-m", "venv", folder], shelf)
        try:
            _run([folder / "bin" / "pip", "install", "--quiet", *packages], folder)
        except CannotInstall:
            shutil.rmtree(folder)
            raise
    return folder / "bin" / "python"


def python_version(interpreter: Path, packages: Sequence[str]) -> str:
    """Which versions of packages an environment has, for people."""
    code = (
        "import importlib.metadata as m, platform, sys;"
        "print(', '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]),"
        "'on Python', platform.python_version())"
    )
    return subprocess.check_output([interpreter, "-c", code, *packages], text=True).strip()


def node(name: str, packages: Sequence[str]) -> Path:
    """The `node_modules` with these packages; for NODE_PATH."""
    folder = SHELF / name
    if not folder.exists():
        if not shutil.which("npm"):
            raise CannotInstall("npm is not there")
        progress(f"installing {', '.join(packages)} into {folder}")
        fresh = _fresh(name)
        (fresh / "package.json").write_text("{}")
        _run(["npm", "install", "--no-audit", "--no-fund", *packages], fresh)
        fresh.rename(folder)
    return folder / "node_modules"


def node_version(modules: Path, package: str) -> str:
    version = json.loads((modules / package / "package.json").read_text())["version"]
    node = subprocess.check_output(["node", "--version"], text=True).strip()
    return f"{package} {version} on Node {node.removeprefix('v')}"


def debian(name: str, packages: Sequence[str]) -> Path:
    """A folder with the files of Debian packages, unpacked, not installed."""
    folder = SHELF / name
    if not folder.exists():
        if not shutil.which("apt-get"):
            raise CannotInstall("apt-get is not there")
        progress(f"unpacking {', '.join(packages)} into {folder}")
        fresh = _fresh(name)
        _run(["apt-get", "download", "--quiet", *packages], fresh)
        for package in fresh.glob("*.deb"):
            _run(["dpkg-deb", "-x", package, fresh], fresh)
        fresh.rename(folder)
    return folder


def debian_version(folder: Path, package: str) -> str:
    """The version in the name of the package's file."""
    (file,) = folder.glob(f"{package}_*.deb")
    return f"{package} {file.name.split('_')[1].replace('%3a', ':')} (Debian)"
