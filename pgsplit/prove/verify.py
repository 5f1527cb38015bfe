"""Proves, row by row, that a service's tables hold what the monolith's rows yield.

What they should hold is the model's own SQL, run on the monolith itself: a schema of the same name
is there. So landing, replication and sync are all under test, and nothing that they did is trusted.
After a switch it is the other way round: what the monolith's tables should hold is the reverse
model's SQL, run on the service's database; what the service only shares is compared as before.
When owners of what a model reads are completed, no one place has all of it: then each of these
tables in the mirror is compared with where it comes from, and the model runs on the mirror.
How each table was found is kept in the monolith, `split.verifications`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import md5

from psycopg import sql
from psycopg.types.json import Jsonb

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import connect, describe, explained
from pgsplit.postgres.row_diff import Comparison, Connection, RowSource, Shape, compare
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.shared import SharedStream, needs_monolith
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes, arrive
from pgsplit.replication.upstreams import LOCK_TIMEOUT, Upstreams, open_upstreams
from pgsplit.state.ledger import Ledger, State, completed

TABLES = """
    select
        tables.table_name,
        tables.definition,
        tables.follows,
        tables.owned_rows,
        coalesce(tables.tombstone, ''),
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

MIRROR_TABLES = """
    select tables.table_name, tables.definition, greatest(class.reltuples, 0)::bigint
    from split.mirror_tables as tables
    inner join pg_class as class
        on class.relname = tables.table_name and class.relnamespace = %s::regnamespace
    order by tables.table_name
"""


@dataclass(frozen=True)
class Verified:
    """How a service's tables were found; `earlier` are those that a run cut short had proven.

    Of a switched service the monolith's tables are among them, with their schema.
    """

    service: Service
    tables: dict[str, Comparison]
    earlier: tuple[str, ...]
    seconds: float
    is_switched: bool = False

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
    follows: list[str]
    owned_rows: str
    tombstone: str
    estimate: int
    key: str
    key_type: str | None
    is_called: str

    @property
    def digest(self) -> str:
        return _digest(self.definition)


@dataclass(frozen=True)
class _Check:
    """Two sides of a table that should hold the same rows."""

    name: str
    digest: str
    expected: RowSource
    actual: RowSource
    shape: Shape
    estimate: int


def _digest(definition: str) -> str:
    return md5(definition.encode(), usedforsecurity=False).hexdigest()


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
    with open_upstreams(service, connections) as upstreams:
        if needs_monolith(upstreams.monolith, service):
            requirements.same_encoding(upstreams.monolith, upstreams.database)
        upstreams.database.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        if table is None:  # proven again below, or not any more
            ledger.return_to(service, State.BUILT)
        checks = _chosen(_checks(upstreams, connections, ledger.state(service)), table, upstreams)
        # One table is always looked at anew.
        since = None if table else _cut_short_since(ledger, service)
        earlier = _proven_since(ledger.connection, service, checks, since)
        with ledger.step(
            service,
            "verify",
            whole=table is None,
            tables=[one.name for one in checks],
            goes_on_from=since,
        ) as step:
            found = dict(earlier)
            _catch_up(upstreams)
            for one in checks:
                if one.name not in found:
                    on_table(one.name)
                    sides = (one.expected, one.actual, one.shape, one.estimate)
                    found[one.name] = compare(*sides, partial(_catch_up, upstreams))
                    _record(ledger, service, one, found[one.name])
            seconds = time.monotonic() - started
            switched = ledger.state(service).reached(State.SWITCHED)
            verified = Verified(service, found, tuple(earlier), seconds, switched)
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


def require_unaltered(stream: Stream) -> None:
    """Check that a service's tables have the names, keys and columns that they were made with.

    Args:
        link: the way to a service that has been built.

    Raises:
        NotReady: one of them has not; it is named, with what mends it.
    """
    for table in _tables(stream):
        _shape(table.key, table.key_type, _model(table, stream), _service_table(table, stream))


def _read(database: Connection) -> list[_Table]:
    return [_Table(*row) for row in database.execute(TABLES)]


def _tables(stream: Stream) -> list[_Table]:
    tables = _read(stream.database)
    for one in tables:
        _require_as_made(one, stream)
    return tables


def _chosen(checks: list[_Check], table: str | None, stream: Stream) -> list[_Check]:
    chosen = [one for one in checks if table in (None, one.name, one.name.split(".")[-1])]
    if not chosen:
        raise NotReady(
            f"{stream.service.database} has no table {table} that a model makes.",
            where=describe(stream.database.info.dsn),
            hint=f"Choose from: {', '.join(one.name for one in checks)}.",
        )
    return chosen


@dataclass(frozen=True)
class _End:
    """One side of a table, before it is known whether its columns are those of the other."""

    database: str
    connection: Connection
    query: sql.Composable
    what: str

    def side(self, connections: Connections) -> RowSource:
        url = connections.urls[self.database]
        return RowSource(partial(_connected, url, self.database), self.query)


def _checks(upstreams: Upstreams, connections: Connections, stands: State) -> list[_Check]:
    """Work out what is to be compared with what."""
    switched, checks, in_mirror = stands.reached(State.SWITCHED), list[_Check](), set[str]()
    for table in _tables(upstreams):
        if switched and table.owned_rows == "true":
            continue
        expected = _model(table, upstreams)
        if expected.database == upstreams.service.database:
            in_mirror |= _followed(table)
        actual = _service_table(table, upstreams)
        if switched and table.owned_rows != "false":
            expected, actual = (_without(table.owned_rows, end) for end in (expected, actual))
        checks.append(
            _Check(
                table.name,
                table.digest,
                expected.side(connections),
                actual.side(connections),
                _shape(table.key, table.key_type, expected, actual),
                int(table.estimate),
            )
        )
    checks += _mirror_checks(upstreams, connections, in_mirror)
    if switched:
        checks += _reverse_checks(upstreams, connections, stands)
    return checks


def _mirror_checks(upstreams: Upstreams, connections: Connections, names: set[str]) -> list[_Check]:
    """Compare tables of the mirror with where they come from; not what the service owns itself."""
    checks, sources, service = [], _sources(upstreams), upstreams.service
    for name, landed in service.landed_tables.items():
        owner = service.project.tables[name].owner
        if name not in names or owner not in sources:
            continue
        place, connection = sources[owner]
        columns = sql.SQL(", ").join(map(sql.Identifier, landed))
        query = sql.SQL("select {} from {}").format(columns, sql.Identifier(service.mirror, name))
        expected = _End(place, connection, query, f"{service.mirror}.{name} in {place}")
        actual = _End(
            service.database, upstreams.database, query, f"{service.mirror}.{name} in the mirror"
        )
        checks.append(
            _Check(
                f"{name} in the mirror",
                _digest(f"{place}: {', '.join(landed)}"),
                expected.side(connections),
                actual.side(connections),
                _shape("id", "text", expected, actual),
                0,
            )
        )
    return checks


def _reverse_checks(upstreams: Upstreams, connections: Connections, stands: State) -> list[_Check]:
    """Compare the monolith's tables, or when they are retired the mirror's, with the service's."""
    checks, service, database = [], upstreams.service, upstreams.service.database
    rebuilt = upstreams.database.execute(MIRROR_TABLES, (service.mirror,)).fetchall()
    for name, definition, rows in rebuilt:
        label = f"{service.mirror}.{name}"
        columns = sql.SQL(", ").join(map(sql.Identifier, service.project.tables[name].columns))
        query = sql.SQL("select {} from {}").format(columns, sql.Identifier(service.mirror, name))
        expected = _End(database, upstreams.database, sql.SQL(definition), f"the model of {label}")
        actual = (
            _End(database, upstreams.database, query, f"{label} in the mirror")
            if stands is State.COMPLETED
            else _End(connections.monolith, upstreams.monolith, query, f"{label} in the monolith")
        )
        checks.append(
            _Check(
                label,
                _digest(definition),
                expected.side(connections),
                actual.side(connections),
                _shape("id", "text", expected, actual),
                rows,
            )
        )
    return checks


def _model(table: _Table, stream: Stream) -> _End:
    """Give what a service's table should hold, from where all that its model reads is."""
    what = f"the model of {stream.service.database}.{table.name}"
    sources = _sources(stream)
    owners = {stream.service.project.tables[name].owner for name in _followed(table)}
    places = dict(sources[owner] for owner in owners & sources.keys())
    if len(places) > 1 or owners - sources.keys():
        places = {stream.service.database: stream.database}
    ((place, connection),) = places.items()
    return _End(place, connection, sql.SQL(table.definition), what)


def _followed(table: _Table) -> set[str]:
    """Name the monolith's tables that a model reads."""
    return {name.split(".")[1] for name in table.follows}


def _sources(stream: Stream) -> dict[str, tuple[str, Connection]]:
    """Tell by owner where its tables are now; of one that is completed, they come by a feed."""
    retired = completed(stream.monolith)
    sources = {
        one.database: (stream.service.project.name, stream.monolith)
        for one in stream.service.project.services.values()
        if one.database not in retired
    }
    for one in stream.incoming if isinstance(stream, Upstreams) else ():
        if isinstance(one, SharedStream):
            sources[one.owner.database] = (one.owner.database, one.source)
    return sources


def _service_table(table: _Table, stream: Stream) -> _End:
    name = stream.service.database
    query = sql.SQL("select * from {}").format(sql.Identifier(name, table.name))
    if table.tombstone:  # rows that are gone where they came from
        query += sql.SQL(" where {} is null").format(sql.Identifier(table.tombstone))
    return _End(name, stream.database, query, f"{name}.{table.name}")


def _without(rows: str, end: _End) -> _End:
    query = sql.SQL("select * from ({}) as held where not ({})").format(end.query, sql.SQL(rows))
    return replace(end, query=query)


def _require_as_made(table: _Table, stream: Stream) -> None:
    """Refuse what is not the table any more that this project made: nothing of it is proven."""
    name = f"{stream.service.database}.{table.name}"
    if not table.is_called:
        what = f"The table {name} has been dropped."
        hint = f"dbt build --target {stream.service.database}"
    elif table.is_called != name:
        what = f"The table {name} is called {table.is_called} now."
        hint = f"Give it back its name and schema: runner.py psql {stream.service.role}"
    elif not table.key:
        what = f"The table {name} has no primary key of one column any more."
        hint = (
            "Add the key that its model's yml names: alter table … add primary key (…);"
            " rows that share a key are not the monolith's."
        )
    else:
        return
    raise NotReady(what, where=describe(stream.database.info.dsn), hint=hint)


def _shape(key: str, key_type: str | None, expected: _End, actual: _End) -> Shape:
    """Find the columns that both sides have; they have to be the same, and of the same types."""
    query = sql.SQL("select * from ({}) as compared limit 0")
    columns, has = (
        {
            column.name: (column.type_code, column.type_display)
            for column in end.connection.execute(query.format(end.query)).description or ()
        }
        for end in (expected, actual)
    )
    wrong = [
        f"{name} is {has[name][1] if name in has else 'missing'}"
        f" where the model gives {columns[name][1] if name in columns else 'no such column'}"
        for name in {**columns, **has}
        if has.get(name, (0,))[0] != columns.get(name, (0,))[0]
    ]
    if wrong:
        raise NotReady(
            f"The columns of {actual.what} are not those that were built:\n"
            + "\n".join(f"  - {said}" for said in wrong),
            where=describe(actual.connection.info.dsn),
            hint=f"Alter the table back. dbt build --target {actual.database} tells when it"
            " is as it was.",
        )
    return Shape(key, key_type or "text", list(columns))


@contextmanager
def _connected(url: str, target: str) -> Iterator[Connection]:
    with connect(url, target) as connection, explained(url, target, connection):
        yield connection


def _catch_up(upstreams: Upstreams) -> None:
    arrive(upstreams)
    apply_changes(upstreams.database)
    if upstreams.back:
        upstreams.back.arrive()


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
    monolith: Connection, service: Service, tables: list[_Check], since: str | None
) -> dict[str, Comparison]:
    rows = monolith.execute(
        "select table_name, result from split.verifications"
        " where service = %s and started_at >= %s::timestamptz and is_proven"
        " and (table_name, definition) in (select * from unnest(%s::text[], %s::text[]))",
        (service.database, since, [one.name for one in tables], [one.digest for one in tables]),
    )
    return {name: Comparison.of(result) for name, result in rows}


def _record(ledger: Ledger, service: Service, table: _Check, found: Comparison) -> None:
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
