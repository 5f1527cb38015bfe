"""The layout of the site's graphs: boxes in columns, and curves between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

HEAD, GAP, REACH, BOW = 34, 8, 60, 130
NARROWEST, LETTER, MARGIN = 130, 7.2, 20


@dataclass(frozen=True)
class Node:
    """A box: its text, a note below it, and the page that a click on it opens."""

    key: str
    text: str
    href: str
    tone: int = 0
    note: str = ""
    title: str = ""


@dataclass(frozen=True)
class Edge:
    """A curve from one box to another; a faint one only decides what the other takes."""

    start: str
    end: str
    title: str
    tone: int = 0
    is_faint: bool = False


@dataclass(frozen=True)
class Column:
    """Boxes one below the other; `is_sorted` lets them follow the boxes that lead to them."""

    title: str
    nodes: Sequence[Node]
    is_sorted: bool = True


@dataclass(frozen=True)
class Box:
    """A drawn box."""

    node: Node
    x: float
    y: float


@dataclass(frozen=True)
class Curve:
    """A drawn curve, and the point of its arrow."""

    edge: Edge
    path: str
    tip: tuple[float, float]
    heading: int


@dataclass(frozen=True)
class Drawing:
    """A graph; lengths are in pixels."""

    width: float
    height: float
    box_width: float
    box_height: float
    titles: Sequence[tuple[float, str]]
    boxes: Sequence[Box]
    curves: Sequence[Curve]


def draw(
    columns: Sequence[Column], edges: Sequence[Edge], widest: float, box_height: float
) -> Drawing:
    """Lay out a graph.

    Args:
        columns: from left to right.
        edges: between boxes of neighbouring columns, or of the same; others are left out, and so
            are those of which a box is missing.
        widest: the largest width of a box; all are as wide as the longest text needs.
        box_height: of every box.

    Returns:
        The graph; it doesn't depend on the order of edges.
    """
    columns = _in_order([one for one in columns if one.nodes], edges)
    longest = max((len(node.text) for one in columns for node in one.nodes), default=0)
    box_width = min(widest, max(NARROWEST, longest * LETTER + MARGIN))
    place: dict[str, tuple[int, float]] = {}
    boxes: list[Box] = []
    highest = max((len(one.nodes) for one in columns), default=0)
    step = box_height + GAP
    for number, column in enumerate(columns):
        x = number * (box_width + REACH) + 1
        top = HEAD + (highest - len(column.nodes)) * step / 2 * (len(column.nodes) == 1)
        for row, node in enumerate(column.nodes):
            place[node.key] = (number, top + row * step)
            boxes.append(Box(node, x, top + row * step))
    curves = [
        _curve(one, place, box_width, box_height)
        for one in sorted(edges, key=lambda one: (not one.is_faint, one.start, one.end))
        if one.start in place and one.end in place
    ]
    bows = any(place[one.edge.start][0] == place[one.edge.end][0] for one in curves)
    width = len(columns) * (box_width + REACH) - REACH + 2 + BOW * bows
    titles = [(number * (box_width + REACH) + 1, one.title) for number, one in enumerate(columns)]
    height = HEAD + highest * step
    return Drawing(width, height, box_width, box_height, titles, boxes, curves)


def _in_order(columns: Sequence[Column], edges: Sequence[Edge]) -> list[Column]:
    """Sort each column's boxes by the middle of those that lead to them."""
    ordered: list[Column] = []
    rank: dict[str, float] = {}
    for column in columns:
        led: dict[str, list[float]] = {}
        for edge in edges:
            if edge.start in rank and not edge.is_faint:
                led.setdefault(edge.end, []).append(rank[edge.start])
        nodes = list(column.nodes)
        if column.is_sorted and ordered:
            last = float(len(rank))
            middles = {key: sum(found) / len(found) for key, found in led.items()}
            nodes.sort(key=lambda node, m=middles, z=last: m.get(node.key, z))  # type: ignore[misc]
        rank.update({node.key: float(number) for number, node in enumerate(nodes)})
        ordered.append(replace(column, nodes=nodes))
    return ordered


def _curve(
    edge: Edge, place: Mapping[str, tuple[int, float]], box_width: float, box_height: float
) -> Curve:
    (from_column, from_y), (to_column, to_y) = place[edge.start], place[edge.end]
    y, target = from_y + box_height / 2, to_y + box_height / 2
    x = from_column * (box_width + REACH) + box_width + 1
    if from_column == to_column:
        bow = 30 + min(BOW * 1.1, abs(target - y) * 0.35)
        target -= box_height / 5 if target > y else -box_height / 5
        path = (
            f"M{x:.0f} {y:.1f}C{x + bow:.0f} {y:.1f} {x + bow:.0f} {target:.1f} {x + 7:.0f}"
            f" {target:.1f}"
        )
        return Curve(edge, path, (x, target), -1)
    end = to_column * (box_width + REACH) + 1
    middle = (end - x) / 2
    path = (
        f"M{x:.0f} {y:.1f}C{x + middle:.0f} {y:.1f} {end - middle:.0f} {target:.1f} {end - 7:.0f}"
        f" {target:.1f}"
    )
    return Curve(edge, path, (end, target), 1)
