"""Tells whether a side has forgotten a cutover, after a restore or a failover.

The monolith's ledger says which side is the source of truth, and the service's database says it,
too. If they differ, and no operation is under way, one of them was restored, or failed over, to a
moment before the last cutover. Which one it was, the time of the switch tells, by the clock of the
service's server: the monolith's ledger either knows that switch or has forgotten it.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Service
from pgsplit.replication.slot import Connection
from pgsplit.state.ledger import State, state
from pgsplit.state.saga import left_unfinished

# A switch whose last step could not record its time has let writers in right after that.
KNOWN = """
    select exists (
        select from split.ledger
        where
            service = %(service)s and outcome = 'done'
            and (
                (detail ->> 'switched_at')::timestamptz = %(at)s
                or (intent ->> 'switched_at')::timestamptz = %(at)s
                or (
                    step = 'switch: open' and (detail ->> 'opened_at')::timestamptz
                    between %(at)s and %(at)s::timestamptz + interval '1 minute'
                )
            )
    )
"""


# Whether the last switch that the monolith knows of is the one that the service has ended.
ENDED = """
    select coalesce((detail ->> 'switched_at')::timestamptz = %(at)s, false)
        or coalesce((intent ->> 'switched_at')::timestamptz = %(at)s, false)
        or coalesce(
            (detail ->> 'opened_at')::timestamptz
            between %(at)s and %(at)s::timestamptz + interval '1 minute',
            false
        )
    from split.ledger
    where
        service = %(service)s and outcome = 'done'
        and (
            detail ? 'switched_at' or intent ? 'switched_at'
            or (step = 'switch: open' and detail ? 'opened_at')
        )
    order by id desc limit 1
"""


class Forgotten(Enum):
    """What was forgotten, and by whom."""

    SWITCH_BY_MONOLITH = "switch by monolith"
    ROLLBACK_BY_SERVICE = "rollback by service"
    SWITCH_BY_SERVICE = "switch by service"
    ROLLBACK_BY_MONOLITH = "rollback by monolith"
    COMPLETION_BY_SERVICE = "completion by service"
    COMPLETION_BY_MONOLITH = "completion by monolith"
    SWITCH_AND_COMPLETION_BY_SERVICE = "switch and completion by service"


# Until it knows again, its rows are older than the service's.
BY_MONOLITH = (Forgotten.SWITCH_BY_MONOLITH, Forgotten.COMPLETION_BY_MONOLITH)
COMPLETIONS = (Forgotten.COMPLETION_BY_SERVICE, Forgotten.COMPLETION_BY_MONOLITH)


def forgotten(
    service: Service, monolith: Connection, database: Connection, *, amid: bool = False
) -> Forgotten | None:
    """Tell what one side has forgotten.

    Args:
        service: the service.
        monolith: a connection to it.
        database: a connection to the service's database.
        amid: also while an operation is under way, or was interrupted.

    Returns:
        None if both agree, or if an operation is under way or was interrupted.
    """
    stands, since = state(monolith, service), switched_at(database)
    agree = (since is None) is not stands.reached(State.SWITCHED)
    if agree and stands is State.SWITCHED and _is_closed_for_good(service, database):
        # Only a rollback does that, and its next steps let the service forget the switch.
        return None if _is_unfinished(monolith, service) else Forgotten.ROLLBACK_BY_MONOLITH
    if agree and (since is None or knows_completion(database) in (None, stands is State.COMPLETED)):
        return None
    if not amid and _is_unfinished(monolith, service):
        return None
    if agree:
        forgot = stands is State.COMPLETED
        return Forgotten.COMPLETION_BY_SERVICE if forgot else Forgotten.COMPLETION_BY_MONOLITH
    if since is None:
        return _of_switched(service, monolith, database, stands)
    known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
    if known == (True,):
        known = monolith.execute(KNOWN, {"service": service.database, "at": since}).fetchone()
    return Forgotten.ROLLBACK_BY_SERVICE if known == (True,) else Forgotten.SWITCH_BY_MONOLITH


def _of_switched(
    service: Service, monolith: Connection, database: Connection, stands: State
) -> Forgotten:
    """Tell who is wrong if the monolith says switched, and the service's database says not."""
    if stands is State.COMPLETED:
        return Forgotten.SWITCH_AND_COMPLETION_BY_SERVICE
    # In a schema of an older version there is no such column.
    row = database.execute(
        "select (to_jsonb(here.*) ->> 'ended_switch')::timestamptz from split.service as here"
    ).fetchone()
    if row and row[0]:
        values = {"service": service.database, "at": row[0]}
        if monolith.execute(ENDED, values).fetchone() == (True,):
            return Forgotten.ROLLBACK_BY_MONOLITH
    return Forgotten.SWITCH_BY_SERVICE


def switched_at(database: Connection) -> datetime | None:
    """Tell since when a service takes itself for the source of truth; None if it does not."""
    known = database.execute("select to_regclass('split.service') is not null").fetchone()
    if known != (True,):
        return None
    row = database.execute("select switched_at from split.service").fetchone()
    return row[0] if row else None


def knows_completion(database: Connection) -> bool | None:
    """Tell whether a switched service takes itself for completed; None in an older version."""
    row = database.execute(
        "select to_jsonb(here.*) ? 'completed_at', to_jsonb(here.*) ->> 'completed_at'"
        " from split.service as here"
    ).fetchone()
    return row[1] is not None if row and row[0] else None


def problem(service: Service, monolith: Connection, database: Connection) -> NotReady | None:
    """Say what one side has forgotten, with the command that fixes it; None if nothing."""
    what, name, role = forgotten(service, monolith, database), service.database, service.role
    if what is None:
        return None
    where, since = describe(monolith.info.dsn), switched_at(database)
    if what is Forgotten.SWITCH_BY_MONOLITH:
        return NotReady(
            f"{name} has been the source of truth since {since:%Y-%m-%d %H:%M:%S %Z}, and the"
            " monolith does not know: it was restored, or failed over, to a moment before that."
            " Nothing was changed.",
            where=where,
            hint=f"runner.py repair {role}",
        )
    if what is Forgotten.ROLLBACK_BY_MONOLITH:
        return NotReady(
            f"{name} was rolled back, and the monolith does not know: it was restored, or failed"
            " over, to a moment before that. Nobody can write on either side. Nothing was changed.",
            where=where,
            hint=f"runner.py repair {role}, then runner.py rollback {role}",
        )
    if what is Forgotten.COMPLETION_BY_MONOLITH:
        return NotReady(
            f"{name} is completed, and the monolith does not know: it was restored, or failed over,"
            " to a moment before that. Nothing was changed.",
            where=where,
            hint=f"runner.py repair {role}",
        )
    where = describe(database.info.dsn)
    if what is Forgotten.COMPLETION_BY_SERVICE:
        return NotReady(
            f"{name} is completed, and its database does not know: it was restored, or failed over,"
            " to a moment before that. Nothing was changed.",
            where=where,
            hint=f"runner.py repair {role}",
        )
    if what is Forgotten.SWITCH_AND_COMPLETION_BY_SERVICE:
        return NotReady(
            f"{name} is completed, and its database is back in a moment before its switch: it was"
            " restored, or failed over. Nobody else has what it wrote since its completion."
            " Nothing was changed.",
            where=where,
            hint="Restore the service's database to a moment after the switch. The monolith has its"
            f" rows as of the completion in the schema {service.project.retired_schema}.",
        )
    if what is Forgotten.ROLLBACK_BY_SERVICE:
        return NotReady(
            f"The monolith is the source of truth for {name} since a rollback, and the service's"
            " database does not know: it was restored, or failed over, to a moment before that."
            " Nothing was changed.",
            where=where,
            hint=f"runner.py land {role} --recopy, then runner.py run {role}",
        )
    return NotReady(
        f"{name} was switched, and its database does not know: it was restored, or failed over, to"
        " a moment before that. Nobody can write on either side. What the service wrote since then"
        " is in the monolith, as far as it had arrived there. Nothing was changed.",
        where=where,
        hint=f"runner.py repair {role}\nIt makes the monolith the source of truth again.",
    )


def require_remembered(
    service: Service,
    monolith: Connection,
    database: Connection,
    *,
    but: Forgotten | None = None,
) -> None:
    """Refuse a service if one side has forgotten a cutover, except for what the caller puts right.

    Raises:
        NotReady: see `problem`.
    """
    found = problem(service, monolith, database)
    if found and (but is None or forgotten(service, monolith, database) is not but):
        raise found


def _is_closed_for_good(service: Service, database: Connection) -> bool:
    known = database.execute("select to_regclass('split.gates') is not null").fetchone()
    if known != (True,):
        return False
    row = database.execute(
        "select not is_open and opens_at is null from split.gates where service = %s",
        (service.database,),
    ).fetchone()
    return row == (True,)


def _is_unfinished(monolith: Connection, service: Service) -> bool:
    known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
    return known == (True,) and service.database in left_unfinished(monolith)
