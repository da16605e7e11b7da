"""Plots as inline SVG: lines over time, a distribution's tail, bars.

Colours are CSS variables of the page, so that a plot follows its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 26
COLOURS = 11
"""How many the page has: --c0, --c1, ..."""

Point = tuple[float, float | None]


@dataclass
class Series:
    """A line. `points` in order of x; where y is None the line has a gap."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    thin: bool = False


@dataclass
class Band:
    """A stretch of the x axis with a name, such as a phase."""

    name: str
    begin: float
    end: float
    event: bool = False


def number(value: float) -> str:
    """For people: 1.2k, 34M, 0.05."""
    if value == 0:
        return "0"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


class Scale:
    """From values to pixels."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, log: bool = False):
        self.log = log
        if log:
            low = 10 ** math.floor(math.log10(max(low, 1e-3)))
            high = 10 ** math.ceil(math.log10(max(high, low * 10)))
        self.low, self.high = low, high if high > low else low + 1
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        share = (value - low) / (high - low)
        return self._begin + share * (self._end - self._begin)

    def ticks(self, wanted: int) -> list[float]:
        if self.log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        rough = (self.high - self.low) / wanted
        power = 10 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [step * at for at in range(first, math.floor(self.high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Series],
    *,
    title: str,
    unit: str,
    bands: Sequence[Band] = (),
    log: bool = False,
    x_unit: str = "s",
) -> str:
    """Lines over time."""
    points = [(x, y) for one in series for x, y in one.points if y is not None]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    positive = [y for y in ys if y > 0] or [1.0]
    x = Scale(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
    low = min(positive) if log else 0.0
    y = Scale(low, max(ys) * (1 if log else 1.08), HEIGHT - BOTTOM, TOP, log=log)
    parts = [*_bands(bands, x), *_grid(y)]
    for tick in x.ticks(6):
        label = number(tick) + (f" {x_unit}" if tick == x.ticks(6)[-1] else "")
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" class="tick mid">{label}</text>')
    for one in series:
        parts.append(_path(one, x, y))
    return _figure(title, unit, parts, series)


def tail(series: Sequence[Series], *, title: str, unit: str) -> str:
    """A distribution: y is the value that the share 1 - 1/x does not exceed."""
    points = [(x, y) for one in series for x, y in one.points if y]
    if not points:
        return ""
    ys = [y for _, y in points]
    end = max(x for x, _ in points)
    x = Scale(1, end, LEFT, WIDTH - RIGHT, log=True)
    y = Scale(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log=True)
    parts = list(_grid(y))
    for tick in x.ticks(5):
        nines = f"{100 - 100 / tick:.10g} %" if tick > 1 else "0 %"
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" '
                     f'y2="{HEIGHT - BOTTOM}" class="grid"/>')  # fmt: skip
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" class="tick mid">{nines}</text>')
    parts += [_path(one, x, y) for one in series]
    return _figure(title, unit, parts, series)


def bars(
    rows: Sequence[tuple[str, float, float, float]], *, title: str, unit: str, better: str
) -> str:
    """Horizontal bars: (name, value, least, most), ours first; whiskers for the range."""
    rows = [row for row in rows if row[1] == row[1]]
    if not rows:
        return ""
    left, height = 150, 24
    total = TOP + height * len(rows) + 6
    most = max(row[3] for row in rows)
    x = Scale(0, most, left, WIDTH - 110)
    parts = []
    for place, (name, value, low, high) in enumerate(rows):
        y = TOP + place * height
        ratio = f" ({value / rows[0][1]:.2f}x)" if place and rows[0][1] else ""
        middle = y + height / 2
        parts.append(
            f'<text x="{left - 8}" y="{middle + 4}" class="name end{"" if place else " us"}">'
            f"{escape(name)}</text>"
            f'<rect x="{left}" y="{y + 4}" width="{max(1, x(value) - left):.1f}" '
            f'height="{height - 8}" rx="2" class="{"bar" if place else "bar us"}"/>'
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}" '
            'class="range"/>'
            f'<text x="{x(high) + 6:.1f}" y="{middle + 4}" class="value">'
            f"{number(value)}{ratio}</text>"
        )
    return (
        f"<figure><figcaption>{escape(title)} <span>{escape(unit)}, {escape(better)}</span>"
        f'</figcaption><svg viewBox="0 0 {WIDTH} {total}" role="img">{"".join(parts)}</svg>'
        "</figure>"
    )


def _path(one: Series, x: Scale, y: Scale) -> str:
    words, pen = [], "M"
    for at, value in one.points:
        if value is None:
            pen = "M"
            continue
        words.append(f"{pen}{x(at):.1f},{y(value):.1f}")
        pen = "L"
    thin = " thin" if one.thin else ""
    return (
        f'<path d="{"".join(words)}" class="line{thin}" stroke="var(--c{one.colour % COLOURS})"/>'
    )


def _bands(bands: Sequence[Band], x: Scale) -> list[str]:
    parts = []
    for place, band in enumerate(bands):
        begin, end = x(max(band.begin, x.low)), x(min(band.end, x.high))
        if end <= begin:
            continue
        shade = "band event" if band.event else f"band odd{place % 2}"
        parts.append(
            f'<rect x="{begin:.1f}" y="{TOP}" width="{end - begin:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}" class="{shade}"/>'
        )
        if end - begin > 6 * len(band.name):
            parts.append(
                f'<text x="{begin + 4:.1f}" y="{TOP + 11}" class="phase">{escape(band.name)}</text>'
            )
    return parts


def _grid(y: Scale) -> list[str]:
    return [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
        'class="grid"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" class="tick end">{number(tick)}</text>'
        for tick in y.ticks(4)
    ]


def _figure(title: str, unit: str, parts: Sequence[str], series: Sequence[Series]) -> str:
    keys = "".join(
        f'<i style="--k:var(--c{one.colour % COLOURS})">{escape(one.name)}</i>'
        for one in series
        if one.name
    )
    return (
        f"<figure><figcaption>{escape(title)} <span>{escape(unit)}</span></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
        f'<p class="keys">{keys}</p></figure>'
    )
