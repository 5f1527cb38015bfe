"""What measurements share: a monolith whose payments are split off, and its follower."""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from bench.server import server
from demo.project import MONOLITH, PROJECT, ROOT, select
from pgsplit.cli import console
from pgsplit.load import sample as demo
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Service
from pgsplit.replication.follow import Tick, follow

SAMPLE_ROWS = 50_000
NOTIFICATIONS = Path(__file__).with_name("notifications.sql")
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
    """Insert payments until there are so many; give the number of those inserted."""
    with connections.connect(MONOLITH) as monolith:
        row = monolith.execute("select count(*) from blytz_hire.payments").fetchone()
        assert row is not None
        with psycopg.ClientCursor(monolith) as cursor:
            cursor.execute(MORE_PAYMENTS, {"more": rows - row[0], "sample": row[0]})
        monolith.execute(WRITER)
        return rows - int(row[0])


def fill_notifications(connections: Connections, rows: int) -> None:
    """Insert notifications until there are so many."""
    with connections.connect(MONOLITH) as monolith:
        row = monolith.execute("select count(*) from blytz_hire.notifications").fetchone()
        assert row is not None
        with psycopg.ClientCursor(monolith) as cursor:
            cursor.execute(NOTIFICATIONS.read_bytes(), {"more": rows - row[0], "sample": row[0]})


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


def milliseconds(seconds: list[float]) -> str:
    """Give a median and its range."""
    least, most = min(seconds) * 1000, max(seconds) * 1000
    median = f"{statistics.median(seconds) * 1000:,.0f} ms"
    return median if len(seconds) == 1 else f"{median} ({least:,.0f}–{most:,.0f})"
