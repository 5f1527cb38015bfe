"""What a service changes of its own tables after the switch is carried, named or quarantined.

Every change is made as the owner of the tables makes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from pgsplit.base.errors import BuildFailed, DataDiffers, NotReady
from tests.blytz_hire.test_switch_faults import kill_at
from tests.support.split import Split
from tests.support.switching import (
    NEW_PAYMENT,
    Side,
    as_service,
    assert_agreed,
    assert_alike,
    move,
    one,
    ran,
    set_aside,
    words,
)


def change(split: Split, *statements: str) -> None:
    """Change the service's database as the owner of its tables."""
    with split.service("payments_db") as database:
        role = one(
            database, "select nspowner::regrole::text from pg_namespace where nspname='split'"
        )
        database.execute(f"set role {role}")
        for statement in statements:
            database.execute(statement)


def found(split: Split) -> dict[str, Any]:
    """Read the service's status as JSON."""
    return dict(
        json.loads(split.runner("status", "payments", "--json").stdout)["services"]["payments_db"]
    )


CARRIED = (
    "alter table payments_db.payments add column note text",
    "alter table payments_db.payments add column tags text[] not null default '{}'",
    "alter table payments_db.payments add column price numeric default 5",
    "alter table payments_db.payments add column token uuid default gen_random_uuid()",
    "alter table payments_db.payments add column number bigint generated always as identity",
    "alter table payments_db.payments add column twice numeric"
    " generated always as (amount * 2) stored",
    "create domain payments_db.short as text not null default '' check (length(value) < 9)",
    "alter table payments_db.payments add column label payments_db.short default 'x'",
    "create index on payments_db.payments (note)",
    "alter table payments_db.payments add constraint own_check check (note <> 'never')",
    "create table payments_db.notes (id int primary key,"
    " payment_id text references payments_db.payments (id), said text)",
    "create table payments_db.kinds (name text primary key)",
    "insert into payments_db.kinds values ('gift')",
    "alter table payments_db.payments add column kind text references payments_db.kinds (name)",
    "create function payments_db.touch() returns trigger language plpgsql as"
    " $$begin new.status := 'touched'; return new; end$$",
    "create trigger touched before insert or update on payments_db.payments"
    " for each row execute function payments_db.touch()",
    "create function payments_db.never() returns trigger language plpgsql as"
    " $$begin return null; end$$",
    "create trigger swallowed before insert or update or delete on payments_db.reviews"
    " for each row execute function payments_db.never()",
    "alter table payments_db.payments enable row level security",
    "create policy everything on payments_db.payments using (true)",
    "alter table payments_db.payments set (fillfactor = 80)",
)


def test_carried_changes_survive_rollback_and_switch(switched: Split) -> None:
    """Own columns keep their values, own tables their rows; no own trigger changes a row."""
    change(switched, *CARRIED)
    notes = words(" ".join(found(switched)["notes"]))
    for said in (
        "column payments_db.payments.note is the service's own",
        "column payments_db.payments.twice is the service's own, and generated",
        "constraint own_check on payments_db.payments is the service's own: CHECK",
        "payments_db.notes notes_payment_id_fkey refers to payments_db.payments",
        "trigger touched on payments_db.payments is the service's own",
        "A rollback disables it, and the next switch enables it again.",
    ):
        assert said in notes
    assert found(switched)["warnings"] == []
    ran(switched, "status", "payments")
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
        service.execute(
            "update payments_db.payments set note = 'ours', kind = 'gift' where id = 'own'"
        )
    change(switched, "insert into payments_db.notes values (1, 'own', 'kept')")
    assert "is ready" in ran(switched, "rollback", "payments", "--dry-run")
    said = move(switched, "rollback")
    (kept,) = (name for name in set_aside(switched) if name.startswith("payments_"))
    assert "can't hold" in said
    values = "select note, kind, status, price from {} where id = 'own'"
    with switched.service("payments_db") as database:
        for place in (f"audit.{kept}", "payments_db.payments"):
            assert database.execute(values.format(place)).fetchall() == [
                ("ours", "gift", "touched", 5)
            ]
        enabled = "select array_agg(tgenabled::text) from pg_trigger where tgname = any(%s)"
        own = ["touched", "swallowed"]
        assert one(database, enabled, own) == ["D", "D"]
    with switched.monolith() as monolith:
        monolith.execute("update blytz_hire.payments set status = 'paid'")
        monolith.execute("update blytz_hire.reviews set helpful = helpful + 1")
    ran(switched, "verify", "payments")
    move(switched, "switch")
    with switched.service("payments_db") as database:
        assert one(database, enabled, own) == ["O", "O"]
        assert one(database, "select count(*) from split.resting_triggers") == 0
        assert one(database, "select count(*) from payments_db.notes") == 1
    move(switched, "rollback")
    assert assert_agreed(switched) == "verified"


@dataclass(frozen=True)
class Case:
    """A change that a later step would fail on, what is said of it, and the first hint."""

    made: str
    what: str
    hint: str
    code: int = NotReady.exit_code
    also: str = ""  # what the operator has to undo besides


T = "payments_db.payments"
REFUSED = (
    Case(
        f"alter table {T} add column must text not null default 'x';"
        f" alter table {T} alter column must drop default",
        f"column {T}.must is the service's own, not null and without a default",
        f"alter table {T} alter column must drop not null;",
    ),
    Case(
        f"alter table {T} rename column currency to coin",
        f"column {T}.currency is gone; perhaps it is coin now",
        f"alter table {T} rename column coin to currency;",
    ),
    Case(
        f"alter table {T} alter column receiver_id type varchar(500)",
        f"column {T}.receiver_id is character varying(500)",
        f"alter table {T} alter column receiver_id type text using receiver_id::text;",
    ),
    Case(
        f"alter table {T} rename to paid",
        f"table {T} is called payments_db.paid now",
        "alter table payments_db.paid rename to payments;",
    ),
    Case(
        f"alter table {T} rename to paid; create view {T} as select * from payments_db.paid",
        f"table {T} is called payments_db.paid now, and another relation has its name",
        f"alter view {T} rename to payments_own; alter table payments_db.paid rename to payments;",
    ),
    Case(
        f"alter table {T} set schema public",
        f"table {T} is called public.payments now",
        "alter table public.payments set schema payments_db;",
    ),
    Case(
        f"alter table {T} enable row level security; alter table {T} force row level security",
        f"row security of {T} hides rows from",
        f"alter table {T} no force row level security;",
    ),
    Case(
        "alter table blytz_hire.payments enable row level security;"
        " alter table blytz_hire.payments force row level security",
        "row security of blytz_hire.payments hides rows from",
        "alter table blytz_hire.payments no force row level security;",
    ),
    Case(
        "alter table split.changes enable row level security;"
        " alter table split.changes force row level security",
        "row security of split.changes hides rows from",
        "alter table split.changes no force row level security;",
    ),
    Case(
        f"create table payments_db.notes (payment_id text references {T} (id) on delete cascade)",
        f"payments_db.notes notes_payment_id_fkey refers to {T}",
        "alter table payments_db.notes drop constraint notes_payment_id_fkey, add constraint"
        " notes_payment_id_fkey FOREIGN KEY (payment_id) REFERENCES payments_db.payments(id);",
    ),
    Case(
        f"create rule nothing as on delete to {T} do instead nothing",
        f"rule nothing on {T}",
        f"drop rule nothing on {T};",
    ),
    Case(
        f"create table payments_db.old () inherits ({T})",
        f"{T} is linked with payments_db.old",
        f"alter table payments_db.old no inherit {T};",
    ),
    Case(
        f"revoke insert on {T} from current_user",
        f"may not insert {T}, which it syncs",
        f"grant insert on {T} to",
    ),
    Case(
        "alter table payments_db.reviews drop constraint reviews_pkey",
        "constraint reviews_pkey of payments_db.reviews is gone",
        "alter table payments_db.reviews add constraint reviews_pkey PRIMARY KEY (id);",
    ),
)


def test_changes_that_a_rollback_would_fail_on_are_refused_with_their_fix(switched: Split) -> None:
    """Status warns from the moment they appear, and each fix works when it is pasted."""
    for case in REFUSED:
        change(switched, *case.made.split("; "))
        warned = [one for one in found(switched)["warnings"] if case.what in one]
        assert len(warned) == 1, (case, found(switched)["warnings"])
        assert case.hint in words(warned[0]), case
        ran(switched, "status", "payments", code=NotReady.exit_code)
        said = ran(switched, "rollback", "payments", "--dry-run", code=NotReady.exit_code)
        assert case.what in said, case
        assert case.hint in said, case
        change(switched, *filter(None, warned[0].split("hint:")[1].strip().split("; ")))
    # While a table was away, another one might have taken its writes.
    ran(switched, "repair", "payments")
    assert "is ready" in ran(switched, "rollback", "payments", "--dry-run")
    assert found(switched)["warnings"] == []
    move(switched, "rollback")
    ran(switched, "verify", "payments")


LATER = (
    (
        f"alter table {T} drop constraint payments_amount_fits_monolith",
        f"constraint payments_amount_fits_monolith of {T} is gone",
    ),
    ("alter table payments_db.disputes set unlogged", "payments_db.disputes is unlogged"),
    (
        f"alter table {T} alter column status drop not null",
        f"column {T}.status is text instead of text not null",
    ),
)


def test_changes_that_may_fail_some_day_are_warned_of(switched: Split) -> None:
    for made, what in LATER:
        change(switched, made)
        warned = [one for one in found(switched)["warnings"] if what in one]
        assert len(warned) == 1, what
        change(switched, warned[0].split("hint:")[1])
    assert found(switched)["warnings"] == []


def test_change_after_the_decision_does_not_hold_up_the_rollback(switched: Split) -> None:
    """Then the table is quarantined whole, and a warning says that it does not follow."""
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
    kill_at(switched, "rollback: open", "recorded", "rollback", "payments", "--no-backup")
    change(switched, "alter table payments_db.reviews rename column helpful to useful")
    said = ran(switched, "resume")
    assert "do not follow the monolith yet" in said
    assert "runner.py status payments names what was changed" in said
    assert [name.split("_")[0] for name in set_aside(switched)] == ["reviews"]
    status = ran(switched, "status", "payments", code=NotReady.exit_code)
    fix = "alter table payments_db.reviews rename column useful to helpful;"
    assert fix in status
    change(switched, fix)
    ran(switched, "sync", "payments")
    assert_alike(switched)


@pytest.mark.parametrize(
    ("entry", "moment"), [("rollback: open", "recorded"), ("rollback: finish", "done")]
)
def test_resumed_rollback_quarantines_what_the_service_wrote_and_nothing_else(
    switched: Split, entry: str, moment: str
) -> None:
    """The monolith has been written since it was opened, also the very row to quarantine."""
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "no object"})
        service.execute("update payments_db.payments set metadata = '[1]' where id = 'no object'")
        service.execute(
            "insert into payments_db.refunds (payment_id, reason, amount)"
            " values ('no object', 'nowhere to put it', 1.00)"
        )
    kill_at(switched, entry, moment, "rollback", "payments", "--no-backup")
    with switched.monolith() as monolith:
        monolith.execute("update blytz_hire.payments set status = 'later'")
        monolith.execute("update blytz_hire.reviews set helpful = helpful + 1")
        monolith.execute(
            "delete from blytz_hire.reviews where id = (select min(id) from blytz_hire.reviews)"
        )
    said = ran(switched, "resume")
    (kept,) = set_aside(switched)
    assert kept.startswith("refunds_")
    assert "the monolith can't hold 1 row(s) of refunds as they were" in said
    assert f"the originals are in audit.{kept}" in said
    assert "Writes were paused for" in said
    with switched.service("payments_db") as database:
        assert one(database, f"select reason from audit.{kept}") == "nowhere to put it"
        assert one(database, "select array_agg(distinct status) from payments_db.payments") == [
            "later"
        ]
    assert_alike(switched)
    assert assert_agreed(switched) == "verified"


def test_sync_that_fails_on_an_own_change_names_it_and_its_fix(switched: Split) -> None:
    change(switched, "alter table payments_db.payments rename column receiver_id to payee")
    with as_service(switched) as service:
        service.execute("update payments_db.payments set status = 'x'")
    said = ran(switched, "sync", "payments", code=BuildFailed.exit_code)
    assert "column payments_db.payments.receiver_id is gone; perhaps it is payee now" in said
    fix = "alter table payments_db.payments rename column payee to receiver_id;"
    assert f"hint: {fix}" in said
    said = ran(switched, "complete", "payments", "--dry-run", code=NotReady.exit_code)
    assert f"hint: {fix}" in said
    change(switched, fix)
    ran(switched, "sync", "payments")
    assert_alike(switched)


def test_trigger_that_changes_what_a_sync_writes_is_named_as_the_reason(verified: Split) -> None:
    """Before the switch, too; the statement that is printed lets it rest until then."""
    change(verified, *(one for one in CARRIED if "touch" in one))
    with verified.monolith() as monolith:
        monolith.execute("update blytz_hire.payments set status = 'paid'")
    said = ran(verified, "verify", "payments", code=DataDiffers.exit_code)
    reason = "trigger touched on payments_db.payments is the service's own, and fires for"
    assert f"this may be why: {reason}" in said
    assert reason in ran(verified, "status", "payments", code=NotReady.exit_code)
    change(verified, "select * from split.rest_own_triggers()")
    with verified.service("payments_db") as database:
        database.execute("update split.service_tables set is_stale = true")
    ran(verified, "verify", "payments")
    ran(verified, "status", "payments")
    move(verified, "switch")
    with as_service(verified) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "own"})
        assert one(service, "select status from payments_db.payments where id = 'own'") == "touched"


def test_undone_switch_lets_own_triggers_rest(switched: Split) -> None:
    change(switched, *(one for one in CARRIED if "touch" in one))
    move(switched, "rollback")
    enabled = "select tgenabled::text from pg_trigger where tgname = 'touched'"
    kill_at(switched, "switch: drain", "recorded", "switch", "payments", "--no-backup")
    with switched.service("payments_db") as database:
        assert one(database, enabled) == "D"
        ran(switched, "resume")
        assert one(database, enabled) == "D"
    move(switched, "switch")
    with switched.service("payments_db") as database:
        assert one(database, enabled) == "O"


def test_rollback_is_refused_if_the_monolith_lacks_a_column(switched: Split) -> None:
    """Found before anything is closed, not behind the point of no return."""
    with switched.monolith() as monolith:
        monolith.execute('alter table blytz_hire.payments drop column "refundedAt"')
        said = ran(switched, "rollback", "payments", "--dry-run", code=NotReady.exit_code)
    assert 'column blytz_hire.payments."refundedAt" is missing' in said
    assert 'ALTER TABLE blytz_hire.payments ADD COLUMN "refundedAt"' in said
