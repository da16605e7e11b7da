"""Pipelines in the configuration: what is read, what is wrong, and where the files are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from clarion_server.cli import main
from clarion_server.config import ConfigError, Mistake, interpret
from clarion_server.option_values import catalogue
from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.imports import mistakes as import_mistakes
from clarion_server.pipeline.options import STEPS, Compress, Python, Redact, XmlToJson

Capture = pytest.CaptureFixture[str]


def read(steps: object, file: str = "clarion.toml") -> Namespace:
    tables = {"development": True, "namespaces": {"orders": {"pipeline": steps}}}
    return interpret(tables, file, {}, {}).config.namespaces["orders"]


def mistakes(steps: object) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        read(steps)
    return list(caught.value.mistakes)


def test_steps_are_read_in_order_each_with_its_own_options() -> None:
    steps = [
        {"step": "xml_to_json", "depth": 5},
        {"step": "redact", "fields": ["a"]},
        {"step": "compress", "level": 2},
    ]
    assert read(steps).pipeline == (XmlToJson(depth=5), Redact(fields=("a",)), Compress(level=2))
    assert Namespace().pipeline == ()


def test_options_can_be_sent_to_other_processes() -> None:
    namespace = read([{"step": "redact", "fields": ["a"]}, {"step": "compress"}])
    assert pickle.loads(pickle.dumps(namespace)) == namespace


def test_files_are_found_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")
    (tmp_path / "t.j2").write_text("{{ data }}")
    steps = [
        {"step": "json_schema", "schema": "s.json"},
        {"step": "template", "template": "./t.j2"},
        {"step": "python", "function": "a:b"},
        {"step": "python", "function": "a:b", "folder": "lib"},
    ]
    namespace = read(steps, str(tmp_path / "clarion.toml"))
    schema, template, beside, within = namespace.pipeline
    assert (schema.schema, template.template) == (str(tmp_path / "s.json"), str(tmp_path / "t.j2"))  # type: ignore[union-attr]
    assert isinstance(beside, Python)
    assert isinstance(within, Python)
    assert (beside.folder, within.folder) == (str(tmp_path), str(tmp_path / "lib"))
    assert chain.make(namespace, limit=9).names == ("json_schema", "template", "python", "python")


@pytest.mark.parametrize(
    ("steps", "key", "says"),
    [
        ({}, "", "is not a list; expected [[namespaces.orders.pipeline]] before each step"),
        ([3], "[0]", "is not a table"),
        ([{}], "[0].step", "is missing; expected one of json_schema, xml_to_json"),
        ([{"step": 1}], "[0].step", "is not a text"),
        ([{"step": "jsonschema"}], "[0].step", 'is "jsonschema"; did you mean json_schema?'),
        ([{"step": "redact", "feilds": ["a"]}], "[0].feilds", "did you mean fields?"),
        ([{"step": "redact", "fields": "a"}], "[0].fields", "expected a list of texts"),
        ([{"step": "redact"}], "[0].fields", "is empty"),
        ([{"step": "project", "fields": ["a..b"]}], "[0].fields", "no name at character 3"),
        ([{"step": "project", "fields": ["a"], "missing": "x"}], "[0].missing", '"ignore"'),
        ([{"step": "json_schema"}], "[0].schema", "is empty; expected a file"),
        ([{"step": "json_schema", "schema": "no"}], "[0].schema", "there is no such file"),
        ([{"step": "template", "template": "."}], "[0].template", "cannot be read"),
        ([{"step": "xml_to_json", "depth": 0}], "[0].depth", "levels, 1 to 200"),
        ([{"step": "xml_to_json", "text": ""}], "[0].text", 'is ""'),
        ([{"step": "python", "function": "shop"}], "[0].function", 'is "shop"'),
        ([{"step": "compress"}, {"step": "python", "function": "a:b"}], "[0].step", "is followed"),
        ([{"step": "compress", "level": 10}], "[0].level", "1 to 6"),
    ],
)
def test_a_mistake_is_reported_with_its_place(steps: object, key: str, says: str) -> None:
    [mistake] = mistakes(steps)
    assert mistake.key == f"namespaces.orders.pipeline{key}"
    assert says in str(mistake)


def test_all_mistakes_are_reported_at_once_and_no_consequences() -> None:
    steps = [{"step": "redact", "feilds": ["a"]}, {"step": "json_schema"}, {"step": "project"}]
    assert [mistake.key[len("namespaces.orders.pipeline") :] for mistake in mistakes(steps)] == [
        "[0].feilds",
        "[1].schema",
        "[2].fields",
    ]


def test_a_schema_that_cannot_be_used_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "strng"}')
    with pytest.raises(ConfigError) as caught:
        read([{"step": "json_schema", "schema": "s.json"}], str(tmp_path / "clarion.toml"))
    assert "strng" in str(caught.value)


def test_the_reference_has_every_option_of_every_step(capsys: Capture) -> None:
    assert main(["check-config", "--reference"]) == 0
    out = capsys.readouterr().out
    for name, kind in STEPS.items():
        _, _, rest = out.partition(f'`[[namespaces.NAME.pipeline]]` with `step = "{name}"`')
        table = rest.partition("###")[0]
        for option in catalogue(kind):
            assert f"| `{option.key}` |" in table


# The user's functions


def configured(tmp_path: Path, function: str, source: str) -> str:
    (tmp_path / "shop_of_tests.py").write_text(source)
    file = tmp_path / "clarion.toml"
    file.write_text(
        "development = true\n[[namespaces.orders.pipeline]]\n"
        f'step = "python"\nfunction = "{function}"\n'
    )
    return str(file)


def test_check_config_imports_the_functions_and_shows_the_steps(
    tmp_path: Path, capfd: Capture
) -> None:
    source = "print('from the module')\ndef f(data): return data\n"
    assert main(["check-config", configured(tmp_path, "shop_of_tests:f", source)]) == 0
    captured = capfd.readouterr()
    assert "from the module" not in captured.out
    lines = {" ".join(line.split()[:2]) for line in captured.out.splitlines()}
    assert 'namespaces.orders.pipeline[0].step "python"' in lines


@pytest.mark.parametrize(
    ("command", "function", "source", "says"),
    [
        ("check-config", "shop_of_tests:f", "", 'has no "f"'),
        ("check-config", "shop_of_tests:f", "import os; os._exit(3)", "ended before it was done"),
        ("check-config", "shop_of_tests:f", "1/0", "ZeroDivisionError: division by zero"),
        ("serve", "shop_of_tests:f", "f = 1", "is int, no function"),
    ],
)
def test_a_function_that_cannot_be_imported_is_found_before_the_start(
    command: str, function: str, source: str, says: str, tmp_path: Path, capsys: Capture
) -> None:
    file = configured(tmp_path, function, source)
    argv = [command, file] if command == "check-config" else [command, "--config", file]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert "namespaces.orders.pipeline[0].function: " in error
    assert says in error


def test_all_functions_are_tried(tmp_path: Path) -> None:
    (tmp_path / "shop_of_tests.py").write_text("def f(data): return data\n")
    folder = str(tmp_path)
    steps: Any = tuple(
        Python(function=f"shop_of_tests:{name}", folder=folder) for name in ("f", "g", "h")
    )
    found = import_mistakes({"a": Namespace(pipeline=steps), "b": Namespace()}, "clarion.toml")
    assert [mistake.key for mistake in found] == [
        "namespaces.a.pipeline[1].function",
        "namespaces.a.pipeline[2].function",
    ]
    assert not import_mistakes({"b": Namespace()}, "clarion.toml")
