"""Templates: what they write, what data cannot make of them, and which run on the loop."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.pipeline.options import Template
from clarion_server.pipeline.step import Failed, Misconfigured, Refused
from clarion_server.pipeline.template import TemplateStep
from support.documents import document, made

ORDER: dict[str, Any] = {
    "id": 7,
    "name": 'O"Neil\\',
    "none": None,
    "lines": [{"text": "pen", "tags": ["a", "b"]}, {"text": "ink", "tags": []}],
    "items": [1, 2],
}


def step(text: str, **options: Any) -> TemplateStep:
    return TemplateStep(Template(template="t", **options), {"t": text.encode()})


def json_of(text: str, data: object = ORDER, limit: int = 10_000) -> Any:
    return made(step(text), data, limit)


def text_of(text: str, data: object = ORDER) -> Any:
    return made(step(text, result="text"), data)


def refusal(text: str, data: object = ORDER, limit: int = 10_000) -> str:
    with pytest.raises(Refused) as caught:
        step(text).run(document(data, limit))
    return str(caught.value)


def mistake(text: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        step(text)
    assert caught.value.option == "template"
    return caught.value.problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ data }}", ORDER),
        ('{"a": {{ data.name }}}', {"a": 'O"Neil\\'}),
        ('{"a": "to {{ data.name }}: {{ data.id }}"}', {"a": 'to O"Neil\\: 7'}),
        ('["{{ data.none }}", {{ data.none }}]', ["null", None]),
        ('["{{ data.lines[0].tags }}"]', ['["a","b"]']),
        ('"\\"{{ data.name }}\\""', '"O"Neil\\"'),
        ("{{ data.name | upper }}", 'O"NEIL\\'),
        ("{{ data.name | tojson }}", 'O"Neil\\'),
        ("{{ data.lines | map(attribute='text') }}", ["pen", "ink"]),
        ("{{ data.missing | default('x') }}", "x"),
        ("{{ data.missing is defined }}", False),
        ("{% if data.id > 5 %}1{% else %}2{% endif %}", 1),
        ("{# no {{ data.x }} #}1", 1),
        ("[{% for x in data.items %}{{ x }},{% endfor %}0]", [1, 2, 0]),
        ("{{ data.items | sum }}", 3),
        ("{{ (data.name ~ data.id) | length }}", 8),
        ('{% for k, v in {"a": 1}.items() %}{{ k }}{% endfor %}', "a"),
        ("{{ data.id * 3 + 2 ** 3 }}", 29),
    ],
)
def test_what_a_template_for_json_writes(text: str, value: Any) -> None:
    assert json_of(text) == value


def test_what_a_template_for_text_writes() -> None:
    assert text_of("Hi {{ data.name }}, {{ data.id }} {{ data.none }}\n") == 'Hi O"Neil\\, 7 null'


def test_white_space_of_the_template_stays_in_it() -> None:
    one = document(ORDER)
    step('{\n  "a": [\n    1\n  ]\n}\n').run(one)
    assert one.data == b'{"a":[1]}'


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_no_text_of_a_publishers_leaves_its_place(text: str) -> None:
    template = '{"a": "<{{ data }}>", "b": {{ data }}, "c": ["{{ data }}"]}'
    assert json_of(template, text) == {"a": f"<{text}>", "b": text, "c": [text]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n{{ data.total }}", "data has no 'total' there (line 2 of the template)"),
        ("{{ data.lines[5] }}", "no element 5"),
        ("{{ data.lines[0].a.b }}", "data has no 'a' there"),
        ("{{ data.id.x }}", "'x' of something that is neither an object nor an array"),
        ("{{ [data.x] }}", "no 'x'"),
        ("{{ data.lines | map(attribute='x') }}", "no 'x'"),
        ("{% for x in data.x %}{% endfor %}1", "no 'x'"),
        ("{% if data.x %}1{% endif %}", "no 'x'"),
        ("{{ data.x ~ 'a' }}", "no 'x'"),
        ("{{ data.x == data.y }}", "no 'x'"),
    ],
)
def test_what_is_missing_is_named(text: str, says: str) -> None:
    assert says in refusal(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ data.id + data.name }}", "TypeError"),
        ("\n\n{{ 1 / 0 }}", "line 3 does not go with this data: ZeroDivisionError"),
        ("{{ data.__class__ }}", "'__class__' of 'dict' object is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ data['__class__'] }}", "unsafe"),
        ("{{ data.lines.append(1) }}", "unsafe"),
        ("{{ data.update({}) }}", "unsafe"),
        ("{{ ('%s' | attr('__class__')) }}", "unsafe"),
        ("{{ '{0.__class__}'.format(data) }}", "unsafe"),
        ("{{ data.name * 1000000000 }}", "* is for numbers"),
        ("{{ 10 ** 1000000000 }}", "** is for small powers"),
        ("{{ data.lines * 3 }}", "* is for numbers"),
        ("[1,", "the template made no JSON"),
        ("{{ range }}", "TypeError"),
        ("{{ range(1000000) }}", "OverflowError"),
    ],
)
def test_what_does_not_work_is_the_templates_fault(text: str, says: str) -> None:
    with pytest.raises(Failed) as caught:
        step(text).run(document(ORDER))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "[{% for a in range(99999) %}{% for b in range(99999) %}1,{% endfor %}{% endfor %}]",
        "[{% for x in data.lines %}{{ data.name }},{% endfor %}1]",
        '"{% for a in range(9999) %}{% for b in range(9999) %}{{ data }}{% endfor %}{% endfor %}"',
    ],
)
def test_the_result_is_limited_while_it_is_written(text: str) -> None:
    began = time.process_time()
    data = {"name": "x" * 600, "lines": [1] * 100}
    assert "more than 10000 bytes" in refusal(text, data)
    assert time.process_time() - began < 1


def test_the_limit_is_in_bytes() -> None:
    assert json_of("{{ data }}", "é" * 9, 20) == "é" * 9
    assert "limit is 20" in refusal("{{ data }}", "é" * 10, 20)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n{{ data.x", "t, line 2: unexpected end of template"),
        ("{{ data | nope }}", "No filter named 'nope'"),
        ("{{ data | random }}", "No filter named 'random'"),
        ("{{ order.id }} {{ user }}", "t: order, user: there is no such name"),
        ("{{ lipsum() }}", "lipsum"),
        ("\n{% include 'x' %}", "t, line 2: a template is one file"),
        ("{% import 'x' as y %}", "one file"),
        ("{% extends 'x' %}", "one file"),
        ('{"a": "{% if data.x %}"{% endif %}}', "a string begins or ends within a block"),
        ('{% for x in data %}"{% endfor %}', "a string begins or ends within a block"),
        ('{"a": "}', "a string is open at the end"),
        ("{% macro x() %}1{% endmacro %}{{ x() }}", "a template for JSON has no macro"),
        ("{% set x %}1{% endset %}{{ x }}", "a template for JSON has no assignblock"),
        ("{% filter upper %}1{% endfilter %}", "a template for JSON has no filterblock"),
    ],
)
def test_a_template_that_cannot_work_is_found_at_the_start(text: str, says: str) -> None:
    assert says in mistake(text)


def test_a_template_that_is_no_text_is_found_at_the_start() -> None:
    with pytest.raises(Misconfigured, match="not valid UTF-8"):
        TemplateStep(Template(template="t"), {"t": b"\xff"})
    with pytest.raises(Misconfigured, match="is empty"):
        TemplateStep(Template(), {})


@pytest.mark.parametrize(
    ("safe", "text"),
    [
        (True, '{"a": {{ data.a.b[0] }}, "b": "{{ data.c | upper }}"}'),
        (True, "{{ data.a | default(data.b) }}"),
        (True, "{% if data.a and not data.b %}1{% elif data.c == 'x' %}2{% else %}3{% endif %}"),
        (True, "{% for a in data.x %}{{ a.b }}{{ data.id }}{{ loop.index }}{% endfor %}"),
        (True, "{% for a in data.x if a.ok %}{{ a.b | upper }}{% else %}{{ data.x }}{% endfor %}"),
        (True, "{% for a in data.x %}{% for b in a.y %}{{ b }}{% endfor %}{% endfor %}"),
        (
            True,
            "{% for k, v in data.items() %}{{ k }}{% for w in v %}{{ w }}{% endfor %}{% endfor %}",
        ),
        (True, "{% for a in data.x %}{% if data.y == 'z' or not data.x %}1{% endif %}{% endfor %}"),
        (False, "{% for a in data.x %}{% for b in data.x %}{% endfor %}{% endfor %}"),
        (
            False,
            "{% for a in data.x %}{% for b in a %}{% for c in a %}1"
            "{% endfor %}{% endfor %}{% endfor %}",
        ),
        (False, "{% for a in data.x %}{% for b in range(9) %}{% endfor %}{% endfor %}"),
        (False, "{% for a in data.x %}{{ data.x | length }}{% endfor %}"),
        (False, "{% for a in data.x %}{% if a in data.x %}1{% endif %}{% endfor %}"),
        (False, "{% for a in data.x %}{% if data.y == data.z %}1{% endif %}{% endfor %}"),
        (False, "{% for a in data.x if data.y == data.z %}{% endfor %}"),
        (False, "{% for a in data.x recursive %}{{ a }}{% endfor %}"),
        (False, "{% for a in range(data.n) %}{{ a }}{% endfor %}"),
        (False, "{{ data.x | sort }}"),
        (False, "{{ data.x * 2 }}"),
        (False, "{{ data.x | truncate(data.n) }}"),
        (False, "{% set a = data.x %}{{ a }}"),
        (False, "{{ data.x.strip() }}"),
    ],
)
def test_only_what_is_linear_is_safe(safe: bool, text: str) -> None:
    assert step(text).safe is safe
    assert step(text.replace('"', "'"), result="text").safe is safe


def test_a_safe_template_is_linear_in_time() -> None:
    """Ten times the data, about ten times the time: far from a hundred."""
    inner = "{% for b in a.y %}{% if b == 'z' %}{{ b }}{% endif %}{% endfor %}"
    one = step("{% for a in data.x %}" + inner + "{% endfor %}1")
    assert one.safe
    times: list[float] = []
    for size in (300, 3000):
        data = document({"x": [{"y": list(range(100))}] * size}, 10_000_000)
        assert data.value
        began = time.process_time()
        one.run(data)
        times.append(time.process_time() - began)
    assert times[1] < 40 * times[0]


def test_a_value_is_written_as_any_json_is() -> None:
    value = {"a": [1.5, True, None, "é\u2028<"], "b": 10**30}
    assert made(step("{{ data }}"), value) == json.loads(json.dumps(value))
    assert msgspec.json.decode(text_of("{{ data }}", value)) == value
