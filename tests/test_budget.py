"""What one delivery, connection or publication costs stays within its budget.

Executed bytecodes, calls into C and allocated bytes are counted, never timed: see `budget`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from budget import ledger
from budget.ledger import Ledger, Verdict
from budget.meter import Meter, Work

HERE = Path(__file__).parent

RUN = "PYTHONHASHSEED=0 PYTHONPATH=tests .venv/bin/python -m budget"

HELP = (
    f"\nIn which functions that is:  {RUN} --where THING"
    f"\nIf it is meant to be so, take it over:  {RUN} --write"
    "\nthen say why in tests/budget/budgets.toml, and commit it together with what has changed it."
)

BUDGETS = """
python = "3.11"

["one"]
opcodes = 100
calls = 10
date = 2026-11-21
why = "It is one."

["two"]
bytes = 500
date = 2026-11-21
why = "It is another."
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there are other transports")
def test_everything_stays_within_its_budget() -> None:
    budgets = ledger.read(ledger.FILE.read_text())
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != budgets.python:
        pytest.skip(f"the budgets are those of Python {budgets.python}: its bytecodes, its objects")
    # A process of its own: no test before it has filled a cache, and nobody else traces.
    done = subprocess.run(
        [sys.executable, "-m", "budget", "--json"],
        cwd=HERE.parent,
        env=os.environ
        | {
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
        },
        capture_output=True,
        text=True,
        timeout=300,  # it takes 3 s, and ten times that on a machine that is very busy
        check=False,
    )
    assert done.returncode == 0, done.stderr
    verdicts = ledger.compare(budgets.figures, json.loads(done.stdout))
    assert not verdicts, "\n".join([*map(str, verdicts), HELP])


# The ledger


def test_what_differs_by_more_than_a_tenth_is_told() -> None:
    budgets = ledger.read(BUDGETS).figures
    assert (
        ledger.compare(budgets, {"one": {"opcodes": 110, "calls": 9}, "two": {"bytes": 450}}) == []
    )
    told = ledger.compare(budgets, {"one": {"opcodes": 111, "calls": 8}, "three": {"bytes": 1}})
    assert [str(verdict) for verdict in told] == [
        "one: opcodes: 111, +11% over the budget of 100",
        "one: calls: 8, -20%: lower the budget of 10",
        "two: bytes: a budget of 500, and nothing that was counted",
        "three: bytes: 1, and no budget",
    ]


def test_writing_changes_figures_and_leaves_reasons() -> None:
    counted: dict[str, dict[str, float]] = {
        "one": {"opcodes": 50.5, "calls": 10},
        "two": {"bytes": 505},
        "new": {"bytes": 7},
    }
    text = ledger.rewrite(BUDGETS, counted, "2027-01-02")
    assert ledger.compare(ledger.read(text).figures, counted) == []
    assert text.startswith(
        BUDGETS[: BUDGETS.index('["two"]')]
        .replace("opcodes = 100", "opcodes = 50.5")
        .replace("2026-11-21", "2027-01-02")
    )
    # Small changes are no reason to touch an entry.
    assert "bytes = 500\ndate = 2026-11-21" in text
    assert text.endswith('["new"]\nbytes = 7\ndate = 2027-01-02\nwhy = ""\n')


@pytest.mark.parametrize(
    "text",
    [
        BUDGETS.replace('why = "It is one."', ""),
        BUDGETS.replace("date = 2026-11-21", ""),
        BUDGETS.replace("calls", "seconds"),
    ],
)
def test_a_budget_has_a_date_and_a_reason_and_known_figures(text: str) -> None:
    with pytest.raises(ValueError, match="one: a budget has"):
        ledger.read(text)


def test_every_budget_says_why() -> None:
    text = ledger.FILE.read_text()
    assert 'why = ""' not in text
    assert isinstance(ledger.read(text), Ledger)


def test_a_verdict_names_what_has_no_budget() -> None:
    assert "no budget" in str(Verdict("a", "bytes", 1, None))


# The meter


def _work(times: int) -> int:
    total = 0
    for number in range(times):
        total += abs(number)
    return total


def _counted(times: int) -> Work:
    meter = Meter()
    meter.start()
    _work(times)
    meter.stop()
    return meter.work


@pytest.mark.skipif(sys.gettrace() is not None, reason="somebody else traces")
def test_the_same_work_counts_the_same_and_more_counts_more() -> None:
    few, again, many = _counted(100), _counted(100), _counted(200)
    assert few == again
    assert (many - few)["calls"] == 100
    assert 5 < (many - few).times(1 / 100)["opcodes"] < 50
    # All that the second hundred takes is taken in the function.
    assert (many - few)["opcodes"] == (many - few)["@test_budget.py _work"]
