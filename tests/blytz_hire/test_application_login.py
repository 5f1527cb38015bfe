"""The application's login owns the monolith's tables: it gets no code run, and loses no rows."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgsplit.base.errors import Busy, NotReady, SourceMismatch, TargetOccupied
from pgsplit.postgres.connect import with_database
from pgsplit.project import endpoints
from tests.support.servers import PASSWORD
from tests.support.split import Done, Split
from tests.support.stage import QUICKLY

OWNS = """
    do $$ declare name regclass; begin
        for name in
            select oid from pg_class
            where relnamespace = 'blytz_hire'::regnamespace and relkind in ('r', 'p')
        loop execute format('alter table %s owner to application', name); end loop;
    end $$
"""
FUNCTIONS = """
    create schema theirs;
    create function theirs.is_fine(given int) returns boolean language plpgsql immutable
    as 'begin return true; end';
    create function theirs.is_fine(given text) returns boolean language plpgsql immutable
    as 'begin return true; end';
"""
PAYMENTS = "blytz_hire.payments"


def application(split: Split) -> psycopg.Connection[Any]:
    """Connect as a login that owns the monolith, its database included."""
    with split.monolith() as monolith:
        monolith.execute(f"create role application login password '{PASSWORD}'")
        monolith.execute("alter database blytz_hire owner to application")
        monolith.execute("alter schema blytz_hire owner to application")
        monolith.execute(OWNS)
    url = with_database(split.server.tcp, "blytz_hire", user="application")
    return psycopg.connect(url, autocommit=True)


def words(done: Done) -> str:
    return " ".join((done.stdout + done.stderr).split())


def is_superuser(split: Split) -> bool:
    found = split.server.execute("select rolsuper from pg_roles where rolname = 'application'")
    return found == [(True,)]


@pytest.mark.parametrize(
    "made",
    [
        f"create table theirs.heir (check (theirs.is_fine(1))) inherits ({PAYMENTS})",
        f"create table theirs.heir () inherits ({PAYMENTS}); create table theirs.grandchild ()"
        " inherits (theirs.heir);"
        " create index trap on theirs.grandchild (id) where theirs.is_fine(1)",
        "create domain theirs.inner as text check (theirs.is_fine(value));"
        " create domain theirs.outer as theirs.inner;"
        f" alter table {PAYMENTS} add column trap theirs.outer",
        "create domain theirs.inner as text check (theirs.is_fine(value));"
        f" alter table {PAYMENTS} add column trap theirs.inner[]",
        "create domain theirs.inner as text check (theirs.is_fine(value));"
        " create type theirs.pair as (one theirs.inner);"
        f" alter table {PAYMENTS} add column trap theirs.pair",
        "create domain theirs.inner as int check (theirs.is_fine(value));"
        " create type theirs.span as range (subtype = theirs.inner);"
        f" alter table {PAYMENTS} add column trap theirs.span",
        "create type theirs.kind as enum ('a'); create function theirs.is_fine(theirs.kind)"
        " returns text language sql as 'select null::text';"
        " create cast (theirs.kind as text) with function theirs.is_fine(theirs.kind);"
        f" alter table {PAYMENTS} add column trap theirs.kind",
    ],
    ids=["heir", "grandchild", "domain", "array", "composite", "range", "cast"],
)
def test_code_behind_a_table_is_found(split: Split, made: str) -> None:
    with application(split) as their:
        their.execute(FUNCTIONS + made)
    done = split.runner("status")
    assert done.returncode == TargetOccupied.exit_code, words(done)
    assert " of application with the rights of whoever reads its table" in words(done)


def test_function_that_keeps_its_owners_rights_is_not_made_ours(split: Split) -> None:
    with application(split) as their:
        their.execute(FUNCTIONS)
        their.execute("alter function theirs.is_fine(int) security definer")
        their.execute(f"alter table {PAYMENTS} add constraint trap check (theirs.is_fine(1))")
    done = split.runner("status")
    fix = (
        "alter function theirs.is_fine(integer) security invoker;"
        " alter function theirs.is_fine(integer) owner to postgres;"
    )
    assert fix in words(done), words(done)
    with split.monolith() as monolith:
        monolith.execute(fix)
    assert split.runner("status").returncode == 0


@pytest.mark.parametrize(
    ("rule", "function"),
    [
        ("lo_export(1, '/tmp/trap') = 1", "lo_export(oid,text)"),
        ("pg_read_file('/etc/passwd') <> ''", "pg_read_file(text)"),
        ("pg_input_is_valid('1', 'theirs.trap')", "pg_input_is_valid(text,text)"),
    ],
)
def test_rule_that_calls_what_only_superusers_may(split: Split, rule: str, function: str) -> None:
    with application(split) as their:
        their.execute(f"alter table {PAYMENTS} add constraint trap check ({rule}) not valid")
    done = split.runner("status")
    assert done.returncode == TargetOccupied.exit_code, words(done)
    assert f"calls {function} with the rights of whoever writes a row" in words(done)
    fix = f"alter table {PAYMENTS} drop constraint trap;"
    assert fix in words(done)
    with split.monolith() as monolith:
        monolith.execute(fix)
    assert split.runner("status").returncode == 0


def test_common_rules_and_domains_are_nobodys_trap(split: Split) -> None:
    with application(split) as their:
        their.execute(
            "create domain blytz_hire.score as int check (value between 0 and 5);"
            f" alter table {PAYMENTS} add column score blytz_hire.score,"
            " add column trace uuid default gen_random_uuid(),"
            " add check (\"createdAt\" < clock_timestamp() + interval '1000 years'),"
            " add check (id ~ '.')"
        )
    done = split.runner("status")
    assert done.returncode == 0, words(done)


def test_table_that_inherits_breaks_the_stream(verified: Split) -> None:
    """Its rows are the parent's, too, and replication does not carry them."""
    with application(verified) as their:
        their.execute(f"create table blytz_hire.heir () inherits ({PAYMENTS})")
    done = verified.runner("status", "payments")
    assert f"partitions of {PAYMENTS} were attached or detached, or tables inherit" in words(done)
    fix = f"ALTER TABLE blytz_hire.heir NO INHERIT {PAYMENTS};"
    assert fix in words(done), words(done)
    done = verified.runner("switch", "payments", *QUICKLY)
    assert done.returncode in (NotReady.exit_code, SourceMismatch.exit_code), words(done)
    with verified.monolith() as monolith:
        monolith.execute(fix)
    done = verified.runner("verify", "payments")
    assert done.returncode == 0, words(done)


@pytest.mark.parametrize("kind", ["function", "domain", "file"])
def test_repair_runs_no_default_of_theirs(switched: Split, kind: str) -> None:
    with application(switched) as their:
        their.execute(
            "create function blytz_hire.trap() returns text language plpgsql as $$ begin"
            " if current_user <> 'application' then"
            " execute 'alter role application superuser'; end if; return ''; end $$;"
            f" alter table {PAYMENTS} add column trap text"
        )
        default = "pg_read_file('/etc/passwd')" if kind == "file" else "blytz_hire.trap()"
        if kind == "domain":
            their.execute("create domain blytz_hire.d as text")
            their.execute(f"alter table {PAYMENTS} alter column trap type blytz_hire.d")
            their.execute(f"alter domain blytz_hire.d set default {default}")
        else:
            their.execute(f"alter table {PAYMENTS} alter column trap set default {default}")
    with switched.monolith() as monolith:
        monolith.execute("set session_replication_role = replica")
        monolith.execute("set split.is_syncing = on")
        monolith.execute(f"delete from {PAYMENTS} where id = (select min(id) from {PAYMENTS})")
    done = switched.runner("repair", "payments", "--full")
    assert done.returncode == NotReady.exit_code, words(done)
    function = "pg_read_file(text)" if kind == "file" else "blytz_hire.trap()"
    assert f"the default of {PAYMENTS}.trap calls {function}" in words(done)
    assert not is_superuser(switched)
    fix = (
        "alter domain blytz_hire.d drop default;"
        if kind == "domain"
        else f"alter table {PAYMENTS} alter column trap drop default;"
    )
    assert fix in words(done)
    with switched.monolith() as monolith:
        monolith.execute(fix)
    done = switched.runner("repair", "payments", "--full")
    assert done.returncode == 0, words(done)
    assert "payments 1" in words(done)


def test_locked_table_keeps_no_command_waiting(
    verified: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "LONGEST_WAIT", "300ms")
    with application(verified) as their, their.transaction():
        their.execute(f"lock table {PAYMENTS} in access exclusive mode")
        assert verified.runner("status", "payments").returncode == 0
        for command in (("switch", "payments", "--dry-run"), ("switch", "payments", *QUICKLY)):
            done = verified.runner(*command)
            assert done.returncode == Busy.exit_code, words(done)
            assert "Somebody holds a lock that keeps everybody out" in words(done)
            assert "select pid, relation::regclass from pg_locks" in words(done)


def test_status_waits_for_no_lock_after_a_switch_either(
    switched: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "LONGEST_WAIT", "300ms")
    with application(switched) as their, their.transaction():
        their.execute(f"lock table {PAYMENTS} in access exclusive mode")
        done = switched.runner("status", "payments")
        assert "switched" in words(done) and "can't be" not in words(done), words(done)
        assert "Somebody holds a lock" not in words(done)


def test_trigger_with_the_fences_name_is_no_fence(verified: Split) -> None:
    with application(verified) as their:
        their.execute(
            "create function blytz_hire.trap() returns trigger language plpgsql as"
            " $$ begin return coalesce(new, old); end $$;"
            f" create trigger split_guard before insert or update or delete on {PAYMENTS}"
            " for each statement execute function blytz_hire.trap();"
            f" create trigger split_guard_rows before update on {PAYMENTS}"
            " for each row execute function blytz_hire.trap()"
        )
        done = verified.runner("switch", "payments", *QUICKLY)
        assert done.returncode == 0, words(done)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="is written in the"):
            their.execute(f"update {PAYMENTS} set status = status")


def test_trigger_that_drops_what_arrives_ends_the_proof(switched: Split) -> None:
    with application(switched) as their:
        their.execute(
            "create function blytz_hire.trap() returns trigger language plpgsql as"
            " 'begin return null; end';"
            f" create trigger trap before update on {PAYMENTS}"
            " for each row execute function blytz_hire.trap();"
            f" alter table {PAYMENTS} enable always trigger trap"
        )
        with switched.service("payments_db") as service:
            service.execute(
                "update payments_db.payments set status = 'failed'"
                " where id = (select min(id) from payments_db.payments)"
            )
        done = switched.runner("rollback", "payments")
        assert done.returncode == NotReady.exit_code, words(done)
        assert f"the trigger trap on {PAYMENTS} may have altered what arrived" in words(done)
        fix = f"alter table {PAYMENTS} enable trigger trap;"
        assert fix in words(done)
        their.execute(fix)
    done = switched.runner("rollback", "payments")
    assert "runner.py repair payments" in words(done), words(done)
    done = switched.runner("repair", "payments")
    assert "payments 1" in words(done), words(done)
    done = switched.runner("rollback", "payments")
    assert done.returncode == 0, words(done)
    assert switched.runner("verify", "payments").returncode == 0


def test_setting_that_alters_values_stops_a_switch(verified: Split) -> None:
    """Replication would write the text NULL where an array has no value."""
    with application(verified) as their:
        their.execute("alter database blytz_hire set array_nulls = off")
        done = verified.runner("switch", "payments", *QUICKLY)
        assert done.returncode == NotReady.exit_code, words(done)
        assert "by the setting array_nulls=off of database blytz_hire" in words(done)
        fix = "alter database blytz_hire reset array_nulls;"
        assert fix in words(done)
        their.execute(fix)
        done = verified.runner("switch", "payments", *QUICKLY)
        assert done.returncode == 0, words(done)


def test_abort_takes_away_rights_that_others_gave(verified: Split) -> None:
    roles = ("payments_owner", "payments_service", "payments_reader")
    with application(verified) as their:
        for role in roles:
            their.execute(
                f"grant select on blytz_hire.users to {role};"
                f" grant connect on database blytz_hire to {role};"
                f" create policy {role} on blytz_hire.badges to {role};"
                f" alter default privileges in schema blytz_hire grant select on tables to {role}"
            )
    done = verified.runner("abort", "payments")
    assert done.returncode == 0, words(done)
    left = verified.server.execute("select rolname from pg_roles where rolname ~ '^payments'")
    assert left == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            f"alter table {PAYMENTS} alter column method type text using 'theirs'",
            f"the column method of {PAYMENTS} was rewritten, which isn't replicated",
        ),
        (
            f"alter table {PAYMENTS} drop column method;"
            f" alter table {PAYMENTS} add column method text not null default 'theirs'",
            f"the column method of {PAYMENTS} is another one than before",
        ),
    ],
    ids=["rewritten", "replaced"],
)
def test_definition_that_changes_values_ends_the_proof(
    switched: Split, change: str, said: str
) -> None:
    with application(switched) as their:
        their.execute(change)
    done = switched.runner("rollback", "payments")
    assert done.returncode == NotReady.exit_code, words(done)
    assert said in words(done)
    done = switched.runner("repair", "payments")
    assert done.returncode == 0, words(done)
    done = switched.runner("rollback", "payments")
    assert done.returncode == 0, words(done)
    assert switched.runner("verify", "payments").returncode == 0


def test_columns_that_swap_their_names_end_the_proof(verified: Split) -> None:
    with application(verified) as their:
        their.execute(
            f'alter table {PAYMENTS} rename "jobId" to was;'
            f' alter table {PAYMENTS} rename "matchId" to "jobId";'
            f' alter table {PAYMENTS} rename was to "matchId"'
        )
    done = verified.runner("switch", "payments", *QUICKLY)
    assert done.returncode == NotReady.exit_code, words(done)
    assert f"of {PAYMENTS} is another one than before" in words(done)


def test_rewriting_a_table_or_tuning_a_column_proves_nothing_wrong(switched: Split) -> None:
    with application(switched) as their:
        their.execute(f"vacuum full {PAYMENTS}")
        assert switched.runner("status", "payments").returncode == 0
        their.execute(f"alter table {PAYMENTS} alter column method set statistics 200")
    done = switched.runner("rollback", "payments")
    assert done.returncode == 0, words(done)
