"""Which plots a scenario gets, and what stands in its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import linear_regression, median
from typing import Any

from loadtest.page.plot import Band, Series, bars, lines, tail
from loadtest.play.histogram import Histogram

Take = dict[str, Any]
MIB = 2**20


def value(take: Take, *path: str) -> float:
    """A figure of a take; nan where there is none."""
    found: Any = take
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return float("nan") if found is None else float(found)


def spread(takes: Sequence[Take], *path: str) -> tuple[float, float, float]:
    """Median, least and most over the repetitions."""
    values = [one for one in (value(take, *path) for take in takes) if one == one]
    if not values:
        return float("nan"), float("nan"), float("nan")
    return median(values), min(values), max(values)


def by_target(takes: Sequence[Take]) -> dict[str, list[Take]]:
    """The takes of each server, ours first."""
    groups: dict[str, list[Take]] = {}
    for take in takes:
        groups.setdefault(take["target"], []).append(take)
    return groups


def typical(takes: Sequence[Take]) -> Take:
    """The repetition whose p99 is the median: the one that is plotted."""
    ordered = sorted(takes, key=lambda take: value(take, "latency", "p99"))
    return ordered[(len(ordered) - 1) // 2]


def over_time(take: Take) -> Iterator[str]:
    """The plots of one take."""
    rows, grain = take["timeline"], take["grain"]
    bands = [
        Band(phase["name"], phase["began"], phase["began"] + phase["seconds"], bool(phase["event"]))
        for phase in take["phases"]
    ]

    def column(key: str, scale: float = 1.0) -> list[tuple[float, float | None]]:
        return [
            (row["second"], row[key] * scale if row.get(key) is not None else None) for row in rows
        ]

    # The last row is a part of a second.
    deliveries = Series("deliveries/s", column("deliveries", 1 / grain)[:-1])
    yield lines([deliveries], title="Throughput", unit="deliveries a second", bands=bands)
    percentiles = [
        Series(name, column(name), colour, thin=name == "max")
        for colour, name in enumerate(("p50", "p99", "max"))
    ]
    yield lines(percentiles, title="Latency", unit="ms, log", bands=bands, log=True)
    busy = [
        (later["second"], max(0.0, (later["cpu_s"] - row["cpu_s"]) * 100 / passed))
        for row, later in _pairs([row for row in rows if "cpu_s" in row])
        if (passed := later["second"] - row["second"])
    ]
    own: list[tuple[float, float | None]] = column("generator", 100 / grain)
    yield lines(
        [Series("server", busy, 0), Series("generator", own, 3, thin=True)],
        title="Processor time",
        unit="% of a core",
        bands=bands,
    )
    yield lines(
        [Series("memory", column("memory", 1 / MIB), 4)],
        title="Memory of the server's processes",
        unit="MiB (PSS)",
        bands=bands,
    )
    if any("lag_ms" in row for row in rows):
        yield lines(
            [
                Series("loop lag, at most", column("lag_ms"), 1),
                Series("garbage collection, at most", column("gc_ms"), 2),
            ],
            title="Stops of the event loop",
            unit="ms, bounds of the metrics' buckets",
            bands=bands,
        )
    if any(row["ends"] for row in rows):
        yield lines(
            [Series("in place", column("live"), 5), Series("ended", column("ends"), 1)],
            title="Connections",
            unit="in place; ended in a second",
            bands=bands,
        )


def _pairs(rows: Sequence[Take]) -> Iterator[tuple[Take, Take]]:
    return pairwise(rows)


def arrived(take: Take) -> Iterator[str]:
    """How all got into place, what each takes, and the longest stops of the server's loops."""
    arrival = take["arrival"]
    seconds = value(take, "arrival", "seconds")
    yield f"{arrival['clients']:,} clients were in place after {seconds:.0f} s"
    if arrival.get("memory_each") is not None:
        yield f"each takes {arrival['memory_each']:,.0f} bytes of the server's processes (PSS)"
    if arrival.get("kernel_each") is not None:
        yield f"and {arrival['kernel_each']:,.0f} of the kernel's, for both ends"
    for name, key in (
        ("the event loop was late by", "lag_ms"),
        ("garbage was collected for", "gc_ms"),
    ):
        if key in take.get("stops", {}):
            yield f"{name} {take['stops'][key]:,.1f} ms at most, arrival included"


def came_back(take: Take) -> Iterator[str]:
    """How soon those were in place again who lost their connection, phase by phase."""
    for phase in take["phases"]:
        back = phase["back"]
        if back["count"]:
            yield (
                f"{phase['name']}: {back['count']:,} came back, half of them within"
                f" {back['p50']:,.0f} ms, the last one after {back['max']:,.0f} ms"
            )


def growth(take: Take) -> float:
    """Bytes an hour by which memory grew over the second half: the slope of the best line.

    nan when the run was shorter than ten minutes: that would be noise.
    """
    rows = [(row["second"], row["memory"]) for row in take["timeline"] if row.get("memory")]
    rows = rows[len(rows) // 2 :]
    if not rows or rows[-1][0] - rows[0][0] < 300:
        return float("nan")
    return linear_regression(*zip(*rows, strict=True)).slope * 3600


def distribution(takes: Sequence[Take]) -> str:
    """The tail of the latency of each server, all repetitions together."""
    series = []
    for colour, (name, mine) in enumerate(by_target(takes).items()):
        whole = Histogram()
        for take in mine:
            whole.add(map(tuple, take["histogram"]))
        total = whole.total
        points: list[tuple[float, float | None]] = []
        at = 1.0
        while total and at <= total:
            points.append((at, whole.percentile(1 - 1 / at) / 1e6))
            at *= 1.25
        series.append(Series(name, points, colour))
    return tail(series, title="Latency, from due to read", unit="ms not exceeded by so many")


def beside(takes: Sequence[Take]) -> Iterator[str]:
    """Servers side by side."""
    groups = by_target(takes)

    def chart(title: str, unit: str, better: str, path: Sequence[str], scale: float = 1.0) -> str:
        return _chart(groups, title, unit, better, lambda mine: spread(mine, *path), scale)

    yield chart("Deliveries", "a second, the most that was carried", "more is better", ["best"])
    yield chart(
        "Processor time of a delivery", "us, at the steady rate", "less is better", ["steady_us"]
    )
    yield chart(
        "Latency at the steady rate, p99", "ms", "less is better", ["steady_latency", "p99"]
    )
    yield chart(
        "Memory of a subscribed connection", "bytes", "less is better", ["arrival", "memory_each"]
    )
    yield chart(
        "Processor time of an arrival",
        "us: handshake and subscribe",
        "less is better",
        ["arrival", "cpu_us"],
    )


def _chart(
    groups: dict[str, list[Take]],
    title: str,
    unit: str,
    better: str,
    figure: Callable[[list[Take]], tuple[float, float, float]],
    scale: float,
) -> str:
    rows = []
    for name, mine in groups.items():
        middle, low, high = (each * scale for each in figure(mine))
        rows.append((name, middle, low, high))
    return bars(rows, title=title, unit=unit, better=better)
