"""A stream: publication and slot at its source, subscription at its target.

All three have the same name. What can go wrong with a stream is found here too, and reported with
the command that fixes it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import continuity, login
from pgsplit.replication import slot as slots
from pgsplit.replication import subscription as subscriptions
from pgsplit.replication.forgotten import Forgotten, forgotten
from pgsplit.replication.slot import Connection, Slot
from pgsplit.replication.subscription import Subscription
from pgsplit.state.ledger import State, state
from pgsplit.state.saga import paused_by_us

PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 1.0
FIRST_PAUSE_SECONDS = 0.001
PAUSE_SECONDS = 0.2
PAUSE_IN_A_HURRY_SECONDS = 0.003


class BaseStream(ABC):
    """A stream from or to one service's database; what is true of all kinds of them."""

    service: Service
    database: Connection

    @property
    @abstractmethod
    def control(self) -> Connection | None:
        """Where ledger and states are; None for a stream that works without them."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of publication, slot and subscription."""

    @property
    @abstractmethod
    def source(self) -> Connection:
        """The database that publishes and keeps the slot."""

    @property
    def target(self) -> Connection:
        """The database that subscribes."""
        return self.database

    @property
    @abstractmethod
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, at source and target."""

    @property
    def destination(self) -> str:
        """What it writes, for people."""
        return f"the mirror of {self.service.database}"

    @property
    @abstractmethod
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""

    @property
    @abstractmethod
    def source_name(self) -> str:
        """The source's target name, by which its URL is known."""

    @property
    def subscriber(self) -> str:
        """The target's name on the command line."""
        return self.service.role

    @property
    @abstractmethod
    def fixed_by(self) -> str:
        """The command that fixes a stream that has lost a part."""

    @property
    def proven_by(self) -> str:
        """The command after which a stream that may have left something out is proven again."""
        if self.control is None:
            return self.fixed_by
        stands = state(self.control, self.service)
        is_known = forgotten(self.service, self.control, self.database) is None
        if is_known and stands.reached(State.BUILT) and not stands.reached(State.SWITCHED):
            return f"runner.py verify {self.service.role}"
        return self.fixed_by

    def slot(self) -> Slot | None:
        """Look up the slot at the source; None if there is none."""
        return slots.slot(self.source, self.name)

    def subscription(self) -> Subscription | None:
        """Look up the subscription at the target; None if there is none."""
        return subscriptions.subscription(self.target, self.name)

    def is_there(self) -> bool:
        """Tell whether the stream has been created: somebody subscribes."""
        return self.subscription() is not None

    @property
    def variable(self) -> str:
        """The variable with the URL by which the target's server reaches the source."""
        return self.service.project.variable("REPLICATION_URL", self.source_name)

    def create(self, tables: Mapping[str, tuple[str, ...]], connections: Connections) -> None:
        """Create publication and subscription, disabled and without a slot.

        The stream counts as broken until `enable` gives it a slot, since its target still lacks
        what is there already. The subscription remembers the tables. Source and target start with
        the same heartbeat row, because later ones update it.

        Args:
            tables: the tables of the monolith's schema that it replicates, and their columns.
            connections: where its source is, as the target's server reaches it.

        Raises:
            NotReady: that server can't reach the source; nothing was changed.
        """
        url = login.url_for(self, connections)
        for database in (self.source, self.target):
            database.execute(
                "delete from split.heartbeats where service = %s", (self.heartbeat_key,)
            )
        self.target.execute(
            "insert into split.heartbeats values (%s, %s)", (self.heartbeat_key, self.beat())
        )
        subscriptions.create_publication(
            self.source, self.name, self.service.mirror, tables, self.heartbeat_key
        )
        subscriptions.create_subscription(self.target, self.name, url, "none")

    def create_slot(self) -> None:
        """Create the slot: whatever is committed at the source from now on is replicated.

        Raises:
            NotReady: a transaction has been open for too long there.
        """
        slots.create(self.source, self.name)

    def enable(self) -> None:
        """Let the target follow, the last step of creating a stream; atomic and idempotent.

        A stream with a slot that is disabled looks like one that somebody has paused.
        """
        found = self.subscription()
        if not found or found.enabled:
            return
        if found.has_slot:
            continuity.look(self)  # nobody else has altered it
        with self.target.transaction():
            if not found.has_slot:
                self._alter(f"set (slot_name = {self.name})")
            self._alter("enable")
        continuity.look(self)

    def remove(self) -> None:
        """Drop slot, publication, subscription and login, whichever are there; idempotent.

        The slot comes first: one that is left behind keeps its WAL forever.

        Raises:
            NotReady: somebody goes on reading the slot; the rest is still there.
        """
        continuity.suspend(self)
        if self.subscription():  # its worker would keep using the slot
            self._alter("disable")
        slots.drop(self.source, self.name)
        self.source.execute(
            sql.SQL("drop publication if exists {}").format(sql.Identifier(self.name))
        )
        subscriptions.drop(self.target, self.name)
        login.drop(self)
        continuity.forget(self)

    def unreachable(self, said: str, url: str) -> NotReady:
        """Give the error for a target's server that can't log in to the source by its URL."""
        source, target = self.labels
        is_monolith = self.source_name == self.service.project.name
        server = "The service's server" if is_monolith else f"The server of {target}"
        return NotReady(
            f"{server} can't reach {source}: {said}",
            where=describe(self.target.info.dsn),
            hint="Give a URL by which that server reaches it, with a login that may replicate:\n"
            + login.command_for(self.variable, url, host="HOST"),
        )

    def _alter(self, how: str) -> None:
        subscriptions.alter(self.target, self.name, how)

    def beat(self) -> datetime:
        """Write the stream's heartbeat at its source; give its time, by that clock.

        It is always later than the one before, even if the clock was set back.
        """
        row = self.source.execute(
            "insert into split.heartbeats (service, at) values (%s, clock_timestamp())"
            " on conflict (service) do update"
            " set at = greatest(excluded.at, heartbeats.at + interval '1 microsecond')"
            " returning at",
            (self.heartbeat_key,),
        ).fetchone()
        assert row is not None
        return row[0]  # type: ignore[no-any-return]

    def has_arrived(self, beat: datetime) -> bool:
        """Tell whether a heartbeat, and so all that was committed before it, has arrived."""
        row = self.target.execute(
            "select coalesce(max(at) >= %s, false) from split.heartbeats where service = %s",
            (beat, self.heartbeat_key),
        ).fetchone()
        return row == (True,)

    def arrive(self, within_seconds: float | None = None) -> float:
        """Wait until everything that is committed at the source now is at the target.

        Args:
            within_seconds: how long at most; no limit if left out.

        Returns:
            The seconds that it took.

        Raises:
            NotReady: the stream is broken, has failed, or gave no sign of life for a minute.
            TimeoutError: it did not arrive in time.
        """
        started = moved = looked = time.monotonic()
        beat, before, wait = self.beat(), self.subscription(), FIRST_PAUSE_SECONDS
        errors_before = before.errors if before else 0
        while not self.has_arrived(beat):
            now = time.monotonic()
            if within_seconds is not None and now - started > within_seconds:
                raise TimeoutError(f"{self.destination} had not caught up")
            time.sleep(wait)
            wait = min(wait * 1.4, PAUSE_IN_A_HURRY_SECONDS if within_seconds else PAUSE_SECONDS)
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
        """Check that no part of the stream is missing.

        Raises:
            NotReady: subscription, publication or slot is gone, or the server has given the slot
                up. What has changed since can no longer arrive.
        """
        name, slot, (source, target) = self.name, self.slot(), self.labels
        published = "select true from pg_publication where pubname = %s"
        subscription = self.subscription()
        if subscription is None:
            what, where = f"The subscription {name} is gone from {target}", self.target
        elif not subscription.has_slot:
            what, where = f"The subscription {name} is incomplete", self.target
        elif slot is None:
            what, where = f"The slot {name} is gone from {source}", self.source
        elif slot.lost:
            what = f"{source[0].upper()}{source[1:]} has given up the slot {name}"
            where = self.source
        elif not self.source.execute(published, (name,)).fetchone():
            what, where = f"The publication {name} is gone from {source}", self.source
        else:
            return
        raise NotReady(
            f"{what}: what has changed since then can't reach {target} any more.",
            where=describe(where.info.dsn),
            hint=self.fixed_by,
        )

    def stopped(self) -> NotReady:
        """Say why the target does not move although no part of the stream is missing."""
        found, where = self.subscription(), describe(self.target.info.dsn)
        is_paused, control = found is not None and not found.enabled, self.control
        if is_paused and control and (ours := paused_by_us(control, self.service)):
            return NotReady(
                f"Replication into {self.destination} is paused by what was interrupted here.",
                where=where,
                hint=ours,
            )
        if is_paused:
            return NotReady(
                f"Somebody has paused replication into {self.destination}. Its source keeps the WAL"
                " meanwhile.",
                where=where,
                hint=f"runner.py psql {self.subscriber} -c 'alter subscription {self.name} enable'",
            )
        if found and found.blockers:
            pids = ", ".join(map(str, found.blockers))
            return NotReady(
                f"Replication waits for a lock on {self.destination} that process {pids} holds.",
                where=where,
                hint=f"Wait for it, or end it: select pg_terminate_backend({found.blockers[0]});",
            )
        said = subscriptions.last_error(self.target, found.oid) if found else ""
        return NotReady(
            f"Replication into {self.destination} has stopped"
            + (f", {found.errors} error(s) so far" if found and found.errors else "")
            + (f":\n  {said}" if said else "."),
            where=where,
            hint="Wait a moment: replication tries again by itself every few seconds, as after a"
            " restart of a server. If it stays stopped: "
            + (
                "fix what it says."
                if said
                else "the server's log says why, in its lines about logical replication."
            )
            + f" If somebody added a row by hand:\n{self.fixed_by}",
        )


@dataclass(frozen=True)
class Stream(BaseStream):
    """The stream from the monolith to one service's mirror, with a connection to each."""

    service: Service
    monolith: Connection
    database: Connection

    @property
    def control(self) -> Connection:
        """Where ledger and states are."""
        return self.monolith

    @property
    def name(self) -> str:
        """The name of publication, slot and subscription."""
        return self.service.replication

    @property
    def source(self) -> Connection:
        """The database that publishes and keeps the slot."""
        return self.monolith

    @property
    def heartbeat_key(self) -> str:
        """The key of its row in `split.heartbeats`, at source and target."""
        return self.service.database

    @property
    def labels(self) -> tuple[str, str]:
        """Source and target by name, for people."""
        return "the monolith", self.service.database

    @property
    def source_name(self) -> str:
        """The source's target name, by which its URL is known."""
        return self.service.project.name

    @property
    def fixed_by(self) -> str:
        """The command that fixes a stream that has lost a part."""
        if self._is_switched():
            return f"runner.py repair {self.service.role}"
        return (
            f"runner.py land {self.service.role} --recopy\n"
            "It copies the mirror again. The service's tables stay; the next build compares them."
        )

    def _is_switched(self) -> bool:
        """Tell whether the service is the source of truth, or the monolith has forgotten that."""
        if state(self.control, self.service).reached(State.SWITCHED):
            return True
        what = forgotten(self.service, self.control, self.database)
        return what is Forgotten.SWITCH_BY_MONOLITH
