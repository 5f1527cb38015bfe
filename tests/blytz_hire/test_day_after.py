"""The day after: six completed services, and no monolith."""

from __future__ import annotations

import json

from demo.project import MONOLITH, PROJECT
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from tests.support.sharing import Followers, inbox, last_sequence
from tests.support.split import Split
from tests.support.switching import words
from tests.support.waiting import until

SIX = list(PROJECT.services.values())
OTHERS = [one for one in SIX if one.database != "users_db"]
RENAME = "update users_db.users set email = %s where id = (select min(id) from users_db.users)"


def ran(split: Split, *arguments: str, code: int = 0, **environ: str) -> str:
    """Run runner.py with further variables; give all its output."""
    done = split.runner(*arguments, **environ)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return words(done.stdout + " " + done.stderr)


def made(split: Split, name: str) -> str:
    """Make an empty database on the same server; give its URL."""
    with split.monolith() as monolith:
        monolith.execute(f"create database {name}")
    return with_database(split.server.socket, name)


def test_six_services_live_without_the_monolith(all_completed: Split) -> None:
    split, control = all_completed, made(all_completed, "control")
    restored = made(split, "restored")
    before = {one: last_sequence(split, one) for one in OTHERS}
    with Followers(split, SIX) as followers:
        ran(split, "control", "--to", control)
        split.server.execute(f"drop database {MONOLITH} with (force)")
        with split.service("users_db") as database:
            assert database.execute(RENAME, ("moved@example.com",)).rowcount == 1
        for one in OTHERS:
            until(lambda one=one: len(inbox(split, one, before[one])) == 1)
        until(lambda: not [one.trouble for one in followers.ticks.values() if one.trouble])
    alone = {f"{one.database.upper()}_URL": split.connections.urls[one.database] for one in SIX}
    alone |= {"BLYTZ_HIRE_CONTROL_URL": control, "BLYTZ_HIRE_URL": ""}
    status = json.loads(split.runner("status", "--json", **alone).stdout)
    assert [one["state"] for one in status["services"].values()] == ["completed"] * 6
    assert [one["warnings"] for one in status["services"].values()] == [[]] * 6
    for command in (
        ("sync",),
        ("parity",),
        ("reconcile",),
        ("history",),
        ("report", "--json"),
        ("events", "payments"),
        ("backup", "payments"),
        ("repair", "payments"),
        ("verify", "payments"),
        ("complete", "payments"),
        ("resume",),
        ("config",),
        ("control",),
    ):
        ran(split, *command, **alone)
    (backup, *_) = json.loads(split.runner("backups", "--json", **alone).stdout)["backups"]
    ran(split, "restore", backup["path"], restored, **alone)
    for command in (
        ("provision", "payments"),
        ("build", "payments"),
        ("land", "payments"),
        ("switch", "payments"),
        ("rollback", "payments"),
        ("analyze",),
        ("totals",),
        ("check",),
        ("backup",),
        ("url", "monolith"),
    ):
        said = ran(split, *command, code=NotReady.exit_code, **alone)
        assert (
            "This needs the monolith, and BLYTZ_HIRE_URL is not set" in said
            or "payments_db is completed" in said
            or "All services are switched" in said
        )
    tested = split.dbt("test", "--target", "payments_db", "--select", "tag:parity", **alone)
    assert tested.returncode == 0, tested.stdout
