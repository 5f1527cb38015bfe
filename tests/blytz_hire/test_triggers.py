"""Triggers and rules that fire when replication writes a table are named by `status`."""

from __future__ import annotations

import psycopg
import pytest

from pgsplit.base.errors import NotReady
from pgsplit.replication import triggers
from tests.support.servers import oldest
from tests.support.split import Split

FUNCTION = """
    create schema theirs;
    create function theirs.touch() returns trigger language plpgsql as 'begin return new; end'
"""
TABLE = "blytz_hire.payments"


def add(split: Split, target: str, enabled: str) -> None:
    with split.connections.connect(target) as database:
        database.execute(FUNCTION)
        database.execute(
            f"create trigger touch before insert on {TABLE}"
            " for each row execute function theirs.touch()"
        )
        database.execute(f"alter table {TABLE} {enabled} trigger touch")


@pytest.mark.parametrize("enabled", ["enable always", "enable replica"])
def test_trigger_on_the_mirror_that_fires_for_replication_is_named(
    living: Split, enabled: str
) -> None:
    add(living, "payments_db", enabled)
    done = living.runner("status", "payments")
    said = f"In payments_db, trigger touch on {TABLE} fires for replication, too: it runs with"
    assert f"{said} the rights of the table's owner" in " ".join(done.stdout.split()), done.stdout
    fix = f"alter table {TABLE} enable trigger touch;"
    assert fix in " ".join(done.stdout.split())
    with living.service("payments_db") as database:
        database.execute(fix)
    assert "fires for replication" not in living.runner("status", "payments").stdout


def test_trigger_in_the_monolith_is_named_once_the_service_is_switched(switched: Split) -> None:
    add(switched, "blytz_hire", "enable always")
    done = switched.runner("status", "payments")
    said = f"In blytz_hire, trigger touch on {TABLE} fires for replication, too"
    assert said in " ".join(done.stdout.split()), done.stdout


def test_repair_does_not_let_it_fire(switched: Split) -> None:
    add(switched, "blytz_hire", "enable always")
    done = switched.runner("repair", "payments", "--full")
    assert done.returncode == NotReady.exit_code, done.stdout + done.stderr
    assert f"trigger touch on {TABLE} fires for replication, too" in done.stderr
    assert "Nothing was changed" in done.stderr
    fix = f"alter table {TABLE} enable trigger touch;"
    assert fix in done.stderr
    with switched.monolith() as monolith:
        monolith.execute(fix)
    assert switched.runner("repair", "payments", "--full").returncode == 0


def test_subscriptions_apply_rows_as_their_tables_owner(switched: Split) -> None:
    made = switched.server.execute("select subname, subrunasowner from pg_subscription order by 1")
    assert made == [("split_payments_db", False), ("split_payments_db_back", False)]


def test_rules_count_and_postgresql_15_has_a_superuser_apply() -> None:
    with oldest() as old, psycopg.connect(old.url("postgres"), autocommit=True) as database:
        database.execute(
            "create table public.t (id int); create rule away as on insert to public.t"
            " do instead nothing; alter table public.t enable always rule away"
        )
        assert triggers.warnings(database, ["public.t", "public.gone"], "shop") == [
            "In shop, rule away on t works for replication, too: it runs with the rights of the"
            " subscription's owner, a superuser.\n  hint:  alter table t enable rule away;"
        ]
