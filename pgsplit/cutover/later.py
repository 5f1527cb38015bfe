"""What the later steps of an operation need: asked, or tried and rolled back, before it begins.

Each check raises NotReady, whose message the preflight report takes over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.cutover.blockers import (
    LONG_TRANSACTION_SECONDS,
    STOP_FENCING,
    STOP_MOVING,
    STOP_PUBLISHING,
    STOP_WRITERS,
    Needed,
)
from pgsplit.cutover.locks import TRY_SECONDS, Watches
from pgsplit.postgres import rights
from pgsplit.postgres.connect import describe
from pgsplit.postgres.holders import milliseconds
from pgsplit.replication import reach
from pgsplit.replication.session import Session
from pgsplit.replication.slot import Connection, try_to_create
from pgsplit.replication.stream import BaseStream
from pgsplit.replication.subscription import add_tables, create_publication, drop_tables

# What somebody else owns of what a later step changes.
NOT_OURS = """
    with

    needed as (
        select 'table' as kind, oid::regclass::text as name, relowner as owner from pg_class
        where oid = any(array(select to_regclass(name) from unnest(%(tables)s::text[]) as name))
        union all
        select 'publication', quote_ident(pubname), pubowner from pg_publication
        where pubname = any(%(streams)s)
        union all
        select 'subscription', quote_ident(subname), subowner from pg_subscription
        where
            subname = any(%(streams)s)
            and subdbid = (select oid from pg_database where datname = current_database())
    )

    select
        format('%%s %%s belongs to %%s', kind, name, pg_get_userbyid(owner)),
        format('GRANT %%I TO %%I;', pg_get_userbyid(owner), current_user)
    from needed
    where not pg_has_role(owner, 'usage')
    order by kind, name
"""
OWN_TABLES = """
    select coalesce(array_agg(oid::regclass::text order by relname), '{}') from pg_class
    where relnamespace = to_regnamespace('split') and relkind = 'r' and relname <> 'turn'
"""


def own_tables(database: Connection) -> list[str]:
    """Name this project's own tables in a database."""
    row = database.execute(OWN_TABLES).fetchone()
    return list(row[0]) if row else []


def of_mirror(session: Session) -> list[str]:
    """Name the service's owned tables as the monolith and its mirror call them."""
    return [f"{session.service.mirror}.{name}" for name in session.service.owned_tables]


def of_service(session: Session) -> list[str]:
    """Name the service's own tables."""
    fence = session.service_fence
    return [f"{fence.schema}.{name}" for name in fence.tables]


def for_switch(session: Session) -> list[Needed]:
    """Give the tables that a switch has to lock."""
    return [
        Needed(session.monolith, of_mirror(session), STOP_FENCING),
        Needed(session.database, of_mirror(session), STOP_PUBLISHING),
        Needed(session.database, of_service(session), STOP_FENCING),
        *_always(session),
    ]


def for_rollback(session: Session) -> list[Needed]:
    """Give the tables that a rollback has to lock."""
    return [
        Needed(session.database, of_service(session), STOP_FENCING),
        Needed(session.database, of_mirror(session), STOP_PUBLISHING),
        Needed(session.monolith, of_mirror(session), STOP_PUBLISHING),
        *_always(session),
    ]


def for_completion(session: Session) -> list[Needed]:
    """Give the tables that a completion has to lock."""
    return [
        # Tables that are read can't be moved to another schema.
        Needed(session.monolith, of_mirror(session), STOP_MOVING),
        Needed(session.database, of_service(session), STOP_MOVING),
        *_always(session),
    ]


def for_abort(session: Session) -> list[Needed]:
    """Give the tables that an abort has to lock."""
    fence = session.monolith_fence
    fenced = [f"{fence.schema}.{name}" for name in fence.tables] if fence.exists() else []
    return [
        Needed(session.monolith, fenced, STOP_MOVING),
        Needed(session.database, ["pg_subscription"], STOP_MOVING),
    ]


def _always(session: Session) -> list[Needed]:
    return [
        Needed(session.monolith, own_tables(session.monolith), STOP_WRITERS),
        Needed(session.database, own_tables(session.database), STOP_WRITERS),
        Needed(session.database, ["split.turn"], STOP_WRITERS),
        # To drop a subscription, PostgreSQL locks the whole catalogue.
        Needed(session.monolith, ["pg_subscription"], STOP_MOVING),
    ]


def require_unaltered(session: Session) -> None:
    """Check that the monolith's tables get what the service writes, and nothing else.

    Raises:
        NotReady: a trigger or a setting may alter or drop rows of reverse replication.
    """
    rows = session.monolith.execute(
        "select what, hint from split.altered_by(array("
        "select to_regclass(name)::oid from unnest(%s::text[]) as name))",
        (of_mirror(session),),
    ).fetchall()
    if rows:
        raise NotReady(
            "Rows of reverse replication may be altered or dropped by"
            f" {', '.join(f'the {what}' for what, _ in rows)}.",
            where=describe(session.monolith.info.dsn),
            hint="\n".join(hint for _, hint in rows),
        )


def require_ours(session: Session) -> None:
    """Check that this login may change what later steps change, on both sides."""
    streams = [session.forward.name, session.reverse.name]
    for database, tables in (
        (session.monolith, of_mirror(session)),
        (session.database, [*of_mirror(session), *of_service(session)]),
    ):
        found = database.execute(NOT_OURS, {"tables": tables, "streams": streams}).fetchall()
        if found:
            raise NotReady(
                f"{database.info.user} may not change what the later steps change:"
                f" {'; '.join(what for what, _ in found)}",
                where=describe(database.info.dsn),
                hint="\n".join(dict.fromkeys(grant for _, grant in found)),
            )


def require_can_end(stream: BaseStream) -> None:
    """Check that this login may drop a stream's slot at its source."""
    right = rights.may_replicate(stream.source)
    if not right.ok:
        raise NotReady(
            f"{stream.source.info.user} may not drop the slot {stream.name}.",
            where=describe(stream.source.info.dsn),
            hint=right.hint,
        )


def try_reverse_stream(session: Session) -> None:
    """Try what makes a reverse stream: its publication, its slot, and its subscription."""
    stream = session.reverse
    with tried(stream.source):
        create_publication(
            stream.source,
            f"split_try_{stream.source.info.backend_pid}",
            session.service.mirror,
            session.service.owned_tables,
            stream.heartbeat_key,
        )
    try_slot(stream)
    reach.require_reachable(stream, session.connections)


def try_slot(stream: BaseStream) -> None:
    """Try to create a stream's slot."""
    try_to_create(stream.source, stream.name, LONG_TRANSACTION_SECONDS)


def try_to_publish(session: Session) -> None:
    """Try what a rollback does with the two publications."""
    owned, mirror = session.service.owned_tables, session.service.mirror
    with tried(session.monolith):
        add_tables(session.monolith, session.forward.name, mirror, owned)
    with tried(session.database):
        drop_tables(session.database, session.reverse.name, mirror, list(owned))


@contextmanager
def tried(database: Connection) -> Iterator[None]:
    """Do the block in a transaction that is rolled back, and wait for no lock.

    Raises:
        NotReady: it can't be done; the message says why.
    """
    with Watches(database) as watches, watches.explained():
        try:
            with database.transaction(force_rollback=True):
                database.execute(f"set local lock_timeout = {milliseconds(TRY_SECONDS)}")
                yield
        except psycopg.errors.InsufficientPrivilege as error:
            raise NotReady(
                f"{database.info.user} may not do what a later step does: {str(error).strip()}",
                where=describe(database.info.dsn),
                hint=f'GRANT the right, or the owner\'s role, to "{database.info.user}".',
            ) from error


def require_schema(session: Session, schemas: Sequence[str]) -> None:
    """Check that this login may make tables in schemas of the monolith, or make the schemas."""
    rows = session.monolith.execute(
        "select name from unnest(%s::text[]) as name where not case"
        " when to_regnamespace(quote_ident(name)) is null"
        " then has_database_privilege(current_database(), 'create')"
        " else has_schema_privilege(name, 'create') end",
        (list(schemas),),
    ).fetchall()
    if rows:
        name, user = rows[0][0], session.monolith.info.user
        raise NotReady(
            f"{user} may not create tables in the schema {name}.",
            where=describe(session.monolith.info.dsn),
            hint=f'GRANT CREATE ON SCHEMA "{name}" TO "{user}"; or, if it does not exist: GRANT'
            f' CREATE ON DATABASE "{session.monolith.info.dbname}" TO "{user}";',
        )
