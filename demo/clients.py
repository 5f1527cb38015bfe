"""Clients of a service: they write as its applications do, and keep book of what was acknowledged.

A client knows both shapes of its tables, the monolith's and the service's, and goes by
`connections/SERVICE.env`. Every write bears a number that is never used again, and every row holds
the number of the last write that touched it, in a column of each table that it is spread over. A
row that says so in one of them only, reads as `TORN`.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import psycopg
from psycopg import errors, sql

from demo.project import MONOLITH
from pgsplit.project.project import Service

Connection = psycopg.Connection[Any]
State = int | None  # the number of the last write; None if there is no such row

RETRY_SECONDS = 0.005
LOOKS = 10
TORN = -1
# What an application gets while its tables move, and tries again.
REFUSALS = (
    errors.ReadOnlySqlTransaction,
    errors.SerializationFailure,
    errors.DeadlockDetected,
)
WHOSE = sql.SQL(r"'^c[0-9]+-[0-9]{6}$'")


class Lost(AssertionError):
    """A client did not find a row again that it had written."""


@dataclass(frozen=True)
class Kind:
    """A kind of rows in both shapes.

    Statements are for the monolith and for the service; their parameters are the write's `number`,
    the row's `id`, its parent's `parent`, and `person` and `reviewed`, who were there before. The
    last statement of a write touches one row. `found` reads ids and numbers of all clients' rows.
    """

    name: str
    insert: tuple[Sequence[str], Sequence[str]]
    update: tuple[Sequence[str], Sequence[str]]
    delete: tuple[Sequence[str], Sequence[str]]
    found: tuple[str, str]
    parent: str = ""
    shares_id: bool = False
    is_only_child: bool = False


PAYMENTS = (
    Kind(
        "payment",
        insert=(
            [
                'insert into blytz_hire.payments (id, "userId", "receiverId",'
                ' "stripePaymentIntentId", amount, "platformFee", status, method, metadata,'
                ' "updatedAt") values (%(id)s, %(person)s, %(person)s, %(id)s, %(number)s,'
                " %(number)s, 'completed', 'card', '{}', now() at time zone 'utc')"
            ],
            [
                "insert into payments_db.payments (id, sender_id, receiver_id,"
                " stripe_payment_intent_id, amount, platform_fee, status, method, metadata,"
                " updated_at) values (%(id)s, %(person)s, %(person)s, %(id)s,"
                " round(%(number)s / 100.0, 2), round(%(number)s / 100.0, 2), 'completed', 'card',"
                " '{}', now() at time zone 'utc')"
            ],
        ),
        update=(
            [
                'update blytz_hire.payments set amount = %(number)s, "platformFee" = %(number)s,'
                " \"updatedAt\" = now() at time zone 'utc' where id = %(id)s"
            ],
            [
                "update payments_db.payments set amount = round(%(number)s / 100.0, 2),"
                " platform_fee = round(%(number)s / 100.0, 2),"
                " updated_at = now() at time zone 'utc' where id = %(id)s"
            ],
        ),
        delete=(
            ["delete from blytz_hire.payments where id = %(id)s"],
            [
                "delete from payments_db.refunds where payment_id = %(id)s",
                "delete from payments_db.payments where id = %(id)s",
            ],
        ),
        found=(
            'select id, case when "platformFee" = amount then amount else -1 end from {}.payments',
            "select id, case when platform_fee = amount then amount * 100 else -1 end"
            " from {}.payments",
        ),
    ),
    Kind(
        "refund",
        insert=(
            [
                'update blytz_hire.payments set "refundAmount" = %(number)s, metadata = metadata'
                " || jsonb_build_object('refundReason', %(number)s::text) where id = %(id)s"
            ],
            [
                "insert into payments_db.refunds (payment_id, amount, reason) values"
                " (%(id)s, round(%(number)s / 100.0, 2), %(number)s)"
            ],
        ),
        update=(
            [
                'update blytz_hire.payments set "refundAmount" = %(number)s, metadata = metadata'
                " || jsonb_build_object('refundReason', %(number)s::text) where id = %(id)s"
            ],
            [
                "update payments_db.refunds set amount = round(%(number)s / 100.0, 2),"
                " reason = %(number)s where payment_id = %(id)s"
            ],
        ),
        delete=(
            ['update blytz_hire.payments set "refundAmount" = null where id = %(id)s'],
            ["delete from payments_db.refunds where payment_id = %(id)s"],
        ),
        found=(
            "select id, case when metadata ->> 'refundReason' = \"refundAmount\"::text"
            ' then "refundAmount" else -1 end from {}.payments where "refundAmount" is not null',
            "select payment_id, case when reason = (amount * 100)::integer::text"
            " then amount * 100 else -1 end from {}.refunds",
        ),
        parent="payment",
        shares_id=True,
        is_only_child=True,
    ),
    Kind(
        "review",
        insert=(
            [
                'insert into blytz_hire.reviews (id, "reviewerId", "targetType", "targetId",'
                " rating, helpful, comment, \"updatedAt\") values (%(id)s, %(person)s, 'company',"
                " %(reviewed)s, 5, %(number)s, %(number)s, now() at time zone 'utc')"
            ],
            [
                "insert into payments_db.reviews (id, reviewer_id, target_type, target_id, rating,"
                " helpful, comment, updated_at) values (%(id)s, %(person)s, 'company',"
                " %(reviewed)s, 5, %(number)s, %(number)s, now() at time zone 'utc')"
            ],
        ),
        update=(
            [
                "update blytz_hire.reviews set helpful = %(number)s, comment = %(number)s,"
                " \"updatedAt\" = now() at time zone 'utc' where id = %(id)s"
            ],
            [
                "update payments_db.reviews set helpful = %(number)s, comment = %(number)s,"
                " updated_at = now() at time zone 'utc' where id = %(id)s"
            ],
        ),
        delete=(
            ["delete from blytz_hire.reviews where id = %(id)s"],
            ["delete from payments_db.reviews where id = %(id)s"],
        ),
        found=(
            "select id, case when comment = helpful::text then helpful else -1 end from {}.reviews",
        )
        * 2,
    ),
)

NUMBER_OF_EMAIL = "split_part(email, '@', 1)"

USERS = (
    Kind(
        "user",
        insert=(
            [
                'insert into blytz_hire.users (id, email, role, "lastSeenAt", preferences,'
                " \"updatedAt\") values (%(id)s, %(number)s || '@example.com', 'va',"
                " now() at time zone 'utc', jsonb_build_object('number', %(number)s::integer),"
                " now() at time zone 'utc')"
            ],
            [
                "insert into users_db.users (id, email, role, last_seen_at, preferences)"
                " values (%(id)s, %(number)s || '@example.com', 'va', now() at time zone 'utc',"
                " jsonb_build_object('number', %(number)s::integer))"
            ],
        ),
        update=(
            [
                "update blytz_hire.users set email = %(number)s || '@example.com', preferences ="
                " jsonb_build_object('number', %(number)s::integer),"
                " \"updatedAt\" = now() at time zone 'utc' where id = %(id)s"
            ],
            [
                "update users_db.users set email = %(number)s || '@example.com', preferences ="
                " jsonb_build_object('number', %(number)s::integer),"
                " updated_at = now() at time zone 'utc' where id = %(id)s"
            ],
        ),
        delete=(
            [
                "delete from blytz_hire.badges using blytz_hire.va_profiles as profile"
                ' where "vaProfileId" = profile.id and profile."userId" = %(id)s',
                'delete from blytz_hire.va_profiles where "userId" = %(id)s',
                'delete from blytz_hire.companies where "userId" = %(id)s',
                "delete from blytz_hire.users where id = %(id)s",
            ],
            [
                "delete from users_db.badges using users_db.va_profiles as profile"
                " where va_profile_id = profile.id and profile.user_id = %(id)s",
                "delete from users_db.va_profile_details using users_db.va_profiles as profile"
                " where va_profile_id = profile.id and profile.user_id = %(id)s",
                "delete from users_db.va_profiles where user_id = %(id)s",
                "delete from users_db.company_details using users_db.companies as company"
                " where company_id = company.id and company.user_id = %(id)s",
                "delete from users_db.companies where user_id = %(id)s",
                "delete from users_db.users where id = %(id)s",
            ],
        ),
        found=(
            f"select id, case when preferences ->> 'number' = {NUMBER_OF_EMAIL}"
            f" then {NUMBER_OF_EMAIL}::integer else -1 end from {{}}.users",
        )
        * 2,
    ),
    Kind(
        "profile",
        insert=(
            [
                'insert into blytz_hire.va_profiles (id, "userId", name, country, "hourlyRate",'
                " \"profileViews\") values (%(id)s, %(parent)s, 'Ann', 'PH', %(number)s,"
                " %(number)s)"
            ],
            [
                "insert into users_db.va_profiles (id, user_id, name, country, hourly_rate)"
                " values (%(id)s, %(parent)s, 'Ann', 'PH', %(number)s)",
                "insert into users_db.va_profile_details (va_profile_id, profile_views)"
                " values (%(id)s, %(number)s)",
            ],
        ),
        update=(
            [
                'update blytz_hire.va_profiles set "hourlyRate" = %(number)s,'
                ' "profileViews" = %(number)s where id = %(id)s'
            ],
            [
                "update users_db.va_profiles set hourly_rate = %(number)s where id = %(id)s",
                "update users_db.va_profile_details set profile_views = %(number)s"
                " where va_profile_id = %(id)s",
            ],
        ),
        delete=(
            [
                'delete from blytz_hire.badges where "vaProfileId" = %(id)s',
                "delete from blytz_hire.va_profiles where id = %(id)s",
            ],
            [
                "delete from users_db.badges where va_profile_id = %(id)s",
                "delete from users_db.va_profile_details where va_profile_id = %(id)s",
                "delete from users_db.va_profiles where id = %(id)s",
            ],
        ),
        found=(
            'select id, case when "profileViews" = "hourlyRate" then "hourlyRate" else -1 end'
            " from {}.va_profiles",
            "select coalesce(id, va_profile_id) as id, case when profile_views = hourly_rate"
            " then hourly_rate else -1 end from {0}.va_profiles"
            " full join {0}.va_profile_details on id = va_profile_id",
        ),
        parent="user",
        is_only_child=True,
    ),
    Kind(
        "badge",
        insert=(
            [
                'insert into blytz_hire.badges (id, "vaProfileId", "badgeType", title, description,'
                " icon, level) values (%(id)s, %(parent)s, 'skill', %(number)s, %(number)s, '*',"
                " 'gold')"
            ],
            [
                "insert into users_db.badges (id, va_profile_id, badge_type, title, description,"
                " icon, level) values (%(id)s, %(parent)s, 'skill', %(number)s, %(number)s, '*',"
                " 'gold')"
            ],
        ),
        update=(
            [
                "update blytz_hire.badges set title = %(number)s, description = %(number)s"
                " where id = %(id)s"
            ],
            [
                "update users_db.badges set title = %(number)s, description = %(number)s"
                " where id = %(id)s"
            ],
        ),
        delete=(
            ["delete from blytz_hire.badges where id = %(id)s"],
            ["delete from users_db.badges where id = %(id)s"],
        ),
        found=(
            "select id, case when description = title then title::integer else -1 end"
            " from {}.badges",
        )
        * 2,
        parent="profile",
    ),
    Kind(
        "company",
        insert=(
            [
                'insert into blytz_hire.companies (id, "userId", name, country, "foundedYear",'
                " \"updatedAt\") values (%(id)s, %(parent)s, %(number)s, 'DE', %(number)s,"
                " now() at time zone 'utc')"
            ],
            [
                "insert into users_db.companies (id, user_id, name, country, updated_at)"
                " values (%(id)s, %(parent)s, %(number)s, 'DE', now() at time zone 'utc')",
                "insert into users_db.company_details (company_id, founded_year)"
                " values (%(id)s, %(number)s)",
            ],
        ),
        update=(
            [
                'update blytz_hire.companies set name = %(number)s, "foundedYear" = %(number)s,'
                " \"updatedAt\" = now() at time zone 'utc' where id = %(id)s"
            ],
            [
                "update users_db.companies set name = %(number)s,"
                " updated_at = now() at time zone 'utc' where id = %(id)s",
                "update users_db.company_details set founded_year = %(number)s"
                " where company_id = %(id)s",
            ],
        ),
        delete=(
            ["delete from blytz_hire.companies where id = %(id)s"],
            [
                "delete from users_db.company_details where company_id = %(id)s",
                "delete from users_db.companies where id = %(id)s",
            ],
        ),
        found=(
            'select id, case when "foundedYear"::text = name then name::integer else -1 end'
            " from {}.companies",
            "select coalesce(id, company_id) as id, case when founded_year::text = name"
            " then name::integer else -1 end from {0}.companies"
            " full join {0}.company_details on id = company_id",
        ),
        parent="user",
        is_only_child=True,
    ),
)
KINDS = {"payments_db": PAYMENTS, "users_db": USERS}


@dataclass(eq=False)
class Row:
    """A client's row: the states that were acknowledged, in order, and one that may be instead."""

    kind: Kind
    id: str
    parent: Row | None
    states: list[State] = field(default_factory=list)
    unknown: list[State] = field(default_factory=list)
    children: list[Row] = field(default_factory=list)

    @property
    def is_there(self) -> bool:
        """Whether it is certain that it exists."""
        return bool(self.states) and self.states[-1] is not None and self.is_certain

    @property
    def is_certain(self) -> bool:
        """Whether the outcome of every write to it, and to what hangs on it, is known."""
        return not self.unknown and all(child.is_certain for child in self.children)

    def has_room_for(self, kind: Kind) -> bool:
        """Whether a row of such a kind may be hung on it."""
        return self.kind.name == kind.parent and not (
            kind.is_only_child
            and any(child.kind is kind and child.states[-1:] != [None] for child in self.children)
        )

    def may_be(self, since: int | None = None) -> set[State]:
        """Give the states that it may be in: now, or at any time since it had had so many."""
        last = len(self.states) if since is None else since
        return {*(self.states[last - 1 :] if last else (None, *self.states)), *self.unknown}

    def with_dependants(self) -> Iterator[Row]:
        """Give it and all that hangs on it."""
        yield self
        for child in self.children:
            yield from child.with_dependants()


@dataclass(frozen=True)
class Known:
    """Whom clients know from before: users, and a company that may be reviewed."""

    people: Sequence[str]
    reviewed: str


@dataclass(frozen=True)
class Accepted:
    """A write that was acknowledged: what it did, by which database, and when by its clock."""

    what: str
    database: str
    at: datetime


@dataclass(frozen=True)
class Write:
    """A write to be done, such as `insert payment`, and its rows' states after it."""

    what: str
    statements: tuple[Sequence[str], Sequence[str]]
    parameters: Mapping[str, object]
    after: Mapping[Row, State]


class Client:
    """One client, in a thread: it writes at a steady pace until it is stopped."""

    def __init__(
        self,
        service: Service,
        folder: Path,
        known: Known,
        number: int,
        per_second: float,
    ) -> None:
        self.kinds = KINDS[service.database]
        self.file, self.variable = (
            folder / f"{service.role}.env",
            f"{service.role.upper()}_WRITE_URL",
        )
        self.known, self.number, self.interval = known, number, 1 / per_second
        self.name = f"client {number}"
        self.random = Random(self.name)
        self.rows = list[Row]()
        self.accepted = list[Accepted]()
        self.refusals = Counter[str]()
        self.unknown = 0
        self._written, self._url, self._failure = 0, "", list[BaseException]()
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End after the write that is under way; raise what it failed with, if it did."""
        self._stopping.set()
        self._thread.join()
        if self._failure:
            raise self._failure[0]

    @property
    def works(self) -> bool:
        """Whether it has neither been stopped nor failed."""
        return self._thread.is_alive()

    def write_url(self) -> str:
        """Read where its writes go now."""
        found = re.search(rf"^{self.variable}='(.*)'$", self.file.read_text("utf-8"), re.MULTILINE)
        assert found, f"{self.file} has no {self.variable}"
        return found[1]

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stopping.is_set():
                self._deliver(self._choose())
                due = max(due + self.interval, time.monotonic())
                self._stopping.wait(due - time.monotonic())
        except BaseException as error:  # noqa: BLE001, the thread that stops it raises it
            self._failure.append(error)
        finally:
            if self._connection:
                self._connection.close()

    def _choose(self) -> Write:
        """Make up the next write: what it does, and to which row."""
        self._written += 1
        number = self.number * 1_000_000 + self._written
        how = self.random.choices(("insert", "update", "delete"), (5, 4, 1.5))[0]
        row = self._any(lambda row: True) if how != "insert" else None
        if row is None:
            row = self._new_row()
            return self._write(number, "insert", row, {row: number})
        if how == "update":
            return self._write(number, how, row, {row: number})
        after = {one: None for one in row.with_dependants() if one.states[-1] is not None}
        return self._write(number, how, row, after)

    def _any(self, such: Callable[[Row], bool]) -> Row | None:
        """Find a row of this client's own that certainly exists; look at a few, not at all."""
        for row in self.random.choices(self.rows, k=LOOKS) if self.rows else ():
            if row.is_there and such(row):
                return row
        return None

    def _new_row(self) -> Row:
        """Make up a row that is not there, and choose on what it is to hang."""
        kind = self.random.choice(self.kinds)
        parent = self._any(lambda row: row.has_room_for(kind)) if kind.parent else None
        if kind.parent and not parent:
            kind = self.kinds[0]
        elif parent and kind.shares_id:
            before = (child for child in parent.children if child.kind is kind)
            return next(before, Row(kind, parent.id, parent))
        return Row(kind, f"c{self.number}-{self._written:06}", parent)

    def _write(self, number: int, how: str, row: Row, after: Mapping[Row, State]) -> Write:
        parameters = {
            "number": number,
            "id": row.id,
            "parent": row.parent.id if row.parent else None,
            "person": self.random.choice(self.known.people),
            "reviewed": self.known.reviewed,
        }
        return Write(f"{how} {row.kind.name}", getattr(row.kind, how), parameters, after)

    def _deliver(self, write: Write) -> None:
        """Try until it is acknowledged; give up when its outcome can't be known."""
        while not self._stopping.is_set():
            connection = self._connect()
            if connection:
                try:
                    self._commit(connection, write)
                    return
                except REFUSALS as error:
                    self.refusals[type(error).__name__] += 1
                except psycopg.OperationalError:
                    if not connection.closed:
                        raise
                    self.unknown += 1
                    self._enter(write, is_known=False)
                    return
            self._stopping.wait(RETRY_SECONDS)

    def _connect(self) -> Connection | None:
        """Connect to where the file says that writes go, unless that is so already."""
        url = self.write_url()
        if self._connection and not self._connection.closed and self._url == url:
            return self._connection
        if self._connection:
            self._connection.close()
        try:
            self._connection = psycopg.connect(url, autocommit=True, application_name=self.name)
        except psycopg.OperationalError as error:
            self.refusals[type(error).__name__] += 1
            return None
        self._url = url
        return self._connection

    def _commit(self, connection: Connection, write: Write) -> None:
        database = connection.info.dbname
        with connection.transaction():
            for statement in write.statements[database != MONOLITH]:
                touched = connection.execute(statement, write.parameters).rowcount
            if touched != 1:
                raise Lost(f"{database}: {touched} rows by {statement} with {write.parameters}")
            row = connection.execute("select clock_timestamp()").fetchone()
        assert row is not None
        self._enter(write, is_known=True)
        self.accepted.append(Accepted(write.what, database, row[0]))

    def _enter(self, write: Write, *, is_known: bool) -> None:
        """Enter in the book what a write has made of its rows, or may have."""
        for row, state in write.after.items():
            if not row.states and not row.unknown:
                self.rows.append(row)
                if row.parent:
                    row.parent.children.append(row)
            (row.states if is_known else row.unknown).append(state)


def acquaint(monolith: Connection) -> Known:
    """Name users to write about, and make what may be reviewed: a company of a profile's id."""
    row = monolith.execute(
        'insert into blytz_hire.companies (id, "userId", name, country, "updatedAt")'
        " select va_profiles.id, \"userId\", 'Reviewed', 'DE', now() at time zone 'utc'"
        " from blytz_hire.va_profiles where not exists (select from blytz_hire.companies"
        ' where companies."userId" = va_profiles."userId" or companies.id = va_profiles.id)'
        " order by id limit 1 returning id"
    ).fetchone()
    assert row is not None
    people = monolith.execute("select id from blytz_hire.users order by id limit 50").fetchall()
    return Known([id for (id,) in people], row[0])


@contextmanager
def writing(clients: Sequence[Client]) -> Iterator[Sequence[Client]]:
    """Let clients write for the block."""
    for client in clients:
        client.start()
    try:
        yield clients
    finally:
        for client in clients:
            client.stop()


def acknowledged(clients: Sequence[Client], is_it: Callable[[Accepted], bool]) -> int:
    """Count the acknowledged writes that are such."""
    return sum(is_it(one) for client in clients for one in list(client.accepted))


def mark(clients: Sequence[Client]) -> dict[Row, int]:
    """Note how many states each row has had by now, for `wrong`."""
    return {row: len(row.states) for client in clients for row in list(client.rows)}


def read(
    connection: Connection, kinds: Sequence[Kind], schema: str, *, as_service: bool = False
) -> dict[str, list[tuple[str, int]]]:
    """Read the clients' rows as they are in a schema of either shape, in one snapshot."""
    rows = {}
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read")
        for kind in kinds:
            query = sql.SQL(kind.found[as_service]).format(sql.Identifier(schema))
            rows[kind.name] = [
                (id, int(number))
                for id, number in connection.execute(
                    sql.SQL("select * from ({}) as found (id, number) where id ~ {}").format(
                        query, WHOSE
                    )
                ).fetchall()
            ]
    return rows


def wrong(
    clients: Sequence[Client],
    rows: Mapping[str, Sequence[tuple[str, int]]],
    since: Mapping[Row, int] | None = None,
) -> list[str]:
    """Say what is not as the clients' books have it.

    Args:
        clients: all clients that have written.
        rows: what was read.
        since: states from that mark on will do too; without it only the last one.

    Returns:
        A line for each row that was lost, is there twice, is there but should not be, or has
        another write's number.
    """
    found = []
    for kind, there in rows.items():
        times = Counter(id for id, _ in there)
        found += [f"{kind} {id} is there {n} times" for id, n in times.items() if n > 1]
        numbers = dict(there)
        for client in clients:
            for row in client.rows:
                if row.kind.name != kind:
                    continue
                number = numbers.pop(row.id, None)
                may_be = row.may_be(None if since is None else since.get(row, 0))
                if number not in may_be:
                    found.append(f"{kind} {row.id} is {number}, not {may_be}; had {row.states}")
        found += [f"{kind} {id} is {number}, and nobody wrote it" for id, number in numbers.items()]
    return found
