"""Helpers for tests of shared users: writers, followers and consumers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.project.project import Service
from pgsplit.prove.parity import Parity
from pgsplit.replication.follow import Tick, follow
from pgsplit.replication.sharing import events
from pgsplit.routing import env_file
from tests.support.split import Split
from tests.support.waiting import until
from tests.support.world import World

NEW_USERS = """
    insert into blytz_hire.users (id, email, role, "lastSeenAt", "updatedAt")
    select id, id || '@example.com', 'va', '2026-01-01', '2026-01-01' from unnest(%s::text[]) as id
"""
NEW_PROFILES = """
    insert into blytz_hire.va_profiles (id, "userId", name, country, "hourlyRate")
    select 'profile-' || id, id, 'Ann', 'PH', 20 from unnest(%s::text[]) as id
"""


def add_users(split: Split, *ids: str, with_profiles: bool = False) -> None:
    """Commit new users in the monolith, perhaps with profiles."""
    with split.monolith() as monolith, monolith.transaction():
        monolith.execute(NEW_USERS, (list(ids),))
        if with_profiles:
            monolith.execute(NEW_PROFILES, (list(ids),))


def inbox(split: Split, service: Service, since: int = 0) -> list[events.Numbered]:
    """Read a service's events after a sequence."""
    return list(events.read(service, split.connections, events.inbox(service), since))


def last_sequence(split: Split, service: Service) -> int:
    """Give the sequence of a service's newest event."""
    return events.bounds(service, split.connections, events.inbox(service))[1]


def login(split: Split, service: Service) -> psycopg.Connection[Any]:
    """Connect to a service's database as the service itself does."""
    url = env_file.own_url(service, split.connections)
    return psycopg.connect(url, autocommit=True)


def errors(found: Parity) -> dict[str, int]:
    """Count the orphans of each reference that had a key, by table and column."""
    return {f"{one.table}.{one.column}": one.orphans for one in found.broken if one.had_key}


def delete_from_marketplace(split: Split) -> dict[str, str]:
    """Delete a job and a match that other services refer to; give their ids."""
    with split.service("marketplace_db") as database, split.service("payments_db") as payments:
        ((job,),) = payments.execute("select min(job_id) from payments_db.payments").fetchall()
        ((match,),) = payments.execute(  # one that no payment shares with the job
            "select min(match_id) from payments_db.payments where match_id not in"
            " (select match_id from payments_db.payments where job_id = %s"
            " and match_id is not null)",
            (job,),
        ).fetchall()
        with database.transaction():
            database.execute(
                "update marketplace_db.proposals set job_id = null where job_id = %s", (job,)
            )
            database.execute("delete from marketplace_db.jobs where id = %s", (job,))
            database.execute(
                "delete from marketplace_db.match_votes as vote using marketplace_db.matches where"
                " (vote.job_posting_id, vote.va_profile_id) = (matches.job_posting_id,"
                " matches.va_profile_id) and matches.id = %s",
                (match,),
            )
            database.execute("delete from marketplace_db.matches where id = %s", (match,))
    return {"job": job, "match": match}


def delete_company(split: Split) -> str:
    """Delete a company that postings refer to, and its user, as users_db allows; give its id."""
    with split.service("users_db") as database, split.service("marketplace_db") as marketplace:
        ((company,),) = marketplace.execute(
            "select min(company_id) from marketplace_db.job_postings where company_id in"
            " (select companies.id from marketplace_db.shared_companies as companies"
            " where not exists (select from marketplace_db.shared_va_profiles as profiles"
            " where profiles.user_id = companies.user_id))"
        ).fetchall()
        with database.transaction():
            for statement in (
                "delete from users_db.company_details where company_id = %s",
                "delete from users_db.users where id ="
                " (select user_id from users_db.companies where id = %s)",
                "delete from users_db.companies where id = %s",
            ):
                database.execute("set constraints all deferred")
                database.execute(statement, (company,))
    return str(company)


class Followers:
    """Followers of several services, one thread each: the last tick and the error of each."""

    def __init__(
        self, split: Split | World, services: Sequence[Service], interval: float = 0.1
    ) -> None:
        self.connections, self.services, self.interval = split.connections, services, interval
        self.stop = threading.Event()
        self.ticks: dict[Service, Tick] = {}
        self.raised: list[BaseException] = []
        self.threads = [threading.Thread(target=self._run, args=(one,)) for one in services]

    def __enter__(self) -> Followers:
        for thread in self.threads:
            thread.start()
        until(lambda: len(self.ticks) == len(self.services) or bool(self.raised))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert not self.raised, self.raised

    def _run(self, service: Service) -> None:
        def tell(tick: Tick) -> None:
            self.ticks[service] = tick

        try:
            follow(service, self.connections, self.stop, tell, self.interval)
        except (SplitError, psycopg.Error) as error:
            self.raised.append(error)


class Consumer:
    """A consumer of a service's events in a thread: what it received, in order."""

    def __init__(self, split: Split, service: Service, since: int) -> None:
        self.split, self.service, self.since = split, service, since
        self.got = list[events.Numbered]()
        self.failed: BaseException | None = None
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Consumer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        with self.split.service(self.service.database) as database:
            database.execute("select pg_notify('user_events', '')")  # it looks, and sees the end
        self._thread.join()

    def has(self, sequence: int) -> bool:
        """Tell whether it has reached this sequence, or failed."""
        return self.failed is not None or bool(self.got) and self.got[-1][0] >= sequence

    def _run(self) -> None:
        try:
            connections, model = self.split.connections, events.inbox(self.service)
            for one in events.follow(self.service, connections, model, self.since, self.stop):
                self.got.append(one)
        except (SplitError, psycopg.Error) as error:
            self.failed = error
