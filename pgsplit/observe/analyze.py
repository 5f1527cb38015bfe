"""Analyzes the monolith: its tables, their references, and what a split would break.

The queries are the SQL in analyses/; dbt compiles them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgsplit.base.errors import BuildFailed, SourceMismatch
from pgsplit.postgres.connect import describe, explained
from pgsplit.project import dbt, nowhere
from pgsplit.project.endpoints import Connections

SEVERITIES = ("blocks", "changes behaviour", "note")
# Orphans come last: counting them takes time, and the rest shall not wait for it.
HAZARDS = (
    "table_hazards",
    "column_hazards",
    "key_hazards",
    "code_hazards",
    "server_hazards",
    "blind_spots",
    "orphans",
)
# Production goes first: no long wait for a lock, no endless query, no second core for a count.
MANNERS = """
    set local lock_timeout = '2s'; set local statement_timeout = '5min';
    set local max_parallel_workers_per_gather = 0
"""

# A temporary setting, since an analysis writes nothing.
NOWHERE = "select set_config('split.goes_nowhere', %s, true)"

Row = TypeVar("Row")


@dataclass(frozen=True)
class Table:
    """A table; `rows_estimate` is the planner's, or None if it has none."""

    table_name: str
    owner: str | None
    is_there: bool
    rows_estimate: int | None
    bytes: int | None


@dataclass(frozen=True)
class Reference:
    """Columns that refer to another table; without a `key_name` there is no foreign key."""

    table_name: str
    column_names: str
    target_table: str
    target_columns: str
    owner: str | None
    target_owner: str | None
    crosses: bool
    key_name: str | None
    is_validated: bool | None
    is_deferrable: bool | None
    on_delete: str | None
    on_update: str | None
    condition: str | None


@dataclass(frozen=True)
class Finding:
    """A problem: what it is, what it means, and how to fix it."""

    severity: str
    hazard: str
    object: str
    found: str
    means: str
    mend: str


@dataclass(frozen=True)
class Analysis:
    """All findings, from one snapshot."""

    database: str
    server_version: str
    made_at: datetime
    tables: Sequence[Table]
    references: Sequence[Reference]
    findings: Sequence[Finding]


def analyze(
    connections: Connections, on_question: Callable[[str], None] = lambda name: None
) -> Analysis:
    """Analyze the monolith; writes nothing.

    Everything is read in one read-only transaction. Tables themselves are read only to count
    orphans. If the login may not read something, or it takes too long, that is a finding.

    Args:
        connections: where the monolith is; the services need not exist.
        on_question: called with the name of each finished analysis.

    Returns:
        Tables, references and findings, the worst first.

    Raises:
        ConnectionFailed: the monolith can't be reached.
        NotReady: the seed says of something that it goes nowhere, but gives no reason.
        SourceMismatch: the database does not have the monolith's schema.
        BuildFailed: dbt could not compile the analyses.
    """
    url, schema = connections.monolith_url, connections.project.schema
    goes_nowhere = nowhere.as_json(connections.project)
    with (
        connections.connect(connections.monolith) as monolith,
        explained(url, connections.monolith, monolith),
    ):
        found = monolith.execute("select to_regnamespace(%s) is not null", (schema,))
        if found.fetchone() != (True,):
            raise SourceMismatch(
                f"There is no schema {schema} to analyze.",
                where=describe(url),
                hint=f"Check {connections.project.variable('URL')}; for a sample monolith:"
                " runner.py demo",
            )
        questions = _compile(connections)
        monolith.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        monolith.read_only = True
        refused: list[Finding] = []

        def ask(name: str, shape: type[Row]) -> list[Row]:
            try:
                with monolith.transaction(), monolith.cursor(row_factory=class_row(shape)) as rows:
                    answer = rows.execute(questions[name].encode()).fetchall()
            except psycopg.Error as error:
                if monolith.broken:
                    raise
                refused.append(_refused(connections.monolith, name, error))
                answer = []
            on_question(name)
            connections.throttle.wait()
            return answer

        with monolith.transaction():
            monolith.execute(MANNERS)
            monolith.execute(NOWHERE, (goes_nowhere,))
            tables = ask("tables", Table)
            references = ask("references", Reference)
            findings = [finding for name in HAZARDS for finding in ask(name, Finding)]
        return Analysis(
            describe(url),
            monolith.info.parameter_status("server_version") or "",
            datetime.now(timezone.utc),
            tables,
            references,
            sorted(findings + refused, key=lambda one: SEVERITIES.index(one.severity)),
        )


def _compile(connections: Connections) -> dict[str, str]:
    """Let dbt compile analyses/, without a connection to the monolith."""
    arguments = ["compile", "--select", "resource_type:analysis"]
    arguments += ["--no-introspect", "--no-populate-cache"]
    folder = dbt.run(arguments, connections.monolith, connections, "run_results.json")
    nodes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["nodes"]
    compiled = {
        node["name"]: node.get("compiled_code") or ""
        for node in nodes.values()
        if node["resource_type"] == "analysis"
    }
    missing = [name for name in ("tables", "references", *HAZARDS) if not compiled.get(name)]
    if missing:
        raise BuildFailed(
            f"dbt did not compile {', '.join(missing)}.",
            where="analyses",
            hint=f"dbt compile --target {connections.monolith} --select resource_type:analysis",
        )
    return compiled


def _refused(target: str, name: str, error: psycopg.Error) -> Finding:
    said = error.diag.message_primary or str(error).strip() or type(error).__name__
    return Finding(
        "note",
        "could not be asked",
        f"analyses/{name}.sql",
        said,
        "Its findings are missing here.",
        f"dbt show --target {target} --select {name} --limit -1; this has no time limit.",
    )


def by_owner(tables: Sequence[Table], owners: Sequence[str]) -> dict[str, Table]:
    """Sum up tables by the service that will own them.

    Args:
        tables: the tables.
        owners: the services, in the wanted order.

    Returns:
        For each owner a row like a table's, with the sums; tables without an owner come last.
    """
    sums: dict[str, Table] = {}
    for name in (*owners, None):
        for one in tables:
            if one.owner == name and one.is_there:
                label = name or "nobody"
                so_far = sums.get(label, Table(label, name, True, 0, 0))
                sums[label] = replace(
                    so_far,
                    rows_estimate=(so_far.rows_estimate or 0) + (one.rows_estimate or 0),
                    bytes=(so_far.bytes or 0) + (one.bytes or 0),
                )
    return sums


def as_data(analysis: Analysis) -> dict[str, Any]:
    """Give an analysis as plain data for `--json`."""
    return {
        **vars(analysis),
        "tables": [vars(one) for one in analysis.tables],
        "references": [vars(one) for one in analysis.references],
        "findings": [vars(one) for one in analysis.findings],
    }


@dataclass(frozen=True)
class Group:
    """Findings with the same meaning."""

    severity: str
    hazard: str
    means: str
    findings: Sequence[Finding]


def grouped(findings: Sequence[Finding]) -> list[Group]:
    """Group findings that differ only in their object.

    Args:
        findings: the findings, in the wanted order.

    Returns:
        The groups, in the order of their first findings.
    """
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.severity, one.hazard, one.means), []).append(one)
    return [Group(*key, found) for key, found in groups.items()]
