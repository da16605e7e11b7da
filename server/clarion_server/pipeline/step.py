"""What a step is, and the document that goes from one step to the next.

A `Document` is the `data` of one publication, as JSON bytes or as the object they mean, whichever
the steps ask for: three steps that work on the object parse once and serialise once. A step
changes the document or raises `Refused`. Steps know nothing of topics, processes or the loop; they
are made from their options once in each process, and what they do depends on the document alone.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from clarion_fanout import payload
from clarion_fanout.publication import PayloadError

_NONE = object()


class Misconfigured(ValueError):
    """A step cannot be made from its options. The text says what is wrong with one of them.

    option: its name, or "" when it is the step as a whole.
    place: of the step among those of its namespace; set by the chain.
    """

    def __init__(self, option: str, problem: str, expected: str = "") -> None:
        super().__init__(option, problem, expected)
        self.option = option
        self.problem = problem
        self.expected = expected
        self.place = 0

    def __str__(self) -> str:
        return f"{self.option}: {self.problem}" if self.option else self.problem


class Refused(ValueError):
    """A step does not let a document pass. The text says why and where, for its publisher.

    step: the step's name; set by the chain.
    """

    step: str = ""


class Failed(Refused):
    """A step could not do its work, which is not the document's fault or not known to be. The text
    has nothing that only the server's operator should know; the chain has logged the rest."""


class Document:
    """The data of a publication on its way through the steps.

    limit: the most bytes of JSON that it may have when it is serialised.
    """

    __slots__ = ("_data", "_value", "limit")

    def __init__(self, data: bytes, limit: int) -> None:
        self._data: bytes | None = data
        self._value: object = _NONE
        self.limit = limit

    @property
    def data(self) -> bytes:
        """As compact JSON, valid UTF-8. Raises `Refused` if it cannot be JSON or is too large."""
        data = self._data
        if data is None:
            try:
                data = msgspec.json.encode(self._value)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise Refused(f"what is left cannot be written as JSON: {error}") from None
            try:
                data = payload.check(data, self.limit)
            except PayloadError as error:
                raise Refused(str(error)) from None
            self._data = data
        return data

    @data.setter
    def data(self, data: bytes) -> None:
        """Raises `Refused` if it is not JSON or too large."""
        try:
            self._data = payload.check(data, self.limit)
        except PayloadError as error:
            raise Refused(str(error)) from None
        self._value = _NONE

    @property
    def value(self) -> object:
        """What the JSON means: dict, list, str, int, float, bool or None. A step that changes it in
        place assigns it afterwards. Raises `Refused` for numbers that Python does not take."""
        value = self._value
        if value is _NONE:
            assert self._data is not None
            try:
                value = self._value = msgspec.json.decode(self._data)
            except msgspec.DecodeError as error:  # what is valid JSON: a number of 5,000 digits
                raise Refused(f"data cannot be read: {error}") from None
        return value

    @value.setter
    def value(self, value: object) -> None:
        self._value = value
        self._data = None


class Step(Protocol):
    """One step of a namespace's pipeline."""

    @property
    def name(self) -> str:
        """As it is configured: `json_schema`."""
        ...

    @property
    def safe(self) -> bool:
        """Whether its time is bounded by the document's size, so that a small document may be done
        on the event loop. What runs code of the user's is not."""
        ...

    def load(self) -> None:
        """Imports what `run` needs and the event loop's process should not have. Raises
        `Misconfigured`."""
        ...

    def run(self, document: Document) -> None:
        """Changes `document`, or raises `Refused`. Any other exception is a bug of the step's; the
        publication fails with it."""
        ...
