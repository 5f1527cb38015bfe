"""Lets one runner at a time be at work on a monolith: the one that has locked `split.runner`.

An advisory lock can be taken by anybody who may connect. A table can be locked only by whoever may
change it, and nobody but this project's own roles may.
"""

from __future__ import annotations

import getpass
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections

Connection = psycopg.Connection[Any]

# A runner that has just ended holds its lock until the server notices; wait so long for it.
LOCK_TIMEOUT = "2s"
MOST_CHARACTERS = 200

HOLDER = """
    select
        lock.pid, runner.operator, runner.host, runner.process, runner.command, activity.usename,
        coalesce(runner.since, activity.xact_start)::timestamptz(0)
    from pg_locks as lock
    inner join pg_stat_activity as activity on activity.pid = lock.pid
    left join split.runner on runner.session = lock.pid
    where
        lock.relation = 'split.runner'::regclass and lock.granted
        and lock.database = (select oid from pg_database where datname = current_database())
        and lock.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
    limit 1
"""
# Before version 2 it was an advisory lock. Those of strangers say nothing.
HOLDER_OF_VERSION_1 = """
    select lock.pid, activity.usename, activity.backend_start::timestamptz(0)
    from pg_locks as lock
    inner join pg_stat_activity as activity on activity.pid = lock.pid
    inner join pg_roles as role on role.oid = activity.usesysid
    where
        lock.locktype = 'advisory' and lock.granted and lock.objsubid = 2
        and lock.classid = hashtext(%s)::oid and lock.objid = 1
        and lock.database = (select oid from pg_database where datname = current_database())
        and to_regclass('split.runner') is null
        and (
            role.rolsuper or role.rolname = current_user
            or role.oid = (select nspowner from pg_namespace where nspname = 'split')
        )
"""


@contextmanager
def alone(connections: Connections, monolith: Connection) -> Iterator[Connection]:
    """Keep other runners from working on this monolith until the block ends.

    Args:
        connections: where it is.
        monolith: a connection to it.

    Yields:
        The connection that holds the lock. Its transaction has neither a number nor a snapshot, so
        it keeps no vacuum and no slot from going on.

    Raises:
        NotReady: another runner is at work; the message says who runs it, where and since when.
    """
    with closing(connections.connect(connections.control)) as holder:
        holder.execute("begin")
        try:
            holder.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
            # Lets rows be written, and nobody else take the same lock.
            holder.execute("lock table split.runner in share update exclusive mode")
        except psycopg.errors.LockNotAvailable as error:
            raise _another(monolith) from error
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:MOST_CHARACTERS]
        monolith.execute(
            "insert into split.runner (session, operator, host, process, command)"
            " values (%s, %s, %s, %s, %s) on conflict (is_only) do update set"
            " (session, operator, host, process, command, since) = (excluded.session,"
            " excluded.operator, excluded.host, excluded.process, excluded.command,"
            " excluded.since)",
            (holder.info.backend_pid, _operator(), socket.gethostname(), os.getpid(), command),
        )
        yield holder


def require_no_runner_of_version_1(monolith: Connection, name: str) -> None:
    """Refuse to upgrade a monolith while a runner of an older version is at work on it.

    Such a runner can't see the new lock. It can't start after an upgrade, which it refuses.

    Args:
        monolith: a connection to it.
        name: the monolith's name.

    Raises:
        NotReady: one is at work.
    """
    row = monolith.execute(HOLDER_OF_VERSION_1, (f"{name}.runner",)).fetchone()
    if row:
        pid, login, since = row
        raise _busy(monolith, f"{login} runs one of an older version since {since}", pid)


def _another(monolith: Connection) -> NotReady:
    row = monolith.execute(HOLDER).fetchone()
    if row is None:
        return _busy(monolith, "it has ended just now", 0)
    pid, operator, host, process, command, login, since = row
    if operator is None:
        return _busy(monolith, f"{login} has locked split.runner since {since}", pid)
    return _busy(
        monolith, f"{operator} runs `{command}` on {host}, process {process}, since {since}", pid
    )


def _busy(monolith: Connection, who: str, pid: int) -> NotReady:
    end = f", or end it: select pg_terminate_backend({pid});" if pid else "."
    return NotReady(
        f"Another runner is at work on this monolith: {who}.",
        where=describe(monolith.info.dsn),
        hint=f"Wait for it{end}",
    )


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())
