"""A completed service's tables are distributed with Citus, by a file that handover writes.

Citus itself is not to be had here. `tests/support/citus.py` stands in for it: it refuses what
Citus refuses, in its words, and moves no row. So what is proved here is that Citus' rules allow
what the file asks for, and not what a cluster then does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from demo.project import ROOT
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from tests.support import schemas
from tests.support.citus import CITUS, HAZARDS
from tests.support.split import Split
from tests.support.switching import ran

ASKED = {
    "currencies": {"reference_table": True},
    "rates": {"reference_table": True},
    "regions": {"reference_table": True},
    "tenants": {"distribute_by": "id"},
    "orders": {"distribute_by": "tenant_id"},
    "lines": {"distribute_by": "tenant_id"},
    "imports": {"distribute_by": "tenant_id"},
}
# What Citus says of some of them before anything is changed.
AS_IT_IS = (
    ("create_distributed_table('payments_db.tenants', 'id')", "cannot create constraint"),
    ("create_distributed_table('payments_db.orders', 'tenant_id')", "it has triggers"),
    ("create_reference_table('payments_db.currencies')", "it has triggers"),
    ("create_reference_table('payments_db.regions')", "NO ACTION or RESTRICT"),
)
KEPT = """
    select relation::text, colocation_id from citus_kept.tables
    order by colocation_id, relation::text
"""
FOREIGN_KEYS = """
    select conname from pg_constraint
    where contype = 'f' and conparentid = 0 and connamespace = 'payments_db'::regnamespace
    order by 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a copy of what handover reads of a project, for other models."""
    root = tmp_path / "project"
    for name in ("models", "seeds"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "dbt_project.yml", root)
    return root


def says(project: Path, models: dict[str, dict[str, Any]], file: str = "payments_db/team") -> None:
    """Let models of a service say how their tables are distributed."""
    listed = [{"name": name, "config": {"meta": meta}} for name, meta in models.items()]
    (project / "models" / f"{file}.yml").write_text(yaml.safe_dump({"models": listed}))


@contextmanager
def copy(split: Split, migration: Path) -> Iterator[psycopg.Connection[Any]]:
    """Make the schema in an empty database, as a team does on its new cluster."""
    split.server.execute("drop database if exists team")
    split.server.execute("create database team")
    with psycopg.connect(with_database(split.server.socket, "team"), autocommit=True) as team:
        team.execute(migration.read_bytes())
        yield team


def test_messages_are_distributed_by_conversation(all_completed: Split, tmp_path: Path) -> None:
    split, folder = all_completed, tmp_path / "team"
    done = split.runner("handover", "communication", "--to", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    found = schemas.validate(done.stdout)
    assert "citus.sql" in found["files"]
    assert [(one["name"], one["becomes"]) for one in found["distribution"]] == [
        ("chat_messages_pkey", "PRIMARY KEY (id, conversation_id)"),
        ("notifications_pkey", "PRIMARY KEY (id, user_id)"),
    ]
    said = ran(split, "handover", "communication", "--to", str(folder))
    assert "citus.sql changes 2 keys, foreign keys and triggers, and distributes" in said
    page = (folder / "HANDOVER.md").read_text("utf-8")
    assert "| communication_db.chat_messages | chat_messages_pkey | PRIMARY KEY (id, conv" in page
    assert "on one server: conversations.id, " in page
    made = (folder / "citus.sql").read_bytes()
    live = psycopg.connect(split.connections.urls["communication_db"], autocommit=True)
    with copy(split, folder / "migrations" / "0001_initial.sql") as team, live:
        with pytest.raises(psycopg.errors.RaiseException) as refused:
            team.execute(made)
        assert "The extension citus is not in the database team." in str(refused.value)
        assert "create extension citus; then run this file again." in str(refused.value)
        team.rollback()
        team.execute(CITUS)
        with pytest.raises(psycopg.errors.RaiseException, match="cannot create constraint on"):
            team.execute(
                "select create_distributed_table('communication_db.notifications', 'user_id')"
            )
        live.execute(CITUS)
        tables = ("chat_messages", "conversations", "notifications")
        for where in (team, live):
            where.execute(made)
            found = [name for name, _ in where.execute(KEPT)]
            assert found == [f"communication_db.{one}" for one in tables]
    assert "communication" in ran(split, "sync", "communication")
    status = json.loads(split.runner("status", "communication", "--json").stdout)
    assert status["services"]["communication_db"]["warnings"] == []


def test_what_citus_refuses_is_changed_first_and_all_else_stays(
    all_completed: Split, project: Path, tmp_path: Path
) -> None:
    split, folder = all_completed, tmp_path / "team"
    with split.service("payments_db") as database:
        database.execute(HAZARDS)
    says(project, ASKED)
    handover = ("--project-dir", str(project), "handover", "payments")
    done = split.runner(*handover, "--to", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    changes = {one["name"]: one for one in json.loads(done.stdout)["distribution"]}
    assert changes["orders_pkey"]["becomes"] == "PRIMARY KEY (id, placed, tenant_id)"
    assert "USING btree (tenant_id, lower(email)) WHERE" in changes["orders_2025_email"]["becomes"]
    assert changes["stamped"]["reason"] == "Citus runs no triggers on such a table"
    made = (folder / "citus.sql").read_bytes()
    with copy(split, folder / "migrations" / "0001_initial.sql") as team:
        before = {name for (name,) in team.execute(FOREIGN_KEYS)}
        team.execute(CITUS)
        for statement, why in AS_IT_IS:
            with pytest.raises(psycopg.errors.RaiseException, match=why):
                team.execute(f"select {statement}".encode())
        team.execute(made)
        grouped: dict[int, list[str]] = {}
        for name, group in team.execute(KEPT):
            grouped.setdefault(group, []).append(name.removeprefix("payments_db."))
        assert list(grouped.values()) == [
            ["currencies", "rates", "regions"],
            ["imports"],
            ["lines", "orders", "tenants"],
        ]
        after = {name for (name,) in team.execute(FOREIGN_KEYS)}
        assert before - after == {name for name in changes if name.endswith("fkey")}
        assert {
            "orders_tenant_id_fkey",
            "lines_tenant_id_parent_fkey",
            "tenants_currency_fkey",
        } < after


# What a model says, what is then said, and the hint.
REFUSED = {
    "no column": (
        {"orders": {"distribute_by": "tenant"}},
        "payments_db.orders has no column tenant that is stored as it is written",
        "possible are: id, tenant_id, Number, placed",
    ),
    "made from others": (
        {"orders": {"distribute_by": "twice"}},
        "payments_db.orders has no column twice that is stored as it is written",
        "Let the model orders name another column",
    ),
    "may be null": (
        {"orders": {"distribute_by": "email"}},
        "payments_db.orders.email may be null",
        "alter table payments_db.orders alter column email set not null;",
    ),
    "no table": (
        {"gone": {"reference_table": True}},
        "payments_db.gone is not a table of the service",
        "Remove distribute_by or reference_table from the model gone.",
    ),
    "partitioned": (
        {"orders": {"reference_table": True}},
        "payments_db.orders is partitioned, and Citus has no partitioned reference tables",
        "Let the model orders say distribute_by instead",
    ),
    "both": (
        {"orders": {"reference_table": True, "distribute_by": "id"}},
        "The model orders does not say how its table is distributed",
        "Give it one of the two: distribute_by: COLUMN, or reference_table: true",
    ),
    "circle": (
        {"rates": {"reference_table": True}, "spots": {"reference_table": True}},
        "lead in a circle: payments_db.",
        "Drop one of them by a migration.",
    ),
}
CIRCLE = """
    create table payments_db.spots (id int primary key, rate int references payments_db.rates);
    alter table payments_db.rates add foreign key (id) references payments_db.spots;
"""


def test_table_that_cant_be_distributed_is_refused_by_name(
    all_completed: Split, project: Path, tmp_path: Path
) -> None:
    split, folder = all_completed, tmp_path / "team"
    with split.service("payments_db") as database:
        database.execute(HAZARDS)
        database.execute(CIRCLE)
    to = ("--to", str(folder))
    for models, what, hint in REFUSED.values():
        says(project, models)
        handover = ("--project-dir", str(project), "handover", "payments", *to)
        said = ran(split, *handover, code=NotReady.exit_code)
        assert what in said and hint in said and "Nothing was written." in said, said
    says(project, {"users": {"distribute_by": "id"}}, "users_db/team")
    handover = ("--project-dir", str(project), "handover", "users", *to)
    said = ran(split, *handover, code=NotReady.exit_code)
    assert "users_db.users has triggers that keep other services' copies" in said
    says(project, {"shared_users": {"reference_table": True}}, "shared/team")
    said = ran(split, *handover, code=NotReady.exit_code)
    assert "The model shared_users distributes a copy of another service's rows" in said
    assert not folder.exists()
