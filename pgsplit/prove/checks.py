"""What is compared with what: both sides of every table of a service, and where each is read.

A service's table has to hold what its model yields. The model's SQL runs on the monolith itself,
which has a schema of the mirror's name; so landing, replication and sync are all tested, and none
of them is trusted. After a switch, the monolith's tables have to hold what the reverse models yield
on the service's database; only rows that other services own are compared as before. When owners of
a model's sources are completed, no database has all sources. Then each of these tables in the
mirror is compared with its origin, and the model runs on the mirror.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import md5

from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import connect, describe, explained
from pgsplit.postgres.row_hashes import Connection, RowSource, Shape
from pgsplit.project.endpoints import Connections
from pgsplit.replication.shared import SharedStream
from pgsplit.replication.stream import Stream
from pgsplit.replication.upstreams import Upstreams
from pgsplit.state.ledger import State, completed

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
    select
        tables.table_name,
        coalesce(kept.definition, tables.definition),
        greatest(class.reltuples, 0)::bigint
    from split.mirror_tables as tables
    inner join pg_class as class
        on class.relname = tables.table_name and class.relnamespace = %s::regnamespace
    cross join lateral (  -- of a completed service; a schema of an older version lacks these
        select to_jsonb(tables.*) ->> 'shared_definition' as definition
        from split.service as here
        where to_jsonb(here.*) ->> 'completed_at' is not null
        union all
        select null
        limit 1
    ) as kept
    where kept.definition is distinct from ''
    order by tables.table_name
"""


@dataclass(frozen=True)
class ServiceTable:
    """A service's table as its last build recorded it, and as the catalogue shows it now."""

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
        """A digest of the model's SQL; it changes with the model."""
        return _digest(self.definition)


@dataclass(frozen=True)
class Check:
    """A table to compare: both sides should hold the same rows.

    `is_made` if it is one of the service's tables and a model gives its rows; `mirrored` is the
    mirror's table whose reverse model does. `changed` are the same sides, but only with rows that
    may have changed; None for all rows.
    """

    name: str
    digest: str
    expected: RowSource
    actual: RowSource
    shape: Shape
    estimate: int
    is_made: bool = False
    mirrored: str = ""
    changed: tuple[RowSource, RowSource] | None = None

    def narrowed(self, expected: RowSource, actual: RowSource, keys: int) -> Check:
        """Give the check of only those rows; `keys` is about how many."""
        return replace(self, changed=(expected, actual), estimate=keys)


@dataclass(frozen=True)
class _Side:
    """One side of a table: an open session, the query of its rows, and its name in messages."""

    database: str
    connection: Connection
    query: sql.Composable
    what: str

    def source(self, connections: Connections) -> RowSource:
        session = partial(
            _connected, connections.urls[self.database], self.database, **connections.naming
        )
        paced = connections.throttle.paced(connections.place(self.database), self.query)
        return RowSource(session, paced)


def require_unaltered(stream: Stream) -> None:
    """Check that a service's tables still have their names, keys and columns.

    Args:
        stream: the stream of a service that has been built.

    Raises:
        NotReady: a table has not; the message names it and the fix.
    """
    for table in _tables(stream):
        _shape(table.key, table.key_type, _model(table, stream), _service_table(table, stream))


def checks(upstreams: Upstreams, connections: Connections, stands: State) -> list[Check]:
    """List what has to be compared with what.

    Args:
        upstreams: the open session of a service that has been built.
        connections: where the servers are.
        stands: the service's state.

    Raises:
        NotReady: a table no longer has its name, key or columns.
    """
    switched, found, in_mirror = stands.reached(State.SWITCHED), list[Check](), set[str]()
    for table in _tables(upstreams, with_own=stands is not State.COMPLETED):
        if switched and table.owned_rows == "true":
            continue
        expected = _model(table, upstreams)
        if expected.database == upstreams.service.database:
            in_mirror |= _followed(table)
        actual = _service_table(table, upstreams)
        if switched and table.owned_rows != "false":
            expected, actual = (_without(table.owned_rows, side) for side in (expected, actual))
        found.append(
            Check(
                table.name,
                table.digest,
                expected.source(connections),
                actual.source(connections),
                _shape(table.key, table.key_type, expected, actual),
                int(table.estimate),
                is_made=True,
            )
        )
    found += _mirror_checks(upstreams, connections, in_mirror)
    if switched:
        found += _reverse_checks(upstreams, connections, stands)
    return found


def rebuilding(upstreams: Upstreams, connections: Connections) -> list[Check]:
    """List the checks of what reverse models yield with what the mirror holds.

    Raises:
        NotReady: a reverse model yields other columns or types.
    """
    return _reverse_checks(upstreams, connections, State.COMPLETED)


def _mirror_checks(upstreams: Upstreams, connections: Connections, names: set[str]) -> list[Check]:
    """Compare other owners' tables in the mirror with their origin."""
    checks, sources, service = [], _sources(upstreams), upstreams.service
    for name, landed in service.landed_tables.items():
        owner = service.project.tables[name].owner
        if name not in names or owner not in sources:
            continue
        place, connection = sources[owner]
        columns = sql.SQL(", ").join(map(sql.Identifier, landed))
        query = sql.SQL("select {} from {}").format(columns, sql.Identifier(service.mirror, name))
        expected = _Side(place, connection, query, f"{service.mirror}.{name} in {place}")
        actual = _Side(
            service.database, upstreams.database, query, f"{service.mirror}.{name} in the mirror"
        )
        checks.append(
            Check(
                f"{name} in the mirror",
                _digest(f"{place}: {', '.join(landed)}"),
                expected.source(connections),
                actual.source(connections),
                _shape("id", "text", expected, actual),
                0,
            )
        )
    return checks


def _reverse_checks(upstreams: Upstreams, connections: Connections, stands: State) -> list[Check]:
    """Compare the monolith's tables, or the mirror's if those are retired, with the service's."""
    checks, service, database = [], upstreams.service, upstreams.service.database
    rebuilt = upstreams.database.execute(MIRROR_TABLES, (service.mirror,)).fetchall()
    for name, definition, rows in rebuilt:
        label = f"{service.mirror}.{name}"
        columns = sql.SQL(", ").join(map(sql.Identifier, service.project.tables[name].columns))
        query = sql.SQL("select {} from {}").format(columns, sql.Identifier(service.mirror, name))
        expected = _Side(database, upstreams.database, sql.SQL(definition), f"the model of {label}")
        actual = (
            _Side(database, upstreams.database, query, f"{label} in the mirror")
            if stands is State.COMPLETED
            else _Side(connections.monolith, upstreams.monolith, query, f"{label} in the monolith")
        )
        checks.append(
            Check(
                label,
                _digest(definition),
                expected.source(connections),
                actual.source(connections),
                _shape("id", "text", expected, actual),
                rows,
                mirrored=name,
            )
        )
    return checks


def _model(table: ServiceTable, stream: Stream) -> _Side:
    """Give the side of a table's model, on a database that has all of the model's sources."""
    what = f"the model of {stream.service.database}.{table.name}"
    sources = _sources(stream)
    owners = {stream.service.project.tables[name].owner for name in _followed(table)}
    places = dict(sources[owner] for owner in owners & sources.keys())
    if len(places) > 1 or owners - sources.keys():
        places = {stream.service.database: stream.database}
    ((place, connection),) = places.items()
    return _Side(place, connection, sql.SQL(table.definition), what)


def _followed(table: ServiceTable) -> set[str]:
    """Name the monolith's tables that a model reads."""
    return {name.split(".")[1] for name in table.follows}


def _sources(stream: Stream) -> dict[str, tuple[str, Connection]]:
    """Tell by owner where its tables are; a completed owner's come by a shared stream."""
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


def _service_table(table: ServiceTable, stream: Stream) -> _Side:
    name = stream.service.database
    query = sql.SQL("select * from {}").format(sql.Identifier(name, table.name))
    if table.tombstone:  # rows that were deleted at their origin
        query += sql.SQL(" where {} is null").format(sql.Identifier(table.tombstone))
    return _Side(name, stream.database, query, f"{name}.{table.name}")


def _without(rows: str, side: _Side) -> _Side:
    """Leave out the rows of a condition."""
    query = sql.SQL("select * from ({}) as held where not ({})").format(side.query, sql.SQL(rows))
    return replace(side, query=query)


def read_tables(database: Connection) -> list[ServiceTable]:
    """Read the tables that a service's last build made."""
    return [ServiceTable(*row) for row in database.execute(TABLES)]


def _tables(stream: Stream, *, with_own: bool = True) -> list[ServiceTable]:
    tables = [one for one in read_tables(stream.database) if with_own or one.owned_rows != "true"]
    for one in tables:
        _require_as_made(one, stream)
    return tables


def _require_as_made(table: ServiceTable, stream: Stream) -> None:
    """Refuse a table that is no longer the one that this project made; it can't be proven."""
    name = f"{stream.service.database}.{table.name}"
    if not table.is_called:
        what = f"The table {name} has been dropped."
        hint = f"dbt build --target {stream.service.database}"
    elif table.is_called != name:
        what = f"The table {name} is called {table.is_called} now."
        hint = f"Give it back its name and schema: runner.py psql {stream.service.role}"
    elif not table.key:
        what = f"The table {name} no longer has a primary key of one column."
        hint = (
            "Add the key that its model's yml names: alter table … add primary key (…);"
            " if rows share a key, they are not the monolith's."
        )
    else:
        return
    raise NotReady(what, where=describe(stream.database.info.dsn), hint=hint)


def _shape(key: str, key_type: str | None, expected: _Side, actual: _Side) -> Shape:
    """Give the columns of both sides; refuse types that differ. A service may have more columns."""
    query = sql.SQL("select * from ({}) as compared limit 0")
    columns, has = (
        {
            column.name: (column.type_code, column.type_display)
            for column in side.connection.execute(query.format(side.query)).description or ()
        }
        for side in (expected, actual)
    )
    wrong = [
        f"{name} is {has[name][1] if name in has else 'missing'}"
        f" where the model gives {columns[name][1]}"
        for name in columns
        if has.get(name, (0,))[0] != columns[name][0]
    ]
    if wrong:
        raise NotReady(
            f"The columns of {actual.what} are not those that were built:\n"
            + "\n".join(f"  - {said}" for said in wrong),
            where=describe(actual.connection.info.dsn),
            hint=f"Undo the change of the table. dbt build --target {actual.database} tells whether"
            " it is undone.",
        )
    types = [code for code, _ in columns.values()]
    return Shape(key, key_type or "text", list(columns), types)


@contextmanager
def _connected(url: str, target: str, **parameters: str) -> Iterator[Connection]:
    with connect(url, target, **parameters) as connection, explained(url, target, connection):
        yield connection


def _digest(definition: str) -> str:
    return md5(definition.encode(), usedforsecurity=False).hexdigest()
