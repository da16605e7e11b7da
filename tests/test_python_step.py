"""A function of the user's: what it gets, what it may return, and what becomes of its errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clarion_server.pipeline.options import Python
from clarion_server.pipeline.python import PythonStep
from clarion_server.pipeline.step import Misconfigured, Refused
from support.documents import document, made

SOURCE = """
import math

KEPT = {"n": [1]}

def same(data): return data
def kept(data): return KEPT
def as_bytes(data): return b'{ "type": "%s" }' % type(data).__name__.encode()
def bad_bytes(data): return b"{nope"
def nothing(data): data["x"] = 1
def refuses(data): raise ValueError("no order without an id")
def refuses_silently(data): raise ValueError
def nan(data): return {"a": [None, (math.inf,)]}
def surrogate(data): return "\\ud800"
def a_set(data): return {1}
def an_object(data): return object()
def deep(data):
    value = []
    for _ in range(100_000): value = [value]
    return value
def circle(data):
    value = []
    value.append(value)
    return value
def large(data): return "x" * 2_000_000
async def later(data): return data
class Shop:
    @staticmethod
    def sell(data): return "sold"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "shop_steps.py").write_text(SOURCE)
    (tmp_path / "broken_steps.py").write_text("import no_such_module_at_all\n")
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    (tmp_path / "leaving_steps.py").write_text("raise SystemExit(3)\n")
    path, modules = list(sys.path), set(sys.modules)
    yield str(tmp_path)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def step(folder: str, function: str, **options: Any) -> PythonStep:
    name = function if ":" in function else f"shop_steps:{function}"
    return PythonStep(Python(function=name, folder=folder, **options))


def test_a_function_gets_the_object_or_the_bytes(folder: str) -> None:
    assert made(step(folder, "same"), {"a": 1}) == {"a": 1}
    assert made(step(folder, "as_bytes"), {"a": 1}) == {"type": "dict"}
    assert made(step(folder, "as_bytes", takes="bytes"), {"a": 1}) == {"type": "bytes"}
    assert made(step(folder, "Shop.sell"), 1) == "sold"


def test_what_a_function_keeps_is_not_changed_by_the_next_step(folder: str) -> None:
    kept = step(folder, "kept")
    one = document(1)
    kept.run(one)
    value: Any = one.value
    value["n"].append(2)
    assert made(kept, 1) == {"n": [1]}


def test_its_value_errors_are_for_the_publisher(folder: str) -> None:
    with pytest.raises(Refused, match=r"^no order without an id$"):
        step(folder, "refuses").run(document({}))
    with pytest.raises(Refused, match=r"^ValueError$"):
        step(folder, "refuses_silently").run(document({}))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nan", "NaN or infinity"),
        ("surrogate", "surrogates not allowed"),
        ("bad_bytes", "not valid JSON"),
        ("large", "the limit is 1000000"),
    ],
)
def test_what_cannot_be_json_is_refused(folder: str, function: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        step(folder, function).run(document({}))


@pytest.mark.parametrize("function", ["nothing", "an_object", "deep", "circle"])
def test_a_result_that_nobody_can_have_meant_is_a_bug(folder: str, function: str) -> None:
    with pytest.raises((TypeError, RecursionError)):
        step(folder, function).run(document({}))


def test_it_is_never_run_on_the_loop_and_not_imported_before_it_must_be(folder: str) -> None:
    one = step(folder, "same")
    assert not one.safe
    assert "shop_steps" not in sys.modules
    one.load()
    assert "shop_steps" in sys.modules


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("shop_steps:nope", 'shop_steps.py) has no "nope"'),
        ("json:nope", 'json/__init__.py) has no "nope"'),
        ("shop_steps:KEPT", "is dict, no function"),
        ("shop_steps:later", "is a coroutine function"),
        ("no_such_module_at_all:x", "ModuleNotFoundError: No module named"),
        ("broken_steps:x", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("leaving_steps:x", "cannot be imported: SystemExit: 3"),
    ],
)
def test_what_cannot_be_imported_is_told_with_the_reason(
    folder: str, function: str, says: str
) -> None:
    with pytest.raises(Misconfigured) as caught:
        step(folder, function).load()
    assert caught.value.option == "function"
    assert says in caught.value.problem


@pytest.mark.parametrize(
    "function", ["", "shop", "shop:", ":x", "a b:c", "os:system('x')", "a/b:c"]
)
def test_what_names_no_function_is_found_at_the_start(function: str) -> None:
    with pytest.raises(Misconfigured, match="function: is"):
        PythonStep(Python(function=function))
