"""Leaving fields out: beside a naive model, and with data that wants to hide them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.pipeline.fields import ProjectStep, RedactStep
from clarion_server.pipeline.options import Project, Redact
from clarion_server.pipeline.step import Misconfigured, Refused
from support.documents import document, made, nested

names = st.sampled_from("abc")
values = st.recursive(
    st.integers(0, 3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=15,
)
parts = st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=3)
paths = st.builds(lambda deep, rest: ["**"] * deep + rest, st.booleans(), parts)


def redact(*fields: str, **options: Any) -> RedactStep:
    return RedactStep(Redact(fields=fields, **options))


def project(*fields: str, **options: Any) -> ProjectStep:
    return ProjectStep(Project(fields=fields, **options))


def leads(path: list[str], names: tuple[str, ...]) -> str:
    """Whether `names` are the end of the path, on its way, or off it: the model."""
    if not path:
        return "" if names else "end"
    if path[0] == "**":
        shorter = [leads(path[1:], names)]
        longer = [leads(path, names[1:])] if names else []
        found = {*shorter, *longer}
        return "end" if "end" in found else "way" if "way" in found or not names else ""
    if not names:
        return "way"
    return leads(path[1:], names[1:]) if path[0] in ("*", names[0]) else ""


def redacted(value: Any, path: list[str], names: tuple[str, ...] = ()) -> Any:
    if isinstance(value, list):
        return [redacted(item, path, names) for item in value]
    if isinstance(value, dict):
        return {
            name: redacted(below, path, (*names, name))
            for name, below in value.items()
            if leads(path, (*names, name)) != "end"
        }
    return value


def projected(value: Any, path: list[str], names: tuple[str, ...] = ()) -> Any:
    if isinstance(value, list):
        return [projected(item, path, names) for item in value if isinstance(item, (dict, list))]
    kept: dict[str, Any] = {}
    for name, below in value.items():
        state = leads(path, (*names, name))
        if state == "end":
            kept[name] = below
        elif state == "way" and isinstance(below, (dict, list)):
            kept[name] = projected(below, path, (*names, name))
    return kept


@given(values, paths)
def test_redact_is_what_the_model_says(value: Any, path: list[str]) -> None:
    assert made(redact(".".join(path)), value) == redacted(value, path)


@given(values.filter(lambda value: not isinstance(value, int)), paths)
def test_project_is_what_the_model_says(value: Any, path: list[str]) -> None:
    assert made(project(".".join(path)), value) == projected(value, path)


@pytest.mark.parametrize(
    ("step", "value", "result"),
    [
        (redact("a"), {"a": 1, "b": 2}, {"b": 2}),
        (redact("a.b"), {"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}),
        (redact("card.number"), {"card": [[{"number": 1}]]}, {"card": [[{}]]}),
        (redact("a"), [{"a": 1}, 2], [{}, 2]),
        (redact("**.secret"), {"x": [{"secret": 1}], "secret": {}}, {"x": [{}]}),
        (redact("*.a", "b"), {"x": {"a": 1}, "b": 2}, {"x": {}}),
        (redact("a", instead="***"), {"a": {"b": 1}}, {"a": "***"}),
        (redact("a"), "text", "text"),
        (project("a", "b.c"), {"a": [1], "b": {"c": 1, "d": 2}, "e": 3}, {"a": [1], "b": {"c": 1}}),
        (project("a.b"), {"a": 5}, {}),
        (project("a.b"), {"a": [1, {"b": 2, "c": 3}]}, {"a": [{"b": 2}]}),
        (project("a"), [{"a": 1, "b": 2}, 3], [{"a": 1}]),
        (project("**.id"), {"id": 1, "x": {"id": 2, "y": 3}}, {"id": 1, "x": {"id": 2}}),
    ],
)
def test_fields_are_left_out(step: RedactStep | ProjectStep, value: Any, result: Any) -> None:
    assert made(step, value) == result


def test_a_field_that_is_there_twice_does_not_slip_through() -> None:
    one = document(None)
    one.data = b'{"card":1,"card":2,"a":3}'
    redact("card").run(one)
    assert one.data == b'{"a":3}'


@pytest.mark.parametrize(
    "step", [redact("a", "b.c", missing="refuse"), project("a", "b.c", missing="refuse")]
)
def test_what_must_be_there_is_named_when_it_is_not(step: RedactStep | ProjectStep) -> None:
    assert isinstance(made(step, {"a": 1, "b": {"c": 2}}), dict)
    with pytest.raises(Refused, match=r"^data has no b\.c$"):
        step.run(document({"a": 1, "b": [{"d": 1}]}))


def test_data_without_fields_has_none_to_keep() -> None:
    with pytest.raises(Refused, match="neither an object nor an array"):
        project("a").run(document("text"))


def test_data_that_has_nothing_to_redact_stays_as_it_was_written() -> None:
    one = document(None)
    one.data = b'{ "b": 1.00 }'
    redact("a").run(one)
    assert one.data == b'{ "b": 1.00 }'


@pytest.mark.parametrize("step", [redact("**.a.b"), project("**.a.b")])
def test_depth_is_no_matter(step: RedactStep | ProjectStep) -> None:
    assert made(step, nested(512)) == nested(512)


@pytest.mark.parametrize("fields", [(), ("a..b",), ("a", "a.b")])
def test_paths_that_cannot_be_meant_are_found_at_the_start(fields: tuple[str, ...]) -> None:
    for make in (redact, project):
        with pytest.raises(Misconfigured) as caught:
            make(*fields)
        assert caught.value.option == "fields"
