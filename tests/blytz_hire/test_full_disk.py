"""A server that has no room: nothing is lost, and a follower goes on once there is some."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from demo.project import MONOLITH, select
from pgsplit.replication.follow import Tick, follow
from tests.support.split import Split
from tests.support.waiting import until

(PAYMENTS,) = select(("payments",))
# What PostgreSQL says when it can't extend a file, when it has no memory, and what a managed server
# says that has made itself read-only.
CODES = {"53100": "No space left", "53200": "out of memory", "25006": "read-only"}
FULL = """
    create function public.no_room() returns trigger language plpgsql as $$
    begin raise exception 'could not write: {said}' using errcode = '{code}'; end $$;
    create trigger no_room before insert or update on {table}
    for each row execute function public.no_room()
"""
ROOM = "drop function public.no_room() cascade"
CHANGE = """
    update blytz_hire.payments set amount = amount + 100
    where id = (select min(id) from blytz_hire.payments)
"""


@pytest.mark.parametrize("code", CODES)
def test_follower_goes_on_after_a_full_disk(living: Split, code: str) -> None:
    stop, ticks = Event(), list[Tick]()
    with living.service("payments_db") as service, living.monolith() as monolith:
        made = FULL.format(said=CODES[code], code=code, table="payments_db.payments")
        service.execute(made.encode())
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(follow, PAYMENTS, living.connections, stop, ticks.append, 0.05)
            try:
                monolith.execute(CHANGE)
                until(lambda: running.done() or any(CODES[code] in one.trouble for one in ticks))
                assert not running.done(), running.result()
                service.execute(ROOM)
                until(lambda: running.done() or ticks[-1].rows > 0)
            finally:
                stop.set()
            running.result()
        paid = "select sum(amount) from {}.payments"
        (units,) = service.execute(paid.format("payments_db").encode()).fetchone() or (0,)
        assert (units * 100,) == monolith.execute(paid.format("blytz_hire").encode()).fetchone()


def test_follower_goes_on_when_the_monolith_has_no_room(living: Split) -> None:
    """Its heartbeat can't be written there."""
    stop, ticks = Event(), list[Tick]()
    with living.connections.connect(MONOLITH) as monolith:
        made = FULL.format(said="No space left", code="53100", table="split.heartbeats")
        monolith.execute(made.encode())
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(follow, PAYMENTS, living.connections, stop, ticks.append, 0.05)
            try:
                until(lambda: running.done() or any("No space" in one.trouble for one in ticks))
                assert not running.done(), running.result()
                monolith.execute(ROOM)
                until(lambda: running.done() or not ticks[-1].trouble)
            finally:
                stop.set()
            running.result()


def test_sync_says_that_there_is_no_room(living: Split) -> None:
    with living.service("payments_db") as service, living.monolith() as monolith:
        made = FULL.format(said="No space left", code="53100", table="payments_db.payments")
        service.execute(made.encode())
        monolith.execute(CHANGE)
    ran = living.runner("sync", "payments")
    said = " ".join(ran.stderr.split())
    assert ran.returncode == 4, said
    assert "The server can't take it now: could not write: No space left" in said
    assert "database payments_db" in said and "No change is lost" in said
    with living.service("payments_db") as service:
        service.execute(ROOM)
    assert living.runner("sync", "payments").returncode == 0
