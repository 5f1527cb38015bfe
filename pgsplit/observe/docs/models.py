"""The models of each service, as dbt compiles them, with their lineage."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pgsplit.base.errors import BuildFailed
from pgsplit.observe.docs.lineage import Lineage, lineage
from pgsplit.project import dbt
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service

# How many processes of dbt may compile.
AT_ONCE = 3
REVERSE = "mirror_table"
COMPARED = ("service_table", REVERSE)


@dataclass(frozen=True)
class ModelColumn:
    """What a model says about one of its columns."""

    description: str
    data_type: str


@dataclass(frozen=True)
class Test:
    """A test of a model, or of one of its columns; `severity` is what a failure means."""

    name: str
    column: str
    kind: str
    severity: str


@dataclass(frozen=True)
class Model:
    """A model of a service: a table of its own, or a reverse model, which makes a monolith's.

    What is neither, such as a view of the team's, is shown, but has no owner to compare with.
    `lineage` is None if the SQL can't be read; then `problem` says why.
    """

    name: str
    schema: str
    table: str
    is_reverse: bool
    is_compared: bool
    path: str
    description: str
    columns: Mapping[str, ModelColumn]
    sql: str
    tests: Sequence[Test]
    lineage: Lineage | None = None
    problem: BuildFailed | None = None


@dataclass(frozen=True)
class Described:
    """What the project says about a table of the monolith, and about its columns."""

    description: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Models:
    """The models by service, and what the project says about the monolith's tables."""

    of: Mapping[str, Sequence[Model]]
    monolith: Mapping[str, Described]


def read(connections: Connections, on_node: Callable[[str], None] = lambda name: None) -> Models:
    """Let dbt compile the models of each service; no database has to be up.

    Args:
        connections: of the project.
        on_node: called with the name of each model that dbt has compiled.

    Returns:
        The models, each with its lineage.

    Raises:
        BuildFailed: dbt can't compile a model.
    """
    services = tuple(connections.project.services.values())

    def compiled(some: tuple[Service, ...]) -> list[dict[str, Any]]:
        folders = dbt.compile_models([one.database for one in some], connections, on_node)
        return [json.loads((one / dbt.MANIFEST).read_text(encoding="utf-8")) for one in folders]

    parts = min(AT_ONCE, os.cpu_count() or 1, len(services))
    shares = [services[len(services) * n // parts : len(services) * (n + 1) // parts]
             for n in range(parts)]  # fmt: skip
    with ThreadPoolExecutor(parts) as pool:
        manifests = [one for found in pool.map(compiled, shares) for one in found]
    return Models(
        {
            service.database: of_manifest(manifest, service)
            for service, manifest in zip(services, manifests, strict=True)
        },
        {
            one["name"]: Described(
                _line(one["description"]),
                {name: _line(column["description"]) for name, column in one["columns"].items()},
            )
            for one in manifests[0]["sources"].values()
            if one["source_name"] == connections.project.name
        },
    )


def of_manifest(manifest: Mapping[str, Any], service: Service) -> list[Model]:
    """Give the models of a service from dbt's manifest; ephemeral ones are inside of others."""
    nodes = [
        (name, one)
        for name, one in manifest["nodes"].items()
        if one["resource_type"] == "model" and one["config"]["materialized"] != "ephemeral"
    ]
    tests: dict[str, list[Test]] = {name: [] for name, _ in nodes}
    for one in manifest["nodes"].values():
        if one["resource_type"] == "test" and one.get("attached_node") in tests:
            kind = "parity" if "parity" in one["tags"] else "test"
            severity = str(one["config"]["severity"]).lower()
            found = Test(one["name"], one.get("column_name") or "", kind, severity)
            tests[one["attached_node"]].append(found)
    for one in manifest.get("unit_tests", {}).values():
        for name in one["depends_on"]["nodes"]:
            if name in tests:
                tests[name].append(Test(one["name"], "", "unit test", "error"))
    readable = {
        (service.mirror, name): columns for name, columns in service.landed_tables.items()
    } | {
        (one["schema"], one["alias"]): tuple(one["columns"])
        for _, one in nodes
        if one["config"]["materialized"] != REVERSE
    }
    return sorted(
        (_model(one, tests[name], readable) for name, one in nodes),
        key=lambda one: (one.is_reverse, one.table),
    )


def _model(
    node: Mapping[str, Any],
    tests: Sequence[Test],
    readable: Mapping[tuple[str, str], tuple[str, ...]],
) -> Model:
    sql = (node.get("compiled_code") or "").strip()
    origins, problem = None, None
    try:
        origins = lineage(sql, readable, node["original_file_path"])
    except BuildFailed as error:
        problem = error
    return Model(
        node["name"],
        node["schema"],
        node["alias"],
        node["config"]["materialized"] == REVERSE,
        node["config"]["materialized"] in COMPARED,
        node["original_file_path"],
        _line(node["description"]),
        {
            name: ModelColumn(_line(one["description"]), one.get("data_type") or "")
            for name, one in node["columns"].items()
        },
        sql,
        sorted(tests, key=lambda one: (one.column, one.name)),
        origins,
        problem,
    )


def _line(text: str) -> str:
    return " ".join(text.split())
