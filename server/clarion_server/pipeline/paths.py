"""Paths to fields, `order.items.*.price`, and which of them a place in a document is on.

A path is names between dots; a name with other characters than letters, digits, `_` and `-` stands
in double quotes. `*` is any name, `**` any number of names. Arrays have no names: a path goes
through them by itself, so that nobody hides a field from its path by putting it into an array.

All paths of a step are followed together: `Paths.start` is where the document as a whole is, and
`Place.at(name)` where a field of it is. A document is walked once, whatever the number of paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Literal

_NAME = re.compile(r'(\*\*?)|([A-Za-z0-9_\-]+)|("(?:[^"\\]|\\.)*")')


PLACES = 1000
"""That are remembered. A handful for most paths; twenty with `**` in them might have a million."""


class BadPath(ValueError):
    """A text is no path. It says why."""


class _Node:
    """What may follow on some beginning of paths.

    loops: it is behind `**`, and so still there after any name.
    ends: the numbers of the paths that are complete here.
    """

    __slots__ = ("any", "deep", "ends", "loops", "names")

    def __init__(self, loops: bool = False) -> None:
        self.names: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.deep: _Node | None = None
        self.loops = loops
        self.ends: list[int] = []


class Place:
    """The beginnings of paths that end at one place of a document."""

    __slots__ = ("_after", "_known", "_named", "_nodes", "_otherwise", "ends", "names")

    def __init__(self, nodes: Iterable[_Node], known: dict[frozenset[_Node], Place]) -> None:
        self._nodes = _all_of(nodes)
        self._known = known
        self._after: dict[str, Place | None] = {}
        # All names that no path has lead to the same place; False: it was never asked for.
        self._otherwise: Place | Literal[False] | None = False
        self.ends = [number for node in self._nodes for number in node.ends]
        """The paths that lead here."""
        self._named = frozenset(name for node in self._nodes for name in node.names)
        wild = any(node.any or node.loops for node in self._nodes)
        self.names = None if wild else tuple(sorted(self._named))
        """The names with which paths go on; None: any may."""

    def at(self, name: str) -> Place | None:
        """Where the field `name` is; None: no path goes there."""
        if name in self._named:
            if name not in self._after:
                self._after[name] = self._made(name)
            return self._after[name]
        if self._otherwise is False:
            self._otherwise = self._made(name)
        return self._otherwise

    def _made(self, name: str) -> Place | None:
        following: list[_Node] = []
        for node in self._nodes:
            if (named := node.names.get(name)) is not None:
                following.append(named)
            if node.any is not None:
                following.append(node.any)
            if node.loops:
                following.append(node)
        if not following:
            return None
        key = frozenset(following)
        place = self._known.get(key)
        if place is None:
            place = Place(following, self._known)
            if len(self._known) < PLACES:
                self._known[key] = place
        return place


def _all_of(nodes: Iterable[_Node]) -> list[_Node]:
    """With what `**` leads to: it may stand for no name at all."""
    found: list[_Node] = []
    for first in nodes:
        node: _Node | None = first
        while node is not None and node not in found:
            found.append(node)
            node = node.deep
    return found


class Paths:
    """See the module's text. `texts` is how they were written. Raises `BadPath`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        root = _Node()
        for number, text in enumerate(texts):
            node = root
            for part in split(text):
                if node.ends:
                    raise BadPath(f'"{text}" lies within "{texts[node.ends[0]]}"')
                node = _next(node, part)
            if node.names or node.any or node.deep or node.ends:
                raise BadPath(f'another path is "{text}" or lies within it')
            node.ends.append(number)
        self.start = Place([root], {})


def _next(node: _Node, part: str) -> _Node:
    if part == "*":
        node.any = node.any or _Node()
        return node.any
    if part == "**":
        node.deep = node.deep or _Node(loops=True)
        return node.deep
    name: str = json.loads(part) if part.startswith('"') else part
    return node.names.setdefault(name, _Node())


def split(text: str) -> list[str]:
    """The parts of a path, as they are written. Raises `BadPath`."""
    parts: list[str] = []
    place = 0
    while True:
        found = _NAME.match(text, place)
        if found is None:
            raise BadPath(f'"{text}" has no name at character {place + 1}')
        part = found[0]
        if part.startswith('"'):
            try:
                json.loads(part)
            except ValueError:
                raise BadPath(f'"{text}": {part} is no name in quotes') from None
        if part == "**" and parts[-1:] == ["**"]:
            raise BadPath(f'"{text}" has ** twice in a row')
        parts.append(part)
        place = found.end()
        if place == len(text):
            break
        if text[place] != ".":
            raise BadPath(
                f'"{text}" has {text[place]!r} at character {place + 1}: such names stand in quotes'
            )
        place += 1
    if parts[-1] == "**":
        raise BadPath(f'"{text}" ends with **, and so is everything')
    return parts
