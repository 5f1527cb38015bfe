"""Measures how users are shared among all six services: `python -m bench shared`.

Splits a monolith into all six on one server, with a follower for each. Then it times single updates
from their commit until all five copies and their events show them, and many fast updates until the
last one shows. It does so with writes to the monolith; with users_db completed, from where the
others then get their shared streams; and with all six completed and the monolith dropped. In
between it times calls of the cache inside the server, reads of the copy by its key, and misses.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.result import Result
from bench.server import server
from bench.splitting import SOON_SECONDS, milliseconds, say
from demo.project import MONOLITH, PROJECT, ROOT, select
from pgsplit.load import sample as demo
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Service
from pgsplit.replication import shared
from pgsplit.replication.slot import Connection

SAMPLE_ROWS = 50_000
PATIENCE_SECONDS = 300
CALLS = 20_000
# For one update, and for as many as there are users.
BEFORE, AFTER = ("< 1000 ms", "< 15 s"), ("< 300 ms", "< 5 s")
MISSES = 200

NEW_USERS = """
    insert into blytz_hire.users (id, email, role, "lastSeenAt", "updatedAt")
    select 'bench ' || i, 'bench ' || i || '@example.com', 'va', now(), now()
    from generate_series(1, %s) as i
"""
# The writer runs inside the server, so that no client is measured; a transaction for each update.
WRITER = """
    create or replace procedure {schema}.bench_update(tag text, last integer)
    language plpgsql as $bench$
    begin
        for i in 1..last loop
            update {schema}.users set email = tag || i where id = 'bench ' || i;
            commit;
        end loop;
    end
    $bench$
"""
# Each in its own loop with one plan, like an application's prepared statement.
CALL = """
    do $bench$
    declare
        users text[] := array(select id from {database}.shared_users order by id limit 1000);
        found {database}.shared_users;
    begin
        for i in 1..{calls} loop
            {what}
        end loop;
    end
    $bench$
"""
HIT = "select * into found from {database}.get_shared_user(users[1 + mod(i, 1000)]);"
BY_KEY = "select * into found from {database}.shared_users where id = users[1 + mod(i, 1000)];"


@dataclass(frozen=True)
class Side:
    """A split monolith, and the database where its users are written."""

    connections: Connections
    environ: dict[str, str]
    users: int

    def runner(self, *arguments: str) -> None:
        """Run runner.py; it has to succeed."""
        command = [sys.executable, str(ROOT / "runner.py"), *arguments]
        ran = subprocess.run(command, env=self.environ, cwd=ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


def consumers() -> list[Service]:
    """Name the services that share users."""
    return shared.consumers(select(("users",))[0])


@contextlib.contextmanager
def following(place: Side) -> Iterator[None]:
    """Run followers of all services for the block, in one process, as an operator does."""
    command = [sys.executable, str(ROOT / "runner.py"), "sync", "--follow"]
    with subprocess.Popen(
        command, env=place.environ, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as follower:
        try:
            yield
        finally:
            follower.send_signal(signal.SIGINT)
            follower.communicate()


@contextlib.contextmanager
def watching(place: Side) -> Iterator[list[tuple[Service, Connection]]]:
    """Connect to all copies."""
    with contextlib.ExitStack() as stack:
        yield [
            (one, stack.enter_context(place.connections.connect(one.database)))
            for one in consumers()
        ]


def wait_for(copies: Sequence[tuple[Service, Connection]], user: int, email: str) -> float:
    """Wait until all copies and their events have the update; give the last one's time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for service, database in copies:
        query = f"select email = %s from {service.database}.shared_users where id = %s".encode()
        while database.execute(query, (email, f"bench {user}")).fetchone() != (True,):
            assert time.monotonic() < deadline, f"It does not arrive in {service.database}."
            time.sleep(SOON_SECONDS)
    return time.monotonic()


def single_updates(place: Side, source: str, runs: int) -> list[float]:
    """Time updates from their commit until all copies have them."""
    seconds = []
    with watching(place) as copies, place.connections.connect(source) as owner:
        for run in range(runs):
            time.sleep(0.5 + random.random())
            user, email = random.randint(1, place.users), f"{source} {run}"
            owner.execute(
                f"update {source}.users set email = %s where id = %s".encode(),
                (email, f"bench {user}"),
            )
            committed = time.monotonic()
            seconds.append(wait_for(copies, user, email) - committed)
    return seconds


def many_updates(place: Side, source: str, runs: int) -> tuple[list[float], list[float]]:
    """Time from the first of many updates until the last is in all copies, each once.

    Returns:
        These seconds, and the writer's share of them.
    """
    seconds, writing = list[float](), list[float]()
    with watching(place) as copies, place.connections.connect(source) as owner:
        owner.execute(WRITER.format(schema=source).encode())
        # Without the disk's time for each commit: only propagation is measured.
        owner.execute("set synchronous_commit = off")
        for run in range(runs):
            before = [events(*copy) for copy in copies]
            tag, started = f"{source} {run} of ", time.monotonic()
            owner.execute(f"call {source}.bench_update(%s, %s)".encode(), (tag, place.users))
            writing.append(time.monotonic() - started)
            seconds.append(wait_for(copies, place.users, f"{tag}{place.users}") - started)
            told = [events(*copy) - was for copy, was in zip(copies, before, strict=True)]
            assert told == [place.users] * len(copies), told
    return seconds, writing


def events(service: Service, database: Connection) -> int:
    """Count a service's events."""
    row = database.execute(
        f"select count(*) from {service.database}.user_events".encode()
    ).fetchone()
    assert row is not None
    return int(row[0])


def per_call(database: Connection, service: Service, what: str, runs: int) -> list[float]:
    """Time calls inside the server, in seconds for one."""
    statement = CALL.format(
        database=service.database, calls=CALLS, what=what.format(database=service.database)
    ).encode()
    database.execute(statement)  # a session's first call makes the plans
    seconds = []
    for _ in range(runs):
        started = time.monotonic()
        database.execute(statement)
        seconds.append((time.monotonic() - started) / CALLS)
    return seconds


def misses(database: Connection, service: Service) -> list[float]:
    """Time asking the owner for unknown users, in one session."""
    seconds = []
    for number in range(MISSES):
        started = time.monotonic()
        database.execute(
            f"select id from {service.database}.get_shared_user(%s)".encode(), (f"no {number}",)
        )
        seconds.append(time.monotonic() - started)
    return seconds[1:]  # the first connects


def propagate(
    place: Side, source: str, where: str, runs: int, result: Result, targets: tuple[str, str]
) -> None:
    """Measure propagation from where users are written, with the targets for one and for many."""
    with following(place):
        say(f"single updates in {where}")
        result.add_row(
            f"an update in {where} until all five copies have it",
            milliseconds(single_updates(place, source, runs * 4)),
            targets[0],
        )
        say(f"{place.users:,} updates in {where}")
        taken, writing = many_updates(place, source, runs)
        result.add_row(
            f"{place.users:,} updates in {where} until all five have all, each once",
            f"{statistics.median(taken):.1f} s ({min(taken):.1f} to {max(taken):.1f})",
            targets[1],
        )
        result.add_row(
            "… of which until they were all committed", f"{statistics.median(writing):.1f} s"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--users", type=int, default=10_000, help="users, each updated once a run")
    parser.add_argument("--runs", type=int, default=5)


def measure(given: argparse.Namespace) -> Result:
    """Measure propagation at three stages of a split, and the cache."""
    result = Result()
    with server() as environ:
        place = Side(resolve(PROJECT, environ), environ, given.users)
        say("a monolith, and runner.py run")
        demo.create(PROJECT, place.connections.urls[MONOLITH], SAMPLE_ROWS)
        with place.connections.connect(MONOLITH) as monolith:
            monolith.execute(NEW_USERS, (given.users,))
        place.runner("run")
        propagate(place, MONOLITH, "the monolith", given.runs, result, BEFORE)
        say("switch and complete users")
        place.runner("verify", "users")
        place.runner("switch", "users", "--no-backup")
        place.runner("complete", "users", "--no-backup")
        propagate(place, "users_db", "users_db", given.runs, result, BEFORE)
        measure_cache(place, given.runs, result)
        say("complete all, and drop the monolith")
        complete_all(place)
        propagate(place, "users_db", "users_db, no monolith,", given.runs, result, AFTER)
    return result


def complete_all(place: Side) -> None:
    """Switch and complete all that still need the monolith, and drop it."""
    for service in consumers():
        place.runner("verify", service.role)
        place.runner("switch", service.role, "--no-backup")
        place.runner("complete", service.role, "--no-backup")
    with place.connections.connect("users_db") as other:
        other.execute(f"drop database {MONOLITH} with (force)".encode())


def measure_cache(place: Side, runs: int, result: Result) -> None:
    """Measure a service's cache of users."""
    result.add_section()
    service = consumers()[0]
    say(f"the cache of {service.database}")
    with place.connections.connect(service.database) as database:
        hits, by_key = list[float](), list[float]()
        for _ in range(runs):
            hits += per_call(database, service, HIT, 1)
            by_key += per_call(database, service, BY_KEY, 1)
        hit = statistics.median(hits)
        result.add_row("a cache hit, in the server", f"{hit * 1000:.4f} ms", "< 0.2 ms")
        ratio = hit / statistics.median(by_key)
        result.add_row("… as against reading the copy by its key", f"{ratio:.1f}")
        asked = statistics.median(misses(database, service))
        result.add_row("a miss, from the client", f"{asked * 1000:.2f} ms")
    result.add_section()
