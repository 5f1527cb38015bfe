"""A completed service's team gets a migration that makes its schema, its roles, and a list."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.postgres.connect import with_database
from tests.support import schemas
from tests.support.split import Split
from tests.support.switching import ran

SHAPE = """
    select format('%%s.%%s %%s %%s %%s', attrelid::regclass, attname,
        format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid))
    from pg_attribute inner join pg_class as class on class.oid = attrelid
    left join pg_attrdef on adrelid = attrelid and adnum = attnum
    where relnamespace = to_regnamespace(%(s)s) and attnum > 0 and not attisdropped
    union all
    select format('%%s %%s %%s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace = to_regnamespace(%(s)s)
    order by 1
"""


def shape(connection: psycopg.Connection[tuple[str]], schema: str) -> list[tuple[str]]:
    """List the columns and constraints of a schema."""
    return connection.execute(SHAPE, {"s": schema}).fetchall()


@pytest.mark.parametrize(
    ("tool", "migration"),
    [
        ("sql", "migrations/0001_initial.sql"),
        ("flyway", "sql/V1__initial.sql"),
        ("prisma", "prisma/migrations/0_init/migration.sql"),
        ("alembic", "versions/0001_initial.sql"),
    ],
)
def test_first_migration_makes_the_schema_in_an_empty_database(
    users_completed: Split, tmp_path: Path, tool: str, migration: str
) -> None:
    split, folder = users_completed, tmp_path / "team"
    done = split.runner("handover", "users", "--to", str(folder), "--tool", tool, "--json")
    assert done.returncode == 0, done.stderr
    found = schemas.validate(done.stdout)
    assert migration in found["files"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*")) == found["files"]
    text = (folder / migration).read_text("utf-8")
    for ours in ("split", "users_service", "restrict", "search_path", "GRANT", "OWNER TO"):
        assert ours not in text
    split.server.execute("create database team")
    with psycopg.connect(with_database(split.server.socket, "team"), autocommit=True) as empty:
        empty.execute(text.encode())
        with split.service("users_db") as database:
            assert shape(empty, "users_db") == shape(database, "users_db")
        roles = (folder / "roles.sql").read_text("utf-8")
        assert roles.startswith("-- The owner makes")
        assert "create role users_owner nologin;" in roles
        assert "grant usage on schema users_db to users_service;" in roles
        assert "split_" not in roles and "postgres" not in roles
        empty.execute("".join(line for line in roles.splitlines(True) if "create role" not in line))
    page = (folder / "HANDOVER.md").read_text("utf-8")
    row = "| users.email, users.id | blytz_hire.users.email | communication_db, "
    assert row in page
    assert "companyDetails" not in page
    if tool == "alembic":
        compile((folder / "versions/0001_initial.py").read_text("utf-8"), "migration", "exec")
    if tool == "prisma":
        assert '@@map("va_profile_details")' in (folder / "prisma/schema.prisma").read_text("utf-8")


def test_nothing_that_somebody_has_edited_is_overwritten(
    users_completed: Split, tmp_path: Path
) -> None:
    split, to = users_completed, ("--to", str(tmp_path / "team"))
    ran(split, "handover", "users", *to)
    said = ran(split, "handover", "users", *to)
    assert "columns, which have to stay: see HANDOVER.md." in said
    page = tmp_path / "team" / "HANDOVER.md"
    page.write_text(page.read_text("utf-8") + "Ours.", "utf-8")
    said = ran(split, "handover", "users", *to, code=TargetOccupied.exit_code)
    assert "The file is there already, and is not what this command would write." in said
    assert "Name another folder: --to DIR" in said
    assert page.read_text("utf-8").endswith("Ours.")
    said = ran(split, "handover", "users", "--to", "/proc/none", code=NotReady.exit_code)
    assert "The folder can't be written" in said


def test_service_that_is_not_completed_is_told_what_is_next(
    switched: Split, tmp_path: Path
) -> None:
    folder = tmp_path / "team"
    for service, stands, following in (
        ("payments", "switched", "complete"),
        ("users", "absent", "run"),
    ):
        said = ran(switched, "handover", service, "--to", str(folder), code=NotReady.exit_code)
        assert f"{service}_db is {stands}, not completed" in said
        assert f"Next: runner.py {following} {service}" in said
    assert not folder.exists()
    ran(switched, "complete", "payments", "--no-backup")
    done = switched.runner("handover", "payments", "--to", str(folder), "--json")
    assert json.loads(done.stdout)["shared"] == []
    assert "Nobody shares any column." in (folder / "HANDOVER.md").read_text("utf-8")
