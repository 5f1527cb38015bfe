"""Verifies, row by row, that a service's tables hold what the monolith's rows yield.

`checks` says what is compared with what. How each table compared is recorded in the monolith, in
`split.verifications`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial

from psycopg import errors
from psycopg.types.json import Jsonb

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.row_diff import Comparison, compare
from pgsplit.postgres.row_hashes import Connection
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.prove.checks import Check, checks, read_tables
from pgsplit.replication import continuity, requirements, reverse
from pgsplit.replication.forgotten import require_remembered
from pgsplit.replication.own_changes import Harm, own_changes
from pgsplit.replication.reverse import ReverseStream
from pgsplit.replication.shared import needs_monolith
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes, arrive
from pgsplit.replication.upstreams import LOCK_TIMEOUT, Upstreams, open_upstreams
from pgsplit.state.ledger import Ledger, State


@dataclass(frozen=True)
class Verified:
    """How a service's tables compare; `earlier` are those that an interrupted run has proven.

    If the service is switched, the monolith's tables are among them, named with their schema.
    `own_changes` are changes of the service's tables that may be why rows differ.
    """

    service: Service
    tables: dict[str, Comparison]
    earlier: tuple[str, ...]
    seconds: float
    is_switched: bool = False
    own_changes: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether every row of every table is right."""
        return all(found.proven for found in self.tables.values())

    @property
    def complaint(self) -> str:
        """Why it is not proven, in a few words."""
        differing = sum(found.differing for found in self.tables.values())
        unsettled = sum(found.unsettled for found in self.tables.values())
        if differing:
            return "1 row differs" if differing == 1 else f"{differing:,} rows differ"
        return f"rows in flux: {unsettled:,}"


def verify(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    table: str | None = None,
    on_table: Callable[[str], None] = lambda name: None,
) -> Verified:
    """Compare a service's tables with what the living monolith's rows yield.

    The tables are brought up to date first; a follower may be running meanwhile. After an
    interrupted run, only the tables that it has not proven are compared.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        table: compare only this one.
        on_table: called with each table's name before it is compared.

    Returns:
        Each table's comparison. The service enters the state verified if all rows of all tables
        are right; it leaves that state if any row is wrong.

    Raises:
        NotReady: the service has not been built, has no such table, or replication has stopped or
            was broken meanwhile; the databases' encodings differ.
        SourceMismatch: the monolith's tables have changed since landing.
        BuildFailed: rows violate a constraint of the service's tables, so that these can't be
            brought up to date.
    """
    started = time.monotonic()
    with open_upstreams(service, connections) as upstreams:
        if needs_monolith(upstreams.monolith, service):
            requirements.same_encoding(upstreams.monolith, upstreams.database)
        upstreams.database.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        require_remembered(service, upstreams.monolith, upstreams.database)
        if table is None:  # verified again below, or not any more
            ledger.return_to(service, State.BUILT)
            ends = upstreams.monolith, upstreams.database
            reverse.remove_forgotten(ReverseStream(service, *ends))
        stands = ledger.state(service)
        chosen = _chosen(checks(upstreams, connections, stands), table, upstreams)
        # A single table is always compared again.
        breaches = [] if table else [continuity.begin_proof(one) for one in upstreams.streams]
        # What was proven before a stream was found broken isn't any more.
        since = None if table or any(breaches) else _interrupted_since(ledger, service)
        found = _proven_since(ledger.connection, service, chosen, since)
        earlier, names = tuple(found), [one.name for one in chosen]
        with ledger.step(
            service, "verify", whole=table is None, tables=names, goes_on_from=since
        ) as step:
            _catch_up(upstreams)
            for one in chosen:
                if one.name not in found:
                    on_table(one.name)
                    sides = (one.expected, one.actual, one.shape, one.estimate)
                    found[one.name] = compare(*sides, partial(_catch_up, upstreams))
                    _record(ledger, service, one, found[one.name])
            seconds = time.monotonic() - started
            verified = Verified(service, found, earlier, seconds, stands.reached(State.SWITCHED))
            if not verified.proven:
                suspects = own_changes(upstreams.database)
                reasons = tuple(str(one) for one in suspects if one.harm is not Harm.NONE)
                verified = replace(verified, own_changes=reasons)
            if not verified.proven:
                ledger.return_to(service, State.BUILT)
                step.outcome = "failed"
                step.detail["error"] = verified.complaint
            elif table is None:
                _end_proof(upstreams, is_switched=verified.is_switched)
                step.enters = State.VERIFIED
            step.detail.update(
                rows=sum(one.rows for one in found.values()),
                differing=sum(one.differing for one in found.values()),
                unsettled=sum(one.unsettled for one in found.values()),
                seconds=round(verified.seconds, 3),
            )
    return verified


def outdated(ledger: Ledger, database: Connection, service: Service) -> list[str]:
    """Name the tables that are not proven in their present form.

    Args:
        ledger: the monolith's ledger.
        database: a connection to the service's database.
        service: a service that has been built.

    Returns:
        Tables that were never verified, whose model has changed since, or that have wrong rows.
    """
    proven = dict(
        ledger.connection.execute(
            "select table_name, definition from split.verifications"
            " where service = %s and is_proven",
            (service.database,),
        ).fetchall()
    )
    return [one.name for one in read_tables(database) if proven.get(one.name) != one.digest]


def _end_proof(upstreams: Upstreams, *, is_switched: bool) -> None:
    """Let the streams count as unbroken; before a switch, nobody needs what is replaced, either."""
    for stream in upstreams.streams:
        continuity.end_proof(stream)
    if not is_switched:
        with suppress(errors.UndefinedColumn):  # in a schema of an older version
            upstreams.database.execute("update split.service set keeps_replaced = false")


def _chosen(found: list[Check], table: str | None, stream: Stream) -> list[Check]:
    chosen = [one for one in found if table in (None, one.name, one.name.split(".")[-1])]
    if not chosen:
        raise NotReady(
            f"{stream.service.database} has no table {table} made by a model.",
            where=describe(stream.database.info.dsn),
            hint=f"Choose from: {', '.join(one.name for one in found)}.",
        )
    return chosen


def _catch_up(upstreams: Upstreams) -> None:
    arrive(upstreams)
    apply_changes(upstreams.database)
    if upstreams.back:
        upstreams.back.arrive()


def _interrupted_since(ledger: Ledger, service: Service) -> str | None:
    """Tell since when tables are proven, if the last verification was interrupted.

    Proofs that are older than an hour don't count.
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
    monolith: Connection, service: Service, found: list[Check], since: str | None
) -> dict[str, Comparison]:
    rows = monolith.execute(
        "select table_name, result from split.verifications"
        " where service = %s and started_at >= %s::timestamptz and is_proven"
        " and (table_name, definition) in (select * from unnest(%s::text[], %s::text[]))",
        (service.database, since, [one.name for one in found], [one.digest for one in found]),
    )
    return {name: Comparison.of(result) for name, result in rows}


def _record(ledger: Ledger, service: Service, check: Check, found: Comparison) -> None:
    ledger.connection.execute(
        "insert into split.verifications"
        " (service, table_name, definition, started_at, is_proven, result)"
        " values (%s, %s, %s, clock_timestamp() - make_interval(secs => %s), %s, %s)"
        " on conflict (service, table_name) do update"
        " set definition = excluded.definition, started_at = excluded.started_at,"
        " finished_at = default, is_proven = excluded.is_proven, result = excluded.result",
        (
            service.database,
            check.name,
            check.digest,
            found.seconds,
            found.proven,
            Jsonb(asdict(found)),
        ),
    )
