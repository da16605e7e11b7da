"""Findings for people, and for programs."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from clarion_server.cli.terminal import BOLD, DIM, GREEN, RED, YELLOW, Paint, printable
from clarion_server.doctor import Part
from clarion_server.doctor.finding import Finding, State

STYLES: dict[State, tuple[str, int]] = {
    "ok": ("ok", GREEN),
    "warn": ("warn", YELLOW),
    "bad": ("BAD", RED),
    "unknown": ("?", DIM),
}
"""How a state is written, and painted."""

WORDS: tuple[tuple[State, str], ...] = (
    ("ok", "in order"),
    ("warn", "to look at"),
    ("bad", "bad"),
    ("unknown", "unknown"),
)

WIDTH = 100
"""Columns; longer commands are not broken, so that they can be copied."""


def table(parts: Sequence[Part], paint: Paint) -> Iterator[str]:
    """A line for each check; behind it why, and what to do, where there is something to do."""
    names = max(len(finding.name) for part in parts for finding in part.findings)
    for part in parts:
        yield paint(printable(part.title), BOLD)
        for finding in part.findings:
            yield from _lines(finding, names, paint)
        yield ""
    counts = count(parts)
    yield ", ".join(
        paint(f"{counts[state]} {word}", STYLES[state][1]) for state, word in WORDS if counts[state]
    )


def _lines(finding: Finding, names: int, paint: Paint) -> Iterator[str]:
    word, style = STYLES[finding.state]
    head = f"{paint(f'{word:<4}', style)}  {finding.name:<{names}}  {printable(finding.found)}"
    if finding.state in ("warn", "bad"):
        yield f"  {head}"
        yield f"        {paint('wanted', DIM)}  {printable(finding.wanted)}"
        yield from _below("why     ", finding.why, paint)
        yield f"        {paint('change', DIM)}  {paint(printable(finding.change), BOLD)}"
    else:
        yield f"  {head}"
        if finding.why:
            yield from _below("why     ", finding.why, paint)


def _below(label: str, text: str, paint: Paint) -> Iterator[str]:
    lines = textwrap.wrap(printable(text), WIDTH - 8 - len(label))
    for place, line in enumerate(lines):
        yield f"        {paint(label, DIM) if not place else ' ' * len(label)}{line}"


def count(parts: Sequence[Part]) -> Counter[State]:
    """How many findings there are of each state."""
    return Counter(finding.state for part in parts for finding in part.findings)


def as_json(parts: Sequence[Part]) -> str:
    """One object: `ok`, how many of each state, and the parts with their findings."""
    counts = count(parts)
    content = {
        "ok": not counts["bad"],
        "counts": {state: counts[state] for state, _ in WORDS},
        "parts": [
            {"title": part.title, "findings": [finding._asdict() for finding in part.findings]}
            for part in parts
        ],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
