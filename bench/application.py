"""Measures what the application feels afterwards: `python -m bench application`.

Runs the application's typical queries, `queries.yml`, on the monolith and on the services'
databases, in turns, with the same parameters; both must give the same rows. The same once more
through PgBouncer in transaction mode, without prepared statements, which that mode does not keep.
Then it asks the read-through caches for the people in random rows, and counts hits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml

from bench import advice
from bench.bouncer import bouncer
from bench.result import Result
from bench.server import server
from bench.splitting import say
from demo.project import MONOLITH, PROJECT, ROOT, SERVICES
from pgsplit.load import sample as demo
from pgsplit.project.endpoints import Connections, resolve

QUERIES = Path(__file__).with_name("queries.yml")
# What the monolith's code says for what the services have as a column or as a table.
SPELLED = {
    "{name}": """case
        when va_profiles.id is null or (users.role = 'company' and companies.id is not null)
            then companies.name
        else va_profiles.name
    end""",
    "{chat}": """(
        type = 'chat_message' and jsonb_typeof(data -> 'senderId') = 'string'
        and data ->> 'senderId' <> ''
    ) is true""",
}
PREPARED = "max_prepared_statements of PgBouncer 1.21 spares that"
WARMING = 5
PARTS = 5
SLOWER = 1.1
# Whom a page shows beside its row.
PEOPLE = {
    "payments_db": "select receiver_id from payments_db.payments",
    "communication_db": "select sender_id from communication_db.chat_messages",
    "contracts_db": "select va_id from contracts_db.contracts where va_id is not null",
}

Databases = Mapping[str, psycopg.Connection[Any]]
Form = list[tuple[str, str]]


@dataclass
class Query:
    """A query in both forms, each a list of databases and statements; and what was measured."""

    name: str
    given: str
    before: Form
    after: Form
    calls: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, percent: int, after: str = "after", before: str = "before") -> float:
        """Compare a percentile of both forms: the median over some parts of the calls.

        So what else the machine does during one of them doesn't matter.
        """
        size = len(self.seconds[after]) // PARTS
        parts = [slice(number * size, (number + 1) * size) for number in range(PARTS)]
        return statistics.median(
            percentile(self.seconds[after][part], percent)
            / percentile(self.seconds[before][part], percent)
            for part in parts
        )

    @property
    def pooled(self) -> float | None:
        """The ratio of medians through PgBouncer, if there is one."""
        if "pooled after" not in self.seconds:
            return None
        return self.ratio(50, "pooled after", "pooled before")

    @property
    def is_slower(self) -> bool:
        """Whether the service's form takes more than a tenth longer, mostly or at worst."""
        return self.ratio(50) > SLOWER or self.ratio(95) > SLOWER


def percentile(seconds: list[float], percent: int) -> float:
    """Give a percentile."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def read() -> list[Query]:
    """Read the queries."""
    text = QUERIES.read_text(encoding="utf-8")
    for short, spelled in SPELLED.items():
        text = text.replace(short, " ".join(spelled.split()))
    return [
        Query(
            one["name"],
            one["given"],
            [(MONOLITH, part["sql"]) for part in one["before"]],
            [(part["in"], part["sql"]) for part in one["after"]],
        )
        for one in yaml.safe_load(text)
    ]


def ask(databases: Databases, form: Form, call: Mapping[str, Any]) -> tuple[float, list[Any]]:
    """Ask one after the other; give the seconds, and all rows."""
    rows, started = [], time.perf_counter()
    for database, statement in form:
        rows.append(databases[database].execute(statement.encode(), call).fetchall())
    return time.perf_counter() - started, rows


def draw(query: Query, databases: Databases, calls: int) -> None:
    """Draw the parameters of so many calls from the monolith."""
    cursor = databases[MONOLITH].cursor(row_factory=psycopg.rows.dict_row)
    query.calls = cursor.execute(query.given.encode(), {"calls": calls}).fetchall()


def run(query: Query, direct: Databases, pooled: Databases | None) -> None:
    """Run a query's calls in all ways, in turns."""
    ways = [("before", direct, query.before), ("after", direct, query.after)]
    if pooled is not None:
        ways += [("pooled before", pooled, query.before), ("pooled after", pooled, query.after)]
    for number, call in enumerate(query.calls):
        found = []
        for way in range(len(ways)):
            name, databases, form = ways[(way + number) % len(ways)]
            seconds, rows = ask(databases, form, call)
            found.append(rows)
            if number >= WARMING:
                query.seconds.setdefault(name, []).append(seconds)
        if any(rows != found[0] for rows in found):
            raise SystemExit(f"{query.name}: both forms give different rows for {call}")


@contextmanager
def connected(urls: Mapping[str, str], threshold: int | None) -> Iterator[Databases]:
    """Connect to all databases; statements are prepared after so many calls, or never."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                psycopg.connect(url, autocommit=True, prepare_threshold=threshold)
            )
            for name, url in urls.items()
        }


def mended_by(query: Query, direct: Databases) -> str:
    """Say what would make a service's form faster."""
    call, found = query.calls[0], list[str]()
    for database, statement in query.after:
        found += advice.indexes(direct[database], statement, call)
        for copy in advice.copies(direct[database], statement, call):
            found.append(f"reading {copy} by its key, where the row must have arrived")
    first = query.after[0][0]
    for database, statement in query.after[1:]:
        if database != first:
            tables = advice.shares(direct[database], statement, call)
            found.append(f"share columns of {', '.join(tables)} with {first}")
    return "; ".join(found) or "no index and no shared column"


def planned(query: Query, direct: Databases) -> str:
    """Say what planning each time costs in both forms: direct connections plan once."""
    before, after = (
        sum(advice.planning(direct[one], statement, query.calls[0]) for one, statement in form)
        for form in (query.before, query.after)
    )
    said = f"Planning takes {after:.2f} ms each time, and {before:.2f} ms on the monolith"
    return f"{said}; {PREPARED}." if after > before else f"{said}, so that isn't why."


def caches(connections: Connections, direct: Databases, lookups: int, result: Result) -> None:
    """Ask the read-through caches for the people in random rows, and count hits."""
    before = _counts(connections)
    for database, people in PEOPLE.items():
        drawn = direct[database].execute(
            f"select * from ({people}) as people order by random() limit %s".encode(), (lookups,)
        )
        asked = f"select id from {database}.get_shared_user(%s)".encode()
        taken = []
        for (person,) in drawn.fetchall():
            started = time.perf_counter()
            direct[database].execute(asked, (person,)).fetchone()
            taken.append(time.perf_counter() - started)
        hits, misses = (
            now - was
            for now, was in zip(_counts(connections)[database], before[database], strict=True)
        )
        result.add_row(
            f"cache, {hits / (hits + misses):.1%} hit: {database}",
            "",
            _milliseconds(taken),
        )
        result.values[f"hits_{database}"] = hits / (hits + misses)


def _counts(connections: Connections) -> dict[str, tuple[int, int]]:
    """Give hits and misses of each service, as `status` tells them."""
    said = subprocess.run(
        [sys.executable, str(ROOT / "runner.py"), "status", "--json"],
        env=connections.environ(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    services = json.loads(said)["services"]
    return {
        name: (services[name]["user_cache_hits"], services[name]["user_cache_misses"])
        for name in PEOPLE
    }


def show(queries: list[Query], direct: Databases, result: Result) -> None:
    """Give a row for each query, and for those that got slower a note on what would help."""
    for query in queries:
        result.add_row(
            query.name,
            _milliseconds(query.seconds["before"]),
            _milliseconds(query.seconds["after"]),
            f"{query.ratio(50):.2f} {query.ratio(95):.2f}",
            f"{query.pooled:.2f}" if query.pooled else "",
        )
        if query.is_slower:
            result.notes.append(
                f"{query.name}: slower. What would help: {mended_by(query, direct)}"
            )
        elif query.pooled and query.pooled > SLOWER:
            result.notes.append(
                f"{query.name}: slower through PgBouncer only. {planned(query, direct)}"
            )
    result.add_section()


def _milliseconds(seconds: list[float]) -> str:
    return " ".join(f"{percentile(seconds, percent) * 1000:.2f}" for percent in (50, 95, 99))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the sample monolith")
    parser.add_argument("--calls", type=int, default=300, help="calls of each query in each way")


def measure(given: argparse.Namespace) -> Result:
    """Split a monolith into all six, and run the queries on both."""
    result = Result(("query", ">before", ">after", ">: before", ">pooled"))
    queries = read()
    if given.calls < 10 * PARTS:
        raise SystemExit(f"--calls: {10 * PARTS} at least; percentiles are taken of each fifth")
    with ExitStack() as stack:
        environ = stack.enter_context(server())
        connections = resolve(PROJECT, environ)
        say(f"a monolith of {given.rows:,} rows, and runner.py run")
        demo.create(PROJECT, connections.urls[MONOLITH], given.rows)
        command = [sys.executable, str(ROOT / "runner.py"), "run", "--json"]
        subprocess.run(command, env=environ, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        urls = {name: connections.urls[name] for name in (MONOLITH, *SERVICES)}
        folder = Path(environ["BLYTZ_HIRE_CONNECTIONS"]) / "pgbouncer"
        through = stack.enter_context(bouncer(folder, urls))
        direct = stack.enter_context(connected(urls, 0))
        pooled = stack.enter_context(connected(through, None)) if through else None
        for database in direct.values():
            database.execute("vacuum analyze")
        for query in queries:
            say(query.name)
            draw(query, direct, given.calls + WARMING)
            run(query, direct, pooled)
        show(queries, direct, result)
        say("read-through caches")
        caches(connections, direct, given.calls * 5, result)
    result.values["worst"] = max(query.ratio(50) for query in queries)
    result.values["ratios"] = {query.name: query.ratio(50) for query in queries}
    return result
