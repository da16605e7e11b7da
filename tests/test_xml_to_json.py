"""XML as JSON: the mapping, its options, and documents that were written to do harm."""

from __future__ import annotations

import time
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.pipeline.options import XmlToJson
from clarion_server.pipeline.step import Misconfigured, Refused
from clarion_server.pipeline.xml_to_json import XmlToJsonStep
from support.documents import document, made

ORDER = """<?xml version="1.0" encoding="UTF-8"?>
<!-- a comment --><?and an instruction?>
<order id="7">
  <item>pen</item>
  <item>ink</item>
  <total unit="EUR"> 9.50 </total>
  <note/>
</order>"""

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


def step(**options: Any) -> XmlToJsonStep:
    return XmlToJsonStep(XmlToJson(**options))


def read(xml: str, **options: Any) -> Any:
    return made(step(**options), xml, 50_000_000)


def refusal(value: object, **options: Any) -> str:
    """What is said of it, within a second."""
    began = time.process_time()
    with pytest.raises(Refused) as caught:
        step(**options).run(document(value, 50_000_000))
    assert time.process_time() - began < 1
    return str(caught.value)


def test_the_mapping() -> None:
    assert read(ORDER) == {
        "order": {
            "@id": "7",
            "item": ["pen", "ink"],
            "total": {"@unit": "EUR", "#text": "9.50"},
            "note": "",
        }
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<a/>", {"a": ""}),
        ("<a> \n x y\t</a>", {"a": "x y"}),
        ("<a>&lt;&amp;&#65;<![CDATA[<b>]]></a>", {"a": "<&A<b>"}),
        ("<a>x<b/>y</a>", {"a": {"b": "", "#text": "xy"}}),
        ("<a><b/><c/><b>2</b></a>", {"a": {"b": ["", "2"], "c": ""}}),
        ("<a b=''/>", {"a": {"@b": ""}}),
        ("<a>\u00a0</a>", {"a": "\u00a0"}),
        ('<?xml version="1.0" encoding="utf-16"?><a>é</a>', {"a": "é"}),
        ("\ufeff<a/>", {"a": ""}),
        (
            "<p:a xmlns:p='u' p:b='1'><p:c/></p:a>",
            {"p:a": {"@xmlns:p": "u", "@p:b": "1", "p:c": ""}},
        ),
    ],
)
def test_details_of_the_mapping(text: str, value: Any) -> None:
    assert read(text) == value


def test_prefixes_can_be_dropped() -> None:
    text = "<s:a xmlns:s='u' xmlns='v' s:b='1'><c/><s:c>2</s:c></s:a>"
    assert read(text, prefixes="drop") == {"a": {"@b": "1", "c": ["", "2"]}}
    assert "two attributes b" in refusal("<a p:b='' q:b=''/>", prefixes="drop")


def test_some_elements_are_always_lists() -> None:
    text = "<order><item/><note><item/></note></order>"
    assert read(text, lists=("order.item",)) == {"order": {"item": [""], "note": {"item": ""}}}
    assert read(text, lists=("**.item",)) == {"order": {"item": [""], "note": {"item": [""]}}}


def test_names_of_attributes_and_text_can_be_chosen() -> None:
    assert read("<a b='1'>2</a>", attributes="-", text="$") == {"a": {"-b": "1", "$": "2"}}


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"attributes": ""}, "attributes"),
        ({"attributes": "a_"}, "attributes"),
        ({"text": ""}, "text"),
        ({"text": "_text"}, "text"),
        ({"text": "@text"}, "text"),
        ({"lists": ("a..b",)}, "lists"),
    ],
)
def test_options_that_let_names_collide_are_refused(options: Any, option: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        step(**options)
    assert caught.value.option == option


names = st.sampled_from(["a", "b", "c-1"])
texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=5)
elements: st.SearchStrategy[Any] = st.recursive(
    st.tuples(names, st.just({}), texts, st.just([])),
    lambda inner: st.tuples(
        names, st.dictionaries(names, texts), texts, st.lists(inner, max_size=3)
    ),
    max_leaves=10,
)
"""Name, attributes, text, elements."""


def written(element: Any) -> str:
    name, attributes, text, inner = element
    marks = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items())
    return f"<{name}{marks}>{escape(text)}{''.join(map(written, inner))}</{name}>"


def meant(element: Any) -> Any:
    _, attributes, text, inner = element
    fields: dict[str, Any] = {f"@{key}": value for key, value in attributes.items()}
    for name in dict.fromkeys(one[0] for one in inner):
        all_of_it = [meant(one) for one in inner if one[0] == name]
        fields[name] = all_of_it if len(all_of_it) > 1 else all_of_it[0]
    if not fields:
        return text
    return fields | ({"#text": text} if text else {})


@given(elements)
def test_any_document_is_read_as_it_was_meant(element: Any) -> None:
    assert read(written(element)) == {element[0]: meant(element)}


# Harm


@pytest.mark.parametrize(
    "text",
    [
        f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]><x>&l9;</x>',
        f'<!DOCTYPE x [<!ENTITY a "{"a" * 100_000}">]><x>{"&a;" * 10_000}</x>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><x>&a;</x>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "http://127.0.0.1:9/">]><x>&a;</x>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><x/>',
        '<!DOCTYPE x PUBLIC "a" "file:///etc/hostname"><x/>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/"> %a;]><x/>',
        '<!DOCTYPE x [<!ATTLIST x a CDATA "b">]><x/>',
        "<!DOCTYPE x><x/>",
    ],
)
def test_a_document_type_is_refused_before_it_means_anything(text: str) -> None:
    assert "DOCTYPE" in refusal(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<x>&a;</x>", "undefined entity: line 1, column 4"),
        ("", "no element found: line 1, column 1"),
        ("<a>\n<b></a>", "mismatched tag: line 2, column 6"),
        ("<a/><a/>", "junk after document element"),
        ("hello", "syntax error"),
        ("<a b='' b=''/>", "duplicate attribute"),
        ("<a>\x00</a>", "not well-formed"),
        ("<a>&#0;</a>", "invalid character number"),
        ("<a>&#xD800;</a>", "invalid character number"),
        ("<a>\uffff</a>", "not well-formed"),
    ],
)
def test_what_is_not_xml_is_told_where_and_why(text: str, says: str) -> None:
    assert says in refusal(text)


@pytest.mark.parametrize("value", [None, 5, {"xml": "<a/>"}, ["<a/>"]])
def test_what_is_no_text_is_no_xml(value: object) -> None:
    assert "not a JSON string" in refusal(value)


def test_depth_is_limited() -> None:
    deep = "<a>" * 64 + "</a>" * 64
    assert read(deep)
    assert "deeper than 64 levels: line 1" in refusal(f"<a>{deep}</a>")
    assert "deeper than" in refusal("<a>" * 100_000)
    assert read("<a>" * 200 + "<b/><b/>" + "</a>" * 200, depth=201)


def test_elements_and_attributes_are_limited() -> None:
    assert read(f"<a>{'<b/>' * 9_999}</a>")
    assert "more than 10000 elements and attributes" in refusal(f"<a>{'<b/>' * 10_000}</a>")
    marks = " ".join(f"a{n}=''" for n in range(100_000))
    assert "more than 10000" in refusal(f"<a {marks}/>")


@pytest.mark.parametrize(
    "text",
    [
        f"<a>{'x' * 10_000_000}</a>",
        f"<a b='{'x' * 10_000_000}'/>",
        f"<!--{'x' * 10_000_000}--><a/>",
        f"<a>{'&lt;' * 2_000_000}</a>",
        f"<a>{'<![CDATA[]]>' * 800_000}</a>",
        f"<{'a' * 10_000_000}/>",
    ],
    ids=["text", "attribute", "comment", "entities", "cdata", "name"],
)
def test_ten_megabytes_take_their_time_and_no_more(text: str) -> None:
    began = time.process_time()
    assert read(text)
    assert time.process_time() - began < 5
