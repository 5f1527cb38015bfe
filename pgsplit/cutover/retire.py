"""Retires the monolith: a last backup that is proven, then it is read-only, then it may go.

Only once nothing of ours needs it, and nobody else has been seen in it for some time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from psycopg import sql

from pgsplit.backup.dump import Backup, backup
from pgsplit.backup.prove import Proof, prove, require_provable
from pgsplit.base.errors import NotReady
from pgsplit.base.text import rfc3339, seconds
from pgsplit.cutover import still_needed
from pgsplit.cutover.move_control import needing_monolith, plain
from pgsplit.cutover.still_needed import Needs
from pgsplit.postgres.connect import describe, explained, with_database
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.slot import Connection
from pgsplit.state.ledger import Ledger

STEP = "retire"
UNDO = "retire: undo"
MAY_ALTER = """
    select pg_catalog.pg_has_role(datdba, 'usage'), pg_catalog.pg_get_userbyid(datdba)
    from pg_catalog.pg_database where datname = current_database()
"""
IS_READ_ONLY = """
    select coalesce(bool_or('default_transaction_read_only=on' = any(setconfig)), false)
    from pg_catalog.pg_db_role_setting
    where
        setrole = 0
        and setdatabase = (
            select oid from pg_catalog.pg_database where datname = current_database()
        )
"""
# Since it was last let go.
LAST = """
    select (detail ->> 'until')::timestamptz, (detail ->> 'until')::timestamptz <= clock_timestamp()
    from split.ledger
    where
        service = %(service)s and step = %(step)s and outcome = 'done'
        and id > coalesce((
            select max(id) from split.ledger where service = %(service)s and step = %(undo)s
        ), 0)
    order by id desc limit 1
"""
UNTIL = "select clock_timestamp() + make_interval(secs => %s)"


class Did(str, Enum):
    """What became of the monolith."""

    CHECKED = "checked"
    RETIRED = "retired"
    WAS_RETIRED = "was retired"
    MAY_GO = "may be dropped"
    UNDONE = "undone"
    WAS_NOT_RETIRED = "was not retired"


@dataclass
class Retired:
    """What became of the monolith, how long it was watched, its last backup, and until when it
    stays read-only. `drop` is the command that drops it, once that time is over.
    """

    database: str
    did: Did
    watched_seconds: float = 0.0
    backup: Backup | None = None
    proof: Proof | None = None
    until: datetime | None = None
    drop: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wish:
    """How to retire: how long to look for others, and for how long to keep it read-only.

    Without `with_backup` nothing is dumped. `prove_at` is the URL of an empty database to prove the
    backup in; empty for a scratch one beside the monolith.
    """

    watch_seconds: float
    read_only_seconds: float
    dry_run: bool = False
    with_backup: bool = True
    prove_at: str = ""


def retire(
    connections: Connections, ledger: Ledger, say: Callable[[str], None], wish: Wish
) -> Retired:
    """Make the monolith read-only, and back it up; idempotent, and resumable.

    Args:
        connections: where all databases are.
        ledger: the ledger, in the control database.
        say: called with what is being done.
        wish: how.

    Returns:
        What was done; or, if it was retired before, until when it stays, and who was seen in it.

    Raises:
        ConnectionFailed: a database can't be reached.
        NotReady: something still needs the monolith, or somebody uses it; the message has all of
            it, and nothing was changed.
        DataDiffers: the restored backup differs; the monolith can be written again.
    """
    with _monolith(connections) as monolith:
        found = Retired(describe(connections.monolith_url), Did.CHECKED)
        if _is_read_only(monolith) and (last := _last(ledger.connection, connections)):
            return _wait(found, *last, monolith, connections, wish, say)
        say("check")
        found.notes = _require_unneeded(monolith, connections, ledger)
        _require_owner(monolith)
        if wish.with_backup:
            require_provable(monolith, wish.prove_at)
        _watch(found, monolith, wish, say, "retired")
        if wish.dry_run:
            return found
        with (
            ledger.step(_whole(connections), STEP, watched_seconds=wish.watch_seconds) as step,
            _read_only(monolith),
        ):
            if seen := still_needed.watch(monolith, 0):  # who came before could still write
                raise _refused(monolith, "retired", Needs(seen, [WHO]))
            if wish.with_backup:
                _archive(found, connections, ledger, say, wish)
            row = ledger.connection.execute(UNTIL, (wish.read_only_seconds,)).fetchone()
            assert row is not None
            found.until = row[0]
            path = found.backup and str(found.backup.path)
            step.detail = {"until": rfc3339(row[0]), "backup": path}
        found.did = Did.RETIRED
    return found


def _archive(
    found: Retired,
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    wish: Wish,
) -> None:
    found.backup = backup(connections.monolith, connections, ledger, None, STEP, say=say)
    found.notes += found.backup.notes
    found.proof = prove(found.backup, connections, ledger, say, wish.prove_at)


def _wait(
    found: Retired,
    until: datetime,
    is_over: bool,
    monolith: Connection,
    connections: Connections,
    wish: Wish,
    say: Callable[[str], None],
) -> Retired:
    """Tell until when it stays read-only; after that, that it may go if nobody is seen in it."""
    found.until = until
    if is_over:
        _watch(found, monolith, wish, say, "dropped")
        found.did = Did.MAY_GO
        name = sql.Identifier(monolith.info.dbname).as_string(monolith)
        server = plain(with_database(connections.monolith_url, "postgres"))
        found.drop = f"psql \"{server}\" -c 'drop database {name}'"
        return found
    say(f"watch for {seconds(wish.watch_seconds)}")
    found.watched_seconds = wish.watch_seconds
    found.notes = still_needed.watch(monolith, wish.watch_seconds)
    found.did = Did.WAS_RETIRED
    return found


def undo(connections: Connections, ledger: Ledger) -> Retired:
    """Let the monolith be written again; idempotent.

    Raises:
        ConnectionFailed: it can't be reached.
        NotReady: this login may not alter it.
    """
    with _monolith(connections) as monolith:
        found = Retired(describe(connections.monolith_url), Did.WAS_NOT_RETIRED)
        if _is_read_only(monolith):
            _require_owner(monolith)
            with ledger.step(_whole(connections), UNDO):
                _set_read_only(monolith, is_on=False)
            found.did = Did.UNDONE
    return found


@contextmanager
def _monolith(connections: Connections) -> Iterator[Connection]:
    url, name = connections.monolith_url, connections.monolith
    with connections.connect(name) as monolith, explained(url, name, monolith):
        yield monolith


def _whole(connections: Connections) -> Service:
    return Service(connections.project.name, 0, "monolith", "", connections.project)


def notes(control: Connection, connections: Connections) -> list[str]:
    """Say until when the monolith stays read-only, if it was retired and is still there.

    Args:
        control: a connection to the control database.
        connections: where all databases are.
    """
    if not connections.has_monolith or connections.control == connections.monolith:
        return []
    if (found := _last(control, connections)) is None:
        return []
    until, is_over = found
    when = rfc3339(until, "seconds")
    said = f"was read-only until {when}, and may be dropped" if is_over else f"stays until {when}"
    return [f"The monolith is retired. It {said}: runner.py retire"]


def _last(control: Connection, connections: Connections) -> tuple[datetime, bool] | None:
    """Tell until when the monolith stays since it was last retired, and whether that is over."""
    names = {"service": _whole(connections).database, "step": STEP, "undo": UNDO}
    row = control.execute(LAST, names).fetchone()
    return (row[0], bool(row[1])) if row and row[0] else None


def _require_unneeded(monolith: Connection, connections: Connections, ledger: Ledger) -> list[str]:
    """Check that nothing of ours, and nothing that others have set up, needs the monolith."""
    found = Needs(*needing_monolith(connections, ledger))
    if connections.control == connections.monolith:
        found.add("the control database is still in it", "runner.py control --to URL")
    still_needed.look(monolith, connections, found)
    if found.wrong:
        raise _refused(monolith, "retired", found)
    return found.notes


def _require_owner(monolith: Connection) -> None:
    row = monolith.execute(MAY_ALTER).fetchone()
    assert row is not None
    may_alter, owner = row
    if not may_alter:
        raise NotReady(
            f"{monolith.info.user} may not alter the database {monolith.info.dbname}, which belongs"
            f" to {owner}. Nothing was changed.",
            where=describe(monolith.info.dsn),
            hint=f'GRANT "{owner}" TO "{monolith.info.user}";',
        )


WHO = (
    "Give them the services' databases, then see who is left: runner.py psql monolith -c"
    " 'select * from pg_stat_activity where datname = current_database()'"
)


def _watch(
    found: Retired, monolith: Connection, wish: Wish, say: Callable[[str], None], to_be: str
) -> None:
    """Refuse if anybody else is seen in the monolith."""
    say(f"watch for {seconds(wish.watch_seconds)}")
    if seen := still_needed.watch(monolith, wish.watch_seconds):
        raise _refused(monolith, to_be, Needs(seen, [WHO]))
    found.watched_seconds = wish.watch_seconds


def _refused(monolith: Connection, to_be: str, found: Needs) -> NotReady:
    return NotReady(
        f"The monolith can't be {to_be}:\n"
        + "\n".join(f"  - {one}" for one in found.wrong)
        + "\nNothing was changed.",
        where=describe(monolith.info.dsn),
        hint="\n".join(dict.fromkeys(found.hints)),
    )


def _is_read_only(monolith: Connection) -> bool:
    return monolith.execute(IS_READ_ONLY).fetchone() == (True,)


@contextmanager
def _read_only(monolith: Connection) -> Iterator[None]:
    """Make the monolith read-only before the block; if that fails, it can be written again."""
    _set_read_only(monolith, is_on=True)
    try:
        yield
    except BaseException:
        _set_read_only(monolith, is_on=False)
        raise


def _set_read_only(monolith: Connection, *, is_on: bool) -> None:
    """Let sessions that begin from now on write, or not."""
    setting = "default_transaction_read_only"
    how = f"set {setting} = on" if is_on else f"reset {setting}"
    monolith.execute(
        sql.SQL(f"alter database {{}} {how}").format(sql.Identifier(monolith.info.dbname))
    )
