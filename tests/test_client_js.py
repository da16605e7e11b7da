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
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"^(?:#|ℹ) pass (\d+)$", done.stdout, re.MULTILINE)[0]) > 200


def test_the_types_are_those_of_the_implementation_and_serve_a_program() -> None:
    compiler = node.packages() / "typescript" / "lib" / "tsc.js"
    command = (node.NODE, compiler, "-p", node.CLIENT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE)
    assert done.returncode == 0, done.stdout


def without_comments(text: str) -> str:
    """The code alone: `//` up to the end of the line, and whole lines of `/** */`."""
    text = re.sub(r"^ */\*\*.*?\*/\n", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?:^| +)//(?: .*)?$", "", text, flags=re.MULTILINE)


def test_a_page_loads_less_than_five_kilobytes() -> None:
    """As the README counts: the file as it is served, and gzipped. Those whose network lets no
    WebSocket through load the other one, too."""
    served = len(gzip.compress((node.CLIENT / "clarion-client.js").read_bytes(), 9))
    assert served < 5_000
    told = re.search(r"less than 5 KB: ([\d,]+) bytes", (node.CLIENT / "README.md").read_text())
    assert told
    assert abs(int(told[1].replace(",", "")) - served) < 20, "zlib's versions differ by a few"
    assert len(gzip.compress((node.CLIENT / "clarion-sse.js").read_bytes(), 9)) < 1_500


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
