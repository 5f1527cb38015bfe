"""Measures what a proof costs: `python -m bench proof`.

Splits off a monolith's payments, then verifies them, in turn with what any reading of both sides
costs: one pass of `count(*), sum(hashtext(t::text))` over the monolith's table and the service's.
Then once more with a few rows wrong, and with all of them wrong.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.result import Result
from bench.splitting import Split, say, split
from demo.project import MONOLITH
from pgsplit.base.text import size
from pgsplit.prove.totals import Verdict, totals
from pgsplit.prove.verify import Verified, verify
from pgsplit.state.ledger import open_ledger

RUNS = 5
PASS = "select count(*), sum(hashtext(t::text)) from {} as t"


def timed(work: Callable[[], object]) -> float:
    """Time something, in seconds."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def passes(place: Split, at_once: int) -> None:
    """Read both sides once, one after the other or both at once."""

    def read(target: str, table: str) -> None:
        with place.connections.connect(target) as connection:
            connection.execute(PASS.format(table).encode()).fetchall()

    with ThreadPoolExecutor(at_once) as pool:
        list(
            pool.map(
                read, (MONOLITH, "payments_db"), ("blytz_hire.payments", "payments_db.payments")
            )
        )


def proof(place: Split) -> Verified:
    """Verify the payments."""
    with open_ledger(place.connections) as ledger:
        return verify(place.service, place.connections, ledger, "payments")


def sum_up(place: Split) -> None:
    """Compare the totals of the payments service."""
    with open_ledger(place.connections) as ledger:
        found = totals(place.service, place.connections, ledger)
    assert found.count(Verdict.AGREES) == len(found.compared)


def corrupt(place: Split, change: str) -> None:
    """Corrupt the service's table."""
    with place.connections.connect("payments_db") as database:
        database.execute(change.encode())
        database.execute("vacuum analyze payments_db.payments")


def peak() -> float:
    """Give this process's peak memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--rows", type=int, default=2_000_000, help="payments")


def measure(given: argparse.Namespace) -> Result:
    """Measure verification and totals against one pass over both sides."""
    rows, result = given.rows, Result(values={"rows": given.rows})
    with split(rows) as place:
        say("verify, and one pass over both sides, in turn")
        assert proof(place).proven
        seconds: dict[str, list[float]] = {"verify": [], "at once": [], "in turn": []}
        before = peak()
        for _ in range(RUNS):
            seconds["at once"].append(timed(lambda: passes(place, 2)))
            seconds["in turn"].append(timed(lambda: passes(place, 1)))
            seconds["verify"].append(timed(lambda: proof(place)))
        middle = {name: statistics.median(taken) for name, taken in seconds.items()}
        result.add_row(f"verify {rows:,} payments", f"{middle['verify']:.2f} s")
        result.add_row("one pass over both sides, both at once", f"{middle['at once']:.2f} s")
        result.add_row("one pass over both sides, one by one", f"{middle['in turn']:.2f} s")
        for how in ("at once", "in turn"):
            ratio = middle["verify"] / middle[how]
            result.add_row(f"verify : passes {how}", f"{ratio:.2f}", "≤ 1.1")
        result.values["verify"] = middle["verify"] / middle["at once"]
        say("totals")
        taken = timed(lambda: sum_up(place))
        result.add_row("totals of all tables", f"{taken:.2f} s")
        result.add_row("totals : passes at once", f"{taken / middle['at once']:.2f}")
        say("ten rows wrong")
        few = "where id in (select id from payments_db.payments order by id limit 10)"
        corrupt(place, f"update payments_db.payments set amount = amount + 1 {few}")
        taken = timed(lambda: result.add_row("rows found of 10", f"{differing(place):,}", "10"))
        result.add_row("verify with 10 rows wrong", f"{taken:.2f} s")
        say("all rows wrong")
        corrupt(place, "update payments_db.payments set status = status || '!'")
        taken = timed(
            lambda: result.add_row("rows found of all", f"{differing(place):,}", f"{rows:,}")
        )
        result.add_row("verify with all rows wrong", f"{taken:.1f} s")
        result.add_row("memory at its peak, before and after", f"{size(before)}")
        result.add_row("", f"{size(peak())}", "flat")
    return result


def differing(place: Split) -> int:
    """Count the payments that verification finds wrong."""
    return proof(place).tables["payments"].differing
