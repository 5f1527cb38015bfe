"""Compares the totals of every monolith column with those of the service columns made from it.

Only the column-ownership seed says which columns belong together, so a wrong model can't make them
agree. A value is hashed together with its row's key, so a value that moved to another row differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.ownership import Comparison, Pair, comparisons, not_compared
from pgsplit.project.project import Service
from pgsplit.prove.sums import Total, at_source, in_service
from pgsplit.replication import requirements
from pgsplit.replication.shared import SharedStream
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes_and_look, arrive
from pgsplit.replication.upstreams import LOCK_TIMEOUT, Upstreams, open_upstreams
from pgsplit.state.control import open_control
from pgsplit.state.ledger import Ledger, State, state

ATTEMPTS = 4
PAUSE_SECONDS = 0.25


class Verdict(str, Enum):
    """How the totals of a column compare; `moving` if they changed at every look."""

    AGREES = "agrees"
    DIFFERS = "differs"
    MOVING = "moving"


@dataclass(frozen=True)
class Compared:
    """A monolith column's totals in the monolith, the mirror and the service.

    `expected` are the mirror's totals of the rows that the service should hold. The service agrees
    with its mirror even where the verdict is `moving`.
    """

    table: str
    column: str
    service_columns: tuple[str, ...]
    total: str
    monolith: Total
    mirror: Total
    expected: Total
    service: Total
    verdict: Verdict

    @property
    def caused_by(self) -> str:
        """The step that caused a difference: `replication`, `model`, or nothing."""
        if self.expected != self.service:
            return "model"
        return "replication" if self.verdict is Verdict.DIFFERS else ""


@dataclass(frozen=True)
class Totals:
    """The comparison of a service: each column, and the pairs that can't be compared."""

    service: Service
    compared: tuple[Compared, ...]
    not_compared: tuple[Pair, ...]
    seconds: float

    def count(self, verdict: Verdict) -> int:
        """Count the columns with a verdict."""
        return sum(one.verdict is verdict for one in self.compared)

    def summary(self) -> dict[str, Any]:
        """Give what the ledger records."""
        return {
            "compared": len(self.compared),
            **{verdict.value: self.count(verdict) for verdict in Verdict},
            "not_compared": len(self.not_compared),
            "seconds": round(self.seconds, 3),
            "differences": [
                {"column": f"{one.table}.{one.column}", "in": one.service_columns}
                | {"blames": one.caused_by}
                for one in self.compared
                if one.verdict is Verdict.DIFFERS
            ],
        }


def totals(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    on_table: Callable[[str], None] = lambda name: None,
) -> Totals:
    """Compare the totals of a service's columns with the living monolith's.

    Args:
        service: a service that has been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_table: called with the name of each monolith table that has been compared.

    Returns:
        Every column's totals and verdict. A difference is not an error here, but the service
        leaves the state verified.

    Raises:
        NotReady: the service has not been built or is switched; replication has stopped; the
            databases' encodings differ.
        SourceMismatch: the monolith's tables have changed since landing.
        BuildFailed: rows violate a constraint of the service's tables.
    """
    started = time.monotonic()
    found: list[Compared] = []
    with ledger.step(service, "totals") as step, open_upstreams(service, connections) as upstreams:
        requirements.same_encoding(upstreams.monolith, upstreams.database)
        _require_following(upstreams)
        sources = [stream.source for stream in upstreams.incoming]
        for connection in (upstreams.monolith, upstreams.database, *sources):
            connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
        for table, wanted in comparisons(service).items():
            connections.throttle.wait()
            found += _compare(upstreams, connections, table, wanted)
            on_table(table)
        done = Totals(
            service, tuple(found), tuple(not_compared(service)), time.monotonic() - started
        )
        step.detail.update(done.summary())
        if differing := done.count(Verdict.DIFFERS):
            ledger.return_to(service, State.BUILT)
            step.outcome = "failed"
            step.detail["error"] = f"columns whose totals differ: {differing}"
    return done


def following(services: Sequence[Service], connections: Connections) -> list[Service]:
    """Give the services that follow the monolith; a switched one does not.

    Raises:
        NotReady: no service does.
    """
    with open_control(connections) as monolith:
        found = [one for one in services if not state(monolith, one).reached(State.SWITCHED)]
    if not found:
        raise NotReady(
            "All services are switched: their totals are no longer the monolith's.",
            where=describe(connections.control_url),
            hint="runner.py verify, which compares in the other direction",
        )
    return found


def difference(found: Sequence[Totals]) -> DataDiffers | None:
    """Give the command's error if any column differs."""
    wrong = {one.service: one.count(Verdict.DIFFERS) for one in found}
    wrong = {service: count for service, count in wrong.items() if count}
    if not wrong:
        return None
    causes = [
        (one.service, column.caused_by)
        for one in found
        for column in one.compared
        if column.verdict is Verdict.DIFFERS
    ]
    return DataDiffers(
        f"Columns whose totals differ from the monolith's: {sum(wrong.values())}.",
        where=", ".join(f"{s.database} ({count})" for s, count in wrong.items()),
        hint="\n".join(dict.fromkeys(hint(service, cause) for service, cause in causes)),
    )


def hint(service: Service, caused_by: str) -> str:
    """Give the command that finds or fixes a difference caused by a step."""
    if caused_by == "replication":
        return f"runner.py land {service.role} --recopy && runner.py build {service.role}"
    return f"runner.py verify {service.role}"


def _require_following(stream: Stream) -> None:
    row = stream.database.execute("select switched_at from split.service").fetchone()
    if row and row[0]:
        raise NotReady(
            f"{stream.service.database} has been switched since {row[0]}: its totals are no longer"
            " the monolith's.",
            where=describe(stream.database.info.dsn),
            hint=f"runner.py verify {stream.service.role}, which compares in the other direction",
        )


def _compare(
    upstreams: Upstreams, connections: Connections, table: str, wanted: list[Comparison]
) -> list[Compared]:
    """Compare one monolith table's columns; try again while the monolith's writers interfere.

    The mirror shows the monolith at a moment between two looks at the monolith. A column differs if
    both looks agree, the mirror does not, and the next attempt finds the same: a value that changed
    to and fro between two looks would not be met twice.
    """
    shared = {
        stream.owner.database: stream.source
        for stream in upstreams.incoming
        if isinstance(stream, SharedStream)
    }
    service, found = upstreams.service, list[Compared]()
    owner = service.project.tables[table].owner
    source = shared.get(owner, upstreams.monolith)
    place = connections.place(owner if owner in shared else connections.monolith)
    sums = partial(at_source, paced=partial(connections.throttle.paced, place))
    was: Sequence[tuple[Total, Total] | None] = [None] * len(wanted)
    for attempt in range(ATTEMPTS):
        time.sleep(PAUSE_SECONDS * attempt)
        before = sums(source, service, table, wanted)
        arrive(upstreams)
        _, (mirror, due, held) = apply_changes_and_look(
            upstreams.database, lambda inside: in_service(inside, service, table, wanted)
        )
        after = before if mirror == before else sums(source, service, table, wanted)
        looks = zip(wanted, before, mirror, after, was, due, held, strict=True)
        found = [_judge(table, *look) for look in looks]
        if not any(one.verdict is Verdict.MOVING for one in found):
            break
        was = list(zip(after, mirror, strict=True))
    return found


def _judge(
    table: str,
    one: Comparison,
    before: Total,
    mirror: Total,
    after: Total,
    was: tuple[Total, Total] | None,
    due: Total,
    held: Total,
) -> Compared:
    """Judge a column by one attempt; `was` is what the last one has found."""
    if mirror in (before, after):
        after, verdict = mirror, Verdict.AGREES
    elif after == before and was == (after, mirror):
        verdict = Verdict.DIFFERS
    else:
        verdict = Verdict.MOVING
    if due != held:
        verdict = Verdict.DIFFERS
    columns = tuple(f"{pair.service_table}.{pair.service_column}" for pair in one.pairs)
    return Compared(table, one.column, columns, one.total, after, mirror, due, held, verdict)
