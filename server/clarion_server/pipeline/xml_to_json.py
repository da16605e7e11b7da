"""`xml_to_json`: a JSON string that holds an XML document becomes an object.

    <order id="7">                       {"order": {
      <item>pen</item>                     "@id": "7",
      <item>ink</item>                     "item": ["pen", "ink"],
      <total unit="EUR">9.50</total>       "total": {"@unit": "EUR", "#text": "9.50"},
      <note/>                              "note": ""
    </order>                             }}

An element with text alone is that text; with attributes or elements it is an object, in which the
text, if there is any, has a name of its own. A repeated element is an array, in order. White space
at both ends of a text goes, comments and processing instructions go, and what stands between
elements of different names forgets its order. All values are texts: XML does not say what is a
number.

Expat reads it, in time and memory proportional to the document, and it is stopped at the first sign
of a document type: so there are no entities but the five of XML, nothing is expanded and nothing
fetched. It expects UTF-8 whatever the XML declaration says, for that is what JSON was written in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast
from xml.parsers import expat

from clarion_server.pipeline.options import XmlToJson
from clarion_server.pipeline.paths import BadPath, Paths, Place
from clarion_server.pipeline.step import Document, Misconfigured, Refused

_WHITE = " \t\r\n"  # XML 1.0, section 2.3

Element: TypeAlias = tuple[dict[str, Any], list[str], Place | None]
"""One that is not closed yet: its fields, its text so far, and where it is in paths of lists."""


class XmlToJsonStep:
    """See the module's text."""

    name = "xml_to_json"
    safe = True

    def __init__(self, options: XmlToJson) -> None:
        expected = "a text that begins as no name in XML does, such as @, # or $"
        for option, value in (("attributes", options.attributes), ("text", options.text)):
            if not value or value[0].isalpha() or value[0] in "_:":
                raise Misconfigured(option, f'is "{value}"', expected)
        if options.text.startswith(options.attributes):
            problem = f'is "{options.text}", as an attribute of an element could be called'
            raise Misconfigured("text", problem, f"a text without {options.attributes} before it")
        try:
            self._lists = Paths(options.lists).start if options.lists else None
        except BadPath as error:
            raise Misconfigured("lists", str(error), "paths, such as order.item") from None
        self._options = options

    def load(self) -> None:
        """Nothing is left to load."""

    def run(self, document: Document) -> None:
        text = document.value
        if not isinstance(text, str):
            raise Refused("data is not a JSON string, and so no XML document")
        reading = _Reading(self._options, self._lists)
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = reading.start
        parser.EndElementHandler = reading.end
        parser.CharacterDataHandler = reading.text
        try:
            parser.Parse(text, True)
        except expat.ExpatError as error:
            what = expat.ErrorString(error.code)
            place = f"line {error.lineno}, column {error.offset + 1}"
            raise Refused(f"data is no XML document: {what}: {place}") from None
        except Refused as refused:
            place = f"line {parser.CurrentLineNumber}, column {parser.CurrentColumnNumber + 1}"
            raise Refused(f"{refused}: {place}") from None
        document.value = reading.root


def _refuse_doctype(*_: object) -> None:
    raise Refused("a document type (DOCTYPE) is not taken, nor are entities")


class _Reading:
    """What expat tells of one document."""

    def __init__(self, options: XmlToJson, lists: Place | None) -> None:
        self.root: dict[str, Any] = {}
        self._options = options
        self._left = options.nodes
        self._open: list[Element] = [(self.root, [], lists)]

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        options = self._options
        if len(self._open) > options.depth:
            raise Refused(f"elements are nested deeper than {options.depth} levels")
        self._left -= 1 + len(attributes)
        if self._left < 0:
            raise Refused(f"there are more than {options.nodes} elements and attributes")
        fields: dict[str, Any] = {}
        if attributes:
            if options.prefixes == "drop":
                attributes = _without_prefixes(attributes)
            for key, value in attributes.items():
                fields[options.attributes + key] = value
        place = self._open[-1][2]
        if place is not None:
            place = place.at(self._called(name))
        self._open.append((fields, [], place))

    def text(self, text: str) -> None:
        self._open[-1][1].append(text)

    def end(self, name: str) -> None:
        fields, texts, place = self._open.pop()
        text = "".join(texts).strip(_WHITE)
        if fields and text:
            fields[self._options.text] = text
        value = fields or text
        name = self._called(name)
        around = self._open[-1][0]
        before = around.get(name)
        if before is None:
            around[name] = [value] if place is not None and place.ends else value
        elif isinstance(before, list):
            cast("list[object]", before).append(value)
        else:
            around[name] = [before, value]

    def _called(self, name: str) -> str:
        return name.rpartition(":")[2] if self._options.prefixes == "drop" else name


def _without_prefixes(attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes by their names alone; declarations of prefixes are none then."""
    found: dict[str, str] = {}
    for key, value in attributes.items():
        prefix, colon, name = key.rpartition(":")
        if key == "xmlns" or (colon and prefix == "xmlns"):
            continue
        if name in found:
            raise Refused(f"without prefixes, an element has two attributes {name}")
        found[name] = value
    return found
