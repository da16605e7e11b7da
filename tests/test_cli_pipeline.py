"""`clarion pipeline try`: what people see of a document's way through the steps."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from clarion_server.cli import main

Capture = pytest.CaptureFixture[str]

CONFIG = """
development = true
[pipeline]
deadline_s = 0.5
memory_mb = 128
[limits]
data_bytes = 300
[namespaces.plain]
[[namespaces.orders.pipeline]]
step = "xml_to_json"
[[namespaces.orders.pipeline]]
step = "json_schema"
schema = "order.json"
[[namespaces.orders.pipeline]]
step = "python"
function = "shop_of_tests:enrich"
[[namespaces.orders.pipeline]]
step = "compress"
"""

SHOP = """
import os, time

def enrich(data):
    n = data["order"]["@id"]
    if n == "slow": time.sleep(60)
    if n == "greedy": "x" * 10**9
    if n == "refused": raise ValueError("no such\\x1b[31m order")
    if n == "broken": raise KeyError("secret")
    if n == "gone": os._exit(4)
    if n == "large": data["more"] = "x" * 1000
    return data | {"total": 5}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "clarion.toml").write_text(CONFIG)
    (tmp_path / "shop_of_tests.py").write_text(SHOP)
    (tmp_path / "order.json").write_text('{"properties":{"order":{"required":["@id"]}}}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def attempt(given: str, *argv: str, namespace: str = "orders") -> int:
    Path("given").write_text(given)
    return main(["pipeline", "try", "-c", "clarion.toml", "-n", namespace, "given", *argv])


def test_every_step_is_shown_with_its_time_size_and_document(folder: Path, capsys: Capture) -> None:
    assert attempt("<order id='7'/>") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "in 17 bytes"
    assert "\"<order id='7'/>\"" in lines[1]
    assert [line.split()[1] for line in lines if line.endswith((" ms", "unchanged"))] == [
        "xml_to_json",
        "json_schema",
        "python",
    ]
    assert any(line.startswith("2 json_schema") and line.endswith("unchanged") for line in lines)
    assert '"total": 5' in lines


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("refused", "3 python refused"),
        ("refused", "no such\\u001b[31m order"),
        ("broken", "failed; the server's log says why"),
        ("slow", "3 python deadline 500.00 ms: it took more than 0.5 s"),
        ("greedy", "more than 128 MiB of memory"),
        ("gone", "its process ended with code 4"),
        ("large", "the limit is 300"),
    ],
)
def test_what_goes_wrong_is_told_and_the_exit_status_is_1(
    number: str, says: str, folder: Path, capfd: Capture
) -> None:
    began = time.monotonic()
    assert attempt(f"<order id='{number}'/>") == 1
    assert time.monotonic() - began < 20
    captured = capfd.readouterr()
    assert says in " ".join(captured.out.split())
    assert ("secret" in captured.err) == (number == "broken")


def test_what_no_publisher_could_send_never_reaches_a_step(folder: Path, capsys: Capture) -> None:
    assert attempt('{"a":NaN}') == 1
    assert attempt('"\\ud800"') == 1
    assert attempt("[" * 100_000) == 1
    out = capsys.readouterr().out
    assert out.count("refused: data is not valid JSON") == 3
    assert "xml_to_json" not in out


def test_a_document_is_read_as_what_it_is(folder: Path, capsys: Capture) -> None:
    assert attempt('{"a": 1}') == 1
    assert "not a JSON string" in capsys.readouterr().out
    assert attempt("hello", "--text") == 1
    assert "syntax error" in capsys.readouterr().out


def test_standard_input_will_do(folder: Path) -> None:
    argv = ["pipeline", "try", "-c", "clarion.toml", "-n", "orders", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "clarion_server", *argv],
        input=b"<order id='7'/>",
        capture_output=True,
        timeout=60,
        check=True,
        cwd=folder,
    )
    assert b'"total": 5' in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_long_document_is_cut_unless_it_is_asked_for(folder: Path, capsys: Capture) -> None:
    xml = f"<order id='7'>{'<i/>' * 25}</order>"
    assert attempt(xml) == 0
    assert "more lines (--full shows them)" in capsys.readouterr().out
    assert attempt(xml, "--full") == 0
    assert "more lines" not in capsys.readouterr().out


def test_a_namespace_without_steps_only_checks(folder: Path, capsys: Capture) -> None:
    assert attempt('{"a":1}', namespace="plain") == 0
    assert "there are no steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["-n", "nope", "given"], 2, "no namespace nope is configured\nThose with steps: orders."),
        (["-n", "orders", "missing"], 1, "missing cannot be read: no such file"),
    ],
)
def test_a_wrong_command_line_is_told(
    argv: list[str], status: int, says: str, folder: Path, capsys: Capture
) -> None:
    assert main(["pipeline", "try", "-c", "clarion.toml", *argv]) == status
    assert says in capsys.readouterr().err


def test_what_is_no_text_is_told(folder: Path, capsys: Capture) -> None:
    Path("given").write_bytes(b"<a>\xff</a>")
    assert main(["pipeline", "try", "-c", "clarion.toml", "-n", "orders", "given"]) == 1
    assert "byte 0xff at place 3 is not valid UTF-8" in capsys.readouterr().err


def test_an_import_that_fails_is_told(folder: Path, capsys: Capture) -> None:
    (folder / "shop_of_tests.py").write_text("import nothing_of_this_name\n")
    assert attempt("<order id='7'/>") == 1
    assert "No module named 'nothing_of_this_name'" in capsys.readouterr().out
