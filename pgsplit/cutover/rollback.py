"""The rollback makes the monolith the source of truth again, with all that the service wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.cutover import preflight
from pgsplit.cutover.cutover import Cutover
from pgsplit.cutover.locks import (
    SYNC_LOCK_SECONDS,
    change_definitions,
    disable_triggers,
    patiently,
)
from pgsplit.cutover.moved import Moved
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.postgres.holders import milliseconds
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.prove import proof
from pgsplit.replication import reverse
from pgsplit.replication.fence import Fence
from pgsplit.replication.own_changes import as_warning, can_tell
from pgsplit.replication.session import lock_syncs, open_session
from pgsplit.replication.slot import Connection
from pgsplit.replication.subscription import add_tables, drop_tables
from pgsplit.replication.sync import apply_changes
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind

# From here on the tables follow the monolith again. In a schema of an older version, the next sync
# compares them whole, once.
STOP_SERVICE = "select split.follow_again()"
STOP_SERVICE_WHOLE = """
    update split.service set switched_at = null;
    update split.service_tables set is_stale = true where owned_rows <> 'false'
"""
KEPT = "select table_name, kept_in, rows from split.quarantined where is_latest order by 1"


class Rollback(Cutover):
    """The cutover from the service to the monolith; see `Cutover` for its arguments."""

    kind = Kind.ROLLBACK
    title = "a rollback"
    returns_to = State.VERIFIED
    needs_finish = True
    side = Side.MONOLITH
    clock_sign = -1
    leads_to = "monolith"
    is_switched: bool  # set by `hold`
    # Which rows of the mirror were looked at, by table; see `_find_changed`.
    changed: Mapping[str, list[str] | None] | None = None
    compared = ""

    @property
    def old(self) -> Fence:
        """The service's own tables."""
        return self.service_fence

    @property
    def new(self) -> Fence:
        """The monolith's tables."""
        return self.monolith_fence

    @property
    def old_database(self) -> str:
        """The service's database."""
        return self.service.database

    def preflight(self) -> PreflightReport:
        """Check that a rollback would lose nothing."""
        return preflight.for_rollback(
            self.session, self.ledger, self.say, with_backup=self.with_backup
        )

    def prepare(self) -> None:
        """Check the reverse stream, which the rest depends on; there is nothing to make."""
        self.session.reverse.require_unbroken()
        assert self.read_tables  # asked now, and not in the pause

    @cached_property
    def read_tables(self) -> str:
        """The mirror's and the service's tables, as a statement lists them."""
        row = self.session.database.execute(
            "select string_agg(oid::regclass::text, ', ') from pg_class"
            " where relkind in ('r', 'p')"
            " and relnamespace in (to_regnamespace(%s), to_regnamespace(%s))",
            (self.service.mirror, self.service.database),
        ).fetchone()
        assert row is not None
        return str(row[0])

    def undo_prepare(self) -> None:
        """Nothing was made."""

    def catch_up(self) -> dict[str, Any]:
        """Let the monolith have what the service has written so far."""
        done = apply_changes(self.session.database, SYNC_LOCK_SECONDS)
        self.session.reverse.arrive()
        return {"rows": done.rows}

    def drain(self) -> dict[str, Any]:
        """Let the monolith have the rest, within the pause."""
        done = apply_changes(self.session.database, self.remaining())
        arrived_after = self.arrive(self.session.reverse)
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def hold(self, seconds: float) -> None:
        """Publish the monolith's tables and open its fence, uncommitted, and under the sync lock.

        The sync lock comes with a snapshot of the mirror before anybody writes the monolith, and
        with locks on all that `finish` reads in it.
        `finish` ends both. If it never gets there, the connection's end does.
        """
        holder, timeout = self.holder, f"set local lock_timeout = {milliseconds(seconds)}"
        holder.execute("begin isolation level repeatable read")
        holder.execute(timeout)
        lock_syncs(holder)
        is_open = self.new.is_open()
        if is_open:  # resumed: what the monolith writes meanwhile has to wait outside the mirror
            tables = [sql.Identifier(self.service.mirror, name) for name in self.owned]
            listed = sql.SQL(", ").join(tables)
            holder.execute(sql.SQL("lock table {} in exclusive mode").format(listed))
        holder.execute(f"lock table {self.read_tables} in access share mode")
        row = holder.execute("select switched_at is not null from split.service").fetchone()
        self.is_switched = row == (True,)
        if is_open:
            return
        monolith, self.is_held = self.session.monolith, True
        monolith.execute("begin")
        monolith.execute(timeout)
        add_tables(monolith, self.session.forward.name, self.service.mirror, self.owned)
        self.new.open()

    def held(self) -> Sequence[Connection]:
        """Name the connections whose transactions `hold` begins."""
        return self.session.monolith, self.holder

    def commit(self) -> None:
        """Close the service's fence for good and unpublish its tables; atomic."""
        if self.old.is_closed_for_good():
            return
        database = self.session.database
        with database.transaction():
            self.commit_old()
            drop_tables(database, self.session.reverse.name, self.service.mirror, list(self.owned))

    def finish(self) -> dict[str, Any]:
        """Quarantine what the monolith can't hold, and remove the reverse stream."""
        self._follow_again()
        # The stream goes first: without the triggers on its tables it would prove nothing.
        session = self.session
        patiently(session.reverse.remove, session.monolith, session.database)
        disable_triggers(self.new)
        broken = self._broken_since_the_switch()
        self.result.warnings += [
            f"{rows:,} row(s) of {table} break its foreign key {key}, which replication does not"
            f" check. To find them: runner.py parity {self.service.role}"
            for table, key, rows in broken
        ]
        return {
            "kept": dict(self.result.kept),
            "broken_keys": broken,
            "compared": self.compared,
        }

    def _broken_since_the_switch(self) -> list[tuple[str, str, int]]:
        """Count by key the rows that break it; not as many as did before, such as of NOT VALID."""
        known = self.ledger.last(self.service, Kind.SWITCH.entry("finish")).get("broken_keys")
        before = {(table, key): rows for table, key, rows in known or ()}
        try:
            # A switch that could not count them, or of an earlier version, has left nothing.
            found = reverse.broken_keys(
                self.session.monolith,
                self.service,
                only_valid=known is None,
                known=None if known is None else self.known_as_broken(),
                changed=self.changed,
            )
        except LockNotAvailable as error:
            self.result.warnings.append(
                f"Foreign keys were not checked: {str(error).strip()}\nTo check them: runner.py"
                f" parity {self.service.role}"
            )
            return []
        worse = [(table, key, rows - before.get((table, key), 0)) for table, key, rows in found]
        return [one for one in worse if one[2] > 0]

    def _find_changed(self, database: Connection) -> None:
        """Find the ids by table that may have changed since the proof; None if it is broken."""
        before = proof.known(database)
        self.changed = None if before.broken else proof.changed_ids(database, self.owned)
        known = self.changed or {}
        tables = ", ".join(name for name, ids in known.items() if ids is None)
        self.compared = before.told(sum(len(ids or ()) for ids in known.values()))
        self.compared += f"; all rows of {tables}, since nothing tells" if tables else ""

    def _follow_again(self) -> None:
        """Quarantine rows that the monolith can't hold; only then the tables follow it again."""
        database, label = self.session.database, f"{datetime.now(timezone.utc):%Y%m%d_%H%M%S}"
        knows, kept = can_tell(database), []  # a schema of an older version doesn't
        notes = proof.can_tell(database)
        self._find_changed(self.holder)
        if self.is_switched:
            if knows:
                self._rest_triggers()
                self.holder.execute("update split.service set ended_switch = switched_at")
            kept = self.holder.execute("select * from split.keep_unlike(%s)", (label,)).fetchall()
            self.holder.execute(STOP_SERVICE if notes else STOP_SERVICE_WHOLE)
            if knows:  # the next comparison replaces nothing that is not kept by now
                self.holder.execute("update split.service set keeps_replaced = false")
        self.holder.commit()
        if knows:  # recorded, since whoever resumes this has to say it, too
            kept = database.execute(KEPT).fetchall()
        self.result.kept = {table: (f"audit.{name}", rows) for table, name, rows in kept}
        try:
            with as_warning(self.service, self.result.warnings):
                apply_changes(database, SYNC_LOCK_SECONDS)
                if knows:
                    database.execute("update split.service set keeps_replaced = true")
        except (SplitError, LockNotAvailable) as error:
            # The next sync does it: nothing is lost, and the monolith takes writes.
            self.result.warnings.append(f"The service's tables don't follow yet: {error}")

    def _rest_triggers(self) -> None:
        """Disable the service's own triggers, so that its tables get what the monolith has."""
        database = self.session.database
        try:
            change_definitions(
                database,
                self.service_fence.tables,
                lambda: database.execute("select * from split.rest_own_triggers()"),
            )
        except (NotReady, psycopg.ProgrammingError) as error:
            said = error.what if isinstance(error, NotReady) else str(error).strip()
            self.result.warnings.append(
                f"The service's own triggers are still enabled: {said}\n"
                f"  hint:  runner.py psql {self.service.role} -c"
                " 'select * from split.rest_own_triggers()'"
            )


def rollback(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    max_pause: float,
    say: Callable[[str], None],
    *,
    with_backup: bool = True,
) -> Moved:
    """Make the monolith the source of truth again, with every write that the service has taken.

    Arguments, return and errors are those of `switch`. Rows that the monolith can't hold are
    quarantined in the schema `audit` of the service's database, and reported.
    """
    with open_session(service, connections) as session:
        return Rollback(session, ledger, say, max_pause=max_pause, with_backup=with_backup).run()
