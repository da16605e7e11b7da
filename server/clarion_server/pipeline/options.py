"""The options of each kind of step: `[[namespaces.NAME.pipeline]]` tables, told apart by `step`.

As in `clarion_server.options`, constructing one checks nothing; `config.load` does, and makes the
steps once to see that they can be made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from clarion_server.option_values import Section, option


class StepOptions(Section, frozen=True, kw_only=True, tag_field="step"):
    """What any step has: its name, which is the value of `step` in its table."""

    @property
    def step(self) -> str:
        return name_of(type(self))


class JsonSchema(StepOptions, frozen=True, kw_only=True, tag="json_schema"):
    """`step = "json_schema"`: lets data pass that a JSON Schema allows, and says what is wrong with
    the rest. What leaves is what was checked: written anew, a doubled key once."""

    schema: Annotated[
        str,
        option(
            "the file with the schema; its drafts are 4, 6, 7, 2019-09 and 2020-12 (`$schema`;"
            " without one, 2020-12)",
            "No default: there is nothing to check without it.",
        ),
    ] = ""
    formats: Annotated[
        bool,
        option(
            "whether `format` is checked, or a mere note as in newer drafts",
            "Who writes `date-time` into a schema means it.",
        ),
    ] = True


class XmlToJson(StepOptions, frozen=True, kw_only=True, tag="xml_to_json"):
    """`step = "xml_to_json"`: data is a JSON string that holds an XML document; it becomes an
    object. A document type (DOCTYPE) is refused, and with it entities of all kinds."""

    attributes: Annotated[
        str,
        option(
            "what stands before the name of an attribute in the object",
            "No element's name can begin with it.",
        ),
    ] = "@"
    text: Annotated[
        str,
        option(
            "the name of an element's text, where it also has attributes or elements",
            "No element can have this name.",
        ),
    ] = "#text"
    prefixes: Annotated[
        Literal["keep", "drop"],
        option(
            "whether names keep their namespace's prefix, or lose it (and `xmlns` attributes"
            " disappear)",
            "Nothing is lost unasked.",
        ),
    ] = "keep"
    lists: Annotated[
        tuple[str, ...],
        option(
            'paths of elements that are lists also when there is one, such as "order.item";'
            " repeated ones always are",
            "The document does not say what may be repeated.",
        ),
    ] = ()
    depth: Annotated[
        int,
        option(
            "elements within elements",
            "Documents written by programs have ten or so.",
            unit="levels",
            least=1,
            most=200,
        ),
    ] = 64
    nodes: Annotated[
        int,
        option(
            "elements and attributes of a document",
            "Some 3 MB of memory at worst while it is read.",
            unit="nodes",
            least=1,
            most=10_000_000,
        ),
    ] = 10_000


class Template(StepOptions, frozen=True, kw_only=True, tag="template"):
    """`step = "template"`: renders a Jinja template, in a sandbox, in which `data` is the data.
    What is not there is an error that names it."""

    template: Annotated[
        str,
        option("the file with the template", "No default: there is nothing to render without it."),
    ] = ""
    result: Annotated[
        Literal["json", "text"],
        option(
            "what the template writes: JSON, in which every `{{ value }}` is written as JSON, or"
            " text, which becomes a JSON string",
            "Programs read it.",
        ),
    ] = "json"


class Redact(StepOptions, frozen=True, kw_only=True, tag="redact"):
    """`step = "redact"`: leaves out fields. A path goes through arrays by itself; `*` is any field,
    `**` any number of them: "card.number", "*.email", "**.password"."""

    fields: Annotated[
        tuple[str, ...],
        option("paths of the fields to leave out", "No default: it would leave out nothing."),
    ] = ()
    instead: Annotated[
        str,
        option("a text that takes the place of the values", "Empty: the fields are left out."),
    ] = ""
    missing: Annotated[
        Literal["ignore", "refuse"],
        option(
            "what becomes of data that has no field of some path",
            "What is not there needs no hiding.",
        ),
    ] = "ignore"


class Project(StepOptions, frozen=True, kw_only=True, tag="project"):
    """`step = "project"`: keeps fields and leaves out all others; paths as in `redact`. What is not
    an object or array where a path wants to go on is left out too."""

    fields: Annotated[
        tuple[str, ...],
        option("paths of the fields to keep", "No default: it would keep nothing."),
    ] = ()
    missing: Annotated[
        Literal["ignore", "refuse"],
        option(
            "what becomes of data that has no field of some path",
            "Optional fields are common; a schema says better what must be there.",
        ),
    ] = "ignore"


class Python(StepOptions, frozen=True, kw_only=True, tag="python"):
    """`step = "python"`: calls a function with the data, and goes on with what it returns. It runs
    in a process of the pool. The text of a `ValueError` is for the publisher; of any other
    exception the publisher hears only that the step failed."""

    function: Annotated[
        str,
        option(
            'what to call, as "module:function"', "No default: there is nothing to call without it."
        ),
    ] = ""
    folder: Annotated[
        str,
        option(
            "where the module is, if it is not installed",
            "Next to the configuration file, as the other files are.",
        ),
    ] = "."
    takes: Annotated[
        Literal["object", "bytes"],
        option(
            "what the function gets: dict, list, str, ..., or the JSON as it is",
            "Most functions look into it. It may return either.",
        ),
    ] = "object"


class Compress(StepOptions, frozen=True, kw_only=True, tag="compress"):
    """`step = "compress"`: publications leave compressed to clients that have offered to read it
    (WebSockets, permessage-deflate). It is about the wire, not the data, and so the last step."""

    min_bytes: Annotated[
        int,
        option(
            "the smallest message that is compressed",
            "A message of 256 bytes shrinks by a third; below, next to nothing is saved.",
            unit="bytes",
            least=0,
            most=67_108_864,
        ),
    ] = 256
    level: Annotated[
        int,
        option(
            "how hard to try, as zlib counts it",
            "It is done once for all subscribers, and half a millisecond for 64 KiB. There is no 7"
            " to 9: they save next to nothing and may take a hundred times as long.",
            least=1,
            most=6,
        ),
    ] = 6


AnyStep: TypeAlias = JsonSchema | XmlToJson | Template | Redact | Project | Python | Compress
"""Any of them, as a type that can be read from JSON."""


def name_of(kind: type[StepOptions]) -> str:
    """The name of a kind of step: the value of `step` in its table."""
    return str(kind.__struct_config__.tag)


STEPS: Mapping[str, type[StepOptions]] = {
    name_of(kind): kind
    for kind in (JsonSchema, XmlToJson, Template, Redact, Project, Python, Compress)
}
"""Every kind of step, by name."""

FILE_OPTIONS = ("schema", "template", "folder")
"""Options that are paths, relative to the configuration file."""
