"""From its completion a service's tables belong to its team: only what others share has to stay.

Every change is a plain SQL migration, made as the owner of the tables makes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.project import select
from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from tests.support.altered import altered
from tests.support.split import Split
from tests.support.switching import NEW_PAYMENT, as_service, one, ran, words

(USERS,) = select(("users",))


def migrate(split: Split, database: str, *statements: str) -> None:
    """Run a migration as the owner of a service's tables."""
    with split.service(database) as connection:
        owner = "select nspowner::regrole::text from pg_namespace where nspname = 'split'"
        connection.execute(f"set role {one(connection, owner)}")
        for statement in statements:
            connection.execute(statement)


def looked_at(split: Split, service: str) -> dict[str, Any]:
    """Read a service's status as JSON."""
    done = split.runner("status", service, "--json")
    return dict(json.loads(done.stdout)["services"][f"{service}_db"])


def as_users(split: Split) -> psycopg.Connection[Any]:
    """Connect to users_db as its applications do."""
    return psycopg.connect(env_file.own_url(USERS, split.connections), autocommit=True)


OWN = (
    "alter table payments_db.payments add column note text not null default ''",
    "alter table payments_db.payments alter column receiver_id drop not null",
    "alter table payments_db.payments rename column currency to coin",
    "alter table payments_db.payments alter column status type varchar(40)",
    "alter table payments_db.payments drop column milestone_id",
    "alter table payments_db.payments drop constraint payments_pkey cascade",
    "alter table payments_db.payments add column number bigint generated always as identity"
    " primary key",
    "alter table payments_db.refunds rename column payment_id to payment",
    "alter table payments_db.disputes rename to contested",
    "drop table payments_db.reviews",
    "create table payments_db.payouts (id bigint primary key)",
    "create index on payments_db.payments (note)",
)


def test_team_of_a_completed_service_changes_its_tables_as_it_likes(switched: Split) -> None:
    """Nobody shares anything of payments: dbt, status, sync and parity have nothing to say."""
    ran(switched, "complete", "payments", "--no-backup")
    with switched.service("payments_db") as database:
        left = "select count(*) from pg_trigger where tgname = 'split_capture'"
        left += " and tgrelid::regclass::text like 'payments_db.%%'"
        assert one(database, left) == 0
    built = switched.dbt("build", "--target", "payments_db")
    assert built.returncode == 0, built.stdout
    assert "payments_db.payments belongs to the service's team: left as it is" in built.stdout
    assert "was skipped" not in built.stdout
    before = looked_at(switched, "payments")
    migrate(switched, "payments_db", *OWN)
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
        service.execute("update payments_db.payments set coin = 'EUR' where id = 'own'")
        service.execute("delete from payments_db.refunds where payment is not null")
    built = switched.dbt("build", "--target", "payments_db")
    assert built.returncode == 0, built.stdout
    said = words(built.stdout)
    assert "ERROR=0 SKIP=0" in said
    assert "was skipped: column" in said and "payments_db is completed" in said
    after = looked_at(switched, "payments")
    assert (after["warnings"], after["notes"]) == (before["warnings"], before["notes"])
    ran(switched, "sync", "payments")
    ran(switched, "parity", "payments")
    said = ran(switched, "build", "payments", "--json")
    assert "skipped: column" in said
    with as_service(switched) as service:
        assert one(service, "select coin from payments_db.payments where id = 'own'") == "EUR"


def shared_email(split: Split, name: str) -> Any:
    """Give a user's address as payments_db has it, after a sync."""
    ran(split, "sync", "payments")
    with split.service("payments_db") as database:
        return one(database, "select email from payments_db.shared_users where id = %s", name)


UNSHARED = (
    "alter table users_db.users add column nickname text",
    "alter table users_db.users rename column preferences to wishes",
    "alter table users_db.users drop column profile_complete",
    "alter table users_db.users alter column email type varchar(300)",
    "alter table users_db.companies rename column country to land",
    "alter table users_db.company_details rename column company_id to company",
    "drop table users_db.badges",
)


@pytest.fixture
def user(users_completed: Split) -> str:
    """Give the id of a user."""
    with users_completed.service("users_db") as database:
        return str(one(database, "select min(id) from users_db.users"))


def test_consumers_get_what_they_share_whatever_else_is_changed(
    users_completed: Split, user: str
) -> None:
    split = users_completed
    migrate(split, "users_db", *UNSHARED)
    with as_users(split) as service:
        service.execute("update users_db.users set email = 'new@x' where id = %s", (user,))
        service.execute("update users_db.companies set name = 'New' where id is not null")
        service.execute("delete from users_db.company_details")
    assert shared_email(split, user) == "new@x"
    assert looked_at(split, "users")["warnings"] == []
    built = split.dbt("build", "--target", "users_db")
    assert built.returncode == 0, built.stdout
    assert "monolith_users gives others what they share: left as it is" in built.stdout
    assert "monolith_badges serves nobody any more: left as it is" in built.stdout
    ran(split, "verify", "users")
    ran(split, "verify", "payments")


BREAKING = (
    (
        "alter table users_db.users rename column email to mail",
        "column users_db.users.email is gone; perhaps it is mail now."
        " communication_db, contracts_db, files_db, marketplace_db, payments_db share what comes"
        " from it: blytz_hire.users.email",
        "alter table users_db.users rename column mail to email;",
    ),
    (
        "alter table users_db.users alter column role type integer using 1",
        "column users_db.users.role is integer instead of text, and not every value fits.",
        "alter table users_db.users alter column role type text using role::text;",
    ),
    (
        "alter table users_db.users disable trigger split_capture",
        "the trigger split_capture of users_db.users is disabled",
        "select split.capture_again('users');",
    ),
    (
        "drop trigger split_capture on users_db.users",
        "the trigger split_capture of users_db.users is gone",
        "select split.capture_again('users');",
    ),
    (
        "alter table users_db.companies rename to firms",
        "table users_db.companies is called users_db.firms now",
        "alter table users_db.firms rename to companies;",
    ),
    (
        "alter table users_db.users drop constraint users_pkey cascade",
        "table users_db.users has no primary key",
        "alter table users_db.users add PRIMARY KEY (id);",
    ),
    (
        "alter table users_db.users enable row level security;"
        " alter table users_db.users force row level security",
        "row security of users_db.users hides rows from users_owner",
        "alter table users_db.users no force row level security;",
    ),
    (
        "alter table users_db.users rename column id to key",
        "column users_db.users.id is gone; perhaps it is key now.",
        "alter table users_db.users rename column key to id;",
    ),
    (
        "alter table users_db.companies drop column logo_url",
        "column users_db.companies.logo_url is gone.",
        "alter table users_db.companies add column logo_url text;"
        " select split.refill('companies', 'logo_url');",
    ),
)


def test_change_of_what_others_share_is_found_with_its_fix(users_completed: Split) -> None:
    """By status and dbt, before anybody has written; each fix works when it is pasted."""
    split = users_completed
    rows = "select * from blytz_hire.companies order by id"
    with split.service("users_db") as database:
        before = database.execute(rows).fetchall()
    for made, what, fix in BREAKING:
        migrate(split, "users_db", *made.split("; "))
        warned = [said for said in looked_at(split, "users")["warnings"] if what in said]
        assert len(warned) == 1, (made, looked_at(split, "users")["warnings"])
        assert fix in words(warned[0]), warned
        migrate(split, "users_db", *words(warned[0]).split("hint: ")[1].rstrip().split("; "))
        ran(split, "sync", "users")
        assert looked_at(split, "users")["warnings"] == [], made
    with split.service("users_db") as database:
        assert database.execute(rows).fetchall() == before
    ran(split, "verify", "users")


def test_dbt_names_who_loses_what_and_takes_a_model_that_reads_the_new_column(
    users_completed: Split, user: str
) -> None:
    split = users_completed
    migrate(split, "users_db", BREAKING[0][0])
    with as_users(split) as service:  # nobody's write fails
        service.execute("update users_db.users set mail = 'new@x' where id = %s", (user,))
    built = split.dbt("build", "--target", "users_db")
    assert built.returncode == 1
    said = words(built.stdout)
    assert BREAKING[0][1] in said
    assert f"hint: {BREAKING[0][2]}" in said
    assert "or have models/users_db/reverse/monolith_users.sql read what there is now" in said
    said = ran(split, "sync", "users", code=BuildFailed.exit_code)
    assert BREAKING[0][1] in said and f"hint: {BREAKING[0][2]}" in said
    ran(split, "status", "users", code=NotReady.exit_code)
    assert ran(split, "build", "users", code=BuildFailed.exit_code).count("is gone; perhaps") == 1
    migrate(split, "users_db", BREAKING[0][2])
    assert shared_email(split, user) == "new@x"


def test_reverse_model_that_reads_the_new_column_keeps_the_change(
    users_completed: Split, user: str, tmp_path: Path
) -> None:
    split, project = users_completed, altered(users_completed, tmp_path)
    migrate(split, "users_db", BREAKING[0][0])
    with as_users(split) as service:
        service.execute("update users_db.users set mail = 'new@x' where id = %s", (user,))
    reverse = "models/users_db/reverse/monolith_users.sql"
    project.write(reverse, "{{ pgsplit.reverse_of('users', {'email': 'mail'}) }}\n")
    done = project.run("build", "users")
    assert done.returncode == 0, done.stdout + done.stderr
    assert shared_email(split, user) == "new@x"
    assert looked_at(split, "users")["warnings"] == []
    with as_users(split) as service:
        service.execute("update users_db.users set mail = 'newer@x' where id = %s", (user,))
    assert shared_email(split, user) == "newer@x"
    project.write(reverse, "{{ pgsplit.reverse_of('users', {'email': 'post'}) }}\n")
    done = project.run("build", "users")
    assert done.returncode == BuildFailed.exit_code
    assert "post" in done.stderr
    assert shared_email(split, user) == "newer@x"


def test_write_never_fails_for_a_key_with_another_name(users_completed: Split, user: str) -> None:
    split = users_completed
    migrate(split, "users_db", "alter table users_db.users rename column id to key")
    with as_users(split) as service:
        service.execute("update users_db.users set email = 'new@x' where key = %s", (user,))
    said = ran(split, "sync", "users", code=BuildFailed.exit_code)
    assert "column users_db.users.id is gone; perhaps it is key now" in said
    migrate(split, "users_db", "alter table users_db.users rename column key to id")
    assert shared_email(split, user) == "new@x"


def test_tables_with_rows_of_others_are_still_built_and_looked_at(six: Split) -> None:
    """A mirror that nobody shares is no longer kept; a test that compares with it is skipped."""
    quickly = ("--no-backup", "--wait-for-write", "0")
    for service in ("communication", "files"):
        ran(six, "switch", service, *quickly)
        ran(six, "complete", service, "--no-backup")
    migrate(six, "files_db", "alter table files_db.portfolio_items rename column title to caption")
    built = six.dbt("build", "--target", "files_db")
    assert built.returncode == 0, built.stdout
    assert "files_db.portfolio_items belongs to the service's team" in built.stdout
    assert "files_db.file_metadata belongs" not in built.stdout
    migrate(six, "files_db", "alter table files_db.file_metadata rename column url to link")
    (warned,) = looked_at(six, "files")["warnings"]
    assert "column files_db.file_metadata.url is gone; perhaps it is link now" in warned
    migrate(six, "files_db", warned.split("hint:")[1])
    assert looked_at(six, "files")["warnings"] == []
    built = six.dbt("build", "--target", "communication_db")
    assert built.returncode == 0, built.stdout
    said = "notifications_are_partitioned was skipped: nobody shares notifications, so its mirror"
    assert said in words(built.stdout)
