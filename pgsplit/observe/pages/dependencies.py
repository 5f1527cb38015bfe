"""The layout of the picture of references between tables.

Each service is a box of tables; below a table's name is a line for each referring column. From
there a curve leads to the referenced table's name: on the right if it crosses to another service,
on the left if it stays inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from pgsplit.observe.analyze import Reference, Table

NOBODY = "nobody"
BOX_LEFT, BOX_WIDTH = 120, 330
RIGHT = BOX_LEFT + BOX_WIDTH
REACH_INSIDE, REACH_ACROSS = 90, 400
WIDTH = RIGHT + REACH_ACROSS + 10
HEADING, NAME, COLUMN, GAP, PADDING = 30, 25, 18, 22, 8
# Up to this number of boxes, all orders are tried; more boxes keep their order.
TRIED_AT_MOST = 7


@dataclass(frozen=True)
class Line:
    """A line of text in a box: a table's name, or one of its referring columns."""

    y: float
    text: str
    is_table: bool
    target: str = ""


@dataclass(frozen=True)
class Box:
    """A service's tables; `tone` is its colour's number."""

    title: str
    tone: int
    y: float
    height: float
    lines: Sequence[Line]


@dataclass(frozen=True)
class Curve:
    """A drawn reference, in the colour of the referenced table's service."""

    path: str
    start: tuple[float, float]
    end: tuple[float, float]
    tone: int
    crosses: bool
    declared: bool
    title: str


@dataclass(frozen=True)
class Drawing:
    """The picture; lengths are in pixels."""

    width: int
    height: float
    boxes: Sequence[Box]
    curves: Sequence[Curve]


def tone(owner: str | None, owners: Sequence[str]) -> int:
    """Give the number of a service's colour; 0 means no service."""
    return list(owners).index(owner) + 1 if owner and owner in owners else 0


def draw(
    tables: Sequence[Table], references: Sequence[Reference], owners: Sequence[str]
) -> Drawing:
    """Lay out tables and the references between them.

    Args:
        tables: the tables; a table without an owner is drawn only if a reference connects it.
        references: the references between them.
        owners: the services; the position gives each its colour.

    Returns:
        The picture; it doesn't depend on the order of tables and references.
    """
    groups: dict[str, set[str]] = {}
    for table in tables:
        if table.owner and table.is_there:
            groups.setdefault(table.owner, set()).add(table.table_name)
    for one in references:
        for name, owner in ((one.table_name, one.owner), (one.target_table, one.target_owner)):
            groups.setdefault(owner or NOBODY, set()).add(name)
    known = [name for name in (*owners, NOBODY) if name in groups]
    ordered = sorted(references, key=_key)
    heights = {name: _height(groups[name], ordered) for name in known}
    order = _order(known, heights, ordered)

    boxes: list[Box] = []
    names: dict[str, float] = {}
    starts: dict[Reference, float] = {}
    y = 4.0
    for group in order:
        top, lines = y, list[Line]()
        y += HEADING
        for table_name in sorted(groups[group]):
            names[table_name] = y + NAME / 2
            lines.append(Line(names[table_name], table_name, True))
            y += NAME
            for one in ordered:
                if one.table_name == table_name:
                    starts[one] = y + COLUMN / 2
                    lines.append(Line(starts[one], one.column_names, False, one.target_table))
                    y += COLUMN
        y += PADDING
        boxes.append(Box(group, tone(group, owners), top, y - top, tuple(lines)))
        y += GAP
    height = y - GAP + 4
    # Short curves on top, since a long one could hide them.
    drawn = sorted(starts, key=lambda one: -abs(starts[one] - names[one.target_table]))
    curves = [
        _curve(one, starts[one], names[one.target_table], tone(one.target_owner, owners), height)
        for one in drawn
    ]
    return Drawing(WIDTH, height, tuple(boxes), tuple(curves))


def _key(one: Reference) -> tuple[str, ...]:
    return (one.table_name, one.column_names, one.target_table, one.key_name or "")


def _height(names: set[str], references: Sequence[Reference]) -> float:
    columns = sum(one.table_name in names for one in references)
    return HEADING + NAME * len(names) + COLUMN * columns + PADDING


def _order(
    known: list[str], heights: dict[str, float], references: Sequence[Reference]
) -> tuple[str, ...]:
    """Find the order of boxes that makes crossing curves shortest."""
    pairs: dict[tuple[str, str], int] = {}
    for one in references:
        pair = (one.owner or NOBODY, one.target_owner or NOBODY)
        if one.crosses:
            pairs[pair] = pairs.get(pair, 0) + 1
    if len(known) > TRIED_AT_MOST:
        return tuple(known)

    def length(order: tuple[str, ...]) -> float:
        middle, y = {}, 0.0
        for name in order:
            middle[name] = y + heights[name] / 2
            y += heights[name] + GAP
        return sum(abs(middle[a] - middle[b]) * count for (a, b), count in pairs.items())

    return min(permutations(known), key=length)


def _curve(one: Reference, y: float, target: float, colour: int, height: float) -> Curve:
    far = abs(y - target) / height
    if one.crosses:
        x, bow = float(RIGHT), 40 + (REACH_ACROSS / 0.75 - 45) * far**0.75
    else:
        x, bow = float(BOX_LEFT), -(24 + (REACH_INSIDE / 0.75 - 24) * min(1.0, far * 2.6))
    tip = 7 if one.crosses else -7
    path = (
        f"M{x:.1f} {y:.1f}C{x + bow:.1f} {y:.1f} {x + bow + tip:.1f} {target:.1f}"
        f" {x + tip:.1f} {target:.1f}"
    )
    says = [f"{one.table_name} ({one.column_names}) → {one.target_table} ({one.target_columns})"]
    says += [f"on delete {one.on_delete}"] if one.on_delete else ["no key"]
    says += [f"when {one.condition}"] if one.condition else []
    return Curve(
        path, (x, y), (x, target), colour, one.crosses, one.key_name is not None, ", ".join(says)
    )
