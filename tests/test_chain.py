"""A namespace's steps together: order, names, limits, and whose fault a failure is."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.chain import Chain
from clarion_server.pipeline.options import (
    AnyStep,
    Compress,
    JsonSchema,
    Project,
    Python,
    Redact,
    Template,
    XmlToJson,
)
from clarion_server.pipeline.step import Document, Failed, Misconfigured, Refused


class Raising:
    """A step that does nothing but raise."""

    name = "raising"

    def __init__(self, error: BaseException, safe: bool = True) -> None:
        self._error = error
        self.safe = safe

    def load(self) -> None:
        raise Misconfigured("function", "is no good")

    def run(self, document: Document) -> None:
        raise self._error


def made(*steps: AnyStep, limit: int = 1000, **files: bytes) -> Chain:
    return chain.make(Namespace(pipeline=steps), limit=limit, files=files)


def refusal(of: Chain, data: bytes = b"{}") -> Refused:
    with pytest.raises(Refused) as caught:
        of.run(data)
    return caught.value


def test_steps_run_in_their_order() -> None:
    one = made(
        XmlToJson(),
        JsonSchema(schema="s"),
        Redact(fields=("order.card",)),
        Project(fields=("order",)),
        Template(template="t"),
        Compress(),
        s=b'{"required":["order"]}',
        t=b'{"text": "{{ data.order.id }}", "rest": {{ data }}}',
    )
    assert one.names == ("xml_to_json", "json_schema", "redact", "project", "template")
    assert one.safe
    data = b'"<order id=\\"7\\"><id>x</id><card>1</card></order>"'
    assert one.run(data) == b'{"text":"x","rest":{"order":{"@id":"7","id":"x"}}}'


@pytest.mark.parametrize("steps", [(), (Compress(),)])
def test_a_namespace_without_steps_has_an_empty_chain(steps: tuple[AnyStep, ...]) -> None:
    one = made(*steps)
    assert (one.names, one.safe, one.run(b"[1, 2]")) == ((), True, b"[1, 2]")


def test_one_step_that_is_not_safe_is_enough() -> None:
    assert not made(Redact(fields=("a",)), Python(function="a:b")).safe


def test_a_refusal_has_its_step() -> None:
    refused = refusal(made(Redact(fields=("a",)), XmlToJson()))
    assert (refused.step, type(refused)) == ("xml_to_json", Refused)


def test_what_comes_out_is_limited_and_what_goes_in_may_be_larger() -> None:
    data = b'{"a":"%b","b":1}' % (b"x" * 100)
    assert made(Redact(fields=("a",)), limit=50).run(data) == b'{"b":1}'
    refused = refusal(made(Redact(fields=("b",)), limit=50), data)
    assert (refused.step, str(refused)) == ("redact", "data has 108 bytes, the limit is 50")
    assert refusal(made(Redact(fields=("c",)), limit=50), data).step == "redact"


@pytest.mark.parametrize(
    "error",
    [KeyError("secret"), TypeError("secret"), RecursionError("secret"), SystemExit("secret")],
)
def test_the_publisher_is_not_told_what_broke_and_the_log_is(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        failed = refusal(Chain([Raising(error)], limit=9))
    assert isinstance(failed, Failed)
    assert (failed.step, str(failed)) == ("raising", "failed; the server's log says why")
    assert "secret" in caplog.text
    assert f"{Path(__file__).name}:" in caplog.text
    assert failed.__cause__ is None
    assert failed.__suppress_context__


def test_what_is_logged_is_one_short_line(caplog: pytest.LogCaptureFixture) -> None:
    error = KeyError("x\n2026 INFO forged\x1b[31m" * 1000)
    refusal(Chain([Raising(error)], limit=9))
    [record] = caplog.records
    assert len(record.getMessage()) < 1000
    assert record.getMessage().isprintable()


def test_the_log_is_not_for_publishers_to_fill(caplog: pytest.LogCaptureFixture) -> None:
    now = [7.0]
    one = Chain([Raising(KeyError("x"))], limit=9, clock=lambda: now[0])
    for _ in range(100):
        refusal(one)
    assert len(caplog.records) == 10
    now[0] += 1
    refusal(one)
    assert [record.getMessage().split(" at ")[0] for record in caplog.records[10:]] == [
        "90 more failures of steps were not logged",
        """step raising failed: "KeyError: 'x'\"""",
    ]


def test_a_text_for_a_publisher_is_short() -> None:
    assert len(str(refusal(Chain([Raising(Refused("x" * 10_000))], limit=9)))) < 600


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_concerns_the_process_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        Chain([Raising(error)], limit=9).run(b"1")


def test_what_is_wrong_says_which_step() -> None:
    with pytest.raises(Misconfigured) as caught:
        made(Compress(), Redact(fields=("a",)), Redact())
    assert (caught.value.place, caught.value.option) == (2, "fields")
    with pytest.raises(Misconfigured) as caught:
        Chain([Raising(KeyError())], limit=9).load()
    assert caught.value.option == "function"


def test_files_are_read_once_for_all_processes(tmp_path: Path) -> None:
    schema = tmp_path / "s.json"
    schema.write_text('{"type":"object"}')
    namespace = Namespace(pipeline=(JsonSchema(schema=str(schema)),))
    files = chain.read_files(namespace.pipeline)
    schema.write_text("{")
    sent: Any = pickle.loads(pickle.dumps((namespace, files)))
    one = chain.make(sent[0], limit=100, files=sent[1])
    assert one.run(b"{}") == b"{}"
    with pytest.raises(Misconfigured):
        chain.make(namespace, limit=100)


@pytest.mark.parametrize(
    "number", [b"1" * 300, b"0." + b"1" * 5000, b"1e308", b"-0.0", b"1E+2", b"1e-999"]
)
def test_numbers_pass_whatever_their_length(number: bytes) -> None:
    one = made(Redact(fields=("a",)), JsonSchema(schema="s"), limit=10_000, s=b"{}")
    assert one.run(b'{"a":1,"n":%b}' % number).startswith(b'{"n":')


def test_a_number_that_python_does_not_read_is_refused() -> None:
    refused = refusal(made(Redact(fields=("a",)), limit=10_000), b"1" * 5000)
    assert (refused.step, type(refused)) == ("redact", Refused)
    assert "cannot be read" in str(refused)


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("clarion_server.app", ["jinja2", "jsonschema_rs", "xml"]),
        ("clarion_server.pipeline.work", ["jinja2", "jsonschema_rs", "xml", "aiohttp", "redis"]),
    ],
)
def test_who_has_no_steps_pays_for_none(module: str, without: list[str]) -> None:
    program = f"import sys, {module}; print(*(set({without}) & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout.split() == []


def test_the_event_loops_process_imports_no_code_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "users_own_step.py").write_text("raise RuntimeError")
    chain.make(
        Namespace(pipeline=(Python(function="users_own_step:f", folder=str(tmp_path)),)), limit=9
    )
    assert "users_own_step" not in sys.modules
    assert str(tmp_path) not in sys.path
