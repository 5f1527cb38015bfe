"""Proves, row by row, that a service's tables hold what the monolith's rows yield.

What they should hold is the model's own SQL, run on the monolith itself: a schema of the same name
is there. So landing, replication and sync are all under test, and nothing that they did is trusted.
How each table was found is kept in the monolith, `split.verifications`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import md5

from psycopg import sql
from psycopg.types.json import Jsonb

from migration import preflight
from migration.compare import Comparison, Connection, Shape, Side, compare
from migration.connections import Connections, connect, describe, explained
from migration.errors import NotReady
from migration.ledger import Ledger, State
from migration.replication import Link
from migration.services import MONOLITH, Service
from migration.sync import LOCK_TIMEOUT, arrive, carry_over, ready

TABLES = """
    select
        tables.table_name,
        tables.definition,
        coalesce(class.reltuples, 0),
        coalesce(key.attname, ''),
        format_type(key.atttypid, key.atttypmod),
        coalesce(format('%s.%s', namespace.nspname, class.relname), '')
    from split.service_tables as tables
    left join pg_class as class on class.oid = tables.table_oid
    left join pg_namespace as namespace on namespace.oid = class.relnamespace
    left join pg_index as index
        on index.indrelid = class.oid and index.indisprimary and index.indnkeyatts = 1
    left join pg_attribute as key on key.attrelid = class.oid and key.attnum = index.indkey[0]
    order by tables.table_name
"""


@dataclass(frozen=True)
class Verified:
    """How a service's tables were found; `earlier` are those that a run cut short had proven."""

    service: Service
    tables: dict[str, Comparison]
    earlier: tuple[str, ...]
    seconds: float

    @property
    def proven(self) -> bool:
        """Whether every row of every table was seen to be right."""
        return all(found.proven for found in self.tables.values())

    @property
    def complaint(self) -> str:
        """What keeps it from being proven, in a few words."""
        differing = sum(found.differing for found in self.tables.values())
        unsettled = sum(found.unsettled for found in self.tables.values())
        if differing:
            return "1 row differs" if differing == 1 else f"{differing:,} rows differ"
        return f"rows that did not hold still: {unsettled:,}"


@dataclass(frozen=True)
class _Table:
    name: str
    definition: str
    estimate: int
    key: str
    key_type: str | None
    is_called: str

    @property
    def digest(self) -> str:
        return md5(self.definition.encode(), usedforsecurity=False).hexdigest()


def verify(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    table: str | None = None,
    on_table: Callable[[str], None] = lambda name: None,
) -> Verified:
    """Compare a service's tables with what the living monolith's rows yield.

    The tables are brought up to date first; a follower may be at work meanwhile. A run that was
    cut short goes on with the tables that it had not proven.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        table: compare this one only.
        on_table: called with each table's name before it is compared.

    Returns:
        Each table's comparison. If all rows of all tables are right, the service is verified
        from now on; if some are not, it is not any more.

    Raises:
        NotReady: the service has not been built, has no such table, or replication has stopped;
            the databases' encodings differ.
        SourceMismatch: the monolith's tables are no longer those that have landed.
        BuildFailed: rows break a rule of the service's tables, so they can't be brought up to date.
    """
    started = time.monotonic()
    with ready(service, connections) as link:
        preflight.same_encoding(link.monolith, link.database)
        link.database.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        if table is None:  # proven again below, or not any more
            ledger.return_to(service, State.BUILT)
        tables = _tables(link, table)
        # One table is always looked at anew.
        since = None if table else _cut_short_since(ledger, service)
        earlier = _proven_since(ledger.connection, service, tables, since)
        with ledger.step(
            service, "verify", tables=[one.name for one in tables], goes_on_from=since
        ) as step:
            found = dict(earlier)
            _catch_up(link)
            for one in tables:
                if one.name not in found:
                    on_table(one.name)
                    found[one.name] = _verify(one, link, connections)
                    _record(ledger, service, one, found[one.name])
            verified = Verified(service, found, tuple(earlier), time.monotonic() - started)
            if not verified.proven:
                ledger.return_to(service, State.BUILT)
                step.outcome = "failed"
                step.detail["error"] = verified.complaint
            elif table is None:
                step.enters = State.VERIFIED
            step.detail.update(
                rows=sum(one.rows for one in found.values()),
                differing=sum(one.differing for one in found.values()),
                unsettled=sum(one.unsettled for one in found.values()),
                seconds=round(verified.seconds, 3),
            )
    return verified


def outdated(ledger: Ledger, database: Connection, service: Service) -> list[str]:
    """Name the tables that have not been proven as they are made now.

    Args:
        ledger: the monolith's ledger.
        database: a connection to the service's database.
        service: a service that has been built.

    Returns:
        Tables that were never verified, or not since their model changed, or not found right.
    """
    proven = dict(
        ledger.connection.execute(
            "select table_name, definition from split.verifications"
            " where service = %s and is_proven",
            (service.database,),
        ).fetchall()
    )
    return [one.name for one in _read(database) if proven.get(one.name) != one.digest]


def require_unaltered(link: Link) -> None:
    """Check that a service's tables have the names, keys and columns that they were made with.

    Args:
        link: the way to a service that has been built.

    Raises:
        NotReady: one of them has not; it is named, with what mends it.
    """
    for table in _tables(link, None):
        relation = sql.Identifier(link.service.database, table.name)
        _shape(table, link, sql.SQL(table.definition), relation)


def _read(database: Connection) -> list[_Table]:
    return [_Table(*row) for row in database.execute(TABLES)]


def _tables(link: Link, table: str | None) -> list[_Table]:
    tables = _read(link.database)
    for one in tables:
        _require_as_made(one, link)
    if table is None:
        return tables
    chosen = [one for one in tables if one.name == table]
    if not chosen:
        raise NotReady(
            f"{link.service.database} has no table {table} that a model makes.",
            where=describe(link.database.info.dsn),
            mend=f"Choose from: {', '.join(one.name for one in tables)}.",
        )
    return chosen


def _require_as_made(table: _Table, link: Link) -> None:
    """Refuse what is not the table any more that this project made: nothing of it is proven."""
    name = f"{link.service.database}.{table.name}"
    if not table.is_called:
        what = f"The table {name} has been dropped."
        mend = f"dbt build --target {link.service.database}"
    elif table.is_called != name:
        what = f"The table {name} is called {table.is_called} now."
        mend = f"Give it back its name and schema: runner.py psql {link.service.role}"
    elif not table.key:
        what = f"The table {name} has no primary key of one column any more."
        mend = (
            "Add the key that its model's yml names: alter table … add primary key (…);"
            " rows that share a key are not the monolith's."
        )
    else:
        return
    raise NotReady(what, where=describe(link.database.info.dsn), mend=mend)


def _shape(table: _Table, link: Link, source: sql.SQL, relation: sql.Identifier) -> Shape:
    """Find the columns that both sides have; they have to be the same, and of the same types."""
    made = link.monolith.execute(sql.SQL("select * from ({}) as model limit 0").format(source))
    there = link.database.execute(sql.SQL("select * from {} limit 0").format(relation))
    columns, has = (
        {column.name: (column.type_code, column.type_display) for column in found.description or ()}
        for found in (made, there)
    )
    wrong = [
        f"{name} is {has[name][1] if name in has else 'missing'}"
        f" where the model gives {columns[name][1] if name in columns else 'no such column'}"
        for name in {**columns, **has}
        if has.get(name, (0,))[0] != columns.get(name, (0,))[0]
    ]
    if wrong:
        raise NotReady(
            f"The columns of {link.service.database}.{table.name} are not those that were built:\n"
            + "\n".join(f"  - {said}" for said in wrong),
            where=describe(link.database.info.dsn),
            mend=f"Alter the table back. dbt build --target {link.service.database} tells when it"
            " is as it was.",
        )
    return Shape(table.key, table.key_type or "text", list(columns))


def _verify(table: _Table, link: Link, connections: Connections) -> Comparison:
    database, source = link.service.database, sql.SQL(table.definition)
    relation = sql.Identifier(database, table.name)
    expected = Side(partial(_connected, connections.urls[MONOLITH], MONOLITH), source)
    actual = Side(
        partial(_connected, connections.urls[database], database),
        sql.SQL("select * from {}").format(relation),
    )
    shape = _shape(table, link, source, relation)
    return compare(expected, actual, shape, int(table.estimate), partial(_catch_up, link))


@contextmanager
def _connected(url: str, target: str) -> Iterator[Connection]:
    with connect(url, target) as connection, explained(url, target, connection):
        yield connection


def _catch_up(link: Link) -> None:
    arrive(link)
    carry_over(link.database)


def _cut_short_since(ledger: Ledger, service: Service) -> str | None:
    """Tell since when the last verification has been under way, if it never ended.

    What was proven longer ago than an hour is proven again.
    """
    row = ledger.connection.execute(
        "select outcome is null or (outcome = 'failed' and not detail ? 'differing'),"
        " greatest(coalesce((intent ->> 'goes_on_from')::timestamptz, started_at),"
        " now() - interval '1 hour')::text"
        " from split.ledger where service = %s and step in ('verify', 'build', 'land')"
        " order by id desc limit 1",
        (service.database,),
    ).fetchone()
    return str(row[1]) if row and row[0] else None


def _proven_since(
    monolith: Connection, service: Service, tables: list[_Table], since: str | None
) -> dict[str, Comparison]:
    rows = monolith.execute(
        "select table_name, result from split.verifications"
        " where service = %s and started_at >= %s::timestamptz and is_proven"
        " and (table_name, definition) in (select * from unnest(%s::text[], %s::text[]))",
        (service.database, since, [one.name for one in tables], [one.digest for one in tables]),
    )
    return {name: Comparison.of(result) for name, result in rows}


def _record(ledger: Ledger, service: Service, table: _Table, found: Comparison) -> None:
    ledger.connection.execute(
        "insert into split.verifications"
        " (service, table_name, definition, started_at, is_proven, result)"
        " values (%s, %s, %s, clock_timestamp() - make_interval(secs => %s), %s, %s)"
        " on conflict (service, table_name) do update"
        " set definition = excluded.definition, started_at = excluded.started_at,"
        " finished_at = default, is_proven = excluded.is_proven, result = excluded.result",
        (
            service.database,
            table.name,
            table.digest,
            found.seconds,
            found.proven,
            Jsonb(asdict(found)),
        ),
    )
