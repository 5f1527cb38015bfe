"""User events reach each service in order and exactly once, whatever breaks."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema
import psycopg
import pytest

from demo.project import ROOT, select
from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.replication.sharing.events import Gone, follow, read
from pgsplit.replication.sharing.events import inbox as inbox_of
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes, sync
from tests.support.sharing import (
    Consumer,
    Followers,
    add_users,
    inbox,
    last_sequence,
    login,
)
from tests.support.split import Split
from tests.support.waiting import until

(PAYMENTS,) = select(("payments",))
SCHEMA = json.loads((ROOT / "docs" / "user_event.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(
    SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


def sync_and_read_events(
    split: Split, since: int, *users: str
) -> list[tuple[str, str, dict[str, Any]]]:
    """Sync payments_db; validate its new events and give type, user and data of each."""
    sync(PAYMENTS, split.connections)
    found = inbox(split, PAYMENTS, since)
    sequences = [sequence for sequence, _ in found]
    assert sequences == sorted(set(sequences))
    for _, event in found:
        VALIDATOR.validate(event)
        assert event["data"]["id"] == event["userId"]
    return [
        (event["type"].removeprefix("USER_"), event["userId"], event["data"])
        for _, event in found
        if not users or event["userId"] in users
    ]


def change(split: Split, *statements: str) -> None:
    """Commit statements in the monolith, in one transaction."""
    with split.monolith() as monolith, monolith.transaction():
        for statement in statements:
            monolith.execute(statement)


def shared(split: Split, user: str) -> tuple[Any, ...] | None:
    with split.service("payments_db") as database:
        return database.execute(
            "select email, role, name, avatar, deleted_at is not null from payments_db.shared_users"
            " where id = %s",
            (user,),
        ).fetchone()


def test_first_copy_makes_no_events(living: Split) -> None:
    with living.service("payments_db") as database:
        row = database.execute("select count(*) from payments_db.shared_users").fetchone()
    assert row is not None
    assert row[0] > 0
    assert inbox(living, PAYMENTS) == []


def test_event_schema_matches_the_strategys_user_event() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    event = {
        "type": "USER_UPDATED",
        "userId": "u1",
        "data": {"id": "u1", "email": "a@example.com", "role": "va", "name": "A", "avatar": "a"},
        "timestamp": "2026-01-01T00:00:00.000Z",
    }
    VALIDATOR.validate(event)
    data = {"id": "u1", "email": "a@example.com", "role": "va"}
    VALIDATOR.validate({**event, "data": data})
    for wrong in (
        {**event, "type": "USER_RENAMED"},
        {**event, "timestamp": "2026-01-01 00:00:00"},
        {**event, "data": {**data, "phone": "1"}},
        {**event, "data": {**data, "name": None}},
        {**event, "data": {"id": "u1"}},
        {key: value for key, value in event.items() if key != "userId"},
    ):
        assert not VALIDATOR.is_valid(wrong), wrong


def test_creating_updating_and_deleting_a_user_become_events_in_order(living: Split) -> None:
    since = last_sequence(living, PAYMENTS)
    add_users(living, "life")
    assert sync_and_read_events(living, since) == [
        ("CREATED", "life", {"id": "life", "email": "life@example.com", "role": "va"})
    ]
    since = last_sequence(living, PAYMENTS)
    change(living, "update blytz_hire.users set email = 'new@example.com' where id = 'life'")
    assert sync_and_read_events(living, since) == [
        ("UPDATED", "life", {"id": "life", "email": "new@example.com", "role": "va"})
    ]
    since = last_sequence(living, PAYMENTS)
    change(living, "delete from blytz_hire.users where id = 'life'")
    assert sync_and_read_events(living, since) == [
        ("DELETED", "life", {"id": "life", "email": "new@example.com", "role": "va"})
    ]
    assert shared(living, "life") == ("new@example.com", "va", None, None, True)
    assert sync_and_read_events(living, last_sequence(living, PAYMENTS)) == []
    since = last_sequence(living, PAYMENTS)
    add_users(living, "life")
    assert [type for type, *_ in sync_and_read_events(living, since)] == ["CREATED"]
    assert shared(living, "life") == ("life@example.com", "va", None, None, False)
    assert_in_step_but_for_the_deleted(living)


def assert_in_step_but_for_the_deleted(split: Split) -> None:
    with split.service("payments_db") as database, split.monolith() as monolith:
        (definition,) = database.execute(
            "select definition from split.service_tables where table_name = 'shared_users'"
        ).fetchall()[0]
        here = (
            "select t::text from payments_db.shared_users as t where deleted_at is null order by 1"
        )
        there = f"select t::text from ({definition}) as t order by 1"
        assert database.execute(here).fetchall() == monolith.execute(there).fetchall()


def test_changed_profile_name_becomes_a_user_updated_event(living: Split) -> None:
    add_users(living, "named", with_profiles=True)
    assert sync_and_read_events(living, 0, "named")[-1][2]["name"] == "Ann"
    since = last_sequence(living, PAYMENTS)
    change(
        living,
        "update blytz_hire.va_profiles set name = 'Zoë 🚀', \"avatarUrl\" = 'zoe.png'"
        " where \"userId\" = 'named'",
    )
    data = {"id": "named", "email": "named@example.com", "role": "va"}
    assert sync_and_read_events(living, since) == [
        ("UPDATED", "named", {**data, "name": "Zoë 🚀", "avatar": "zoe.png"})
    ]
    since = last_sequence(living, PAYMENTS)
    change(
        living,
        "update blytz_hire.users set role = 'company' where id = 'named'",
        'insert into blytz_hire.companies (id, "userId", name, country, "updatedAt")'
        " values ('its company', 'named', 'Søren & Søn', 'DK', now())",
    )
    assert sync_and_read_events(living, since) == [
        ("UPDATED", "named", {**data, "role": "company", "name": "Søren & Søn"})
    ]
    since = last_sequence(living, PAYMENTS)
    change(
        living,
        "delete from blytz_hire.companies where id = 'its company'",
        "delete from blytz_hire.va_profiles where \"userId\" = 'named'",
        "delete from blytz_hire.users where id = 'named'",
    )
    # The last that was known of them, whatever went first.
    assert sync_and_read_events(living, since) == [
        ("DELETED", "named", {**data, "role": "company", "name": "Søren & Søn"})
    ]


def test_unshared_columns_and_rolled_back_changes_make_no_event(living: Split) -> None:
    add_users(living, "quiet", with_profiles=True)
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    change(
        living,
        "update blytz_hire.users set preferences = '{}', \"lastSeenAt\" = now() where id = 'quiet'",
        "update blytz_hire.va_profiles set bio = 'long', phone = '1' where \"userId\" = 'quiet'",
        "update blytz_hire.users set email = email where id = 'quiet'",
    )
    with living.monolith() as monolith, monolith.transaction(force_rollback=True):
        monolith.execute("update blytz_hire.users set role = 'admin'")
    assert sync_and_read_events(living, since) == []


def test_changed_id_becomes_a_deleted_and_a_created_event(living: Split) -> None:
    add_users(living, "old id")
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    change(living, "update blytz_hire.users set id = 'new id' where id = 'old id'")
    found = sorted((type, user) for type, user, _ in sync_and_read_events(living, since))
    assert found == [("CREATED", "new id"), ("DELETED", "old id")]


def test_two_users_swapping_emails_become_two_updated_events(living: Split) -> None:
    add_users(living, "swap 1", "swap 2")
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    change(
        living,
        "update blytz_hire.users set email = 'on its way' where id = 'swap 1'",
        "update blytz_hire.users set email = 'swap 1@example.com' where id = 'swap 2'",
        "update blytz_hire.users set email = 'swap 2@example.com' where id = 'swap 1'",
    )
    assert [
        (type, user, data["email"]) for type, user, data in sync_and_read_events(living, since)
    ] == [
        ("UPDATED", "swap 1", "swap 2@example.com"),
        ("UPDATED", "swap 2", "swap 1@example.com"),
    ]


def test_event_is_committed_together_with_its_change(living: Split) -> None:
    """A reader sees both or neither."""
    add_users(living, "both")
    sync(PAYMENTS, living.connections)
    seen, stop = set[Any](), threading.Event()

    def look() -> None:
        with living.service("payments_db") as reader:
            while not stop.is_set():
                seen.add(
                    reader.execute(
                        "select email = (select data ->> 'email' from payments_db.user_events"
                        " where user_id = 'both' order by sequence desc limit 1)"
                        " from payments_db.shared_users where id = 'both'"
                    ).fetchone()
                )

    looking = threading.Thread(target=look)
    with Followers(living, [PAYMENTS], interval=0.01), living.monolith() as monolith:
        looking.start()
        for number in range(60):
            monolith.execute(
                "update blytz_hire.users set email = %s where id = 'both'", (f"{number}@both",)
            )
        sync(PAYMENTS, living.connections)
        stop.set()
        looking.join()
    assert seen == {(True,)}


def test_killed_sync_sends_no_event_and_the_next_one_sends_each_once(living: Split) -> None:
    users = [f"killed-{number}" for number in range(10)]
    add_users(living, *users)
    since, raised = last_sequence(living, PAYMENTS), list[BaseException]()
    with (
        living.service("payments_db") as holder,
        living.service("payments_db") as victim,
        living.monolith() as monolith,
    ):
        stream = Stream(PAYMENTS, monolith, holder)
        beat = stream.beat()
        until(lambda: stream.has_arrived(beat))
        holder.execute("listen user_events")

        def carry() -> None:
            try:
                apply_changes(victim)
            except psycopg.Error as error:
                raised.append(error)

        waits = "select true from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
        with holder.transaction():
            # It has appended its events when it comes to this row.
            holder.execute("select * from split.service for update")
            carrying = threading.Thread(target=carry)
            carrying.start()
            pid = victim.info.backend_pid
            until(lambda: bool(monolith.execute(waits, (pid,)).fetchone()))
            monolith.execute("select pg_terminate_backend(%s)", (pid,))
            carrying.join()
        assert isinstance(raised[0], psycopg.OperationalError)
        assert inbox(living, PAYMENTS, since) == []
        assert list(holder.notifies(timeout=0)) == []
    assert [user for _, user, _ in sync_and_read_events(living, since)] == users
    assert sync_and_read_events(living, last_sequence(living, PAYMENTS)) == []


@pytest.mark.slow
def test_recopied_mirror_repeats_no_event(living: Split) -> None:
    add_users(living, "kept", "changed", "gone")
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    with living.service("payments_db") as database:
        database.execute("alter subscription split_payments_db disable")
    change(
        living,
        "update blytz_hire.users set email = 'once' where id = 'changed'",
        "update blytz_hire.users set email = 'twice' where id = 'changed'",
        "delete from blytz_hire.users where id = 'gone'",
    )
    add_users(living, "added")
    for command in (("land", "payments", "--recopy"), ("build", "payments")):
        ran = living.runner(*command)
        assert ran.returncode == 0, ran.stderr
    told = [(type, user, data["email"]) for type, user, data in sync_and_read_events(living, since)]
    assert sorted(told) == [
        ("CREATED", "added", "added@example.com"),
        ("DELETED", "gone", "gone@example.com"),
        ("UPDATED", "changed", "twice"),
    ]
    ran = living.dbt("run", "--target", "payments_db", "--full-refresh")
    assert ran.returncode == 0, ran.stdout
    assert sync_and_read_events(living, last_sequence(living, PAYMENTS)) == []


def test_notification_carries_the_last_sequence(living: Split) -> None:
    with login(living, PAYMENTS) as listener:
        listener.execute("listen user_events")
        add_users(living, "heard 1", "heard 2", "heard 3")
        sync(PAYMENTS, living.connections)
        sync(PAYMENTS, living.connections)
        heard = [int(one.payload) for one in listener.notifies(timeout=60, stop_after=1)]
        rest = list(listener.notifies(timeout=0))
    assert heard == [last_sequence(living, PAYMENTS)]
    assert rest == []


def test_service_can_read_but_not_write_its_inbox(living: Split) -> None:
    add_users(living, "read")
    sync(PAYMENTS, living.connections)
    with login(living, PAYMENTS) as service:
        since = last_sequence(living, PAYMENTS)
        row = service.execute(
            "select count(*) from payments_db.user_events_since(%s)", (since - 1,)
        ).fetchone()
        assert row == (1,)
        assert service.execute("select 1 from payments_db.user_events limit 1").fetchone() == (1,)
        for statement in (
            "delete from payments_db.user_events",
            "update payments_db.shared_users set role = 'admin'",
            "insert into payments_db.user_events (type, user_id, data)"
            " values ('USER_CREATED', 'x', '{}')",
            "select * from split.service",
            "select * from split.deleted_rows",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(statement)


def test_events_command_shows_and_follows_events(living: Split) -> None:
    add_users(living, *(f"shown-{number:02}" for number in range(30)), with_profiles=True)
    sync(PAYMENTS, living.connections)
    last = last_sequence(living, PAYMENTS)
    shown = living.runner("events", "payments")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert len(lines) == 20
    assert lines[-1].split()[0] == str(last)
    assert lines[-1].endswith("USER_CREATED  shown-29  Ann, va, shown-29@example.com")
    as_json = living.runner("events", "payments", "--since", str(last - 2), "--json")
    none = living.runner("events", "payments", "--since", str(last))
    assert (none.stdout, none.returncode) == ("", 0)
    assert none.stderr == f"payments_db has no event after {last}.\n"
    found = json.loads(as_json.stdout)["services"]["payments_db"]["events"]
    assert [one.pop("sequence") for one in found] == [last - 1, last]
    for one in found:
        VALIDATOR.validate(one)
    command = [sys.executable, str(ROOT / "runner.py"), "events", "payments", "--follow"]
    with subprocess.Popen(
        [*command, "--since", str(last - 1), "--json"],
        env=dict(living.environ),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["userId"] == "shown-29"
        add_users(living, "followed")
        sync(PAYMENTS, living.connections)
        assert json.loads(following.stdout.readline())["userId"] == "followed"
        following.send_signal(signal.SIGINT)
        assert following.wait(30) == 0


def test_reading_expired_events_is_refused_and_later_events_are_kept(living: Split) -> None:
    for user in ("older", "newer"):
        add_users(living, user)
        sync(PAYMENTS, living.connections)
    last = last_sequence(living, PAYMENTS)
    said = living.runner("events", "payments", "--keep", "10d")
    assert said.returncode == 0, said.stderr
    assert said.stdout == "payments_db now keeps its user events for 10 days.\n"
    with living.service("payments_db") as database:
        database.execute(
            "update payments_db.user_events set timestamp = timestamp - interval '11 days'"
            " where sequence < %s",
            (last,),
        )
    assert len(inbox(living, PAYMENTS, 0)) >= 2  # they go when others come
    add_users(living, "newest")
    sync(PAYMENTS, living.connections)
    assert [event["userId"] for _, event in inbox(living, PAYMENTS, last - 1)] == [
        "newer",
        "newest",
    ]
    with pytest.raises(Gone) as caught:
        inbox(living, PAYMENTS, last - 2)
    assert f"The user events up to {last - 1} are gone, and what follows {last - 2} was asked" in (
        caught.value.what
    )
    ran = living.runner("events", "payments", "--since", "0")
    assert ran.returncode == NotReady.exit_code
    assert "Read all of payments_db.shared_users again" in " ".join(ran.stderr.split())
    assert len(living.runner("events", "payments").stdout.splitlines()) == 2

    with login(living, PAYMENTS) as service:
        statement = caught.value.hint.partition("with: ")[2].partition(";")[0]
        row = service.execute(statement).fetchone()
    assert row == (last_sequence(living, PAYMENTS),)


def test_sequence_beyond_the_last_event_is_refused(living: Split) -> None:
    """A consumer may remember a sequence from before its inbox was re-created or restored."""
    last = last_sequence(living, PAYMENTS)
    assert inbox(living, PAYMENTS, last) == []
    with pytest.raises(Gone) as caught:
        inbox(living, PAYMENTS, last + 1)
    assert f"The last user event is {last}, and what follows {last + 1} was asked for." in (
        caught.value.what
    )


@pytest.mark.parametrize("given", ["0d", "soon", "5", "-1h"])
def test_invalid_keep_age_is_refused(living: Split, given: str) -> None:
    ran = living.runner("events", "payments", f"--keep={given}")
    assert ran.returncode == 2
    assert "is not an age such as 12h, 30d or 8w" in ran.stderr


def test_reading_events_is_refused_without_an_inbox(living: Split) -> None:
    with living.service("payments_db") as database:
        database.execute("alter table payments_db.user_events rename to user_events_of_old")
        with pytest.raises(NotReady) as caught:
            list(read(PAYMENTS, living.connections, inbox_of(PAYMENTS), 0))
        database.execute("alter table payments_db.user_events_of_old rename to user_events")
    assert "payments_db is built, and has no inbox yet." in caught.value.what
    assert caught.value.hint == "runner.py run payments"
    living.server.execute("create database users_db")
    ran = living.runner("events", "users")
    assert ran.returncode == NotReady.exit_code
    assert "users_db owns the users: it has no inbox" in " ".join(ran.stderr.split())
    living.server.execute("drop database users_db")


def test_service_that_was_down_receives_missed_changes_once(living: Split) -> None:
    """Its follower is stopped, its database refuses connections, its consumer is cut off."""
    add_users(living, "awaited", "lost")
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    with Consumer(living, PAYMENTS, since) as consumer:
        change(living, "update blytz_hire.users set role = 'before' where id = 'awaited'")
        sync(PAYMENTS, living.connections)
        until(lambda: consumer.has(since + 1))
        living.server.execute("alter database payments_db allow_connections false")
        try:
            living.server.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = 'payments_db'"
            )
            until(lambda: consumer.failed is not None)
            for role in ("once", "twice"):
                change(living, f"update blytz_hire.users set role = '{role}' where id = 'awaited'")
            change(living, "delete from blytz_hire.users where id = 'lost'")
            for command in (("sync", "payments"), ("events", "payments")):
                ran = living.runner(*command)
                assert ran.returncode == ConnectionFailed.exit_code, ran.stderr
                assert "database payments_db" in ran.stderr
        finally:
            living.server.execute("alter database payments_db allow_connections true")
    assert isinstance(consumer.failed, ConnectionFailed)
    assert [event["data"]["role"] for _, event in consumer.got] == ["before"]

    with Followers(living, [PAYMENTS]), Consumer(living, PAYMENTS, consumer.got[-1][0]) as again:
        until(lambda: len(again.got) == 2)
        change(living, "update blytz_hire.users set role = 'after' where id = 'awaited'")
        until(lambda: len(again.got) == 3)
    told = [(e["userId"], e["type"], e["data"]["role"]) for _, e in again.got]
    assert sorted(told[:2]) == [
        ("awaited", "USER_UPDATED", "twice"),
        ("lost", "USER_DELETED", "va"),
    ]
    assert told[2:] == [("awaited", "USER_UPDATED", "after")]


def test_consumers_miss_and_repeat_no_event_during_writes(living: Split) -> None:
    users = [f"stream-{number}" for number in range(20)]
    add_users(living, *users)
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    with (
        Followers(living, [PAYMENTS], interval=0.02),
        Consumer(living, PAYMENTS, since) as one,
        Consumer(living, PAYMENTS, since) as other,
        living.monolith() as monolith,
    ):
        for number in range(400):
            monolith.execute(
                "update blytz_hire.users set email = %s where id = %s",
                (f"{number}", users[number % len(users)]),
            )
        sync(PAYMENTS, living.connections)
        last = last_sequence(living, PAYMENTS)
        until(lambda: one.has(last) and other.has(last))
    assert one.failed is other.failed is None
    assert one.got == other.got == inbox(living, PAYMENTS, since)
    for index, user in enumerate(users):
        emails = [int(e["data"]["email"]) for _, e in one.got if e["userId"] == user]
        assert emails == sorted(set(emails))
        assert emails[-1] == 380 + index


def test_follow_ends_at_once_when_already_told_to_stop(living: Split) -> None:
    stop = threading.Event()
    stop.set()
    assert list(follow(PAYMENTS, living.connections, inbox_of(PAYMENTS), 0, stop)) == []


def test_constraint_violation_holds_back_events_too(living: Split) -> None:
    add_users(living, "held")
    sync(PAYMENTS, living.connections)
    since = last_sequence(living, PAYMENTS)
    with living.service("payments_db") as database:
        database.execute(
            "alter table payments_db.shared_users"
            " add constraint not_barred check (role <> 'barred')"
        )
        change(living, "update blytz_hire.users set role = 'barred' where id = 'held'")
        ran = living.runner("sync", "payments")
        assert "not_barred" in ran.stderr
        assert inbox(living, PAYMENTS, since) == []
        database.execute("alter table payments_db.shared_users drop constraint not_barred")
    assert [data["role"] for _, _, data in sync_and_read_events(living, since)] == ["barred"]
    assert_in_step_but_for_the_deleted(living)


@pytest.mark.slow
def test_build_waits_for_a_running_sync_before_it_locks_tables(living: Split) -> None:
    """Otherwise the two would deadlock, and one of them would fail."""
    waits = "select true from pg_locks where relation = 'split.turn'::regclass and not granted"
    with living.service("payments_db") as syncing:
        syncing.execute("begin")
        syncing.execute("lock table split.turn in exclusive mode")
        with subprocess.Popen(
            [str(Path(sys.executable).parent / "dbt"), "test", "--target", "payments_db"]
            + ["--select", "shared_users"],
            env=dict(living.environ),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        ) as building:
            until(lambda: bool(syncing.execute(waits).fetchone()) or building.poll() is not None)
            for table in (
                "payments_db.shared_users",
                "payments_db.user_events",
                "split.service",
                "split.changes",
                "split.deleted_rows",
            ):
                syncing.execute(f"lock table {table} in row exclusive mode nowait")
            syncing.execute("rollback")
            assert building.wait() == 0
