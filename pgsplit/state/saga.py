"""A saga: steps that are recorded before and after, and undone in order if one can't be done.

There is a point in it from which it only goes on: the decision, a commit in one database. Before
it, whatever goes wrong is undone; after it, what is left can be done again until it is done. Every
step is idempotent, so a saga that was cut short anywhere is resumed by doing its steps again.

After Garcia-Molina and Salem, "Sagas", 1987.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.ledger import Step as Entry

OPERATIONS = ("switch", "rollback", "complete", "abort")


@dataclass(frozen=True)
class Step:
    """A step: what it does, and what takes it back as long as nothing is decided.

    `do` returns what the ledger is to keep. `undo` may be called whether or not `do` has begun.
    `enters` is the state that the service is in once the step is done. A Ctrl-C waits until the
    last of the steps that are `in_one_go` is over.
    """

    name: str
    do: Callable[[], Mapping[str, Any] | None]
    undo: Callable[[], None] | None = None
    undone_by: str = ""
    enters: State | None = None
    in_one_go: bool = False


class Unfinished(NotReady):
    """A saga stands behind its decision, and could not be brought to its end."""


class Stopped(SplitError):
    """Somebody has stopped a saga before its decision, and it was undone."""

    exit_code = 130


@dataclass(frozen=True)
class Saga:
    """An operation on a service, with its steps in order.

    `is_decided` looks at the databases, not at the ledger: a crash may come between the two.
    """

    service: Service
    operation: str
    steps: Sequence[Step]
    is_committed: Callable[[], bool]
    enters: State | None = None
    returns_to: State | None = None

    def run(self, ledger: Ledger, on_step: Callable[[str], None], **intent: Any) -> None:
        """Do all steps; undo them if one fails before the decision.

        Args:
            ledger: the monolith's ledger.
            on_step: called with each step's name before it is done.
            intent: what the ledger is to keep of the whole.

        Raises:
            SplitError: what the failing step raised; its message says that all was undone.
            Unfinished: a step failed after the decision, or undoing did.
        """
        with ledger.step(self.service, self.operation, enters=self.enters, **intent) as whole:
            done = 0
            try:
                for in_one_go, steps in groupby(self.steps, lambda step: step.in_one_go):
                    with _interrupts_wait() if in_one_go else nullcontext():
                        for step in steps:
                            on_step(step.name)
                            with self._recorded(
                                ledger, step.name, enters=step.enters, undone_by=step.undone_by
                            ) as entry:
                                entry.detail.update(step.do() or {})
                            done += 1
            except BaseException as error:
                whole.detail["unfinished"] = True
                self._undo(ledger, done, error)
                whole.detail["unfinished"] = False
                if isinstance(error, KeyboardInterrupt):
                    raise Stopped(
                        f"The {self.operation} was stopped, and is undone: all is as it was before."
                    ) from error
                raise
            whole.returns_to = self.returns_to

    def undo(self, ledger: Ledger, on_step: Callable[[str], None]) -> None:
        """Take back a saga that was cut short before its decision."""
        with ledger.step(self.service, self.operation, resumes=True) as whole:
            whole.outcome = "failed"
            whole.detail.update(unfinished=True)
            for step in reversed(self.steps):
                if step.undo:
                    on_step(f"undo {step.name}")
                    with self._recorded(ledger, f"undo {step.name}"):
                        step.undo()
            whole.detail.update(unfinished=False, error="It was cut short, and is undone.")

    def _recorded(self, ledger: Ledger, name: str, **intent: Any) -> Any:
        return ledger.step(self.service, f"{self.operation}: {name}", **intent)

    def _undo(self, ledger: Ledger, done: int, error: BaseException) -> None:
        """Undo what was done and begun, unless it is decided; then say how to go on."""
        why = str(error) or "it was stopped"
        kept_out = any(step.in_one_go for step in self.steps[done:])
        try:
            if self.is_committed():
                raise Unfinished(
                    f"The {self.operation} of {self.service.database} is decided, but not at its"
                    f" end: {why}."
                    + kept_out
                    * " Until it is, writers may be kept out on both sides.",
                    where=self.service.database,
                    hint="runner.py resume",
                ) from error
            for step in reversed(self.steps[: done + 1]):
                if step.undo:
                    with self._recorded(ledger, f"undo {step.name}"):
                        step.undo()
        except (psycopg.Error, KeyboardInterrupt) as failed:
            raise Unfinished(
                f"The {self.operation} of {self.service.database} stopped, and could not be undone:"
                f" {why}; then: {str(failed).strip() or 'it was stopped again'}",
                where=self.service.database,
                hint="runner.py resume, as soon as both servers answer. A gate that is closed on a"
                " lease opens by itself meanwhile.",
            ) from error
        if isinstance(error, SplitError):
            error.what += f"\nThe {self.operation} was undone: all is as it was before."


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is over; only main threads ever get them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        one: signal.signal(one, lambda number, _: came.append(number))
        for one in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    if came:
        raise KeyboardInterrupt


def unfinished(ledger: Ledger) -> dict[str, Entry]:
    """Find the operations that neither came to their end nor were undone, by service.

    Args:
        ledger: the monolith's ledger.

    Returns:
        By the service's database, the last operation's entry: its id, and its intent as `detail`.
    """
    return left_unfinished(ledger.connection)


def left_unfinished(monolith: psycopg.Connection[Any]) -> dict[str, Entry]:
    """Find them without opening the ledger; see `unfinished`."""
    rows = monolith.execute(
        "select service, id, step, intent from ("
        " select distinct on (service) service, id, step, intent, outcome, detail"
        " from split.ledger where step = any(%s) order by service, id desc"
        ") as last where outcome is null or (detail ->> 'unfinished')::boolean",
        (list(OPERATIONS),),
    )
    return {
        service: Entry(id, detail={"operation": step, **intent})
        for service, id, step, intent in rows
    }


def require_finished(service: Service, ledger: Ledger, *, but: Collection[str] = ()) -> None:
    """Refuse a service that an operation has left on its way, except for those named.

    Args:
        service: the service.
        ledger: the monolith's ledger.
        but: operations that may have been, since what comes now does not go against them.

    Raises:
        NotReady: what was begun comes first, since until then not even its state tells which side
            is the truth.
    """
    left = unfinished(ledger).get(service.database)
    if left and left.detail["operation"] not in but:
        raise NotReady(
            f"The last {left.detail['operation']} of {service.database} was cut short.",
            where=describe(ledger.connection.info.dsn),
            hint="runner.py resume",
        )
