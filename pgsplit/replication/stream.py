"""One service's replication: publication and slot in the monolith, subscription in its database.

All three bear the same name. What may go wrong with them while they are followed is found here
too, and said with what mends it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import LOCK_TIMEOUT, conninfo, describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import State, state

Connection = psycopg.Connection[Any]

SLOT_TIMEOUT_SECONDS = 60
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0


def publish(monolith: Connection, service: Service, tables: Mapping[str, tuple[str, ...]]) -> None:
    """Publish what a service owns or may see, and its heartbeats; atomic.

    Columns are listed for owned tables too: one that the monolith gains later must not stop the
    apply worker, which finds no such column in the mirror.

    Args:
        monolith: a connection to it.
        service: the service.
        tables: the columns of each table.
    """
    with monolith.transaction():
        monolith.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        monolith.execute(
            sql.SQL(
                "create publication {} for table {}, split.heartbeats where (service = {})"
            ).format(
                sql.Identifier(service.replication),
                listed(service.mirror, tables),
                sql.Literal(service.database),
            )
        )


def listed(schema: str, tables: Mapping[str, tuple[str, ...]]) -> sql.Composed:
    """Write tables of a schema, with their columns, as a publication lists them."""
    return sql.SQL(", ").join(
        sql.SQL("{} ({})").format(
            sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        for table, columns in tables.items()
    )


@contextmanager
def exported_snapshot(connections: Connections, slot: str, source: str) -> Iterator[str]:
    """Create a slot and hold its snapshot open for the block.

    The server waits for every transaction that was open before; a timer turns an endless wait
    into a message. See CREATE_REPLICATION_SLOT in PostgreSQL's streaming replication protocol.

    Args:
        connections: where the source is.
        slot: the slot's name, which is free.
        source: the database that it follows.

    Yields:
        The snapshot's name: the state of the source from which the slot goes on.

    Raises:
        NotReady: an old transaction holds the slot back, or the server refuses it.
    """
    where = describe(connections.urls[source])
    with connections.connect(source, replication="database") as walsender:
        command = f"CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'export')"
        with ThreadPoolExecutor(1) as waiter:
            future = waiter.submit(walsender.pgconn.exec_, command.encode())
            try:
                started = bool(wait([future], timeout=SLOT_TIMEOUT_SECONDS).done)
                oldest = "" if started else _oldest_transaction(connections, source)
            finally:  # on Ctrl-C too: the waiter ends only when the server answers
                if not future.done():
                    walsender.pgconn.get_cancel().cancel()
                    wait([future])
            if not started:
                raise NotReady(
                    f"The slot could not start within {SLOT_TIMEOUT_SECONDS} seconds:"
                    f" its server has a transaction open since {oldest}.",
                    where=where,
                    hint="Wait for it, or end it: select pg_terminate_backend(PID);",
                )
            result = future.result()
        if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
            raise NotReady(
                f"The slot could not be created: {result.error_message.decode().strip()}",
                where=where,
                hint="select * from pg_replication_slots;",
            )
        snapshot = result.get_value(0, 2)
        assert snapshot is not None
        yield snapshot.decode()


def _oldest_transaction(connections: Connections, source: str) -> str:
    with connections.connect(source) as server:
        row = server.execute(
            "select format('%s (process %s)', xact_start::timestamptz(0), pid)"
            " from pg_stat_activity where xact_start is not null and pid <> pg_backend_pid()"
            " and backend_type = 'client backend' order by xact_start limit 1"
        ).fetchone()
    return str(row[0]) if row else "an unknown time"


def subscribe(service: Service, connections: Connections, target: Connection) -> None:
    """Make the subscription that goes on where the slot stands; it is left disabled.

    Args:
        service: the service.
        connections: where the monolith is, as the service's server reaches it.
        target: a connection to the service's database, whose mirror is filled.

    Raises:
        NotReady: that server can't reach the monolith.
    """
    name = sql.Identifier(service.replication)
    try:
        target.execute(
            sql.SQL(
                "create subscription {} connection {} publication {} with"
                " (create_slot = false, slot_name = {}, copy_data = false, enabled = false)"
            ).format(
                name,
                sql.Literal(conninfo(connections.for_servers(connections.monolith))),
                name,
                sql.Literal(service.replication),
            )
        )
    except psycopg.OperationalError as error:
        raise NotReady(
            f"The service's server can't reach the monolith: {str(error).strip()}",
            where=describe(connections.urls[service.database]),
            hint=f"export {service.project.variable('REPLICATION_URL')}=postgresql://… as that"
            " server reaches it.",
        ) from error


@dataclass(frozen=True)
class Slot:
    """A service's slot: what it holds of the monolith's WAL, and how far the service has got.

    `kept_bytes` is WAL that the monolith keeps for it, `limit_bytes` how much it may keep before
    the slot is given up (None: no limit but the disk), `behind_bytes` what the service has yet
    to confirm.
    """

    active: bool
    lost: bool
    kept_bytes: int
    limit_bytes: int | None
    behind_bytes: int


@dataclass(frozen=True)
class Subscription:
    """A service's subscription: whether it is meant to run, whether it does, and its failures.

    `blockers` are the processes whose locks its worker waits for. One without a slot's name has
    not been made to its end, and PostgreSQL enables it for nobody.
    """

    oid: int
    has_slot: bool
    enabled: bool
    running: bool
    errors: int
    blockers: tuple[int, ...]

    @property
    def stops_for_a_reason(self) -> bool:
        """Whether it is paused, waits for a lock or has failed, rather than starting."""
        return not self.enabled or bool(self.blockers) or self.errors > 0


def slot(source: Connection, name: str) -> Slot | None:
    """Look at a slot by its name; None if the database has no such slot."""
    with source.cursor(row_factory=class_row(Slot)) as cursor:
        return cursor.execute(SLOT, (name,)).fetchone()


@dataclass(frozen=True)
class Stream:
    """The way from the monolith to one service's mirror, with a connection to either end."""

    service: Service
    monolith: Connection
    database: Connection

    @property
    def name(self) -> str:
        """The name of publication, slot and subscription."""
        return self.service.replication

    @property
    def source(self) -> Connection:
        """The end that publishes, and keeps the slot."""
        return self.monolith

    @property
    def target(self) -> Connection:
        """The end that subscribes."""
        return self.database

    @property
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, on either end."""
        return self.service.database

    @property
    def leads_to(self) -> str:
        """What it writes, for people."""
        return f"the mirror of {self.service.database}"

    @property
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""
        return "the monolith", self.service.database

    @property
    def subscriber(self) -> str:
        """The target's name on the command line."""
        return self.service.role

    @property
    def fixed_by(self) -> str:
        """What mends a way that has lost a part."""
        if state(self.monolith, self.service).reached(State.SWITCHED):
            return f"runner.py repair {self.service.role}"
        return (
            f"runner.py land {self.service.role} --again\n"
            "It copies the mirror anew. The service's tables stay; the next build compares them."
        )

    def slot(self) -> Slot | None:
        """Look at the slot in the monolith; None if there is none."""
        return slot(self.source, self.name)

    def subscription(self) -> Subscription | None:
        """Look at the subscription in the service's database; None if there is none."""
        with self.target.cursor(row_factory=class_row(Subscription)) as cursor:
            return cursor.execute(SUBSCRIPTION, (self.name,)).fetchone()

    def is_there(self) -> bool:
        """Tell whether the way has been made: somebody subscribes."""
        return self.subscription() is not None

    def enable(self) -> None:
        """Let the target follow, if it does not already; the last step of making a way."""
        found = self.subscription()
        if found and not found.has_slot:
            self._alter(f"set (slot_name = {self.name})")
        if found and not found.enabled:
            self._alter("enable")

    def remove(self) -> None:
        """Drop slot, publication and subscription, as far as they are there; idempotent.

        The slot comes first: one that is left behind keeps its WAL for ever.
        """
        name = self.name
        slot = "from pg_replication_slots where slot_name = %s and database = current_database()"
        if self.subscription():  # its worker would hold on to the slot
            self._alter("disable")
        self.source.execute(f"select pg_terminate_backend(active_pid) {slot} and active", (name,))
        for _ in range(250):
            with suppress(psycopg.errors.ObjectInUse):
                self.source.execute(f"select pg_drop_replication_slot(slot_name) {slot}", (name,))
                break
            time.sleep(0.02)
        self.source.execute(sql.SQL("drop publication if exists {}").format(sql.Identifier(name)))
        if self.subscription():
            self._alter("set (slot_name = none)")
            self.target.execute(sql.SQL("drop subscription {}").format(sql.Identifier(name)))

    def _alter(self, how: str) -> None:
        self.target.execute(
            sql.SQL("alter subscription {} {}").format(sql.Identifier(self.name), sql.SQL(how))
        )

    def beat(self) -> datetime:
        """Write the way's heartbeat at its source; give its time, by that clock."""
        row = self.source.execute(
            "insert into split.heartbeats (service, at) values (%s, clock_timestamp())"
            " on conflict (service) do update set at = excluded.at returning at",
            (self.heartbeat_key,),
        ).fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def has_arrived(self, beat: datetime) -> bool:
        """Tell whether a heartbeat, and so all that was committed before it, has come over."""
        row = self.target.execute(
            "select coalesce(max(at) >= %s, false) from split.heartbeats where service = %s",
            (beat, self.heartbeat_key),
        ).fetchone()
        return row == (True,)

    def arrive(self, within_seconds: float | None = None) -> float:
        """Wait until all that is committed at the source now is at the target.

        Args:
            within_seconds: how long at all, if that is limited.

        Returns:
            The seconds that it took.

        Raises:
            NotReady: a part of the way is gone, it failed, or it gave no sign of life for a minute.
            TimeoutError: it did not arrive in time.
        """
        started = moved = looked = time.monotonic()
        beat, before, wait = self.beat(), self.subscription(), 0.001
        errors_before = before.errors if before else 0
        while not self.has_arrived(beat):
            now = time.monotonic()
            if within_seconds is not None and now - started > within_seconds:
                raise TimeoutError(f"{self.leads_to} had not got there")
            time.sleep(wait)
            wait = min(wait * 1.4, 0.02 if within_seconds else 0.2)
            if now - looked < LOOK_SECONDS:
                continue
            looked = now
            self.require_unbroken()
            found = self.subscription()
            if found and found.running and not found.blockers:
                moved = looked
            failed = found is not None and (found.errors > errors_before or not found.enabled)
            if failed or looked - moved > PATIENCE_SECONDS:
                raise self.stopped()
        return time.monotonic() - started

    def require_running(self) -> None:
        """Check that no part is missing and nobody has paused it; else NotReady."""
        self.require_unbroken()
        if not (found := self.subscription()) or not found.enabled:
            raise self.stopped()

    def require_unbroken(self) -> None:
        """Check that the way has no part missing.

        Raises:
            NotReady: subscription, publication or slot is gone, or the slot has been given up by
                its server; what was changed since can no longer arrive.
        """
        name, slot, (source, target) = self.name, self.slot(), self.labels
        published = "select true from pg_publication where pubname = %s"
        subscription = self.subscription()
        if subscription is None:
            what, where = f"The subscription {name} is gone from {target}", self.target
        elif not subscription.has_slot:
            what, where = f"The subscription {name} was not made to its end", self.target
        elif slot is None:
            what, where = f"The slot {name} is gone from {source}", self.source
        elif slot.lost:
            what, where = (
                f"{source[0].upper()}{source[1:]} has given up the slot {name}",
                self.source,
            )
        elif not self.source.execute(published, (name,)).fetchone():
            what, where = f"The publication {name} is gone from {source}", self.source
        else:
            return
        raise NotReady(
            f"{what}: what has changed since it last moved can't reach {target} any more.",
            where=describe(where.info.dsn),
            hint=self.fixed_by,
        )

    def stopped(self) -> NotReady:
        """Say why the mirror does not move although no part is missing."""
        found, where = self.subscription(), describe(self.target.info.dsn)
        if found and not found.enabled:
            return NotReady(
                f"Somebody has paused replication into {self.leads_to}. Its source keeps the WAL"
                " meanwhile.",
                where=where,
                hint=f"runner.py psql {self.subscriber} -c 'alter subscription {self.name} enable'",
            )
        if found and found.blockers:
            pids = ", ".join(map(str, found.blockers))
            return NotReady(
                f"Replication waits for a lock on {self.leads_to} that process {pids} holds.",
                where=where,
                hint=f"Wait for it, or end it: select pg_terminate_backend({found.blockers[0]});",
            )
        said = self._last_words(found.oid) if found else ""
        return NotReady(
            f"Replication into {self.leads_to} has stopped"
            + (f", {found.errors} error(s) so far" if found and found.errors else "")
            + (f":\n  {said}" if said else "."),
            where=where,
            hint=(
                "Mend what it says; replication tries again every few seconds."
                if said
                else "The server's log says why, in its lines about logical replication; it tries"
                " again every few seconds."
            )
            + f" If it is a row that was put there by hand:\n{self.fixed_by}",
        )

    def _last_words(self, subscription: int) -> str:
        """Find the last error of a subscription in its server's log, if this login may read it."""
        try:
            row = self.target.execute(LOG_TAIL).fetchone()
        except psycopg.Error:
            return ""  # not ours to read: whoever may is told to
        lines = row[0].splitlines() if row and row[0] else []
        ours = f'replication origin "pg_{subscription}"'
        told = [i for i, line in enumerate(lines) if "CONTEXT:" in line and ours in line]
        if not told:
            return ""
        words = [lines[told[-1]]]
        for line in reversed(lines[: told[-1]]):
            words.insert(0, line)
            if "ERROR:" in line:
                break
        return "\n  ".join(re.sub(r"^.*?(ERROR|DETAIL|CONTEXT):\s+", "", line) for line in words)


SLOT = """
    select
        active,
        wal_status = 'lost' as lost,
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint as kept_bytes,
        (
            select nullif(setting, '-1')::bigint * 1024 * 1024 from pg_settings
            where name = 'max_slot_wal_keep_size'
        ) as limit_bytes,
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint
            as behind_bytes
    from pg_replication_slots
    where slot_name = %s and database = current_database()
"""
SUBSCRIPTION = """
    select
        subscription.oid,
        subscription.subslotname is not null as has_slot,
        subscription.subenabled as enabled,
        worker.pid is not null as running,
        coalesce(stats.apply_error_count, 0) as errors,
        coalesce(pg_blocking_pids(worker.pid), '{}') as blockers
    from pg_subscription as subscription
    left join pg_stat_subscription as worker
        on worker.subid = subscription.oid and worker.relid is null
        and to_jsonb(worker) ->> 'leader_pid' is null
    left join pg_stat_subscription_stats as stats on stats.subid = subscription.oid
    where
        subscription.subname = %s
        and subscription.subdbid = (select oid from pg_database where datname = current_database())
"""
# The server's own log file; a server that keeps none, as the embedded one, has its starter's.
LOG_TAIL = """
    select pg_read_file(path, greatest(size - 65536, 0), 65536, true)
    from coalesce(
        pg_current_logfile(), current_setting('data_directory') || '/../log'
    ) as log (path)
    cross join lateral pg_stat_file(path, true)
    where size is not null
"""
