"""An abort drops nothing that the service made itself, unless that is confirmed."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from tests.blytz_hire.test_own_changes import change
from tests.blytz_hire.test_routes import pasted
from tests.blytz_hire.test_switch_faults import kill_at
from tests.support.split import Split
from tests.support.switching import move, one, ran, stands, words

OWN = {
    "table payments_db.notes": "create table payments_db.notes (id serial primary key, said text)",
    "table app.parted": "create schema app; create table app.parted (id int) partition by list"
    " (id); create table app.part partition of app.parted default",
    'view payments_db."Paid"': 'create view payments_db."Paid" as select id from'
    " payments_db.payments",
    "materialized view payments_db.sums": "create materialized view payments_db.sums as select 1",
    "sequence payments_db.numbers": "create sequence payments_db.numbers",
    "function payments_db.touch()": "create function payments_db.touch() returns int language sql"
    " as 'select 1'",
    "type payments_db.mood": "create type payments_db.mood as enum ('good')",
    "type payments_db.pair": "create type payments_db.pair as (a int, b int)",
    "column payments_db.payments.note": "alter table payments_db.payments add column note text",
    "large objects 1": "select lo_from_bytea(0, 'x')",
}


def make(split: Split, *statements: str) -> None:
    """Make things as the owner of the service's tables, who may make schemas, too."""
    change(split, *(one for each in statements for one in each.split("; ")))


def test_abort_names_what_the_service_made_and_keeps_it(verified: Split) -> None:
    make(verified, *OWN.values(), "insert into payments_db.notes (said) values ('precious')")
    before = ran(verified, "status", "payments")
    done = verified.runner("abort", "payments")
    said = words(done.stderr)
    assert done.returncode == NotReady.exit_code
    assert "payments_db holds what the service made itself, and an abort would drop it: " in said
    found = said.split("would drop it: ")[1].split(". Nothing was changed.")[0]
    assert found.endswith(" and 2 more")
    assert stands(verified) == "verified"
    assert "follows" in before and "follows" in ran(verified, "status", "payments")
    with verified.service("payments_db") as database:
        assert one(database, "select said from payments_db.notes") == "precious"

    # The hint, as it is pasted: a backup that has it, and the confirmation.
    hint = done.stderr.split("hint:")[1]
    said = pasted(verified, "\n".join(line.strip() for line in hint.strip().splitlines()))
    assert "Removed: " in said
    assert stands(verified) == "absent"
    listed = json.loads(verified.runner("backups", "--json").stdout)
    verified.server.execute("create database restored template template0")
    restored = with_database(verified.server.tcp, "restored")
    ran(verified, "restore", Path(listed["backups"][0]["path"]).name, restored)
    with psycopg.connect(restored) as database:
        assert one(database, "select said from payments_db.notes") == "precious"


@pytest.mark.parametrize("name", OWN)
def test_abort_knows_each_kind_of_what_a_service_makes(living: Split, name: str) -> None:
    make(living, OWN[name])
    done = living.runner("abort", "payments")
    assert done.returncode == NotReady.exit_code
    assert f"would drop it: {name}. Nothing was changed." in words(done.stderr)


def test_abort_of_a_service_that_made_nothing_asks_nothing(verified: Split) -> None:
    move(verified, "switch")
    move(verified, "rollback")
    assert "Removed: " in ran(verified, "abort", "payments")


def test_interrupted_abort_remembers_what_was_confirmed(living: Split) -> None:
    make(living, OWN["table payments_db.notes"])
    kill_at(living, "abort: ways", "recorded", "abort", "payments", "--yes")
    assert "It is aborted now." in ran(living, "resume")


def test_what_is_made_during_an_abort_is_kept(living: Split) -> None:
    kill_at(living, "abort: ways", "recorded", "abort", "payments")
    make(living, OWN["table payments_db.notes"])
    said = ran(living, "resume", code=NotReady.exit_code)
    assert "would drop it: table payments_db.notes. Nothing was changed." in said
    assert "runner.py abort payments --yes" in said
    with living.service("payments_db") as database:
        assert one(database, "select count(*) from payments_db.notes") == 0
    ran(living, "abort", "payments", "--yes")
    assert stands(living) == "absent"


def test_abort_leaves_other_schemas_of_a_database_that_was_there(split: Split) -> None:
    """It drops only its own schemas there, so it asks only about these."""
    split.server.execute("create database payments_db template template0 encoding 'UTF8'")
    ran(split, "provision", "payments")
    with split.service("payments_db") as database:
        database.execute("create schema app create table notes (id int)")
    ran(split, "abort", "payments")
    with split.service("payments_db") as database:
        assert one(database, "select count(*) from app.notes") == 0
