"""The page itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from loadtest.page import goals
from loadtest.page.figures import (
    Take,
    arrived,
    beside,
    by_target,
    came_back,
    distribution,
    growth,
    over_time,
    spread,
    typical,
)

STYLE = (Path(__file__).parent / "page.css").read_text()

ENDS = 10
"""Reasons of connections' ends that are shown, the most frequent ones."""

COLUMNS = (
    ("deliveries/s", ("per_second",), 1),
    ("server CPU, us each", ("cpu_us",), 1),
    ("p50 ms", ("latency", "p50"), 1),
    ("p90", ("latency", "p90"), 1),
    ("p99", ("latency", "p99"), 1),
    ("p99.9", ("latency", "p99.9"), 1),
    ("max", ("latency", "max"), 1),
    ("bytes a client", ("arrival", "memory_each"), 1),
    ("arrival, us", ("arrival", "cpu_us"), 1),
    ("generator, %", ("generator_busy",), 100),
)


def page(document: dict[str, Any]) -> str:
    """The whole page of a result."""
    title = f"Clarion under load, {document['began']}"
    body = "".join(_body(document, title))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def _body(document: dict[str, Any], title: str) -> Iterator[str]:
    scenarios = document["scenarios"]
    yield f"<h1>{escape(title)}</h1>"
    yield _verdict(document)
    yield _machine(document)
    yield from goals.section(document)
    if not scenarios:
        return
    yield "<h2>At a glance</h2>"
    yield _table([(scenario["plan"], scenario["takes"]) for scenario in scenarios])
    yield (
        "<p class=small>Medians of the repetitions, with their range where there are several. "
        "Latency: from when a publication was due until a client has read it. Server CPU: of all "
        "its processes, publishing included, for each delivery. Generator: how busy its cores "
        "were; above 85 % the server may not have been the limit.</p>"
    )
    for scenario in scenarios:
        if scenario["takes"]:  # where every server failed, only the faults are left
            yield from _scenario(scenario["plan"], scenario["takes"])


def _verdict(document: dict[str, Any]) -> str:
    takes = [take for scenario in document["scenarios"] for take in scenario["takes"]]
    deliveries = sum(take["deliveries"] for take in takes)
    faults = document["faults"]
    if not faults and not takes:
        return '<p class="verdict good">Nothing was lost, doubled or out of order.</p>'
    if not faults:
        return (
            f'<p class="verdict good">{deliveries:,} deliveries were looked at; '
            "none was lost, doubled or out of order.</p>"
        )
    items = "".join(f"<li>{escape(fault)}</li>" for fault in faults[:50])
    return f'<div class="verdict bad"><b>{len(faults)} faults</b><ul>{items}</ul></div>'


def _machine(document: dict[str, Any]) -> str:
    facts = dict(document["machine"])
    for key in ("server", "generator"):
        if f"{key}_cores" in document:
            facts[f"{key}'s cores"] = document[f"{key}_cores"]
    cells = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts.items())
    notes = "".join(f"<li>{escape(note)}</li>" for note in document["notes"])
    more = (
        f"<details><summary>{len(document['notes'])} notes on where the generator or other "
        f"processes may have been the limit</summary><ul>{notes}</ul></details>"
    )
    return f"<dl>{cells}</dl>{more if notes else ''}"


def _table(groups: Sequence[tuple[dict[str, Any], list[Take]]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name, _, _ in COLUMNS)
    rows = []
    for plan, takes in groups:
        for name, mine in by_target(takes).items():
            cells = "".join(_cell(mine, path, scale) for _, path, scale in COLUMNS)
            label = f"<a href=#{escape(plan['name'])}>{escape(plan['name'])}</a> {escape(name)}"
            rows.append(f"<tr><th>{label}</th><td>{plan['clients']:,}</td>{cells}</tr>")
    lines = f"<tr><th></th><th>clients</th>{head}</tr>{''.join(rows)}"
    return f"<div class=wide><table>{lines}</table></div>"


def _cell(takes: list[Take], path: Sequence[str], scale: float) -> str:
    middle, low, high = (each * scale for each in spread(takes, *path))
    if middle != middle:
        return "<td></td>"
    shown = _short(middle)
    if _short(low) != _short(high):
        shown += f"<small>{_short(low)}–{_short(high)}</small>"
    return f"<td>{shown}</td>"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _scenario(plan: dict[str, Any], takes: list[Take]) -> Iterator[str]:
    groups = by_target(takes)
    yield f"<section id={escape(plan['name'])}><h2>{escape(plan['title'])}</h2>"
    yield f"<p>{escape(plan['about'].strip())}</p>"
    if len(groups) > 1:
        yield f"<div class=plots>{''.join(beside(takes))}{distribution(takes)}</div>"
        yield _versions(groups)
    ours = next(iter(groups.values()))
    shown = typical(ours)
    which = f"repetition {shown['repetition']} of {len(ours)}" if len(ours) > 1 else ""
    yield f"<h3>{escape(shown['target'])} over time <span>{which}</span></h3>"
    plots = list(over_time(shown))
    if len(groups) == 1:
        plots.append(distribution(takes))
    yield f"<div class=plots>{''.join(plots)}</div>"
    yield _phases(shown)
    if len(groups) == 1:
        yield f"<p class=small>{escape(shown['version'])}; {escape(shown['setting'])}</p>"
    yield "</section>"


def _versions(groups: dict[str, list[Take]]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td class=text>{escape(mine[0]['version'])}</td>"
        f"<td class=text>{escape(mine[0]['setting'])}</td></tr>"
        for name, mine in groups.items()
    )
    return (
        "<details open><summary>Versions and configuration</summary><div class=wide><table>"
        f"<tr><th></th><th class=text>version</th><th class=text>configuration</th></tr>{rows}"
        "</table></div></details>"
    )


def _phases(take: Take) -> str:
    rows = "".join(
        f"<tr><th>{escape(phase['name'])}{' (not measured)' if not phase['measured'] else ''}</th>"
        f"<td>{phase['seconds']:.1f}</td><td>{phase['published']:,}</td>"
        f"<td>{phase['deliveries']:,}</td>{_percentiles(phase['latency'])}"
        f"<td>{_ms(phase['waited'], 'p99')}</td><td>{_ms(phase['late'], 'p99')}</td>"
        f"<td>{phase['server_busy']:.0%}</td><td>{phase['generator_busy']:.0%}</td></tr>"
        for phase in take["phases"]
    )
    counts = {
        key: count for key, count in take["counts"].items() if count and not isinstance(count, dict)
    }
    said = list(arrived(take))
    said += [f"{count:,} {key}" for key, count in counts.items()]
    ends = Counter(take["counts"]["ends"])
    said += [f"{count:,} connections ended: {why}" for why, count in ends.most_common(ENDS)]
    said += came_back(take)
    grown = growth(take)
    if grown == grown:
        said.append(f"memory grew by {grown / 1024:,.0f} KiB an hour over the second half")
    line = f"<p class=small>{escape('; '.join(said))}</p>" if said else ""
    return (
        "<div class=wide><table><tr><th>phase</th><th>seconds</th><th>published</th>"
        "<th>deliveries</th><th>p50 ms</th><th>p99</th><th>p99.9</th><th>max</th>"
        "<th>generator's own wait, p99</th><th>published late, p99</th><th>server</th>"
        f"<th>generator</th></tr>{rows}</table></div>{line}"
    )


def _percentiles(latency: dict[str, float]) -> str:
    return "".join(f"<td>{_ms(latency, key)}</td>" for key in ("p50", "p99", "p99.9", "max"))


def _ms(summary: dict[str, float], key: str) -> str:
    return _short(summary[key]) if key in summary else ""
