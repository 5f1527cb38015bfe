"""Helpers for tests of switch and rollback: a service's state, and a client that keeps writing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg

from demo.project import select
from pgsplit.replication.session import Session
from pgsplit.replication.subscription import published
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import open_ledger, state
from pgsplit.state.saga import unfinished
from tests.support.split import Split
from tests.support.waiting import until

(PAYMENTS,) = select(("payments",))
OWNED = ("payments", "reviews")
NEW_PAYMENT = {
    Side.MONOLITH: 'insert into blytz_hire.payments (id, "userId", "receiverId",'
    ' "stripePaymentIntentId", amount, status, method, "updatedAt")'
    " select %(id)s, (select min(id) from blytz_hire.users), 'nobody', 'pi ' || %(id)s, 700,"
    " 'paid', 'card', now()",
    Side.SERVICE: "insert into payments_db.payments (id, sender_id, receiver_id,"
    " stripe_payment_intent_id, amount, status, method, updated_at)"
    " select %(id)s, (select min(sender_id) from payments_db.payments), 'nobody',"
    " 'pi ' || %(id)s, 7.00, 'paid', 'card', now()",
}
ADD_A_CENT = {
    Side.MONOLITH: "update blytz_hire.payments set amount = amount + 1 where id = %(id)s",
    Side.SERVICE: "update payments_db.payments set amount = amount + 0.01 where id = %(id)s",
}


def words(text: str) -> str:
    """Give output without its line breaks."""
    return " ".join(text.split())


def ran(split: Split, *arguments: str, code: int = 0) -> str:
    """Run runner.py as a person would; give all its output."""
    done = split.runner(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return words(done.stdout + " " + done.stderr)


def move(split: Split, operation: str, *arguments: str) -> str:
    """Switch or roll back, without a dump first and without waiting for a write afterwards."""
    quickly = ("--wait-for-write", "0") if operation == "switch" else ()
    return ran(split, operation, "payments", "--no-backup", *quickly, *arguments)


def as_service(split: Split) -> psycopg.Connection[Any]:
    """Connect as the service's applications do."""
    return psycopg.connect(env_file.own_url(PAYMENTS, split.connections), autocommit=True)


def one(connection: psycopg.Connection[Any], question: str, *parameters: object) -> Any:
    """Give the only value of the only row."""
    row = connection.execute(question, parameters).fetchone()
    assert row is not None
    return row[0]


def stands(split: Split) -> str:
    """Give the service's state in the ledger."""
    with split.monolith() as monolith:
        return state(monolith, PAYMENTS).value


def bring_to_verified(split: Split) -> None:
    """Finish whatever a test left unfinished, and roll the service back."""
    with open_ledger(split.connections) as ledger:
        is_cut_short = PAYMENTS.database in unfinished(ledger)
    if is_cut_short:
        ran(split, "resume")
    if stands(split) == "switched":
        move(split, "rollback")
    if env_file.sides(PAYMENTS, split.connections)[0] is Side.SERVICE:
        ran(split, "rollback", "payments")
    if stands(split) == "absent":
        ran(split, "run", "payments")
    if stands(split) == "built":
        ran(split, "verify", "payments")
    assert stands(split) == "verified"


def set_aside(split: Split) -> list[str]:
    """List the quarantine tables that rollbacks have made in the schema audit."""
    with split.service("payments_db") as database:
        rows = database.execute(
            "select relname from pg_class where relnamespace = 'audit'::regnamespace"
            " and relkind = 'r'"
            " and obj_description(oid, 'pg_class') like 'Rows as the service had them%'"
            " order by 1"
        ).fetchall()
    return [row[0] for row in rows]


@contextmanager
def both_ends(split: Split) -> Iterator[Session]:
    """Connect to monolith and service."""
    with split.monolith() as monolith, split.service("payments_db") as database:
        yield Session(PAYMENTS, split.connections, monolith, database)


def takes_writes(session: Session) -> bool:
    """Tell whether the service's applications can write their tables; before there is a fence,
    they have no right to.
    """
    row = session.database.execute(
        "select has_table_privilege(%s, 'payments_db.payments', 'insert')", (PAYMENTS.login,)
    ).fetchone()
    return row == (True,) and session.service_fence.is_open()


def assert_agreed(split: Split) -> str:
    """Check that everything names the same source of truth; give the state."""
    state_is = stands(split)
    is_switched = state_is == "switched"
    place = Side.SERVICE if is_switched else Side.MONOLITH
    with both_ends(split) as session:
        assert session.monolith_fence.is_open() is not is_switched
        assert takes_writes(session) is is_switched
        assert session.monolith_fence.is_closed_for_good() is is_switched
        forward, reverse = session.forward, session.reverse
        assert bool(published(session.monolith, forward.name) & set(OWNED)) is not is_switched
        assert bool(published(session.database, reverse.name) & set(OWNED)) is is_switched
        assert reverse.is_there() is (reverse.slot() is not None) is is_switched
        row = session.database.execute(
            "select switched_at is not null from split.service"
        ).fetchone()
        assert row == (is_switched,)
    assert env_file.sides(PAYMENTS, split.connections) == (place, place)
    return state_is


def assert_alike(split: Split) -> None:
    """The monolith's tables match the reverse models; while the monolith is the source of truth,
    the service's tables match its models, too.
    """
    ran(split, "sync", "payments")
    with both_ends(split) as session:
        database, monolith = session.database, session.monolith
        for table, definition in database.execute(
            "select table_name, definition from split.mirror_tables"
        ).fetchall():
            row = database.execute(
                "select string_agg(quote_ident(attname), ', ' order by attname) from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0 and not attisdropped",
                (f"blytz_hire.{table}",),
            ).fetchone()
            assert row is not None
            rebuilt = f"select row({row[0]})::text from ({definition}) as model order by 1"
            there = f"select row({row[0]})::text from blytz_hire.{table} order by 1"
            assert database.execute(rebuilt).fetchall() == monolith.execute(there).fetchall()
        for table, definition, owned_rows in database.execute(
            "select table_name, definition, owned_rows from split.service_tables"
        ).fetchall():
            if stands(split) == "switched" and owned_rows == "true":
                continue
            here = f"select t::text from payments_db.{table} as t order by 1"
            model = f"select t::text from ({definition}) as t order by 1"
            assert database.execute(here).fetchall() == monolith.execute(model).fetchall()


class Halt:
    """The step at which a runner halts, and how to release it."""

    def __init__(self, monolith: psycopg.Connection[Any]) -> None:
        self.monolith = monolith
        monolith.execute("select pg_advisory_lock(42)")

    def wait(self) -> int:
        """Wait until it halts; give the PID of its server process."""
        until(lambda: self._standing() is not None)
        standing = self._standing()
        assert standing is not None
        return standing

    def release(self) -> None:
        """Release it; if the server went down meanwhile, nothing is halted any more."""
        with suppress(psycopg.OperationalError):
            self.monolith.execute("select pg_advisory_unlock_all()")

    def _standing(self) -> int | None:
        row = self.monolith.execute(
            "select pid from pg_locks where locktype = 'advisory' and objid = 42 and not granted"
            " and database = (select oid from pg_database where datname = current_database())"
        ).fetchone()
        return row[0] if row else None


@contextmanager
def halted(split: Split, step: str, moment: str = "begun") -> Iterator[Halt]:
    """Halt whoever records a step.

    `begun`: its intent is about to be committed, and will be, whatever becomes of the runner.
    `done`: it is done, and whether that is recorded depends on the runner.
    `recorded`: its outcome is about to be committed, and will be.
    """
    event = "insert" if moment == "begun" else "update"
    kind = (
        "create trigger halt after {} on split.ledger"
        if moment == "done"
        else "create constraint trigger halt after {} on split.ledger deferrable initially deferred"
    ).format(event)
    with split.monolith() as holder:
        halt = Halt(holder)
        holder.execute(
            "create function public.halt() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock(42); return null; end $$"
        )
        holder.execute(
            f"{kind} for each row when (new.step = '{step}') execute function public.halt()"
        )
        try:
            yield halt
        finally:
            halt.release()
            with split.monolith() as monolith:
                monolith.execute("drop function if exists public.halt() cascade")


PICTURES = {
    "relations": "select oid::regclass::text, relkind, relacl::text from pg_class"
    " where relnamespace::regnamespace::text !~ '^pg_|information_schema'",
    "triggers": "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger"
    " where not tgisinternal",
    "functions": "select oid::regprocedure::text, md5(prosrc) from pg_proc"
    " where pronamespace::regnamespace::text !~ '^pg_|information_schema'",
    "constraints": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid),"
    " convalidated from pg_constraint",
    "published": "select pubname, schemaname, tablename, attnames::text from pg_publication_tables",
    "subscriptions": "select subname, subenabled, subslotname from pg_subscription where subdbid ="
    " (select oid from pg_database where datname = current_database())",
    "slots": "select slot_name, database from pg_replication_slots",
    "schemas": "select nspname, nspacl::text from pg_namespace where nspname !~ '^pg_'",
}
MONOLITH_RECORDS = {
    "ledger": "select id, service, step, outcome, intent::text, detail::text from split.ledger",
    "states": "select service, state, since from split.states",
    "proofs": "select service, table_name, is_proven, finished_at from split.verifications",
    "heartbeats": "select service from split.heartbeats",
}
SERVICE_RECORDS = {
    "service": "select switched_at from split.service",
    "tables": "select table_name, md5(definition), is_stale from split.service_tables",
    "mirror": "select table_name, md5(definition), is_stale from split.mirror_tables",
}
SERVERS = {
    "databases": "select datname from pg_database",
    "roles": "select rolname from pg_roles",
}


def picture(split: Split) -> dict[str, list[Any]]:
    """Give what is defined and recorded on both sides, and what applications are told."""
    seen: dict[str, list[Any]] = {}
    sides = {
        "monolith": (split.monolith, {**PICTURES, **SERVERS, **MONOLITH_RECORDS}),
        "service": (lambda: split.service("payments_db"), {**PICTURES, **SERVICE_RECORDS}),
    }
    for side, (connect, questions) in sides.items():
        with connect() as connection:
            for name, question in questions.items():
                rows = connection.execute(question).fetchall()
                seen[f"{side}'s {name}"] = sorted(map(repr, rows))
            if connection.execute("select to_regclass('split.gates') is not null").fetchone() == (
                True,
            ):
                rows = connection.execute("select * from split.gates").fetchall()
                seen[f"{side}'s gates"] = sorted(map(repr, rows))
    path = env_file.file(PAYMENTS, split.connections)
    seen["file"] = path.read_text().splitlines() if path.exists() else []
    return seen


@contextmanager
def unchanged(split: Split) -> Iterator[None]:
    """Check that the block changes nothing."""
    before = picture(split)
    yield
    after = picture(split)
    for name in before.keys() | after.keys():
        assert after.get(name) == before.get(name), name


def checksums(split: Split) -> dict[str, str]:
    """Give a checksum of each of the monolith's own tables."""
    with split.monolith() as monolith:
        tables = monolith.execute(
            "select relname from pg_class where relnamespace = 'blytz_hire'::regnamespace"
            " and relkind = 'r'"
        ).fetchall()
        found = {}
        for (table,) in tables:
            row = monolith.execute(
                f"select md5(coalesce(string_agg(t::text, ',' order by t::text), ''))"
                f" from blytz_hire.{table} as t"
            ).fetchone()
            assert row is not None
            found[table] = row[0]
    return found


class Writer:
    """An application: it writes where the service's env file says, and knows what was acknowledged.

    Each write adds a payment, or a cent to the writer's first one. One whose connection was lost
    may have come through or not; one that was refused has not.
    """

    def __init__(self, split: Split, tag: str, seconds_between: float = 0.02) -> None:
        self.split, self.tag, self.seconds_between = split, tag, seconds_between
        self.added, self.unknown, self.refusals = list[str](), list[str](), list[str]()
        self.cents = self.unknown_cents = self.attempts = 0
        self.first = f"{tag}-0"
        self.written_at = dict.fromkeys(Side, 0)
        self._stop, self._failed = threading.Event(), list[BaseException]()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        until(lambda: self.cents > 0 or bool(self._failed))
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._failed, self._failed

    def assert_gets_through(self, place: Side) -> None:
        """Wait until some more writes succeed there."""
        before = self.written_at[place]
        until(lambda: self.written_at[place] > before + 2 or bool(self._failed))

    def assert_nothing_lost(self) -> None:
        """Check that every acknowledged write is on both sides once, and no refused write."""
        ran(self.split, "sync", "payments")
        sides = {
            "blytz_hire": "select id, amount from blytz_hire.payments where id like %s",
            "payments_db": "select id, (amount * 100)::integer from payments_db.payments"
            " where id like %s",
        }
        found = {}
        for side, question in sides.items():
            with self.split.connections.connect(side) as connection:
                rows = connection.execute(question, (f"{self.tag}-%",)).fetchall()
            found[side] = dict(rows)
        assert found["blytz_hire"] == found["payments_db"]
        there = found["blytz_hire"]
        assert set(self.added) <= set(there) <= {*self.added, *self.unknown}
        extra = there[self.first] - 700 - self.cents
        assert 0 <= extra <= self.unknown_cents

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._connected()
        except BaseException as error:  # noqa: BLE001 whatever it is, the test is to show it
            self._failed.append(error)

    def _connected(self) -> None:
        """Write on one connection until it is lost or the env file routes elsewhere."""
        target = env_file.read(PAYMENTS, self.split.connections)
        place = target.writes_at
        try:
            connection = psycopg.connect(target.write, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError:
            self._stop.wait(0.1)
            return
        with closing(connection):
            while not self._stop.is_set() and self._written(connection, place):
                self._stop.wait(self.seconds_between)
                if env_file.read(PAYMENTS, self.split.connections).write != target.write:
                    return

    def _written(self, connection: psycopg.Connection[Any], place: Side) -> bool:
        number, self.attempts = self.attempts, self.attempts + 1
        is_new = number % 2 == 0 or not self.added
        name = self.first if not self.added else f"{self.tag}-{number}"
        statement = (NEW_PAYMENT if is_new else ADD_A_CENT)[place]
        try:
            connection.execute(statement, {"id": name if is_new else self.first})
        except psycopg.errors.ReadOnlySqlTransaction as error:
            self.refusals.append(str(error))
            return False
        except psycopg.OperationalError:
            if is_new:
                self.unknown.append(name)
            else:
                self.unknown_cents += 1
            return False
        if is_new:
            self.added.append(name)
        else:
            self.cents += 1
        self.written_at[place] += 1
        return True
