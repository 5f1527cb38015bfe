"""Totals of every monolith column against the service columns that it went to.

They are formed from the column-ownership seed alone, so a model that is wrong can't make them
agree. A value is hashed together with its row's id: one that has moved to another row is a
difference too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.postgres.connect import ALIKE, describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.ownership import (
    Comparison,
    Pair,
    by_tables,
    comparisons,
    key_column,
    not_compared,
)
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.shared import SharedStream
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes_and_look, arrive
from pgsplit.replication.upstreams import LOCK_TIMEOUT, Upstreams, open_upstreams
from pgsplit.state.ledger import Ledger, State, state

Connection = psycopg.Connection[Any]

ATTEMPTS = 4
PAUSE_SECONDS = 0.25
TOMBSTONES = "select table_name, tombstone from split.service_tables where tombstone is not null"


@dataclass(frozen=True)
class Total:
    """What a column's values come to.

    `checksum` is the sum of their hashes, in whatever order; `sum` is of numbers only, `least` and
    `most` are of dates and times only.
    """

    count: int = 0
    checksum: str | None = None
    sum: str | None = None
    least: str | None = None
    most: str | None = None


class Verdict(str, Enum):
    """How the totals of a column compare."""

    AGREES = "agrees"
    DIFFERS = "differs"
    MOVING = "moving"


@dataclass(frozen=True)
class Compared:
    """A monolith column's totals in the three places.

    `expected` is the mirror's, of the rows that the service is to hold. `moving` is one that the
    monolith's writers changed at every look; what the service holds is its mirror's all the same.
    """

    table: str
    column: str
    service_columns: tuple[str, ...]
    total: str
    monolith: Total
    mirror: Total
    expected: Total
    service: Total
    verdict: Verdict

    @property
    def blames(self) -> str:
        """Which step lost something: `replication`, `model`, or nothing."""
        if self.expected != self.service:
            return "model"
        return "replication" if self.verdict is Verdict.DIFFERS else ""


@dataclass(frozen=True)
class Totals:
    """What came of comparing a service: each column, and the pairs that can't be compared."""

    service: Service
    compared: tuple[Compared, ...]
    not_compared: tuple[Pair, ...]
    seconds: float

    def count(self, verdict: Verdict) -> int:
        """Count the columns with a verdict."""
        return sum(one.verdict is verdict for one in self.compared)

    def summary(self) -> dict[str, Any]:
        """Give what the ledger keeps."""
        return {
            "compared": len(self.compared),
            **{verdict.value: self.count(verdict) for verdict in Verdict},
            "not_compared": len(self.not_compared),
            "seconds": round(self.seconds, 3),
            "differences": [
                {"column": f"{one.table}.{one.column}", "in": one.service_columns}
                | {"blames": one.blames}
                for one in self.compared
                if one.verdict is Verdict.DIFFERS
            ],
        }


def totals(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    on_table: Callable[[str], None] = lambda name: None,
) -> Totals:
    """Compare the totals of all that a service holds with the living monolith's.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_table: called with the name of each monolith table that has been compared.

    Returns:
        Every column's totals and verdict. A difference is no error here, but the service is not
        verified any more.

    Raises:
        NotReady: the service has not been built, or writes its tables itself; replication has
            stopped; the databases' encodings differ.
        SourceMismatch: the monolith's tables are no longer those that have landed.
        BuildFailed: rows break a rule of the service's tables.
    """
    started = time.monotonic()
    found: list[Compared] = []
    with ledger.step(service, "totals") as step, open_upstreams(service, connections) as upstreams:
        requirements.same_encoding(upstreams.monolith, upstreams.database)
        _require_following(upstreams)
        for end in (
            upstreams.monolith,
            upstreams.database,
            *(stream.source for stream in upstreams.incoming),
        ):
            end.execute(f"{ALIKE}; set lock_timeout = '{LOCK_TIMEOUT}'")
        for table, wanted in comparisons(service).items():
            found += _compare(upstreams, table, wanted)
            on_table(table)
        done = Totals(
            service, tuple(found), tuple(not_compared(service)), time.monotonic() - started
        )
        step.detail.update(done.summary())
        if differing := done.count(Verdict.DIFFERS):
            ledger.return_to(service, State.BUILT)
            step.outcome = "failed"
            step.detail["error"] = f"columns whose totals differ: {differing}"
    return done


def following(services: Sequence[Service], connections: Connections) -> list[Service]:
    """Name those of some services that still follow the monolith; a switched one does not.

    Raises:
        NotReady: none does.
    """
    with connections.connect(connections.monolith) as monolith:
        found = [one for one in services if not state(monolith, one).reached(State.SWITCHED)]
    if not found:
        raise NotReady(
            "Every service writes its tables itself: their totals are no longer the monolith's.",
            where=describe(connections.monolith_url),
            hint="runner.py verify, which compares the other way round",
        )
    return found


def difference(found: Sequence[Totals]) -> DataDiffers | None:
    """Give the error that ends the command if any column differs."""
    wrong = {one.service: one.count(Verdict.DIFFERS) for one in found}
    wrong = {service: count for service, count in wrong.items() if count}
    if not wrong:
        return None
    blamed = [
        (one.service, column.blames)
        for one in found
        for column in one.compared
        if column.verdict is Verdict.DIFFERS
    ]
    return DataDiffers(
        f"Columns whose totals differ from the monolith's: {sum(wrong.values())}.",
        where=", ".join(f"{s.database} ({count})" for s, count in wrong.items()),
        hint="\n".join(dict.fromkeys(hint(service, blames) for service, blames in blamed)),
    )


def hint(service: Service, blames: str) -> str:
    """Say what finds, or mends, a difference that a step is to blame for."""
    if blames == "replication":
        return f"runner.py land {service.role} --again && runner.py build {service.role}"
    return f"runner.py verify {service.role}"


def _require_following(stream: Stream) -> None:
    row = stream.database.execute("select switched_at from split.service").fetchone()
    if row and row[0]:
        raise NotReady(
            f"{stream.service.database} is written by the service since {row[0]}: what it holds is"
            " no longer the monolith's.",
            where=describe(stream.database.info.dsn),
            hint=f"runner.py verify {stream.service.role}, which compares the other way round",
        )


def _compare(upstreams: Upstreams, table: str, wanted: list[Comparison]) -> list[Compared]:
    """Compare one monolith table's columns, again while the monolith's writers are in the way.

    The mirror was the monolith at a moment between two looks at it. A column that both looks agree
    on and the mirror does not, twice alike, has been lost on the way: a value that came and went
    between two looks would not be caught twice.
    """
    feeds = {
        stream.owner.database: stream.source
        for stream in upstreams.incoming
        if isinstance(stream, SharedStream)
    }
    source = feeds.get(upstreams.service.project.tables[table].owner, upstreams.monolith)
    was: list[tuple[Total, Total]] = []
    found: list[Compared] = []
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        before = _at_source(source, upstreams.service, table, wanted)
        arrive(upstreams)
        _, (mirror, parts, held) = apply_changes_and_look(
            upstreams.database, lambda inside: _in_service(inside, upstreams.service, table, wanted)
        )
        after = before if mirror == before else _at_source(source, upstreams.service, table, wanted)
        found = []
        for number, one in enumerate(wanted):
            there = after[number]
            seen = (there, mirror[number])
            if mirror[number] in (before[number], there):
                there, verdict = mirror[number], Verdict.AGREES
            elif there == before[number] and was and was[number] == seen:
                verdict = Verdict.DIFFERS
            else:
                verdict = Verdict.MOVING
            if parts[number] != held[number]:
                verdict = Verdict.DIFFERS
            columns = tuple(f"{p.service_table}.{p.service_column}" for p in one.pairs)
            found.append(
                Compared(
                    table,
                    one.column,
                    columns,
                    one.total,
                    there,
                    mirror[number],
                    parts[number],
                    held[number],
                    verdict,
                )
            )
        if not any(one.verdict is Verdict.MOVING for one in found):
            break
        was = list(zip(after, mirror, strict=True))
    return found


def _at_source(
    source: Connection, service: Service, table: str, wanted: list[Comparison]
) -> list[Total]:
    """Sum up a table of the monolith's, in it or in the mirror of an owner that is completed."""
    relation = sql.Identifier(service.mirror, table)
    values = [one.expected() for one in wanted]
    return _sum_up(source, service, [_rows(relation, "id", values)], wanted)


def _in_service(
    database: Connection, service: Service, table: str, wanted: list[Comparison]
) -> tuple[list[Total], list[Total], list[Total]]:
    """Sum up the mirror, what of it the service is to hold, and what the service holds."""
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
    """Give each row's hashed key, and its values by number; not of rows that are gone."""
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
    sources: Sequence[sql.Composed],
    wanted: Sequence[Comparison],
) -> list[Total]:
    # Without the offset PostgreSQL would take the keys' hashes anew for each column.
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
