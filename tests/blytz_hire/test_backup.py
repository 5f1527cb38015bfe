"""A backup is one restorable snapshot, is complete or absent, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from psycopg import sql

from demo.project import MIRROR_SCHEMA, MONOLITH, PROJECT, ROOT, SERVICES_BY_NAME
from pgsplit.backup import dump as backing_up
from pgsplit.backup import restore as restoring
from pgsplit.backup import scope
from pgsplit.backup.dump import Backup, backup, backups
from pgsplit.backup.restore import restore
from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.load import sample as demo
from pgsplit.postgres import embedded, wheel
from pgsplit.postgres.connect import connect, with_database
from pgsplit.postgres.programs import BackupIncomplete
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.state.ledger import open_ledger
from tests.support.run_folder import short_folder
from tests.support.servers import PASSWORD, Server, oldest
from tests.support.split import Split
from tests.support.stage import SAMPLE_ROWS
from tests.support.waiting import until

PAYMENTS = SERVICES_BY_NAME["payments_db"]
SCRATCH = "scratch"


@pytest.fixture
def server_15() -> Iterator[Server]:
    """Run Debian's PostgreSQL 15."""
    with oldest() as cluster:
        yield cluster.server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the path of this test's backup folder, which doesn't exist yet."""
    home = tmp_path / "backups"
    monkeypatch.setenv("BLYTZ_HIRE_BACKUPS", str(home))
    return home


@pytest.fixture
def scratch(split: Split) -> Iterator[str]:
    """Give the URL of an empty database."""
    yield from make_scratch(split.server)


def make_scratch(server: Server) -> Iterator[str]:
    server.execute(f"create database {SCRATCH} template template0")
    yield with_database(server.socket, SCRATCH)
    server.execute(f"drop database {SCRATCH} with (force)")


def take(split: Split, target: str = MONOLITH, **options: Any) -> Backup:
    with open_ledger(split.connections) as ledger:
        return backup(target, split.connections, ledger, PAYMENTS, "switch", **options)


def runner(split: Split, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return split.runner(*arguments, BLYTZ_HIRE_BACKUPS=str(home))


def begin(split: Split, home: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a slow backup of the monolith; return while it writes rows."""
    with split.monolith() as monolith:
        monolith.execute(
            "create table blytz_hire.slow as select n, md5(n::text) || md5((-n)::text) as noise"
            " from generate_series(1, 1500000) as n"
        )
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "runner.py"), "backup"],
        env={**split.environ, "BLYTZ_HIRE_BACKUPS": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    dumped = "*.part/*.dat.gz"
    until(lambda: any(home.glob(dumped)) or started.poll() is not None)
    assert started.poll() is None, started.communicate()
    return started, next(home.glob(dumped)).parent


def dumping(part: Path) -> list[psutil.Process]:
    """Find the processes of pg_dump: the leader first, then its workers."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"--file={part}" in (process.info["cmdline"] or ())
    ]
    return sorted(found, key=lambda process: process.create_time())


def checksums(url: str) -> dict[str, Any]:
    """Give the number of rows and a checksum of each of the monolith's tables."""
    found = {}
    question = sql.SQL("select count(*), sum(hashtextextended(t::text, 0)) from {} as t")
    with connect(url, "database") as database:
        for name in PROJECT.tables:
            relation = sql.Identifier(MIRROR_SCHEMA, name)
            found[name] = database.execute(question.format(relation)).fetchone()
    return found


def one(url: str, question: str) -> Any:
    with connect(url, "database") as database:
        row = database.execute(question).fetchone()
    assert row is not None
    return row[0]


def test_backup_taken_during_writes_is_one_restorable_snapshot(
    split: Split, home: Path, scratch: str
) -> None:
    with split.monolith() as monolith:
        monolith.execute(
            "create table public.written (n int primary key); insert into public.written values (0)"
        )
        monolith.execute("create publication somebodys for all tables")
    before, ended = checksums(split.connections.urls[MONOLITH]), threading.Event()

    def write() -> None:
        with psycopg.connect(split.connections.urls[MONOLITH]) as writing:
            n = 0
            while not ended.is_set():
                n += 1
                writing.execute("update public.written set n = n + 1")
                writing.execute(
                    "insert into blytz_hire.users select (jsonb_populate_record("
                    "null::blytz_hire.users, to_jsonb(u) ||"
                    " jsonb_build_object('id', %s::text, 'email', %s::text))).*"
                    " from (select * from blytz_hire.users order by id limit 1) as u",
                    (f"written {n}", f"{n}@written"),
                )
                writing.execute(
                    "insert into blytz_hire.notifications select (jsonb_populate_record("
                    "null::blytz_hire.notifications, to_jsonb(m) ||"
                    " jsonb_build_object('id', %s::text, 'userId', %s::text))).*"
                    " from (select * from blytz_hire.notifications order by id limit 1) as m",
                    (f"written {n}", f"written {n}"),
                )
                writing.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        written = "select n from public.written"
        until(lambda: one(split.connections.urls[MONOLITH], written) >= 20)
        made = take(split)
        after = one(split.connections.urls[MONOLITH], "select n from public.written")
    finally:
        ended.set()
        writer.join()

    assert stat_mode(made.path) == stat_mode(home) == 0o700
    assert [path.name for path in home.iterdir()] == [made.path.name]
    assert made.path.name == f"payments-switch-{made.made_at:%Y%m%dT%H%M%SZ}"
    assert made.bytes == sum(file.stat().st_size for file in made.path.iterdir()) - (
        (made.path / "backup.json").stat().st_size
    )
    assert {"blytz_hire.users", "public.written", "split.ledger"} <= set(made.tables)
    assert made.restore_point == made.path.name and made.lsn
    assert [note for note in made.notes if "archive_mode is off" in note] == list(made.notes)

    restored = restore(PROJECT, made.path, scratch)
    assert restored.tables == len(made.tables) and restored.notes == ()
    written = one(scratch, "select n from public.written")
    assert 20 <= written <= after
    for table in ("notifications", "users"):
        counted = f"select count(*) from blytz_hire.{table} where id like 'written %'"
        assert one(scratch, counted) == written
        with connect(scratch, "database") as database:
            database.execute(f"delete from blytz_hire.{table} where id like 'written %'")
    assert checksums(scratch) == before
    constraints = (
        "select string_agg(conrelid::regclass || ' ' || conname || convalidated"
        " || pg_get_constraintdef(oid), '; ' order by conrelid::regclass::text, conname)"
        " from pg_constraint where connamespace = 'blytz_hire'::regnamespace"
    )
    found = one(scratch, constraints)
    assert found == one(split.connections.urls[MONOLITH], constraints)
    assert 'FOREIGN KEY ("userId")' in found
    # What the backup itself recorded before it began is in it, and publications are not.
    assert one(scratch, "select intent ->> 'path' from split.ledger") == str(made.path)
    assert one(scratch, "select count(*) from pg_publication") == 0


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_backups_are_listed_and_missing_ones_are_marked(split: Split, home: Path) -> None:
    none = runner(split, home, "backups")
    assert (none.returncode, none.stdout.strip()) == (
        0,
        "There are no backups yet. Make one: ./runner.py backup",
    )
    assert json.loads(runner(split, home, "backups", "--json").stdout)["backups"] == []
    first = take(split)
    taken = runner(split, home, "backup")
    assert taken.returncode == 0, taken.stderr
    assert "note: The restore point is of no use: archive_mode is off" in taken.stdout
    as_json = runner(split, home, "backups", "--json")
    newest, oldest = json.loads(as_json.stdout)["backups"]
    assert (newest["service"], newest["phase"], newest["is_there"]) == (
        "blytz_hire",
        "by-hand",
        True,
    )
    assert oldest["path"] == str(first.path) and oldest["lsn"] == first.lsn
    assert backups(split.connections)[1] == first

    shutil.rmtree(first.path)
    listed = runner(split, home, "backups")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert f"    {Path(newest['path']).name}, of blytz_hire" in lines
    assert f"    missing: {first.path.name}, of blytz_hire" in lines
    (line,) = [line for line in lines if " switch " in line]
    assert line.startswith(f"{first.made_at:%Y-%m-%d %H:%M:%S}  payments ") and first.lsn in line
    assert all(len(line) <= 80 for line in lines if not line.startswith("They are in"))
    # By that name, and from anywhere.
    there = runner(
        split, home, "restore", Path(newest["path"]).name, split.connections.urls[MONOLITH]
    )
    assert "The database blytz_hire is not empty" in there.stderr


def test_backups_made_in_the_same_second_get_different_names(split: Split, home: Path) -> None:
    made = [take(split, tables=[("blytz_hire", "badges")]) for _ in range(3)]
    assert len({one.path for one in made}) == 3
    assert all(one.is_there for one in backups(split.connections))
    assert set(home.iterdir()) == {one.path for one in made}


@pytest.mark.slow
def test_killed_pg_dump_leaves_nothing(split: Split, home: Path) -> None:
    started, part = begin(split, home)
    dumping(part)[0].kill()
    _, said = started.communicate(timeout=60)
    assert started.returncode == NotReady.exit_code, said
    assert "pg_dump can't back up blytz_hire. It was killed by signal 9." in said
    assert list(home.iterdir()) == [] and dumping(part) == []
    assert backups(split.connections) == []


@pytest.mark.slow
def test_killed_runner_leaves_no_finished_backup_and_the_next_one_cleans_up(
    split: Split, home: Path
) -> None:
    started, part = begin(split, home)
    others = home / "payments-by-hand-20200101T000000Z.part"
    others.mkdir()
    started.kill()
    started.communicate()
    assert part.exists() and backups(split.connections) == []
    half = runner(split, home, "restore", str(part), split.connections.urls[MONOLITH])
    assert half.returncode == NotReady.exit_code
    assert "Its name ends in .part: it was not finished." in half.stderr
    again = runner(split, home, "backup", "--json")
    assert again.returncode == 0, again.stderr
    (made,) = json.loads(again.stdout)["backups"]
    assert set(home.iterdir()) == {Path(made["path"]), others}
    assert dumping(part) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_backup_stopped_by_sigint_or_sigterm_leaves_nothing(
    split: Split, home: Path, how: signal.Signals
) -> None:
    started, part = begin(split, home)
    started.send_signal(how)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert "the unfinished backup is deleted" in said
    assert "Traceback" not in said
    assert list(home.iterdir()) == [] and dumping(part) == []
    with split.monolith() as monolith:
        busy = monolith.execute(
            "select count(*) from pg_stat_activity where application_name = 'blytz_hire backup'"
        ).fetchone()
        outcomes = monolith.execute("select outcome from split.ledger").fetchall()
    assert busy == (0,) and outcomes == [("failed",)]


def test_too_little_disk_space_is_reported_before_anything_is_made(
    split: Split, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    with pytest.raises(NotReady) as refused:
        take(split)
    assert "A backup of blytz_hire may need " in refused.value.what
    assert "19.5 KB are free" in refused.value.what
    assert refused.value.hint == "export BLYTZ_HIRE_BACKUPS=/a/folder/with/room"
    assert list(home.iterdir()) == []


def test_unusable_backup_folder_is_reported(split: Split, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "backups"):
        ran = runner(split, home, "backup")
        assert ran.returncode == NotReady.exit_code
        assert "The folder of the backups can't be used: " in ran.stderr
        assert str(home) in ran.stderr
        assert "export BLYTZ_HIRE_BACKUPS=/a/folder/that/you/may/write" in ran.stderr


@pytest.fixture
def reader(split: Split) -> Split:
    """Give the split for a login that may keep the ledger and read the monolith's tables."""
    with split.monolith() as monolith:
        monolith.execute(sql.SQL("create role reader login password {}").format(PASSWORD))
        monolith.execute("grant connect, create on database blytz_hire to reader")
        monolith.execute("grant usage on schema blytz_hire to reader")
        monolith.execute("grant select on all tables in schema blytz_hire to reader")
    url = with_database(split.server.tcp, MONOLITH, user="reader")
    environ = {**split.environ, "BLYTZ_HIRE_URL": url}
    return replace(split, connections=resolve(PROJECT, environ), environ=environ)


def test_missing_right_to_make_a_restore_point_is_noted(
    split: Split, reader: Split, home: Path
) -> None:
    made = take(reader)
    assert made.restore_point is None and made.lsn is None
    grant = 'GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO "reader";'
    assert made.notes == (
        "No restore point was made: reader may not. A superuser, in the database blytz_hire: "
        + grant,
    )
    assert PASSWORD not in (made.path / "backup.json").read_text()
    with split.monolith() as monolith:
        monolith.execute(grant)
    assert take(reader).lsn
    listed = runner(reader, home, "backups").stdout
    assert listed.count("none") == 1


def test_objects_the_login_cannot_read_are_reported_with_a_hint(
    split: Split, reader: Split, home: Path
) -> None:
    with split.monolith() as monolith:
        monolith.execute("revoke select on blytz_hire.notifications from reader")
        monolith.execute("create table public.secret (id int generated always as identity)")
    with pytest.raises(NotReady) as refused:
        take(reader)
    assert refused.value.what == (
        "reader may not read all that is to be backed up: blytz_hire.notifications,"
        " public.secret, public.secret_id_seq"
    )
    assert 'GRANT pg_read_all_data TO "reader";' in refused.value.hint
    assert list(home.iterdir()) == []
    with split.monolith() as monolith:
        monolith.execute(refused.value.hint.splitlines()[0])
    assert "public.secret" in take(reader).tables
    with split.monolith() as monolith:
        monolith.execute("revoke pg_read_all_data from reader")


def test_refused_login_is_reported_without_its_password(split: Split, home: Path) -> None:
    url = with_database(split.server.tcp, "payments_db", password="wr0ng")
    ran = split.runner("backup", "payments", BLYTZ_HIRE_BACKUPS=str(home), PAYMENTS_DB_URL=url)
    assert ran.returncode == ConnectionFailed.exit_code
    assert "The login was refused" in ran.stderr and "PAYMENTS_DB_URL" in ran.stderr
    assert "wr0ng" not in ran.stderr
    absent = runner(split, home, "backup", "payments")
    assert absent.returncode == ConnectionFailed.exit_code
    assert "runner.py provision" in absent.stderr


def test_backup_does_not_wait_long_for_a_locked_table(
    split: Split, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope, "LOCK_TIMEOUT", "200ms")
    with psycopg.connect(split.connections.urls[MONOLITH]) as altering:
        altering.execute("lock table blytz_hire.badges")
        with pytest.raises(NotReady) as refused:
            take(split)
    assert "is locked by somebody who alters it" in refused.value.what
    assert list(home.iterdir()) == []


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    middle = len(content) // 2
    if how == "cut":
        file.write_bytes(content[:middle])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
def test_damaged_pg_dump_output_does_not_become_a_backup(
    split: Split, home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    dump = backing_up._dump

    def dump_wrongly(connections: Connections, target: str, part: Path, *rest: Any) -> None:
        dump(connections, target, part, *rest)
        damage(max(part.glob("*.dat.gz"), key=lambda file: file.stat().st_size), how)

    monkeypatch.setattr(backing_up, "_dump", dump_wrongly)
    with pytest.raises(BackupIncomplete) as found:
        take(split)
    assert found.value.exit_code == NotReady.exit_code
    assert "The dump is incomplete and was removed." in found.value.what
    assert ("It lacks blytz_hire." in found.value.what) == (how in ("empty", "gone"))
    assert list(home.iterdir()) == [] and backups(split.connections) == []


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "flipped"])
def test_backup_damaged_later_is_not_restored(
    split: Split, home: Path, scratch: str, how: str
) -> None:
    made = take(split)
    file = max(made.path.glob("*.dat.gz"), key=lambda file: file.stat().st_size)
    whole = file.stat().st_size
    damage(file, how)
    with pytest.raises(NotReady) as refused:
        restore(PROJECT, made.path, scratch)
    if how == "flipped":  # it is as long as it was
        assert f"pg_restore can't restore {made.path.name}." in refused.value.what
        assert file.name in refused.value.what
        assert "drop it, create it empty" in refused.value.hint
    else:
        assert isinstance(refused.value, BackupIncomplete)
        assert f"{file.name} has " in refused.value.what
        assert f" of {whole:,} bytes" in refused.value.what
        assert one(scratch, "select count(*) from pg_class where relname = 'users'") == 0


def test_restore_into_a_non_empty_database_is_refused(
    split: Split, home: Path, scratch: str
) -> None:
    made = take(split)
    with connect(scratch, "database") as database:
        database.execute("create table public.kept (id int); insert into public.kept values (1)")
    ran = runner(split, home, "restore", made.path.name, scratch)
    assert ran.returncode == NotReady.exit_code
    assert "The database scratch is not empty" in ran.stderr
    assert "It holds public.kept." in ran.stderr
    assert one(scratch, "select id from public.kept") == 1
    with connect(scratch, "database") as database:
        database.execute("drop table public.kept")
    done = runner(split, home, "restore", made.path.name, scratch)
    assert done.returncode == 0, done.stderr
    assert f"Restored {made.path.name}: the rows of {len(made.tables)} tables" in done.stdout
    assert "It is now database scratch on " in done.stdout
    assert "docs/backup.md" in done.stdout


def test_restore_refuses_an_unknown_backup_and_an_invalid_url(split: Split, home: Path) -> None:
    absent = runner(split, home, "restore", "payments-switch-20200101T000000Z", "postgresql://x/y")
    assert absent.returncode == NotReady.exit_code
    assert "There is no backup by that name." in absent.stderr
    assert f"{home}/payments-switch-20200101T000000Z" in absent.stderr
    other = runner(split, home, "restore", str(ROOT / "docs"), "postgresql://x/y")
    assert "It can't be read as a backup: No such file or directory" in other.stderr
    made = take(split)
    mistyped = runner(split, home, "restore", str(made.path), "secret@nowhere", "--json")
    assert mistyped.returncode == ConnectionFailed.exit_code
    assert "DATABASE_URL is no PostgreSQL URL." in mistyped.stdout
    assert "secret" not in mistyped.stdout + mistyped.stderr


def test_restoring_a_service_backup_does_not_disturb_production(
    split: Split, home: Path, scratch: str
) -> None:
    for phase in ("provision", "land"):
        assert split.runner(phase, "payments").returncode == 0
    ran = runner(split, home, "backup", "payments", "--json")
    assert ran.returncode == 0, ran.stderr
    (made,) = json.loads(ran.stdout)["backups"]
    assert (made["service"], made["target"]) == ("payments_db", "payments_db")
    assert "blytz_hire.payments" in made["tables"]
    slots = "select slot_name, active, confirmed_flush_lsn from pg_replication_slots"
    before = split.server.execute(slots)
    restore(PROJECT, Path(made["path"]), scratch)
    rows = "select count(*) from blytz_hire.payments"
    assert one(scratch, rows) == one(split.connections.urls["payments_db"], rows) > 0
    subscriptions = "select d.datname from pg_subscription join pg_database as d on d.oid = subdbid"
    assert split.server.execute(subscriptions) == [("payments_db",)]
    assert split.server.execute(slots) == before


def test_violated_foreign_key_is_restored_unvalidated_and_reported(
    split: Split, home: Path, scratch: str
) -> None:
    with split.monolith() as monolith:
        monolith.execute("set session_replication_role = replica")
        monolith.execute(
            """update blytz_hire.payments set "userId" = 'nobody' where id ="""
            " (select min(id) from blytz_hire.payments)"
        )
    made = take(split)
    (note,) = restore(PROJECT, made.path, scratch).notes
    assert 'Rows of blytz_hire.payments violate the foreign key "payments_userId_fkey"' in note
    assert 'ALTER TABLE blytz_hire.payments VALIDATE CONSTRAINT "payments_userId_fkey";' in note
    keys = "select count(*) from pg_constraint where contype = 'f' and (convalidated or %s)"
    live = split.connections.urls[MONOLITH]
    with psycopg.connect(live) as monolith, psycopg.connect(scratch) as copy:
        for least, is_any in ((0, True), (1, False)):
            there, here = (end.execute(keys, (is_any,)).fetchone() for end in (monolith, copy))
            assert there is not None
            assert here == (there[0] - least,)
    assert checksums(scratch) == checksums(split.connections.urls[MONOLITH])


def test_restore_fails_if_foreign_keys_cannot_be_restored(
    split: Split, home: Path, scratch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lost = restoring.run, "pg_restore: error: connection to server was lost"

    def lose_the_second(command: Sequence[str], *rest: Any) -> tuple[int, str]:
        calls.append(command)
        return run(command, *rest) if len(calls) == 1 else (1, lost)

    calls: list[Sequence[str]] = []
    made = take(split)
    monkeypatch.setattr(restoring, "run", lose_the_second)
    with pytest.raises(NotReady) as caught:
        restore(PROJECT, made.path, scratch)
    assert "can't restore" in caught.value.what
    assert "connection to server was lost" in caught.value.what
    assert "drop it, create it empty, and restore again" in caught.value.hint


def test_backup_can_be_limited_to_the_rows_of_some_tables(
    split: Split, home: Path, scratch: str
) -> None:
    with split.monolith() as monolith:
        monolith.execute(
            """create table public."a ""b"".c*" (id int) partition by list (id);
            create table public.part partition of public."a ""b"".c*" default;
            insert into public."a ""b"".c*" values (1), (2)"""
        )
    made = take(split, tables=[("blytz_hire", "payments"), ("public", 'a "b".c*')])
    assert made.tables == ("blytz_hire.payments", "public.part")
    restored = restore(PROJECT, made.path, scratch)
    assert "Only the rows of blytz_hire.payments, public.part" in restored.notes[0]
    live, copied = checksums(split.connections.urls[MONOLITH]), checksums(scratch)
    assert copied["payments"] == live["payments"]
    assert {name for name, found in copied.items() if found[0]} == {"payments"}
    assert one(scratch, """select count(*) from public."a ""b"".c*" """) == 2
    with pytest.raises(NotReady, match="tables do not exist: blytz_hire.nonsense"):
        take(split, tables=[("blytz_hire", "nonsense")])


@pytest.mark.slow
def test_oldest_supported_postgres_is_backed_up_and_restored(
    server_15: Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = resolve(PROJECT, {"BLYTZ_HIRE_URL": with_database(server_15.socket, "sample")})
    demo.create(PROJECT, connections.urls[MONOLITH], SAMPLE_ROWS)
    with open_ledger(connections) as ledger:
        made = backup(MONOLITH, connections, ledger, None, "by-hand")
    for scratch in make_scratch(server_15):
        assert restore(PROJECT, made.path, scratch).tables == len(made.tables)
        assert checksums(scratch) == checksums(connections.urls[MONOLITH])
        with connect(scratch, "database") as database:
            database.execute("drop schema blytz_hire, split cascade; create schema split")
        # Other errors than those of the setting that 15 does not know still count.
        with pytest.raises(NotReady, match='schema "split" already exists'):
            restore(PROJECT, made.path, scratch)


@pytest.mark.slow
def test_wal_archive_can_be_recovered_to_the_restore_point(tmp_path: Path, home: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    archive = short_folder("archive-")
    for path in (first, second):
        path.mkdir(mode=0o711)
    archive.chmod(0o777)  # the server may run as another account
    settings = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f", "fsync": "off"}
    embedded.start(first, settings)
    try:
        url = embedded.url(first, MONOLITH)
        demo.create(PROJECT, url, 500)
        copy = second / ".postgres" / "data"
        (second / ".postgres").mkdir(mode=0o711)
        subprocess.run(
            [wheel.binary("pg_basebackup"), "-c", "fast", "-d", url, "-D", str(copy)], check=True
        )
        connections = resolve(PROJECT, {"BLYTZ_HIRE_URL": url})
        with open_ledger(connections) as ledger:
            made = backup(MONOLITH, connections, ledger, None, "switch")
        assert made.notes == () and made.restore_point
        with connect(url, MONOLITH) as monolith:
            before = monolith.execute("select count(*) from blytz_hire.payments").fetchone()
            monolith.execute("truncate blytz_hire.payments cascade; select pg_switch_wal()")
            archived = "select from pg_stat_archiver where last_archived_wal >= pg_walfile_name(%s)"
            until(lambda: monolith.execute(archived, (made.lsn,)).fetchone() is not None)
        (copy / "recovery.signal").touch()
        owner = first / ".postgres" / "data"
        for path in (copy, *copy.rglob("*")):
            os.chown(path, owner.stat().st_uid, owner.stat().st_gid, follow_symlinks=False)
        embedded.start(
            second,
            {
                "restore_command": f"cp {archive}/%f %p",
                "recovery_target_name": made.restore_point,
                "recovery_target_action": "promote",
                "max_logical_replication_workers": "0",
                "fsync": "off",
            },
        )
        with connect(embedded.url(second, MONOLITH), MONOLITH) as recovered:
            assert (
                recovered.execute("select count(*) from blytz_hire.payments").fetchone() == before
            )
    finally:
        embedded.wipe(first)
        embedded.wipe(second)
        shutil.rmtree(archive)
