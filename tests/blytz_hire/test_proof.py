"""Once all rows are proven, only what has changed is looked at, and nobody changes it unseen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.project import SERVICES_BY_NAME
from pgsplit.prove import verify as verify_module
from pgsplit.prove.verify import Verified, verify
from pgsplit.replication.upstreams import Upstreams
from pgsplit.state.ledger import open_ledger
from tests.support.split import Split
from tests.support.switching import (
    ADD_A_CENT,
    NEW_PAYMENT,
    Side,
    as_service,
    assert_alike,
    move,
    one,
    ran,
)
from tests.support.tampering import BREAKS, do

PAYMENTS = SERVICES_BY_NAME["payments_db"]
FIRST = "id = (select min(id) from payments_db.payments)"
AS_REPLICATION = "set session_replication_role = replica; "
ALTERED = "somebody has altered, rewritten or replaced payments_db.payments"

# What somebody writes behind the tool's back, each in one session of a superuser.
WRITTEN = {
    "update": f"update payments_db.payments set amount = amount + 1 where {FIRST}",
    "update as replication does": AS_REPLICATION
    + f"update payments_db.payments set amount = amount + 1 where {FIRST}",
    "insert": AS_REPLICATION
    + "insert into payments_db.payments select (jsonb_populate_record(old, jsonb_build_object("
    "'id', 'new', 'stripe_payment_intent_id', 'new'))).* from payments_db.payments as old"
    f" where {FIRST}",
    "delete": AS_REPLICATION + f"delete from payments_db.payments where {FIRST}",
    "a derived table": AS_REPLICATION + "delete from payments_db.refunds"
    " where payment_id = (select min(payment_id) from payments_db.refunds)",
    "truncate": AS_REPLICATION + "truncate payments_db.refunds",
    "the mirror as replication does": AS_REPLICATION
    + "update blytz_hire.payments set amount = amount + 100"
    " where id = (select min(id) from blytz_hire.payments)",
    "triggers disabled": "alter table payments_db.payments disable trigger all;"
    f" update payments_db.payments set amount = amount + 1 where {FIRST};"
    " alter table payments_db.payments enable trigger all",
    "a trigger of a team's, which a sync fires": "create function public.round() returns trigger"
    " language plpgsql as $$ begin new.amount := round(new.amount) + 7; return new; end $$;"
    " create trigger mine before update on payments_db.payments"
    " for each row execute function public.round();"
    f" update payments_db.payments set amount = amount + 1 where {FIRST}",
    "a column rewritten": "alter table payments_db.payments"
    " alter column status type text using status || '!'",
}
# What somebody does that may have changed rows; and what is said of it.
ALTERATIONS = {
    "a table rewritten": ("vacuum full payments_db.payments", ALTERED),
    "triggers off for a while": (
        "alter table payments_db.payments disable trigger user;"
        " alter table payments_db.payments enable trigger user",
        ALTERED + " (triggers)",
    ),
    "another model": (
        "update split.service_tables set definition = ' ' || definition"
        " where table_name = 'refunds'",
        "refunds",
    ),
    "more changes than are noted": (
        "update split.proof set most = 0, keys = 1",
        "more than 0 keys have changed",
    ),
    "a restored database": (
        "update split.proof set evidence = jsonb_set(evidence, '{timeline}', '\"00000007\"')",
        "or its server has failed over, or was restored",
    ),
    "a reverse model that nobody proved": (
        "update split.mirror_tables set definition = definition || ' '"
        " where table_name = 'reviews'",
        "the model has changed of blytz_hire.reviews",
    ),
}


def verified_again(split: Split, *, whole: bool = False) -> Verified:
    with open_ledger(split.connections) as ledger:
        return verify(PAYMENTS, split.connections, ledger, whole=whole)


def write(split: Split, statements: str) -> None:
    with split.service("payments_db") as database:
        database.execute(statements.encode())


def last_detail(split: Split, step: str) -> Any:
    with split.monolith() as monolith:
        asked = "select intent || detail from split.ledger where step = %s order by id desc limit 1"
        return one(monolith, asked, step)


def test_only_changed_rows_are_compared_and_everything_says_so(verified: Split) -> None:
    with verified.monolith() as monolith:
        first = one(monolith, "select min(id) from blytz_hire.payments")
        monolith.execute(ADD_A_CENT[Side.MONOLITH], {"id": first})
    said = ran(verified, "verify", "payments")
    assert "payments 1 1 0 0 0" in said and "reviews 0 0" in said
    assert "changed since all were proven on" in said
    assert "changed since all were proven on" in last_detail(verified, "verify")["compared"]
    found = json.loads(verified.runner("verify", "payments", "--json").stdout)["services"]
    report = found["payments_db"]
    assert (report["whole"], report["whole_because"]) == (False, None)
    assert report["whole_proof_at"] and report["tables"]["payments"]["rows"] == 0
    with verified.monolith() as monolith:
        monolith.execute(ADD_A_CENT[Side.MONOLITH], {"id": first})
    said = ran(verified, "switch", "payments", "--dry-run", "--no-backup")
    assert "payments, 1 row that has changed since all were proven on" in said
    everything = verified_again(verified, whole=True)
    assert everything.is_whole and everything.proven
    assert everything.tables["payments"].rows > 50
    assert last_detail(verified, "verify")["compares"] == "all rows"


@pytest.mark.parametrize("statements", WRITTEN.values(), ids=WRITTEN)
def test_what_anybody_else_writes_is_found_by_switch_and_verify(
    verified: Split, statements: str
) -> None:
    assert not verified_again(verified).is_whole
    write(verified, statements)
    if "blytz_hire" not in statements:  # what is in the mirror, a service would take back
        said = ran(verified, "switch", "payments", "--dry-run", "--no-backup", code=4)
        assert "is not ready for a switch" in said
    assert not verified_again(verified).proven
    assert not verified_again(verified, whole=True).proven


@pytest.mark.parametrize(("statements", "says"), ALTERATIONS.values(), ids=ALTERATIONS)
def test_whatever_may_have_changed_rows_leads_to_all_rows(
    verified: Split, statements: str, says: str
) -> None:
    write(verified, statements)
    found = verified_again(verified)
    assert found.is_whole and found.proven and found.before
    assert says in found.before.broken
    assert found.tables["payments"].rows > 50
    assert not verified_again(verified).is_whole  # proven once more


def test_broken_stream_and_truncated_source_lead_to_all_rows(verified: Split) -> None:
    do(verified, next(one for one in BREAKS if one.name == "capture disabled for a while"), print)
    found = verified_again(verified)
    assert found.is_whole and found.before and "split_capture" in found.before.broken
    with verified.monolith() as monolith:
        monolith.execute("truncate blytz_hire.reviews")
    found = verified_again(verified)
    assert found.is_whole and found.tables["reviews"].rows == 0 and found.proven


def test_what_is_altered_as_a_verification_begins_leads_to_all_rows(
    verified: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has asked what is proven, and has not recorded yet what its own proof depends on."""
    catch_up = verify_module._catch_up

    def altered_meanwhile(upstreams: Upstreams) -> None:
        monkeypatch.undo()
        write(verified, WRITTEN["triggers disabled"])
        catch_up(upstreams)

    monkeypatch.setattr(verify_module, "_catch_up", altered_meanwhile)
    found = verified_again(verified)
    assert found.is_whole and not found.proven
    assert found.tables["payments"].differing == 1
    assert found.before and ALTERED in found.before.broken


def test_rollback_looks_at_what_the_service_has_written(switched: Split) -> None:
    with as_service(switched) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "no object"})
        service.execute("update payments_db.payments set metadata = '[1]' where id = 'no object'")
        service.execute("insert into payments_db.disputes values ('no object', 'nowhere to put')")
    # Even what a superuser writes as replication does gets to the monolith.
    write(switched, AS_REPLICATION + f"update payments_db.payments set amount = 77 where {FIRST}")
    assert not verified_again(switched).is_whole
    move(switched, "rollback")
    with switched.service("payments_db") as database:
        kept = database.execute("select table_name, rows from split.quarantined").fetchall()
        assert kept == [("disputes", 1)]
        assert one(database, f"select amount = 77 from payments_db.payments where {FIRST}")
    compared = last_detail(switched, "rollback: finish")["compared"]
    assert compared.startswith("2 rows that have changed since"), compared
    assert_alike(switched)
    assert verified_again(switched, whole=True).proven

    move(switched, "switch")
    write(switched, "vacuum full payments_db.disputes")
    with as_service(switched) as service:
        service.execute("insert into payments_db.disputes values ('no object', 'nor now')")
    assert "1 row(s) of disputes" in move(switched, "rollback")
    assert last_detail(switched, "rollback: finish")["compared"].startswith("all rows, since")
    assert verified_again(switched).proven
