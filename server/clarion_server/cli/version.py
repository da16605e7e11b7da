"""`clarion version`: what to put into a bug report."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version

from clarion_server import __version__

PARTS = ("websockets", "uvloop", "redis", "hiredis", "aiohttp", "msgspec", "orjson", "PyJWT")
STEPS = ("Jinja2", "jsonschema-rs")


def arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    rows = [("clarion", __version__), (platform.python_implementation(), platform.python_version())]
    rows += [(name, version(name)) for name in (*PARTS, *STEPS)]
    rows.append((platform.system(), f"{platform.release()} {platform.machine()}"))
    for name, number in rows:
        print(f"{name:<13} {number}")
    return 0
