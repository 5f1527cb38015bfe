"""A gradual rollout: a growing share of users reads a service's database before the switch.

The monolith remains the source of truth. Applications ask a feature flag where a user reads; see
`routing.flags`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.base.text import seconds
from pgsplit.cutover.stands import require_state
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.session import Session, open_session
from pgsplit.routing import flags
from pgsplit.state.ledger import State, open_ledger

BEHIND = "select extract(epoch from %s - as_of)::float from split.service"


@dataclass(frozen=True)
class Rollout:
    """The percent of users that read the service's database, now and before; and the flag."""

    service: Service
    percent: int
    before: int
    flag: str
    file: Path
    notes: list[str] = field(default_factory=list)


def show(service: Service, connections: Connections) -> Rollout:
    """Tell which share of users reads a service's database.

    Args:
        service: the service.
        connections: the folder with the flags.

    Raises:
        NotReady: the flags can't be read.
    """
    percent = flags.share(service, connections)
    return Rollout(service, percent, percent, flags.key(service), flags.file(connections))


def roll_out(service: Service, connections: Connections, percent: int) -> Rollout:
    """Set which share of users reads a service's database.

    A smaller share needs no server. A larger one is refused unless the service has been verified
    and follows the monolith. Atomic, idempotent, and recorded.

    Args:
        service: the service.
        connections: where the servers are, and the folder with the flags.
        percent: of users, from 0 to 100.

    Returns:
        The shares before and now.

    Raises:
        ConnectionFailed: a server can't be reached that a larger share needs.
        NotReady: the service isn't verified, is switched, or lags; or the flags can't be written.
    """
    if percent <= flags.share(service, connections):
        return _reduce(service, connections, percent)
    with open_ledger(connections) as ledger:
        with open_session(service, connections) as session:
            require_state(session, ledger, State.VERIFIED, "rolled out")
            _require_close(session, connections.max_lag_seconds)
        with ledger.step(service, "rollout", percent=percent) as step:
            before = flags.set_share(service, connections, percent)
            step.detail["before"] = before
    return Rollout(service, percent, before, flags.key(service), flags.file(connections))


def _reduce(service: Service, connections: Connections, percent: int) -> Rollout:
    """Send users back at once, whatever is down; what can't be recorded is a note."""
    before = flags.set_share(service, connections, percent)
    done = Rollout(service, percent, before, flags.key(service), flags.file(connections))
    if before != percent:
        try:
            with (
                open_ledger(connections) as ledger,
                ledger.step(service, "rollout", percent=percent) as step,
            ):
                step.detail["before"] = before
        except SplitError as error:
            done.notes.append(f"The ledger doesn't know it: {error.what}")
    return done


def _require_close(session: Session, limit: float) -> None:
    """Refuse a service whose tables are further behind than the limit in seconds."""
    now = session.monolith.execute("select clock_timestamp()").fetchone()
    row = session.database.execute(BEHIND, now).fetchone()
    behind = row[0] if row else None
    if behind is None or behind > limit:
        service = session.service
        raise NotReady(
            f"{service.database} is {seconds(behind)} behind the monolith; the limit is"
            f" {seconds(limit)}. The share was not changed.",
            where=describe(session.database.info.dsn),
            hint=f"runner.py sync {service.role} --follow",
        )
