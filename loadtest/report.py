"""What a measurement leaves: a small table for people, a JSON file for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest import machine

Row = Mapping[str, object]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0-1) of `values` do not exceed; nan for no values."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(rows: Sequence[Row]) -> str:
    """Columns are the keys of the first row, in its order."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Result:
    """What a scenario returns. `faults` make the run fail; `notes` qualify the numbers."""

    def __init__(self, scenario: str, options: Mapping[str, object]) -> None:
        self.scenario = scenario
        self.options = dict(options)
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.faults: list[str] = []

    def show(self) -> None:
        print(f"\n{self.scenario}")
        if self.rows:
            print(table(self.rows))
        for note in self.notes:
            print(f"- {note}")
        for fault in self.faults:
            print(f"FAULT: {fault}")

    def write(self, path: Path) -> None:
        content = {**vars(self), "machine": machine.describe()}
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")


def progress(text: str) -> None:
    """One line that replaces itself on a terminal, and is a line of its own elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
