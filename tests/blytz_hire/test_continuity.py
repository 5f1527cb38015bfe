"""A proof holds only as long as its stream is unbroken."""

from __future__ import annotations

import pytest
from tests.blytz_hire.test_repair import drop_slot
from tests.support.split import Split
from tests.support.switching import one, ran


def test_dbg(switched: Split) -> None:
    drop_slot(switched, "split_payments_db_back")
    print(ran(switched, "sync", "payments", code=4))
    print(ran(switched, "repair", "payments"))
    with switched.monolith() as m:
        for row in m.execute("select stream, broken_at, reason, identity, seen from split.streams"):
            print(row)
        for row in m.execute("select id, step, intent, outcome, detail from split.ledger where step='stream broken'"):
            print(row)
    assert 0
