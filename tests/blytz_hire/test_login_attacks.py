"""What the holder of a service's login can do, and what it must not keep the runner from."""

from __future__ import annotations

import psycopg
import pytest

from demo.project import select
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from pgsplit.routing import env_file
from tests.support.split import Split

(PAYMENTS,) = select(("payments",))
PAYMENT = """
    insert into payments_db.payments (
        id, sender_id, receiver_id, stripe_payment_intent_id, status, method, amount, metadata,
        created_at, updated_at
    )
    values (%s, 'nobody', 'nobody', %s, 'paid', 'card', 1, %s, %s, %s)
"""


def as_login(split: Split, database: str = "payments_db") -> psycopg.Connection[object]:
    url = with_database(env_file.own_url(PAYMENTS, split.connections), database)
    return psycopg.connect(url, autocommit=True)


def test_what_the_login_owns_elsewhere_does_not_keep_an_abort_from_its_end(
    verified: Split,
) -> None:
    """Every login can make these, wherever PUBLIC may connect; no role that owns one is dropped."""
    verified.server.execute("grant connect on database postgres to public")
    login = as_login(verified, "postgres")
    login.execute("select lo_create(4711)")
    login.execute("alter default privileges grant select on tables to public")

    done = verified.runner("abort", "payments")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "The role payments_service is still there, but nobody can log in as it any more" in said
    assert "owner of large object 4711" in said
    with pytest.raises(psycopg.OperationalError):
        login.execute("select 1")
    found = "select rolcanlogin, rolpassword from pg_authid where rolname = 'payments_service'"
    assert verified.server.execute(found) == [(False, None)]

    # What the message names drops it, and until then it can be used again.
    assert verified.runner("provision", "payments").returncode == 0
    as_login(verified).close()
    assert verified.runner("abort", "payments").returncode == 0
    for statement in (
        'REASSIGN OWNED BY "payments_service" TO "postgres";',
        'DROP OWNED BY "payments_service";',
        'DROP ROLE "payments_service";',
    ):
        assert statement in said
        verified.server.execute(statement)
    assert verified.runner("abort", "payments").returncode == 0


@pytest.mark.parametrize("mode", ["access exclusive", "exclusive"])
def test_table_that_the_login_locks_is_named_with_who_locks_it(
    switched: Split, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may update a table may lock it, for as long as it likes."""
    monkeypatch.setattr("pgsplit.postgres.holders.PATIENCE", "100ms")
    login = as_login(switched)
    login.execute("update payments_db.payments set status = 'seen'")  # so that a sync has work
    with login.transaction():
        login.execute(f"lock table payments_db.payments in {mode} mode")
        who = f"process {login.info.backend_pid} has locked payments_db.payments"
        end = f"select pg_terminate_backend({login.info.backend_pid});"

        done = switched.runner("rollback", "payments", "--no-backup")
        assert done.returncode == NotReady.exit_code
        assert who in " ".join(done.stderr.split()), done.stderr
        assert end in done.stderr
        done = switched.runner("status")
        if mode == "access exclusive":
            assert who in " ".join(done.stdout.split()) + " ".join(done.stderr.split())
            for command in ("sync", "parity", "reconcile"):
                done = switched.runner(command, "payments")
                assert done.returncode == NotReady.exit_code
                assert who in " ".join(done.stderr.split())
    assert switched.runner("rollback", "payments", "--no-backup").returncode == 0


def test_values_that_python_does_not_know_are_shown(switched: Split) -> None:
    """PostgreSQL's times go to infinity, and its numbers have as many digits as one likes."""
    login = as_login(switched)
    times = ("infinity", "-infinity", "0044-03-15 BC", "294276-01-01")
    for number, at in enumerate(times):
        name = f"odd {number} {{{{ 7*7 }}}} %s <script>\x1b[31m"
        login.execute(PAYMENT, (name, name, '{"n": 1e6000}', at, at))
    assert switched.runner("sync", "payments").returncode == 0
    for command in (("parity", "payments"), ("parity", "payments", "--json"), ("verify",)):
        done = switched.runner(*command)
        assert done.returncode in (0, 9), done.stdout + done.stderr
        if command[0] == "parity":
            assert "odd 0 {{ 7*7 }} %s <script>\\x1b" in done.stdout.replace("\\u001b", "\\x1b")
    done = switched.runner("rollback", "payments", "--no-backup")
    assert done.returncode == 0, done.stderr
    with switched.monolith() as monolith:
        found = monolith.execute(
            """select "createdAt"::text from blytz_hire.payments where id like 'odd%' order by id"""
        ).fetchall()
    assert [at for (at,) in found] == [
        "infinity",
        "-infinity",
        "0044-03-15 00:00:00 BC",
        "294276-01-01 00:00:00",
    ]
