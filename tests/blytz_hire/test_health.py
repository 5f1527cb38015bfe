"""`health`: everything at once, by a login that can't write, whatever is down, frozen or paused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import psutil
import psycopg
import pytest

from demo.project import MONOLITH, PROJECT, ROOT
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from pgsplit.state.ledger import open_ledger
from tests.support import schemas
from tests.support.servers import PASSWORD, free_port
from tests.support.serving import application, get, served
from tests.support.split import Split
from tests.support.switching import one, ran, words
from tests.support.waiting import until

ILL = NotReady.exit_code
BACK = "split_payments_db_back"


def documented_grants() -> list[str]:
    """Give the SQL of docs/health.md: for a server, the monolith, and a service's database."""
    return re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "health.md").read_text(), re.DOTALL)


def as_watcher(split: Split) -> Split:
    """Give the same databases by the login that docs/health.md makes; it may read nothing yet."""
    with split.monolith() as monolith:
        monolith.execute(documented_grants()[0].replace("choose one", PASSWORD.replace("'", "''")))
        for database in (MONOLITH, "payments_db"):
            monolith.execute(f"grant connect on database {database} to watcher")
    url = with_database(split.server.tcp, MONOLITH, user="watcher", password=PASSWORD)
    environ = {**split.environ, "BLYTZ_HIRE_URL": url}
    return replace(split, connections=resolve(PROJECT, environ), environ=environ)


def looked(split: Split, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run `health --json`; give the document, which has to be as described."""
    done = split.runner("health", "--json", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return schemas.validate(done.stdout)


def test_login_with_few_rights_sees_everything_and_writes_nothing(switched: Split) -> None:
    watcher = as_watcher(switched)
    _, of_monolith, of_service = documented_grants()
    said = ran(watcher, "health", code=ILL)
    assert "✗ blytz_hire: watcher may not read split.version" in said
    with switched.monolith() as monolith:
        monolith.execute(of_monolith)
    problems = looked(watcher, code=ILL)["services"]["payments_db"]["problems"]
    with switched.service("payments_db") as payments:
        payments.execute(problems[0].partition("hint:")[2])  # the hint works as it is
        notes = looked(watcher)["notes"]
        assert [one.partition(": GRANT")[0] for one in notes] == [
            "blytz_hire: watcher may not read split.gates",
            "payments_db: watcher may not read split.gates",
            "payments_db: watcher may not read split.parity_tests",
        ]
        payments.execute(f"revoke all on all tables in schema split from watcher; {of_service}")
        for note in notes[1:]:
            payments.execute(note.partition(" split.")[2].partition(": ")[2])
    with switched.monolith() as monolith:
        monolith.execute(notes[0].partition("gates: ")[2])
        before = one(monolith, "select jsonb_agg(h) from split.heartbeats as h")
        # Neither the lock of a runner at work nor a table that somebody alters keeps it waiting.
        with open_ledger(switched.connections):
            found = looked(watcher)
        assert one(monolith, "select jsonb_agg(h) from split.heartbeats as h") == before
    assert found["healthy"] and not found["notes"]
    payments_db = found["services"]["payments_db"]
    assert payments_db["state"] == "switched" and payments_db["proofs"]["is_proven"]
    assert payments_db["fences_closed"] == {"monolith": True, "service": False}
    assert {name: one["status"] for name, one in payments_db["streams"].items()} == {
        "split_payments_db": "follows",
        BACK: "follows",
    }
    assert found["services"]["users_db"]["state"] == "absent"
    # The rights of a watcher are nobody's concern.
    assert "warning" not in ran(switched, "status", "payments")
    with (
        psycopg.connect(watcher.connections.urls["payments_db"]) as payments,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        payments.execute("update split.service set synced_at = null")


def test_each_thing_that_is_wrong_is_said_with_what_fixes_it(switched: Split) -> None:
    with application() as app:
        split = replace(switched, environ={**switched.environ, "PAYMENTS_HEALTH_URL": app.url})
        said = ran(split, "health")
        assert "✓ payments_db switched, page 200, follows, lag" in said
        app.says = (200, '{"status": "DOWN"}')
        assert "its status is 'DOWN', and not one of ok, pass" in ran(split, "health", code=ILL)
        app.says = (503, "no database")
        said = ran(split, "health", code=ILL)
        assert f"it says 503 Service Unavailable: no database. hint: curl -i {app.url}" in said
    assert "refused" in ran(split, "health", "payments", code=ILL)
    with_login = {"PAYMENTS_HEALTH_URL": "http://me:secret@localhost/"}
    done = switched.runner("health", **with_login)
    assert done.returncode == ILL and "secret" not in done.stdout + done.stderr
    assert "PAYMENTS_HEALTH_URL is no URL of a page" in done.stderr

    with switched.monolith() as monolith:
        monolith.execute(f"alter subscription {BACK} disable")
        said = ran(switched, "health", code=ILL)
        hint = f"runner.py psql monolith -c 'alter subscription {BACK} enable'"
        assert (
            f"Somebody has paused replication from payments_db to {MONOLITH}. hint: {hint}" in said
        )
        assert "✗ payments_db switched, follows/paused" in said
        monolith.execute(f"alter subscription {BACK} enable")
        until(lambda: looked_well(switched))

        # Changes of a switched service that nobody applies.
        with switched.service("payments_db") as payments:
            payments.execute("update payments_db.payments set status = status || '!'")
            payments.execute("update split.service set synced_at = now() - interval '1 hour'")
        said = ran(switched, "health", code=ILL)
        assert "no follower of payments_db is running. hint: runner.py sync payments" in said
        ran(switched, "sync", "payments")
        assert looked_well(switched)

        # Writers are blocked on both sides, as after a runner that was killed at its worst moment.
        with switched.service("payments_db") as payments:
            payments.execute("update split.gates set is_open = false, opens_at = null")
            at = 'update split.ledger set detail = detail || \'{"closed_at": "2026-01-01T00:00Z"}\''
            monolith.execute(f"{at} where step = 'switch: close'")
            assert "have been blocked on both sides for" in ran(switched, "health", code=ILL)
            payments.execute("update split.gates set is_open = true")
        with open_ledger(switched.connections):
            monolith.execute(
                "insert into split.ledger (service, step, intent)"
                " values ('payments_db', 'rollback', '{}')"
            )
            assert "rollback under way" in ran(switched, "health")
        said = ran(switched, "health", code=ILL)
        assert "The last rollback of payments_db was interrupted." in said
        assert "hint: runner.py resume" in said


def test_service_that_is_only_landed_is_well_though_its_stream_rests(landed: Split) -> None:
    (stream,) = looked(landed)["services"]["payments_db"]["streams"].values()
    assert (stream["status"], stream["lag_seconds"]) == ("paused", None)
    assert stream["wal_kept_bytes"] is not None
    # As after a landing that was interrupted: nobody reads its slot.
    with landed.monolith() as monolith:
        monolith.execute("update split.states set state = 'provisioned'")
    assert "A landing of payments_db was interrupted" in ran(landed, "health", code=ILL)


def looked_well(split: Split) -> bool:
    return bool(json.loads(split.runner("health", "--json").stdout)["healthy"])


@pytest.mark.slow
def test_database_that_is_down_or_frozen_holds_up_nobody(switched: Split) -> None:
    with served(switched, "health") as at:
        assert get(f"{at}/healthz") == (200, "ok\n")
        assert get(f"{at}/readyz") == (200, "ok\n")
        assert get(f"{at}/")[0] == 404
        ours = (
            "select pid from pg_stat_activity"
            " where application_name = 'pgsplit health' and datname = 'payments_db'"
        )
        backend = psutil.Process(switched.server.execute(ours)[0][0])
        backend.suspend()
        try:
            status, said = get(f"{at}/readyz")
            assert status == 503 and "payments_db has not answered for 6 s" in said
            assert MONOLITH not in said
            assert get(f"{at}/healthz")[0] == 200
        finally:
            backend.resume()
        until(lambda: get(f"{at}/readyz")[0] == 200)

        backend.terminate()  # a connection that was lost is made again
        assert get(f"{at}/readyz") == (200, "ok\n")
        switched.server.execute("alter database payments_db allow_connections false")
        switched.server.execute(ours.replace("pid", "pg_terminate_backend(pid)", 1))
        status, said = get(f"{at}/readyz")  # the connection that it had is lost
        assert status == 503 and "payments_db" in said
        found = looked(switched, code=ILL)["services"]["payments_db"]
        assert not found["database"]["answers"] and found["state"] == "switched"
        assert {one["status"] for one in found["streams"].values()} == {"unknown"}
        switched.server.execute("alter database payments_db allow_connections true")
        until(lambda: get(f"{at}/readyz")[0] == 200)

        port = at.rpartition(":")[2]
        assert f"Nothing can be served at 127.0.0.1:{port}: Address already in use." in ran(
            switched, "health", "--serve", port, code=ILL
        )
    nowhere = with_database(switched.server.tcp, MONOLITH, port=str(free_port()))
    done = switched.runner("health", BLYTZ_HIRE_URL=nowhere)
    assert done.returncode == ILL and done.stdout.startswith("✗ blytz_hire: ")
    assert "state unknown, no database" in words(done.stdout)
    assert done.stdout.count("warning: ") == 1  # they are all on that server
