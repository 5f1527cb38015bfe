"""Independent services: completed, like their owners; they work without the monolith."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from demo.project import MONOLITH, PROJECT, select
from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.replication import owner_watch
from pgsplit.replication.independent import is_independent
from pgsplit.replication.sync import sync
from tests.support.sharing import Followers, inbox, last_sequence
from tests.support.split import Split
from tests.support.switching import ran
from tests.support.waiting import until

SIX = list(PROJECT.services.values())
USERS, COMMUNICATION, PAYMENTS = select(("users", "communication", "payments"))
RENAME = "update users_db.users set email = %s where id = (select min(id) from users_db.users)"
ARRIVED = "select count(*) from {}.shared_users where email = %s"


@contextmanager
def gone(split: Split, database: str) -> Iterator[None]:
    """Let nobody into a database during the block, and end whoever is in it."""
    name = sql.Identifier(database)
    shut = sql.SQL("alter database {} with allow_connections {}")
    split.server.execute(shut.format(name, sql.SQL("false")))
    ended = sql.SQL(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = {}"
    ).format(sql.Literal(database))
    split.server.execute(ended)
    try:
        yield
    finally:
        split.server.execute(shut.format(name, sql.SQL("true")))


def rename_user(split: Split, email: str) -> None:
    """Change a user's address, as the users service does."""
    with split.service("users_db") as database:
        assert database.execute(RENAME, (email,)).rowcount == 1


def has_arrived(split: Split, service: Service, email: str) -> bool:
    """Tell whether a service shows a user's address."""
    with split.service(service.database) as database:
        query = sql.SQL(ARRIVED).format(sql.Identifier(service.database))
        return database.execute(query, (email,)).fetchone() == (1,)


def subscription(service: Service, owner: Service) -> str:
    """Name the stream from an owner."""
    return f"{service.replication}_from_{owner.database}"


def test_user_change_reaches_all_services_without_the_monolith(all_completed: Split) -> None:
    split = all_completed
    others = [one for one in SIX if one is not USERS]
    before = {one: last_sequence(split, one) for one in others}
    with gone(split, MONOLITH), Followers(split, SIX) as followers:
        rename_user(split, "moved@example.com")
        for one in others:
            until(lambda one=one: has_arrived(split, one, "moved@example.com"))
            until(lambda one=one: len(inbox(split, one, before[one])) == 1)
        until(lambda: all(tick.lag_seconds is not None for tick in followers.ticks.values()))
        assert not [tick.trouble for tick in followers.ticks.values() if tick.trouble]
    with gone(split, MONOLITH):
        rename_user(split, "again@example.com")
        done = split.runner("sync", "users", "communication", "--json")
        assert done.returncode == 0, done.stderr
        synced = json.loads(done.stdout)["services"]
        assert synced["communication_db"]["upserted"]["shared_users"] == 1
        # Without a name it takes all, since each of them knows that it needs no monolith.
        done = split.runner("sync", "--json")
        assert done.returncode == 0, done.stderr
        assert list(json.loads(done.stdout)["services"]) == [one.database for one in SIX]
        assert "0 references" not in ran(split, "parity")


def test_independent_service_opens_no_connection_to_the_monolith(
    all_completed: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[str]()
    connect = Connections.connect

    def noted(self: Connections, target: str, **parameters: object) -> psycopg.Connection[object]:
        opened.append(target)
        return connect(self, target, **parameters)

    monkeypatch.setattr(Connections, "connect", noted)
    sync(PAYMENTS, all_completed.connections)
    owners = ["marketplace_db", "contracts_db", "users_db"]
    assert opened == ["payments_db", *owners]
    opened.clear()
    with Followers(all_completed, [PAYMENTS]) as followers:
        until(lambda: followers.ticks[PAYMENTS].lag_bytes is not None)
    assert set(opened) == {"payments_db", *owners}


def test_owner_that_is_down_keeps_only_its_own_stream_waiting(all_completed: Split) -> None:
    split = all_completed
    with Followers(split, [PAYMENTS]) as followers:
        with gone(split, "users_db"):
            until(lambda: "users_db" in followers.ticks[PAYMENTS].trouble)
            with split.service("payments_db") as database:
                database.execute(
                    "update payments_db.payments set currency = 'EUR' where id ="
                    " (select min(id) from payments_db.payments)"
                )
                until(
                    lambda: (
                        database.execute("select count(*) from split.changes").fetchone() == (0,)
                    )
                )
                # The service's own mirror has it, from which others are served.
                assert database.execute(
                    "select count(*) from blytz_hire.payments where currency = 'EUR'"
                ).fetchone() != (0,)
            with pytest.raises(ConnectionFailed) as failed:
                sync(PAYMENTS, split.connections)
            assert "payments_db has applied all that has arrived; the rest waits there." in str(
                failed.value
            )
            assert "database users_db on" in failed.value.where
        rename_user(split, "back@example.com")
        sync(USERS, split.connections)
        until(lambda: has_arrived(split, PAYMENTS, "back@example.com"))
        until(lambda: not followers.ticks[PAYMENTS].trouble)


def test_frozen_owner_is_named_and_keeps_nobody_waiting(
    all_completed: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = all_completed
    monkeypatch.setattr(owner_watch, "SILENT_SECONDS", 2.0)
    with Followers(split, [COMMUNICATION]) as followers:
        ((frozen,),) = split.server.execute(
            "select pid from pg_stat_activity where datname = 'users_db'"
            " and application_name = 'pgsplit'"
        )
        os.kill(frozen, signal.SIGSTOP)
        try:
            until(lambda: "users_db has not answered for" in followers.ticks[COMMUNICATION].trouble)
            before = followers.ticks[COMMUNICATION].rows
            # Replication itself goes on, and so do those who apply it.
            rename_user(split, "still@example.com")
            sync(USERS, split.connections)
            until(lambda: has_arrived(split, COMMUNICATION, "still@example.com"))
            until(lambda: followers.ticks[COMMUNICATION].rows > before)
        finally:
            os.kill(frozen, signal.SIGCONT)
        until(lambda: not followers.ticks[COMMUNICATION].trouble)


def test_broken_stream_from_an_owner_is_told_and_repaired(all_completed: Split) -> None:
    split, name = all_completed, subscription(COMMUNICATION, USERS)
    with Followers(split, [COMMUNICATION]) as followers:
        with split.service("users_db") as database:
            database.execute(sql.SQL("drop publication {}").format(sql.Identifier(name)))
        until(lambda: "is gone from users_db" in followers.ticks[COMMUNICATION].trouble)
        assert "runner.py repair communication" in followers.ticks[COMMUNICATION].trouble
        with split.service("communication_db") as database:
            # It stays one that needs no monolith: the stream has to be there.
            assert is_independent(COMMUNICATION, database)
        ran(split, "repair", "communication")
        rename_user(split, "repaired@example.com")
        sync(USERS, split.connections)
        until(lambda: has_arrived(split, COMMUNICATION, "repaired@example.com"))
        until(lambda: not followers.ticks[COMMUNICATION].trouble)


def test_without_the_monolith_those_that_need_none_are_named(users_completed: Split) -> None:
    with gone(users_completed, MONOLITH):
        said = ran(users_completed, "sync", code=ConnectionFailed.exit_code)
        assert "these don't: users." in said
        assert "or name those that don't need it: users" in said
        ran(users_completed, "sync", "users")
        said = ran(users_completed, "sync", "payments", code=ConnectionFailed.exit_code)
        assert "database blytz_hire on" in said


def test_service_that_was_never_built_is_named_as_such(split: Split) -> None:
    said = ran(split, "sync", "payments", code=NotReady.exit_code)
    assert "payments_db has not been built since it last landed" in said
