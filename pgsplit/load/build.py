"""Builds and tests a service's tables with dbt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql

from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.postgres.connect import describe
from pgsplit.postgres.retry import LOCKED
from pgsplit.project import dbt, nowhere
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.prove.verify import outdated
from pgsplit.replication import continuity, login, requirements
from pgsplit.replication.fence import Fence
from pgsplit.replication.session import open_session
from pgsplit.replication.shared import SharedStream, completed_owners
from pgsplit.replication.sharing import read_through
from pgsplit.replication.stream import BaseStream, Stream
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.schema import prepare_service


@dataclass
class Tests:
    """How a build's tests ended."""

    passed: int = 0
    warned: int = 0
    failed: int = 0

    def __str__(self) -> str:
        words = [f"{self.passed} passed"]
        words += [f"{self.warned} warned"] if self.warned else []
        words += [f"{self.failed} failed"] if self.failed else []
        return ", ".join(words)


@dataclass
class Built:
    """A build's result: rows by table in the service and in the mirror, tests, warnings."""

    tables: dict[str, int]
    mirror: dict[str, int]
    tests: Tests
    warnings: list[str]
    seconds: float


QUARANTINED = "select kept_in, rows from split.quarantined"


@dataclass
class _Outcome:
    tables: list[str] = field(default_factory=list)
    tests: Tests = field(default_factory=Tests)
    failures: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)


def build(
    service: Service,
    connections: Connections,
    ledger: Ledger,
    on_node: Callable[[str], None] = lambda name: None,
) -> Built:
    """Build and test a service's tables from its mirror; from then on the mirror follows.

    Args:
        service: a service that has landed.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_node: called with the name of each model and test that dbt has finished.

    Returns:
        Rows by table on both sides, how the tests ended, and the warnings.

    Raises:
        NotReady: the service has not landed, or there is no monolith any more.
        BuildFailed: a model can't be built or a test failed; the message says which and why.
    """
    if not ledger.state(service).reached(State.LANDED):
        raise NotReady(
            f"{service.database} has not landed, so there is nothing to build from.",
            where=describe(connections.urls[service.database]),
            hint=f"runner.py land {service.role}",
        )
    if not connections.has_monolith:
        raise NotReady(
            f"{service.database} is completed, and there is no monolith: dbt asserts there, and"
            " needs no runner. Nothing was changed.",
            where=describe(connections.urls[service.database]),
            hint=f"dbt build --target {service.database}",
        )
    with connections.connect(service.database) as database:
        requirements.provisioned(database, service)
        prepare_service(database, service)
        kept_before = database.execute(QUARANTINED).fetchall()
    outdated_fence = _renew_fence(service, connections)
    _adopt_logins(service, connections)
    started = time.monotonic()
    with ledger.step(service, "build", enters=State.BUILT, target=service.database) as step:
        outcome = _dbt_build(service.database, connections, on_node)
        outcome.warnings += outdated_fence
        mirror, tables = _count(service, connections, outcome.tables)
        # Later, an operator may have paused it.
        _follow_from_now(service, connections, enables=ledger.state(service) == State.LANDED)
        if said := read_through.try_to_connect(service, connections, ledger):
            outcome.warnings.append(said)
        with connections.connect(service.database) as database:
            outcome.warnings += [
                f"{rows:,} row(s) were copied to audit.{table} before they were replaced"
                for table, rows in database.execute(QUARANTINED).fetchall()
                if (table, rows) not in kept_before
            ]
            if ledger.state(service) == State.VERIFIED and outdated(ledger, database, service):
                ledger.return_to(service, State.BUILT)
        step.detail.update(
            tables=tables,
            tests=vars(outcome.tests),
            warnings=outcome.warnings,
            nodes=outcome.nodes,
            seconds=round(time.monotonic() - started, 3),
        )
    return Built(tables, mirror, outcome.tests, outcome.warnings, time.monotonic() - started)


def _renew_fence(service: Service, connections: Connections) -> list[str]:
    """Renew the monolith's triggers that an earlier version has made; say what prevents it."""
    with connections.connect(connections.monolith) as monolith:
        fence = Fence(service, monolith, service.mirror, list(service.owned_tables))
        try:
            fence.renew_triggers()
        except LOCKED as error:
            return [f"{fence.outdated()}: {str(error).strip()}"]
        except NotReady as error:
            return [str(error)]
    return []


def _adopt_logins(service: Service, connections: Connections) -> None:
    """Give streams that an earlier version has created logins of their own."""
    with open_session(service, connections) as session, ExitStack() as opened:
        streams: list[BaseStream] = [session.forward, session.reverse]
        for owner in completed_owners(session.monolith, service):
            there = opened.enter_context(connections.connect(owner.database))
            one = SharedStream(service, session.monolith, session.database, owner, there)
            streams.append(one)
        for stream in streams:
            login.adopt(stream, connections)


def _follow_from_now(service: Service, connections: Connections, *, enables: bool) -> None:
    with (
        connections.connect(connections.monolith) as monolith,
        connections.connect(service.database) as database,
    ):
        stream = Stream(service, monolith, database)
        if enables:
            stream.enable()
        continuity.look(stream)  # it knows the triggers from now on


def check_monolith(
    connections: Connections, on_node: Callable[[str], None] = lambda name: None
) -> Tests:
    """Run the tests on the monolith itself, such as that every column has an owner.

    Args:
        connections: where the monolith is.
        on_node: called with the name of each test that dbt has finished.

    Returns:
        How the tests ended.

    Raises:
        NotReady: the seed says of something that it goes nowhere, but gives no reason.
        BuildFailed: a test failed.
    """
    nowhere.goes_nowhere(connections.project)
    return _dbt_build(connections.monolith, connections, on_node).tests


def _dbt_build(target: str, connections: Connections, on_node: Callable[[str], None]) -> _Outcome:
    folder = dbt.run(["build"], target, connections, "run_results.json", on_node)
    results = folder / "run_results.json"
    outcome = _read(results, folder / "manifest.json", target, connections)
    if outcome.failures:
        shown = outcome.failures[:5]
        more = [f"and {len(outcome.failures) - 5} more"] if len(outcome.failures) > 5 else []
        raise BuildFailed(
            "The build failed:\n" + "\n".join(f"  - {line}" for line in [*shown, *more]),
            where=describe(connections.urls[target]),
            hint="Fix what is named, and call the same command again."
            f" To see everything: dbt build --target {target}",
        )
    return outcome


def _read(results: Path, manifest: Path, target: str, connections: Connections) -> _Outcome:
    """Read from dbt's artifacts what it ran, and how each model and test ended."""
    nodes = _nodes(json.loads(manifest.read_text(encoding="utf-8")))
    outcome = _Outcome()
    for run in json.loads(results.read_text(encoding="utf-8"))["results"]:
        node = nodes[run["unique_id"]]
        status, said = run["status"], run["message"] or run["status"]
        said = " ".join(said.partition("> in macro")[0].split())
        if status == "warn" and (gone := _gone(connections, target, run.get("compiled_code"))):
            said = f"skipped: {gone}"
        kind, name, config = node["resource_type"], node["name"], node.get("config") or {}
        failed = status in ("fail", "error", "runtime error")
        if status == "skipped" and not outcome.failures:
            outcome.failures.append(f"{kind.replace('_', ' ')} {name} was skipped")
        if kind == "model" and config.get("materialized") == "service_table":
            outcome.tables.append(name)
        outcome.nodes.append(
            {
                "name": name,
                "kind": "parity" if "parity" in node.get("tags", ()) else kind,
                "status": status,
                "rows": run.get("failures"),
                "seconds": round(run.get("execution_time") or 0, 3),
            }
        )
        if kind in ("test", "unit_test"):
            outcome.tests.failed += failed
            outcome.tests.warned += status == "warn"
            outcome.tests.passed += status in ("pass", "success")
        if status == "fail" and config.get("store_failures"):
            said = _first_rows(connections, target, node["schema"], node["alias"])
        if failed:
            outcome.failures.append(f"{kind.replace('_', ' ')} {name}: {said}")
        elif status == "warn":
            shown = node["alias"] if config.get("store_failures") else name
            outcome.warnings.append(f"{shown}: {said}")
    return outcome


def _gone(connections: Connections, target: str, query: str | None) -> str | None:
    """Tell what of a completed service's tables a test reads that its team has removed."""
    if query is None or target not in connections.project.services:
        return None
    with connections.connect(target) as database:
        row = database.execute(
            "select split.cannot_run(%s) from split.service where completed_at is not null",
            (query,),
        ).fetchone()
    return row[0] if row else None


def _nodes(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Give all that dbt may run, by id: also exposures, metrics and others."""
    return {
        name: node
        for kind in manifest.values()
        if isinstance(kind, dict)
        for name, node in kind.items()
        if isinstance(node, dict) and "resource_type" in node
    }


def _first_rows(connections: Connections, target: str, schema: str, table: str) -> str:
    """Show the first rows that a failing test has stored, and where the rest is."""
    relation = sql.Identifier(schema, table)
    with connections.connect(target) as database:
        cursor = database.execute(sql.SQL("select * from {} limit 3").format(relation))
        names = [column.name for column in cursor.description or []]
        rows = cursor.fetchall()
    shown = [
        ", ".join(f"{name} = {value}" for name, value in zip(names[:4], row[:4], strict=True))
        for row in rows
    ]
    return "\n    ".join(["", *shown, f"all of them: select * from {schema}.{table}"])


def _count(
    service: Service, connections: Connections, tables: list[str]
) -> tuple[dict[str, int], dict[str, int]]:
    with connections.connect(service.database) as database:
        mirror_tables = [
            row[0]
            for row in database.execute(
                "select relname from pg_class where relnamespace = %s::regnamespace"
                " and relkind = 'r' order by relname",
                (service.mirror,),
            )
        ]

        # A completed service's team may have dropped a table, or given it another name.
        found = database.execute(
            "select tablename from pg_tables where schemaname = %s", (service.database,)
        )
        there = {row[0] for row in found}

        def count(schema: str, table: str) -> int:
            query = sql.SQL("select count(*) from {}").format(sql.Identifier(schema, table))
            row = database.execute(query).fetchone()
            assert row is not None
            return int(row[0])

        return (
            {table: count(service.mirror, table) for table in mirror_tables},
            {table: count(service.database, table) for table in sorted(tables) if table in there},
        )
