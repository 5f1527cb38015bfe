"""Resuming finishes an operation that was interrupted, or undoes it."""

from __future__ import annotations

from collections.abc import Callable

from pgsplit.cutover import lean
from pgsplit.cutover import switch as switching
from pgsplit.cutover.abort import abort
from pgsplit.cutover.complete import complete
from pgsplit.cutover.moved import Moved
from pgsplit.cutover.recall import recall
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.state.ledger import Ledger
from pgsplit.state.saga import Kind


def resume(
    service: Service,
    operation: str,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
) -> list[str]:
    """Finish an operation that was interrupted, or undo it; see `saga.unfinished`.

    Args:
        service: whose operation it was.
        operation: its name.
        connections: where the servers are.
        ledger: the monolith's ledger.
        say: called with each step's name.

    Returns:
        What became of it, for people.
    """
    kind, before = Kind(operation), recall(service, operation, ledger)
    dumped = [f"Backup: {before.backup}"] if before.backup else []
    if kind is Kind.COMPLETE:
        done = complete(service, connections, ledger, say, with_backup=False, resumes=True)
        if done.is_undone:
            return [f"The {kind} had changed nothing yet: runner.py complete {service.role}"]
        said = ["It is completed now."]
        if done.retired:
            said.append(f"Retired in the monolith: {', '.join(done.retired)}")
        said += [f"{one} now gets its shared rows from here." for one in done.handed_over]
        said += [f"dropped {definition}" for definition in done.detached]
        said += lean.summary(lean.GAVE_BACK, done.emptied) + done.kept
        return said + dumped + done.warnings
    if kind is Kind.ABORT:
        aborted = abort(service, connections, ledger, say)
        removed = [f"Removed: {', '.join(aborted.removed)}."] if aborted.removed else []
        return ["It is aborted now.", *removed, *aborted.notes]
    moved = switching.resume(service, operation, connections, ledger, say)
    return [*moved.warnings, *_pause(moved), *moved.quarantined, *dumped]


def _pause(moved: Moved) -> list[str]:
    if moved.paused_seconds is None:
        return []
    return [f"Writes were paused for {moved.paused_seconds * 1000:,.0f} ms."]
