"""What in a JSON Schema makes a check, or an error, take more time than the document has bytes.

One that does not refer to itself is, with its references put in place, of a size of its own, and a
check takes time in proportion to the document. One that does is as deep as the document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

Table: TypeAlias = dict[str, Any]

BRANCHES = ("anyOf", "oneOf")

_MANY = (
    "additionalItems", "additionalProperties", "contains", "items", "patternProperties",
    "propertyNames", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
"""Keywords whose schema is for as many values as the document has."""


def are_recursive(schema: object) -> bool:
    """Whether a part of `schema` refers to a part that it stands in, directly or by others."""
    if uses(schema, ("$dynamicRef", "$recursiveRef")):
        return True
    targets = {text: _resolved(schema, text) for text in _references(schema)}
    names = {id(part): text for text, part in targets.items()}
    leads: dict[str, set[str]] = {}
    for text, part in targets.items():
        leads[text] = set(_references(part))
        leads[text].update(
            names[id(table)] for table in _tables(part) if table is not part and id(table) in names
        )
    return any(_comes_back(leads, text) for text in leads)


def uses(schema: object, keywords: Iterable[str]) -> bool:
    """Whether one of `keywords` stands anywhere in `schema`."""
    wanted = frozenset(keywords)
    return any(not table.keys().isdisjoint(wanted) for table in _tables(schema))


def has_wide_branches(schema: object) -> bool:
    """Whether a branch of some `anyOf` or `oneOf` is about arrays or objects of any size. An error
    there has an error of each element in each branch within it."""
    return any(
        _is_wide(schema, table[keyword])
        for table in _tables(schema)
        for keyword in BRANCHES
        if keyword in table
    )


def _is_wide(schema: object, branches: object) -> bool:
    ahead, seen = [branches], set[int]()
    while ahead:
        part = ahead.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if any(isinstance(table.get(name), dict) for table in _tables(part) for name in _MANY):
            return True
        ahead += [_resolved(schema, text) for text in _references(part)]
    return False


def _references(part: object) -> Iterator[str]:
    for table in _tables(part):
        if isinstance(text := table.get("$ref"), str):
            yield text


def _resolved(schema: object, text: str) -> object:
    """What a pointer leads to. What is found otherwise, by `$id` or `$anchor`, is taken for the
    whole schema, in which everything stands: rather too careful than not enough."""
    if not text.startswith("#/"):
        return schema
    part: Any = schema
    for step in text[2:].split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        below: Any = None
        if isinstance(part, dict):
            below = cast(Table, part).get(name)
        elif isinstance(part, list) and name.isdecimal():
            below = dict(enumerate(cast("list[object]", part))).get(int(name))
        if below is None:
            return schema
        part = below
    return part


def _comes_back(leads: Mapping[str, set[str]], start: str) -> bool:
    ahead, seen = list(leads[start]), set[str]()
    while ahead:
        name = ahead.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            ahead += leads.get(name, ())
    return False


def _tables(part: object) -> Iterator[Table]:
    """`part` and everything in it that is an object."""
    ahead = [part]
    while ahead:
        one = ahead.pop()
        if isinstance(one, dict):
            table = cast(Table, one)
            yield table
            ahead += table.values()
        elif isinstance(one, list):
            ahead += cast("list[object]", one)
