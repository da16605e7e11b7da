"""What publishers may send to break the server: refused in clear words, in time, and it lives on.

Everything goes the way of a publication: the check at the door, then the steps. Attacks on a
single step, and what they are, stand with its tests.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from clarion_fanout import payload
from clarion_fanout.publication import PayloadError
from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.chain import Chain
from clarion_server.pipeline.options import (
    AnyStep,
    JsonSchema,
    Project,
    Redact,
    Template,
    XmlToJson,
)
from clarion_server.pipeline.step import Refused

MEGABYTES = 67_108_864
"""The largest `pipeline.input_bytes`."""

DEADLINE_S = 5.0
"""As that of the pool; of processor time, since the machine may be busy."""

SCHEMA = b"""{
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^([a-z]+)+$"},
        "at": {"format": "date-time"},
        "card": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "uniqueItems": true}
    }
}"""
TEMPLATE = (
    b'{"t": "{{ data.id }}", "l": [{% for x in data.tags | default([]) %}{{ x }},{% endfor %}0]}'
)
BRANCHES = b"""{"properties": {"card": {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
}}}"""
FILES = {"schema": SCHEMA, "branches": BRANCHES, "template": TEMPLATE}

SCHEMA_STEP = JsonSchema(schema="schema")
ALL: list[AnyStep] = [
    SCHEMA_STEP,
    Redact(fields=("card", "**.secret")),
    Project(fields=("id", "tags")),
    Template(template="template"),
]


def made(*steps: AnyStep) -> Chain:
    return chain.make(Namespace(pipeline=steps), limit=100_000, files=FILES)


def published(through: Chain, data: bytes, most: int = MEGABYTES) -> Any:
    """What subscribers would get, or the reason that the publisher is told; within the deadline."""
    began = time.process_time()
    try:
        return msgspec.json.decode(through.run(payload.check(data, most)))
    except (PayloadError, Refused) as error:
        text = str(error)
        assert 0 < len(text) <= chain.TEXT + len("...")
        return text
    finally:
        assert time.process_time() - began < DEADLINE_S


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"id": NaN}', "not valid JSON"),
        (b'{"id": Infinity}', "not valid JSON"),
        (b'{"id": 1e400}', "not valid JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b'{"id": "\\ud800"}', "not valid JSON"),
        (b'{"id": "\xed\xa0\x80"}', "not valid JSON"),
        (b'{"\\udc00": 1}', "not valid JSON"),
        (b'{"id": "\xff"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[" * 600 + b"]" * 600, "nested deeper than 512"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"id": "a"} {}', "not valid JSON"),
        (b'"' + b"x" * MEGABYTES + b'"', "the limit is 67108864"),
    ],
)
def test_what_is_no_json_does_not_get_past_the_door(data: bytes, says: str) -> None:
    assert says in published(made(*ALL), data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"id": "' + b"a" * 1_000_000 + b'!"}', "does not match"),
        (b'{"id": "a", "at": "' + b"1" * 1_000_000 + b'"}', 'is not a "date-time"'),
        (b'{"id": "a", "card": [' + b"1," * 400_000 + b"1]}", "is not valid under any"),
        (b'{"id": "a", "tags": [' + b"1," * 400_000 + b"1]}", "non-unique"),
        (b"[" + b"{}," * 300_000 + b"{}]", 'is not of type "object"'),
        (b'{"id": "' + b"a" * 10_000_000 + b'"}', "more than 100000 bytes"),
        (b'{"id": "a", "x": 1, "id": 2}', 'data.id: 2 is not of type "string"'),
        (b"{}", "data has no 'id' there (line 1 of the template)"),
        (b"1.5", "data: 1.5 is not of type"),
    ],
    ids=[
        *("pattern", "format", "branches", "unique", "wrong type", "large result"),
        *("doubled key", "missing", "number"),
    ],
)
def test_what_does_not_fit_is_refused(data: bytes, says: str) -> None:
    assert says in published(made(*ALL), data)


def test_the_larger_a_document_the_less_is_told_of_it() -> None:
    data = b'{"id": "' + b"a" * 10_000_000 + b'!"}'
    assert published(made(*ALL), data) == "data does not fit the schema"


def test_branches_of_a_schema_do_not_multiply_errors() -> None:
    data = b'{"card": [' + b"1," * 4_000_000 + b"1]}"
    assert published(made(JsonSchema(schema="branches")), data) == "data does not fit the schema"


@pytest.mark.parametrize(
    ("data", "result"),
    [
        (b'{"id": "a", "card": 5, "card": null}', {"t": "a", "l": [0]}),
        (b'{"id": "a", "__class__": {"__init__": 1}}', {"t": "a", "l": [0]}),
        (b'{"id": "a", "tags": ["{{ 7 * 7 }}", "\\",\\"x\\":\\""]}', None),
        (b'{"id": "a", "tags": [' + b'{"secret": 1},' + b"0]}", None),
        (b'{"id": "a", "tags": ' + b"[" * 500 + b"]" * 500 + b"}", None),
        (b'{"id": "a", "tags": [1e308, -0.0, 123456789012345678901234567890]}', None),
        (b'{"id": "a", "\\u0000": 1, "": 2}', {"t": "a", "l": [0]}),
    ],
)
def test_what_fits_is_data_and_nothing_else(data: bytes, result: Any) -> None:
    got = published(made(*ALL), data)
    assert isinstance(got, dict), got
    assert got.keys() == {"t", "l"}
    assert result is None or got == result


@pytest.mark.parametrize(
    "data",
    [
        b"{" + b",".join(b'"%07x":0' % n for n in range(100_000)) + b"}",
        b"[" + b"[]," * 150_000 + b"[]]",
        b'{"secret":' * 511 + b"1" + b"}" * 511,
        b'{"a":' * 511 + b"1" + b"}" * 511,
        b'"' + b"\\u0041" * 1_600_000 + b'"',
    ],
    ids=["many names", "many arrays", "deep", "deeper", "escapes"],
)
def test_large_documents_are_walked_in_time(data: bytes) -> None:
    paths = Redact(fields=("**.secret", "*.a.b", "x.y"))
    assert "limit is 100000" in published(made(paths), data) or len(data) < 10_000


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        (
            '<!DOCTYPE a [<!ENTITY b "' + "b" * 1_000_000 + '">]><a>' + "&b;" * 1000 + "</a>",
            "DOCTYPE",
        ),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "DOCTYPE"),
        ("<a>" * 100_000, "deeper than 64"),
        ("<a>" + "<b/>" * 1_000_000 + "</a>", "more than 10000"),
        ("<a " + " ".join(f"b{n}='1'" for n in range(100_000)) + "/>", "more than 10000"),
        ("<id>" + "x" * 10_000_000 + "</id>", "more than 100000"),
        ("<id>" + "&amp;" * 200_000 + "</id>", "does not match"),
        ("<a>" + "<!-- -->" * 1_000_000, "no element found"),
        ("x" * 10_000_000, "syntax error"),
        ("<" + "a" * 10_000_000, "unclosed token"),
    ],
    ids=[
        *("quadratic", "external", "deep", "elements", "attributes", "text", "references"),
        *("comments", "no xml", "unclosed"),
    ],
)
def test_xml_that_was_written_to_do_harm_is_refused(xml: str, says: str) -> None:
    assert says in published(made(XmlToJson(), *ALL), msgspec.json.encode(xml))


def test_what_is_small_and_safe_never_takes_long() -> None:
    """The worst that is known of 4 KB on the event loop: far from 20 ms, in processor time."""
    items = b"[" + b",".join([b"0"] * 2000) + b"]"
    loop = b"[{% for x in data %}{{ x | upper }}{{ loop.index }},{% endfor %}0]"
    worst: list[tuple[AnyStep, bytes]] = [
        (Template(template="loop"), items),
        (Redact(fields=("**.a", "**.b.c")), b'{"b":' * 500 + b"0" + b"}" * 500),
        (Project(fields=("a.b",)), b"[" + b",".join([b"{}"] * 1300) + b"]"),
        (XmlToJson(), msgspec.json.encode("<a>" + "<b/>" * 1000 + "</a>")),
    ]
    for step, data in worst:
        one = chain.make(Namespace(pipeline=(step,)), limit=100_000, files={"loop": loop})
        assert one.safe
        times: list[float] = []
        for _ in range(5):
            began = time.process_time()
            one_result = published(one, data)
            times.append(time.process_time() - began)
        assert min(times) < 0.05, (step, one_result)
