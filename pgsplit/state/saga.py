"""A saga: steps that are recorded before and after, and undone in order if one fails.

It has a point of no return: a commit in one database. Whatever goes wrong before it is undone;
what is left after it can be done until it succeeds. Every step is idempotent, so a saga that was
interrupted anywhere is resumed by doing its steps again.

After Garcia-Molina and Salem, "Sagas", 1987.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.ledger import Step as Entry


class Kind(str, Enum):
    """The kinds of sagas, by the name that the ledger has them under."""

    SWITCH = "switch"
    ROLLBACK = "rollback"
    COMPLETE = "complete"
    ABORT = "abort"

    def __str__(self) -> str:
        return self.value

    def entry(self, step: str) -> str:
        """Give the name that the ledger has one of its steps under."""
        return f"{self.value}: {step}"


OPERATIONS = tuple(kind.value for kind in Kind)
# The steps that disable subscriptions, to remove them.
REMOVING = (
    "switch: prepare",
    "switch: undo prepare",
    "rollback: finish",
    "complete: hand over",
    "complete: end way back",
    "complete: end links",
    "abort: ways",
)


@dataclass(frozen=True)
class Step:
    """A step: what it does, and what undoes it before the point of no return.

    `do` returns what the ledger is to keep. `undo` may be called whether or not `do` has begun.
    `enters` is the state that the service is in once the step is done. Ctrl-C waits until the last
    of the `uninterruptible` steps is done. One that `commits` passes the point of no return. One
    that is not `needed` may fail: then the saga is done all the same, and has a warning.
    """

    name: str
    do: Callable[[], Mapping[str, Any] | None]
    undo: Callable[[], None] | None = None
    undone_by: str = ""
    enters: State | None = None
    uninterruptible: bool = False
    commits: bool = False
    needed: bool = True


class Unfinished(NotReady):
    """A saga is past its point of no return but not finished, or could not be undone."""


class Stopped(SplitError):
    """Somebody has stopped a saga before its point of no return, and it was undone."""

    exit_code = 130


@dataclass(frozen=True)
class Saga:
    """An operation on a service, with its steps in order.

    `is_committed` looks at the databases, not at the ledger: a crash may come between the two.
    `around` encloses what a step does and what undoes it, such as to explain its errors.
    """

    service: Service
    kind: Kind
    steps: Sequence[Step]
    is_committed: Callable[[], bool]
    enters: State | None = None
    returns_to: State | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext

    def run(self, ledger: Ledger, on_step: Callable[[str], None], **intent: Any) -> list[str]:
        """Do all steps; undo them if one fails before the point of no return.

        Args:
            ledger: the monolith's ledger.
            on_step: called with each step's name before it is done.
            intent: what the ledger is to keep of the whole.

        Returns:
            Warnings: what has failed although nothing depends on it.

        Raises:
            SplitError: what the failing step raised; its message says that everything was undone.
            Unfinished: a step failed after the point of no return, or undoing failed.
        """
        warnings, is_done = list[str](), False
        try:
            with ledger.step(self.service, self.kind.value, enters=self.enters, **intent) as whole:
                done = 0
                try:
                    for uninterruptible, steps in groupby(
                        self.steps, lambda one: one.uninterruptible
                    ):
                        with _interrupts_wait() if uninterruptible else nullcontext():
                            for step in steps:
                                on_step(step.name)
                                warnings += self._done(step, ledger)
                                done += 1
                except BaseException as error:
                    whole.detail["unfinished"] = True
                    self._undo(ledger, done, error)
                    whole.detail["unfinished"] = False
                    if isinstance(error, KeyboardInterrupt):
                        raise Stopped(
                            f"The {self.kind} was stopped and undone: everything is as it was"
                            " before."
                        ) from error
                    raise
                whole.returns_to, is_done = self.returns_to, True
        except psycopg.OperationalError as error:
            if not is_done:
                raise
            warnings.append(
                f"The {self.kind} of {self.service.database} is done, but the ledger could not be"
                f" told: {str(error).strip()}\nAs soon as the monolith answers: runner.py resume"
            )
        return warnings

    def undo(self, ledger: Ledger, on_step: Callable[[str], None]) -> None:
        """Undo a saga that was interrupted before its point of no return."""
        with ledger.step(self.service, self.kind.value, resumes=True) as whole:
            whole.outcome = "failed"
            whole.detail.update(unfinished=True)
            for step in reversed(self.steps):
                if step.undo:
                    on_step(f"undo {step.name}")
                    with self._recorded(ledger, f"undo {step.name}"), self.around():
                        step.undo()
            whole.detail.update(unfinished=False, error="It was interrupted and undone.")

    def _done(self, step: Step, ledger: Ledger) -> list[str]:
        """Do and record a step; give a warning if it fails and is not needed."""
        try:
            with (
                self._recorded(
                    ledger, step.name, enters=step.enters, undone_by=step.undone_by
                ) as entry,
                self.around(),
            ):
                entry.detail.update(step.do() or {})
        except (SplitError, psycopg.Error, OSError) as error:
            if step.needed:
                raise
            return [
                f"The {self.kind} of {self.service.database} is done, but its step {step.name}"
                f" failed, on which nothing depends: {str(error).strip()}"
            ]
        return []

    @contextmanager
    def _recorded(self, ledger: Ledger, name: str, **intent: Any) -> Iterator[Entry]:
        with ledger.step(self.service, self.kind.entry(name), **intent) as entry:
            # What comes next is recorded, too, and writers wait for it: another step, or the end.
            entry.is_followed = True
            yield entry

    def _undo(self, ledger: Ledger, done: int, error: BaseException) -> None:
        """Undo what was begun, unless it is committed; then say how to go on."""
        why = str(error) or "it was stopped"
        try:
            # A step that has committed needs no server to say so.
            if any(step.commits for step in self.steps[:done]) or self.is_committed():
                raise self._unfinished(why, done) from error
            failed = self._undone(ledger, done)
        except (psycopg.Error, KeyboardInterrupt) as also:
            failed = also
        if failed:
            raise Unfinished(
                f"The {self.kind} of {self.service.database} stopped and could not be undone:"
                f" {why}; then: {str(failed).strip() or 'it was stopped again'}",
                where=self.service.database,
                hint="runner.py resume, as soon as both servers answer. A write fence that is"
                " closed on a lease opens by itself meanwhile.",
            ) from error
        if isinstance(error, SplitError):
            error.what += f"\nThe {self.kind} was undone: everything is as it was before."

    def _unfinished(self, why: str, done: int) -> Unfinished:
        kept_out = any(step.uninterruptible for step in self.steps[done:])
        return Unfinished(
            f"The {self.kind} of {self.service.database} is committed but not finished: {why}."
            + kept_out * " Until it is finished, writers may be kept out on both sides.",
            where=self.service.database,
            hint="runner.py resume",
        )

    def _undone(self, ledger: Ledger, done: int) -> BaseException | None:
        """Undo every step that was begun, whatever becomes of the others; give the first error."""
        first: BaseException | None = None
        for step in reversed(self.steps[: done + 1]):
            if step.undo:
                try:
                    with self._recorded(ledger, f"undo {step.name}"), self.around():
                        step.undo()
                except (SplitError, psycopg.Error, KeyboardInterrupt) as error:
                    first = first or error
        return first


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is over; only the main thread ever gets them."""
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
    """Find the operations that were neither finished nor undone, by service.

    Args:
        ledger: the monolith's ledger.

    Returns:
        By the service's database, the last operation's entry: its id, and as `detail` its intent
        and its name under `operation`.
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


def paused_by_us(monolith: psycopg.Connection[Any], service: Service) -> str:
    """Tell whether this project itself has left a stream of a service disabled, half-way.

    Args:
        monolith: a connection to it.
        service: whose stream it is.

    Returns:
        The command that goes on with what was interrupted; nothing if nothing was.
    """
    row = monolith.execute(
        "select step from split.ledger where service = %s and step like '%%: %%'"
        " and outcome is distinct from 'done' and id = (select max(id) from split.ledger"
        " where service = %s and step like '%%: %%')",
        (service.database, service.database),
    ).fetchone()
    if row and row[0] in REMOVING and service.database in left_unfinished(monolith):
        return "runner.py resume"
    return f"runner.py repair {service.role}" if unfinished_repairs(monolith, service) else ""


def unfinished_repairs(monolith: psycopg.Connection[Any], service: Service) -> set[str]:
    """Name the streams of a service whose last repair was interrupted or has failed."""
    rows = monolith.execute(
        "select way from ("
        " select distinct on (intent ->> 'way') intent ->> 'way' as way, outcome from split.ledger"
        " where service = %s and step = 'repair' order by intent ->> 'way', id desc"
        ") as last where outcome is distinct from 'done'",
        (service.database,),
    )
    return {row[0] for row in rows}


def require_finished(service: Service, ledger: Ledger, *, but: Collection[str] = ()) -> None:
    """Refuse a service that has an unfinished operation, except for those named.

    Until it is finished, not even the service's state tells which side is the source of truth.

    Args:
        service: the service.
        ledger: the monolith's ledger.
        but: operations that may be unfinished, since the caller works with them.

    Raises:
        NotReady: the operation was interrupted; it comes first.
    """
    left = unfinished(ledger).get(service.database)
    if left and left.detail["operation"] not in but:
        raise NotReady(
            f"The last {left.detail['operation']} of {service.database} was interrupted.",
            where=describe(ledger.connection.info.dsn),
            hint="runner.py resume",
        )
