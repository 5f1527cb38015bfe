"""Measures how the service's tables follow the monolith: `python -m bench.following`.

Splits off the payments of two monoliths, one ten times as large as the other, each on its own
server. Prints how long a sync takes by changed rows, how long comparing whole tables would take,
how far a follower lags behind steady single-row transactions, and how soon an update is visible.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from rich.table import Table

from bench import server
from demo.project import MONOLITH, PROJECT, ROOT, select
from pgsplit.cli import console
from pgsplit.load import sample as demo
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Service
from pgsplit.replication.follow import Tick, follow
from pgsplit.replication.stream import Stream
from pgsplit.replication.sync import apply_changes, sync
from pgsplit.replication.upstreams import open_upstreams

SAMPLE_ROWS = 50_000
WRITERS = 4
SOON_SECONDS = 0.002
PATIENCE_SECONDS = 600

# Payments like the sample's; ids are random in order, as a client makes them.
MORE_PAYMENTS = """
    create schema bench;

    create function bench.id(i bigint) returns text immutable language sql
    return 'c' || substr(md5('following' || i::text), 1, 24);

    create function bench.metadata(i bigint) returns jsonb immutable language sql
    return jsonb_strip_nulls(jsonb_build_object(
        'source', 'web',
        'invoice', i,
        'refundReason', case when mod(i, 20) = 3 then 'Requested by customer' end,
        'disputeReason', case when mod(i, 50) = 7 then 'Charged twice' end
    ));

    create temp table sample as
    select *, row_number() over (order by id) - 1 as no
    from blytz_hire.payments;
    analyze sample;

    -- The references are those of rows that are there, so looking each up again is spared.
    set session_replication_role = replica;
    insert into blytz_hire.payments (
        id, "jobId", "contractId", "milestoneId", "matchId", "userId", "receiverId",
        "stripePaymentIntentId", amount, status, "stripeFee", "platformFee", method, type,
        metadata, "refundAmount", "refundedAt", "processedAt", "createdAt", "updatedAt"
    )
    select
        bench.id(i), "jobId", "contractId", "milestoneId", "matchId", "userId", "receiverId",
        'bench_' || i::text,
        1 + mod(i, 200000),
        case
            when mod(i, 20) = 3 then 'refunded'
            when mod(i, 50) = 7 then 'disputed'
            else 'completed'
        end,
        30,
        mod(i, 20000),
        method,
        type,
        bench.metadata(i),
        case when mod(i, 20) = 3 then 1 + mod(i, 200000) end,
        case when mod(i, 20) = 3 then made.at + interval '9 days' end,
        made.at + interval '1.234 seconds',
        made.at,
        made.at
    from
        generate_series(1, %(more)s::bigint) as i
        inner join sample on sample.no = mod(i, %(sample)s)
        cross join lateral (
            select timestamp '2022-01-01' + i * (interval '3 years' / %(more)s) as at
        ) as made;
    reset session_replication_role;
    analyze blytz_hire.payments;
"""

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

# Single-row transactions at a steady pace: updates, 2 % inserts, 1 % deletes.
WRITER = """
    create procedure bench.write(
        writer integer, last bigint, per_second float, seconds float, inout committed bigint
    )
    language plpgsql
    as $write$
    declare
        started timestamptz := clock_timestamp();
        early float;
        at bigint;
        dice float;
    begin
        committed := 0;
        while extract(epoch from clock_timestamp() - started) < seconds loop
            at := 1 + floor(random() * last);
            dice := random();
            if dice < 0.02 then
                insert into blytz_hire.payments (
                    id, "jobId", "contractId", "userId", "receiverId", "stripePaymentIntentId",
                    amount, status, method, type, metadata, "updatedAt"
                )
                select
                    bench.id(writer * 1000000000::bigint + committed), "jobId", "contractId",
                    "userId", "receiverId", format('bench_%s_%s', writer, committed),
                    amount, 'completed', method, type, metadata, now() at time zone 'utc'
                from blytz_hire.payments
                where id = bench.id(at);
            elsif dice < 0.03 then
                delete from blytz_hire.payments where id = bench.id(at);
            else
                update blytz_hire.payments
                set
                    amount = mod(amount, 200000) + 1,
                    status = case when dice > 0.95 then 'refunded' else 'changed' end,
                    metadata = metadata || jsonb_strip_nulls(jsonb_build_object(
                        'changed', dice, 'disputeReason', case when dice > 0.98 then 'Late' end
                    )),
                    "refundAmount" = case when dice > 0.95 then amount else "refundAmount" end,
                    "updatedAt" = clock_timestamp() at time zone 'utc'
                where id = bench.id(at);
            end if;
            commit;
            committed := committed + 1;
            early := committed / per_second - extract(epoch from clock_timestamp() - started);
            if early > 0 then
                perform pg_sleep(early);
            end if;
        end loop;
    end
    $write$;
"""


@dataclass(frozen=True)
class Split:
    """A monolith with payments split off; `last` is the number of our last payment."""

    service: Service
    connections: Connections
    environ: dict[str, str] = field(repr=False)
    rows: int
    last: int


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


def say(what: str) -> None:
    """Print what is under way on standard error."""
    console.err.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {what}")


@contextmanager
def split(rows: int) -> Iterator[Split]:
    """Start a server, make a monolith with so many payments, and split them off."""
    (service,) = select(("payments",))
    with server() as environ:
        connections = resolve(PROJECT, environ)
        say(f"a monolith of {rows:,} payments")
        demo.create(PROJECT, connections.urls[MONOLITH], SAMPLE_ROWS)
        last = fill(connections, rows)
        say("runner.py run payments")
        command = [sys.executable, str(ROOT / "runner.py"), "run", "payments", "--json"]
        subprocess.run(command, env=environ, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        yield Split(service, connections, environ, rows, last)


def fill(connections: Connections, rows: int) -> int:
    """Insert payments until there are so many; give the number of ours."""
    with connections.connect(MONOLITH) as monolith:
        row = monolith.execute("select count(*) from blytz_hire.payments").fetchone()
        assert row is not None
        with psycopg.ClientCursor(monolith) as cursor:
            cursor.execute(MORE_PAYMENTS, {"more": rows - row[0], "sample": row[0]})
        monolith.execute(WRITER)
        return rows - int(row[0])


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


@contextmanager
def following(place: Split, interval: float) -> Iterator[list[tuple[float, Tick]]]:
    """Run a follower in a separate process; give its reports, with their times, as they come."""
    context = multiprocessing.get_context("spawn")
    stop, queue = context.Event(), context.SimpleQueue()
    process = context.Process(target=follower, args=(place, interval, stop, queue), daemon=True)
    process.start()
    ticks: list[tuple[float, Tick]] = []
    with ThreadPoolExecutor(1) as reader:
        reading = reader.submit(lambda: ticks.extend(iter(queue.get, None)))
        try:
            while not ticks:
                assert process.is_alive(), "The follower has ended."
                time.sleep(SOON_SECONDS)
            yield ticks
        finally:
            stop.set()
            process.join(PATIENCE_SECONDS)
            process.kill()
            queue.put(None)
            reading.result()


def follower(place: Split, interval: float, stop: Any, queue: Any) -> None:
    """Follow until told to stop; the monotonic clock is the same for all processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow(
        place.service,
        place.connections,
        stop,
        lambda tick: queue.put((time.monotonic(), tick)),
        interval,
    )


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


def milliseconds(seconds: list[float]) -> str:
    """Give a median and its range."""
    least, most = min(seconds) * 1000, max(seconds) * 1000
    median = f"{statistics.median(seconds) * 1000:,.0f} ms"
    return median if len(seconds) == 1 else f"{median} ({least:,.0f}–{most:,.0f})"


def measure_syncs(places: Sequence[Split], table: Table) -> None:
    """Measure small syncs at each size, in turns, so that other load affects all alike."""
    say("syncs")
    with ExitStack() as links:
        pairs = [(p, links.enter_context(open_upstreams(p.service, p.connections))) for p in places]
        for place, stream in pairs:
            carry(place, stream, 1000, 1)
        for rows, target in (0, ""), (10, ""), (1000, "< 150 ms"):
            rounds = [
                [carry(place, stream, rows, 1)[0] for place, stream in pairs] for _ in range(7)
            ]
            for place, *seconds in zip(places, *rounds, strict=True):
                what = f"{rows:,} changed" if rows else "none changed"
                table.add_row(f"{what}, of {place.rows:,}", milliseconds(seconds), target)
        ratio = statistics.median(last / first for first, *_, last in rounds)
        table.add_row("… the last as against the first", f"{ratio:.2f}", "≤ 1.5")


def measure_backlogs(place: Split, table: Table) -> None:
    """Measure large syncs, small ones after a large one, and those of a new connection."""
    say("backlogs")
    backlog = place.rows // 20
    first = milliseconds(new_session(place, 1000, 3))
    table.add_row("1,000 changed, a new connection", first)
    later = milliseconds(after_backlog(place, backlog, 1000, 3))
    table.add_row(f"1,000 changed, after {backlog:,}", later)
    with open_upstreams(place.service, place.connections) as stream:
        table.add_row(f"{backlog:,} changed", milliseconds(carry(place, stream, backlog, 2)))
        for percent in 1, 5, 12, 100:
            what = f"{percent} % compared, none changed"
            table.add_row(what, milliseconds(compare(stream, percent, 3)))


def measure_load(place: Split, table: Table, rate: float, seconds: float) -> bool:
    """Measure a follower under load; tell whether all tables are right at the end."""
    say(f"{rate:,.0f} transactions a second for {seconds:.0f} seconds")
    done = load(place, 0.5, rate, seconds)
    table.add_row("transactions", f"{done.committed:,}")
    table.add_row("… a second", f"{done.committed / done.seconds:,.0f}", f"{rate:,.0f}")
    table.add_row("lag when they ended", f"{done.lag:.1f} s", "< 2 s")
    table.add_row("worst lag on the way", f"{done.worst_lag:.1f} s")
    table.add_row("rows carried over by then", f"{done.rows:,}")
    table.add_row("the rest carried over in", f"{done.rest_seconds:.1f} s")
    table.add_row("tables that differ then", done.check or "none", "none")
    return not done.check


def main() -> None:
    """Measure both sizes, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000, help="payments of the larger one")
    parser.add_argument("--seconds", type=float, default=60, help="how long the writers write")
    parser.add_argument("--rate", type=float, default=1000, help="their transactions a second")
    given = parser.parse_args()
    if given.rows < 150_000:
        parser.error("--rows: 150000 at least; the smaller one has a tenth, and 1,000 change")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    table = console.table("what", ">figure", ">target")
    with split(given.rows // 10) as small, split(given.rows) as place:
        measure_syncs((small, place), table)
        table.add_section()
        measure_backlogs(place, table)
        table.add_section()
        for interval in 0.5, 0.1:
            say(f"single updates, interval {interval} s")
            seen = milliseconds(latency(place, interval, 20))
            table.add_row(f"an update seen, interval {interval} s", seen)
        table.add_section()
        is_right = measure_load(place, table, given.rate, given.seconds)
    console.out.print(table)
    if not is_right:
        sys.exit(1)


if __name__ == "__main__":
    main()
