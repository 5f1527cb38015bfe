"""Measures how the service's tables follow the monolith: `python -m bench following`.

Splits off the payments of two monoliths, one ten times as large as the other, each on its own
server. Prints how long a sync takes by changed rows, how long comparing whole tables would take,
how far a follower lags behind steady single-row transactions, and how soon an update is visible.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from bench.result import Result
from bench.splitting import (
    PATIENCE_SECONDS,
    SOON_SECONDS,
    Split,
    following,
    milliseconds,
    say,
    split,
)
from demo.project import MONOLITH
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes, sync
from pgsplit.replication.upstreams import open_upstreams

WRITERS = 4
INTERVAL_SECONDS = 0.2  # the runner's own
MILLION = 1_000_000
MIRROR, TABLE = "blytz_hire.payments", "payments_db.payments"


# Every 20th change refunds, every 50th disputes.
CHANGE = """
    with picked as (
        select distinct 1 + floor(random() * %(last)s)::bigint as i
        from generate_series(1, %(count)s + 20 + %(count)s / 4)
        limit %(count)s
    )

    update blytz_hire.payments
    set
        amount = mod(amount, 200000) + 1,
        status = case when mod(i, 19) = 0 then 'refunded' else 'changed' end,
        metadata = metadata || jsonb_strip_nulls(jsonb_build_object(
            'changed', random(), 'disputeReason', case when mod(i, 51) = 0 then 'Late' end
        )),
        "refundAmount" = case when mod(i, 19) = 0 then amount else "refundAmount" end,
        "updatedAt" = clock_timestamp() at time zone 'utc'
    from picked
    where id = bench.id(i)
"""


@dataclass(frozen=True)
class Load:
    """What a follower did under load; `check` is empty if all tables are right at the end."""

    committed: int
    seconds: float
    lag: float
    worst_lag: float
    rows: int
    rest_seconds: float
    check: str


def change(place: Split, stream: Stream, rows: int) -> None:
    """Change so many payments in one transaction, and wait until they are in the mirror."""
    if rows:
        changed = stream.monolith.execute(CHANGE, {"last": place.last, "count": rows})
        assert changed.rowcount == rows, (changed.rowcount, rows)
    beat, deadline = stream.beat(), time.monotonic() + PATIENCE_SECONDS
    while not stream.has_arrived(beat):
        assert time.monotonic() < deadline, "The changes do not arrive."
        time.sleep(SOON_SECONDS)


def carry(place: Split, stream: Stream, rows: int, runs: int) -> list[float]:
    """Time syncs after so many changes each."""
    seconds = []
    for _ in range(runs):
        change(place, stream, rows)
        done = apply_changes(stream.database)
        assert done.rows >= rows, done
        seconds.append(done.seconds)
    return seconds


def compare(stream: Stream, percent: int, runs: int) -> list[float]:
    """Time syncs that compare so many payments, or all tables, and find no change."""
    seconds = []
    for _ in range(runs):
        stream.database.execute(
            "insert into split.changes select 'blytz_hire.payments', 'id', id"
            f" from blytz_hire.payments tablesample bernoulli ({percent})"
            if percent < 100
            else "update split.service_tables set is_stale = true"
        )
        done = apply_changes(stream.database)
        assert done.rows == 0, done
        seconds.append(done.seconds)
    return seconds


def new_session(place: Split, rows: int, runs: int) -> list[float]:
    """Time the first sync of a connection, as in occasional calls."""
    seconds = []
    for _ in range(runs):
        with open_upstreams(place.service, place.connections) as stream:
            seconds += carry(place, stream, rows, 1)
    return seconds


def after_backlog(place: Split, backlog: int, rows: int, runs: int) -> list[float]:
    """Time small syncs of a connection whose first one was large."""
    with open_upstreams(place.service, place.connections) as stream:
        carry(place, stream, backlog, 1)
        return carry(place, stream, rows, runs)


def latency(place: Split, interval: float, runs: int) -> list[float]:
    """Time from an update's commit until the service's table shows it."""
    seconds = []
    with (
        following(place, interval),
        place.connections.connect(MONOLITH) as monolith,
        place.connections.connect(place.service.database) as database,
    ):
        for run in range(runs):
            time.sleep(1 + random.random() * interval)
            row = monolith.execute(
                "update blytz_hire.payments set amount = mod(amount, 200000) + 1"
                " where id = bench.id(%s) returning id, amount",
                (1 + (run * 7919) % place.last,),
            ).fetchone()
            committed = time.monotonic()
            assert row is not None
            while not database.execute(
                "select from payments_db.payments where id = %s and amount = %s / 100.0", row
            ).rowcount:
                time.sleep(SOON_SECONDS)
            seconds.append(time.monotonic() - committed)
    return seconds


def write(place: Split, writer: int, rate: float, seconds: float) -> int:
    """Commit single-row transactions on the monolith for a while; give their number."""
    with place.connections.connect(MONOLITH) as monolith:
        row = monolith.execute(
            "call bench.write(%s, %s, %s, %s, null)", (writer, place.last, rate, seconds)
        ).fetchone()
    assert row is not None
    return int(row[0])


def load(place: Split, interval: float, rate: float, seconds: float) -> Load:
    """Run a follower while writers write, and measure how far it falls behind."""
    with following(place, interval) as ticks, ThreadPoolExecutor(WRITERS) as writers:
        rows_before, begun = ticks[-1][1].rows, time.monotonic()
        futures = [
            writers.submit(write, place, number, rate / WRITERS, seconds)
            for number in range(1, WRITERS + 1)
        ]
        committed = sum(future.result() for future in futures)
        ended = time.monotonic()
        sync(place.service, place.connections)
        rest = time.monotonic() - ended
        while ticks[-1][0] < ended or (ticks[-1][1].pending or 0) > 0:
            time.sleep(SOON_SECONDS)
        troubles = {tick.trouble for _, tick in ticks if tick.trouble}
        assert not troubles, troubles
        lags = [(at, tick.lag_seconds or 0.0) for at, tick in ticks if at >= begun]
        rows = max(tick.rows for at, tick in ticks if at <= ended) - rows_before
    return Load(
        committed,
        ended - begun,
        next(lag for at, lag in lags if at >= ended),
        max(lag for _, lag in lags),
        rows,
        rest,
        check(place),
    )


def check(place: Split) -> str:
    """Compare the service's tables with their models' SQL over mirror and monolith."""
    wrong = []
    with (
        place.connections.connect(MONOLITH) as monolith,
        place.connections.connect(place.service.database) as database,
    ):
        for table, columns, definition in database.execute(
            "select table_name, columns, definition from split.service_tables,"
            " lateral (select array_agg(attname::text order by attnum) as columns"
            " from pg_attribute where attrelid = table_oid and attnum > 0 and not attisdropped)"
        ).fetchall():
            row = sql.SQL(", ").join(map(sql.Identifier, columns))
            own = sql.SQL("table {}").format(sql.Identifier(place.service.database, table))
            made = digest(database, row, own)
            expected = sql.SQL(definition)
            if {made} != {digest(where, row, expected) for where in (database, monolith)}:
                wrong.append(table)
    return ", ".join(wrong)


def digest(
    database: psycopg.Connection[Any], columns: sql.Composable, query: sql.Composable
) -> tuple[Any, ...] | None:
    """Give the number of a query's rows and their checksum, whatever their order."""
    return database.execute(
        sql.SQL(
            "select count(*), sum(hashtextextended(row({})::text, 0)::numeric) from ({}) as found"
        ).format(columns, query)
    ).fetchone()


def measure_syncs(places: Sequence[Split], result: Result) -> None:
    """Measure small syncs at each size, in turns, so that other load affects all alike."""
    say("syncs")
    with ExitStack() as links:
        pairs = [(p, links.enter_context(open_upstreams(p.service, p.connections))) for p in places]
        for place, stream in pairs:
            carry(place, stream, 1000, 1)
        for rows, target in (0, ""), (10, ""), (1000, "≤ 40 ms"):
            rounds = [
                [carry(place, stream, rows, 1)[0] for place, stream in pairs] for _ in range(7)
            ]
            for place, *seconds in zip(places, *rounds, strict=True):
                what = f"{rows:,} changed" if rows else "none changed"
                result.add_row(f"{what}, of {place.rows:,}", milliseconds(seconds), target)
        result.values["sync_ms"] = statistics.median(last for *_, last in rounds) * 1000
        ratio = statistics.median(last / first for first, *_, last in rounds)
        result.add_row("… the last as against the first", f"{ratio:.2f}", "≤ 1.5")
        numbers = f"select distinct 1 + floor(random() * {places[-1].last})::bigint"
        numbers += " from generate_series(1, 1000)"
        floor = [bare(places[-1], TABLE, numbers) for _ in range(7)]
        what = f"an update of 1,000 of {places[-1].rows:,}, by bare SQL"
        result.add_row(what, milliseconds(floor))


def measure_backlogs(place: Split, result: Result) -> None:
    """Measure large syncs, small ones after a large one, and those of a new connection."""
    say("backlogs")
    backlog = place.rows // 20
    first = milliseconds(new_session(place, 1000, 3))
    result.add_row("1,000 changed, a new connection", first)
    later = milliseconds(after_backlog(place, backlog, 1000, 3))
    result.add_row(f"1,000 changed, after {backlog:,}", later)
    with open_upstreams(place.service, place.connections) as stream:
        result.add_row(f"{backlog:,} changed", milliseconds(carry(place, stream, backlog, 2)))
        for percent in 1, 5, 12, 100:
            what = f"{percent} % compared, none changed"
            result.add_row(what, milliseconds(compare(stream, percent, 3)))


def measure_load(place: Split, result: Result, rate: float, seconds: float) -> None:
    """Measure a follower under load, and whether all tables are right at the end."""
    say(f"{rate:,.0f} transactions a second for {seconds:.0f} seconds")
    done = load(place, INTERVAL_SECONDS, rate, seconds)
    result.add_row("transactions", f"{done.committed:,}")
    result.add_row("… a second", f"{done.committed / done.seconds:,.0f}", f"{rate:,.0f}")
    result.add_row("lag when they ended", f"{done.lag:.1f} s")
    result.add_row("worst lag on the way", f"{done.worst_lag:.1f} s", "< 1 s")
    result.values |= {"worst_lag": done.worst_lag, "per_second": done.committed / done.seconds}
    result.add_row("rows applied by then", f"{done.rows:,}")
    result.add_row("the rest applied in", f"{done.rest_seconds:.1f} s")
    result.add_row("tables that differ then", done.check or "none", "none")
    if done.check:
        result.wrong.append(f"These tables differ from what the monolith yields: {done.check}")


def measure_million(place: Split, result: Result) -> None:
    """Measure from the commit of one large transaction until the service's tables have it."""
    rows = min(MILLION, place.last)
    say(f"one transaction of {rows:,} rows")
    with following(place, 0.5), place.connections.connect(MONOLITH) as monolith:
        monolith.execute(
            "update blytz_hire.payments set amount = mod(amount, 200000) + 1 where id in"
            " (select bench.id(i) from generate_series(1, %s::bigint) as i)",
            (rows,),
        )
        committed = time.monotonic()
        sync(place.service, place.connections)
        seconds = time.monotonic() - committed
    if rows == MILLION:
        result.values["million"] = seconds
    result.add_row(f"{rows:,} rows in one transaction, applied", f"{seconds:.1f} s", "≤ 20 s")
    numbers = f"select generate_series(1, {rows})"
    for what, table in ("the mirror", MIRROR), ("the service's table", TABLE):
        result.add_row(
            f"… that update of {what}, by bare SQL", f"{bare(place, table, numbers):.1f} s"
        )


def bare(place: Split, table: str, numbers: str) -> float:
    """Time the update of some rows of the service's database by bare SQL, and roll it back.

    Args:
        place: the split.
        table: the mirror's table or the service's.
        numbers: a query of the rows' numbers.
    """
    with (
        place.connections.connect(place.service.database) as database,
        database.transaction(force_rollback=True),
    ):
        database.execute("set local split.is_syncing = on")  # the service's trigger lets it pass
        database.execute("set local session_replication_role = replica")
        started = time.monotonic()
        updated = database.execute(
            f"update {table} set amount = amount + 1 where id = any(array("
            f"select 'c' || substr(md5('following' || i), 1, 24) from ({numbers}) as picked (i)))"
        )
        assert updated.rowcount > 0, table
        return time.monotonic() - started


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--rows", type=int, default=2_000_000, help="payments of the larger one")
    parser.add_argument("--seconds", type=float, default=300, help="how long the writers write")
    parser.add_argument("--rate", type=float, default=3000, help="their transactions a second")


def measure(given: argparse.Namespace) -> Result:
    """Measure both sizes."""
    if given.rows < 150_000:
        raise SystemExit("--rows: 150000 at least; the smaller one has a tenth, and 1,000 change")
    result = Result(values={"rows": given.rows})
    with split(given.rows // 10) as small, split(given.rows) as place:
        measure_syncs((small, place), result)
        result.add_section()
        measure_backlogs(place, result)
        result.add_section()
        for interval in 0.5, 0.1:
            say(f"single updates, interval {interval} s")
            seen = milliseconds(latency(place, interval, 20))
            result.add_row(f"an update seen, interval {interval} s", seen)
        result.add_section()
        measure_million(place, result)
        result.add_section()
        measure_load(place, result, given.rate, given.seconds)
    return result
