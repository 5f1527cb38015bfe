"""A dry run does everything on a copy, reports the result, and leaves production unchanged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg import sql

from demo.project import MIRROR_SCHEMA, MONOLITH, PROJECT, ROOT, select
from pgsplit.base.errors import BuildFailed, NotReady, SourceMismatch
from pgsplit.cli.console import watching
from pgsplit.postgres import embedded
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import Connections
from pgsplit.rehearse import folder, held, rehearse
from tests.support import schemas
from tests.support.servers import PASSWORD
from tests.support.split import Split
from tests.support.waiting import until


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return folder(PROJECT, {"BLYTZ_HIRE_SCRATCH": str(tmp_path)})


def dry_run(split: Split, scratch: Path, *arguments: str, **environ: str) -> Any:
    return split.runner(
        "run", "--dry-run", *arguments, **{"BLYTZ_HIRE_SCRATCH": str(scratch.parent), **environ}
    )


def begin(split: Split, scratch: Path) -> subprocess.Popen[str]:
    """Start a dry run; return when its server is up."""
    started = subprocess.Popen(
        [sys.executable, str(ROOT / "runner.py"), "run", "files", "--dry-run"],
        env={**split.environ, "BLYTZ_HIRE_SCRATCH": str(scratch.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: embedded.is_running(scratch) or started.poll() is not None)
    assert started.poll() is None, started.communicate()
    return started


def production(split: Split) -> dict[str, list[tuple[Any, ...]]]:
    """List a server's objects, with a checksum of the rows of each monolith table."""
    questions = {
        "databases": "select datname from pg_database order by 1",
        "roles": "select rolname from pg_roles order by 1",
        "slots": "select slot_name from pg_replication_slots",
        "publications": "select pubname from pg_publication",
        "schemas": "select nspname from pg_namespace where nspname !~ '^pg_(temp|toast_)'",
        "relations": "select relname, relkind, relfilenode from pg_class"
        " where relnamespace::regnamespace::text !~ '^pg_' order by 1",
    }
    checksum = sql.SQL(
        "select count(*), sum(hashtextextended(t::text || t.xmin::text || t.ctid::text, 0))"
        " from {} as t"
    )
    with split.monolith() as monolith:
        found = {name: monolith.execute(asked).fetchall() for name, asked in questions.items()}
        for name in PROJECT.tables:
            relation = sql.Identifier(MIRROR_SCHEMA, name)
            found[name] = monolith.execute(checksum.format(relation)).fetchall()
    return found


def assert_nothing_is_left(scratch: Path) -> None:
    assert not scratch.exists()
    name = embedded.socket_directory(scratch).name
    assert not embedded.socket_directory(scratch).exists()
    lines = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
    assert [line for line in lines if name in line or str(scratch) in line] == []


@pytest.mark.slow
def test_dry_run_works_on_a_copy_and_leaves_production_unchanged(
    split: Split, scratch: Path
) -> None:
    before = production(split)
    ran = dry_run(split, scratch, "payments")
    assert ran.returncode == 0, ran.stderr
    assert production(split) == before
    assert_nothing_is_left(scratch)
    assert " payments_db " in ran.stdout and "passed" in ran.stdout
    assert "Proven: " in ran.stdout
    assert "Dry run: production was only read. A copy of " in ran.stdout
    assert "psql" not in ran.stdout
    assert not (Path(split.environ["BLYTZ_HIRE_CONNECTIONS"])).exists()


@pytest.mark.slow
def test_read_only_login_is_enough_and_is_told_what_the_real_run_needs(
    split: Split, scratch: Path
) -> None:
    with split.monolith() as monolith:
        monolith.execute(sql.SQL("create role reader login password {}").format(PASSWORD))
        monolith.execute("grant connect on database blytz_hire to reader")
        monolith.execute("grant usage on schema blytz_hire to reader")
        monolith.execute("grant select on all tables in schema blytz_hire to reader")
    url = with_database(split.server.tcp, MONOLITH, user="reader")
    # Where the services are to be is nothing to a dry run.
    elsewhere = {"FILES_DB_URL": "postgresql://nobody@127.0.0.1:1/files"}
    ran = dry_run(split, scratch, "files", "--json", BLYTZ_HIRE_URL=url, **elsewhere)
    assert ran.returncode == NotReady.exit_code, ran.stderr
    report = schemas.validate(ran.stdout)
    (stop,) = report["real_run_would_stop_at"]
    assert "reader may not replicate" in stop["what"].replace("lacks privileges:\n  - ", "")
    assert 'ALTER ROLE "reader" REPLICATION;' in stop["mend"]
    files = report["services"]["files_db"]
    assert files["tests"]["passed"] > 0 and files["tests"]["failed"] == 0
    verified = report["verified"]["files_db"]
    assert verified["proven"] and set(verified["tables"]) == set(files["rows_out"])
    # Rows of tables that the service does not see are not even read.
    assert report["copied_rows"] == sum(files["rows_in"].values()) and report["copied_bytes"] > 0
    assert PASSWORD not in ran.stdout + ran.stderr
    assert_nothing_is_left(scratch)


def test_unreadable_table_is_reported_before_anything_is_copied(
    split: Split, scratch: Path
) -> None:
    with split.monolith() as monolith:
        monolith.execute("create role reader login; grant usage on schema blytz_hire to reader")
        monolith.execute("grant connect on database blytz_hire to reader")
        monolith.execute("grant select on all tables in schema blytz_hire to reader")
        monolith.execute("revoke select on blytz_hire.notifications from reader")
    url = with_database(split.server.socket, MONOLITH, user="reader")
    ran = dry_run(split, scratch, "files", BLYTZ_HIRE_URL=url)
    assert ran.returncode == NotReady.exit_code
    assert "reader may not read all that the dry run copies: blytz_hire.notifications" in (
        ran.stderr
    )
    assert "GRANT SELECT ON ALL TABLES IN SCHEMA blytz_hire" in ran.stderr
    assert_nothing_is_left(scratch)


@pytest.mark.slow
def test_dry_runs_exclude_each_other_and_clean_up_after_a_killed_one(
    split: Split, scratch: Path
) -> None:
    first = begin(split, scratch)
    try:
        second = dry_run(split, scratch, "files")
        assert second.returncode == NotReady.exit_code
        assert "Another dry run is under way." in second.stderr
        assert first.poll() is None and embedded.is_running(scratch)
    finally:
        first.kill()
        first.communicate()
    assert embedded.is_running(scratch)
    with split.monolith() as monolith:
        monolith.execute("alter table blytz_hire.portfolio_items alter title type varchar(500)")
    third = dry_run(split, scratch, "files")
    assert third.returncode == SourceMismatch.exit_code
    assert (
        'column blytz_hire.portfolio_items."title" is character varying(500) where text is expected'
    ) in third.stderr
    assert_nothing_is_left(scratch)


@pytest.mark.slow
def test_sigterm_ends_the_dry_run_and_removes_the_copy(split: Split, scratch: Path) -> None:
    started = begin(split, scratch)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert "the dry run's copy is deleted" in said
    assert_nothing_is_left(scratch)


@pytest.mark.slow
def test_failed_build_of_the_copy_is_reported_as_a_dry_run_failure(
    split: Split, scratch: Path
) -> None:
    with split.monolith() as monolith:
        monolith.execute("alter table blytz_hire.payments add column novel text")
        # What the split does not look at may be beyond the scratch server.
        monolith.execute("create table public.elsewhere (id int)")
        monolith.execute("create view blytz_hire.seen as table public.elsewhere")
    ran = dry_run(split, scratch, "files", "--json")
    assert ran.returncode == BuildFailed.exit_code
    error = json.loads(ran.stdout)["error"]
    assert error["what"].startswith("In the dry run: The build failed:")
    assert "novel" in error["what"] and "all of them" not in error["what"]
    assert "thrown away" in error["where"] and "only read" in error["where"]
    assert error["mend"].startswith("The real run would stop here too.")
    assert_nothing_is_left(scratch)


def test_type_missing_on_the_scratch_server_is_reported(split: Split, scratch: Path) -> None:
    with split.monolith() as monolith:
        monolith.execute("create type public.mood as enum ('good')")
        monolith.execute("alter table blytz_hire.users add column mood public.mood")
    ran = dry_run(split, scratch, "files")
    assert ran.returncode == NotReady.exit_code
    assert "The scratch server can't hold a copy of the monolith:" in ran.stderr
    assert 'type "public.mood" does not exist at CREATE TABLE blytz_hire.users' in ran.stderr
    assert "restore a backup" in ran.stderr
    assert_nothing_is_left(scratch)


@pytest.mark.slow
def test_dry_run_gives_up_waiting_for_a_locked_table(split: Split, scratch: Path) -> None:
    with split.monolith() as monolith, monolith.transaction():
        monolith.execute("lock table blytz_hire.reviews")
        ran = dry_run(split, scratch, "files")
    assert ran.returncode == NotReady.exit_code
    assert "A table of the monolith is locked by somebody who alters it." in ran.stderr
    assert "AccessExclusiveLock" in ran.stderr
    assert_nothing_is_left(scratch)


def test_too_little_disk_space_is_reported_with_figures(
    split: Split, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(scratch.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(NotReady, match=r"needs about \d+\.\d MB of disk .*; 1\.0 MB are free"):
        run_here(split.connections, scratch)
    assert_nothing_is_left(scratch)


def run_here(connections: Connections, scratch: Path) -> None:
    with watching() as watcher:
        rehearse(select(("files",)), connections, watcher, scratch)


def test_scratch_folder_that_is_a_symlink_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "kept").touch()
    (tmp_path / ".rehearsal").symlink_to(tmp_path / "target")
    with (
        pytest.raises(NotReady, match="The dry run's folder can't be used"),
        held(tmp_path / ".rehearsal", PROJECT),
    ):
        raise AssertionError("it was held")
    assert os.listdir(tmp_path / "target") == ["kept"]
