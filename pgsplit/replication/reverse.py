"""Reverse replication: from a switched service's mirror into the monolith's own tables.

`split.sync()` keeps the mirror's owned tables equal to the service's; native replication brings
them to the monolith's tables of the same name. The owned tables are in exactly one of the service's
two publications, that of the source of truth. So no change ever returns to where it came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from psycopg import sql

from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import requirements
from pgsplit.replication.fence import Fence
from pgsplit.replication.forgotten import switched_at
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import Stream
from pgsplit.replication.subscription import drop_tables
from pgsplit.state.ledger import State, state
from pgsplit.state.saga import left_unfinished

LOCK_SECONDS = 10.0
OWNED = "select table_name from split.service_tables where owned_rows <> 'false' order by 1"
# What differs from the monolith is quarantined before it is replaced.
STOP = """
    update split.service
    set ended_switch = switched_at, switched_at = null, keeps_replaced = true;
    update split.service_tables set is_stale = true where owned_rows <> 'false'
"""
CROSSING_KEYS = """
    select
        conrelid::regclass::text,
        quote_ident(conname),
        convalidated,
        owned.relname,
        conrelid = owned.oid,
        child.attname,
        format(
            'select count(*) from %%s as child where child.%%I is not null'
            ' and not exists (select from %%s as parent where parent.%%I = child.%%I)',
            conrelid::regclass, child.attname, confrelid::regclass, parent.attname, child.attname
        )
    from pg_constraint
    inner join pg_attribute as child on child.attrelid = conrelid and child.attnum = conkey[1]
    inner join pg_attribute as parent on parent.attrelid = confrelid and parent.attnum = confkey[1]
    inner join pg_class as owned
        on owned.oid = any(%(owned)s::regclass[]) and owned.oid in (conrelid, confrelid)
    where
        contype = 'f' and cardinality(conkey) = 1
        and (conrelid = any(%(owned)s::regclass[])) <> (confrelid = any(%(owned)s::regclass[]))
    order by 1, 2
"""


@dataclass(frozen=True)
class ReverseStream(Stream):
    """The stream from one service's mirror to the monolith."""

    @property
    def name(self) -> str:
        """The name of publication, slot and subscription."""
        return self.service.reverse_replication

    @property
    def source(self) -> Connection:
        """The database that publishes and keeps the slot."""
        return self.database

    @property
    def target(self) -> Connection:
        """The database that subscribes."""
        return self.monolith

    @property
    def source_name(self) -> str:
        """The source's target name, by which its URL is known."""
        return self.service.database

    @property
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, at source and target."""
        return f"{self.service.database} back"

    @property
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""
        return self.service.database, "the monolith"

    @property
    def destination(self) -> str:
        """What it writes, for people."""
        return f"the monolith's tables of {self.service.database}"

    @property
    def subscriber(self) -> str:
        """The target's name on the command line."""
        return "monolith"

    @property
    def fixed_by(self) -> str:
        """The command that fixes a stream that has lost a part."""
        return f"runner.py repair {self.service.role}"


def prepare(stream: ReverseStream, connections: Connections) -> None:
    """Create the reverse stream, ready and idle: it replicates heartbeats and no table yet.

    Idempotent: what an interrupted run has left is re-created, since nothing depends on it before
    the switch.

    Args:
        stream: the reverse stream of a service that has not been switched.
        connections: where the service's database is, as the monolith's server reaches it.

    Raises:
        NotReady: a transaction has been open so long that the slot can't start, or the monolith's
            server can't reach the service's.
    """
    stream.remove()
    owned = stream.service.owned_tables
    stream.create(owned, connections)
    # The subscription remembers the tables. Only the source of truth publishes them.
    drop_tables(stream.source, stream.name, stream.service.mirror, list(owned))
    stream.create_slot()
    stream.enable()
    stream.arrive()


def stop(stream: ReverseStream) -> None:
    """Let a service follow the monolith again, if its database has forgotten that; atomic.

    The monolith has had all of its writes since the rollback that was forgotten. Its own triggers
    rest, and its tables take no writes.

    Args:
        stream: the reverse stream of a service; the monolith is the source of truth.
    """
    database = stream.database
    rows = database.execute(OWNED).fetchall()
    fence = Fence(stream.service, database, stream.service.database, [row[0] for row in rows])
    with database.transaction():
        fence.prepare("monolith", closed=True)
        fence.lock(LOCK_SECONDS)
        fence.enable_triggers()
        database.execute("select from split.rest_own_triggers()")
        database.execute(STOP)


def remove_forgotten(stream: ReverseStream) -> None:
    """Remove a reverse stream that the monolith has forgotten; idempotent.

    A switch had prepared it, and the monolith was restored, or failed over, to a moment before
    that. Nobody reads its slot, which would keep the service's WAL for ever.

    Args:
        stream: the reverse stream of a service; no operation is under way.
    """
    service, monolith, database = stream.service, stream.monolith, stream.database
    if (
        not state(monolith, service).reached(State.SWITCHED)
        and service.database not in left_unfinished(monolith)
        and switched_at(database) is None
        and requirements.publishes_heartbeats(database, stream.name)
    ):
        stream.remove()


def broken_keys(
    monolith: Connection,
    service: Service,
    *,
    only_valid: bool = False,
    known: Collection[tuple[str, str]] | None = None,
    changed: Mapping[str, list[str] | None] | None = None,
) -> list[tuple[str, str, int]]:
    """Find foreign keys of the monolith that replicated rows violate; replication checks none.

    Only keys between a service's tables and others can be violated: a row may refer to a row that
    only the service knew of, or that has been deleted meanwhile. Nothing violates a key that the
    monolith has validated and checks itself, but for rows that were replicated.

    Args:
        monolith: a connection to it.
        service: whose tables were replicated.
        only_valid: leave out keys that are NOT VALID: rows may have violated them before.
        known: tables and keys that rows were found to violate before; all rows are asked about
            these, and about keys that are NOT VALID. All rows about all keys, if None.
        changed: by table, the ids of rows that may have been replicated, for all other keys; no
            table if none has been. All rows of a table whose ids are None.

    Returns:
        Table, key and number of rows of each.
    """
    tables = [f"{service.mirror}.{name}" for name in service.owned_tables]
    found = []
    for table, name, is_valid, owned, is_child, column, query in monolith.execute(
        CROSSING_KEYS, {"owned": tables}
    ):
        if only_valid and not is_valid:
            continue
        narrowed: sql.Composable = sql.SQL("")
        if known is not None and changed is not None and is_valid and (table, name) not in known:
            ids = changed.get(owned, [])
            if ids == []:
                continue
            if ids:
                narrowed = sql.SQL(" and child.{} = any({}::text[])").format(
                    sql.Identifier("id" if is_child else column), sql.Literal(ids)
                )
        row = monolith.execute(sql.SQL(query) + narrowed).fetchone()
        if row and row[0]:
            found.append((table, name, int(row[0])))
    return found
