"""What the server uses, and how long its loop stood still: asked now and then."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from loadtest import machine
from loadtest.play.stops import longest, worst
from loadtest.play.target import Target

LOOK_S = 1.0
STOPS = (("event_loop_lag", "lag_ms"), ("gc_pause", "gc_ms"))
"""A part of the metric's name, and what it is called in a result."""
LONGEST_STOP_S = 10.0
"""Shown for stops beyond the last bucket."""


class Watch:
    """Looks at a target's processes and at its metrics."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._spent: dict[int, float] = {}
        """CPU time by process: one that was killed has spent it all the same."""
        self._stops: Mapping[str, float] = {}
        self.worst: dict[str, float] = {}
        """The longest stop of each kind since this began, ms."""
        self._looked = 0.0

    def cpu(self) -> float:
        """CPU time of all processes that there were, seconds."""
        for pid in self._target.pids:
            for member in machine.family(pid):
                with suppress(OSError):
                    self._spent[member] = machine.process_cpu_seconds(member)
        return sum(self._spent.values())

    def memory(self) -> int:
        """PSS of all processes that there are, bytes."""
        return sum(machine.pss_bytes(pid) for pid in self._target.pids)

    def due(self) -> bool:
        return time.monotonic() - self._looked > LOOK_S

    def look(self, row: dict[str, Any]) -> None:
        """Notes in a row of the timeline what is to be seen now."""
        self._looked = time.monotonic()
        with suppress(OSError):  # a worker that ends meanwhile
            row["memory"] = self.memory()
        row["cpu_s"] = self.cpu()
        stops = self._target.stops()
        if stops:
            for name, key in STOPS:
                row[key] = min(LONGEST_STOP_S, longest(self._stops, stops, name)) * 1000
                self.worst[key] = max(self.worst.get(key, 0.0), worst(stops, name) * 1000)
        self._stops = stops
