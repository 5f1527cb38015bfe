"""What somebody else owns, or may change, is never taken for this project's own."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgsplit.base.errors import TargetOccupied
from pgsplit.postgres.connect import with_database
from tests.support.servers import PASSWORD
from tests.support.split import Done, Split

# Whoever calls it would make the stranger a superuser.
TRAP = """
    create function {}.trap() returns trigger language plpgsql as
    $$ begin execute 'alter role stranger superuser'; return null; end $$
"""


@pytest.fixture
def trapped(split: Split) -> Split:
    """Give a monolith with a stranger, who may create schemas in it."""
    split.server.execute(f"create role stranger login password '{PASSWORD}'")
    split.server.execute("grant connect, create on database blytz_hire to stranger")
    return split


def as_stranger(split: Split, database: str) -> psycopg.Connection[Any]:
    url = with_database(split.server.tcp, database, user="stranger")
    return psycopg.connect(url, autocommit=True)


def execute(split: Split, database: str, statement: str) -> None:
    url = with_database(split.server.socket, database)
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute(statement)


def assert_refused(split: Split, done: Done, *said: str) -> None:
    assert done.returncode == TargetOccupied.exit_code, done.stdout + done.stderr
    for one in said:
        assert one in done.stderr, done.stderr
    assert "Nothing was changed" in done.stderr
    became = "select rolsuper from pg_roles where rolname = 'stranger'"
    assert split.server.execute(became) == [(False,)]


@pytest.mark.parametrize("command", ["provision", "status", "run", "analyze", "history"])
def test_schema_split_of_a_stranger_is_not_used(trapped: Split, command: str) -> None:
    with as_stranger(trapped, "blytz_hire") as stranger:
        stranger.execute("create schema split")
        stranger.execute(TRAP.format("split"))
        for table in ("ledger (id bigint)", "version (version integer)", "states (id text)"):
            stranger.execute(f"create table split.{table}")
            name = table.split()[0]
            stranger.execute(
                f"create trigger trap before insert or update or delete on split.{name}"
                " for each statement execute function split.trap()"
            )
    done = trapped.runner(command, *(["payments"] if command in ("provision", "run") else []))
    assert_refused(trapped, done, "the schema split belongs to stranger")
    statement = "alter schema split rename to somebodys_split;"
    assert statement in done.stderr
    execute(trapped, "blytz_hire", statement)
    assert trapped.runner("provision", "payments").returncode == 0


CHANGES = {
    "table": (
        "create table split.mine (id text); alter table split.mine owner to stranger",
        "the table split.mine belongs to stranger",
        "alter table split.mine owner to postgres;",
    ),
    "view": (
        "create view split.seen as select 1 as one; alter view split.seen owner to stranger",
        "the view split.seen belongs to stranger",
        "alter view split.seen owner to postgres;",
    ),
    "function": (
        "create function split.f(a text) returns int language sql as 'select 1';"
        " alter function split.f(text) owner to stranger",
        "the function split.f(a text) belongs to stranger",
        "alter function split.f(a text) owner to postgres;",
    ),
    "type": (
        "create type split.kind as enum ('a'); alter type split.kind owner to stranger",
        "the type split.kind belongs to stranger",
        "alter type split.kind owner to postgres;",
    ),
    "trigger": (
        "create schema traps authorization stranger;"
        + TRAP.format("traps")
        + "; alter function traps.trap() owner to stranger;"
        " create trigger trap before insert on split.heartbeats execute function traps.trap()",
        "the trigger trap on split.heartbeats calls traps.trap of stranger",
        "drop trigger trap on split.heartbeats;",
    ),
    "create": (
        "grant create on schema split to public",
        "everybody may create in the schema split",
        "revoke create on schema split from public;",
    ),
    "write": (
        "grant insert on split.heartbeats to stranger",
        "stranger may insert the table split.heartbeats",
        "revoke insert on table split.heartbeats from stranger;",
    ),
    "write a column": (
        "grant update (at) on split.heartbeats to stranger",
        "stranger may update the table split.heartbeats",
        "revoke update on table split.heartbeats from stranger;",
    ),
    "trigger privilege": (
        "grant trigger on split.heartbeats to public",
        "everybody may trigger the table split.heartbeats",
        "revoke trigger on table split.heartbeats from public;",
    ),
}


@pytest.mark.parametrize("target", ["blytz_hire", "payments_db"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_strangers_have_in_our_schema_is_named(
    landed: Split, target: str, change: str
) -> None:
    statements, said, fix = CHANGES[change]
    landed.server.execute("create role stranger")
    execute(landed, target, statements)
    done = landed.runner("build", "payments")
    assert_refused(landed, done, f"in {target} {said}", fix)
    execute(landed, target, fix)
    assert landed.runner("provision", "payments").returncode == 0


def test_database_of_a_stranger_is_refused_before_anything_runs_in_it(trapped: Split) -> None:
    trapped.server.execute("create database payments_db owner stranger")
    done = trapped.runner("provision", "payments")
    assert_refused(trapped, done, "the database payments_db belongs to stranger")
    fix = "alter database payments_db owner to postgres;"
    assert fix in done.stderr
    assert trapped.server.execute("select from pg_roles where rolname ~ '^payments'") == []
    trapped.server.execute(fix)
    assert trapped.runner("provision", "payments").returncode == 0


@pytest.mark.parametrize("schema", ["payments_db", "blytz_hire", "audit", "owner", "split"])
def test_schema_of_a_stranger_in_a_new_database_is_refused(trapped: Split, schema: str) -> None:
    trapped.server.execute("create database payments_db")
    trapped.server.execute("grant connect, create on database payments_db to stranger")
    with as_stranger(trapped, "payments_db") as stranger:
        stranger.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    done = trapped.runner("provision", "payments")
    assert_refused(trapped, done, f"the schema {schema} belongs to stranger")


@pytest.mark.parametrize("member", ["stranger", "payments_service"])
def test_member_of_the_owner_role_is_refused(landed: Split, member: str) -> None:
    landed.server.execute("create role stranger")
    landed.server.execute(f"grant payments_owner to {member}")
    done = landed.runner("build", "payments")
    assert_refused(landed, done, f"{member} is a member of payments_owner")
    fix = f"revoke payments_owner from {member};"
    assert fix in done.stderr
    landed.server.execute(fix)
    assert landed.runner("build", "payments").returncode == 0


def test_own_login_may_be_a_member_of_the_owner_role(landed: Split) -> None:
    """Such as a scheduler's, that syncs."""
    landed.server.execute("create role scheduler login")
    landed.server.execute("grant payments_owner to scheduler")
    done = landed.runner("build", "payments")
    trust = "grant scheduler to postgres;"
    assert done.returncode == TargetOccupied.exit_code
    assert f"if scheduler is one of your own logins: {trust}" in done.stderr
    landed.server.execute(trust)
    assert landed.runner("build", "payments").returncode == 0


def test_publication_of_a_stranger_is_refused(trapped: Split) -> None:
    with as_stranger(trapped, "blytz_hire") as stranger:
        stranger.execute("create publication split_payments_db")
    done = trapped.runner("land", "payments")
    assert_refused(trapped, done, "the publication split_payments_db belongs to stranger")


def test_plain_dbt_refuses_strangers_too(landed: Split) -> None:
    landed.server.execute("create role stranger")
    with landed.service("payments_db") as database:
        database.execute("grant create on schema split to stranger")
    ran = landed.dbt("build", "--target", "payments_db")
    assert ran.returncode != 0
    assert "stranger may create in the schema split" in ran.stdout
    assert "revoke create on schema split from stranger;" in ran.stdout


def test_second_operator_is_told_how_to_trust_the_first(split: Split) -> None:
    """A superuser follows a login that is none, as soon as somebody has said that it may."""
    first = f"create role first login password '{PASSWORD}' createdb createrole replication"
    split.server.execute(first)
    split.server.execute("grant connect on database postgres to first")
    split.server.execute("grant connect, create on database blytz_hire to first")
    url = with_database(split.server.tcp, "blytz_hire", user="first")
    assert split.runner("provision", "payments", BLYTZ_HIRE_URL=url).returncode == 0
    done = split.runner("status")
    assert done.returncode == TargetOccupied.exit_code
    trust = "grant first to postgres;"
    assert trust in done.stderr
    split.server.execute(trust)
    assert split.runner("status").returncode == 0


def test_role_of_an_application_is_no_operator(split: Split) -> None:
    """To publish an application's tables, a login has to be a member of its role."""
    mover = f"create role mover login password '{PASSWORD}' createdb createrole replication"
    for statement in (mover, "create role application", "grant application to mover"):
        split.server.execute(statement)
    with split.monolith() as monolith:
        monolith.execute("grant connect, create on database blytz_hire to application, mover")
        monolith.execute("alter table blytz_hire.users owner to application")
        monolith.execute("create schema split authorization application")
    url = with_database(split.server.tcp, "blytz_hire", user="mover")
    done = split.runner("provision", "payments", BLYTZ_HIRE_URL=url)
    assert done.returncode == TargetOccupied.exit_code
    assert "the schema split belongs to application" in done.stderr


@pytest.mark.parametrize(
    "made",
    [
        "create index trap on blytz_hire.payments (id) where theirs.trap(1)",
        "create index trap on blytz_hire.payments (theirs.trap(1))",
        "create index trap on blytz_hire.payments (id) where 1 operator(theirs.@@) 1",
        "alter table blytz_hire.payments add constraint trap check (theirs.trap(1)) not valid",
        "create statistics trap on (theirs.trap(1)), id from blytz_hire.payments",
        "alter table blytz_hire.payments add column trap boolean"
        " generated always as (theirs.trap(1)) stored",
        "create domain public.d as int check (theirs.trap(value));"
        " alter table blytz_hire.payments add column trap public.d",
    ],
)
def test_function_that_a_reader_would_run_is_named(split: Split, made: str) -> None:
    """PostgreSQL works out such a function's constants while it plans a query of the table."""
    split.server.execute("create role stranger")
    execute(
        split,
        "blytz_hire",
        "create schema theirs authorization stranger;"
        " create function theirs.trap(a int) returns boolean language sql immutable"
        " as 'select true';"
        " create function theirs.same(a int, b int) returns boolean language sql immutable"
        " as 'select true';"
        " create operator theirs.@@ (leftarg = int, rightarg = int, function = theirs.same);"
        f" {made};"
        " alter function theirs.trap(int) owner to stranger;"
        " alter function theirs.same(int, int) owner to stranger",
    )
    done = split.runner("provision", "payments")
    which = "same(integer,integer)" if "@@" in made else "trap(integer)"
    assert_refused(
        split, done, f"calls theirs.{which} of stranger with the rights of whoever reads"
    )
    fix = f"alter function theirs.{which} owner to postgres;"
    assert fix in done.stderr
    execute(split, "blytz_hire", fix)
    assert split.runner("provision", "payments").returncode == 0


@pytest.mark.parametrize("command", ["analyze", "verify", "parity", "status", "sync"])
def test_view_in_a_table_s_place_is_not_read(living: Split, command: str) -> None:
    living.server.execute("create role stranger")
    execute(
        living,
        "blytz_hire",
        "grant create on schema blytz_hire to stranger;"
        " create function blytz_hire.trap() returns boolean language plpgsql as $$ begin"
        " if current_user = 'postgres' then execute 'alter role stranger superuser'; end if;"
        " return true; end $$;"
        " alter table blytz_hire.payments rename to payments_before;"
        " create view blytz_hire.payments as select * from blytz_hire.payments_before"
        " where blytz_hire.trap()",
    )
    living.runner(command, *(["payments"] if command != "analyze" else []))
    became = "select rolsuper from pg_roles where rolname = 'stranger'"
    assert living.server.execute(became) == [(False,)]
