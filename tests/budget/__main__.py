"""What one delivery, connection or publication costs, counted, beside its budget.

$ PYTHONHASHSEED=0 PYTHONPATH=tests python -m budget            compares
$ PYTHONHASHSEED=0 PYTHONPATH=tests python -m budget --write    takes over what has changed
$ ... --where delivery                     in which functions its bytecodes are executed
$ ... --instructions --json >before        what C executes too, by valgrind; no budgets
$ ... --instructions --against before      the same, beside what was counted on another commit
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from budget import callgrind, ledger
from budget.meter import PLACE
from budget.run import count


def main() -> int:
    parser = argparse.ArgumentParser(prog="budget", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="what was counted, and nothing else")
    parser.add_argument("--write", action="store_true", help="write it into budgets.toml")
    parser.add_argument("--instructions", action="store_true", help="count these, under valgrind")
    parser.add_argument("--against", type=Path, metavar="FILE", help="instead of the budgets")
    parser.add_argument("--where", metavar="THING", help="show in which functions, of this one")
    options = parser.parse_args()
    if options.instructions and callgrind.FOLDER not in os.environ:
        return callgrind.run(sys.argv[1:])
    counted = count(_callgrind() if options.instructions else None)
    if options.where:
        print(*_places(counted[options.where]), sep="\n")
        return 0
    counted = {
        name: {kind: figure for kind, figure in figures.items() if kind in ledger.KINDS}
        for name, figures in counted.items()
    }
    if options.json:
        print(json.dumps(counted))
        return 0
    text = ledger.FILE.read_text()
    if options.write:
        ledger.FILE.write_text(ledger.rewrite(text, counted, time.strftime("%Y-%m-%d")))
        print(f"written; say why, in {ledger.FILE.name}")
        return 0
    budgets = ledger.read(text).figures
    if options.against or options.instructions:
        budgets = json.loads(options.against.read_text()) if options.against else counted
    for name, figures in counted.items():
        cells = [
            f"{figure:10g} {kind}, {budgets.get(name, {}).get(kind, 0):g} budgeted"
            for kind, figure in figures.items()
        ]
        print(f"{name:38}", *cells)
    verdicts = ledger.compare(budgets, counted)
    print(*verdicts, sep="\n", end="\n" if verdicts else "")
    return 1 if verdicts else 0


def _places(figures: Mapping[str, float]) -> Iterator[str]:
    """The functions in which one thing's bytecodes are executed, most of them first."""
    places = [(figure, kind) for kind, figure in figures.items() if kind.startswith(PLACE)]
    for figure, kind in sorted(places, reverse=True):
        if figure:
            yield f"{figure:8g}  {kind.removeprefix(PLACE)}"


def _callgrind() -> callgrind.Callgrind:
    counter = callgrind.Callgrind()
    counter.begin()
    return counter


if __name__ == "__main__":
    sys.exit(main())
