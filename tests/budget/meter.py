"""Counts what a thread executes: Python's bytecodes, and calls of functions in C.

Nothing is timed, so a busy machine changes nothing: the same work gives the same numbers, and on
every machine with this version of Python. What C does inside a call is not seen; what calls it, and
how often, is. (`callgrind` sees the rest.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

PLACE = "@"
"""What the kind of a figure begins with that is a function's."""


class Work(dict[str, float]):
    """What was executed, by kind: `opcodes`, `calls`, `instructions`; and where it is known, the
    opcodes of each function, whose kinds begin with `PLACE`."""

    def __sub__(self, other: Work) -> Work:
        kinds = {**self, **other}
        return Work({kind: self.get(kind, 0) - other.get(kind, 0) for kind in kinds})

    def times(self, factor: float) -> Work:
        return Work({kind: figure * factor for kind, figure in self.items()})


class Meter:
    """See the module's text. It counts from `start` to `stop` what the thread of these executes.

    Other threads may look at `work`.
    """

    def __init__(self) -> None:
        self._opcodes = 0
        self._calls = 0
        self._places: dict[CodeType, int] = {}

    @property
    def work(self) -> Work:
        """So far."""
        work = Work(opcodes=self._opcodes, calls=self._calls)
        for code, count in list(self._places.items()):
            place = f"{PLACE}{Path(code.co_filename).name} {code.co_qualname}"
            work[place] = work.get(place, 0) + count
        return work

    def start(self) -> None:
        sys.settrace(self._enter)
        sys.setprofile(self._profile)

    def stop(self) -> None:
        sys.setprofile(None)
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "opcode":
            self._opcodes += 1
            self._places[frame.f_code] = self._places.get(frame.f_code, 0) + 1
        return self._step

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            self._calls += 1
