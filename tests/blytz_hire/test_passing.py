"""Nobody passes the write fence, or the capture, by saying that it syncs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql

from demo.project import ROOT
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import connect, with_database
from pgsplit.replication.fence import Fence
from pgsplit.state.schema import prepare_monolith
from tests.support import state_0
from tests.support.servers import PASSWORD, Server, newest, oldest
from tests.support.split import Split
from tests.support.stage import NOTHING, Stage
from tests.support.switching import (
    NEW_PAYMENT,
    PAYMENTS,
    Side,
    as_service,
    assert_alike,
    both_ends,
    one,
    ran,
)

SAYS_IT_SYNCS = ("on", "true", "1", "ON")
OLD_CONDITION = "when (current_setting('split.is_syncing', true) is distinct from 'on')"


@contextmanager
def application(split: Split, database: str) -> Iterator[psycopg.Connection[Any]]:
    """Log in to the monolith as its applications do: with rights on the tables, and no others."""
    with split.service(database) as monolith:
        monolith.execute(f"create role application login password '{PASSWORD}'")
        monolith.execute(f"grant connect on database {database} to application")
        monolith.execute("grant usage on schema blytz_hire to application")
        monolith.execute(
            "grant select, insert, update, delete, truncate on all tables in schema blytz_hire"
            " to application"
        )
    url = with_database(split.connections.urls[database], database, user="application")
    with psycopg.connect(url, password=PASSWORD, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("value", SAYS_IT_SYNCS)
def test_service_that_says_it_syncs_is_captured(switched: Split, value: str) -> None:
    with as_service(switched) as service:
        service.execute("select set_config('split.is_syncing', %s, false)", (value,))
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
        service.execute("update payments_db.payments set amount = 9 where id = 'new'")
    with switched.service("payments_db") as database:
        assert one(database, "select count(*) from split.changes") > 0
    assert_alike(switched)
    with switched.monolith() as monolith:
        assert one(monolith, "select amount from blytz_hire.payments where id = 'new'") == 900


def test_cascades_and_functions_of_the_owner_do_not_pass_for_a_sync(switched: Split) -> None:
    """They run as the tables' owner, whoever has logged in."""
    with switched.service("payments_db") as database:
        database.execute("set role payments_owner")
        database.execute(
            "alter table payments_db.refunds drop constraint refunds_payment_id_fkey,"
            " add constraint goes_with_its_payment"
            " foreign key (payment_id) references payments_db.payments on delete cascade"
        )
        database.execute(
            "create function payments_db.rename(one text) returns void language sql"
            " security definer set search_path = pg_catalog, pg_temp as"
            " $$ update payments_db.payments set method = 'cash' where id = one $$"
        )
        database.execute("grant execute on function payments_db.rename to payments_service")
    with as_service(switched) as service:
        for name in ("kept", "gone"):
            service.execute(NEW_PAYMENT[Side.SERVICE], {"id": name})
        service.execute(
            "insert into payments_db.refunds (payment_id, reason, amount) values ('gone', 'x', 1)"
        )
        ran(switched, "sync", "payments")
        service.execute("set split.is_syncing = on")
        service.execute("select payments_db.rename('kept')")
        service.execute("delete from payments_db.payments where id = 'gone'")
        assert (
            one(service, "select count(*) from payments_db.refunds where payment_id = 'gone'") == 0
        )
    assert_alike(switched)
    with switched.monolith() as monolith:
        found = monolith.execute(
            "select id, method from blytz_hire.payments where id in ('kept', 'gone')"
        ).fetchall()
    assert found == [("kept", "cash")]


def test_owner_role_writes_are_captured(switched: Split) -> None:
    with switched.service("payments_db") as database:
        database.execute("set role payments_owner")
        database.execute(NEW_PAYMENT[Side.SERVICE], {"id": "by a migration"})
    assert_alike(switched)


def test_application_that_says_it_syncs_does_not_pass_the_closed_fence(switched: Split) -> None:
    with switched.monolith() as monolith:
        # Runs as its owner, who owns the tables as well.
        monolith.execute("create role shop nologin")
        monolith.execute("grant usage, create on schema blytz_hire to shop")
        for table in ("payments", "reviews"):
            monolith.execute(f"alter table blytz_hire.{table} owner to shop")
        monolith.execute(
            "create function blytz_hire.pay() returns void language sql security definer"
            " set search_path = pg_catalog, pg_temp"
            " as $$ update blytz_hire.payments set status = 'late' $$"
        )
        monolith.execute("alter function blytz_hire.pay() owner to shop")
        before = one(
            monolith,
            "select md5(string_agg(p::text, '' order by id)) from blytz_hire.payments as p",
        )
    with application(switched, switched.connections.monolith) as client:
        for value in SAYS_IT_SYNCS:
            client.execute("select set_config('split.is_syncing', %s, false)", (value,))
            for statement in (
                "update blytz_hire.payments set status = 'late'",
                "delete from blytz_hire.payments",
                "truncate blytz_hire.payments cascade",
                "select blytz_hire.pay()",
            ):
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="is written in"):
                    client.execute(statement)
    with switched.monolith() as monolith:
        after = one(
            monolith,
            "select md5(string_agg(p::text, '' order by id)) from blytz_hire.payments as p",
        )
    assert after == before


def test_sync_refuses_a_caller_whose_writes_would_be_captured(switched: Split) -> None:
    call = "begin isolation level repeatable read; select * from split.sync(); commit"
    with switched.service("payments_db") as database:
        for statement in (
            f"create role scheduler login password '{PASSWORD}'",
            "grant connect on database payments_db to scheduler",
            "grant usage on schema split to scheduler",
            "grant execute on function split.sync() to scheduler",
        ):
            database.execute(statement)
        here = switched.connections.urls["payments_db"]
        url = with_database(here, "payments_db", user="scheduler")
        with psycopg.connect(url, password=PASSWORD, autocommit=True) as scheduler:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
                scheduler.execute(call)
            scheduler.execute("rollback")
            assert "scheduler may not sync: it is no member of payments_owner" in str(refused.value)
            hint = refused.value.diag.message_hint
            assert hint
            database.execute(hint.encode())
            scheduler.execute(call)


def test_service_login_has_no_right_that_leads_past_the_triggers(switched: Split) -> None:
    with as_service(switched) as service:
        for statement in (
            "set session_replication_role = replica",
            "set role payments_owner",
            "set session authorization payments_owner",
            "alter table payments_db.payments disable trigger all",
            "drop trigger split_capture on payments_db.payments",
            "create trigger mine before insert on payments_db.payments for each row"
            " execute function suppress_redundant_updates_trigger()",
            "create rule mine as on insert to payments_db.payments do instead nothing",
            "create function payments_db.mine() returns int language sql as 'select 1'",
            "create temporary table payments (id text)",
            "create schema mine",
            "truncate payments_db.payments cascade",
            "insert into split.changes values ('payments_db.payments', 'id', null, null)",
            "select split.unless_syncing()",
            "select split.renew_triggers()",
            "select split.prepare_switch('payments_service')",
            "copy payments_db.payments from program 'true'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)
        rights = "select array_agg(distinct privilege_type::text order by privilege_type::text)"
        found = one(
            service, rights + " from information_schema.table_privileges where grantee = user"
        )
        assert found == ["DELETE", "INSERT", "SELECT", "UPDATE"]


def test_only_one_place_trusts_a_setting_that_anybody_can_set() -> None:
    """Others may read settings of PostgreSQL, and those that its own session has just set."""
    known = {
        "transaction_isolation", "transaction_read_only", "server_version_num",
        "split.database", "split.mirror", "split.read_from",
        "split.followed", "split.goes_nowhere", "split.service_schema", "split.login",
        "split.schemas", "split.distribution", "split.took", "split.patience",
        "cron.database_name",
    }  # fmt: skip
    found: dict[str, set[str]] = {}
    for path in (ROOT / "pgsplit").rglob("*"):
        if path.suffix in (".sql", ".py"):
            text = path.read_text()
            for name in re.findall(r"current_setting\(\s*'+([\w.]+)'+", text):
                if name not in known and "." in name:
                    found.setdefault(name, set()).add(path.name)
    assert found == {"split.is_syncing": {"passing.sql"}}


@contextmanager
def shop(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """Give a small monolith with a partitioned table that references another one."""
    server.execute("create database shop")
    with connect(with_database(server.socket, "shop"), "shop") as monolith:
        prepare_monolith(monolith)
        for statement in (
            f"create role application login password '{PASSWORD}'",
            "create schema blytz_hire",
            "create table blytz_hire.users (id text primary key)",
            "create table blytz_hire.payments (id text primary key, by text references"
            " blytz_hire.users on delete cascade, status text) partition by hash (id)",
            "create table blytz_hire.half partition of blytz_hire.payments for values"
            " with (modulus 1, remainder 0)",
            "insert into blytz_hire.users values ('a')",
            "insert into blytz_hire.payments values ('p', 'a')",
            "grant usage on schema blytz_hire to application",
            "grant all on all tables in schema blytz_hire to application",
        ):
            monolith.execute(statement)
        yield monolith


@pytest.mark.parametrize("run", [oldest, newest], ids=["15", "newest"])
def test_fence_holds_on_each_version_and_renews_its_old_triggers(run: Any, tmp_path: Any) -> None:
    started = run(tmp_path / "server") if run is newest else run()
    with started as cluster, shop(cluster.server) as monolith:
        fence = Fence(PAYMENTS, monolith, "blytz_hire", ["payments"])
        fence.prepare()
        fence.close("elsewhere", 1, 60)
        for name, moment in (
            ("split_guard", "insert or update or delete or truncate on {} for each statement"),
            ("split_guard_rows", "insert or update or delete on {} for each row"),
        ):
            monolith.execute(
                sql.SQL(
                    f"create or replace trigger {name} before {moment} {OLD_CONDITION}"
                    " execute function split.guard('payments_db', 'payments')"
                ).format(sql.SQL("blytz_hire.payments"))
            )
        url = with_database(cluster.server.tcp, "shop", user="application", password=PASSWORD)
        with connect(url, "shop") as client:
            client.execute("set split.is_syncing = on")
            client.execute("update blytz_hire.payments set status = 'passes'")
            assert fence.outdated_tables() == ["payments"]
            monolith.execute("alter table blytz_hire.payments disable trigger split_guard")
            fence.renew_triggers()
            assert fence.outdated_tables() == []
            assert monolith.execute(
                "select tgname, tgenabled from pg_trigger where tgname like 'split%' and tgrelid ="
                " 'blytz_hire.payments'::regclass order by 1"
            ).fetchall() == [("split_guard", "D"), ("split_guard_rows", "O")]
            for statement in (
                "update blytz_hire.payments set status = 'late'",
                "update blytz_hire.half set status = 'late'",
                "insert into blytz_hire.payments values ('p') on conflict (id) do update"
                " set status = 'late'",
                "delete from blytz_hire.users",
            ):
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    client.execute(statement)
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                with client.cursor() as cursor, cursor.copy("copy blytz_hire.payments from stdin"):
                    pass  # the rows' triggers
                client.execute("insert into blytz_hire.half values ('q')")
        monolith.execute("set split.is_syncing = on")
        assert monolith.execute("update blytz_hire.payments set status = 'repaired'").rowcount == 1


def test_triggers_of_an_earlier_version_are_noted_and_renewed_by_a_build(stage: Stage) -> None:
    split = stage.enter(NOTHING)
    state_0.restore(split, "switched")
    passes = "update blytz_hire.payments set status = status"
    ran(split, "sync", "payments")
    said = ran(split, "status", "payments")
    assert "on blytz_hire.payments, blytz_hire.reviews let pass every login" in said
    assert "on payments_db.payments, payments_db.refunds" in said or "on payments_db." in said
    assert "hint: runner.py build payments" in said
    with application(split, split.connections.monolith) as client:
        client.execute("set split.is_syncing = on")
        client.execute(passes)
        with as_service(split) as writer, writer.transaction():
            writer.execute("update payments_db.payments set status = status")
            done = split.runner("build", "payments")
            assert done.returncode == NotReady.exit_code, done.stdout + done.stderr
            assert "somebody keeps writing its tables: process" in " ".join(done.stderr.split())
        ran(split, "build", "payments")
        assert "let pass" not in ran(split, "status", "payments")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            client.execute(passes)
    with as_service(split) as service:
        service.execute("set split.is_syncing = on")
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    assert_alike(split)
    with both_ends(split) as session:
        assert session.monolith_fence.outdated() == session.service_fence.outdated() == ""
