"""Independent services: completed, like their owners; they work without the monolith."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Thread
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.project.endpoints import Connections
from pgsplit.replication import watches
from pgsplit.replication.independent import is_independent
from pgsplit.replication.sync import sync
from tests.support.run_folder import short_folder
from tests.support.sharing import Followers
from tests.support.switching import words
from tests.support.waiting import until
from tests.support.world import MONOLITH, World, shop

RENAME = "update accounts.customers set full_name = %s where id = 'customer-1'"
NEW_ORDER = "insert into ordering.orders values ('order-new', 'customer-1', 999, '2026-01-01')"
STREAM = "split_ordering_from_accounts"


@pytest.fixture(scope="module")
def shop_world() -> Iterator[World]:
    folder = short_folder("independent-")
    with closing(World(folder, shop(folder))) as world:
        yield world


@pytest.fixture
def completed(shop_world: World) -> World:
    """Give a shop whose services are completed."""
    shop_world.enter("completed")
    return shop_world


def ran(world: World, *arguments: str, code: int = 0, **environ: str) -> str:
    """Run a command; give all its output."""
    done = world.runner(*arguments, **environ)
    assert done.returncode == code, (arguments, done.stdout)
    return words(done.stdout)


def inside(world: World, database: str) -> psycopg.Connection[Any]:
    """Connect to a database, past all links."""
    return world.connections.connect(database)


def rename(world: World, name: str) -> None:
    """Change a customer's name, as the accounts service does."""
    with inside(world, "accounts") as database:
        assert database.execute(RENAME, (name,)).rowcount == 1


def has_arrived(world: World, name: str) -> bool:
    """Tell whether ordering shows a customer's name."""
    with inside(world, "ordering") as database:
        found = database.execute(
            "select full_name from ordering.shared_customers where id = 'customer-1'"
        )
        return found.fetchone() == (name,)


def changes(world: World) -> int:
    """Count what ordering's follower has still to apply."""
    with inside(world, "ordering") as database:
        row = database.execute("select count(*) from split.changes").fetchone()
        return int(row[0]) if row else 0


@contextmanager
def accounts_down(world: World) -> Iterator[None]:
    """Let nobody into the owner's database during the block, and end whoever is in it."""
    with inside(world, "ordering") as database:
        database.execute("alter database accounts with allow_connections false")
        database.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'accounts'"
        )
        try:
            yield
        finally:
            database.execute("alter database accounts with allow_connections true")


def test_change_reaches_an_independent_service_without_the_monolith(completed: World) -> None:
    world, services = completed, list(completed.project.services.values())
    world.nodes[MONOLITH].end()
    with Followers(world, services) as followers:
        rename(world, "Moved")
        until(lambda: has_arrived(world, "Moved"))
        until(lambda: all(tick.lag_bytes is not None for tick in followers.ticks.values()))
        assert not [tick.trouble for tick in followers.ticks.values() if tick.trouble]
        assert all(tick.lag_seconds is not None for tick in followers.ticks.values())
    rename(world, "Moved once more")
    ran(world, "sync", "ordering")  # which applies the owner's changes first
    assert has_arrived(world, "Moved once more")
    ran(world, "sync")  # without a name: all of them say by themselves that they were built
    ran(world, "parity", "ordering")


def test_migration_that_rewrites_a_table_during_a_sync_loses_no_row(completed: World) -> None:
    """In a snapshot from before such an ALTER TABLE the table is empty."""
    world, accounts = completed, completed.project.services["accounts"]
    rename(world, "Before")
    waits = "select count(*) > 0 from pg_locks where not granted"
    with inside(world, "accounts") as team, inside(world, "accounts") as watcher:
        with team.transaction():
            team.execute(
                "alter table accounts.customers alter column full_name type varchar(300),"
                " alter column email type varchar(300)"
            )
            syncing = Thread(target=sync, args=(accounts, world.connections))
            syncing.start()
            until(lambda: watcher.execute(waits).fetchone() == (True,))
        syncing.join()
        left = watcher.execute("select count(*) from split.changes").fetchone()
        kept = watcher.execute(
            "select count(*), count(*) filter (where \"fullName\" = 'Before') from shop.customers"
        ).fetchone()
        there = watcher.execute("select count(*), 1 from accounts.customers").fetchone()
    assert (left, kept) == ((0,), there)
    ran(world, "sync", "ordering")
    assert has_arrived(world, "Before")


def test_independent_service_opens_no_connection_to_the_monolith(
    completed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[str]()
    connect = Connections.connect

    def noted(self: Connections, target: str, **parameters: Any) -> psycopg.Connection[Any]:
        opened.append(target)
        return connect(self, target, **parameters)

    monkeypatch.setattr(Connections, "connect", noted)
    ordering = completed.project.services["ordering"]
    sync(ordering, completed.connections)
    assert opened == ["ordering", "accounts"]
    opened.clear()
    with Followers(completed, [ordering]) as followers:
        until(lambda: followers.ticks[ordering].lag_bytes is not None)
    assert set(opened) == {"ordering", "accounts"}


def test_owner_that_is_down_keeps_only_its_own_stream_waiting(completed: World) -> None:
    world, ordering = completed, completed.project.services["ordering"]
    with Followers(world, [ordering]) as followers:
        with accounts_down(world):
            until(lambda: "database accounts on" in followers.ticks[ordering].trouble)
            with inside(world, "ordering") as database:
                database.execute(NEW_ORDER)
            until(lambda: changes(world) == 0)
            with pytest.raises(ConnectionFailed) as failed:
                sync(ordering, world.connections)
            assert "ordering has applied all that has arrived; the rest waits there." in str(
                failed.value
            )
            assert "database accounts on" in failed.value.where
        rename(world, "Back")
        sync(world.project.services["accounts"], world.connections)
        until(lambda: has_arrived(world, "Back"))
        until(lambda: not followers.ticks[ordering].trouble)


def test_frozen_owner_is_named_and_keeps_nobody_waiting(
    completed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, ordering = completed, completed.project.services["ordering"]
    monkeypatch.setattr(watches, "SILENT_SECONDS", 2.0)
    with Followers(world, [ordering]) as followers, inside(world, "ordering") as database:
        # Between two looks: one that is stopped while it works may keep a lock of the server.
        resting = (
            "select pid from pg_stat_activity where datname = 'accounts'"
            " and application_name = 'pgsplit' and state = 'idle'"
            " and clock_timestamp() - state_change between interval '0.2 s' and interval '0.5 s'"
        )
        until(lambda: len(database.execute(resting).fetchall()) == 1)
        ((frozen,),) = database.execute(resting).fetchall()
        os.kill(frozen, signal.SIGSTOP)
        try:
            until(lambda: "accounts has not answered for" in followers.ticks[ordering].trouble)
            # Replication goes on, and so does whoever applies it.
            rename(world, "Still")
            sync(world.project.services["accounts"], world.connections)
            until(lambda: has_arrived(world, "Still"))
        finally:
            os.kill(frozen, signal.SIGCONT)
        until(lambda: not followers.ticks[ordering].trouble)


def test_broken_stream_from_an_owner_is_told_and_repaired(completed: World) -> None:
    world, ordering = completed, completed.project.services["ordering"]
    with Followers(world, [ordering]) as followers:
        with inside(world, "accounts") as database:
            database.execute(sql.SQL("drop publication {}").format(sql.Identifier(STREAM)))
        until(lambda: "is gone from accounts" in followers.ticks[ordering].trouble)
        assert "runner.py repair ordering" in followers.ticks[ordering].trouble
        with inside(world, "ordering") as database:
            assert is_independent(ordering, database)  # it still needs no monolith
        ran(world, "repair", "ordering")
        rename(world, "Repaired")
        sync(world.project.services["accounts"], world.connections)
        until(lambda: has_arrived(world, "Repaired"))
        until(lambda: not followers.ticks[ordering].trouble)


def test_without_the_monolith_those_that_need_none_are_named(shop_world: World) -> None:
    world = shop_world
    world.enter("accounts completed")
    world.nodes[MONOLITH].end()
    said = ran(world, "sync", code=ConnectionFailed.exit_code)
    assert "these don't: accounts." in said
    assert "or name those that don't need it: accounts" in said
    ran(world, "sync", "accounts")
    said = ran(world, "sync", "ordering", code=ConnectionFailed.exit_code)
    assert "database shop on" in said


def test_service_that_was_never_built_is_named_as_such(shop_world: World) -> None:
    shop_world.enter("provisioned")
    said = ran(shop_world, "sync", "accounts", code=NotReady.exit_code)
    assert "accounts has not been built since it last landed" in said
