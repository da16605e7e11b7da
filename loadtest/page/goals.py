"""What is to be reached (targets.toml) beside what a result has measured of it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from loadtest.page.figures import spread

FILE = Path(__file__).parent.parent / "targets.toml"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """options: of its command. seconds: how long it takes, about."""

    options: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Goal:
    """One target.

    least, most: its bound; one of them is there.
    probe, row, column: the cell of a probe's table in which it is measured, or
    scenario, path: the figure of a scenario, the median of its plays.
    """

    what: str
    unit: str
    least: float | None = None
    most: float | None = None
    probe: str = ""
    row: str = ""
    column: str = ""
    scenario: str = ""
    path: tuple[str, ...] = ()

    def measured(self, document: Mapping[str, Any]) -> float | None:
        """The figure in a result; None when it is not there."""
        value = self._of_probe(document) if self.probe else self._of_scenario(document)
        return None if value is None or value != value else float(value)

    def _of_probe(self, document: Mapping[str, Any]) -> float | None:
        rows = document.get("probes", {}).get(self.probe, {}).get("rows", [])
        found = [row.get(self.column) for row in rows if row[""] == self.row]
        return float(found[0]) if found and found[0] is not None else None

    def _of_scenario(self, document: Mapping[str, Any]) -> float | None:
        takes = [
            take
            for scenario in document["scenarios"]
            if scenario["plan"]["name"] == self.scenario
            for take in scenario["takes"]
            if take["target"] == "Clarion"
        ]
        return spread(takes, *self.path)[0]

    def met(self, value: float) -> bool:
        """Whether a figure keeps within the bound."""
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )

    @property
    def bound(self) -> str:
        """In words."""
        words = [(self.least, "at least"), (self.most, "at most")]
        return " ".join(f"{word} {shown(value)}" for value, word in words if value is not None)

    @property
    def where(self) -> str:
        """What has measured it, in words."""
        return f"{self.probe}: {self.row}" if self.probe else f"run {self.scenario}"


def load() -> tuple[dict[str, Probe], list[Goal]]:
    """The probes that the targets need, and the targets."""
    table = tomllib.loads(FILE.read_text())
    probes = {
        name: Probe(options=tuple(each["options"]), seconds=each["seconds"])
        for name, each in table["probes"].items()
    }
    goals = [Goal(**{**each, "path": tuple(each.get("path", ()))}) for each in table["targets"]]
    return probes, goals


def scenarios(goals: Sequence[Goal]) -> list[str]:
    """Those that the targets need."""
    return list(dict.fromkeys(goal.scenario for goal in goals if goal.scenario))


def unfound(document: Mapping[str, Any]) -> list[str]:
    """Figures that the table of a probe should have: a row or a column has another name."""
    return [
        f"{goal.where} has no {goal.column!r}"
        for goal in load()[1]
        if goal.probe in document.get("probes", {}) and goal.measured(document) is None
    ]


def rows(document: Mapping[str, Any]) -> list[dict[str, object]]:
    """A line for each target: what was to be reached, what was measured, where."""
    found: list[dict[str, object]] = []
    for goal in load()[1]:
        value = goal.measured(document)
        verdict = "" if value is None else "met" if goal.met(value) else "missed"
        found.append(
            {
                "": goal.what,
                "target": f"{goal.bound} {goal.unit}",
                "measured": "" if value is None else shown(value),
                "so": verdict,
                "by": goal.where,
            }
        )
    return found


def section(document: Mapping[str, Any]) -> Iterator[str]:
    """The table of the page; nothing when nothing of it was measured."""
    lines = rows(document)
    if not any(line["so"] for line in lines):
        return
    met = sum(line["so"] == "met" for line in lines)
    missed = sum(line["so"] == "missed" for line in lines)
    yield "<h2 id=targets>Targets</h2>"
    yield (
        f"<p>{met} met, {missed} missed, {len(lines) - met - missed} not in this result."
        " One core for the server, but in <b>many</b> and <b>users</b>, where it has all cores"
        " together with the generator.</p>"
    )
    yield "<div class=wide><table><tr><th></th>"
    yield "<th>target</th><th>measured</th><th></th><th class=text>by</th></tr>"
    for line in lines:
        if not line["so"]:
            continue
        cells = "".join(
            f"<td class={style}>{escape(str(line[key]))}</td>"
            for key, style in (
                ("target", "num"),
                ("measured", "num"),
                ("so", line["so"] or "num"),
                ("by", "text"),
            )
        )
        yield f"<tr><th>{escape(str(line['']))}</th>{cells}</tr>"
    yield "</table></div>"


def shown(value: float) -> str:
    """A number as it stands in the table."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
