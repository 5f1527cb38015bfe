"""Records every step in the monolith: what was meant to happen, and what did.

The monolith's schema `split` holds `ledger`, with an intent before each step and an outcome after
it, `states`, where each service stands, and `verifications`, the last result for each table. An
intent without an outcome is a step that was interrupted. The next run of the same step cleans up
after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from threading import RLock
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pgsplit.base.errors import NotReady
from pgsplit.base.notices import Notice, Notifier
from pgsplit.base.operator import made_by
from pgsplit.postgres.connect import describe
from pgsplit.postgres.locale import require_utf8
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.alone import alone, require_no_runner_of_version_1
from pgsplit.state.control import open_control
from pgsplit.state.schema import prepare_monolith

# The comment on it: two projects never share one.
LEDGER_OF = "made by the {} split"


class State(str, Enum):
    """Where a service stands, in the order of its life."""

    ABSENT = "absent"
    PROVISIONED = "provisioned"
    LANDED = "landed"
    BUILT = "built"
    VERIFIED = "verified"
    SWITCHED = "switched"
    COMPLETED = "completed"

    def reached(self, other: State) -> bool:
        """Tell whether this state is `other` or one behind it."""
        return list(State).index(self) >= list(State).index(other)


@dataclass
class Step:
    """A step in progress; its fields are recorded when it ends.

    A step that ran to its end and found something wrong has the `outcome` `failed`. `enters` is a
    later state; `returns_to` is an earlier one that the service is back in. If it `is_followed` by
    another record at once, the server writes its outcome to its disk together with that.
    """

    id: int
    enters: State | None = None
    returns_to: State | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    outcome: str = "done"
    is_followed: bool = False


class Ledger:
    """The ledger of one monolith, open for the only runner that may be at work on it."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        holder: psycopg.Connection[Any],
        by: Mapping[str, str],
    ) -> None:
        self.connection, self.holder, self.by = connection, holder, dict(by)
        self.notices: list[Notice] = []  # of what has happened, for when the ledger is closed
        self.lock = RLock()  # services are built side by side, and all of them record here

    @contextmanager
    def step(
        self, service: Service, name: str, *, enters: State | None = None, **intent: Any
    ) -> Iterator[Step]:
        """Record an intent before the block and its outcome after it.

        Each record is committed at once. So a runner that is killed leaves an intent without an
        outcome. The intent of a whole command also says who runs it.

        Args:
            service: whose step it is.
            name: the step's name.
            enters: the state that the service is in once the step is done; recorded with it.
            intent: the names of what the step will make, so that it can be found and undone.

        Yields:
            The step, whose `detail` is recorded when the block ends well.
        """
        with self.lock:
            self.holder.execute("select")  # whoever has lost the lock may not go on
            row = self.connection.execute(
                "insert into split.ledger (service, step, intent) values (%s, %s, %s) returning id",
                (service.database, name, Jsonb({**intent, **self._by(name)})),
            ).fetchone()
        assert row is not None
        step = Step(row[0], enters)
        try:
            yield step
        except BaseException as error:
            said = str(error) or type(error).__name__
            # If the monolith itself is gone, the intent stays without an outcome.
            with suppress(psycopg.OperationalError), self.lock:
                self._finish(step.id, "failed", {**step.detail, "error": said})
            if not _is_part(name):
                what = said.splitlines()[0]
                self._note("failed", service, f"{name} of {service.database} failed: {what}", name)
            raise
        with self.lock, self.connection.transaction():
            if step.is_followed:
                self.connection.execute("set local synchronous_commit = off")
            self._finish(step.id, step.outcome, step.detail)
            is_new = step.enters is not None and not self.state(service).reached(step.enters)
            enters = step.returns_to or (step.enters if is_new else None)
            if enters is not None:
                self._set(service, enters)
        if enters is not None:
            text = f"{service.database} is {enters.value} now"
            self._note("state", service, text, name, state=enters.value)
        if step.outcome == "failed":
            self._note("failed", service, f"{name} of {service.database} found problems", name)

    def _by(self, name: str) -> dict[str, Any]:
        return {} if _is_part(name) else {"by": self.by}

    def _note(self, event: str, service: Service, text: str, step: str, **fields: str) -> None:
        operation = step.partition(": ")[0]
        self.notices.append(
            Notice(event, service.database, text, {"operation": operation, **fields, "by": self.by})
        )

    def _finish(self, step: int, outcome: str, detail: dict[str, Any]) -> None:
        self.connection.execute(
            "update split.ledger set outcome = %s, detail = %s, finished_at = clock_timestamp()"
            " where id = %s",
            (outcome, Jsonb(detail), step),
        )

    def last(self, service: Service, step: str) -> dict[str, Any]:
        """Give the detail of the last time that a step of a service was done, or nothing."""
        row = self.connection.execute(
            "select detail from split.ledger where service = %s and step = %s and outcome = 'done'"
            " order by id desc limit 1",
            (service.database, step),
        ).fetchone()
        return row[0] if row else {}

    def was_begun(self, service: Service, step: str) -> bool:
        """Tell whether a step of a service was ever begun, however it ended."""
        row = self.connection.execute(
            "select exists (select from split.ledger where service = %s and step = %s)",
            (service.database, step),
        ).fetchone()
        return row == (True,)

    def has_made(self, service: Service, step: str, what: str) -> bool:
        """Tell whether a step has ever recorded that it made something."""
        row = self.connection.execute(
            "select coalesce(bool_or((detail ->> %s)::boolean), false) from split.ledger"
            " where service = %s and step = %s",
            (what, service.database, step),
        ).fetchone()
        return row == (True,)

    def state(self, service: Service) -> State:
        """Tell where a service stands."""
        return state(self.connection, service)

    def return_to(self, service: Service, state: State) -> None:
        """Record that a service is back in an earlier state, before the work that leads there.

        Atomic. If its tables will be built again, their verifications are deleted. A switched
        service stays switched; only a rollback returns it.
        """
        with self.lock, self.connection.transaction():
            if self.state(service).reached(State.SWITCHED):
                return
            self._set(service, state)
            if not state.reached(State.BUILT):
                self.connection.execute(
                    "delete from split.verifications where service = %s", (service.database,)
                )

    def forget(self, service: Service) -> list[str]:
        """Forget a service's state and verifications; atomic. Its steps stay in the ledger.

        Returns:
            The databases of the services that still have a state.
        """
        with self.lock, self.connection.transaction():
            for table in ("states", "verifications", "heartbeats", "gates"):
                if self._has(table):
                    self.connection.execute(
                        sql.SQL("delete from split.{} where service in (%s, %s)").format(
                            sql.Identifier(table)
                        ),
                        (service.database, f"{service.database} back"),
                    )
            rows = self.connection.execute("select service from split.states order by service")
            return [row[0] for row in rows]

    def _has(self, table: str) -> bool:
        row = self.connection.execute(
            "select to_regclass(%s) is not null", (f"split.{table}",)
        ).fetchone()
        return row == (True,)

    def _set(self, service: Service, state: State) -> None:
        self.connection.execute(
            "insert into split.states (service, state) values (%s, %s)"
            " on conflict (service) do update"
            " set state = excluded.state, since = clock_timestamp()",
            (service.database, state.value),
        )


def _is_part(step: str) -> bool:
    """Tell whether a step is a part of an operation, such as "switch: close"."""
    return ": " in step


def state(monolith: psycopg.Connection[Any], service: Service) -> State:
    """Tell where a service stands, without opening the ledger.

    Args:
        monolith: a connection to it; it may have no ledger yet.
        service: the service.

    Returns:
        Its state; absent if nothing is recorded.
    """
    known = monolith.execute("select to_regclass('split.states') is not null").fetchone()
    if known != (True,):
        return State.ABSENT
    row = monolith.execute(
        "select state from split.states where service = %s", (service.database,)
    ).fetchone()
    return State(row[0]) if row else State.ABSENT


def completed(monolith: psycopg.Connection[Any]) -> frozenset[str]:
    """Name the databases of completed services, whose tables are retired in the monolith."""
    known = monolith.execute("select to_regclass('split.states') is not null").fetchone()
    if known != (True,):
        return frozenset()
    rows = monolith.execute(
        "select service from split.states where state = %s", (State.COMPLETED.value,)
    )
    return frozenset(row[0] for row in rows)


def prepare(control: psycopg.Connection[Any]) -> None:
    """Make the schema `split` of a control database, or upgrade it.

    Raises:
        NotReady: this login may not, or a newer pgsplit has made it.
    """
    try:
        prepare_monolith(control)
    except psycopg.errors.InsufficientPrivilege as error:
        raise NotReady(
            f"The schema split can't be made in {control.info.dbname}: {str(error).strip()}",
            where=describe(control.info.dsn),
            hint=f'GRANT CREATE ON DATABASE "{control.info.dbname}" TO "{control.info.user}";',
        ) from error


def _require_own(control: psycopg.Connection[Any], connections: Connections) -> None:
    """Refuse the ledger of another project; the first project that opens one marks it."""
    name = connections.project.name
    row = control.execute("select obj_description('split.ledger'::regclass, 'pg_class')").fetchone()
    found = row[0] if row else None
    if found is None:
        comment = sql.SQL("comment on table split.ledger is {}")
        # Only its owner can; another login finds it without a mark, as an earlier version did.
        with suppress(psycopg.errors.InsufficientPrivilege):
            control.execute(comment.format(sql.Literal(LEDGER_OF.format(name))))
    elif found != LEDGER_OF.format(name):
        raise NotReady(
            f"The ledger in {control.info.dbname} is another project's: {found}. Nothing was"
            f" changed by {name}.",
            where=describe(control.info.dsn),
            hint=f"Use that project, or another database: {connections.project.variable('URL')}",
        )


@contextmanager
def open_ledger(connections: Connections) -> Iterator[Ledger]:
    """Open the monolith's ledger for the only runner that may be at work.

    Args:
        connections: where the monolith is.

    Yields:
        The ledger, until the block ends. Then notices are sent of what has happened.

    Raises:
        ConnectionFailed: the control database can't be reached.
        NotReady: it is elsewhere, another runner is at work, the monolith is not in UTF8, the
            schema `split` can't be made, or a newer pgsplit has made it.
        TargetOccupied: somebody else has made the schema `split`.
    """
    with open_control(connections) as connection:
        require_utf8(connection)
        require_no_runner_of_version_1(connection, connections.monolith)
        prepare(connection)
        _require_own(connection, connections)
        with alone(connections, connection) as holder:
            ledger = Ledger(connection, holder, made_by(connections.project.root))
            try:
                yield ledger
            finally:
                with Notifier(connections.notify, connections.notify_url) as notifier:
                    for notice in ledger.notices:
                        notifier.send(notice)
