"""Preflight: what must hold before an operation, checked before anything is changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg.errors import DatatypeMismatch

from pgsplit.backup.ready import require_ready
from pgsplit.base.errors import NotReady, SplitError
from pgsplit.cutover import later, surroundings
from pgsplit.cutover.blockers import Needed, blockers
from pgsplit.cutover.locks import SYNC_LOCK_SECONDS, Watches
from pgsplit.cutover.stands import require_state
from pgsplit.project import drift
from pgsplit.project.project import Service
from pgsplit.prove import proof
from pgsplit.prove.checks import require_unaltered
from pgsplit.prove.verify import outdated
from pgsplit.replication import continuity, requirements
from pgsplit.replication.own_changes import Harm, harmful
from pgsplit.replication.session import Session
from pgsplit.replication.slot import Connection
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State, completed
from pgsplit.state.saga import Kind

PROOF_HOURS = 24
MOST_LAG_SECONDS = 5.0
MOST_SYNC_SECONDS = 2.0
CATCH_UPS = 10
SHORT_SYNC_SECONDS = 0.1
SAMPLES = 3

# Columns, checks and unique indexes of owned tables that no model knows.
UNKNOWN = """
    with

    owned as (
        select oid, relname, oid::regclass::text as name from pg_class
        where oid = any(%(tables)s::regclass[])
    )

    select
        format('column %%s.%%I is new', owned.name, attname),
        'Say in models/_sources.yml and seeds/column_ownership.csv where it goes: docs/extending.md'
    from owned inner join pg_attribute on attrelid = owned.oid
    where
        attnum > 0 and not attisdropped and attgenerated = ''
        and not format('%%s.%%s', owned.relname, attname) = any(%(known)s)
    union all
    select
        format('constraint %%I on %%s', conname, owned.name),
        format(
            'Give the service''s table the same check, then: alter table %%s drop constraint %%I;',
            owned.name, conname
        )
    from owned inner join pg_constraint on conrelid = owned.oid
    where contype in ('c', 'x')
    union all
    select
        format('unique index %%s on %%s', indexrelid::regclass, owned.name),
        'List its columns under `unique` in models/_sources.yml; give it to the service''s table'
    from owned inner join pg_index on indrelid = owned.oid
    where
        indisunique and exists (
            select from unnest(indkey::smallint[]) as part (attnum)
            left join pg_attribute on attrelid = owned.oid and pg_attribute.attnum = part.attnum
            where coalesce(format('%%s.%%s', owned.relname, attname) <> all(%(unique)s), true)
        )
    union all
    select
        format('row security of %%s is forced on its owner, who replicates', owned.name),
        format('alter table %%s no force row level security;', owned.name)
    from owned inner join pg_class as class on class.oid = owned.oid
    inner join pg_roles as owner on owner.oid = class.relowner
    where relrowsecurity and relforcerowsecurity and not (rolsuper or rolbypassrls)
"""


@dataclass
class PreflightReport:
    """What was found: problems with what fixes them, and how long the streams take now.

    `places` says where a problem is, if that is known. `tried` says by table which rows reverse
    replication was tried on.
    """

    problems: list[tuple[str, str]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    lag_seconds: float = 0.0
    sync_seconds: float = 0.0
    tried: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, hint: str, where: str = "") -> None:
        """Note a problem."""
        self.places[what] = where
        if (what, hint) not in self.problems:
            self.problems.append((what, hint))

    def as_data(self) -> dict[str, Any]:
        """Give it as plain data for `--json`."""
        return {key: value for key, value in vars(self).items() if key != "places"}

    def require(self, service: Service, where: str, operation: str) -> None:
        """Raise NotReady with all problems in one message, if there are any."""
        if not self.problems:
            return
        raise NotReady(
            f"{service.database} is not ready for {operation}. Nothing was changed:\n"
            + "\n".join(f"  - {what}{self._place(what, where)}" for what, _ in self.problems),
            where=where,
            hint="\n".join(dict.fromkeys(hint for _, hint in self.problems)),
        )

    def _place(self, what: str, where: str) -> str:
        place = self.places.get(what, "")
        return f"\n    where: {place}" if place not in ("", where) else ""


def for_switch(
    session: Session, ledger: Ledger, say: Callable[[str], None], *, with_backup: bool = False
) -> PreflightReport:
    """Check that a service can be switched; only a heartbeat and a sync are written.

    Reverse replication is tried on every row, or on those that have changed since every row was
    proven: what the reverse models would make of the mirror is compared with what it holds.

    Args:
        session: the service's session.
        ledger: the monolith's ledger.
        say: called with what is being checked.
        with_backup: whether the old side is to be dumped first.

    Returns:
        What was found; see `PreflightReport.require`.

    Raises:
        NotReady: the service is in another state, or has an unfinished operation.
    """
    require_state(session, ledger, State.VERIFIED, "switched")
    found, service = PreflightReport(), session.service
    _find_old_proof(found, session, ledger)
    if _find_own_changes(found, session, Harm.FORWARD, Harm.REVERSE):
        return found
    _collect(found, lambda: _require_as_made(session))
    _find_unknown(found, session)
    _collect(found, lambda: later.require_unaltered(session))
    before = ledger.was_begun(service, Kind.SWITCH.entry("prepare"))
    _collect(
        found,
        lambda: requirements.reverse(
            session.database, session.monolith, service, made_before=before
        ),
    )
    say("what the later steps need")
    _look_around(found, session, session.connections.monolith if with_backup else "")
    _look_ahead(found, later.for_switch(session), lambda: later.require_ours(session))
    if not found.problems:
        _collect(found, lambda: later.try_reverse_stream(session))
    say("how far behind")
    _collect(found, lambda: continuity.require_unbroken([session.forward]))
    _collect(found, lambda: _explained(session, lambda: _time_stream(found, session)))
    if not found.problems:
        _try_reverse(found, session, say)
    return found


def _find_old_proof(found: PreflightReport, session: Session, ledger: Ledger) -> None:
    """Check that all tables were verified as they are now, and not long ago."""
    verify = f"runner.py verify {session.service.role}"
    if tables := outdated(ledger, session.database, session.service):
        found.add(f"not verified as they are made now: {', '.join(tables)}", verify)
    row = ledger.connection.execute(
        "select extract(epoch from now() - max(finished_at)) / 3600 from split.ledger"
        " where service = %s and step = 'verify' and outcome = 'done'"
        " and (intent ->> 'whole')::boolean",
        (session.service.database,),
    ).fetchone()
    if row and row[0] and row[0] > PROOF_HOURS:
        found.add(f"last verified {row[0]:.0f} hours ago; the limit is {PROOF_HOURS} hours", verify)


def for_rollback(
    session: Session, ledger: Ledger, say: Callable[[str], None], *, with_backup: bool = False
) -> PreflightReport:
    """Check that a service can be rolled back; see `for_switch`."""
    require_state(session, ledger, State.SWITCHED, "rolled back")
    found = PreflightReport()
    if _find_own_changes(found, session, Harm.FORWARD, Harm.REVERSE):
        return found
    _reverse_checked(found, session, say)
    _collect(found, lambda: later.require_unaltered(session))
    owned = session.service.owned_tables
    _collect(
        found,
        lambda: drift.check_written(session.monolith, session.database, session.service, owned),
    )
    say("what the later steps need")
    _look_around(found, session, session.service.database if with_backup else "")
    _look_ahead(
        found,
        later.for_rollback(session),
        lambda: later.require_ours(session),
        lambda: later.require_can_end(session.reverse),
    )
    if not found.problems:  # with another column missing, say, this only says so again
        _collect(found, lambda: later.try_to_publish(session))
    _collect(found, lambda: continuity.require_unbroken([session.forward]))
    _collect(found, session.forward.require_running)
    return found


def for_completion(
    session: Session, ledger: Ledger, say: Callable[[str], None], *, with_backup: bool = False
) -> PreflightReport:
    """Check that a service can be completed; see `for_switch`."""
    require_state(session, ledger, State.SWITCHED, "completed")
    found, service, connections = PreflightReport(), session.service, session.connections
    if _find_own_changes(found, session, Harm.REVERSE):
        return found
    _reverse_checked(found, session, say)
    say("what the later steps need")
    if with_backup:
        tables = [(service.mirror, name) for name in service.owned_tables]
        _collect(found, lambda: require_ready(connections.monolith, connections, tables=tables))
    _look_ahead(
        found,
        later.for_completion(session),
        lambda: later.require_ours(session),
        lambda: later.require_can_end(session.reverse),
        lambda: later.require_can_end(session.forward),
        lambda: later.require_schema(session, [service.project.retired_schema]),
    )
    return found


def _look_around(found: PreflightReport, session: Session, dumped: str) -> None:
    """Check what a cutover needs outside of the databases; `dumped` is backed up first."""
    connections = session.connections
    _collect(found, lambda: surroundings.require_routes(session))
    _collect(found, lambda: surroundings.require_pgbouncer(connections))
    _collect(found, lambda: surroundings.require_announcement(connections))
    if dumped:
        _collect(found, lambda: require_ready(dumped, connections))


def _look_ahead(
    found: PreflightReport, needed: Sequence[Needed], *checks: Callable[[], object]
) -> None:
    """Check what later steps need of the databases: locks, then whatever else."""
    before = len(found.problems)
    for what, hint in blockers(needed):
        found.add(what, hint)
    if len(found.problems) > before:
        return  # whoever has a lock would be in the way of the rest
    for check in checks:
        _collect(found, check)


def catch_up(session: Session) -> dict[str, object]:
    """Sync until a sync is short; give the rows and seconds of the last one."""
    for _ in range(CATCH_UPS):
        session.forward.arrive()
        done = apply_changes(session.database, SYNC_LOCK_SECONDS)
        if done.seconds < SHORT_SYNC_SECONDS:
            break
    return {"rows": done.rows, "seconds": round(done.seconds, 3)}


def _collect(found: PreflightReport, check: Callable[[], object]) -> None:
    try:
        check()
    except SplitError as error:
        found.add(error.what, error.hint, error.where)


def _require_as_made(session: Session) -> None:
    """Check that both sides still have the columns that they were made with."""
    drift.drift(session.monolith, session.database, session.service, completed(session.monolith))
    require_unaltered(session.forward)


def _time_stream(found: PreflightReport, session: Session) -> None:
    session.forward.require_running()
    started = time.monotonic()
    catch_up(session)
    found.lag_seconds = session.forward.arrive()
    found.sync_seconds = apply_changes(session.database, SYNC_LOCK_SECONDS).seconds
    for seconds, most, what in (
        (found.lag_seconds, MOST_LAG_SECONDS, "a write takes {:.1f} s to reach the mirror"),
        (found.sync_seconds, MOST_SYNC_SECONDS, "a sync takes {:.1f} s"),
    ):
        if seconds > most:
            found.add(
                f"{what.format(seconds)} after {time.monotonic() - started:.0f} s of catching up;"
                f" the limit is {most:.0f} s",
                f"runner.py sync {session.service.role} --follow, until it keeps up",
            )


def _find_own_changes(found: PreflightReport, session: Session, *harms: Harm) -> bool:
    """Find changes of the service's tables that a later step would fail on; true if any.

    They come first, and alone: the other checks read these tables.
    """
    before = len(found.problems)
    _collect(found, lambda: found.problems.extend(harmful(session.database, *harms)))
    return len(found.problems) > before


def _reverse_checked(found: PreflightReport, session: Session, say: Callable[[str], None]) -> None:
    """Check that what the service has written is in the monolith, or will be soon."""
    stream = session.reverse
    say("how far the monolith is behind")

    _collect(found, lambda: continuity.require_unbroken([stream]))

    def look() -> None:
        stream.require_running()
        found.sync_seconds = apply_changes(session.database, SYNC_LOCK_SECONDS).seconds
        try:
            found.lag_seconds = stream.arrive(within_seconds=MOST_LAG_SECONDS)
        except TimeoutError:
            found.add(
                f"{stream.destination} are more than {MOST_LAG_SECONDS:.0f} s behind",
                f"runner.py sync {session.service.role}, until it has caught up; then try again",
            )

    _collect(found, lambda: _explained(session, look))


def _explained(session: Session, look: Callable[[], None]) -> None:
    """Look at how far the streams are; if a lock is in the way, say whose."""
    with Watches(session.database, session.monolith) as watches, watches.explained():
        look()


def _find_unknown(found: PreflightReport, session: Session) -> None:
    """Find what the monolith's tables have gained that reverse replication would break on."""
    tables = session.service.owned_tables
    known = [f"{name}.{column}" for name, columns in tables.items() for column in columns]
    expected = session.service.project.tables
    unique = [f"{name}.{column}" for name in tables for column in expected[name].unique]
    rows = session.monolith.execute(
        UNKNOWN,
        {
            "tables": [f"{session.service.mirror}.{name}" for name in tables],
            "known": known,
            "unique": [*unique, *(f"{name}.id" for name in tables)],
        },
    )
    for what, hint in rows.fetchall():
        found.add(
            f"{what}: reverse replication could fail on it, or could not keep it up to date", hint
        )


def _try_reverse(found: PreflightReport, session: Session, say: Callable[[str], None]) -> None:
    database, tables = session.database, session.service.owned_tables
    before = proof.known(database)
    ids = {} if before.broken else proof.changed_ids(database, tables)
    for table in tables:
        model = f"models/{session.service.database}/reverse/monolith_{table}.sql"
        only = ids.get(table) if table in before.rebuilt else None
        found.tried[table] = before.told(None if only is None else len(only))
        say(f"reverse replication of {table}: {found.tried[table]}")
        if only == []:
            continue
        try:
            rows = _way_back_differs(database, table, only)
        except DatatypeMismatch as error:
            found.add(
                f"reverse replication can't write {table}: {error.diag.message_primary}",
                f"Give the columns of {model} the types of models/_sources.yml.",
            )
            continue
        if rows:
            shown = ", ".join(f"{id} ({difference})" for id, difference, _ in rows)
            found.add(
                f"reverse replication would change {rows[0][2]} row(s) of {table}: {shown}",
                f"Fix {model}; to see all:"
                f' runner.py psql {session.service.role} -c "select * from'
                f" split.way_back_differs('{table}')\"",
            )


def _way_back_differs(
    database: Connection, table: str, only: list[str] | None
) -> list[tuple[str, str, int]]:
    """Give a few rows that reverse replication would change, and how many there are."""
    some = "" if only is None else ", %s"  # a schema of an older version takes one argument
    return database.execute(
        "select id, difference, count(*) over ()"
        f" from split.way_back_differs(%s{some}) limit {SAMPLES}".encode(),
        (table,) if only is None else (table, only),
    ).fetchall()
