"""Sums up columns: of a monolith table, of its mirror, and of the service columns made from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.project.ownership import Comparison, by_tables, key_column
from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]
Paced = Callable[[sql.Composable], sql.Composable]
TOMBSTONES = "select table_name, tombstone from split.service_tables where tombstone is not null"


@dataclass(frozen=True)
class Total:
    """The totals of a column's values.

    `checksum` is the sum of their hashes, whatever their order. Only numbers have a `sum`, only
    dates and times have `least` and `most`.
    """

    count: int = 0
    checksum: str | None = None
    sum: str | None = None
    least: str | None = None
    most: str | None = None


def at_source(
    source: Connection,
    service: Service,
    table: str,
    wanted: list[Comparison],
    paced: Paced = lambda rows: rows,
) -> list[Total]:
    """Sum up a monolith table, in the monolith or in a completed owner's mirror.

    Args:
        source: a connection to that database.
        service: the service whose mirror has the table.
        table: its name.
        wanted: the columns.
        paced: gives a query with the same rows that the throttle can slow.
    """
    relation = sql.Identifier(service.mirror, table)
    values = [one.expected() for one in wanted]
    return _sum_up(source, service, [paced(_rows(relation, "id", values))], wanted)


def in_service(
    database: Connection, service: Service, table: str, wanted: list[Comparison]
) -> tuple[list[Total], list[Total], list[Total]]:
    """Sum up the mirror, the part of it that the service should hold, and the service's columns."""
    parts = [number for number, one in enumerate(wanted) if one.kind.is_part]
    values = [one.expected() for one in wanted]
    values += [_if_held(service, wanted[number]) for number in parts]
    relation = sql.Identifier(service.mirror, table)
    summed = _sum_up(
        database,
        service,
        [_rows(relation, "id", values)],
        [*wanted, *(wanted[number] for number in parts)],
    )
    mirror = summed[: len(wanted)]
    due = dict(enumerate(mirror)) | dict(zip(parts, summed[len(wanted) :], strict=True))
    gone = dict(database.execute(TOMBSTONES).fetchall())
    held: dict[int, Total] = {}
    for numbers in by_tables(service.project, wanted).values():
        group = [wanted[number] for number in numbers]
        sources = [
            _rows(
                sql.Identifier(service.database, pair.service_table),
                key_column(service.project, pair),
                [one.held(one.pairs[place]) for one in group],
                gone.get(pair.service_table),
            )
            for place, pair in enumerate(group[0].pairs)
        ]
        held.update(zip(numbers, _sum_up(database, service, sources, group), strict=True))
    places = range(len(wanted))
    return mirror, [due[place] for place in places], [held[place] for place in places]


def _if_held(service: Service, one: Comparison) -> sql.Composed:
    (pair,) = one.pairs
    return sql.SQL("case when id in (select held.{} from {} as held) then {} end").format(
        sql.Identifier(key_column(service.project, pair)),
        sql.Identifier(service.database, pair.service_table),
        one.expected(),
    )


def _rows(
    relation: sql.Identifier,
    key: str,
    values: Sequence[sql.Composed],
    tombstone: str | None = None,
) -> sql.Composed:
    """Select each row's hashed key, and its values by number; leave out tombstones."""
    named = [
        sql.SQL("{} as {}").format(value, sql.Identifier(str(number)))
        for number, value in enumerate(values)
    ]
    rows = sql.SQL('select hashtextextended({}::text collate "C", 0) as key, {} from {}').format(
        sql.Identifier(key), sql.SQL(", ").join(named), relation
    )
    if tombstone:
        rows += sql.SQL(" where {} is null").format(sql.Identifier(tombstone))
    return rows


def _sum_up(
    database: Connection,
    service: Service,
    sources: Sequence[sql.Composable],
    wanted: Sequence[Comparison],
) -> list[Total]:
    # Without the offset, PostgreSQL would hash the keys again for each column.
    query = sql.SQL("select {} from ({} offset 0) as one").format(
        sql.SQL(", ").join(_total(service, number, one) for number, one in enumerate(wanted)),
        sql.SQL(" union all ").join(sources),
    )
    row = database.execute(query).fetchone()
    assert row is not None
    return [Total(int(count), *rest) for count, *rest in row]


def _total(service: Service, number: int, one: Comparison) -> sql.Composed:
    kind = service.project.tables[one.table].columns[one.column]
    numeric, moment = "null", "null"
    if kind in ("integer", "bigint", "double precision", "numeric"):
        numeric = "trim_scale(sum({value}::numeric))::text"
    elif kind.startswith(("timestamp", "date", "time")):
        moment = "{bound}({value})::text"
    least, most = (moment.replace("{bound}", bound) for bound in ("min", "max"))
    return sql.SQL(
        'array[count({value})::text, sum(hashtextextended({value}::text collate "C", key))::text,'
        f" {numeric}, {least}, {most}]"
    ).format(value=sql.Identifier(str(number)))
