"""Data that a schema allows, and what is said of other data."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from clarion_server.pipeline.json_schema import JsonSchemaStep, place
from clarion_server.pipeline.options import JsonSchema
from clarion_server.pipeline.references import are_recursive
from clarion_server.pipeline.step import Misconfigured, Refused
from support.documents import document, made, nested

ORDER = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "integer", "minimum": 1},
        "at": {"type": "string", "format": "date-time"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "additionalProperties": False,
    "$defs": {"line": {"type": "object", "properties": {"the price": {"type": "number"}}}},
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}},
}


def step(schema: Any, **options: Any) -> JsonSchemaStep:
    files = {"s.json": msgspec.json.encode(schema)}
    return JsonSchemaStep(JsonSchema(schema="s.json", **options), files)


def refusal(schema: Any, value: Any, **options: Any) -> str:
    with pytest.raises(Refused) as caught:
        step(schema, **options).run(document(value))
    return str(caught.value)


def test_what_fits_passes() -> None:
    value = {"id": 1, "at": "2026-01-02T03:04:05Z", "lines": [{"the price": 1.5}]}
    assert made(step(ORDER), value) == value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, 'data: 5 is not of type "object"'),
        ({}, 'data: "id" is a required property'),
        ({"id": 0}, "data.id: 0 is less than the minimum of 1"),
        ({"id": 1, "at": "today"}, 'data.at: "today" is not a "date-time"'),
        (
            {"id": 1, "lines": [{}, {"the price": "x"}]},
            'data.lines[1]["the price"]: "x" is not of type "number"',
        ),
        (
            {"id": 1, "no": 1},
            "data: Additional properties are not allowed ('no' was unexpected)",
        ),
    ],
)
def test_what_does_not_is_told_where_and_why(value: Any, says: str) -> None:
    assert refusal(ORDER, value) == says


def test_formats_may_be_mere_notes() -> None:
    assert made(step(ORDER, formats=False), {"id": 1, "at": "today"})["at"] == "today"


def test_what_leaves_is_what_was_checked() -> None:
    """Another parser could take the first of two fields."""
    one = document(None)
    one.data = b'{"id":"x","id":1}'
    step(ORDER).run(one)
    assert one.data == b'{"id":1}'


def test_an_error_is_short_however_large_the_data() -> None:
    text = refusal({"type": "object"}, "x" * 100_000)
    assert len(text) < 300
    assert text.endswith('is not of type "object"')
    names = {f"k{i}": 1 for i in range(10_000)}
    assert (
        len(refusal({"additionalProperties": False, "unevaluatedProperties": False}, names)) < 300
    )


def test_a_place_is_written_as_people_would() -> None:
    assert place(["a", 3, "b c", "d"]) == 'data.a[3]["b c"].d'
    assert len(place(["a" * 1000] * 1000)) < 250


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (b"{", "is not JSON: unexpected end of data, line 1, column 2"),
        (b"[]", "is no schema that can be used"),
        (b'{"type":"strng"}', '"strng" is not valid under any'),
        (b'{"pattern":"("}', '"(" is not a "regex"'),
        (b'{"pattern":"(?=a)b"}', 'is not a "regex"'),
        (b'{"pattern":"(a)\\\\1"}', 'is not a "regex"'),
        (b'{"format":"date-tiem"}', "date-tiem"),
        (b'{"$ref":"#/$defs/x"}', "/$defs/x"),
        (b'{"$ref":"http://127.0.0.1:9/x"}', "Retrieval is disabled"),
        (b'{"$ref":"file:///etc/hostname"}', "Retrieval is disabled"),
        (b'{"$schema":"http://127.0.0.1:9/x"}', "nknown"),
    ],
)
def test_a_schema_that_cannot_be_used_is_found_at_the_start(schema: bytes, says: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        JsonSchemaStep(JsonSchema(schema="s.json"), {"s.json": schema})
    assert caught.value.option == "schema"
    assert "s.json" in caught.value.problem
    assert says in caught.value.problem


def test_without_a_schema_there_is_no_step() -> None:
    with pytest.raises(Misconfigured, match="schema: is empty"):
        JsonSchemaStep(JsonSchema(), {})


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(.*a){20}$"])
def test_patterns_take_linear_time(pattern: str) -> None:
    began = time.process_time()
    refusal({"pattern": pattern}, "a" * 50_000 + "!")
    assert time.process_time() - began < 1


def test_a_schema_that_branches_into_itself_takes_linear_time() -> None:
    """The place of an error in it would take 2**depth, and so there is none."""
    child = {"properties": {"c": {"$ref": "#/$defs/n"}}, "required": ["c"]}
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [child, child | {"minProperties": 1}]}}}
    value: dict[str, Any] = {}
    for _ in range(200):
        value = {"c": value}
    began = time.process_time()
    assert refusal(schema, value) == "data does not fit the schema"
    assert time.process_time() - began < 1


def test_the_first_of_many_errors_is_enough() -> None:
    began = time.process_time()
    assert refusal({"items": {"type": "string"}}, [1] * 100_000).startswith("data[0]: 1 is not")
    assert time.process_time() - began < 1


def test_depth_is_no_matter() -> None:
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}}
    assert made(step(schema), nested(512)) == nested(512)


def test_only_a_schema_that_does_not_refer_to_itself_is_safe() -> None:
    assert step(ORDER).safe
    assert not step(TREE).safe
    assert refusal(TREE, {"child": {"child": 5}}) == 'data.child.child: 5 is not of type "object"'


STRINGS = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "safe"),
    [
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, True),
        ({"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"properties": {"b": True}}}}, True),
        ({"anyOf": [{"additionalProperties": False}, {"type": "null"}]}, True),
        ({"items": {"anyOf": [{"type": "string"}]}}, True),
        ({"anyOf": [STRINGS, {"type": "null"}]}, False),
        ({"items": {"oneOf": [{"not": STRINGS}]}}, False),
        ({"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"properties": {"b": STRINGS}}}}, False),
        (
            {"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": STRINGS}},
            False,
        ),
    ],
)
def test_branches_about_whole_arrays_are_not_safe(schema: Any, safe: bool) -> None:
    assert step(schema).safe is safe


def test_errors_in_wide_branches_take_their_time_and_no_more() -> None:
    schema = {"anyOf": [{"items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, STRINGS]}
    assert refusal(schema, [1]).startswith("data: [1] is not valid under any of the schemas")
    began = time.process_time()
    assert refusal(schema, [1] * 100_000) == "data does not fit the schema"
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("schema", "recursive"),
    [
        (True, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}, False),
        ({"properties": {"$ref": {"type": "string"}}}, False),
        ({"properties": {"x": {"$ref": "#"}}}, True),
        ({"properties": {"x": {"items": {"$ref": "#/properties/x"}}}}, True),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {}}}, False),
        (
            {"$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}},
            True,
        ),
        ({"allOf": [{"items": {"$ref": "#/allOf/0"}}]}, True),
        ({"allOf": [{"items": {"$ref": "#/allOf/9"}}]}, True),
        ({"$defs": {"a/b": {"items": {"$ref": "#/$defs/a~1b"}}}}, True),
        ({"$dynamicRef": "#x"}, True),
        ({"$ref": "other"}, True),
    ],
)
def test_what_refers_to_itself(schema: Any, recursive: bool) -> None:
    assert are_recursive(schema) is recursive
