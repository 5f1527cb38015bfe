"""What happened to each service, put together from the monolith's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from psycopg.rows import class_row

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe, explained
from pgsplit.postgres.row_diff import Comparison
from pgsplit.postgres.row_hashes import Connection
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import State, state
from pgsplit.state.saga import OPERATIONS

# What a switch or a rollback does while writers stand still; the last where one is undone.
IN_PAUSE = ("close", "drain", "decide", "open", "point", "undo close")
# Steps between which nothing was done for so long are of different stretches of work.
PAUSE = timedelta(minutes=2)

STEPS = """
    select service, step, started_at, finished_at, outcome, intent, coalesce(detail, '{}') as detail
    from split.ledger
    where service = any(%s)
    order by id
"""


@dataclass(frozen=True)
class Step:
    """An entry of the ledger; without an outcome it was cut short, or is under way."""

    service: str
    step: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    intent: dict[str, Any]
    detail: dict[str, Any]

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has not ended."""
        return (self.finished_at - self.started_at).total_seconds() if self.finished_at else None

    @property
    def part_of(self) -> str:
        """The operation whose part it is, such as switch; nothing if it is a step of its own."""
        operation, colon, _ = self.step.partition(": ")
        return operation if colon and operation in OPERATIONS else ""

    @property
    def is_unfinished(self) -> bool:
        """Whether it neither came to its end nor was undone."""
        return self.outcome is None or bool(self.detail.get("unfinished"))


@dataclass(frozen=True)
class Pause:
    """How long writers stood still, and the steps of it, by the ledger's clock."""

    closed_at: datetime
    opened_at: datetime
    steps: Sequence[Step]

    @property
    def seconds(self) -> float:
        """How long it was."""
        return (self.opened_at - self.closed_at).total_seconds()


@dataclass(frozen=True)
class Operation:
    """A switch, a rollback, a completion or an abort, with all that was done to end it.

    `runs` are its entries in the ledger: more than one if it was cut short and resumed. `parts` are
    the steps of all of them.
    """

    runs: Sequence[Step]
    parts: Sequence[Step]

    @property
    def name(self) -> str:
        """What it is."""
        return self.runs[0].step

    @property
    def outcome(self) -> str:
        """How it ended: done, undone, failed, or cut short if nobody has brought it to its end."""
        last = self.runs[-1]
        if last.is_unfinished:
            return "cut short"
        if last.outcome == "done":
            return "done"
        return "undone" if self.name in ("switch", "rollback") else "failed"

    @property
    def error(self) -> str:
        """What the last run said, if it did not do what was asked."""
        said = [str(one.detail["error"]) for one in self.runs if one.detail.get("error")]
        return said[0] if said and self.outcome != "done" else ""

    def detail(self, part: str) -> dict[str, Any]:
        """Give what the ledger keeps of a part that was done; nothing if none was."""
        done = [one.detail for one in self._named(part) if one.outcome == "done" and one.detail]
        return done[-1] if done else {}

    @property
    def tries(self) -> int | None:
        """How often it tried to close; None if it never was closed."""
        tries = self.detail("close").get("tries")
        return None if tries is None else int(tries)

    @property
    def pause(self) -> Pause | None:
        """How long writers stood still; None if they were not stopped, or it is not known.

        The two moments are by the clocks of two servers, of which the ledger's is one: how much the
        other is off shows by the limits that the ledger's own times set.
        """
        closes = [one for one in self._named("close") if "closed_at" in one.detail]
        opens = [one for one in self._named("open") if "opened_at" in one.detail]
        if not closes or not opens:
            return self._undone_pause(closes[-1]) if closes and self.outcome == "undone" else None
        close, last = closes[-1], opens[-1]
        closed, opened = _end(close), _end(last)
        closed_at, opened_at = (
            _moment(close.detail["closed_at"]),
            _moment(last.detail["opened_at"]),
        )
        length = max(opened_at - closed_at, last.started_at - closed)
        length = min(length, opened - close.started_at)
        end = min(max(opened_at, last.started_at), opened)
        return Pause(end - length, end, self._within_pause(close))

    def _undone_pause(self, close: Step) -> Pause | None:
        """Give the pause of one that was undone: to when its gate opened, or the lease ran out."""
        undone = [_end(one) for one in self._named("undo close") if one.outcome == "done"]
        most = self.runs[0].intent.get("max_pause")
        moments = undone[:1] + ([_end(close) + timedelta(seconds=float(most))] if most else [])
        return Pause(_end(close), min(moments), self._within_pause(close)) if moments else None

    @property
    def first_write_seconds(self) -> float | None:
        """How long after it was opened the first write came, if it came at once."""
        opened = self.detail("open").get("opened_at")
        first = self.detail("finish").get("first_write_at")
        if not opened or not first or first == "none yet":
            return None
        return (_moment(first) - _moment(opened)).total_seconds()

    @property
    def kept(self) -> dict[str, tuple[str, int]]:
        """By table, where a rollback has laid aside what the monolith can't hold, and how much."""
        kept = self.detail("finish").get("kept", {})
        return {table: (where, int(rows)) for table, (where, rows) in kept.items()}

    def _named(self, part: str) -> list[Step]:
        return [one for one in self.parts if one.step == f"{self.name}: {part}"]

    def _within_pause(self, close: Step) -> list[Step]:
        """Give the steps from the closing to where applications were pointed, or it was undone."""
        names = [f"{self.name}: {part}" for part in IN_PAUSE]
        since = [one for one in self.parts if one.started_at >= close.started_at]
        return [one for one in since if one.step in names and one.finished_at]


@dataclass(frozen=True)
class Proof:
    """How a table was last found, when, and whether that proves it.

    `is_of_monolith` if it is a table of the monolith, compared with a service that is switched.
    """

    table: str
    found: Comparison
    finished_at: datetime
    is_proven: bool
    is_of_monolith: bool


@dataclass(frozen=True)
class Account:
    """One service: where it stands, what was done for it, and how its tables were found."""

    service: Service
    state: State
    steps: Sequence[Step]
    proofs: Sequence[Proof]

    def last(self, step: str) -> Step | None:
        """Give the last entry of a step that was done; None if it never was."""
        done = [one for one in self.steps if one.step == step and one.outcome == "done"]
        return done[-1] if done else None

    def newest(self, step: str) -> Step | None:
        """Give the last entry of a step, however it ended; None if it never was."""
        named = [one for one in self.steps if one.step == step]
        return named[-1] if named else None

    @property
    def latest(self) -> Step | None:
        """The last step that is no part of another; None if nothing was done."""
        whole = [one for one in self.steps if not one.part_of]
        return whole[-1] if whole else None

    @property
    def operations(self) -> list[Operation]:
        """Switches, rollbacks, completions and aborts, the oldest first."""
        found: list[tuple[list[Step], list[Step]]] = []
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
        """The last switch or rollback that stopped writers, and for how long."""
        paused = [(one, pause) for one in self.operations if (pause := one.pause)]
        return paused[-1] if paused else None

    @property
    def moved_at(self) -> datetime | None:
        """When the truth moved last, there or back; None if it never did."""
        moments = [
            one.runs[-1].finished_at
            for one in self.operations
            if one.outcome == "done" and one.name in ("switch", "rollback")
        ]
        return moments[-1] if moments else None

    @property
    def proven_before_move(self) -> list[Proof]:
        """What was proven before the truth moved last, and not since."""
        at = self.moved_at
        return [one for one in self.proofs if at and one.is_proven and one.finished_at < at]

    @property
    def backups(self) -> list[Step]:
        """The backups that were made for it."""
        return [one for one in self.steps if one.step == "backup" and one.outcome == "done"]

    @property
    def totals(self) -> Step | None:
        """The last comparison of totals, unless the service has landed anew since."""
        totals, land = self.newest("totals"), self.last("land")
        if totals and land and land.started_at > totals.started_at:
            return None
        return totals

    def nodes(self, *kinds: str) -> list[dict[str, Any]]:
        """Give what the last build ran, of some kinds: model, seed, test, unit_test, parity."""
        built = self.last("build")
        return [
            one for one in (built.detail if built else {}).get("nodes", ()) if one["kind"] in kinds
        ]


@dataclass(frozen=True)
class Report:
    """The whole migration as the ledger tells it."""

    database: str
    made_at: datetime
    accounts: Sequence[Account]
    backups: Sequence[Step] = ()

    def latest(self) -> list[Step]:
        """Give the steps of the last stretch of work, without long pauses in between.

        What a switch and its like consist of is left out: they are steps themselves.
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
        latest: list[Step] = []
        for step in reversed(steps):
            assert step.finished_at is not None
            if latest and latest[-1].started_at - step.finished_at > PAUSE:
                break
            latest.append(step)
        return latest[::-1]


def report(services: Sequence[Service], connections: Connections) -> Report:
    """Read what is recorded of some services; writes nothing.

    Args:
        services: in phase order.
        connections: where the monolith is, whose ledger it is.

    Returns:
        State, steps and proofs of each service, and the backups that were made for none.

    Raises:
        ConnectionFailed: the monolith can't be reached.
        NotReady: nothing is recorded of any of them.
    """
    url = connections.monolith_url
    with (
        connections.connect(connections.monolith) as monolith,
        explained(url, connections.monolith, monolith),
    ):
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        accounts = [_account(monolith, one) for one in services] if known == (True,) else []
        backups = [
            one
            for one in (_steps(monolith, [connections.monolith]) if accounts else ())
            if one.step == "backup" and one.outcome == "done"
        ]
    if not any(one.steps for one in accounts):
        raise NotReady(
            "Nothing has been done yet that could be reported.",
            where=describe(url),
            hint="runner.py run",
        )
    return Report(describe(url), datetime.now(timezone.utc), accounts, backups)


def history(services: Sequence[Service], connections: Connections) -> list[Step]:
    """Read the ledger's entries of some services, the oldest first; none if there is no ledger."""
    with connections.connect(connections.monolith) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        if known != (True,):
            return []
        return _steps(monolith, [one.database for one in services])


def _steps(monolith: Connection, names: Sequence[str]) -> list[Step]:
    with monolith.cursor(row_factory=class_row(Step)) as cursor:
        return cursor.execute(STEPS, (list(names),)).fetchall()


def _moment(said: str) -> datetime:
    return datetime.fromisoformat(said)


def _end(step: Step) -> datetime:
    return step.finished_at or step.started_at


def _account(monolith: Connection, service: Service) -> Account:
    steps = _steps(monolith, [service.database])
    return Account(service, state(monolith, service), steps, _proofs(monolith, service))


def _proofs(monolith: Connection, service: Service) -> list[Proof]:
    known = monolith.execute("select to_regclass('split.verifications') is not null").fetchone()
    if known != (True,):  # a ledger from before there were verifications
        return []
    rows = monolith.execute(
        "select table_name, result, finished_at, is_proven from split.verifications"
        " where service = %s order by table_name",
        (service.database,),
    )
    of_monolith = f"{service.mirror}."
    return [
        Proof(name, Comparison.of(found), at, is_proven, name.startswith(of_monolith))
        for name, found, at, is_proven in rows
    ]
