"""Draws how durations grow with the rows, both axes logarithmic, and fits the exponent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

import leather  # type: ignore[import-untyped]

COLOURS = ("#b0307c", "#e78ac3", "#0b7a83", "#66c2a5", "#c4570c", "#7446c4", "#8da0cb", "#555555")

Points = Sequence[tuple[float, float]]


def exponent(points: Points) -> float | None:
    """Fit `seconds = constant * rows ^ exponent`; None with fewer than two sizes."""
    if len(points) < 2:
        return None
    xs, ys = zip(*((math.log(rows), math.log(seconds)) for rows, seconds in points), strict=True)
    middle, level = sum(xs) / len(xs), sum(ys) / len(ys)
    steps = [x - middle for x in xs]
    pairs = zip(steps, ys, strict=True)
    return float(sum(step * (y - level) for step, y in pairs) / sum(step**2 for step in steps))


def growth(title: str, lines: Mapping[str, Points]) -> str:
    """Draw a line for each way of doing the same.

    Args:
        title: what the chart shows.
        lines: rows and seconds of each, by its name.

    Returns:
        The chart as SVG.
    """
    chart = leather.Chart(title)
    every = [point for points in lines.values() for point in points]
    across, up = (_decades([point[axis] for point in every]) for axis in (0, 1))
    chart.add_x_scale(across[0], across[-1])
    chart.add_y_scale(up[0], up[-1])
    rows = "payments, and as many notifications"
    chart.add_x_axis(ticks=across, tick_formatter=_power, name=rows)
    chart.add_y_axis(ticks=up, tick_formatter=_power, name="seconds")
    for (name, points), colour in zip(lines.items(), cycle(COLOURS), strict=False):
        found = exponent(points)
        label = name if found is None else f"{name}: exponent {found:.2f}"
        logs = [(math.log10(rows), math.log10(seconds)) for rows, seconds in points]
        chart.add_line(logs, name=label, stroke_color=colour)
    return str(chart.to_svg(width=800, height=500))


def _decades(values: Sequence[float]) -> list[float]:
    """Give the powers of ten around some values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [float(power) for power in range(low, max(high, low + 1) + 1)]


def _power(value: float, index: int, ticks: int) -> str:
    return f"{10**value:,g}" if value < 0 else f"{round(10**value):,}"
