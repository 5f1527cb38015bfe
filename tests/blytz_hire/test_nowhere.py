"""What a split passes over: tools' own tables, and what the project says goes nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.altered import altered
from tests.support.split import Split

PRISMA = """
    create table blytz_hire._prisma_migrations (
        id varchar(36) primary key, checksum varchar(64) not null, finished_at timestamptz,
        migration_name varchar(255) not null, logs text, rolled_back_at timestamptz,
        started_at timestamptz not null default now(),
        applied_steps_count integer not null default 0
    );
    insert into blytz_hire._prisma_migrations (id, checksum, migration_name) values ('1', '2', '3')
"""
# As the tools themselves make them.
TOOLS = {
    "_prisma_migrations": PRISMA,
    "flyway_schema_history": """
        create table blytz_hire.flyway_schema_history (
            installed_rank integer primary key, version varchar(50), description varchar(200),
            type varchar(20), script varchar(1000), checksum integer, installed_by varchar(100),
            installed_on timestamp default now(), execution_time integer, success boolean
        )""",
    "databasechangelog": """
        create table blytz_hire.databasechangelog (
            id varchar(255), author varchar(255), filename varchar(255), dateexecuted timestamp,
            orderexecuted integer, exectype varchar(10), md5sum varchar(35), description varchar
        )""",
    "DATABASECHANGELOGLOCK": """
        create table blytz_hire."DATABASECHANGELOGLOCK" (
            "ID" integer, "LOCKED" boolean, "LOCKGRANTED" timestamp, "LOCKEDBY" varchar(255)
        )""",
    "alembic_version": "create table blytz_hire.alembic_version (version_num varchar(32))",
    "schema_migrations": "create table blytz_hire.schema_migrations (version varchar primary key)",
    "ar_internal_metadata": """
        create table blytz_hire.ar_internal_metadata (
            key varchar primary key, value varchar, created_at timestamp, updated_at timestamp
        )""",
    "knex_migrations": """
        create table blytz_hire.knex_migrations (
            id serial primary key, name varchar(255), batch integer, migration_time timestamptz
        )""",
    "knex_migrations_lock": """
        create table blytz_hire.knex_migrations_lock (index serial primary key, is_locked integer)
        """,
    "SequelizeMeta": 'create table blytz_hire."SequelizeMeta" (name varchar(255) primary key)',
    "migrations": """
        create table blytz_hire.migrations (
            id serial primary key, timestamp bigint not null, name varchar not null
        )""",
    "django_migrations": """
        create table blytz_hire.django_migrations (
            id bigint primary key, app varchar(255), name varchar(255), applied timestamptz
        )""",
    "goose_db_version": """
        create table blytz_hire.goose_db_version (
            id serial primary key, version_id bigint, is_applied boolean, tstamp timestamp
        )""",
    "__EFMigrationsHistory": """
        create table blytz_hire."__EFMigrationsHistory" (
            "MigrationId" varchar(150) primary key, "ProductVersion" varchar(32)
        )""",
}
# Names that a tool uses, with an application's columns.
NOT_A_TOOLS = """
    create table blytz_hire.pgmigrations (id text primary key, bird text, seen_at timestamp)
"""


def findings(shown: str, hazard: str) -> dict[str, dict[str, str]]:
    return {one["object"]: one for one in json.loads(shown)["findings"] if one["hazard"] == hazard}


def test_tools_own_tables_are_passed_over_and_named(split: Split) -> None:
    with split.monolith() as monolith:
        for statement in TOOLS.values():
            monolith.execute(statement.encode())
    ran = split.runner("analyze", "--json")
    assert ran.returncode == 0, ran.stderr
    passed = findings(ran.stdout, "table that is passed over")
    assert {name.split(".")[1].strip('"') for name in passed} == set(TOOLS)
    prisma = passed["blytz_hire._prisma_migrations"]
    assert prisma["severity"] == "note"
    assert prisma["found"] == "Prisma keeps its own records in it"
    assert not findings(ran.stdout, "table that nobody owns")
    checked = split.runner("run", "files")
    assert checked.returncode == 0, checked.stderr
    again = split.runner("status", "files")
    assert again.returncode == 0, again.stdout + again.stderr


def test_table_that_only_has_a_tools_name_is_not_passed_over(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute(NOT_A_TOOLS.encode())
    ran = split.runner("analyze", "--json")
    assert list(findings(ran.stdout, "table that nobody owns")) == ["blytz_hire.pgmigrations"]
    refused = split.runner("run", "payments")
    assert refused.returncode == 7
    assert "monolith_table = pgmigrations, monolith_column = bird" in refused.stderr
    assert "nobody owns it" in refused.stderr and "or why it goes nowhere" in refused.stderr


def test_table_of_an_extension_is_passed_over(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute(
            "create extension if not exists file_fdw; create table blytz_hire.points (id int);"
            " alter extension file_fdw add table blytz_hire.points"
        )
    passed = findings(split.runner("analyze", "--json").stdout, "table that is passed over")
    assert passed["blytz_hire.points"]["found"] == "it belongs to the extension file_fdw"


@pytest.mark.slow
def test_seed_says_what_goes_nowhere_and_why(split: Split, tmp_path: Path) -> None:
    """A table and a column without a word in models/_sources.yml, and one table that is there."""
    with split.monolith() as monolith:
        monolith.execute(
            "create table blytz_hire.old_sessions (id text, data text);"
            "create table blytz_hire.audit_log (id text primary key);"
            "alter table blytz_hire.payments add column legacy_token text"
        )
    changed = altered(split, tmp_path)
    shown = changed.run("analyze", "--json").stdout
    hint = findings(shown, "table that nobody owns")["blytz_hire.old_sessions"]["mend"]
    assert "add the line old_sessions,*,,,,,WHY there" in hint
    changed.own(
        "old_sessions,*,,,,,sessions last one day",
        "audit_log,*,,,,,kept in the archive",
        "payments,legacy_token,,,,,nobody reads it",
    )
    changed.source({"name": "audit_log", "columns": [{"name": "id", "data_type": "text"}]})
    shown = changed.run("analyze", "--json").stdout
    passed = findings(shown, "table that is passed over")
    assert passed["blytz_hire.old_sessions"]["found"] == "sessions last one day"
    assert passed["blytz_hire.audit_log"]["found"] == "kept in the archive"
    assert not findings(shown, "table that nobody owns")
    column = findings(shown, "column that goes nowhere")["blytz_hire.payments.legacy_token"]
    assert column["found"] == "nobody reads it"
    for command in ("run", "verify", "totals", "parity", "status", "report"):
        page = ["--html", str(tmp_path / "report.html")] if command == "report" else []
        ran = changed.run(command, *(["payments"] if command != "report" else page))
        assert ran.returncode == 0, (command, ran.stdout + ran.stderr)
    assert "goes nowhere: say in" not in changed.run("status", "payments").stdout


REFUSED = [
    ("sessions,*,,,,,", "sessions.* goes nowhere, and nothing says why.", "sessions,*,,,,,WHY"),
    ("payments,*,,,,,old", "the whole table payments, which payments_db gets", "one line for each"),
    ("payments,token,,,,, ", "payments.token goes nowhere, and nothing says why.", ",WHY"),
]


@pytest.mark.parametrize(("line", "says", "hint"), REFUSED)
def test_line_without_a_reason_is_refused(
    split: Split, tmp_path: Path, line: str, says: str, hint: str
) -> None:
    changed = altered(split, tmp_path)
    changed.own(line)
    for command in (("analyze",), ("run", "payments")):
        ran = changed.run(*command)
        assert ran.returncode == 4, ran.stdout + ran.stderr
        assert says in ran.stderr and hint in ran.stderr
        assert "column_ownership.csv" in ran.stderr and "Traceback" not in ran.stderr


SOURCES = [
    ({"name": "logs", "config": {"meta": {"owner": "payment_db"}}}, "names payment_db, which is"),
    ({"name": "logs", "config": {"meta": {"shared": {"users_db": ["id"]}}}}, "shared by nobody"),
    ({"name": "logs", "columns": [{"name": "id"}]}, "These columns of the table logs have no"),
]


@pytest.mark.parametrize(("table", "says"), SOURCES)
def test_source_that_makes_no_sense_is_refused(
    split: Split, tmp_path: Path, table: dict[str, object], says: str
) -> None:
    changed = altered(split, tmp_path)
    changed.source(table)
    ran = changed.run("run", "payments")
    assert ran.returncode == 4, ran.stdout + ran.stderr
    assert says in " ".join(ran.stderr.split())
    assert "_sources.yml" in ran.stderr and "Traceback" not in ran.stderr
