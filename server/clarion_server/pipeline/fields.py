"""`redact` and `project`: leaving fields out, by paths.

Both walk the document once, from a list of what is still to be looked at rather than by calls
within calls, and change it in place: time and memory are bounded by the document, however deep.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from clarion_server.pipeline.options import Project, Redact
from clarion_server.pipeline.paths import BadPath, Paths, Place
from clarion_server.pipeline.step import Document, Misconfigured, Refused

Container: TypeAlias = dict[str, Any] | list[Any]


class RedactStep:
    """Leaves fields out, or puts a text in the place of their values."""

    name = "redact"
    safe = True

    def __init__(self, options: Redact) -> None:
        self._paths = _paths(options.fields)
        self._instead = options.instead
        self._refuses = options.missing == "refuse"

    def load(self) -> None:
        """Nothing is left to load."""

    def run(self, document: Document) -> None:
        value = document.value
        found: set[int] = set()
        ahead: list[tuple[Container, Place]] = []
        if isinstance(value, (dict, list)):
            ahead.append((cast(Container, value), self._paths.start))
        while ahead:
            container, place = ahead.pop()
            if isinstance(container, list):
                ahead += _filled(container, place)
                continue
            names = place.names
            # A copy of the names: the loop removes some.
            here = list(container) if names is None else [n for n in names if n in container]
            for name in here:
                following = place.at(name)
                if following is None:
                    continue
                if following.ends:
                    found.update(following.ends)
                    if self._instead:
                        container[name] = self._instead
                    else:
                        del container[name]
                elif isinstance(below := container[name], (dict, list)):
                    ahead.append((cast(Container, below), following))
        if self._refuses:
            _refuse_missing(self._paths, found)
        if found:
            document.value = value


class ProjectStep:
    """Keeps fields and leaves out all others."""

    name = "project"
    safe = True

    def __init__(self, options: Project) -> None:
        self._paths = _paths(options.fields)
        self._refuses = options.missing == "refuse"

    def load(self) -> None:
        """Nothing is left to load."""

    def run(self, document: Document) -> None:
        value = document.value
        if not isinstance(value, (dict, list)):
            raise Refused("data is neither an object nor an array: it has no fields to keep")
        found: set[int] = set()
        ahead: list[tuple[Container, Place]] = [(cast(Container, value), self._paths.start)]
        while ahead:
            container, place = ahead.pop()
            if isinstance(container, list):
                container[:] = [item for item in container if isinstance(item, (dict, list))]
                ahead += _filled(container, place)
                continue
            for name in list(container):
                following = place.at(name)
                if following is None:
                    del container[name]
                elif following.ends:
                    found.update(following.ends)
                elif isinstance(below := container[name], (dict, list)):
                    ahead.append((cast(Container, below), following))
                else:  # a path wants to go on where nothing is
                    del container[name]
        if self._refuses:
            _refuse_missing(self._paths, found)
        document.value = cast(object, value)


def _filled(items: list[Any], place: Place) -> list[tuple[Container, Place]]:
    """Those of `items` that are not empty: of these a megabyte may hold a third of a million."""
    return [(item, place) for item in items if item and isinstance(item, (dict, list))]


def _paths(fields: tuple[str, ...]) -> Paths:
    if not fields:
        raise Misconfigured("fields", "is empty", 'paths, such as ["card.number", "*.email"]')
    try:
        return Paths(fields)
    except BadPath as error:
        raise Misconfigured(
            "fields", str(error), "paths, such as card.number or **.email"
        ) from None


def _refuse_missing(paths: Paths, found: set[int]) -> None:
    missing = [text for number, text in enumerate(paths.texts) if number not in found]
    if missing:
        raise Refused(f"data has no {', no '.join(missing)}")
