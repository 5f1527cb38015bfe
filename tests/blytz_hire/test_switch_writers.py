"""Clients keep writing while the source of truth moves: to the service, back, then for good."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.clients import (
    KINDS,
    WHOSE,
    Accepted,
    Client,
    Known,
    acknowledged,
    acquaint,
    mark,
    read,
    writing,
    wrong,
)
from demo.project import MIRROR_SCHEMA, MONOLITH, PROJECT, select
from pgsplit.base.errors import DataDiffers
from pgsplit.project.project import Service
from pgsplit.replication import shared
from tests.support.following import following
from tests.support.split import Split
from tests.support.waiting import until

(USERS,) = select(("users",))
CLIENTS = 4
PER_SECOND = 200
WRITES = 500  # before anything is moved again
PATIENT = ("--max-pause", "30s", "--no-backup")  # the tests' machine may be slow
SHOWN = 10


@dataclass(frozen=True)
class Living:
    """A monolith that all six services follow, and the people that its clients know."""

    split: Split
    known: Known
    follower: subprocess.Popen[str]
    said: Path

    def succeeds(self, *arguments: str) -> str:
        """Run runner.py, which must succeed; give its output."""
        ran = self.split.runner(*arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def clients(self, service: Service, first: int) -> list[Client]:
        """Make clients without starting them; each gets its own number."""
        folder = self.split.connections.folder
        return [
            Client(service, folder, self.known, number, PER_SECOND / CLIENTS)
            for number in range(first, first + CLIENTS)
        ]

    def is_followed(self) -> bool:
        """Tell whether the follower is healthy: it last printed each service's lag."""
        said = re.findall(
            r"^[-0-9]+ [:0-9]+ (\w+): (.*)$", self.said.read_text("utf-8"), re.MULTILINE
        )
        return self.follower.poll() is None and all(
            " behind" in line for line in dict(said).values()
        )

    def assert_followed(self) -> None:
        """Wait until the follower is healthy again: moving its streams may have disturbed it."""
        until(lambda: self.is_followed() or self.follower.poll() is not None)
        assert self.is_followed(), self.said.read_text("utf-8")


@contextmanager
def followed(split: Split, known: Known, folder: Path) -> Iterator[Living]:
    """Follow with all services for the block."""
    with following(split, folder / "said") as follower:
        yield Living(split, known, follower, folder / "said")


@pytest.fixture
def living(six: Split, tmp_path: Path) -> Iterator[Living]:
    with six.monolith() as monolith:
        known = acquaint(monolith)
    with followed(six, known, tmp_path) as living:
        yield living


@pytest.fixture
def completed(users_completed: Split, tmp_path: Path) -> Iterator[Living]:
    """Give six services, of which users_db is completed."""
    with users_completed.service("users_db") as database:
        people = database.execute("select id from users_db.users order by id limit 50").fetchall()
    with followed(users_completed, Known([id for (id,) in people], ""), tmp_path) as living:
        yield living


def write(clients: Sequence[Client], database: str) -> None:
    """Wait until clients have written there for a while; cut one client's connection midway."""

    def there(one: Accepted) -> bool:
        return one.database == database

    enough = acknowledged(clients, there) + WRITES
    until(lambda: acknowledged(clients, there) > enough - WRITES // 2 or stopped(clients))
    with psycopg.connect(clients[0].write_url(), autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = %s and usename = current_user",
            (clients[0].name,),
        )
    until(lambda: acknowledged(clients, there) >= enough or stopped(clients))


def stopped(clients: Sequence[Client]) -> bool:
    """Tell whether a client has failed; it says why when it is stopped."""
    return not all(client.works for client in clients)


def digests(
    connection: psycopg.Connection[Any], service: Service, schema: str, *, of_clients: bool = True
) -> dict[str, tuple[int, str]]:
    """Give number and checksum of the rows that a service owns, in the monolith's shape."""
    found = {}
    for table in service.owned_tables:
        row = connection.execute(
            f"select count(*), md5(string_agg(t::text, '' order by id)) from {schema}.{table} as t"
            f" where {of_clients} or id !~ {WHOSE.as_string()}"
        ).fetchone()
        assert row is not None
        found[table] = row
    return found


def assert_kept(living: Living, service: Service, clients: Sequence[Client]) -> None:
    """Compare what clients recorded with every place that holds the service's rows."""
    living.succeeds("sync", service.role)
    kinds = KINDS[service.database]
    with living.split.monolith() as monolith, living.split.service(service.database) as database:
        places = {"the service": read(database, kinds, service.database, as_service=True)}
        there = monolith.execute(
            "select to_regclass('blytz_hire.' || %s) is not null",
            (next(iter(service.owned_tables)),),
        ).fetchone()
        if there == (True,):  # once completed, the mirror has only what others share
            places["the mirror"] = read(database, kinds, MIRROR_SCHEMA)
            places["the monolith"] = read(monolith, kinds, MIRROR_SCHEMA)
            mirrored = digests(database, service, MIRROR_SCHEMA)
            assert digests(monolith, service, MIRROR_SCHEMA) == mirrored
    for place, rows in places.items():
        found = wrong(clients, rows)
        assert not found, "\n".join([f"{len(found)} in {place}:", *found[:SHOWN]])


def missing_kinds_of_write(clients: Sequence[Client], service: Service) -> set[tuple[str, str]]:
    """Name the kinds of write that one of the databases never acknowledged."""
    expected = {
        (f"{how} {kind.name}", database)
        for how in ("insert", "update", "delete")
        for kind in KINDS[service.database]
        for database in (MONOLITH, service.database)
    }
    return expected - {(one.what, one.database) for client in clients for one in client.accepted}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["payments", "users"])
def test_every_acknowledged_write_exists_exactly_once(living: Living, name: str) -> None:
    (service,) = select((name,))
    first, others = living.clients(service, 1), living.clients(service, 1 + CLIENTS)
    with living.split.monolith() as monolith:
        before = digests(monolith, service, MIRROR_SCHEMA, of_clients=False)

    with writing(first):
        write(first, MONOLITH)
        for command, database, truth in (
            ("switch", service.database, service.database),
            ("rollback", MONOLITH, "the monolith"),
            ("switch", service.database, service.database),
        ):
            said = living.succeeds(command, name, *PATIENT)
            assert f"{truth} is now the source of truth for {service.holds}." in " ".join(
                said.lower().split()
            )
            assert "Writes were paused for" in said
            write(first, database)
    assert_kept(living, service, first)
    assert not missing_kinds_of_write(first, service)
    assert any(client.refusals for client in first)
    with living.split.monolith() as monolith:
        assert digests(monolith, service, MIRROR_SCHEMA, of_clients=False) == before

    everybody = [*first, *others]
    with writing(others):
        write(others, service.database)
        at_first = mark(everybody)
        refused = [sum(client.refusals.values()) for client in others]
        said = living.succeeds("complete", name, "--no-backup")
        assert f"{service.database} is now independent of the monolith." in said
        assert [sum(client.refusals.values()) for client in others] == refused
        write(others, service.database)
    assert_kept(living, service, everybody)
    with living.split.monolith() as monolith:
        retired = read(monolith, KINDS[service.database], PROJECT.retired_schema)
        found = wrong(everybody, retired, since=at_first)
        assert not found, "\n".join(found[:SHOWN])
        assert digests(monolith, service, PROJECT.retired_schema, of_clients=False) == before
    living.assert_followed()


def shared_rows(living: Living, consumer: Service) -> dict[str, tuple[list[Any], list[Any]]]:
    """Give a service's rows of other services' tables, and what users_db's mirror yields for them.

    A deleted user may be kept, with the time of deletion.
    """
    found = {}
    with living.split.service(consumer.database) as here, living.split.service("users_db") as there:
        tables = here.execute(
            "select table_name, definition from split.service_tables where owned_rows = 'false'"
        )
        for table, definition in tables.fetchall():
            held = (
                f"select t::text from {consumer.database}.{table} as t"
                " where to_jsonb(t) ->> 'deleted_at' is null order by 1"
            )
            due = f"select t::text from ({definition}) as t order by 1"
            found[table] = (here.execute(held).fetchall(), there.execute(due).fetchall())
    return found


@pytest.mark.slow
def test_consumers_get_users_from_users_db_once_it_is_completed(completed: Living) -> None:
    with completed.split.service("users_db") as database:
        database.execute(
            "update users_db.users set email = id || '@moved.example.com' where id = any(%s)",
            (list(completed.known.people),),
        )
    people = len(completed.known.people)

    def has_arrived(consumer: Service) -> bool:
        with completed.split.service(consumer.database) as database:
            row = database.execute(
                f"select count(*) from {consumer.database}.shared_users"
                " where email like '%@moved.example.com'"
            ).fetchone()
        return row == (people,)

    consumers = shared.consumers(USERS)
    assert len(consumers) == 5
    for consumer in consumers:
        until(lambda one=consumer: has_arrived(one))  # type: ignore[misc]
    completed.succeeds("sync")
    for consumer in consumers:
        for table, (held, due) in shared_rows(completed, consumer).items():
            assert held == due, f"{table} of {consumer.database}"
        with completed.split.service(consumer.database) as database:
            ways = database.execute(
                "select subname from pg_subscription inner join pg_database as base"
                " on base.oid = subdbid where datname = current_database()"
            ).fetchall()
        assert (f"{consumer.replication}_from_users_db",) in ways
    completed.assert_followed()


@pytest.mark.slow
@pytest.mark.parametrize("role", ["contracts", "files"])
def test_consumers_can_be_verified_and_switched_after_users_db_is_completed(
    completed: Living, role: str
) -> None:
    """Their rows then come from both the monolith and users_db."""
    proven = json.loads(completed.succeeds("verify", role, "--json"))["services"][f"{role}_db"]
    assert proven["proven"]
    assert "va_profiles in the mirror" in proven["tables"]
    completed.succeeds("totals", role)

    with completed.split.service(f"{role}_db") as database:
        database.execute("set session_replication_role = replica")
        spoil = (
            "update blytz_hire.va_profiles set name = reverse(name)"
            " where id = (select min(id) from blytz_hire.va_profiles)"
        )
        database.execute(spoil)
        ran = completed.split.runner("verify", role)
        assert ran.returncode == DataDiffers.exit_code
        assert f"{role}_db.va_profiles in the mirror" in ran.stdout
        database.execute(spoil)  # backwards twice is as it was
    completed.succeeds("verify", role)
    completed.succeeds("switch", role, *PATIENT)
    assert "their owners yield" in completed.succeeds("verify", role)
    completed.assert_followed()
