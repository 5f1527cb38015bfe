"""Looking up a shared user: from the copy, or from the service that owns the users."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from demo.project import MIRROR_SCHEMA, select
from pgsplit.observe.status import status
from pgsplit.postgres.connect import with_database
from pgsplit.replication.sharing import read_through
from pgsplit.replication.sync import sync
from pgsplit.state.ledger import open_ledger
from tests.support.servers import PASSWORD
from tests.support.sharing import add_users, login
from tests.support.split import Split

PAYMENTS, USERS = select(("payments", "users"))
GET = "select id, email, name, deleted_at is not null from payments_db.get_shared_user(%s)"
NOBODY = (None, None, None, False)


def get(split: Split, user: str | None) -> tuple[Any, ...] | None:
    """Look up a user as the service does."""
    with login(split, PAYMENTS) as service:
        return service.execute(GET, (user,)).fetchone()


def counts(split: Split) -> tuple[int, int]:
    """Give hits and misses, as `status` shows them."""
    found = status(PAYMENTS, split.connections)
    return found.caches["user"]


@contextmanager
def counted(split: Split, hits: int, misses: int) -> Iterator[None]:
    """Check that the block counts this many hits and this many misses."""
    before = counts(split)
    yield
    after = counts(split)
    assert (after[0] - before[0], after[1] - before[1]) == (hits, misses)


@contextmanager
def down(split: Split) -> Iterator[None]:
    """Make the owner unreachable: its database refuses connections."""
    split.server.execute("alter database blytz_hire allow_connections false")
    try:
        yield
    finally:
        split.server.execute("alter database blytz_hire allow_connections true")


def test_user_in_the_copy_is_a_cache_hit(living: Split) -> None:
    add_users(living, "copied", with_profiles=True)
    sync(PAYMENTS, living.connections)
    with counted(living, 3, 0):
        for _ in range(3):
            assert get(living, "copied") == ("copied", "copied@example.com", "Ann", False)
    with counted(living, 100, 0), login(living, PAYMENTS) as service, service.transaction():
        for _ in range(100):
            service.execute(GET, ("copied",))
        # Without a transaction's id there is nothing that a commit would wait for.
        assert service.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)
    shown = living.runner("status", "payments").stdout
    as_json = json.loads(living.runner("status", "payments", "--json").stdout)["services"][
        "payments_db"
    ]
    hits, misses = counts(living)
    assert (as_json["user_cache_hits"], as_json["user_cache_misses"]) == (hits, misses)
    assert (
        f"lookups of shared users: {hits:,} known here, {misses:,} fetched from their owner"
        in " ".join(shown.split())
    )


def test_user_not_in_the_copy_yet_is_fetched_once_and_cached(living: Split) -> None:
    add_users(living, "early", with_profiles=True)
    with counted(living, 2, 1):
        for _ in range(3):
            assert get(living, "early") == ("early", "early@example.com", "Ann", False)
    with living.monolith() as monolith:
        monolith.execute("update blytz_hire.users set email = 'other' where id = 'early'")
    assert get(living, "early") == ("early", "early@example.com", "Ann", False)
    sync(PAYMENTS, living.connections)  # the copy takes over, with its event
    with counted(living, 1, 0):
        assert get(living, "early") == ("early", "other", "Ann", False)
    with living.service("payments_db") as database:
        row = database.execute("select count(*) from split.fetched_users").fetchone()
    assert row == (0,)


def test_user_fetched_too_long_ago_is_fetched_again(living: Split) -> None:
    add_users(living, "aged")
    get(living, "aged")
    with living.service("payments_db") as database, living.monolith() as monolith:
        database.execute("update split.fetched_users set fetched_at = now() - interval '2 minutes'")
        monolith.execute("update blytz_hire.users set email = 'newer' where id = 'aged'")
    with counted(living, 1, 1):
        assert get(living, "aged") == ("aged", "newer", None, False)
        assert get(living, "aged") == ("aged", "newer", None, False)
    sync(PAYMENTS, living.connections)


@pytest.mark.parametrize("user", ["nobody", "", "'; drop table users", None])
def test_unknown_user_is_always_a_cache_miss_with_an_empty_result(
    living: Split, user: str | None
) -> None:
    with counted(living, 0, 2):
        assert get(living, user) == NOBODY
        assert get(living, user) == NOBODY


def test_deleted_user_is_returned_with_the_last_known_values(living: Split) -> None:
    add_users(living, "deleted")
    sync(PAYMENTS, living.connections)
    with living.monolith() as monolith:
        monolith.execute("delete from blytz_hire.users where id = 'deleted'")
    assert get(living, "deleted") == ("deleted", "deleted@example.com", None, False)
    sync(PAYMENTS, living.connections)
    with counted(living, 1, 0):
        assert get(living, "deleted") == ("deleted", "deleted@example.com", None, True)


def test_users_in_the_copy_are_found_while_the_owner_is_down(living: Split) -> None:
    add_users(living, "steady")
    sync(PAYMENTS, living.connections)
    add_users(living, "fetched", "missed")
    with login(living, PAYMENTS) as service:
        service.execute(GET, ("fetched",))
        # The session that fetched has a connection of its own to the owner, which is cut.
        with down(living):
            living.server.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where usename = 'payments_reader'"
            )
            for user in ("steady", "fetched"):
                row = service.execute(GET, (user,)).fetchone()
                assert row is not None
                assert row[0] == user
            for user in ("missed", "nobody"):
                with pytest.raises(psycopg.errors.ConnectionException) as caught:
                    service.execute(GET, (user,))
                said = str(caught.value.diag.message_primary)
                assert f"User {user} is not in the copy, and its owner can't be asked" in said
                hint = str(caught.value.diag.message_hint)
                assert "users that are in the copy are answered all the same" in hint
        row = service.execute(GET, ("missed",)).fetchone()
        assert row is not None
        assert row[0] == "missed"
    sync(PAYMENTS, living.connections)


@pytest.mark.slow
def test_lookup_times_out_when_the_owner_does_not_answer(living: Split) -> None:
    with living.monolith() as holder, holder.transaction():
        holder.execute("lock table blytz_hire.users in access exclusive mode")
        with pytest.raises(psycopg.errors.ConnectionException) as caught:
            get(living, "waited for")
        said = str(caught.value.diag.message_primary)
        assert "its owner can't be asked: canceling statement due to statement timeout" in said


def test_read_only_transaction_can_look_up_users(living: Split) -> None:
    add_users(living, "read only")
    with counted(living, 0, 0), login(living, PAYMENTS) as service:
        service.execute("set default_transaction_read_only = on")
        for _ in range(2):
            row = service.execute(GET, ("read only",)).fetchone()
            assert row is not None
            assert row[0] == "read only"
        sync(PAYMENTS, living.connections)
        row = service.execute(GET, ("read only",)).fetchone()
        assert row is not None
        assert row[0] == "read only"


def test_rolled_back_lookup_is_counted_but_not_cached(living: Split) -> None:
    add_users(living, "undone")
    with counted(living, 0, 2), login(living, PAYMENTS) as service:
        for _ in range(2):
            with service.transaction(force_rollback=True):
                row = service.execute(GET, ("undone",)).fetchone()
                assert row is not None
                assert row[0] == "undone"
    sync(PAYMENTS, living.connections)


def test_owner_is_queried_for_one_user_only(living: Split) -> None:
    """The owner joins all three tables, and the query carries the id."""
    with living.service("payments_db") as database:
        definition = database.execute(
            "select definition from split.service_tables where table_name = 'shared_users'"
        ).fetchall()[0][0]
        asked = re.sub(rf'"?{MIRROR_SCHEMA}"?\.', "owner.", definition)
        database.execute("set plan_cache_mode = force_generic_plan")
        database.execute(
            f"prepare ask (text) as select * from ({asked}) as found where found.id = $1"
        )
        plan = "\n".join(
            line for (line,) in database.execute("explain verbose execute ask ('u')").fetchall()
        )
    assert plan.count("Foreign Scan") == 1
    assert "Relations: ((owner.users) LEFT JOIN (owner.va_profiles))" in plan
    (remote,) = re.findall("Remote SQL: (.*)", plan)
    assert re.search(r"WHERE \(\(\w+\.id = \$1::text\)\)$", remote)


def reader(split: Split, database: str) -> psycopg.Connection[Any]:
    """Log in as the reader role, with the password that only the service's owner role may see."""
    with split.service("payments_db") as owner:
        row = owner.execute(
            "select substr(one, 10) from pg_user_mappings, unnest(umoptions) as one"
            " where srvname = 'owner_users_db' and one like 'password=%'"
        ).fetchone()
    assert row is not None
    url = with_database(split.server.tcp, database, user="payments_reader", password=row[0])
    return psycopg.connect(url, autocommit=True)


def readable(split: Split) -> dict[str, set[str]]:
    """Give the columns that the reader may select of the monolith's tables."""
    with reader(split, "blytz_hire") as connection:
        rows = connection.execute(
            "select relname, attname from pg_class inner join pg_attribute on attrelid ="
            " pg_class.oid where relkind in ('r', 'v', 'm', 'p', 'S', 'f') and attnum > 0"
            " and not attisdropped and relnamespace::regnamespace::text !~ '^pg_|^information_'"
            " and (has_column_privilege(pg_class.oid, attnum, 'select') or"
            " has_table_privilege(pg_class.oid, 'insert, update, delete, truncate, references'))"
        ).fetchall()
    found: dict[str, set[str]] = {}
    for table, column in rows:
        found.setdefault(table, set()).add(column)
    return found


def test_reader_role_can_read_only_the_shared_columns(living: Split) -> None:
    landed = PAYMENTS.landed_tables
    assert readable(living) == {
        table: set(landed[table]) for table in ("users", "va_profiles", "companies")
    }
    with reader(living, "blytz_hire") as asks:
        assert asks.execute("select id, email, role from blytz_hire.users limit 1").fetchone()
        for statement in (
            "select preferences from blytz_hire.users",
            "select * from blytz_hire.va_profiles",
            "select id from blytz_hire.payments",
            "select * from split.ledger",
            "update blytz_hire.users set role = 'admin'",
            "create table blytz_hire.mine (id text)",
            "create schema mine",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                asks.execute(statement)
        row = asks.execute(
            "select rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls"
            " or exists (select from pg_auth_members where member = pg_roles.oid)"
            " from pg_roles where rolname = current_user"
        ).fetchone()
        assert row == (False,)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        reader(living, "payments_db")


def test_service_cannot_query_the_owner_directly(living: Split) -> None:
    """Only the function can use the connection to the owner and its password."""
    with login(living, PAYMENTS) as service:
        for statement in (
            "select * from owner.users",
            "select * from split.fetched_users",
            "select nextval('split.user_cache_hits')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)
        row = service.execute(
            "select bool_and(umoptions is null) from pg_user_mappings"
            " where srvname = 'owner_users_db'"
        ).fetchone()
        assert row == (True,)
    assert PASSWORD not in str(row)


def test_broken_connection_to_the_owner_is_repaired_by_reconnecting(living: Split) -> None:
    with living.monolith() as monolith:
        monolith.execute("alter role payments_reader password 'another'")
    add_users(living, "locked out")
    with login(living, PAYMENTS) as service, living.service("payments_db") as database:
        # Over TCP, where a password is asked for.
        found = psycopg.conninfo.conninfo_to_dict(living.server.tcp)
        database.execute(
            f"alter server owner_users_db options (set host '{found['host']}', set port"
            f" '{found['port']}')"
        )
        with pytest.raises(psycopg.errors.ConnectionException) as caught:
            service.execute(GET, ("locked out",))
        assert "password authentication failed" in str(caught.value)
        assert "If the owner is up: runner.py build payments" in str(caught.value)
        for _ in range(2):
            with open_ledger(living.connections) as ledger:
                said = read_through.try_to_connect(PAYMENTS, living.connections, ledger)
            assert said == ""
        row = service.execute(GET, ("locked out",)).fetchone()
        assert row is not None
        assert row[0] == "locked out"
    sync(PAYMENTS, living.connections)


@pytest.mark.slow
def test_reader_role_of_others_is_left_alone(living: Split) -> None:
    with living.monolith() as monolith:
        monolith.execute("comment on role payments_reader is 'Reads for the payroll.'")
        ran = living.runner("build", "payments")
        assert ran.returncode == 4
        assert "There is a role payments_reader that this project did not make" in " ".join(
            ran.stderr.split()
        )
        monolith.execute(f"comment on role payments_reader is '{PAYMENTS.mark}'")
    assert living.runner("build", "payments").returncode == 0


def test_abort_drops_the_reader_role(living: Split) -> None:
    """It comes last in this file, since the role stays dropped."""
    ran = living.runner("abort", "payments")
    assert ran.returncode == 0, ran.stderr
    assert "role payments_reader" in ran.stdout
    assert living.server.execute("select from pg_roles where rolname = 'payments_reader'") == []
