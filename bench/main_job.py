"""Measures the main job: `python -m bench.main_job --rows 500000`.

Prints seconds and peak memory of the runner over a first and a second run, and how long
PostgreSQL's own table synchronisation takes for the same tables, as a ratio within one run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from psycopg import sql

from bench import server
from demo.project import MIRROR_SCHEMA, MONOLITH, PROJECT, ROOT, select
from pgsplit.cli import console
from pgsplit.load import sample as demo
from pgsplit.postgres.catalog import live_tables
from pgsplit.postgres.connect import conninfo, with_database
from pgsplit.project.endpoints import Connections, resolve

OTHERS = ("native", "postgres")


def run(environ: dict[str, str]) -> tuple[dict[str, object], float, float]:
    """Run all six services; give the report, the seconds, and the runner's peak memory in MB."""
    started, peak = time.monotonic(), 0
    command = [sys.executable, str(ROOT / "runner.py"), "run", "--json"]
    with tempfile.TemporaryFile("w+") as report:
        with subprocess.Popen(command, env=environ, cwd=ROOT, stdout=report) as runner:
            while runner.poll() is None:
                status = Path(f"/proc/{runner.pid}/status")
                if status.exists():
                    held = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
                    peak = max([peak, *(int(line.split()[1]) for line in held)])
                time.sleep(0.2)
        seconds = time.monotonic() - started
        report.seek(0)
        return json.load(report), seconds, peak / 1024


def native_seconds(connections: Connections, name: str) -> float:
    """Time PostgreSQL's own initial copy of a service's tables, keys already in place."""
    (service,) = select((name,))
    tables = service.landed_tables
    with connections.connect(MONOLITH) as monolith, connections.connect("postgres") as server:
        server.execute("drop database if exists native")
        server.execute("create database native")
        live = live_tables(monolith, MIRROR_SCHEMA)
        monolith.execute("select pg_create_logical_replication_slot('native', 'pgoutput')")
        with connections.connect("native") as target:
            target.execute(f"create schema {MIRROR_SCHEMA}")
            target.execute("create schema split")
            target.execute(
                "create table split.heartbeats (service text primary key, at timestamptz)"
            )
            for table, columns in tables.items():
                listed = ", ".join(f'"{c}" {live[table].columns[c]}' for c in columns)
                target.execute(
                    f'create table {MIRROR_SCHEMA}."{table}" ({listed}, primary key (id))'
                )
            started = time.monotonic()
            target.execute(
                sql.SQL(
                    "create subscription native connection {} publication {}"
                    " with (create_slot = false, slot_name = 'native')"
                ).format(
                    sql.Literal(conninfo(connections.urls[MONOLITH])),
                    sql.Identifier(service.replication),
                )
            )
            while target.execute(
                "select true from pg_subscription_rel where srsubstate not in ('r', 's')"
            ).fetchone():
                time.sleep(0.05)
            seconds = time.monotonic() - started
            target.execute("alter subscription native disable")
            target.execute("alter subscription native set (slot_name = none)")
            target.execute("drop subscription native")
    return seconds


def main() -> None:
    """Make a server and a sample, run, measure, print, and remove the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    rows = parser.parse_args().rows
    with server() as environ:
        connections = resolve(PROJECT, environ)
        begun = time.monotonic()
        demo.create(PROJECT, connections.urls[MONOLITH], rows)
        sample = time.monotonic() - begun
        first, first_seconds, first_peak = run(environ)
        second, second_seconds, second_peak = run(environ)
        with connections.connect(MONOLITH) as monolith:
            landing = dict(
                monolith.execute(
                    "select service, (detail ->> 'seconds')::float from split.ledger"
                    " where step = 'land'"
                ).fetchall()
            )
        others = {name: with_database(connections.urls[MONOLITH], name) for name in OTHERS}
        urls = {**connections.urls, **others}
        native = native_seconds(replace(connections, urls=urls), "payments")
    table = console.table("what", ">figure")
    table.add_row("rows in the monolith", f"{rows:,}")
    table.add_row("sample made in", f"{sample:.1f} s")
    table.add_row("all six services, first run", f"{first_seconds:.1f} s")
    table.add_row("all six services, second run", f"{second_seconds:.1f} s")
    table.add_row("runner's peak memory", f"{max(first_peak, second_peak):.0f} MB")
    table.add_row("landing all six", f"{sum(landing.values()):.1f} s")
    table.add_row("landing payments_db", f"{landing['payments_db']:.1f} s")
    table.add_row("PostgreSQL's own copy of the same", f"{native:.1f} s")
    table.add_row("ratio", f"{native / landing['payments_db']:.2f}")
    console.out.print(table)


if __name__ == "__main__":
    main()
