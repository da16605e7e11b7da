"""`json_schema`: lets data pass that a JSON Schema allows.

By jsonschema-rs, for three properties: its regular expressions take linear time whatever pattern
and text, it can be told to fetch nothing, and it asks the Python objects themselves.

Only the first error is told. To collect them all takes 23 us and 1.4 KB for each wrong element of
an array, and a document may have a hundred thousand. The library does so itself for an error within
`anyOf` or `oneOf`, in every branch. So a schema with branches about whole arrays is not for the
event loop; where a schema has branches, the error of a large document gets no place; and where it
refers to itself within branches none does, because it would take time exponential in the document's
depth (2 s for 14 levels). The check itself takes no such time.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jsonschema_rs
import msgspec
import orjson

from clarion_server.pipeline import references
from clarion_server.pipeline.options import JsonSchema
from clarion_server.pipeline.step import Document, Misconfigured, Refused

LARGE_BYTES, WIDE_BYTES = 1_048_576, 65_536
"""Of a document for which it takes too long to place an error in branches: up to 1 us a byte, and
up to 10 in wide ones."""

_SHOWN = 200  # characters of an error: the data it quotes may be large
_EXPECTED = "a file with a JSON Schema"
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")


class JsonSchemaStep:
    """Refuses data that does not fit the schema. What leaves is what was checked: data is written
    anew, because another parser may see the other one of two fields of a name."""

    name = "json_schema"

    def __init__(self, options: JsonSchema, files: Mapping[str, bytes]) -> None:
        if not options.schema:
            raise Misconfigured("schema", "is empty", _EXPECTED)
        schema = _read(options.schema, files)
        try:
            self._validator = jsonschema_rs.validator_for(
                schema,
                validate_formats=options.formats,
                ignore_unknown_formats=not options.formats,
                # Linear time; and a schema is no reason to connect to anywhere.
                pattern_options=jsonschema_rs.RegexOptions(),
                offline=True,
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            problem = f"{options.schema} is no schema that can be used: {_reason(error)}"
            raise Misconfigured("schema", problem, _EXPECTED) from None
        recursive = references.are_recursive(schema)
        wide = references.has_wide_branches(schema)
        # Recursion multiplies the schema's size by the document's depth.
        self.safe = not (recursive or wide)
        self._most = sys.maxsize
        if references.uses(schema, references.BRANCHES):
            self._most = 0 if recursive else WIDE_BYTES if wide else LARGE_BYTES

    def load(self) -> None:
        """Nothing is left to load."""

    def run(self, document: Document) -> None:
        value = document.value
        if not self._validator.is_valid(value):
            raise Refused(self._error(value))
        document.value = value

    def _error(self, value: object) -> str:
        if self._most < sys.maxsize and len(msgspec.json.encode(value)) > self._most:
            return "data does not fit the schema"
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return f"{place(error.instance_path)}: {_reason(error)}"
        raise AssertionError("valid and not valid")


def place(path: Iterable[str | int]) -> str:
    """Where in the document: `data.items[3]["a b"]`."""
    text = "data"
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _BARE.fullmatch(part):
            text += f".{part}"
        else:
            text += f"[{orjson.dumps(part).decode()}]"
        if len(text) > _SHOWN:
            return text[:_SHOWN] + "..."
    return text


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
    text = " ".join(text.split())
    if len(text) <= _SHOWN:
        return text
    # The data is quoted first, what is wrong with it comes last.
    half = _SHOWN // 2
    return f"{text[:half]} ... {text[-half:]}"


def _read(path: str, files: Mapping[str, bytes]) -> Any:
    try:
        return orjson.loads(files[path])
    except orjson.JSONDecodeError as error:
        problem = f"{path} is not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        raise Misconfigured("schema", problem, _EXPECTED) from None
