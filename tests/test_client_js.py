"""The JavaScript client without a server: its own tests, its types, its size."""

from __future__ import annotations

import gzip
import json
import re
import subprocess

import pytest

from clarion_server import codes
from support import node
from support.waiting import DEADLINE

MODULE = (node.CLIENT / "clarion-client.js").read_text(encoding="utf-8")
STREAM = (node.CLIENT / "clarion-sse.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("program", node.NODES)
def test_its_own_tests_pass(program: str) -> None:
    files = sorted((node.CLIENT / "tests").glob("*.test.js"))
    command = [program, "--test", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=12 * DEADLINE)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"^(?:#|ℹ) pass (\d+)$", done.stdout, re.MULTILINE)[0]) > 200


def test_the_types_are_those_of_the_implementation_and_serve_a_program() -> None:
    compiler = node.packages() / "typescript" / "lib" / "tsc.js"
    command = (node.NODE, compiler, "-p", node.CLIENT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * DEADLINE)
    assert done.returncode == 0, done.stdout


def without_comments(text: str) -> str:
    """The code alone: `//` up to the end of the line, and whole lines of `/** */`."""
    text = re.sub(r"^ */\*\*.*?\*/\n", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?:^| +)//(?: .*)?$", "", text, flags=re.MULTILINE)


def test_a_page_loads_less_than_five_kilobytes_of_code() -> None:
    """And those who are behind a proxy that lets no WebSocket through, one more."""
    assert len(gzip.compress(without_comments(MODULE).encode(), 9)) < 5_000
    assert len(gzip.compress(MODULE.encode(), 9)) < 6_200
    assert len(gzip.compress(STREAM.encode(), 9)) < 1_500


def test_it_depends_on_nothing_and_loads_nothing_from_elsewhere() -> None:
    package = json.loads((node.CLIENT / "package.json").read_text(encoding="utf-8"))
    assert "dependencies" not in package
    imported = re.findall(r"\bimport\b.*|\bfrom \"", without_comments(MODULE + STREAM))
    assert imported == ['import("./clarion-sse.js");']
    assert sorted(package["files"]) == ["clarion-client.js", "clarion-sse.js", "index.d.ts"]
    assert "resolved" not in (node.CLIENT / "package-lock.json").read_text(encoding="utf-8")


def test_it_comes_back_after_the_same_codes_as_the_server_says() -> None:
    never = re.search(r"code >= (\d+) \|\| \[([\d, ]+)\]", MODULE)
    assert never
    first, single = int(never[1]), {int(code) for code in never[2].split(",")}
    for code in (*range(1000, 1016), *range(3000, 5000)):
        assert (code < first and code not in single) == codes.come_back(code), code
