"""The main job, end to end, on the newest and the oldest supported PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.project import MONOLITH, PROJECT, SERVICES
from pgsplit.load import sample as demo
from pgsplit.postgres.connect import connect
from pgsplit.project.endpoints import resolve
from tests.support.following import sync_and_compare
from tests.support.servers import oldest
from tests.support.split import Split
from tests.support.stage import SAMPLE_ROWS, Stage, environment


def assert_six_databases(split: Split, said: str) -> None:
    """Check the databases after a run of all services, and its JSON report."""
    report = json.loads(said)
    assert list(report["services"]) == list(SERVICES)
    assert sum(len(one["rows_out"]) for one in report["services"].values()) == 33
    for service, one in report["services"].items():
        assert one["tests"]["failed"] == 0
        assert one["tests"]["passed"] > 35
        # Each is told with the table that lists its rows.
        warned = [warning.partition(":")[0] for warning in one["warnings"]]
        with split.service(service) as database:
            listed = "select relname from pg_class where relnamespace = 'audit'::regnamespace"
            assert {(name,) for name in warned} <= set(database.execute(listed).fetchall())

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
    assert all(one["landed_already"] for one in json.loads(again.stdout)["services"].values())
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
    """Compare the total of each monolith column with its total in the services."""
    result = split.runner("totals", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)["services"]
    assert list(found) == list(SERVICES)
    columns = [column for one in found.values() for column in one["columns"]]
    assert {column["verdict"] for column in columns} == {"agrees"}
    assert len({(column["table"], column["column"]) for column in columns}) == 269
    assert sum(column["service"]["count"] for column in columns) > SAMPLE_ROWS


def assert_they_follow(split: Split) -> None:
    """Change the monolith in every way, and check that all six services follow."""
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


@pytest.mark.slow
def test_monolith_is_split_into_six_databases(stage: Stage) -> None:
    split = stage.enter("six built")
    (said,) = stage.said("six built")
    assert_six_databases(split, said)
    assert_a_second_run_changes_nothing(split)
    assert_totals_agree(split)


@pytest.mark.long
@pytest.mark.slow
def test_monolith_is_split_into_six_databases_on_the_oldest_postgres(
    stage: Stage, tmp_path: Path
) -> None:
    with oldest() as cluster:
        environ = environment(cluster.url(MONOLITH), tmp_path, stage.dbt)
        split = Split(cluster.server, resolve(PROJECT, environ), environ)
        demo.create(PROJECT, cluster.url(MONOLITH), SAMPLE_ROWS)
        result = split.runner("run", "--json")
        assert result.returncode == 0, result.stderr
        assert_six_databases(split, result.stdout)
        assert_totals_agree(split)
        assert_they_follow(split)
        assert_totals_agree(split)
        health = split.runner("health")
        assert health.returncode == 0, health.stdout
