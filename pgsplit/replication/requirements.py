"""What servers must offer before a stream is created; checked before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.postgres import rights
from pgsplit.postgres.connect import describe
from pgsplit.postgres.need import Need
from pgsplit.project import strangers
from pgsplit.project.project import Service
from pgsplit.replication.capacity import can_publish, can_subscribe
from pgsplit.state.schema import require_known

Connection = psycopg.Connection[Any]

# Tables that can't leave a service's database which is another project's monolith, and why.
NEEDED_HERE = """
    select
        made.table_name,
        case
            when here.completed_at is null
                then format('%%s is not completed', here.database)
            when made.owned_rows <> 'true' then 'it has rows of other services, which a sync writes'
            when kept.services is not null
                then format('others share columns of it: %%s', kept.services)
            else 'it was not built since what others share is noted'
        end,
        obj_description(to_regnamespace('split'), 'pg_namespace')
    from split.service_tables as made
    cross join split.service as here
    left join lateral (
        select
            bool_or(mirrored.shared_definition is null) as is_unknown,
            string_agg(distinct sharing.service, ', ') as services
        from split.mirror_tables as mirrored
        left join split.shared_reads as reads
            on reads.table_name = mirrored.table_name and reads.service_table = made.table_name
        left join split.shared_columns as shared
            on shared.table_name = reads.table_name and shared.column_name = reads.column_name
        left join lateral unnest(shared.services) as sharing (service) on true
        where format('%%s.%%s', here.database, made.table_name) = any(mirrored.follows)
    ) as kept on true
    where
        here.database = %(schema)s and made.table_name = any(%(tables)s)
        and (
            here.completed_at is null or made.owned_rows <> 'true'
            or kept.services is not null or kept.is_unknown
        )
    order by made.table_name
"""


def source(monolith: Connection, service: Service, tables: Mapping[str, tuple[str, ...]]) -> None:
    """Check that this login can replicate from the monolith.

    Args:
        monolith: a connection to it.
        service: the service that is to follow it.
        tables: the tables that it is to follow.

    Raises:
        NotReady: `wal_level` is not logical, no slot or sender is free, or privileges are missing;
            or the monolith is another project's service, which needs such a table itself.
    """
    can_publish(monolith, service.replication, "the monolith")
    free_to_leave(monolith, service)
    lacking = [
        one for one in rights_on_monolith(monolith, service.mirror, list(tables)) if not one.ok
    ]
    if lacking:
        raise NotReady(
            f"{monolith.info.user} lacks privileges:\n"
            + "\n".join(
                f"  - {one.removeprefix(f'{monolith.info.user} ')}"
                for one in dict.fromkeys(one.problem for one in lacking)
            ),
            where=describe(monolith.info.dsn),
            hint="\n".join(dict.fromkeys(one.hint for one in lacking)),
        )


def free_to_leave(monolith: Connection, service: Service) -> None:
    """Check that a service's tables may leave the monolith, if that is another project's service.

    Raises:
        NotReady: that service is not completed, others share such a table, or a sync writes it.
    """
    known = monolith.execute("select to_regclass('split.shared_reads') is not null").fetchone()
    if known != (True,):
        return
    given = {"schema": service.mirror, "tables": list(service.owned_tables)}
    found = monolith.execute(NEEDED_HERE, given).fetchall()
    if found:
        names = ", ".join(name for name, _, _ in found)
        raise NotReady(
            f"The monolith is a service's database, {found[0][2]}, which needs these tables:"
            + "".join(f"\n  - {service.mirror}.{name}: {why}" for name, why, _ in found)
            + "\nNothing was changed.",
            where=describe(monolith.info.dsn),
            hint=f"Complete and build that service in its own project, and let nobody share"
            f" {names} there; or leave {names} out of models/_sources.yml here.",
        )


def rights_on_monolith(
    monolith: Connection, schema: str, tables: Sequence[str], keyed: Sequence[str] = ()
) -> list[Need]:
    """Ask for every right that landing, switching and completing need in the monolith.

    Args:
        monolith: a connection to it.
        schema: its schema.
        tables: the tables that are followed.
        keyed: those of them that are retired in the end, with their foreign keys.

    Returns:
        What was found.
    """
    return [
        rights.may_replicate(monolith),
        rights.may_create_in(monolith, "create a publication"),
        *rights.on_tables(monolith, schema, tables, keyed),
    ]


def reverse(
    database: Connection, monolith: Connection, service: Service, *, made_before: bool
) -> None:
    """Check that the monolith can subscribe to a service's database.

    Args:
        database: a connection to the service's database.
        monolith: a connection to the monolith.
        service: the service.
        made_before: whether what has its name may be this project's own. The monolith may have
            forgotten it; a publication of our own table is ours anyway, and so is its slot.

    Raises:
        NotReady: `wal_level`, a slot, a sender, a worker or a privilege is missing.
        TargetOccupied: somebody else's publication, slot or subscription has the name.
    """
    name = service.reverse_replication
    is_ours = made_before or publishes_heartbeats(database, name)
    can_publish(database, name, service.database)
    can_subscribe(monolith, name, "the monolith's server")
    for connection, what, question in (
        (database, "publication", "select true from pg_publication where pubname = %s"),
        (database, "slot", "select true from pg_replication_slots where slot_name = %s"),
        (
            monolith,
            "subscription",
            "select true from pg_subscription where subname = %s and subdbid ="
            " (select oid from pg_database where datname = current_database())",
        ),
    ):
        known = is_ours if connection is database else made_before
        if not known and connection.execute(question, (name,)).fetchone():
            raise TargetOccupied(
                f"There is a {what} {name} already, which no switch has made. Nothing was changed.",
                where=describe(connection.info.dsn),
                hint="Drop it, if nobody needs it.",
            )


def publishes_heartbeats(database: Connection, name: str) -> bool:
    """Tell whether a publication has our own table, which only its owner can put there."""
    row = database.execute(
        "select exists ("
        " select from pg_publication_rel inner join pg_publication on pg_publication.oid = prpubid"
        " where pubname = %s and prrelid = to_regclass('split.heartbeats')"
        ")",
        (name,),
    ).fetchone()
    return row == (True,)


def shared_stream(
    owner: Connection,
    consumer: Connection,
    source: Service,
    target: Service,
    *,
    promised: tuple[int, int] = (0, 0),
) -> None:
    """Check that one service's database can subscribe to another's.

    Args:
        owner: a connection to the database that is to publish.
        consumer: a connection to the database that is to subscribe.
        source: the service that publishes.
        target: the service that subscribes.
        promised: how many others are about to publish at the one server, and to subscribe at the
            other.

    Raises:
        NotReady: `wal_level`, a slot, a sender, a worker or a privilege is missing.
    """
    name = f"{target.replication}_from_{source.database}"
    can_publish(owner, name, source.database, promised[0])
    can_subscribe(consumer, name, f"the server of {target.database}", promised[1])


def target(database: Connection, service: Service) -> None:
    """Check that this login may subscribe in a service's database, and that a worker is free.

    Args:
        database: a connection to it.
        service: the service.

    Raises:
        NotReady: it may not, or the server has no free worker.
    """
    can_subscribe(database, service.replication, "the service's server")


def provisioned(database: Connection, service: Service) -> None:
    """Check that a database is the one that was provisioned for a service.

    Args:
        database: a connection to it.
        service: the service.

    Raises:
        NotReady: it does not carry the service's mark, or a newer pgsplit has upgraded it; nothing
            may be made or removed there.
    """
    if strangers.mark(database) != service.mark:
        raise strangers.not_provisioned(database, service)
    require_known(database)


def nothing_in_the_way(monolith: Connection, database: Connection, service: Service) -> None:
    """Check that what a landing is about to create does not exist yet.

    Once this has passed, under the ledger's lock, whatever has these names is this project's own.

    Args:
        monolith: a connection to the monolith.
        database: a connection to the service's database.
        service: the service.

    Raises:
        TargetOccupied: a publication, slot, subscription or mirror table is there; it is named.
    """
    name = service.replication
    for connection, what, question, hint in (
        (
            monolith,
            "publication",
            "select current_database() from pg_publication where pubname = %s",
            f"DROP PUBLICATION {name};",
        ),
        (  # slot names belong to the server: this one may follow another of its databases
            monolith,
            "replication slot",
            "select coalesce(database, 'the server') from pg_replication_slots"
            " where slot_name = %s",
            f"SELECT pg_drop_replication_slot('{name}');",
        ),
        (
            database,
            "subscription",
            "select current_database() from pg_subscription where subname = %s"
            " and subdbid = (select oid from pg_database where datname = current_database())",
            f"ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE);"
            f" DROP SUBSCRIPTION {name};",
        ),
    ):
        row = connection.execute(question, (name,)).fetchone()
        if row:
            raise TargetOccupied(
                f"There is a {what} {name} of {row[0]} already, which no landing recorded in this"
                " monolith has made. Nothing was changed.",
                where=describe(connection.info.dsn),
                hint=f"If nobody needs it: {hint}",
            )
    _mirror_empty(database, service)


def _mirror_empty(database: Connection, service: Service) -> None:
    found = [
        row[0]
        for row in database.execute(
            "select relname from pg_class where relnamespace = %s::regnamespace"
            " and relkind in ('r', 'p', 'v', 'm', 'f') order by 1",
            (service.mirror,),
        )
    ]
    if found:
        raise TargetOccupied(
            f"The mirror's schema {service.mirror} holds tables that were not landed by this"
            f" project: {', '.join(found)}. Nothing was changed.",
            where=describe(database.info.dsn),
            hint="Move them away: "
            + " ".join(f"ALTER TABLE {service.mirror}.{name} SET SCHEMA public;" for name in found),
        )


def same_encoding(monolith: Connection, database: Connection) -> None:
    """Check that two databases have the same encoding, since texts are compared by hashes.

    Args:
        monolith: a connection to it.
        database: a connection to the service's database.

    Raises:
        NotReady: they have different encodings.
    """
    one, other = (c.info.parameter_status("server_encoding") for c in (monolith, database))
    if one != other:
        raise NotReady(
            f"The monolith is encoded in {one} and the service's database in {other}, so their"
            " texts can't be compared by hashes.",
            where=describe(monolith.info.dsn),
            hint="Compare a copy of the monolith instead: createdb --template template0 --encoding"
            f" {other} COPY && pg_dump MONOLITH | psql COPY",
        )
