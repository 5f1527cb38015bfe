"""Moves the control database: ledger, states and verifications go to another database.

It can move once all services are completed and need no monolith, so nobody but runners uses it.
What follows goes on meanwhile. The old place keeps its rows, and refuses whoever still uses it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import (
    connect,
    describe,
    explained,
    fields_of,
    is_one_database,
    url_of,
)
from pgsplit.postgres.locale import require_utf8
from pgsplit.project import strangers
from pgsplit.project.endpoints import Connections, control_of
from pgsplit.project.project import Service
from pgsplit.replication.independent import is_independent
from pgsplit.state.control import ARRIVING, GONE, HERE, TABLES, Connection, Mark, mark, setting
from pgsplit.state.ledger import Ledger, State, open_ledger, prepare
from pgsplit.state.saga import unfinished

STEP = "control"
COLUMNS = """
    select array_agg(attname::text order by attnum) from pg_attribute
    where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped
"""
# A place that the control database has left, or has not reached, has nothing of its own.
ENTRIES = """
    select
        count(*), coalesce(max(id), 0),
        md5(string_agg(concat_ws('|', id, service, step, extract(epoch from started_at)), ','
        order by id))
    from split.ledger
    where %(last)s::bigint is null or id <= %(last)s
"""
MARK = """
    insert into split.control (move, stands, other, last_step)
    values (%(move)s, %(stands)s, %(other)s, %(last)s)
    on conflict (is_only) do update set
        (move, stands, other, last_step, at)
        = (excluded.move, excluded.stands, excluded.other, excluded.last_step, clock_timestamp())
"""
ARRIVED = """
    with here as (
        update split.control set stands = 'here', at = clock_timestamp()
        where move = %(move)s::uuid
    )

    update split.ledger
    set outcome = 'done', finished_at = clock_timestamp(), detail = '{}'
    where step = %(step)s and intent ->> 'move' = (%(move)s::uuid)::text and outcome is null
"""


@dataclass
class Moved:
    """Where the control database is now, rows by table, and the line to set."""

    database: str
    setting: str
    rows: dict[str, int] = field(default_factory=dict)
    was_there: bool = False


def move(url: str, connections: Connections, say: Callable[[str], None], *, dry_run: bool) -> Moved:
    """Move the control database; resumable, and idempotent.

    Args:
        url: the URL of a database for it, or of the monolith, to bring it back.
        connections: where it is now.
        say: called with what is being done.
        dry_run: check, and change nothing.

    Returns:
        Where it is, and the line that says so in the settings.

    Raises:
        ConnectionFailed: a server can't be reached.
        NotReady: a service still needs the monolith, an operation was interrupted, or the database
            can't be the control database; nothing was changed.
        TargetOccupied: the database has what somebody else has made.
    """
    if connections.embedded:
        raise NotReady(
            "The databases are on the embedded server, which is for trying things out: the control"
            " database stays in its monolith.",
            hint=f"export {connections.project.variable('URL')}=postgresql://…",
        )
    found = Moved(describe(url), _line(url, connections))
    if is_one_database(url, connections.control_url):
        found.was_there = True
        return found
    _require_of_its_own(url, connections)
    with _opened(url, connections) as there:
        with connections.connect(connections.control) as here:
            was = mark(here)
        if was and was.stands == GONE:
            return _finish(found, was, there, connections)
        with open_ledger(connections) as ledger:
            say("check")
            _require_independent(connections, ledger)
            _require_empty(there, ledger, url, connections)
            if dry_run:
                found.rows = {table: _count(ledger, table) for table in TABLES}
                return found
            say("copy")
            found.rows = _move(ledger, there, url, connections)
    return found


def plain(url: str) -> str:
    """Give a URL without its password."""
    return url_of({k: v for k, v in fields_of(url).items() if k != "password"})


def _line(url: str, connections: Connections) -> str:
    """Give the line that names the control database in the settings."""
    if connections.has_monolith and is_one_database(url, connections.monolith_url):
        variable = connections.project.variable("CONTROL_URL")
        return f"unset {variable}, and take control_url out of split.toml"
    return setting(connections, plain(url))


@contextmanager
def _opened(url: str, connections: Connections) -> Iterator[Connection]:
    """Connect to the database that it is to move to."""
    project, target = connections.project, control_of(connections.project)
    with connect(url, target) as there, explained(url, target, there):
        strangers.require_none(there, project, target)
        require_utf8(there)
        yield there


def _require_of_its_own(url: str, connections: Connections) -> None:
    for service in connections.project.services.values():
        if is_one_database(url, connections.urls[service.database]):
            raise NotReady(
                f"This is the database of {service.database}; the control database needs one of its"
                " own. Nothing was changed.",
                where=describe(url),
                hint="createdb another one, and give its URL.",
            )


def needing_monolith(connections: Connections, ledger: Ledger) -> tuple[list[str], list[str]]:
    """Name the services that still need the monolith, and why; and the commands that change that.

    Raises:
        ConnectionFailed: a service's database can't be reached.
    """
    wrong, hints = list[str](), list[str]()
    left = unfinished(ledger)
    for service in connections.project.services.values():
        stands = ledger.state(service)
        if service.database in left:
            wrong.append(
                f"the last {left[service.database].detail['operation']} of"
                f" {service.database} was interrupted"
            )
            hints.append("runner.py resume")
        elif stands is not State.COMPLETED:
            wrong.append(f"{service.database} is {stands.value}, and so needs the monolith")
            is_switched = stands is State.SWITCHED
            hints.append(f"runner.py {'complete' if is_switched else 'status'} {service.role}")
        else:
            with connections.connect(service.database) as database:
                if not is_independent(service, database):
                    wrong.append(
                        f"{service.database} still has a stream from the monolith, or"
                        " lacks one from an owner"
                    )
                    hints.append(f"runner.py repair {service.role}")
    return wrong, hints


def _require_independent(connections: Connections, ledger: Ledger) -> None:
    """Refuse to move it while a service needs the monolith."""
    wrong, hints = needing_monolith(connections, ledger)
    if wrong:
        raise NotReady(
            "The control database can't move:\n"
            + "\n".join(f"  - {one}" for one in wrong)
            + "\nNothing was changed.",
            where=describe(connections.control_url),
            hint="\n".join(dict.fromkeys(hints)),
        )


def _require_empty(there: Connection, ledger: Ledger, url: str, connections: Connections) -> None:
    """Check that the other database has no ledger, or only what the present one has, too."""
    found, where = mark(there), describe(there.info.dsn)
    if found and found.stands == HERE:
        raise NotReady(
            f"{there.info.dbname} is a control database already, so there would be two. Nothing was"
            " changed.",
            where=where,
            hint="Give another database; or, if that one is right:\n"
            + setting(connections, plain(url)),
        )
    known = there.execute("select to_regclass('split.ledger') is not null").fetchone()
    if known != (True,):
        return
    theirs = there.execute(ENTRIES, {"last": None}).fetchone()
    assert theirs is not None
    if theirs[0] and ledger.connection.execute(ENTRIES, {"last": theirs[1]}).fetchone() != theirs:
        raise NotReady(
            f"{there.info.dbname} has a ledger with {theirs[0]} entries that the present one lacks,"
            " so there would be two. Nothing was changed.",
            where=where,
            hint="Give a database of its own: createdb another one.",
        )


def _move(ledger: Ledger, there: Connection, url: str, connections: Connections) -> dict[str, int]:
    """Copy everything and move on; whoever uses the old place from then on is refused."""
    prepare(there)
    number = str(uuid.uuid4())
    project, here = connections.project, ledger.connection
    whole = Service(project.name, 0, "monolith", "", project)
    with ledger.step(whole, STEP, to=describe(url), move=number) as step:
        values = {"move": number, "last": step.id}
        with here.transaction(), there.transaction():  # the other one commits first
            tables = ", ".join(f"split.{table}" for table in TABLES)
            here.execute(f"lock table {tables} in exclusive mode")
            rows = {table: _copy(here, there, table) for table in TABLES}
            other = plain(connections.control_url)
            there.execute(MARK, {**values, "stands": ARRIVING, "other": other})
            here.execute(MARK, {**values, "stands": GONE, "other": plain(url)})
        there.execute(ARRIVED, {"move": number, "step": STEP})
        step.detail["rows"] = rows
    return rows


def _copy(here: Connection, there: Connection, table: str) -> int:
    """Replace a table's rows there with those here; give their number."""
    name = sql.Identifier("split", table)
    row = here.execute(COLUMNS, (f"split.{table}",)).fetchone()
    assert row is not None
    columns = sql.SQL(", ").join(map(sql.Identifier, row[0]))
    there.execute(sql.SQL("delete from {}").format(name))
    out = sql.SQL("copy {} ({}) to stdout (format binary)").format(name, columns)
    into = sql.SQL("copy {} ({}) from stdin (format binary)").format(name, columns)
    with here.cursor() as source, there.cursor() as target:
        with source.copy(out) as read, target.copy(into) as write:
            for block in read:
                write.write(block)
        rows = target.rowcount
    if table == "ledger":  # whose numbers go on
        last = here.execute("select last_value, is_called from split.ledger_id_seq").fetchone()
        there.execute("select setval(pg_get_serial_sequence('split.ledger', 'id'), %s, %s)", last)
    return rows


def _count(ledger: Ledger, table: str) -> int:
    query = sql.SQL("select count(*) from {}").format(sql.Identifier("split", table))
    row = ledger.connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _finish(found: Moved, was: Mark, there: Connection, connections: Connections) -> Moved:
    """Finish a move that was interrupted after the old place was left; or say where it went."""
    arrived = mark(there)
    if arrived is None or arrived.move != was.move:
        raise NotReady(
            "The control database has moved from here to another one. Nothing was changed.",
            where=describe(connections.control_url),
            hint=setting(connections, was.other),
        )
    there.execute(ARRIVED, {"move": was.move, "step": STEP})
    found.was_there = True
    return found
