"""`python`: a function of the user's.

What it returns is written as JSON at once, so that what goes on is data and nothing that the
function still holds: a list that it returns every time must not be changed by the next step.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, cast

import msgspec

from clarion_server.pipeline.options import Python
from clarion_server.pipeline.step import Document, Misconfigured, Refused

_EXPECTED = 'a function that can be imported, as "module:function"'


class PythonStep:
    """Calls a function with the document, and goes on with what it returns."""

    name = "python"
    safe = False

    def __init__(self, options: Python) -> None:
        self._module, colon, self._function = options.function.partition(":")
        if not options.function:
            raise Misconfigured("function", "is empty", _EXPECTED)
        names = [*self._module.split("."), *self._function.split(".")]
        if not (colon and all(name.isidentifier() for name in names)):
            raise Misconfigured("function", f'is "{options.function}"', _EXPECTED)
        self._folder = options.folder
        self._takes_bytes = options.takes == "bytes"
        self._call: Callable[[Any], object] | None = None

    def load(self) -> None:
        if self._call is None:
            self._call = self._imported()

    def run(self, document: Document) -> None:
        if self._call is None:
            self._call = self._imported()
        given = document.data if self._takes_bytes else document.value
        try:
            result = self._call(given)
        except ValueError as error:
            raise Refused(_text(error)) from None
        if result is None:
            raise TypeError(f"{self._module}:{self._function} returned nothing")
        document.data = result if isinstance(result, bytes) else _written(result)

    def _imported(self) -> Callable[[Any], object]:
        if self._folder and self._folder not in sys.path:
            # At the end: a file of the user's called json.py must not take the place of Python's.
            sys.path.append(self._folder)
        try:
            found: Any = importlib.import_module(self._module)
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            problem = f'"{self._module}" cannot be imported: {what}'
            raise Misconfigured(
                "function", problem, f"a module in {self._folder} or one that is installed"
            ) from None
        for name in self._function.split("."):
            try:
                found = getattr(found, name)
            except AttributeError:
                file = getattr(sys.modules[self._module], "__file__", None) or "Python itself"
                problem = f'"{self._module}" ({file}) has no "{self._function}"'
                raise Misconfigured("function", problem, _EXPECTED) from None
        if not callable(found):
            problem = f'"{self._module}:{self._function}" is {type(found).__name__}, no function'
            raise Misconfigured("function", problem, _EXPECTED)
        if inspect.iscoroutinefunction(found):
            problem = f'"{self._module}:{self._function}" is a coroutine function'
            raise Misconfigured("function", problem, "a plain function: nothing awaits it")
        return cast("Callable[[Any], object]", found)


def _text(error: ValueError) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # an exception class of the user's
        return type(error).__name__


def _written(result: object) -> bytes:
    """As JSON. Raises `Refused` for what has none; TypeError is the function's bug."""
    try:
        data = msgspec.json.encode(result)
    except (ValueError, OverflowError) as error:
        raise Refused(f"what the function returned cannot be written as JSON: {error}") from None
    # NaN and infinity are written as null, which nobody meant. Few documents need the look.
    if b"null" in data and _has_no_json(result):
        raise Refused("what the function returned has a number that JSON has not: NaN or infinity")
    return data


def _has_no_json(value: object) -> bool:
    ahead = [value]
    while ahead:
        one = ahead.pop()
        if isinstance(one, float):
            if not math.isfinite(one):
                return True
        elif isinstance(one, dict):
            ahead += cast("dict[object, object]", one).values()
        elif isinstance(one, (list, tuple)):
            ahead += cast("list[object]", one)
    return False
