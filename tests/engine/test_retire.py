"""Retire: the monolith becomes read-only once nobody needs it, and can be dropped."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pgsplit.backup import prove
from pgsplit.backup.restore import Restored
from pgsplit.base.errors import DataDiffers, NotReady
from pgsplit.cutover import retire
from pgsplit.cutover.retire import Retired, Wish
from pgsplit.postgres.connect import connect
from pgsplit.project.endpoints import resolve
from pgsplit.project.project import Project
from pgsplit.state.ledger import open_ledger
from tests.engine.test_control import VARIABLE, database, ran
from tests.support.nodes import programs
from tests.support.run_folder import short_folder
from tests.support.schemas import validate
from tests.support.world import MONOLITH, SERVICE, World, shop

# The control database is on 18, and on 15 in test_control.
ON_15 = ("15", "18")


@pytest.fixture(scope="module")
def shop_world() -> Iterator[World]:
    folder = short_folder("retire-")
    with closing(World(folder, shop(folder), ON_15)) as world:
        yield world


@pytest.fixture
def moved(shop_world: World) -> tuple[World, dict[str, str]]:
    """Give a shop whose services are completed, with its control database elsewhere."""
    shop_world.enter("completed")
    url = database(shop_world)
    ran(shop_world, "control", "--to", url)
    return shop_world, {VARIABLE: url}


# As pg_cron makes it, in the database that the server's settings name.
CRON = (
    "create schema cron",
    "create table cron.job (jobid bigint primary key, schedule text not null,"
    " command text not null, nodename text not null default 'localhost',"
    " nodeport int not null default inet_server_port(), database text not null,"
    " username text not null default current_user, active boolean not null default true,"
    " jobname text)",
    "insert into cron.job (jobid, schedule, command, database)"
    " values (7, '0 3 * * *', 'delete from shop.orders', 'shop'),"
    " (8, '0 4 * * *', 'vacuum', 'postgres')",
    "alter database shop set cron.database_name = 'postgres'",
)


def write(world: World) -> None:
    """Write into the monolith, as a forgotten application would."""
    with psycopg.connect(world.connections.monolith_url) as monolith:
        monolith.execute("create table public.late (id integer)")
        monolith.rollback()


def test_monolith_is_archived_then_read_only_then_gone(
    moved: tuple[World, dict[str, str]],
) -> None:
    world, there = moved
    url = world.connections.monolith_url
    write(world)
    with connect(url, "shop") as monolith:
        monolith.execute("select pg_create_physical_replication_slot('far_away')")
    said = ran(world, "retire", "--watch", "1s", "--dry-run", **there)
    assert "can be retired. Nothing was changed." in said
    assert "has the physical slot far_away follows the monolith's server" in said
    write(world)
    done = world.runner("retire", "--watch", "1s", "--read-only-for", "1h", "--json", **there)
    assert done.returncode == 0, done.stdout
    found = validate(done.stdout[done.stdout.index("{") :])
    assert found["did"] == "retired" and "retire" in found["backup"]["path"]
    assert found["proof"]["tables"] == len(found["backup"]["tables"])
    assert found["proof"]["rows"] > world.life.rows and scratch(world) == []
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        write(world)
    assert "The monolith is retired. It stays until" in ran(world, "status", **there)
    with connect(url, "shop", application_name="a report"):
        said = ran(world, "retire", "--watch", "0", **there)
    assert "note: connected: a report of postgres" in said
    assert f"is read-only, until {found['until'][:13]}" in said
    assert "can be written again" in ran(world, "retire", "--undo", **there)
    write(world)
    # A retirement that was killed has left it so, and recorded nothing.
    with connect(url, "shop") as monolith:
        monolith.execute("alter database shop set default_transaction_read_only = on")
    quickly = ("--watch", "0", "--no-backup", "--read-only-for", "0")
    assert "is read-only now, until" in ran(world, "retire", *quickly, **there)
    with connect(url, "shop", application_name="a report"):
        said = ran(world, "retire", "--watch", "0", code=NotReady.exit_code, **there)
    assert "The monolith can't be dropped: - connected: a report of postgres" in said
    said = ran(world, "retire", "--watch", "0", **there)
    assert "may be dropped: psql" in said
    paste("psql" + said.split("may be dropped: psql")[1])
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        write(world)
    world.nodes[MONOLITH].end()
    alone = {**there, "SHOP_URL": ""}
    ran(world, "sync", **alone)
    said = ran(world, "retire", code=NotReady.exit_code, **alone)
    assert "This needs the monolith, and SHOP_URL is not set" in said


def scratch(world: World) -> list[str]:
    """List the databases that a proof has left."""
    with psycopg.connect(world.nodes[MONOLITH].url()) as server:
        rows = server.execute("select datname from pg_database where datname like '%retire%'")
        return [row[0] for row in rows]


def paste(line: str) -> None:
    """Run a line in a shell, as a person would paste it."""
    path = f"{programs('18')}:{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_monolith_can_be_written_again_if_its_backup_can_not_be_proven(
    moved: tuple[World, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, there = moved
    connections = resolve(world.project, {**world.environ, **there})
    restored = prove.restore

    def loses_a_row(project: Project, path: Path, url: str) -> Restored:
        found = restored(project, path, url)
        with psycopg.connect(url) as copy:
            copy.execute("update shop_retired.orders set id = 'other' where id = 'order-1'")
        return found

    def retired() -> Retired:
        with open_ledger(connections) as ledger:
            return retire.retire(connections, ledger, say, Wish(0.0, 60.0))

    def say(what: str) -> None:
        if what == "compare":
            assert scratch(world)

    monkeypatch.setenv(world.project.variable("BACKUPS"), str(world.folder / "backups"))
    monkeypatch.setattr(prove, "restore", loses_a_row)
    with pytest.raises(
        DataDiffers, match=r"differs from shop: table shop_retired\.orders: "
    ) as said:
        retired()
    assert "the backup stays" in said.value.hint
    write(world)
    assert scratch(world) == []
    monkeypatch.setattr(prove, "restore", restored)
    monkeypatch.setattr(prove, "_compare", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        retired()
    write(world)
    assert scratch(world) == []


def test_login_that_may_not_retire_is_told_what_it_lacks(
    moved: tuple[World, dict[str, str]],
) -> None:
    """With what the messages say it can: a superuser is not needed."""
    world, there = moved
    with psycopg.connect(world.connections.monolith_url, autocommit=True) as monolith:
        monolith.execute("create role limited login")
        monolith.execute("create role keeper nologin")
        monolith.execute("alter database shop owner to keeper")
        monolith.execute("grant connect on database shop to limited")
        monolith.execute("grant pg_read_all_data to limited")
        monolith.execute("alter role limited bypassrls")
        lowly = {**there, "SHOP_URL": world.environ["SHOP_URL"].replace("postgres@", "limited@")}
        command = ("retire", "--watch", "0")
        said = ran(world, *command, code=NotReady.exit_code, **lowly)
        assert "limited may not alter the database shop, which belongs to keeper." in said
        assert 'GRANT "keeper" TO "limited";' in said
        monolith.execute('GRANT "keeper" TO "limited";')
    write(world)
    with psycopg.connect(world.connections.monolith_url, autocommit=True) as monolith:
        said = ran(world, *command, code=NotReady.exit_code, **lowly)
        assert "limited may not create a database, into which the backup is restored" in said
        assert "give an empty one: --prove-at URL" in said
        monolith.execute("create database spare template template0 owner limited")
    spare = world.nodes[MONOLITH].url("spare").replace("postgres@", "limited@")
    said = ran(world, *command, "--prove-at", spare, **lowly)
    assert "It was restored and compared:" in said and "is read-only now" in said


def test_monolith_that_somebody_uses_is_not_retired(moved: tuple[World, dict[str, str]]) -> None:
    world, there = moved
    url = world.connections.monolith_url
    with connect(url, "shop", application_name="a report"):
        said = ran(world, "retire", "--watch", "0", code=NotReady.exit_code, **there)
        assert "connected: a report of postgres" in said and "Nothing was changed." in said
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.wait(0.3):
            psycopg.connect(url).close()

    visitor = threading.Thread(target=come_and_go)
    visitor.start()
    try:
        said = ran(world, "retire", "--watch", "2s", code=NotReady.exit_code, **there)
    finally:
        stop.set()
        visitor.join()
    assert "sessions that came within 2.00 s:" in said
    write(world)


def test_whatever_still_needs_the_monolith_is_named(moved: tuple[World, dict[str, str]]) -> None:
    world, there = moved
    url = world.connections.monolith_url
    with connect(url, "shop") as monolith:
        monolith.execute("select pg_create_logical_replication_slot('theirs', 'pgoutput')")
        monolith.execute("create publication theirs")
        monolith.execute(
            "create subscription theirs connection 'dbname=nowhere' publication theirs"
            " with (connect = false)"
        )
    with world.connections.connect("ordering") as ordering:
        node = world.nodes[MONOLITH]
        ordering.execute("create extension if not exists postgres_fdw")
        ordering.execute(
            "create server theirs foreign data wrapper postgres_fdw options"
            f" (host '{node.url('shop').split('@')[1].split(':')[0]}',"
            f" port '{world.links['people to monolith'].port}', dbname 'shop')"
        )
    with psycopg.connect(world.nodes[SERVICE].url(), autocommit=True) as server:
        server.execute("create database reports")
    with psycopg.connect(world.nodes[SERVICE].url("reports")) as reports:
        reports.execute("create extension postgres_fdw")
        reports.execute(
            "create server shop foreign data wrapper postgres_fdw options"
            f" (host '127.0.0.1', port '{world.links['people to monolith'].port}', dbname 'shop')"
        )
    with psycopg.connect(world.nodes[MONOLITH].url()) as server:
        for statement in CRON:
            server.execute(statement)
    said = ran(world, "retire", "--watch", "0", code=NotReady.exit_code, **there)
    for what in (
        "the foreign server shop in reports reads from it",
        "drop server shop cascade; -- in the database reports",
        "the job 7 of pg_cron (0 3 * * *) runs in it: delete from shop.orders",
        "select cron.unschedule(7); -- in the database postgres",
        "the slot theirs is there",
        "the publication theirs is there",
        "the subscription theirs is there",
        "the foreign server theirs in ordering reads from it",
        "select pg_drop_replication_slot('theirs');",
        "drop subscription theirs;",
        "Nothing was changed.",
    ):
        assert what in said, said
    write(world)


def test_monolith_with_the_control_database_or_a_service_is_not_retired(shop_world: World) -> None:
    shop_world.enter("accounts completed")
    said = ran(shop_world, "retire", "--watch", "0", code=NotReady.exit_code)
    for what in (
        "ordering is verified, and so needs the monolith",
        "the control database is still in it",
        "the slot split_ordering is there",
        "runner.py control --to URL",
    ):
        assert what in said, said
