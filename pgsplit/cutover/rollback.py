"""The rollback makes the monolith the source of truth again, with all that the service wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.cutover import preflight
from pgsplit.cutover.cutover import Cutover, Moved
from pgsplit.cutover.locks import change_definitions, disable_triggers
from pgsplit.cutover.preflight import PreflightReport
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import reverse
from pgsplit.replication.fence import Fence
from pgsplit.replication.own_changes import as_warning, can_tell
from pgsplit.replication.session import lock_syncs, open_session
from pgsplit.replication.subscription import add_tables, drop_tables
from pgsplit.replication.sync import apply_changes
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import Kind

# From here on the tables follow the monolith again. The next sync compares them whole, once.
STOP_SERVICE = """
    update split.service set switched_at = null;
    update split.service_tables set is_stale = true where owned_rows <> 'false'
"""


class Rollback(Cutover):
    """The cutover from the service to the monolith; see `Cutover` for its arguments."""

    kind = Kind.ROLLBACK
    title = "a rollback"
    returns_to = State.VERIFIED
    side = Side.MONOLITH
    clock_sign = -1
    leads_to = "monolith"
    # Both are set by `open`.
    sync_lock: ExitStack
    is_switched: bool

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
        return preflight.for_rollback(self.session, self.ledger, self.say)

    def prepare(self) -> None:
        """Check the reverse stream, which the rest depends on; there is nothing to make."""
        self.session.reverse.require_unbroken()

    def undo_prepare(self) -> None:
        """Nothing was made."""

    def catch_up(self) -> dict[str, Any]:
        """Let the monolith have what the service has written so far."""
        done = apply_changes(self.session.database)
        self.session.reverse.arrive()
        return {"rows": done.rows}

    def drain(self) -> dict[str, Any]:
        """Let the monolith have the rest, within the pause."""
        done = apply_changes(self.session.database)
        arrived_after = self.arrive(self.session.reverse)
        return {"arrived": round(arrived_after, 4), "rows": done.rows, "synced": done.seconds}

    def commit(self) -> None:
        """Close the service's fence for good and unpublish its tables; atomic."""
        if self.old.is_closed_for_good():
            return
        database = self.session.database
        with self.locks_explained(), database.transaction():
            lock_syncs(database)
            self.commit_old()
            drop_tables(database, self.session.reverse.name, self.service.mirror, list(self.owned))

    def open(self) -> dict[str, Any] | None:
        """Publish the monolith's tables and open its fence; atomic, and under the sync lock."""
        is_open = self.new.is_open()
        self._hold_syncs(lock_mirror=is_open)
        if is_open:
            return None
        monolith = self.session.monolith
        with monolith.transaction():
            add_tables(monolith, self.session.forward.name, self.service.mirror, self.owned)
            self.new.open()
            opened_at = self.new.clock()
        self.result.opened_at = opened_at
        return {"opened_at": opened_at.isoformat()}

    def finish(self) -> dict[str, Any]:
        """Quarantine what the monolith can't hold, and remove the reverse stream."""
        self._follow_again()
        disable_triggers(self.new)
        self.session.reverse.remove()
        broken = self._broken_since_the_switch()
        self.result.warnings += [
            f"{rows:,} row(s) of {table} break its foreign key {key}, which replication does not"
            f" check. To find them: runner.py parity {self.service.role}"
            for table, key, rows in broken
        ]
        return {"kept": dict(self.result.kept), "broken_keys": broken}

    def _broken_since_the_switch(self) -> list[tuple[str, str, int]]:
        """Count by key the rows that break it; not as many as did before, such as of NOT VALID."""
        known = self.ledger.last(self.service, Kind.SWITCH.entry("finish")).get("broken_keys", [])
        before = {(table, key): rows for table, key, rows in known}
        found = reverse.broken_keys(self.session.monolith, self.service)
        worse = [(table, key, rows - before.get((table, key), 0)) for table, key, rows in found]
        return [one for one in worse if one[2] > 0]

    def _hold_syncs(self, *, lock_mirror: bool = False) -> None:
        """Take the sync lock, and see the mirror as it is before anybody writes the monolith.

        `finish` releases it. If it never gets there, the connection's end does. If the monolith is
        open already, its writes go on arriving: `lock_mirror` lets them wait until the release.
        """
        database = self.session.database
        with ExitStack() as lock:
            lock.enter_context(database.transaction())
            database.execute("set transaction isolation level repeatable read")
            lock_syncs(database)
            if lock_mirror:
                tables = [sql.Identifier(self.service.mirror, name) for name in self.owned]
                listed = sql.SQL(", ").join(tables)
                database.execute(sql.SQL("lock table {} in exclusive mode").format(listed))
            row = database.execute("select switched_at is not null from split.service").fetchone()
            self.is_switched = row == (True,)
            self.sync_lock = lock.pop_all()

    def _follow_again(self) -> None:
        """Quarantine rows that the monolith can't hold; only then the tables follow it again."""
        database, label = self.session.database, f"{datetime.now(timezone.utc):%Y%m%d_%H%M%S}"
        known = can_tell(database)  # a schema that an older pgsplit has made has no such records
        with self.sync_lock:
            if self.is_switched:
                if known:
                    self._rest_triggers()
                quarantined = database.execute("select * from split.keep_unlike(%s)", (label,))
                self._note_kept(quarantined)
                database.execute(STOP_SERVICE)
        if known:  # whoever resumes this has to say it, too
            self._note_kept(database.execute("select * from split.quarantined order by 1"))
        with as_warning(self.service, self.result.warnings):
            apply_changes(database)

    def _note_kept(self, rows: Iterable[tuple[str, str, int]]) -> None:
        self.result.kept = {table: (f"audit.{kept_in}", count) for table, kept_in, count in rows}

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
