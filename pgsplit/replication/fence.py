"""The write fence: stops writes to a service's tables on the side that is not the source of truth.

The same fence stands in the monolith, on the tables that a service owns, and in the service's
database, on its own tables. A trigger on each table asks the one row of `split.gates`. Replication
passes, since ordinary triggers do not fire for it, and so does `split.sync()`; see
state/sql/both/passing.sql for how the triggers know who syncs.

A fence that is closed for a switch is closed on a lease: it opens by itself when the lease ends,
unless the switch was committed before. So a runner that is killed never stops writers for longer
than the pause that it was allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.postgres.holders import milliseconds, patience
from pgsplit.postgres.retry import LOCKED, retrying
from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]

FENCE_SQL = Path(__file__).with_name("fence.sql").read_bytes()
# Conflicts with every writer and with no reader: whoever gets it knows that no writer is left.
LOCK = sql.SQL("lock table {} in share row exclusive mode")
# As split.outdated_triggers() finds them, which an older schema split lacks. To write a definition,
# PostgreSQL would lock the table.
OUTDATED = """
    select distinct relname from pg_trigger
    inner join pg_class on pg_class.oid = tgrelid
    inner join pg_proc on pg_proc.oid = tgfoid
    where
        pronamespace = to_regnamespace('split') and tgqual is not null and tgparentid = 0
        and relnamespace = to_regnamespace(%s) and relname = any(%s)
        and tgqual::text
        ~ (':funcid ' || 'current_setting(text, boolean)'::regprocedure::oid || ' ')
        and tgqual::text
        !~ (':funcid ' || 'has_schema_privilege(name, text, text)'::regprocedure::oid || ' ')
    order by 1
"""
RENEW_TRIES = 5
BETWEEN_TRIES_SECONDS = 0.2
TRIGGERS = {
    "split_guard": "before insert or update or delete or truncate on {} for each statement",
    "split_guard_rows": "before insert or update or delete on {} for each row",
}


@dataclass(frozen=True)
class Fence:
    """A service's write fence in one database, with its tables in the order they are locked in."""

    service: Service
    database: Connection
    schema: str
    tables: Sequence[str]

    def prepare(self, leads_to: str = "", *, closed: bool = False) -> None:
        """Create the fence's row, open or closed for good; idempotent, and takes no table lock."""
        self.database.execute(FENCE_SQL)
        self.database.execute(
            "insert into split.gates (service, is_open, leads_to) values (%s, %s, %s)"
            " on conflict (service) do update"
            " set is_open = excluded.is_open, opens_at = null, leads_to = excluded.leads_to",
            (self.service.database, not closed, leads_to),
        )

    def lock(self, timeout_seconds: float) -> datetime:
        """Lock the tables against writers until the caller's transaction ends.

        Returns:
            The time when the lock was granted, by the server's clock.

        Raises:
            psycopg.errors.LockNotAvailable: a writer's transaction outlasts the timeout.
            psycopg.errors.DeadlockDetected: a writer waits for us.
        """
        self.database.execute(f"set local lock_timeout = {milliseconds(timeout_seconds)}")
        self.database.execute(LOCK.format(sql.SQL(", ").join(map(self._relation, self.tables))))
        return self.clock()

    def close(self, leads_to: str, timeout_seconds: float, lease_seconds: float) -> datetime:
        """Close the fence on a lease; atomic and idempotent.

        Args:
            leads_to: where writes go after the cutover, for the message that writers get.
            timeout_seconds: how long to wait for open transactions; new writers wait as well.
            lease_seconds: the fence opens by itself after so long.

        Returns:
            The time, by the server's clock, after which no write got through.
        """
        with self.database.transaction():
            closed_at = self.lock(timeout_seconds)
            self.enable_triggers()
            self.database.execute(
                "update split.gates set is_open = false, leads_to = %s,"
                " opens_at = clock_timestamp() + make_interval(secs => %s) where service = %s",
                (leads_to, lease_seconds, self.service.database),
            )
        return closed_at

    def commit(self, timeout_seconds: float) -> bool:
        """Close the fence for good, in the caller's transaction; False if its lease has run out.

        It takes the tables' lock: no writer is left, and a write after the lease's end is noticed.
        """
        now = self.lock(timeout_seconds)
        row = self.database.execute(
            "update split.gates set opens_at = null where service = %s and not is_open"
            " and (opens_at is null or opens_at > %s) returning true",
            (self.service.database, now),
        ).fetchone()
        return row is not None

    def open(self) -> None:
        """Open the fence, in the caller's transaction or at once; takes no lock on the tables."""
        self.database.execute(
            "update split.gates set is_open = true, opens_at = null where service = %s",
            (self.service.database,),
        )

    def disable_triggers(self, timeout_seconds: float) -> None:
        """Disable an open fence's triggers, so that it costs writers nothing; atomic.

        Raises:
            psycopg.errors.LockNotAvailable: a writer's transaction outlasts the timeout.
            psycopg.errors.DeadlockDetected: a writer waits for us.
        """
        with self.database.transaction():
            self.lock(timeout_seconds)
            for table, name in self._triggers():
                self._alter(table, "disable", name)

    def remove(self) -> None:
        """Drop the triggers and the fence's row; idempotent."""
        for table, name in self._triggers():
            self.database.execute(
                sql.SQL("drop trigger if exists {} on {}").format(
                    sql.Identifier(name), self._relation(table)
                )
            )
        if self.exists():
            self.database.execute(
                "delete from split.gates where service = %s", (self.service.database,)
            )

    def exists(self) -> bool:
        """Tell whether a fence was ever made here."""
        return self._row() is not None

    def is_closed_for_good(self) -> bool:
        """Tell whether a cutover has committed that these tables are no longer written here."""
        row = self._row()
        return row is not None and not row[0] and row[1] is None

    def was_opened(self) -> bool:
        """Tell whether a cutover has let writers in here, and none has closed the fence since."""
        row = self._row()
        return row is not None and row[0]

    def close_for_good(self, timeout_seconds: float) -> None:
        """Close the fence for good, in the caller's transaction, whatever came of its lease."""
        self.lock(timeout_seconds)
        self.enable_triggers()
        self.database.execute(
            "update split.gates set is_open = false, opens_at = null where service = %s",
            (self.service.database,),
        )

    def is_open(self) -> bool:
        """Tell whether these tables may be written here now; true if there is no fence."""
        row = self._row()
        return row is None or row[0] or (row[1] is not None and row[1] <= self.clock())

    def clock(self) -> datetime:
        """Read the server's clock."""
        row = self.database.execute("select clock_timestamp()").fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def _row(self) -> tuple[bool, datetime | None] | None:
        """Give the fence's row; None if no fence was ever made here."""
        row = self.database.execute("select to_regclass('split.gates') is not null").fetchone()
        if row != (True,):
            return None
        return self.database.execute(
            "select is_open, opens_at from split.gates where service = %s",
            (self.service.database,),
        ).fetchone()

    def enable_triggers(self) -> None:
        """Create or enable the triggers, in the caller's transaction, which holds `lock`.

        A trigger of somebody else that has such a name is replaced.
        """
        there = self._triggers()
        for table in self.tables:
            for name, how in TRIGGERS.items():
                if (table, name) in there:
                    self._alter(table, "enable", name)
                    continue
                row = self.database.execute("select split.unless_syncing()").fetchone()
                assert row is not None
                self.database.execute(
                    sql.SQL(
                        "create or replace trigger {} "
                        + how
                        + " {} execute function split.guard({}, {})"
                    ).format(  # fmt: skip
                        sql.Identifier(name),
                        self._relation(table),
                        sql.SQL(row[0]),
                        sql.Literal(self.service.database),
                        sql.Literal(self.service.role),
                    )
                )

    def outdated_tables(self) -> list[str]:
        """Name the tables whose triggers let pass whoever says that it syncs.

        An earlier version has made them; `renew_triggers` renews them.

        Raises:
            NotReady: somebody has locked such a table, even against readers of its definition.
        """
        with patience(self.database):
            rows = self.database.execute(OUTDATED, (self.schema, list(self.tables))).fetchall()
        return [row[0] for row in rows]

    def outdated(self) -> str:
        """Say that triggers are outdated, with what renews them; nothing if none is."""
        if not (tables := self.outdated_tables()):
            return ""
        names = ", ".join(f"{self.schema}.{name}" for name in tables)
        return (
            f"Triggers that an earlier version has put on {names} let pass every login that sets"
            f" split.is_syncing.\n  hint:  runner.py build {self.service.role}"
        )

    def renew_triggers(self) -> None:
        """Renew the triggers that an earlier version has made; each table by itself, idempotent.

        Raises:
            psycopg.errors.LockNotAvailable: others wrote a table through all tries.
        """
        for table in self.outdated_tables():
            retrying(LOCKED, tries=RENEW_TRIES, seconds=BETWEEN_TRIES_SECONDS)(
                self.database.execute,
                "select split.renew_triggers(array[%s::regclass])",
                (self._relation(table).as_string(),),
            )

    def _triggers(self) -> list[tuple[str, str]]:
        """Give the tables that have this fence's triggers, enabled or not, and the triggers' names.

        In a service's database that is another project's monolith, tables may have those of both.
        """
        return self.database.execute(
            "select relname, tgname from pg_trigger"
            " inner join pg_class on pg_class.oid = tgrelid"
            " where tgname = any(%s) and tgfoid = to_regprocedure('split.guard()')"
            " and relnamespace = to_regnamespace(%s) and relname = any(%s)"
            " and starts_with(encode(tgargs, 'hex'), encode(convert_to(%s, 'UTF8'), 'hex') || '00')"
            " order by relname, tgname",
            (list(TRIGGERS), self.schema, list(self.tables), self.service.database),
        ).fetchall()

    def _alter(self, table: str, how: str, trigger: str) -> None:
        self.database.execute(
            sql.SQL("alter table {} {} trigger {}").format(
                self._relation(table), sql.SQL(how), sql.Identifier(trigger)
            )
        )

    def _relation(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.schema, table)
