"""What a service has changed of the tables that this project made, and what becomes of it.

A service may give its tables columns, indexes, triggers and policies of its own, and make tables.
The catalogue tells what is no longer as this project made it: `split.own_changes()`. What is
carried or quarantined by a rollback is said; what would make a later step fail is refused before
anything is changed, with the statement that fixes it. From its completion on, a service's tables
are its team's, and only what others share of them has to stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import psycopg

from pgsplit.base.errors import BuildFailed, NotReady, SplitError
from pgsplit.postgres.connect import describe
from pgsplit.postgres.holders import patience
from pgsplit.project.project import Service
from pgsplit.replication.session import lock_syncs
from pgsplit.replication.slot import Connection

# A schema of version 1 can't tell.
CAN_TELL = "select to_regprocedure('split.own_changes()') is not null"


class Harm(Enum):
    """What a change does to a later step."""

    NONE = "none"
    LATER = "later"  # rows may fail to be written some day
    FORWARD = "forward"  # a sync from the monolith fails, or changes the service's own rows
    REVERSE = "reverse"  # a sync towards the monolith fails, too
    SHARED = "shared"  # others no longer get what they share of a completed service's tables


@dataclass(frozen=True)
class OwnChange:
    """A change of a table, in words, with the statement that undoes it or what becomes of it."""

    table: str
    what: str
    harm: Harm
    hint: str

    def __str__(self) -> str:
        return f"{self.what}\n  hint:  {self.hint}"


# An earlier version can't tell what others share.
CAN_TELL_OF_COMPLETED = "select to_regprocedure('split.shared_changes()') is not null"


def can_tell_of_completed(database: Connection) -> bool:
    """Tell whether a completed service's schema `split` is new enough to know what others share."""
    return database.execute(CAN_TELL_OF_COMPLETED).fetchone() == (True,)


def can_tell(database: Connection) -> bool:
    """Tell whether a service's schema `split` is new enough to know how its tables were made."""
    row = database.execute(CAN_TELL).fetchone()
    return row == (True,)


def own_changes(database: Connection) -> list[OwnChange]:
    """Find what is no longer as this project made it; reads only the catalogue.

    Args:
        database: a connection to the database of a service that has been built.

    Returns:
        The changes; none, if the schema `split` is too old to tell.

    Raises:
        NotReady: somebody has locked such a table, even against readers of its definition.
    """
    if not can_tell(database):
        return []
    with patience(database):
        return [
            OwnChange(table, what, Harm(harm), hint)
            for table, what, harm, hint in database.execute("select * from split.own_changes()")
        ]


def harmful(database: Connection, *harms: Harm) -> list[tuple[str, str]]:
    """Find the changes that do one of these harms, and what else fails when it is tried.

    Args:
        database: a connection to the database of a service that has been built.
        harms: `FORWARD` also tries on no row, in a transaction that is rolled back, what a sync
            from the monolith and a rollback do.

    Returns:
        What is wrong, and the statement that fixes it.

    Raises:
        NotReady: somebody has locked such a table.
    """
    found = [(one.what, one.hint) for one in own_changes(database) if one.harm in harms]
    if found or Harm.FORWARD not in harms or not can_tell(database):
        return found
    with database.transaction(force_rollback=True):
        # One snapshot, as in a sync: a change that arrives meanwhile would be tried by halves.
        database.execute("set transaction isolation level repeatable read")
        with patience(database):
            lock_syncs(database)
            failed = database.execute("select * from split.try_to_follow()").fetchall()
        return [
            (
                f"{table} can't follow the monolith: {problem}",
                f"Undo the last change of {table}: select * from split.own_changes();",
            )
            for table, problem in failed
        ]


def forget_resting_triggers(database: Connection) -> None:
    """Forget them, once the service writes its tables itself; idempotent."""
    if can_tell(database):
        database.execute("delete from split.resting_triggers")


@contextmanager
def as_warning(service: Service, warnings: list[str]) -> Iterator[None]:
    """Turn a sync that fails in the block into a warning: it can't hold up what is committed."""
    try:
        yield
    except (BuildFailed, psycopg.Error) as error:
        if isinstance(error, psycopg.OperationalError):
            raise
        said = error if isinstance(error, SplitError) else str(error).strip().splitlines()[0]
        warnings.append(
            f"The tables of {service.database} do not follow the monolith yet: {said}\n"
            f"  hint:  runner.py status {service.role} names what was changed; fix it, then"
            f" runner.py sync {service.role}"
        )


def require_tables(database: Connection, service: Service) -> None:
    """Refuse tables that a reverse sync can't read any more.

    Args:
        database: a connection to the service's database.
        service: the service.

    Raises:
        NotReady: each change that is in the way, with the statement that undoes it.
    """
    if found := harmful(database, Harm.REVERSE):
        raise NotReady(
            "Tables that this project made have been changed:\n"
            + "\n".join(f"  - {what}" for what, _ in found),
            where=describe(database.info.dsn),
            hint="\n".join(dict.fromkeys(hint for _, hint in found)),
        )
