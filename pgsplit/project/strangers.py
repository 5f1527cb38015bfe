"""Refuses a database in which somebody else owns, or may change, what this project is to use.

Whoever owns a table, a view or a function there could have code run with our rights, or be given
rows that are not theirs. So it is asked before anything else, and of the catalogue only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.base.text import few
from pgsplit.postgres.connect import describe
from pgsplit.project.project import Project, Service

# dbt runs the same queries before it builds.
QUERIES = Path(__file__).parents[1] / "dbt" / "macros" / "state" / "strangers.sql"
SHOWN = 5


def require_none(database: psycopg.Connection[Any], project: Project, target: str) -> None:
    """Refuse a database with objects of strangers where this project's own have to be.

    Args:
        database: a connection to it.
        project: the project.
        target: the target: the monolith, or a service's database.

    Raises:
        NotReady: it is another service's database.
        TargetOccupied: there are such objects, or others may change ours; they and their owners
            are named.
    """
    service = project.services.get(target)
    if service and mark(database) not in (None, service.mark):
        raise not_provisioned(database, service)
    found = _look(database, project, service)
    if found:
        raise TargetOccupied(
            f"This project uses only what is its own, and in {database.info.dbname}"
            f" {few([what for what, _ in found], SHOWN)}. Nothing was changed.",
            where=describe(database.info.dsn),
            hint=f"Check {project.variable('URL', target)}. If it is right, look at this, then as a"
            " superuser or as its owner:\n" + "\n".join(fix for _, fix in found[:SHOWN]),
        )


def mark(database: psycopg.Connection[Any]) -> str | None:
    """Read the comment on the schema `split`, which says whose database it is."""
    row = database.execute(
        "select obj_description(to_regnamespace('split'), 'pg_namespace')"
    ).fetchone()
    return row[0] if row else None


def not_provisioned(database: psycopg.Connection[Any], service: Service) -> NotReady:
    """Give the error for a database that is not the one that was provisioned for a service."""
    return NotReady(
        f"This database was not provisioned for {service.database}. Nothing was changed.",
        where=describe(database.info.dsn),
        hint=f"Check {service.database.upper()}_URL, or runner.py provision {service.role}",
    )


def _look(
    database: psycopg.Connection[Any], project: Project, service: Service | None
) -> list[tuple[str, str]]:
    macros = QUERIES.read_text(encoding="utf-8")
    own, schemas = None, ["split"]
    if service:
        own = service.database
        schemas += ["audit", "owner", service.mirror]
    streams = [service] if service else list(project.services.values())
    arguments = {
        "schemas": sql.SQL("{}::name[]").format(schemas),
        "own": sql.SQL("{}::name").format(own),
        "streams": sql.SQL("{}::name[]").format([name for one in streams for name in _names(one)]),
        "reads": sql.SQL("{}::name").format(project.schema),
    }
    given = {name: one.as_string(database) for name, one in arguments.items()}
    mark = sql.SQL("{}::text").format(service.mark).as_string(database) if service else ""
    given["mark"] = mark or _macro(macros, "mark_of_service", {})
    ours, owned, run = (
        _macro(macros, name, given) for name in ("ours", "owned_by_strangers", "run_by_readers")
    )
    found = database.execute(ours + owned).fetchall()
    # The tables of a service's database are ours, and so is what reading them runs.
    return found if service else found + database.execute(ours + run).fetchall()


def _macro(macros: str, name: str, arguments: Mapping[str, str]) -> str:
    """Give the SQL of a macro without logic; Jinja would take longer than the query."""
    (text,) = re.findall(rf"{{% macro {name}\(.*?%}}(.*?){{% endmacro %}}", macros, re.DOTALL)
    return re.sub(r"{{ (\w+) }}", lambda part: arguments[part[1]], text)


def _names(service: Service) -> list[str]:
    """Name the publications and subscriptions that are a service's."""
    owners = service.project.services.values()
    shared = [f"{service.replication}_from_{owner.database}" for owner in owners]
    return [service.replication, service.reverse_replication, *shared]
