"""The drill of docs/backup.md: a server as it was at the restore point before an operation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest

from demo.project import MONOLITH, PROJECT, ROOT
from pgsplit.load import sample as demo
from pgsplit.postgres import embedded
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from tests.support.run_folder import short_folder
from tests.support.servers import PASSWORD, Cluster, free_port, oldest
from tests.support.split import Split
from tests.support.stage import SAMPLE_ROWS, Stage, environment
from tests.support.standby import AT_LEAST, Standby
from tests.support.switching import as_service, ran
from tests.support.waiting import until

BLOCKS = re.compile(r"```(?:sql|ini)\n(.*?)```", re.DOTALL)
ARCHIVED = """
    select last_archived_wal >= %s and last_failed_time is null from pg_stat_archiver
"""


def as_documented(*, archive: Path, point: str = "") -> tuple[list[str], str]:
    """Give the statements and the settings of the page, with the drill's own names."""
    page = (ROOT / "docs" / "backup.md").read_text("utf-8").partition("## Point-in-time")[2]
    statements, settings = (
        text.replace("/archive/", f"{archive}/") for text in BLOCKS.findall(page)[:2]
    )
    asked = [line.partition(";")[0] for line in statements.splitlines() if line[:1] != "-"]
    return asked, re.sub(
        r"recovery_target_name = '.*'", f"recovery_target_name = '{point}'", settings
    )


class Drill:
    """A server that archives its WAL, a base backup of it, and what is recovered from both."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.home = cluster, short_folder("pitr-")
        self.archive, self.base = self.home / "archive", self.home / "base"
        owner = os.stat(cluster.data)
        for folder in (self.home, self.archive, self.base):
            folder.mkdir(exist_ok=True, mode=0o700)
            os.chown(folder, owner.st_uid, owner.st_gid)
        self.port = str(free_port())
        self.tool = Standby(cluster, self.base, self.port)
        for statement in as_documented(archive=self.archive)[0]:
            cluster.server.execute(statement)
        self.tool.run("pg_ctl", "-w", "-D", str(cluster.data), "-m", "fast", "stop")
        cluster.start()
        url = cluster.url("postgres")
        self.tool.run("pg_basebackup", "-D", str(self.base), "-d", url, "--checkpoint=fast")

    def archive_all(self) -> None:
        """Wait until all that was written is in the archive."""
        ((wal,),) = self.cluster.server.execute("select pg_walfile_name(pg_current_wal_lsn())")
        self.cluster.server.execute("select pg_switch_wal()")
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as server:
            until(lambda: server.execute(ARCHIVED, (wal,)).fetchone() == (True,))

    @contextmanager
    def recovered(self, point: str) -> Iterator[str]:
        """Recover up to a restore point; give the server's URL."""
        settings = as_documented(archive=self.archive, point=point)[1]
        beside = self.cluster.data.parent / "pgsplit.conf"
        if beside.exists():
            shutil.copy2(beside, self.home)
            (self.home / beside.name).chmod(0o644)
        with (self.base / "postgresql.auto.conf").open("a") as file:
            file.write(f"{settings}\narchive_mode = off\n")
        (self.base / "recovery.signal").touch()
        given = {"listen_addresses": "127.0.0.1", "wal_level": "logical", **AT_LEAST}
        del given["max_logical_replication_workers"]
        options = f"-p {self.port} -k {self.home}"
        options += "".join(f" -c {name}={value}" for name, value in given.items())
        log = str(self.home / "log")
        try:
            self.tool.run("pg_ctl", "-w", "-D", str(self.base), "-l", log, "-o", options, "start")
        except subprocess.CalledProcessError as error:
            raise AssertionError(Path(log).read_text("utf-8")) from error
        try:
            url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
            url = with_database(url, "postgres", password=PASSWORD)
            with psycopg.connect(url, autocommit=True) as server:
                until(lambda: server.execute("select pg_is_in_recovery()").fetchone() == (False,))
            yield url
        finally:
            self.tool.run("pg_ctl", "-D", str(self.base), "-m", "immediate", "stop")

    def end(self) -> None:
        shutil.rmtree(self.home)


@contextmanager
def drill(cluster: Cluster) -> Iterator[Drill]:
    made = Drill(cluster)
    try:
        yield made
    finally:
        made.end()


def last_restore_point(split: Split) -> str:
    with split.monolith() as monolith:
        row = monolith.execute(
            "select detail ->> 'restore_point' from split.ledger"
            " where step = 'backup' and outcome = 'done' order by id desc limit 1"
        ).fetchone()
    assert row and row[0]
    return str(row[0])


@pytest.mark.slow
def test_server_is_as_it_was_before_a_switch_and_works_on(verified: Split, stage: Stage) -> None:
    cluster = Cluster(
        stage.data,
        stage.server,
        partial(with_database, stage.server.socket),
        partial(embedded.start, stage.root, stage.settings),
    )
    with drill(cluster) as made:
        with verified.monolith() as monolith:
            monolith.execute("update blytz_hire.payments set status = 'before'")
        ran(verified, "sync", "payments")
        ran(verified, "switch", "payments", "--wait-for-write", "0")
        point = last_restore_point(verified)
        assert point.startswith("payments-switch-")
        with as_service(verified) as service:
            service.execute("update payments_db.payments set status = 'after'")
        made.archive_all()
        with made.recovered(point) as url:
            found = {}
            for database in (MONOLITH, "payments_db"):
                with psycopg.connect(with_database(url, database)) as there:
                    schema = "blytz_hire" if database == MONOLITH else database
                    rows = there.execute(f"select distinct status from {schema}.payments")
                    found[database] = rows.fetchall()
            assert found == {MONOLITH: [("before",)], "payments_db": [("before",)]}
            environ = {"BLYTZ_HIRE_URL": with_database(url, MONOLITH)}
            shown = verified.runner("status", "payments", **environ)
            assert shown.returncode == 4 and "verified" in shown.stdout, shown.stdout
            # No base backup has slots: the page says what brings replication back.
            with psycopg.connect(url, autocommit=True) as server:
                server.execute("alter system reset max_logical_replication_workers")
            made.tool.run("pg_ctl", "-w", "-D", str(made.base), "-m", "fast", "restart")
            for command in (("land", "--recopy"), ("build",), ("verify",)):
                done = verified.runner(command[0], "payments", *command[1:], **environ)
                assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_monolith_on_15_is_as_it_was_before_a_run(stage: Stage, tmp_path: Path) -> None:
    stage.enter("sample")
    with oldest() as cluster:
        demo.create(PROJECT, cluster.url(MONOLITH), SAMPLE_ROWS)
        environ = environment(cluster.url(MONOLITH), tmp_path, tmp_path / "dbt")
        split = Split(cluster.server, resolve(PROJECT, environ), environ)
        with drill(cluster) as made:
            ran(split, "run", "payments", "--backup")
            point = last_restore_point(split)
            assert point.startswith("payments-run-")
            with split.monolith() as monolith:
                (before,) = monolith.execute("select count(*) from blytz_hire.payments")
                monolith.execute("truncate blytz_hire.payments cascade")
            made.archive_all()
            with (
                made.recovered(point) as url,
                psycopg.connect(with_database(url, MONOLITH)) as there,
            ):
                assert [*there.execute("select count(*) from blytz_hire.payments")] == [before]
                rows = there.execute(
                    "select datname from pg_database where datname = 'payments_db'"
                )
                assert rows.fetchall() == [], "the restore point comes before all that a run makes"
