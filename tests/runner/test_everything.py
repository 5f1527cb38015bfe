"""The main job, end to end, on the newest PostgreSQL and on the oldest that is supported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from migration import demo
from migration.connections import connect
from migration.services import SERVICES
from tests.runner.conftest import SAMPLE_ROWS, Server, Split, free_port, make_split
from tests.runner.test_following import sync_and_compare

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def server_15(tmp_path: Path) -> Iterator[Server]:
    """Run Debian's PostgreSQL 15 with settings of its own."""
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip("PostgreSQL 15 is not installed; apt-get install postgresql-15")
    home = Path("/tmp") / f"blytz-15-{os.getpid()}"
    home.mkdir(mode=0o700)
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(home, user)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, user=user, cwd=home, stdout=subprocess.DEVNULL)

    port = free_port()
    options = (
        f"-c listen_addresses='' -k {home} -p {port} -c wal_level=logical -c fsync=off"
        " -c max_replication_slots=20 -c max_wal_senders=20 -c max_worker_processes=30"
        " -c max_logical_replication_workers=20"
    )
    data = str(home / "data")
    run(str(DEBIAN_15 / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8")
    run(
        str(DEBIAN_15 / "pg_ctl"), "-w", "-D", data, "-l", str(home / "log"), "-o", options, "start"
    )
    try:
        url = f"postgresql://postgres@/postgres?host={home}&port={port}"
        demo.create(url.replace("/postgres?", "/sample?"), SAMPLE_ROWS)
        yield Server(url, url, "15")
    finally:
        run(str(DEBIAN_15 / "pg_ctl"), "-w", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(home)


def assert_six_databases(split: Split) -> None:
    """Run everything, and look at what came of it."""
    result = split.runner("run", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [one["service"] for one in report["services"]] == list(SERVICES)
    assert sum(len(one["rows_out"]) for one in report["services"]) == 33
    for one in report["services"]:
        assert one["tests"]["failed"] == 0
        assert one["tests"]["passed"] > 40

    with split.monolith() as monolith:
        expected = monolith.execute("select count(*) from blytz_hire.notifications").fetchone()
        states = monolith.execute("select distinct state from split.states").fetchall()
        slots = monolith.execute("select count(*) from pg_replication_slots").fetchone()
        unfinished = monolith.execute(
            "select count(*) from split.ledger where outcome is distinct from 'done'"
        ).fetchone()
    with split.service("communication_db") as database:
        split_up = database.execute(
            "select (select count(*) from communication_db.notifications)"
            " + (select count(*) from communication_db.chat_messages)"
        ).fetchone()
    assert split_up == expected
    assert states == [("built",)]
    assert slots == (6,)
    assert unfinished == (0,)


def assert_a_second_run_changes_nothing(split: Split) -> None:
    before = fingerprints(split)
    again = split.runner("run", "--json")
    assert again.returncode == 0, again.stderr
    assert all(one["landed_already"] for one in json.loads(again.stdout)["services"])
    assert fingerprints(split) == before


def fingerprints(split: Split) -> dict[str, str]:
    """Give the transaction that wrote the newest row of every service table."""
    found = {}
    for service in SERVICES:
        with connect(split.connections.urls[service], service) as database:
            for (table,) in database.execute(
                "select relname from pg_class where relkind = 'r'"
                " and relnamespace = %s::regnamespace",
                (service,),
            ).fetchall():
                row = database.execute(
                    f"select count(*), max(xmin::text::bigint) from {service}.{table}"
                ).fetchone()
                found[f"{service}.{table}"] = str(row)
    return found


def assert_totals_agree(split: Split) -> None:
    """Compare what each of the monolith's columns comes to with where it went."""
    result = split.runner("totals", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert list(found) == list(SERVICES)
    columns = [column for one in found.values() for column in one["columns"]]
    assert {column["verdict"] for column in columns} == {"agrees"}
    assert len({(column["table"], column["column"]) for column in columns}) == 269
    assert sum(column["service"]["count"] for column in columns) > SAMPLE_ROWS


def assert_they_follow(split: Split) -> None:
    """Change the monolith in every way, and look whether the six have changed with it."""
    with split.monolith() as monolith:
        for statement in (
            "update blytz_hire.payments set amount = 77, status = 'changed'",
            """update blytz_hire.va_profiles set name = name || '!', "resumeUrl" = null""",
            "delete from blytz_hire.reviews where rating > 3",
            "update blytz_hire.timesheets set id = 'new ' || id",
            "truncate blytz_hire.notifications",
        ):
            monolith.execute(statement)
        assert sync_and_compare(split, monolith) == []


def test_six_databases_out_of_one_monolith(split: Split) -> None:
    assert_six_databases(split)
    assert_a_second_run_changes_nothing(split)
    assert_totals_agree(split)


def test_six_databases_on_the_oldest_postgres(
    server_15: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for split in make_split(server_15, tmp_path, tmp_path_factory.getbasetemp() / "dbt15"):
        assert_six_databases(split)
        assert_totals_agree(split)
        assert_they_follow(split)
        assert_totals_agree(split)
