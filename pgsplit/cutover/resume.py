"""Resuming finishes an operation that was interrupted, or undoes it."""

from __future__ import annotations

from collections.abc import Callable

from pgsplit.cutover import switch as switching
from pgsplit.cutover.abort import abort
from pgsplit.cutover.complete import complete
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
    kind = Kind(operation)
    if kind is Kind.COMPLETE:
        done = complete(service, connections, ledger, say, with_backup=False, resumes=True)
        if done.is_undone:
            return [f"The {kind} had changed nothing yet: runner.py complete {service.role}"]
        return ["It is completed now.", *done.warnings]
    if kind is Kind.ABORT:
        abort(service, connections, ledger, say)
        return ["It is aborted now."]
    return switching.resume(service, operation, connections, ledger, say).warnings
