"""Verifies, row by row, that a service's tables hold what the monolith's rows yield.

`checks` says what is compared with what. How each table compared is recorded in the monolith, in
`split.verifications`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from psycopg import errors

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.row_diff import Comparison, compare
from pgsplit.postgres.row_hashes import Connection
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.prove import proof
from pgsplit.prove.checks import Check, checks, read_tables, rebuilding
from pgsplit.prove.proof import Proof
from pgsplit.prove.recorded import interrupted_since, proven_since, record
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
    `own_changes` are changes of the service's tables that may be why rows differ. `before` is the
    proof of all rows, after which only rows that had changed were compared; if it is broken, or
    None because nobody asked, all rows were. `all_of` are tables of which all rows were compared
    nevertheless, since nothing tells which have changed.
    """

    service: Service
    tables: dict[str, Comparison]
    earlier: tuple[str, ...]
    seconds: float
    is_switched: bool = False
    own_changes: tuple[str, ...] = ()
    before: Proof | None = None
    all_of: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether all rows were compared."""
        return self.before is None or bool(self.before.broken)

    @property
    def compared(self) -> int:
        """How many of the service's rows were compared."""
        return sum(found.rows for found in self.tables.values())

    @property
    def told(self) -> str:
        """Say which rows were compared, for people."""
        if self.before is None:
            return "all rows"
        changed = self.compared - sum(self.tables[name].rows for name in self.all_of)
        others = f", and all rows of {', '.join(self.all_of)}" if self.all_of else ""
        return self.before.told(changed) + others

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
    *,
    whole: bool = False,
) -> Verified:
    """Compare a service's tables with what the living monolith's rows yield.

    The tables are brought up to date first; a follower may be running meanwhile. Once all rows were
    proven, and as long as nothing has broken that proof, only the rows that have changed since are
    compared. After an interrupted run, only the tables that it has not proven are.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        table: compare only this one, and all its rows.
        on_table: called with each table's name before it is compared.
        whole: compare all rows.

    Returns:
        Each table's comparison. The service enters the state verified if all rows of all tables
        are right; it leaves that state if any row is wrong.

    Raises:
        NotReady: the service has not been built, has no such table, or replication has stopped or
            was broken meanwhile; the databases' encodings differ; somebody has altered what only
            changed rows were compared of.
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
        before = None
        if not table and not whole:
            before = _before(ledger, upstreams, stands, list(filter(None, breaches)))
        is_whole = before is None or bool(before.broken)
        # What was proven before a stream was found broken isn't any more.
        since = None
        if not table and not any(breaches):
            since = interrupted_since(ledger, service, is_whole=is_whole)
        found = proven_since(ledger.connection, service, chosen, since)
        earlier, names, all_of = tuple(found), [one.name for one in chosen], list[str]()
        is_proof = table is None and not stands.reached(State.SWITCHED)
        with ledger.step(
            service,
            "verify",
            whole=table is None,
            tables=names,
            goes_on_from=since,
            compares="all rows" if is_whole else "changed rows",
        ) as step:
            _catch_up(upstreams)
            if is_proof:
                proof.begin(upstreams.database, goes_on=since is not None)
                now = proof.known(upstreams.database)
                if not is_whole and now.broken:  # since it was asked first
                    before, is_whole, earlier = now, True, ()
                    found.clear()
            for one in chosen:
                if one.name not in found:
                    on_table(one.name)
                    connections.throttle.wait()
                    narrow = None if is_whole else proof.only_changed(one, upstreams.database)
                    if narrow is None and not is_whole:
                        all_of.append(one.name)
                    found[one.name] = _compare(narrow or one, upstreams, ledger)
            seconds = time.monotonic() - started
            is_switched = stands.reached(State.SWITCHED)
            verified = Verified(
                service, found, earlier, seconds, is_switched, before=before, all_of=tuple(all_of)
            )
            if not verified.proven:
                suspects = own_changes(upstreams.database)
                reasons = tuple(str(one) for one in suspects if one.harm is not Harm.NONE)
                verified = replace(verified, own_changes=reasons)
            if not verified.proven:
                ledger.return_to(service, State.BUILT)
                step.outcome = "failed"
                step.detail["error"] = verified.complaint
            elif table is None:
                if is_proof:
                    rebuilt = _rebuilt(upstreams, connections, on_table) if is_whole else []
                    _end_proof_of_rows(upstreams, rebuilt, is_whole=is_whole)
                _end_proof(upstreams, is_switched=verified.is_switched)
                step.enters = State.VERIFIED
            step.detail.update(
                rows=verified.compared,
                differing=sum(one.differing for one in found.values()),
                unsettled=sum(one.unsettled for one in found.values()),
                seconds=round(verified.seconds, 3),
                compared=verified.told,
            )
    return verified


def _before(
    ledger: Ledger, upstreams: Upstreams, stands: State, breaches: list[continuity.Breach]
) -> Proof:
    """Tell what is proven already, and why that is not enough."""
    before = proof.known(upstreams.database)
    if breaches:
        return replace(before, broken=breaches[0].reason)
    if before.broken or stands is State.COMPLETED:
        return before
    service = upstreams.service
    rows = ledger.connection.execute(
        "select table_name from split.verifications where service = %s and not is_proven",
        (service.database,),
    ).fetchall()
    tables = {*outdated(ledger, upstreams.database, service), *(name for (name,) in rows)}
    listed = ", ".join(sorted(tables))
    return replace(before, broken=f"these are not proven: {listed}" if tables else "")


def _compare(one: Check, upstreams: Upstreams, ledger: Ledger) -> Comparison:
    """Compare a table, or only its changed rows, and record the result."""
    found = Comparison()
    if one.changed is None or one.estimate:
        sides = (one.expected, one.actual, one.shape, one.estimate)
        found = compare(*sides, partial(_catch_up, upstreams), one.changed)
    record(ledger, upstreams.service, one, found)
    return found


def _end_proof_of_rows(upstreams: Upstreams, rebuilt: Sequence[str], *, is_whole: bool) -> None:
    """Let all that is noted count from this verification on.

    Raises:
        NotReady: only changed rows were compared, and somebody has altered a table meanwhile.
    """
    database, service = upstreams.database, upstreams.service
    if not proof.end(database, is_whole=is_whole, rebuilt=rebuilt) and not is_whole:
        raise NotReady(
            f"Tables of {service.database} were altered while it was verified, so nothing is"
            f" proven: {proof.known(database).broken}.",
            where=describe(database.info.dsn),
            hint=f"runner.py verify {service.role} --whole",
        )


def _rebuilt(
    upstreams: Upstreams, connections: Connections, on_table: Callable[[str], None]
) -> list[str]:
    """Name the mirror's tables that the reverse models rebuild, row by row.

    Others are tried by the preflight of a switch, which says what is wrong.
    """
    found = list[str]()
    with suppress(NotReady, errors.ProgrammingError, errors.DataError):
        for one in rebuilding(upstreams, connections):
            on_table(f"reverse replication of {one.mirrored}")
            connections.throttle.wait()
            sides = (one.expected, one.actual, one.shape, one.estimate)
            if compare(*sides, partial(_catch_up, upstreams)).proven:
                found.append(one.mirrored)
    return found


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
