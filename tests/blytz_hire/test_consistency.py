"""One customer in six databases: the strategy's checklist, while clients keep writing.

Event propagation, races, failures and integrity in one run: users, profiles and companies are
written in the monolith, through the switch and the completion of users_db, and in users_db;
followers and a database go down in between; marketplace_db is switched and deletes what others
refer to. At the end each service has received each update once, and no reference is an
orphan.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from demo.clients import REFUSALS, Client, Known, acknowledged, acquaint, writing
from demo.project import MIRROR_SCHEMA, MONOLITH, PROJECT, SERVICES_BY_NAME, select
from pgsplit.project.project import Service
from pgsplit.prove.reconcile import reconcile
from pgsplit.replication import shared
from pgsplit.replication.sharing.events import Numbered
from pgsplit.replication.sync import apply_changes
from pgsplit.routing import env_file
from pgsplit.state.ledger import open_ledger
from tests.support.following import following
from tests.support.sharing import (
    Consumer,
    add_users,
    delete_company,
    delete_from_marketplace,
    errors,
    inbox,
    last_sequence,
    login,
)
from tests.support.split import Split
from tests.support.waiting import until

(USERS,) = select(("users",))
CONSUMERS = shared.consumers(USERS)
SIX = list(SERVICES_BY_NAME.values())
PATIENT = ("--no-backup", "--max-pause", "30s")
CLIENTS = 3
PER_SECOND = 90.0
WRITES = 150  # before anything is moved again
ONCE = 600

SHARED = {
    "shared_users": ["id", "email", "role", "name", "avatar", "verification_level", "deleted_at"],
    "shared_va_profiles": [
        "id",
        "user_id",
        "name",
        "hourly_rate",
        "skills",
        "average_rating",
        "total_reviews",
    ],
    "shared_companies": ["id", "user_id", "name", "logo_url", "verification_level"],
}
SHARED_BY = {"marketplace_db": SHARED.keys(), "users_db": set[str]()}

CHANGE = {
    MONOLITH: "update blytz_hire.users set email = %s where id = %s returning true",
    "users_db": "update users_db.users set email = %s where id = %s returning true",
}


@dataclass(frozen=True)
class Six:
    """A monolith, its six services, and the people that its clients know."""

    split: Split
    known: Known

    def succeeds(self, *arguments: str) -> str:
        """Run runner.py, which must succeed; give its output without line breaks."""
        ran = self.split.runner(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return " ".join(ran.stdout.split())

    def clients(self, first: int) -> list[Client]:
        """Make clients of users_db without starting them; each gets its own number."""
        folder = self.split.connections.folder
        return [
            Client(USERS, folder, self.known, number, PER_SECOND / CLIENTS)
            for number in range(first, first + CLIENTS)
        ]


def with_known_clients(split: Split) -> Six:
    """Prepare the monolith for clients, and sync the rows that they add for it."""
    with split.monolith() as monolith:
        six = Six(split, acquaint(monolith))
    six.succeeds("sync")
    return six


def columns(split: Split, database: str, schema: str) -> dict[str, list[str]]:
    """Give the columns of a schema's tables, in their order."""
    with split.service(database) as connection:
        rows = connection.execute(
            "select relname, attname from pg_class inner join pg_attribute on attrelid ="
            " pg_class.oid where relkind = 'r' and attnum > 0 and not attisdropped"
            " and relnamespace = to_regnamespace(%s) order by relname, attnum",
            (schema,),
        ).fetchall()
    found: dict[str, list[str]] = {}
    for table, column in rows:
        found.setdefault(table, []).append(column)
    return found


@pytest.mark.parametrize("service", SIX, ids=lambda one: one.role)
def test_services_hold_only_the_listed_columns(six: Split, service: Service) -> None:
    mirrored = columns(six, service.database, MIRROR_SCHEMA)
    landed = service.landed_tables
    assert mirrored.keys() == landed.keys()
    for table, expected in PROJECT.tables.items():
        if table not in landed:
            continue
        listed = (
            list(expected.columns)
            if expected.owner == service.database
            else list(expected.shared[service.database])
        )
        assert sorted(mirrored[table]) == sorted(listed), table
    held = columns(six, service.database, service.database)
    shared = {table: set(names) for table, names in held.items() if table.startswith("shared_")}
    due = SHARED_BY.get(service.database, {"shared_users"})
    assert shared == {table: set(SHARED[table]) for table in due}


class Once:
    """Updates each of some users exactly once, one by one, wherever users are written."""

    def __init__(self, split: Split, users: Sequence[str]) -> None:
        self.split, self.users = split, users
        self.done: dict[str, str] = {}
        self.failed: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Once:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failed is None, self.failed

    def has_done(self, how_many: int) -> bool:
        """Tell whether this many users have been updated, or it has failed."""
        return self.failed is not None or len(self.done) >= how_many

    def _run(self) -> None:
        try:
            for user in self.users:
                while not self._stop.is_set() and user not in self.done:
                    self._update(user)
                    self._stop.wait(0.02)
        except BaseException as error:  # noqa: BLE001 whatever it is, the test is to show it
            self.failed = error

    def _update(self, user: str) -> None:
        url = env_file.read(USERS, self.split.connections).write
        with psycopg.connect(url, autocommit=True) as connection:
            place = connection.info.dbname
            try:
                row = connection.execute(CHANGE[place], (f"{user}@once", user)).fetchone()
            except REFUSALS:
                return
        assert row == (True,)
        self.done[user] = place


def write(clients: Sequence[Client], database: str) -> None:
    """Wait until clients have written there a while."""

    def there() -> int:
        return acknowledged(clients, lambda one: one.database == database)

    enough = there() + WRITES
    until(lambda: there() >= enough or not all(client.works for client in clients))


def assert_each_update_was_received_once(
    events: Sequence[Numbered], once: Once, clients: Sequence[Client]
) -> None:
    """Compare a service's events with the writes that were acknowledged to clients."""
    by_user: dict[str, list[dict[str, Any]]] = {}
    for _, event in events:
        by_user.setdefault(event["userId"], []).append(event)
    for user in once.users:
        assert [(one["type"], one["data"]["email"]) for one in by_user[user]] == [
            ("USER_CREATED", f"{user}@example.com"),
            ("USER_UPDATED", f"{user}@once"),
        ]
    for client in clients:
        for row in client.rows:
            if row.kind.name != "user":
                continue
            heard, states = by_user.get(row.id, []), row.states
            numbers = [int(one["data"]["email"].split("@")[0]) for one in heard]
            places = [states.index(number) for number in numbers]  # each was acknowledged
            assert places == sorted(places), (row.id, numbers, states)
            for before, after in zip(heard, heard[1:], strict=False):
                assert (before["type"], before["data"]) != (after["type"], after["data"])
            if states[-1] is not None:
                assert heard[-1]["type"] != "USER_DELETED"
                assert numbers[-1] == states[-1]
            elif heard:  # else nobody saw them: made and deleted between two looks
                assert heard[-1]["type"] == "USER_DELETED"


def assert_last_event_matches_the_copy(split: Split, service: Service, since: int) -> None:
    """Each user's last event matches the copy."""
    with split.service(service.database) as database:
        rows = database.execute(
            f"""
            select last.user_id from (
                select distinct on (user_id) * from {service.database}.user_events
                where sequence > %s order by user_id, sequence desc
            ) as last
            left join {service.database}.shared_users as held on held.id = last.user_id
            where
                split.user_data(held) is distinct from last.data
                or (held.deleted_at is not null) <> (last.type = 'USER_DELETED')
            """,
            (since,),
        ).fetchall()
    assert rows == []


def assert_copies_match_the_owner(split: Split) -> None:
    with split.service("users_db") as there:
        for service in CONSUMERS:
            with split.service(service.database) as here:
                for table, definition in here.execute(
                    "select table_name, definition from split.service_tables"
                    " where owned_rows = 'false'"
                ).fetchall():
                    held = (
                        f"select t::text from {service.database}.{table} as t"
                        " where to_jsonb(t) ->> 'deleted_at' is null order by 1"
                    )
                    due = f"select t::text from ({definition}) as t order by 1"
                    assert here.execute(held).fetchall() == there.execute(due).fetchall(), table


def test_customer_stays_consistent_across_six_databases(six: Split, tmp_path: Path) -> None:
    split, six = six, with_known_clients(six)
    since = {service: last_sequence(split, service) for service in CONSUMERS}
    once = Once(split, [f"once-{number:03}" for number in range(ONCE)])
    first, others = six.clients(1), six.clients(1 + CLIENTS)
    with ExitStack() as listening:
        listeners = [listening.enter_context(Consumer(split, s, since[s])) for s in CONSUMERS]
        with following(split, tmp_path / "first") as killed:
            add_users(split, *once.users)
            until(lambda: all(one.has(since[one.service] + ONCE) for one in listeners))
            with once, writing(first):
                write(first, MONOLITH)
                killed.kill()  # in mid-way of whatever it does
                write(first, MONOLITH)
                with following(split, tmp_path / "second"):
                    write(first, MONOLITH)
                    six.succeeds("switch", "users", *PATIENT)
                    write(first, "users_db")
                    split.server.execute("alter database files_db allow_connections false")
                    split.server.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity"
                        " where datname = 'files_db'"
                    )
                    write(first, "users_db")
                    split.server.execute("alter database files_db allow_connections true")
                    six.succeeds("complete", "users", "--no-backup")
                    write(first, "users_db")
                    until(lambda: once.has_done(ONCE))
        six.succeeds("sync")
        heard = {service: inbox(split, service, since[service]) for service in CONSUMERS}
        for one in listeners:
            last = heard[one.service][-1][0]
            until(lambda one=one, last=last: one.has(last))  # type: ignore[misc]
    assert set(once.done.values()) == {MONOLITH, "users_db"}
    for one in listeners:
        service, events = one.service, heard[one.service]
        if one.failed is None:
            assert one.got == events
        else:  # its database was not to be connected to
            assert service.database == "files_db"
            assert one.got == events[: len(one.got)]
        assert [sequence for sequence, _ in events] == sorted({n for n, _ in events})
        assert_each_update_was_received_once(events, once, first)
        assert_last_event_matches_the_copy(split, service, since[service])
    assert_copies_match_the_owner(split)

    six.succeeds("switch", "marketplace", *PATIENT)
    with following(split, tmp_path / "third"), writing(others):
        write(others, "users_db")
        gone = delete_from_marketplace(split)
        company = delete_company(split)
        with open_ledger(split.connections) as ledger:
            done = reconcile(SIX, split.connections, ledger, apply=True)
        assert done.unrepairable == ()
        write(others, "users_db")
        said = six.succeeds("parity")
        write(others, "users_db")
    assert sorted((one.kind, one.place, one.table) for one in done.actions) == [
        ("empty", MONOLITH, "payments"),
        ("restore", "marketplace_db", "jobs"),
        ("restore", "users_db", "companies"),
    ]
    left_behind = errors(done.parity).keys()
    assert {"payments.match_id", "contracts.job_id", "job_postings.company_id"} <= left_behind
    assert "error:" not in said
    with split.service("users_db") as owner, split.service("payments_db") as payments:
        restored = owner.execute(
            "select count(*) from users_db.companies where id = %s", (company,)
        ).fetchone()
        left = payments.execute(
            "select count(*) from payments_db.payments where match_id = %s", (gone["match"],)
        ).fetchone()
    assert (restored, left) == ((1,), (0,))

    six.succeeds("sync")
    for service in CONSUMERS:
        events = inbox(split, service, since[service])
        assert_each_update_was_received_once(events, once, [*first, *others])
        assert_last_event_matches_the_copy(split, service, since[service])
    assert_copies_match_the_owner(split)


def test_caches_query_users_db_once_it_is_completed(users_completed: Split) -> None:
    split = users_completed
    with split.service("users_db") as owner:
        owner.execute(
            "insert into users_db.users (id, email, role, last_seen_at)"
            " values ('late', 'late@example.com', 'va', now())"
        )
        apply_changes(owner)  # as the follower of users_db does
        for service in CONSUMERS:
            with login(split, service) as asks:
                get = f"select email from {service.database}.get_shared_user(%s)"
                copy = f"select from {service.database}.shared_users where id = 'late'"
                assert asks.execute(copy).fetchone() is None
                assert asks.execute(get, ("late",)).fetchone() == ("late@example.com",)
                assert asks.execute(get, ("nobody",)).fetchone() == (None,)
            rows = owner.execute(
                "select relname, array_agg(attname::text order by attname) from pg_class"
                " inner join pg_attribute on attrelid = pg_class.oid"
                " where relkind in ('r', 'v', 'f', 'S') and attnum > 0 and not attisdropped"
                " and relnamespace::regnamespace::text !~ '^pg_|^information_'"
                " and has_column_privilege(%s, pg_class.oid, attnum,"
                " 'select, insert, update, references') group by relname",
                (f"{service.role}_reader",),
            ).fetchall()
            landed = service.landed_tables
            assert dict(rows) == {
                table: sorted(landed[table]) for table in ("users", "va_profiles", "companies")
            }
