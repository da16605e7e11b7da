"""The page of a result: whole, self-contained, and safe whatever a result says."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from loadtest.page.figures import growth, spread, typical
from loadtest.page.page import page
from loadtest.page.plot import Scale, Series, bars, lines, number, tail
from loadtest.play.histogram import Histogram
from loadtest.play.stage import summary


def take(target: str, p99: float, repetition: int = 1) -> dict[str, Any]:
    histogram = Histogram()
    for value in range(1, 1000):
        histogram.record(int(value * p99 * 1e3))
    latency = summary(histogram)
    row = {
        "phase": "steady", "published": 10, "pending": 0, "deliveries": 100.0, "bytes": 1,
        "live": 5, "ends": 0, "generator": 0.1, "memory": 2**26, "lag_ms": 1.0, "gc_ms": 0.5,
        **latency,
    }  # fmt: skip
    phase = {
        "name": "steady", "measured": True, "event": "", "began": 0.0, "seconds": 3.0, "rate": 10,
        "published": 30, "expected": 300, "deliveries": 300, "carried": True, "cpu_us": 9.0,
        "server_busy": 0.2, "generator_busy": 0.1, "latency": latency, "waited": latency,
        "late": latency, "back": {"count": 0}, "histogram": histogram.pairs(),
    }  # fmt: skip
    return {
        "target": target, "repetition": repetition, "version": "1 <b>", "setting": "x & y",
        "arrival": {
            "clients": 5, "seconds": 2.0, "cpu_us": 70.0, "memory_each": None, "latency": latency,
        },
        "stops": {"gc_ms": 3.5},
        "phases": [phase], "grain": 1,
        "timeline": [{"second": at, "cpu_s": at * 0.1, **row} for at in range(4)],
        "deliveries": 300, "per_second": 100.0, "best": 100.0, "cpu_us": 9.0, "latency": latency,
        "steady_us": 9.0, "steady_latency": latency, "histogram": histogram.pairs(),
        "generator_busy": 0.1, "counts": {"lost": 0, "ends": {}}, "limits": [], "faults": [],
    }  # fmt: skip


def document(*takes: dict[str, Any], faults: list[str] | None = None) -> dict[str, Any]:
    plan = {"name": "baseline", "title": "A <day>", "about": "text", "clients": 5}
    return {
        "began": "2026-11-21 18:00", "machine": {"cpu": "2 x <x>"}, "server_cores": 1,
        "generator_cores": 1, "scenarios": [{"plan": plan, "takes": list(takes)}],
        "faults": faults or [], "notes": ["a note"],
    }  # fmt: skip


class Balanced(HTMLParser):
    """Complains about tags that are not closed, and notes what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "path", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "rect", "line"):
            assert self.open.pop() == tag


def test_a_page_is_well_formed_and_needs_nothing_else() -> None:
    parser = Balanced()
    text = page(document(take("Clarion", 5), take("other", 9)))
    parser.feed(text)
    assert parser.open == []
    assert parser.fetched == ["#baseline", "#baseline"]
    assert "A &lt;day&gt;" in text
    assert "<b>" not in text


def test_a_page_says_first_whether_anything_was_lost() -> None:
    assert "300 deliveries were looked at; none was lost" in page(document(take("Clarion", 5)))
    bad = page(document(take("Clarion", 5), faults=["3 were <lost>"]))
    assert "3 were &lt;lost&gt;" in bad
    assert "none was lost" not in bad


def test_a_page_tells_how_all_got_into_place_and_how_long_loops_stood_still() -> None:
    one = take("Clarion", 5)
    one["arrival"] |= {"memory_each": 1291.4, "kernel_each": 9956.7}
    text = page(document(one))
    assert "5 clients were in place after 2 s" in text
    assert "1,291 bytes of the server&#x27;s processes (PSS); and 9,957 of the kernel" in text
    assert "garbage was collected for 3.5 ms at most" in text
    assert "the event loop was late" not in text  # it was not measured


def test_only_the_most_frequent_ends_of_connections_are_told() -> None:
    one = take("Clarion", 5)
    one["counts"]["ends"] = {f"reason {number}": number for number in range(1, 30)}
    text = page(document(one))
    assert "29 connections ended: reason 29" in text
    assert "reason 19;" not in text


def test_a_scenario_that_failed_leaves_its_faults() -> None:
    assert "it did not start" in page(document(faults=["it did not start"]))


def test_the_repetition_that_is_shown_is_the_middle_one() -> None:
    takes = [take("Clarion", p99, place) for place, p99 in enumerate((9, 1, 5))]
    assert typical(takes)["repetition"] == 2
    assert spread(takes, "cpu_us") == (9.0, 9.0, 9.0)


def test_growth_is_the_slope_of_the_second_half_of_a_long_run() -> None:
    one = take("Clarion", 5)
    assert growth(one) != growth(one)  # four seconds say nothing
    rows = [{"second": at, "memory": 10**8 + max(0, at - 900)} for at in range(1800)]
    one["timeline"] = rows
    assert growth(one) == pytest.approx(3600)


@pytest.mark.parametrize("value", [0.0, 1.0, 999.0])
def test_a_scale_has_ticks_within_its_ends(value: float) -> None:
    for log in (False, True):
        scale = Scale(value, value * 3 + 1, 0, 100, log=log)
        ticks = scale.ticks(5)
        assert len(ticks) > 1
        assert all(-0.001 <= scale(tick) <= 100.001 for tick in ticks)


def test_what_was_not_measured_has_no_plot() -> None:
    nothing = Series("nothing", [(1.0, None)])
    assert lines([nothing], title="t", unit="u") == ""
    assert tail([nothing], title="t", unit="u") == ""
    assert bars([("a", float("nan"), 0.0, 0.0)], title="t", unit="u", better="b") == ""


def test_a_line_has_a_gap_where_a_value_is_missing() -> None:
    plot = lines([Series("s", [(0, 1.0), (1, None), (2, 3.0)])], title="t", unit="u")
    assert plot.split(' d="')[1].split('"')[0].count("M") == 2


def test_numbers_are_short() -> None:
    assert [number(each) for each in (0, 0.05, 12.3, 45_678, 2.5e6)] == [
        "0", "0.05", "12.3", "45.7k", "2.5M",
    ]  # fmt: skip
