"""What an earlier version of this project has made goes on with this one.

Each test restores a fixture that was dumped then, and gives the commands that a person would.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import state_0
from tests.support.following import assert_in_step
from tests.support.split import Split
from tests.support.stage import NOTHING, Stage
from tests.support.switching import (
    ADD_A_CENT,
    NEW_PAYMENT,
    Side,
    as_service,
    assert_agreed,
    assert_alike,
    move,
    one,
    ran,
)

STATUS_OF = "select status from payments_db.payments where id = %s"
WAITS = "changes wait to be applied"


@pytest.fixture
def landed_0(stage: Stage) -> Split:
    """Give payments verified and users built, with two changes that wait for a sync."""
    split = stage.enter(NOTHING)
    state_0.restore(split, "landed")
    return split


@pytest.fixture
def switched_0(stage: Stage) -> Split:
    """Give payments switched, with a write of the service's that waits for a sync."""
    split = stage.enter(NOTHING)
    state_0.restore(split, "switched")
    return split


def stands(split: Split, *names: str) -> dict[str, Any]:
    """Ask for the status as machines do."""
    done = split.runner("status", "--json", *names)
    return dict(json.loads(done.stdout))


def test_what_has_landed_is_in_order(landed_0: Split) -> None:
    ran(landed_0, "status")
    found = stands(landed_0)
    assert {name: one["state"] for name, one in found.items() if one["state"] != "absent"} == {
        "payments_db": "verified",
        "users_db": "built",
    }
    for name in ("payments_db", "users_db"):
        assert (found[name]["replication"], found[name]["warnings"]) == ("follows", [])
    assert found["payments_db"]["pending"] == 2
    assert assert_agreed(landed_0) == "verified"


def test_what_has_landed_is_followed(landed_0: Split) -> None:
    with landed_0.monolith() as monolith:
        payment = one(monolith, "select max(id) from blytz_hire.payments")
        captured = one(monolith, "select min(id) from blytz_hire.payments")
        monolith.execute("update blytz_hire.payments set status = 'seen' where id = %s", (payment,))
    ran(landed_0, "sync", "payments", "users")
    with landed_0.service("payments_db") as database:
        assert one(database, STATUS_OF, payment) == "seen"
        assert one(database, STATUS_OF, captured) == "captured"  # before it was dumped
    assert_in_step(landed_0)


@pytest.mark.slow
def test_what_has_landed_is_built_verified_and_switched(landed_0: Split) -> None:
    ran(landed_0, "build", "users")
    ran(landed_0, "verify", "users", "payments")
    move(landed_0, "switch")
    assert assert_agreed(landed_0) == "switched"
    with as_service(landed_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    ran(landed_0, "sync", "payments")
    assert_alike(landed_0)
    ran(landed_0, "status")


def test_what_is_switched_is_in_order(switched_0: Split) -> None:
    found = stands(switched_0, "payments")["payments_db"]
    assert (found["state"], found["replication"]) == ("switched", "follows")
    assert (found["way_back"], found["writes_at"], found["pending"]) == ("follows", "service", 2)
    assert [WAITS in warning for warning in found["warnings"]] == [True]  # it is an old dump
    ran(switched_0, "sync", "payments")
    ran(switched_0, "status")
    assert assert_agreed(switched_0) == "switched"


def test_what_the_service_writes_goes_back(switched_0: Split) -> None:
    with as_service(switched_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
        captured = one(service, "select min(id) from payments where status = 'captured'")
    ran(switched_0, "sync", "payments")
    with switched_0.monolith() as monolith:
        there = "select status from blytz_hire.payments where id = %s"
        assert one(monolith, there, "new") == "paid"
        assert one(monolith, there, captured) == "captured"  # before it was dumped
    assert_alike(switched_0)


def test_what_is_switched_is_rolled_back_and_followed(switched_0: Split) -> None:
    with as_service(switched_0) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    move(switched_0, "rollback")
    assert assert_agreed(switched_0) == "verified"
    with switched_0.monolith() as monolith:
        monolith.execute(ADD_A_CENT[Side.MONOLITH], {"id": "new"})
    ran(switched_0, "sync", "payments")
    with switched_0.service("payments_db") as database:
        assert str(one(database, "select amount from payments_db.payments where id = 'new'")) == (
            "7.01"
        )
    assert_alike(switched_0)
