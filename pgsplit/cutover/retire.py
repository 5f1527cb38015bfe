"""Retires the monolith: a last backup, and then it is read-only, until somebody drops it.

Only once nothing of ours needs it, and nobody else has been seen in it for some time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pgsplit.backup.dump import Backup, backup
from pgsplit.base.errors import NotReady
from pgsplit.base.text import few, printable, seconds
from pgsplit.cutover.move_control import needing_monolith
from pgsplit.postgres.connect import describe, explained
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication.slot import Connection
from pgsplit.state.ledger import Ledger

STEP = "retire"
LOOK_SECONDS = 0.2
SHOWN = 5
# A login without rights sees no type of a session; autovacuum has no user.
SEEN = """
    select
        format(
            '%%s of %%s%%s', coalesce(nullif(application_name, ''), 'a session'), usename,
            ' from ' || host(client_addr)
        )
    from pg_catalog.pg_stat_activity
    where
        datname = current_database() and usesysid is not null and pid <> all(%s)
        and coalesce(backend_type, '') <> 'parallel worker'
"""
# Those who came and went between two looks are counted by the server.
SESSIONS = "select sessions from pg_catalog.pg_stat_database where datname = current_database()"
LEFT = """
    select
        format('the slot %s', slot_name),
        format('select pg_drop_replication_slot(%L);', slot_name)
    from pg_catalog.pg_replication_slots where database = current_database()
    union all
    select format('the subscription %I', subname), format('drop subscription %I;', subname)
    from pg_catalog.pg_subscription
    where subdbid = (select oid from pg_catalog.pg_database where datname = current_database())
    union all
    select format('the publication %I', pubname), format('drop publication %I;', pubname)
    from pg_catalog.pg_publication
    union all
    select
        format('the prepared transaction %s', gid), format('rollback prepared %L;', gid)
    from pg_catalog.pg_prepared_xacts where database = current_database()
    order by 1
"""
SERVERS = """
    select
        srvname,
        coalesce((
            select jsonb_object_agg(option_name, option_value)
            from pg_catalog.pg_options_to_table(srvoptions)
        ), '{}')
    from pg_catalog.pg_foreign_server order by 1
"""
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


class Did(str, Enum):
    """What became of the monolith."""

    CHECKED = "checked"
    RETIRED = "retired"
    WAS_RETIRED = "was retired"
    UNDONE = "undone"
    WAS_NOT_RETIRED = "was not retired"


@dataclass
class Retired:
    """What became of the monolith, how long it was watched, and its last backup."""

    database: str
    did: Did
    watched_seconds: float = 0.0
    backup: Backup | None = None


def retire(
    connections: Connections,
    ledger: Ledger,
    say: Callable[[str], None],
    *,
    watch_seconds: float,
    dry_run: bool,
    with_backup: bool,
) -> Retired:
    """Back the monolith up and make it read-only; idempotent.

    Args:
        connections: where all databases are.
        ledger: the ledger, in the control database.
        say: called with what is being done.
        watch_seconds: how long to look for others who use the monolith.
        dry_run: run all checks, and change nothing.
        with_backup: make a backup of all its rows first.

    Returns:
        What was done.

    Raises:
        ConnectionFailed: a database can't be reached.
        NotReady: something still needs the monolith, or somebody uses it; the message has all of
            it, and nothing was changed.
    """
    with _monolith(connections) as monolith:
        found = Retired(describe(connections.monolith_url), Did.WAS_RETIRED)
        if _is_read_only(monolith):
            return found
        say("check")
        _require_unneeded(monolith, connections, ledger)
        _require_owner(monolith)
        say(f"watch for {seconds(watch_seconds)}")
        _require_unused(monolith, watch_seconds)
        found.watched_seconds = watch_seconds
        found.did = Did.CHECKED
        if dry_run:
            return found
        if with_backup:
            found.backup = backup(connections.monolith, connections, ledger, None, STEP, say=say)
        with ledger.step(_whole(connections), STEP, watched_seconds=watch_seconds):
            _set_read_only(monolith, is_on=True)
        found.did = Did.RETIRED
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
            with ledger.step(_whole(connections), f"{STEP}: undo"):
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


def _require_unneeded(monolith: Connection, connections: Connections, ledger: Ledger) -> None:
    """Check that nothing of ours, and no replication of others, needs the monolith."""
    wrong, hints = needing_monolith(connections, ledger)
    if connections.control == connections.monolith:
        wrong.append("the control database is still in it")
        hints.append("runner.py control --to URL")
    for what, fix in monolith.execute(LEFT).fetchall():
        wrong.append(f"{what} is there")
        hints.append(fix)
    for service in connections.project.services.values():
        with connections.connect(service.database) as database:
            for name, options in database.execute(SERVERS).fetchall():
                if _leads_to_monolith(options, connections):
                    wrong.append(f"the foreign server {name} in {service.database} reads from it")
                    hints.append(
                        f"runner.py psql {service.role} -c 'drop server \"{name}\" cascade'"
                    )
    if wrong:
        raise _refused(monolith, wrong, hints)


def _leads_to_monolith(options: dict[str, str], connections: Connections) -> bool:
    """Tell whether a foreign server is the monolith, by one of the names that it has for us."""
    parts = ("host", "port", "dbname")
    for url in (connections.monolith_url, connections.for_servers(connections.monolith)):
        here = {"port": "5432", **conninfo_to_dict(url)}
        there = {"port": "5432", **options}
        if all(str(here.get(part)) == str(there.get(part)) for part in parts):
            return True
    return False


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


def _require_unused(monolith: Connection, watch_seconds: float) -> None:
    """Look for a time whether anybody else is, or comes, into the monolith."""
    monolith.execute("select pg_stat_force_next_flush()")  # else we are counted later
    before, ends, seen = _sessions(monolith), time.monotonic() + watch_seconds, dict[str, int]()
    while True:
        ours = [monolith.info.backend_pid]
        for (who,) in monolith.execute(SEEN, (ours,)).fetchall():
            seen[who] = seen.get(who, 0) + 1
        if (left := ends - time.monotonic()) <= 0:
            break
        time.sleep(min(LOOK_SECONDS, left))
    came = _sessions(monolith) - before
    if not seen and came <= 0:
        return
    who = [printable(one) for one in sorted(seen, key=lambda one: -seen[one])]
    wrong = [f"connected: {few(who, SHOWN)}"] if who else []
    if came > 0:
        wrong.append(f"sessions that came within {seconds(watch_seconds)}: {came}")
    raise _refused(
        monolith,
        wrong,
        [
            "Give them the services' databases, then see who is left: runner.py psql monolith -c"
            " 'select * from pg_stat_activity where datname = current_database()'"
        ],
    )


def _sessions(monolith: Connection) -> int:
    row = monolith.execute(SESSIONS).fetchone()
    return int(row[0]) if row else 0


def _refused(monolith: Connection, wrong: list[str], hints: list[str]) -> NotReady:
    return NotReady(
        "The monolith can't be retired:\n"
        + "\n".join(f"  - {one}" for one in wrong)
        + "\nNothing was changed.",
        where=describe(monolith.info.dsn),
        hint="\n".join(dict.fromkeys(hints)),
    )


def _is_read_only(monolith: Connection) -> bool:
    return monolith.execute(IS_READ_ONLY).fetchone() == (True,)


def _set_read_only(monolith: Connection, *, is_on: bool) -> None:
    """Let sessions that begin from now on write, or not."""
    monolith.execute("set default_transaction_read_only = off")  # ours has to write this
    setting = "default_transaction_read_only"
    how = f"set {setting} = on" if is_on else f"reset {setting}"
    monolith.execute(
        sql.SQL(f"alter database {{}} {how}").format(sql.Identifier(monolith.info.dbname))
    )
