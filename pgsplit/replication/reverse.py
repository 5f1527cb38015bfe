"""The way back: replication from a switched service's mirror into the monolith's own tables.

`split.sync()` keeps the mirror's owned tables equal to the service's; native replication carries
them back by name. The owned tables are in exactly one of the service's two publications, the one of
the side that is the truth, so nothing that is carried over ever returns to where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import conninfo, describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import stream as replication
from pgsplit.replication.stream import Connection, Stream

SLOT_TIMEOUT_SECONDS = 20

CROSSING_KEYS = """
    select
        conrelid::regclass::text,
        quote_ident(conname),
        format(
            'select count(*) from %%s as child where child.%%I is not null'
            ' and not exists (select from %%s as parent where parent.%%I = child.%%I)',
            conrelid::regclass, child.attname, confrelid::regclass, parent.attname, child.attname
        )
    from pg_constraint
    inner join pg_attribute as child on child.attrelid = conrelid and child.attnum = conkey[1]
    inner join pg_attribute as parent on parent.attrelid = confrelid and parent.attnum = confkey[1]
    where
        contype = 'f' and cardinality(conkey) = 1
        and (conrelid = any(%(owned)s::regclass[])) <> (confrelid = any(%(owned)s::regclass[]))
    order by 1, 2
"""


@dataclass(frozen=True)
class ReverseStream(Stream):
    """The way from one service's mirror back to the monolith."""

    @property
    def name(self) -> str:
        """The name of publication, slot and subscription."""
        return self.service.reverse_replication

    @property
    def source(self) -> Connection:
        """The end that publishes, and keeps the slot."""
        return self.database

    @property
    def target(self) -> Connection:
        """The end that subscribes."""
        return self.monolith

    @property
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, on either end."""
        return f"{self.service.database} back"

    @property
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""
        return self.service.database, "the monolith"

    @property
    def leads_to(self) -> str:
        """What it writes, for people."""
        return f"the monolith's tables of {self.service.database}"

    @property
    def subscriber(self) -> str:
        """The target's name on the command line."""
        return "monolith"

    @property
    def fixed_by(self) -> str:
        """What mends a way that has lost a part."""
        return f"runner.py repair {self.service.role}"


def published(connection: Connection, name: str) -> set[str]:
    """Name the tables that a publication has, but for the heartbeats."""
    rows = connection.execute(
        "select tablename from pg_publication_tables where pubname = %s and schemaname <> 'split'",
        (name,),
    )
    return {row[0] for row in rows}


def carry(
    connection: Connection, name: str, schema: str, tables: dict[str, tuple[str, ...]]
) -> None:
    """Add tables to a publication, in the caller's transaction; those that it has stay."""
    has = published(connection, name)
    if missing := {table: columns for table, columns in tables.items() if table not in has}:
        connection.execute(
            sql.SQL("alter publication {} add table {}").format(
                sql.Identifier(name), replication.listed(schema, missing)
            )
        )


def carry_no_more(connection: Connection, name: str, schema: str, tables: Sequence[str]) -> None:
    """Take tables out of a publication, in the caller's transaction.

    Who subscribes keeps its note of them, so that they can be added again without a copy.
    """
    if there := published(connection, name) & set(tables):
        connection.execute(
            sql.SQL("alter publication {} drop table {}").format(
                sql.Identifier(name),
                sql.SQL(", ").join(sql.Identifier(schema, table) for table in sorted(there)),
            )
        )


def prepare(stream: ReverseStream, connections: Connections) -> None:
    """Make the way back, ready and idle: it carries heartbeats, and no table yet.

    Idempotent; what a run that was cut short has left is made anew, since nothing depends on it
    before the switch.

    Args:
        way: the way of a service that has not been switched.
        connections: where the service's database is, as the monolith's server reaches it.

    Raises:
        NotReady: a transaction has been open so long that the slot can't start; the monolith's
            server can't reach the service's.
    """
    stream.remove()
    owned = stream.service.owned_tables
    publish_and_subscribe(stream, owned, connections.for_servers(stream.service.database))
    # The subscription has noted the tables; from here on they are the truth's to publish.
    carry_no_more(stream.source, stream.name, stream.service.mirror, list(owned))
    create_slot(stream)
    stream.enable()
    stream.arrive()


def publish_and_subscribe(stream: Stream, tables: Mapping[str, tuple[str, ...]], url: str) -> None:
    """Make a way's publication and its subscription, disabled and without a slot.

    Until `Link.enable` names it one, the way counts as broken: what its target lacks is not there
    yet. The subscription notes the tables. The heartbeat's row is made the same on either end,
    since later ones update it.

    Args:
        way: the way, of which nothing is there.
        tables: the tables of the monolith's schema that it is to carry, and their columns.
        url: its source as the target's server reaches it.

    Raises:
        NotReady: that server can't.
    """
    for end in (stream.source, stream.target):
        end.execute("delete from split.heartbeats where service = %s", (stream.heartbeat_key,))
    beat, name = stream.beat(), sql.Identifier(stream.name)
    stream.target.execute(
        "insert into split.heartbeats values (%s, %s)", (stream.heartbeat_key, beat)
    )
    stream.source.execute(
        sql.SQL("create publication {} for table {}, split.heartbeats where (service = {})").format(
            name,
            replication.listed(stream.service.mirror, tables),
            sql.Literal(stream.heartbeat_key),
        )
    )
    try:
        stream.target.execute(
            sql.SQL(
                "create subscription {} connection {} publication {} with (create_slot = false,"
                " slot_name = none, copy_data = false, enabled = false)"
            ).format(name, sql.Literal(conninfo(url)), name)
        )
    except psycopg.OperationalError as error:
        source, target = stream.labels
        raise NotReady(
            f"The server of {target} can't reach {source}: {str(error).strip()}",
            where=describe(stream.target.info.dsn),
            hint=f"export {source.upper()}_REPLICATION_URL=postgresql://… as that server reaches"
            " it.",
        ) from error


def create_slot(stream: Stream) -> None:
    """Make a way's slot at its source: what is committed from now on goes over.

    Raises:
        NotReady: a transaction has been open for too long there.
    """
    try:
        with stream.source.transaction():
            stream.source.execute(f"set local statement_timeout = '{SLOT_TIMEOUT_SECONDS}s'")
            stream.source.execute(
                "select pg_create_logical_replication_slot(%s, 'pgoutput')", (stream.name,)
            )
    except psycopg.errors.QueryCanceled as error:
        raise NotReady(
            f"The slot {stream.name} could not start within {SLOT_TIMEOUT_SECONDS} seconds:"
            " a transaction has been open for longer on that server.",
            where=describe(stream.source.info.dsn),
            hint="Wait for it, or end it: select pid, xact_start, query from pg_stat_activity"
            " where backend_xid is not null order by xact_start;",
        ) from error


def broken_keys(monolith: Connection, service: Service) -> list[tuple[str, str, int]]:
    """Find foreign keys of the monolith that replicated rows violate; replication checks none.

    They are those between a service's tables and others: a row may refer to one that only the
    service knew of, or that was deleted meanwhile.

    Args:
        monolith: a connection to it.
        service: whose tables were replicated.

    Returns:
        Table, key and the number of rows of each.
    """
    tables = [f"{service.mirror}.{name}" for name in service.owned_tables]
    found = []
    for table, name, query in monolith.execute(CROSSING_KEYS, {"owned": tables}).fetchall():
        row = monolith.execute(query).fetchone()
        if row and row[0]:
            found.append((table, name, int(row[0])))
    return found
