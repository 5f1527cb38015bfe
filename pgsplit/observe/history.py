"""The history of each service, from the monolith's ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from psycopg.rows import class_row

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.base.operator import made_by, versions
from pgsplit.observe.operations import Entry, Operation, Pause
from pgsplit.postgres.connect import describe
from pgsplit.postgres.row_diff import Comparison
from pgsplit.postgres.row_hashes import Connection
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.control import open_control
from pgsplit.state.ledger import State, state
from pgsplit.state.saga import OPERATIONS

# A longer pause between two steps begins another stretch of work.
PAUSE = timedelta(minutes=2)

STEPS = """
    select service, step, started_at, finished_at, outcome, intent, coalesce(detail, '{}') as detail
    from split.ledger
    where service = any(%s)
    order by id
"""


# The state that a service is in after a step that was done.
AFTER = {
    "provision": State.PROVISIONED,
    "land": State.LANDED,
    "build": State.BUILT,
    "verify": State.VERIFIED,
    "switch": State.SWITCHED,
    "rollback": State.VERIFIED,
    "complete": State.COMPLETED,
    "abort": State.ABSENT,
}


@dataclass(frozen=True)
class Stretch:
    """The time that a service was in one state; it `ends_at` the end of the next step."""

    state: State
    begins_at: datetime
    ends_at: datetime


@dataclass(frozen=True)
class Proof:
    """How a table last compared, when, and whether that proves it.

    `is_of_monolith` marks the monolith's table, compared with a switched service. What the last
    whole verification did not compare is not `is_current`: a switch and a rollback change that.
    """

    table: str
    found: Comparison
    finished_at: datetime
    is_proven: bool
    is_of_monolith: bool
    is_current: bool = True


@dataclass(frozen=True)
class Account:
    """One service: its state, its ledger entries, and how its tables compare."""

    service: Service
    state: State
    steps: Sequence[Entry]
    proofs: Sequence[Proof]

    def last(self, step: str) -> Entry | None:
        """Give a step's last entry that was done; None if there is none."""
        done = [one for one in self.steps if one.step == step and one.outcome == "done"]
        return done[-1] if done else None

    def newest(self, step: str) -> Entry | None:
        """Give a step's last entry, however it ended; None if there is none."""
        named = [one for one in self.steps if one.step == step]
        return named[-1] if named else None

    @property
    def latest(self) -> Entry | None:
        """The last entry that is not part of an operation; None if there is none."""
        whole = [one for one in self.steps if not one.part_of]
        return whole[-1] if whole else None

    def life(self, until: datetime) -> list[Stretch]:
        """Give the states that the service was in, one after the other, by what was done.

        A build or a verification of a service that is further on changes no state.

        Args:
            until: when the last state's time ends.
        """
        found: list[tuple[State, datetime]] = []
        for one in self.steps:
            state = AFTER.get(one.step)
            if state is None or one.outcome != "done" or one.finished_at is None:
                continue
            was = found[-1][0] if found else State.ABSENT
            is_forward = one.step in ("provision", "build", "verify")
            if state is not was and not (is_forward and was.reached(state)):
                found.append((state, one.finished_at))
        ends = [*(at for _, at in found[1:]), until]
        return [Stretch(state, at, end) for (state, at), end in zip(found, ends, strict=False)]

    @property
    def operations(self) -> list[Operation]:
        """Switches, rollbacks, completions and aborts, the oldest first."""
        found: list[tuple[list[Entry], list[Entry]]] = []
        for one in self.steps:
            if one.step in OPERATIONS:
                goes_on = found and found[-1][0][-1].is_unfinished
                if goes_on and found[-1][0][0].step == one.step:
                    found[-1][0].append(one)
                else:
                    found.append(([one], []))
            elif found and one.part_of == found[-1][0][0].step:
                found[-1][1].append(one)
        return [Operation(runs, parts) for runs, parts in found]

    @property
    def last_pause(self) -> tuple[Operation, Pause] | None:
        """The last switch or rollback that paused writers, and the pause."""
        paused = [(one, pause) for one in self.operations if (pause := one.pause)]
        return paused[-1] if paused else None

    @property
    def moved_at(self) -> datetime | None:
        """When the source of truth last moved, in either direction; None if never."""
        moments = [
            one.runs[-1].finished_at
            for one in self.operations
            if one.outcome == "done" and one.name in ("switch", "rollback")
        ]
        return moments[-1] if moments else None

    @property
    def proven_before_move(self) -> list[Proof]:
        """What was proven before the source of truth last moved, but not since."""
        at = self.moved_at
        return [one for one in self.current if at and one.is_proven and one.finished_at < at]

    @property
    def current(self) -> list[Proof]:
        """What is proven of the tables that are compared now."""
        return [one for one in self.proofs if one.is_current]

    @property
    def backups(self) -> list[Entry]:
        """The service's backups."""
        return [one for one in self.steps if one.step == "backup" and one.outcome == "done"]

    @property
    def totals(self) -> Entry | None:
        """The last comparison of totals, unless the service has landed again since."""
        totals, land = self.newest("totals"), self.last("land")
        if totals and land and land.started_at > totals.started_at:
            return None
        return totals

    def nodes(self, *kinds: str) -> list[dict[str, Any]]:
        """Give the last build's nodes of some kinds: model, seed, test, unit_test, parity."""
        built = self.last("build")
        return [
            one for one in (built.detail if built else {}).get("nodes", ()) if one["kind"] in kinds
        ]


@dataclass(frozen=True)
class Report:
    """The whole migration, as the ledger recorded it."""

    database: str
    made_at: datetime
    accounts: Sequence[Account]
    backups: Sequence[Entry] = ()
    made_by: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    ticket: str = ""

    def latest(self) -> list[Entry]:
        """Give the steps of the last stretch of work, without long pauses in between.

        The steps of an operation are left out; the operation itself is a step.
        """
        steps = sorted(
            (
                step
                for account in self.accounts
                for step in account.steps
                if step.finished_at and not step.part_of
            ),
            key=lambda step: step.started_at,
        )
        latest: list[Entry] = []
        for step in reversed(steps):
            assert step.finished_at is not None
            if latest and latest[-1].started_at - step.finished_at > PAUSE:
                break
            latest.append(step)
        return latest[::-1]


def report(services: Sequence[Service], connections: Connections, ticket: str = "") -> Report:
    """Read the recorded history of some services; writes nothing.

    Args:
        services: in phase order.
        connections: where the control database with the ledger is.
        ticket: the change ticket that the report is for.

    Returns:
        State, steps and proofs of each service, and the backups that belong to no service.

    Raises:
        ConnectionFailed: the control database can't be reached.
        NotReady: nothing is recorded of any service.
    """
    url = connections.control_url
    with open_control(connections) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        server = monolith.info.parameter_status("server_version") or ""
        accounts = [_account(monolith, one) for one in services] if known == (True,) else []
        backups = [
            one
            for one in (_steps(monolith, [connections.monolith]) if accounts else ())
            if one.step == "backup" and one.outcome == "done"
        ]
    if not any(one.steps for one in accounts):
        raise NotReady(
            "There is nothing to report yet.",
            where=describe(url),
            hint="runner.py run",
        )
    return Report(
        describe(url),
        datetime.now(timezone.utc),
        accounts,
        backups,
        made_by(connections.project.root),
        {**versions(), **_servers(accounts, connections, server)},
        ticket,
    )


def _servers(
    accounts: Sequence[Account], connections: Connections, monolith: str
) -> dict[str, str]:
    """Give the servers' versions; a service's server may be down."""
    found = {connections.control: f"PostgreSQL {monolith}"}
    for one in accounts:
        if one.state is not State.ABSENT:
            try:
                with connections.connect(one.service.database, connect_timeout=2) as database:
                    version = database.info.parameter_status("server_version")
                    found[one.service.database] = f"PostgreSQL {version}"
            except SplitError as error:
                found[one.service.database] = f"unknown: {error.what}"
    return found


def accounts(services: Sequence[Service], connections: Connections) -> list[Account]:
    """Read the recorded history of some services in a read-only transaction.

    Args:
        services: the services.
        connections: where the control database with the ledger is.

    Returns:
        State, steps and proofs of each service; none if there is no ledger.

    Raises:
        ConnectionFailed: the control database can't be reached.
    """
    with open_control(connections) as control:
        control.read_only = True
        with control.transaction():
            known = control.execute("select to_regclass('split.ledger') is not null").fetchone()
            return [_account(control, one) for one in services] if known == (True,) else []


def history(services: Sequence[Service], connections: Connections) -> list[Entry]:
    """Read the ledger's entries of some services, the oldest first; none if there is no ledger."""
    with open_control(connections) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        if known != (True,):
            return []
        return _steps(monolith, [one.database for one in services])


def _steps(monolith: Connection, names: Sequence[str]) -> list[Entry]:
    with monolith.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(STEPS, (list(names),)).fetchall()


def _account(monolith: Connection, service: Service) -> Account:
    steps = _steps(monolith, [service.database])
    return Account(service, state(monolith, service), steps, _proofs(monolith, service))


def _proofs(monolith: Connection, service: Service) -> list[Proof]:
    known = monolith.execute("select to_regclass('split.verifications') is not null").fetchone()
    if known != (True,):  # a ledger from before there were verifications
        return []
    rows = monolith.execute(
        "select table_name, result, finished_at, is_proven, coalesce((select"
        " jsonb_exists(ledger.intent -> 'tables', table_name) from split.ledger"
        " where ledger.service = verifications.service and step = 'verify'"
        " and (intent ->> 'whole')::boolean order by id desc limit 1), true)"
        " from split.verifications where service = %s order by table_name",
        (service.database,),
    )
    of_monolith = f"{service.mirror}."
    return [
        Proof(name, Comparison.of(found), at, is_proven, name.startswith(of_monolith), is_current)
        for name, found, at, is_proven, is_current in rows
    ]
