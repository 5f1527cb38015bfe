"""Finds what still needs the monolith: replication, foreign servers, jobs, standbys, sessions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import psycopg

from pgsplit.base.errors import ConnectionFailed
from pgsplit.base.text import few, printable, seconds
from pgsplit.postgres.connect import connect, describe, fields_of, with_database
from pgsplit.project.endpoints import Connections
from pgsplit.replication.slot import Connection

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
DATABASES = """
    select datname from pg_catalog.pg_database
    where
        datallowconn and not datistemplate
        and pg_catalog.has_database_privilege(oid, 'connect')
    order by 1
"""
# Servers may have several names.
SERVER = "select system_identifier from pg_control_system()"
SERVERS = """
    select
        srvname, format('drop server %I cascade;', srvname),
        coalesce((
            select jsonb_object_agg(option_name, option_value)
            from pg_catalog.pg_options_to_table(srvoptions)
        ), '{}')
    from pg_catalog.pg_foreign_server order by 1
"""
# pg_cron keeps the jobs of all databases in one of them; only some may read in which.
CRON = """
    select
        current_database(),
        case
            when pg_has_role('pg_read_all_settings', 'usage')
                then nullif(current_setting('cron.database_name', true), '')
            when exists (select from pg_available_extensions where name = 'pg_cron')
                then 'postgres'
        end
"""
HAS_JOBS = "select to_regclass('cron.job') is not null"
JOBS = """
    select
        format('the job %%s of pg_cron (%%s) runs in it: %%s', jobid, schedule, left(command, 60)),
        format('select cron.unschedule(%%s);', jobid)
    from cron.job where database = %s and active order by jobid
"""
# A login without rights sees no more of a standby than its process.
STANDBYS = """
    select format('The standby %s', coalesce(nullif(application_name, ''), 'of process ' || pid))
    from pg_catalog.pg_stat_replication as sender
    where not exists (
        select from pg_catalog.pg_replication_slots as slot
        where slot.active_pid = sender.pid and slot.slot_type = 'logical'
    )
    union all
    select format('Somebody who has the physical slot %s', slot_name)
    from pg_catalog.pg_replication_slots where slot_type = 'physical' and not active
    order by 1
"""
LOCAL = ("", "localhost", "127.0.0.1", "::1")


@dataclass
class Needs:
    """What needs the monolith, what ends that, and what can't be told from here."""

    wrong: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, fix: str) -> None:
        """Note something that needs it, and the statement or command that ends that."""
        self.wrong.append(what)
        self.hints.append(fix)


def look(monolith: Connection, connections: Connections, found: Needs) -> None:
    """Find what others have set up that needs the monolith.

    Args:
        monolith: a connection to it.
        connections: where all databases are.
        found: gets what was found.

    Raises:
        ConnectionFailed: a service's database can't be reached.
    """
    for what, fix in monolith.execute(LEFT).fetchall():
        found.add(f"{what} is there", fix)
    _look_at_jobs(monolith, connections, found)
    for url, database in _databases(monolith, connections, found):
        with closing(database):
            _look_at_foreign_servers(database, url, monolith, connections, found)
    for (who,) in monolith.execute(STANDBYS).fetchall():
        found.notes.append(
            f"{printable(who)} follows the monolith's server. Nobody sees from here who reads it"
            " there: look there, too."
        )


def _look_at_jobs(monolith: Connection, connections: Connections, found: Needs) -> None:
    row = monolith.execute(CRON).fetchone()
    assert row is not None
    own, elsewhere = row
    for name in dict.fromkeys((own, elsewhere or own)):
        url = with_database(connections.monolith_url, name)
        try:
            with nullcontext(monolith) if name == own else connect(url, name) as database:
                if database.execute(HAS_JOBS).fetchone() == (True,):
                    for what, fix in database.execute(JOBS, (own,)).fetchall():
                        place = "" if name == own else f"  -- in the database {name}"
                        found.add(printable(what), fix + place)
        except (ConnectionFailed, psycopg.errors.InsufficientPrivilege) as error:
            found.notes.append(
                f"Jobs of pg_cron in the database {name} can't be read: {str(error).strip()}. As a"
                f" superuser there: select * from cron.job where database = '{own}';"
            )


def _databases(
    monolith: Connection, connections: Connections, found: Needs
) -> Iterator[tuple[str, Connection]]:
    """Connect to each database, except the monolith, of each server that this login knows."""
    own = _server(monolith)
    seen = set[int]()
    urls = [connections.urls[one.database] for one in connections.project.services.values()]
    for url in (connections.monolith_url, *urls):
        is_here = url == connections.monolith_url
        # A session of ours in the monolith that has just ended would be seen by the watch.
        with nullcontext(monolith) if is_here else connect(url, "database") as database:
            server = _server(database)
            names = [row[0] for row in database.execute(DATABASES).fetchall()]
        if server in seen:
            continue
        seen.add(server)
        for name in names:
            if (server, name) == (own, monolith.info.dbname):
                continue
            other = with_database(url, name)
            try:
                yield other, connect(other, name)
            except ConnectionFailed as error:
                found.notes.append(
                    f"Foreign servers can't be read in {describe(other)}: {str(error).strip()}"
                )


def _server(database: Connection) -> int:
    row = database.execute(SERVER).fetchone()
    assert row is not None
    return int(row[0])


def _look_at_foreign_servers(
    database: Connection, url: str, monolith: Connection, connections: Connections, found: Needs
) -> None:
    name = database.info.dbname
    for server, fix, options in database.execute(SERVERS).fetchall():
        if _leads_to_monolith(options, url, connections):
            found.add(
                f"the foreign server {server} in {name} reads from it",
                f"{fix}  -- in the database {name}",
            )


def _leads_to_monolith(options: dict[str, str], url: str, connections: Connections) -> bool:
    """Tell whether a foreign server is the monolith, by one of the names that it has for us."""
    host, port = options.get("host", options.get("hostaddr", "")), options.get("port", "5432")
    home = fields_of(url)
    for one in (connections.monolith_url, connections.for_servers(connections.monolith)):
        here = fields_of(one)
        if options.get("dbname") != here["dbname"]:
            continue
        if (host, port) == (here["host"], here["port"]):
            return True
        is_beside = (home["host"], home["port"]) == (here["host"], here["port"])
        if is_beside and (host in LOCAL or host.startswith("/")) and port == here["port"]:
            return True
    return False


def watch(monolith: Connection, watch_seconds: float) -> list[str]:
    """Look for a time whether anybody else is in the monolith, or comes.

    Args:
        monolith: a connection to it.
        watch_seconds: how long; with 0 it looks once.

    Returns:
        Who was seen, in one or two parts of a sentence; nothing if nobody was.
    """
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
    who = [printable(one) for one in sorted(seen, key=lambda one: -seen[one])]
    wrong = [f"connected: {few(who, SHOWN)}"] if who else []
    if came > 0:
        wrong.append(f"sessions that came within {seconds(watch_seconds)}: {came}")
    return wrong


def _sessions(monolith: Connection) -> int:
    row = monolith.execute(SESSIONS).fetchone()
    return int(row[0]) if row else 0
