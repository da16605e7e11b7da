"""The table of targets: it names what there is, and says met or missed of what was measured."""

from __future__ import annotations

from argparse import ArgumentParser
from importlib import import_module
from typing import Any

import pytest
from loadtest.__main__ import SCENARIOS
from loadtest.page import goals
from loadtest.page.goals import Goal
from loadtest.page.page import page
from loadtest.play.plan import names

PROBES, GOALS = goals.load()


def result(**more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "began": "2026-11-21 18:00", "machine": {}, "scenarios": [], "faults": [], "notes": [],
    }  # fmt: skip
    return empty | more


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_takes_the_options_that_it_is_given(name: str) -> None:
    assert name in SCENARIOS
    parser = ArgumentParser()
    import_module(f"loadtest.{name}").options(parser)
    assert parser.parse_args(PROBES[name].options)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.what)
def test_every_target_has_one_bound_and_one_place_where_it_is_measured(goal: Goal) -> None:
    assert (goal.least is None) != (goal.most is None)
    if goal.probe:
        assert goal.probe in PROBES
        assert goal.row
        assert goal.column
    else:
        assert goal.scenario in names()
        assert goal.path


def test_a_figure_of_a_probe_is_looked_up_by_row_and_column() -> None:
    goal = Goal(what="w", unit="u", least=10, probe="p", row="ours", column="rate")
    rows = [{"": "theirs", "rate": 1.0}, {"": "ours", "rate": 10.0}]
    assert goal.measured(result(probes={"p": {"rows": rows}})) == 10.0
    assert goal.measured(result(probes={"p": {"rows": rows[:1]}})) is None
    assert goal.measured(result()) is None
    assert [goal.met(value) for value in (9.9, 10, 11)] == [False, True, True]


def test_a_figure_of_a_scenario_is_the_median_of_our_plays() -> None:
    goal = Goal(what="w", unit="u", most=3, scenario="s", path=("stops", "gc_ms"))
    takes = [{"target": "Clarion", "stops": {"gc_ms": value}} for value in (1, 9, 4)]
    takes.append({"target": "nats", "stops": {"gc_ms": 1000}})
    played = [{"plan": {"name": "s"}, "takes": takes}]
    assert goal.measured(result(scenarios=played)) == 4.0
    assert [goal.met(value) for value in (3, 3.1)] == [True, False]
    assert goal.measured(result(scenarios=[{"plan": {"name": "t"}, "takes": takes}])) is None


def test_a_table_that_has_no_such_row_is_told() -> None:
    rows = [{"": "renamed", "bytes each": 975.0}]
    assert goals.unfound(result(probes={"memory": {"rows": rows}})) == [
        "memory: 15,000 idle, one topic has no 'bytes each'"
    ]
    assert (
        goals.unfound(
            result(probes={"memory": {"rows": [{**rows[0], "": "15,000 idle, one topic"}]}})
        )
        == []
    )
    assert goals.unfound(result()) == []


def test_what_is_no_figure_is_not_measured() -> None:
    goal = Goal(what="w", unit="u", least=1, probe="p", row="ours", column="p99")
    nan = {"p": {"rows": [{"": "ours", "p99": float("nan")}]}}
    assert goal.measured(result(probes=nan)) is None


def test_the_page_has_the_targets_of_which_something_was_measured() -> None:
    memory = next(goal for goal in GOALS if goal.probe == "memory")
    rows = [{"": memory.row, memory.column: 975.0}]
    text = page(result(probes={"memory": {"rows": rows}}))
    assert f"1 met, 0 missed, {len(GOALS) - 1} not in this result" in text
    assert [goal.what for goal in GOALS if goal.what in text] == [memory.what]
    assert "<td class=met>met</td>" in text
    rows = [{"": memory.row, memory.column: 9750.0}]
    assert "0 met, 1 missed" in page(result(probes={"memory": {"rows": rows}}))


def test_a_page_on_which_no_target_was_measured_has_no_table() -> None:
    assert "Targets" not in page(result())
