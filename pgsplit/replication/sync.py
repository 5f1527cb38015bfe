"""A sync brings a service's tables to where the living monolith stands.

Replication keeps the mirror current. `split.sync()`, which dbt has made in the service's database,
applies what has changed to the service's tables. A heartbeat, a row that is written in the monolith
and replicated like any other, tells how far both are, by the monolith's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import psycopg
from psycopg import errors

from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.retry import CONFLICTS, EXHAUSTED, retrying
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.session import lock_syncs
from pgsplit.replication.shared import SharedStream
from pgsplit.replication.slot import Connection
from pgsplit.replication.stream import Stream
from pgsplit.replication.upstreams import Busy, Upstreams, open_upstreams
from pgsplit.state.ledger import State, state

# How often a sync is tried, and the first pause, which doubles: five seconds in all.
SYNC_TRIES = 10
FIRST_PAUSE_SECONDS = 0.01

Found = TypeVar("Found")


@dataclass(frozen=True)
class Synced:
    """What a sync did: rows by table, seconds, and the monolith's time that the tables show."""

    upserted: Mapping[str, int]
    deleted: Mapping[str, int]
    seconds: float
    as_of: datetime | None

    @property
    def rows(self) -> int:
        """Rows written, of all tables."""
        return sum(self.upserted.values()) + sum(self.deleted.values())


def built(connections: Connections) -> list[Service]:
    """Find the services that have been built, in phase order.

    Args:
        connections: where the monolith is, whose ledger knows.

    Raises:
        NotReady: there is none.
    """
    with connections.connect(connections.monolith) as monolith:
        found = [
            s
            for s in connections.project.services.values()
            if state(monolith, s).reached(State.BUILT)
        ]
    if not found:
        raise NotReady(
            "No service has been built, so there is nothing to sync.",
            where=describe(connections.monolith_url),
            hint="runner.py run",
        )
    return found


def sync(service: Service, connections: Connections) -> Synced:
    """Bring a service's tables to where the monolith stands now.

    Args:
        service: a service that has been built.
        connections: where the servers are.

    Returns:
        Rows upserted and deleted by table, and seconds.

    Raises:
        NotReady: the service has not been built, a stream has lost a part, or replication has
            stopped.
        SourceMismatch: the monolith's tables are no longer those that have landed.
        BuildFailed: rows break a rule of the service's tables. Nothing was changed, and no change
            is lost.
    """
    started = time.monotonic()
    with open_upstreams(service, connections) as upstreams:
        arrive(upstreams)
        done = apply_changes(upstreams.database)
        if upstreams.back:
            upstreams.back.arrive()
    return Synced(done.upserted, done.deleted, time.monotonic() - started, done.as_of)


def arrive(upstreams: Upstreams) -> None:
    """Wait until a service's mirror has everything that is committed where its data come from.

    Args:
        upstreams: the streams of a service that has been built.

    Raises:
        NotReady: replication is paused or broken, or nothing has moved for a minute.
        SourceMismatch: it stopped because the monolith's tables have changed.
    """
    for stream in upstreams.incoming:
        if isinstance(stream, SharedStream):
            apply_changes(stream.source)  # to the owner's mirror, from which the stream reads
        try:
            stream.arrive()
        except NotReady as error:
            raise upstreams.why_stopped(stream, error) from error


def apply_changes(database: Connection) -> Synced:
    """Run `split.sync()` once; see `apply_changes_and_look`."""
    return apply_changes_and_look(database, lambda inside: None)[0]


def apply_changes_and_look(
    database: Connection, look: Callable[[Connection], Found]
) -> tuple[Synced, Found]:
    """Run `split.sync()` once and look at the result; retried if somebody wrote the same rows.

    Args:
        database: an autocommit connection to a service's database.
        look: called in the same transaction, which sees mirror and tables in one state. No other
            sync runs meanwhile.

    Returns:
        Rows upserted and deleted by table, and seconds; and what `look` has found.

    Raises:
        BuildFailed: rows break a rule of the service's tables. Nothing was changed, and no change
            is lost.
        Busy: somebody else was in the way at every try, or the server has no room.
    """
    started = time.monotonic()
    try:
        return retrying(CONFLICTS, tries=SYNC_TRIES, seconds=FIRST_PAUSE_SECONDS, doubles=True)(
            _apply_once, database, look, started
        )
    except CONFLICTS as error:
        raise Busy(
            f"A sync failed {SYNC_TRIES} times: {error.diag.message_primary}",
            where=describe(database.info.dsn),
            hint="Nothing was changed. Try again when that is over.",
        ) from error
    except EXHAUSTED as error:
        raise exhausted(error, database) from error
    except (errors.IntegrityError, errors.DataError, errors.ProgramLimitExceeded) as error:
        said = filter(None, (error.diag.message_primary, error.diag.message_detail))
        raise BuildFailed(
            "Rows of the monolith break a rule of a service's table: " + "\n  ".join(said),
            where=describe(database.info.dsn),
            hint="Fix the rows in the monolith, or loosen the rule in the model's yml and in the"
            " table. Nothing was changed, and what has changed in the monolith is kept for the"
            " next sync.",
        ) from error


def exhausted(error: psycopg.Error, database: Connection) -> Busy:
    """Give the error for a server that has no room, memory or connection left."""
    return Busy(
        f"The server can't take it now: {error.diag.message_primary or error}",
        where=describe(database.info.dsn),
        hint="Make room there: a larger disk, or less on it. No change is lost: it waits where it"
        " came from.",
    )


def _apply_once(
    database: Connection, look: Callable[[Connection], Found], started: float
) -> tuple[Synced, Found]:
    with database.transaction():
        database.execute("set transaction isolation level repeatable read")
        database.execute("set local lock_timeout = 0")  # the sync before this one may take long
        # The lock comes before the snapshot, which so contains what the sync before has done.
        lock_syncs(database)
        rows = database.execute("select * from split.sync()").fetchall()
        as_of = database.execute("select as_of from split.service").fetchone()
        synced = Synced(
            {table: upserted for table, upserted, _ in rows},
            {table: deleted for table, _, deleted in rows},
            time.monotonic() - started,
            as_of[0] if as_of else None,
        )
        return synced, look(database)


def how_far(stream: Stream) -> tuple[int, float | None]:
    """Tell how far a service's tables are behind.

    Args:
        stream: a stream to a service that has been built.

    Returns:
        How many captured changes its tables do not show yet, and how old what they show is, in
        seconds by the monolith's clock; None before the first sync.
    """
    row = stream.database.execute(
        "select (select count(*) from split.changes), as_of from split.service"
    ).fetchone()
    assert row is not None
    age = stream.monolith.execute(
        "select extract(epoch from clock_timestamp() - %s::timestamptz)::float", (row[1],)
    ).fetchone()
    return int(row[0]), age[0] if age else None
