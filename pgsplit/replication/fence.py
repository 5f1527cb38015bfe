"""The gate: stops writes to a service's tables on the side that is not, or not just now, the truth.

The same gate stands in the monolith before the tables that a service owns, and in the service's
database before its own. A trigger on each table asks the one row of `split.gates`. Replication
passes, since ordinary triggers do not fire for it, and so does `split.sync()`.

A gate that is closed for a switch is closed on a lease: it opens by itself at the lease's end,
unless the switch was decided before. So a runner that is killed never stops the monolith for
longer than the pause that it was allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]

GATES = Path(__file__).with_name("fence.sql").read_bytes()
# Conflicts with every writer and with no reader: who gets it knows that no writer is left inside.
LOCK = sql.SQL("lock table {} in share row exclusive mode")
NOT_SYNC = "when (current_setting('split.is_syncing', true) is distinct from 'on')"
TRIGGERS = {
    "split_guard": "before insert or update or delete or truncate on {} for each statement",
    "split_guard_rows": "before insert or update or delete on {} for each row",
}


@dataclass(frozen=True)
class Fence:
    """A service's gate in one database: its tables, in the order in which they are locked."""

    service: Service
    database: Connection
    schema: str
    tables: Sequence[str]

    def prepare(self, leads_to: str = "", *, closed: bool = False) -> None:
        """Make the gate, or make sure that it is open, or closed for good; takes no lock."""
        self.database.execute(GATES)
        self.database.execute(
            "insert into split.gates (service, is_open, leads_to) values (%s, %s, %s)"
            " on conflict (service) do update"
            " set is_open = excluded.is_open, opens_at = null, leads_to = excluded.leads_to",
            (self.service.database, not closed, leads_to),
        )

    def lock(self, timeout_seconds: float) -> datetime:
        """Lock the tables against writers for the caller's transaction; give the time it was got.

        Raises:
            psycopg.errors.LockNotAvailable: somebody is inside for longer than the timeout.
            psycopg.errors.DeadlockDetected: somebody who is inside waits for us.
        """
        milliseconds = max(1, int(timeout_seconds * 1000))
        self.database.execute(f"set local lock_timeout = {milliseconds}")
        self.database.execute(LOCK.format(sql.SQL(", ").join(map(self._relation, self.tables))))
        return self.clock()

    def close(self, leads_to: str, timeout_seconds: float, lease_seconds: float) -> datetime:
        """Close the gate on a lease; atomic, and again if it is closed already.

        Args:
            leads_to: where what is written here belongs after the switch, for the message.
            timeout_seconds: how long to wait, and let writers wait, for those who are inside.
            lease_seconds: the gate opens by itself after so long.

        Returns:
            The moment, by the server's clock, after which no writer got through.
        """
        with self.database.transaction():
            closed_at = self.lock(timeout_seconds)
            self.arm()
            self.database.execute(
                "update split.gates set is_open = false, leads_to = %s,"
                " opens_at = clock_timestamp() + make_interval(secs => %s) where service = %s",
                (leads_to, lease_seconds, self.service.database),
            )
        return closed_at

    def commit(self, timeout_seconds: float) -> bool:
        """Close the gate for good, in the caller's transaction; False if its lease has run out.

        Under the tables' lock: whoever got through after the lease is seen, and nobody is inside.
        """
        now = self.lock(timeout_seconds)
        row = self.database.execute(
            "update split.gates set opens_at = null where service = %s and not is_open"
            " and (opens_at is null or opens_at > %s) returning true",
            (self.service.database, now),
        ).fetchone()
        return row is not None

    def open(self) -> None:
        """Open the gate, in the caller's transaction or at once; needs no lock on the tables."""
        self.database.execute(
            "update split.gates set is_open = true, opens_at = null where service = %s",
            (self.service.database,),
        )

    def disarm(self, timeout_seconds: float) -> None:
        """Disable an open gate's triggers, so that it costs nothing; waits no longer than that."""
        with self.database.transaction():
            self.lock(timeout_seconds)
            for table in self._guarded():
                for name in TRIGGERS:
                    self._alter(table, "disable", name)

    def remove(self) -> None:
        """Drop the triggers and the gate's row; what is not there is passed over."""
        for table in self._guarded():
            for name in TRIGGERS:
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
        """Tell whether a gate was ever made here."""
        row = self.database.execute("select to_regclass('split.gates') is not null").fetchone()
        return row == (True,) and self._row() is not None

    def is_closed_for_good(self) -> bool:
        """Tell whether it was decided that these tables are not written here."""
        row = self._row() if self.exists() else None
        return row is not None and not row[0] and row[1] is None

    def is_open(self) -> bool:
        """Tell whether anybody may write these tables now; true if there is no gate."""
        row = self._row() if self.exists() else None
        return row is None or row[0] or (row[1] is not None and row[1] <= self.clock())

    def clock(self) -> datetime:
        """Read the server's clock."""
        row = self.database.execute("select clock_timestamp()").fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def _row(self) -> tuple[bool, datetime | None] | None:
        return self.database.execute(
            "select is_open, opens_at from split.gates where service = %s",
            (self.service.database,),
        ).fetchone()

    def arm(self) -> None:
        """Make or enable the triggers, under the tables' lock."""
        guarded = self._guarded()
        for table in self.tables:
            for name, how in TRIGGERS.items():
                if table in guarded:
                    self._alter(table, "enable", name)
                    continue
                self.database.execute(
                    sql.SQL(
                        "create trigger {} " + how + " {} execute function split.guard({}, {})"
                    ).format(  # fmt: skip
                        sql.Identifier(name),
                        self._relation(table),
                        sql.SQL(NOT_SYNC),
                        sql.Literal(self.service.database),
                        sql.Literal(self.service.role),
                    )
                )

    def _guarded(self) -> list[str]:
        """Name the tables that have the triggers, enabled or not."""
        rows = self.database.execute(
            "select distinct relname from pg_trigger"
            " inner join pg_class on pg_class.oid = tgrelid"
            " where tgname = any(%s) and relnamespace = to_regnamespace(%s) and relname = any(%s)"
            " order by relname",
            (list(TRIGGERS), self.schema, list(self.tables)),
        )
        return [row[0] for row in rows]

    def _alter(self, table: str, how: str, trigger: str) -> None:
        self.database.execute(
            sql.SQL("alter table {} {} trigger {}").format(
                self._relation(table), sql.SQL(how), sql.Identifier(trigger)
            )
        )

    def _relation(self, table: str) -> sql.Identifier:
        return sql.Identifier(self.schema, table)
