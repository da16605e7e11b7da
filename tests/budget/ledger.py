"""The budgets, `budgets.toml`: read, compared with what was counted, written anew on purpose."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("budgets.toml")

TOLERANCE = 0.1
"""What is counted is the same each time, to well below 1 %. A change below a tenth is not worth an
entry; ten of them are, and then somebody has to say so."""

KINDS = ("opcodes", "calls", "bytes", "blocks", "instructions")

Figures = Mapping[str, Mapping[str, float]]
"""By the name of the thing and the kind of figure."""


class Verdict(NamedTuple):
    """What differs. name: of the thing. found, budget: None if there is none."""

    name: str
    kind: str
    found: float | None
    budget: float | None

    def __str__(self) -> str:
        what = f"{self.name}: {self.kind}"
        if self.budget is None:
            return f"{what}: {self.found:g}, and no budget"
        if self.found is None:
            return f"{what}: a budget of {self.budget:g}, and nothing that was counted"
        change = f"{what}: {self.found:g}, {self.found / self.budget - 1:+.0%}"
        if self.found > self.budget:
            return f"{change} over the budget of {self.budget:g}"
        return f"{change}: lower the budget of {self.budget:g}"


class Ledger(NamedTuple):
    """The budgets. python: the version whose bytecodes and objects they are, `3.11`."""

    python: str
    figures: Figures


def read(text: str) -> Ledger:
    """Reads the file's text. Raises `ValueError` for one without its parts."""
    content = tomllib.loads(text)
    python = content.pop("python")
    for name, entry in content.items():
        if not {"date", "why"} <= entry.keys() or entry.keys() - {"date", "why", *KINDS}:
            raise ValueError(f"{name}: a budget has figures, a date and a reason, and no more")
    return Ledger(
        python,
        {
            name: {kind: entry[kind] for kind in KINDS if kind in entry}
            for name, entry in content.items()
        },
    )


def compare(budgets: Figures, counted: Figures) -> list[Verdict]:
    """Everything that is more than `TOLERANCE` beside its budget, or has no counterpart."""
    verdicts: list[Verdict] = []
    for name in {**budgets, **counted}:
        limits, found = budgets.get(name, {}), counted.get(name, {})
        for kind in KINDS:
            budget, figure = limits.get(kind), found.get(kind)
            if budget is None and figure is None:
                continue
            if budget is None or figure is None or abs(figure - budget) > TOLERANCE * budget:
                verdicts.append(Verdict(name, kind, figure, budget))
    return verdicts


def rewrite(text: str, counted: Figures, date: str) -> str:
    """The file's text with the figures of what was counted, where they differ by more than
    `TOLERANCE`. Reasons are left as they are, for people to write; what is new is added."""
    changed = {verdict.name for verdict in compare(read(text).figures, counted)}
    sections = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    known: set[str] = set()
    for place, section in enumerate(sections):
        title = re.match(r'\["(.*)"\]', section)
        if title is None:
            continue
        known.add(title[1])
        if title[1] in changed and title[1] in counted:
            for kind, figure in counted[title[1]].items():
                section = re.sub(
                    rf"^{kind} = .*$", f"{kind} = {figure:g}", section, flags=re.MULTILINE
                )
            sections[place] = re.sub(r"^date = .*$", f"date = {date}", section, flags=re.MULTILINE)
    text = "".join(sections)
    for name, figures in counted.items():
        if name not in known:
            lines = [f"{kind} = {figure:g}" for kind, figure in figures.items()]
            text += "\n".join(["", f'["{name}"]', *lines, f"date = {date}", 'why = ""', ""])
    return text
