"""Routes applications to where the ledger says they belong, if an old file leads them elsewhere."""

from __future__ import annotations

from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import forgotten
from pgsplit.routing import applications, env_file, faults
from pgsplit.routing.announce import AFTER_CHANGE_SECONDS, announce
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import unfinished


def reroute(service: Service, connections: Connections, ledger: Ledger) -> list[str]:
    """Correct a service's file if it leads applications to the wrong side; idempotent.

    Args:
        service: any service.
        connections: the folder with its file.
        ledger: the monolith's ledger, which knows the right sides.

    Returns:
        What was wrong and what became of it, for people; nothing if nothing was wrong.

    Raises:
        ConnectionFailed: the service's database can't be reached, which may know better.
        NotReady: the file can't be written.
    """
    monolith, state = ledger.connection, ledger.state(service)
    if not state.reached(State.PROVISIONED) or service.database in unfinished(ledger):
        return []
    if broken := faults.of_file(service, connections, monolith):
        return [f"{what}. To fix it: {hint}" for what, hint in broken]
    is_switched = state.reached(State.SWITCHED)
    wrong = faults.wrong_sides(service, connections, monolith, is_switched=is_switched)
    if not wrong:
        return []
    with connections.connect(service.database) as database:
        # A monolith that was restored to a moment before the switch does not know the right side.
        if problem := forgotten.problem(service, monolith, database):
            return [f"{problem.what} To fix it: {problem.hint}"]
    routes = env_file.read(service, connections)
    reads, writes = applications.sides_wanted(monolith, service, routes, is_switched=is_switched)
    with ledger.step(service, "route", reads=reads.value, writes=writes.value) as step:
        env_file.route_to(service, connections, reads_at=reads, writes_at=writes)
        step.detail["routes"] = applications.as_written(service, connections)
    warning = announce(service, connections, AFTER_CHANGE_SECONDS)
    return [f"{what}. Now they do." for what, _ in wrong] + ([warning] if warning else [])
