"""What happened to each service, put together from the monolith's ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from psycopg.rows import class_row

from migration.compare import Comparison, Connection
from migration.connections import Connections, describe, explained
from migration.errors import NotReady
from migration.ledger import State, state
from migration.services import MONOLITH, Service

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


@dataclass(frozen=True)
class Proof:
    """How a table was last found, when, and whether that proves it."""

    table: str
    found: Comparison
    finished_at: datetime
    is_proven: bool


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

    def latest(self) -> list[Step]:
        """Give the steps of the last stretch of work, without long pauses in between."""
        steps = sorted(
            (step for account in self.accounts for step in account.steps if step.finished_at),
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
        State, steps and proofs of each service.

    Raises:
        ConnectionFailed: the monolith can't be reached.
        NotReady: nothing is recorded of any of them.
    """
    url = connections.urls[MONOLITH]
    with connections.connect(MONOLITH) as monolith, explained(url, MONOLITH, monolith):
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        accounts = [_account(monolith, one) for one in services] if known == (True,) else []
    if not any(one.steps for one in accounts):
        raise NotReady(
            "Nothing has been done yet that could be reported.",
            where=describe(url),
            mend="runner.py run",
        )
    return Report(describe(url), datetime.now(timezone.utc), accounts)


def history(services: Sequence[Service], connections: Connections) -> list[Step]:
    """Read the ledger's entries of some services, the oldest first; none if there is no ledger."""
    with connections.connect(MONOLITH) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        if known != (True,):
            return []
        with monolith.cursor(row_factory=class_row(Step)) as cursor:
            return cursor.execute(STEPS, ([one.database for one in services],)).fetchall()


def _account(monolith: Connection, service: Service) -> Account:
    with monolith.cursor(row_factory=class_row(Step)) as cursor:
        steps = cursor.execute(STEPS, ([service.database],)).fetchall()
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
    return [Proof(name, Comparison.of(found), *rest) for name, found, *rest in rows]
