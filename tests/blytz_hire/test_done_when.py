"""From the monolith to six services whose teams deploy on their own, while all six are written.

The monolith is on a server of its own, which is gone in the end.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from demo.project import PROJECT, SERVICES_BY_NAME
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import with_database
from pgsplit.replication.sharing.events import Numbered
from pgsplit.routing.env_file import Side
from tests.support import node as prisma
from tests.support.accounting import account
from tests.support.client_tables import BLYTZ_HIRE_TABLES, OTHER_BLYTZ_HIRE_TABLES
from tests.support.clients import Client
from tests.support.run_folder import short_folder
from tests.support.servers import Server
from tests.support.sharing import Consumer, Followers, inbox, last_sequence
from tests.support.split import Split
from tests.support.switching import words
from tests.support.waiting import until
from tests.support.world import MONOLITH, SERVICE, World, blytz_hire

# The strategy's order.
ORDER = ("communication", "payments", "marketplace", "contracts", "files", "users")
SIX = list(PROJECT.services.values())
OTHERS = [one for one in SIX if one.role != "users"]
USERS = next(one for one in SIX if one.role == "users")

# What payments' team deploys with Prisma Migrate, and users' team with plain SQL.
PAYMENTS_NEXT = """\
alter table payments_db.payments add column note text not null default '';
alter table payments_db.payments drop column milestone_id;
alter table payments_db.payments alter column status type varchar(40);
create table payments_db.payouts (id bigint primary key, payment_id text not null);
"""
USERS_NEXT = """\
alter table users_db.users add column nickname text;
alter table users_db.users rename column preferences to wishes;
alter table users_db.users drop column profile_complete;
alter table users_db.users alter column email type varchar(300);
"""

# All that six services share, once they are completed, goes through one server.
ROOM = {
    "max_active_replication_origins": "40",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
    "max_logical_replication_workers": "40",
    "max_worker_processes": "50",
    "max_connections": "200",
}


@pytest.fixture
def world() -> Iterator[World]:
    folder = short_folder("done-")
    with closing(World(folder, blytz_hire(ORDER))) as made:
        made.nodes[SERVICE].settings = ROOM
        made.enter("verified")
        yield made


def ran(world: World, *arguments: str, **environ: str) -> str:
    """Run a command; give all its output."""
    done = world.runner(*arguments, **environ)
    assert done.returncode == 0, (arguments, done.stdout)
    return words(done.stdout)


def switch(world: World, role: str) -> None:
    """Switch a service; one that meets a lock is undone, and is tried once more."""
    for _ in range(3):
        done = world.runner("switch", role, "--no-backup")
        if done.returncode == 0:
            return
        assert done.returncode == NotReady.exit_code, done.stdout
        assert "then try again" in done.stdout, done.stdout
    raise AssertionError(done.stdout)


def deploy_by_prisma(team: Path, url: str) -> None:
    """Do as HANDOVER.md says, as a login that has only the owner's role; then deploy one more."""
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("create role deployer login")
        page = (team / "HANDOVER.md").read_text()
        for statement in re.findall("`((?:grant|alter role) .*?;)`", page):
            database.execute(statement.replace("DEPLOYER", "deployer"))
    url = with_database(url, "payments_db", user="deployer", options="-csearch_path=payments_db")
    schema = team / "prisma" / "schema.prisma"
    # Prisma 6 wants it, and the line stands there as a comment.
    schema.write_text(schema.read_text().replace("// Prisma 6 and older also want: ", ""))
    assert "0_init marked as applied" in prisma.migrate(team, url, "resolve", "--applied", "0_init")
    migration = team / "prisma" / "migrations" / "1_payouts"
    migration.mkdir()
    (migration / "migration.sql").write_text(PAYMENTS_NEXT)
    assert "1_payouts" in prisma.migrate(team, url, "deploy")


def write_on(clients: dict[str, Client]) -> None:
    """Wait until each client has written some more."""
    before = {role: one.counts["acknowledged"] for role, one in clients.items()}

    def all_have() -> bool:
        failures = [said for one in clients.values() for said in one.failures]
        assert not failures, failures
        return all(one.counts["acknowledged"] > before[role] + 3 for role, one in clients.items())

    until(all_have)


def assert_each_once(got: list[Numbered], users: Client, there: dict[str, str]) -> None:
    """Check a service's events: played in order they lead, without a repetition, to its copy."""
    assert [sequence for sequence, _ in got] == sorted({sequence for sequence, _ in got})
    copy = dict[str, str]()
    gone = set[str]()
    for _, event in got:
        user, email = event["userId"], event["data"]["email"]
        if user not in users.rows:
            continue
        number = int(email.split("@")[0])
        if event["type"] == "USER_CREATED":
            assert user not in copy and user not in gone
        elif event["type"] == "USER_UPDATED":
            assert number > int(copy[user].split("@")[0])
        if event["type"] == "USER_DELETED":
            assert copy.pop(user) == email
            gone.add(user)
        else:
            copy[user] = email
    assert copy == there
    assert {user: int(email.split("@")[0]) for user, email in copy.items()} == {
        user: row.value for user, row in users.rows.items() if row.value is not None
    }


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_six_services_outlive_the_monolith_and_deploy_on_their_own(
    world: World, tmp_path: Path
) -> None:
    node = world.nodes[SERVICE]
    split = Split(Server(node.url(), node.url()), world.connections, world.environ)
    clients = {
        table.role: Client(
            table,
            SERVICES_BY_NAME[f"{table.role}_db"],
            world.as_people,
            f"z-{table.role}",
            Random(table.role),
        )
        for table in (*BLYTZ_HIRE_TABLES, *OTHER_BLYTZ_HIRE_TABLES)
    }
    assert sorted(clients) == sorted(ORDER)
    since = {one: last_sequence(split, one) for one in OTHERS}
    with ExitStack() as stack:
        followers = stack.enter_context(Followers(split, SIX))
        consumers = {one: stack.enter_context(Consumer(split, one, since[one])) for one in OTHERS}
        for client in clients.values():
            client.start()
            stack.callback(client.stop)
        write_on(clients)
        for role in ORDER:
            switch(world, role)
            write_on(clients)
            ran(world, "complete", role, "--no-backup")
        write_on(clients)
        assert all(one.written_at[Side.SERVICE] for one in clients.values())

        with psycopg.connect(node.url(), autocommit=True) as server:
            server.execute("create database split_control")
        control = node.url("split_control")
        ran(world, "control", "--to", control)
        alone = {"BLYTZ_HIRE_CONTROL_URL": control}
        ran(world, "retire", "--watch", "0", **alone)
        world.nodes[MONOLITH].end(signal.SIGKILL)
        world.nodes[MONOLITH].destroy()
        alone |= {"BLYTZ_HIRE_URL": ""}
        write_on(clients)

        team = tmp_path / "payments"
        ran(world, "handover", "payments", "--tool", "prisma", "--to", str(team), **alone)
        deploy_by_prisma(team, node.url("payments_db"))
        with psycopg.connect(node.url("users_db"), autocommit=True) as users:
            users.execute("set role users_owner")
            users.execute(USERS_NEXT)
        write_on(clients)

        for client in clients.values():
            client.stop()
        ran(world, "sync", **alone)
        last = {one: last_sequence(split, one) for one in OTHERS}
        until(lambda: all(consumers[one].has(last[one]) for one in OTHERS))
        until(lambda: not [one.trouble for one in followers.ticks.values() if one.trouble])
    assert not [one.failures for one in clients.values() if one.failures]
    assert not list(
        account(list(clients.values()), world.connections, dict.fromkeys(ORDER, "completed"))
    )
    for one, consumer in consumers.items():
        assert consumer.failed is None
        assert consumer.got == inbox(split, one, since[one])
        with world.connections.connect(one.database) as database:
            rows = database.execute(
                f"select id, email from {one.database}.shared_users"
                " where id like 'z-users-%' and deleted_at is null"
            ).fetchall()
        assert_each_once(consumer.got, clients["users"], dict(rows))
    status: dict[str, Any] = json.loads(world.runner("status", "--json", **alone).stdout)
    assert [one["state"] for one in status["services"].values()] == ["completed"] * 6
    assert [one["warnings"] for one in status["services"].values()] == [[]] * 6
    for command in (("parity",), ("reconcile",), ("verify", "users")):
        ran(world, *command, **alone)
    for role in ("payments", "users"):
        built = split.dbt("build", "--target", f"{role}_db", **alone)
        assert built.returncode == 0, built.stdout
