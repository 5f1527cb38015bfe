"""What an operation needs outside of PostgreSQL: programs, folders, files, and PgBouncer."""

from __future__ import annotations

import subprocess

from pgsplit.base.errors import NotReady
from pgsplit.project.endpoints import Connections
from pgsplit.replication.session import Session
from pgsplit.routing import env_file, faults, pgbouncer


def require_routes(session: Session) -> None:
    """Check that the service's routes are right, and that their file can be replaced."""
    service, connections = session.service, session.connections
    for what, hint in faults.of_file(service, connections, session.monolith):
        raise NotReady(what, hint=hint)
    env_file.require_folder(connections)


def require_pgbouncer(connections: Connections) -> None:
    """Check that PgBouncer, if there is one, takes commands from this login."""
    if not connections.pgbouncer_url:
        return
    with pgbouncer.console(connections.pgbouncer_url) as control:
        # Only administrators may; it changes nothing.
        retry = pgbouncer.login_retry(control)
        pgbouncer.ask(control, f"SET server_login_retry = '{retry}'")


def require_announcement(connections: Connections) -> None:
    """Check that a shell understands the operator's command, if there is one, and finds it."""
    if not (command := connections.after_change):
        return
    done = subprocess.run(
        ["/bin/sh", "-nc", command], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    said = done.stderr.strip()
    first = command.split()[0] if command.split() else ""
    if not done.returncode and first.replace("/", "").replace("-", "").isalnum():
        found = subprocess.run(
            ["/bin/sh", "-c", 'command -v "$1"', "sh", first], capture_output=True, text=True
        )
        said = f"{first}: not found" if found.returncode else ""
    if said or done.returncode:
        raise NotReady(
            f"The command that runs after a change can't run: {said}",
            where=f"${connections.project.variable('AFTER_CHANGE')}",
            hint=f"export {connections.project.variable('AFTER_CHANGE')}=…",
        )
