"""The services' columns that hold the monolith's (seeds/column_ownership.csv), and their totals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from psycopg import sql

from pgsplit.project.project import OWNERSHIP_FILE, Project, Service


@dataclass(frozen=True)
class Kind:
    """How a service column's total compares with its monolith column's.

    `monolith` and `service` are expressions for the values to count and sum up. With `adds_up`, all
    such columns of a service hold the values together. With `is_part`, the service has only some
    of the rows, and only those are compared.
    """

    monolith: str = "{column}"
    service: str = "{column}"
    adds_up: bool = False
    is_part: bool = False


KINDS: Mapping[str, Kind] = {
    "same": Kind(),
    "share": Kind(adds_up=True),
    "part": Kind(is_part=True),
    "cents": Kind("trim_scale({column} * 0.01)", "trim_scale({column})"),
    "date": Kind("{column}::date"),
    "time": Kind("coalesce({column}::time, time '00:00')"),
    "raw": Kind(service="{column} ->> 'raw'"),
    "set": Kind(
        "case when {column} then true end",
        "case when {column} is not null then true end",
        adds_up=True,
    ),
    "named": Kind(
        service="case when (source_table, source_field) = ({table}, {field}) then {column} end"
    ),
}


@dataclass(frozen=True)
class Pair:
    """A line of the seed: a monolith column, a service column made from it, and how."""

    monolith_table: str
    monolith_column: str
    service: str
    service_table: str
    service_column: str
    total: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """A monolith column, and the columns of one service that together hold its values."""

    table: str
    column: str
    total: str
    pairs: tuple[Pair, ...]

    @property
    def kind(self) -> Kind:
        """How the totals compare."""
        return KINDS[self.total]

    @property
    def service_tables(self) -> tuple[str, ...]:
        """The service's tables that hold the values."""
        return tuple(pair.service_table for pair in self.pairs)

    def expected(self) -> sql.Composed:
        """Give the expression for the monolith's table or its mirror."""
        return sql.SQL(self.kind.monolith).format(column=sql.Identifier(self.column))

    def held(self, pair: Pair) -> sql.Composed:
        """Give the expression for one of the service's tables."""
        return sql.SQL(self.kind.service).format(
            column=sql.Identifier(pair.service_column),
            table=sql.Literal(self.table),
            field=sql.Literal(re.sub("([A-Z])", r"_\1", self.column).lower()),
        )


@cache
def pairs(project: Project) -> tuple[Pair, ...]:
    """Read the seed."""
    return tuple(Pair(**row) for row in project.rows(OWNERSHIP_FILE))


def comparisons(service: Service) -> dict[str, list[Comparison]]:
    """Give a service's columns whose totals can be compared.

    Args:
        service: the service.

    Returns:
        Comparisons by monolith table, in the seed's order.
    """
    found: dict[tuple[str, ...], list[Pair]] = {}
    for pair in pairs(service.project):
        if pair.service == service.database and pair.total:
            key: tuple[str, ...] = (pair.monolith_table, pair.monolith_column, pair.total)
            if not KINDS[pair.total].adds_up:
                key += (pair.service_table, pair.service_column)
            found.setdefault(key, []).append(pair)
    tables: dict[str, list[Comparison]] = {}
    for (table, column, total, *_), members in found.items():
        tables.setdefault(table, []).append(Comparison(table, column, total, tuple(members)))
    return tables


def not_compared(service: Service) -> list[Pair]:
    """Give the pairs of a service that have no total, each with its reason."""
    return [
        pair
        for pair in pairs(service.project)
        if pair.service == service.database and not pair.total
    ]


def key_column(project: Project, pair: Pair) -> str:
    """Name the column of a service's table that holds the monolith row's id.

    Args:
        project: the project.
        pair: a pair that has a total.

    Returns:
        The column that is made from the monolith's `id`, or the one that belongs to `source_table`
        and `source_field`.
    """
    if pair.total == "named":
        return "source_id"
    (name,) = (
        other.service_column
        for other in pairs(project)
        if (other.monolith_table, other.monolith_column) == (pair.monolith_table, "id")
        and (other.service, other.service_table) == (pair.service, pair.service_table)
        and other.total
    )
    return name


def by_tables(project: Project, found: Sequence[Comparison]) -> dict[tuple[str, ...], list[int]]:
    """Group comparisons of the same tables of a service; give their numbers."""
    grouped: dict[tuple[str, ...], list[int]] = {}
    for number, one in enumerate(found):
        grouped.setdefault((*one.service_tables, key_column(project, one.pairs[0])), []).append(
            number
        )
    return grouped
