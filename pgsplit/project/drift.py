"""Compares the live monolith, and a mirror of it, with what the project expects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from pgsplit.base.errors import SourceMismatch
from pgsplit.postgres.catalog import LiveTable, live_tables
from pgsplit.project.nowhere import goes_nowhere
from pgsplit.project.project import Project, Service, Table


def _missing(schema: str, table: LiveTable, wanted: Table, column: str) -> tuple[str, str, bool]:
    """Give the error and the fix for a missing column, and whether it has another name now."""
    qualified, kind = f"{schema}.{wanted.name}", wanted.columns[column]
    renamed = [n for n, has in table.columns.items() if n not in wanted.columns and has == kind]
    if renamed:
        return (
            f'column {qualified}."{column}" is missing; perhaps it is "{renamed[0]}" now',
            f'ALTER TABLE {qualified} RENAME COLUMN "{renamed[0]}" TO "{column}";',
            True,
        )
    return (
        f'column {qualified}."{column}" is missing',
        f'ALTER TABLE {qualified} ADD COLUMN "{column}" {kind};',
        False,
    )


def _as_commands(
    fixes: list[str], lost: bool, writer: Service | None, then: list[str]
) -> list[str]:
    """Give the fixes; where values are lost that a service has, its repair brings them back."""
    if not writer or not lost:
        return fixes

    def command(statement: str) -> str:
        is_sql = statement.startswith("ALTER ")
        return f"runner.py psql monolith -c '{statement}'" if is_sql else statement

    repair = f"runner.py repair {writer.role} --full"
    return [*map(command, fixes), repair, *map(command, then)]


def check(
    project: Project,
    monolith: psycopg.Connection[Any],
    names: Mapping[str, tuple[str, ...]],
    *,
    writer: Service | None = None,
    not_null: Collection[tuple[str, str]] = (),
) -> dict[str, LiveTable]:
    """Compare the live monolith with the project's sources.

    Args:
        project: the project.
        monolith: a connection to its monolith.
        names: the needed tables and their columns.
        writer: the service that writes these tables, if it is switched: it has their values.
        not_null: tables and columns of the mirror that can't be null.

    Returns:
        The monolith's tables by name, as they are.

    Raises:
        SourceMismatch: a table or column is missing or of another type, a table has no primary
            key, its replica identity is not its primary key, or other tables inherit from it. One
            message has all findings.
    """
    found = live_tables(monolith, project.schema)
    wrong: list[tuple[str, str]] = []
    lost, then = False, list[str]()  # what to do once lost values are there again
    for name, columns in names.items():
        table, qualified = found.get(name), f"{project.schema}.{name}"
        wanted_table = project.tables[name]
        if table is None:
            lost = True
            wrong.append((f"table {qualified} is missing", f"Create {qualified}"))
            continue
        for column in columns:
            wanted, has = wanted_table.columns[column], table.columns.get(column)
            if column in table.generated:
                wrong.append(
                    (
                        f'column {qualified}."{column}" is generated: replication does not carry it'
                        " in all versions, and never back",
                        f'Take "{column}" out of models/_sources.yml and'
                        " seeds/column_ownership.csv; compute it in the service's model",
                    )
                )
            elif has is None:
                what, fix, is_renamed = _missing(project.schema, table, wanted_table, column)
                wrong.append((what, fix))
                lost = lost or not is_renamed
                if (name, column) in not_null and not is_renamed:
                    then.append(f'ALTER TABLE {qualified} ALTER COLUMN "{column}" SET NOT NULL;')
            elif has != wanted:
                lost = True
                wrong.append(
                    (
                        f'column {qualified}."{column}" is {has} where {wanted} is expected',
                        f'ALTER TABLE {qualified} ALTER COLUMN "{column}" TYPE {wanted};',
                    )
                )
        if not table.primary_key:
            wrong.append(
                (
                    f"table {qualified} has no primary key, or a deferrable one",
                    f"ALTER TABLE {qualified} ADD PRIMARY KEY (id);",
                )
            )
        elif table.replica_identity != "d":
            wrong.append(
                (
                    f"table {qualified} has a replica identity other than its primary key",
                    f"ALTER TABLE {qualified} REPLICA IDENTITY DEFAULT;",
                )
            )
        elif table.heirs:
            wrong.append(
                (
                    f"tables inherit from {qualified}: {', '.join(table.heirs)}; it has their rows,"
                    " too, but replication does not carry them as its own",
                    "\n".join(
                        f"ALTER TABLE {heir} NO INHERIT {qualified};" for heir in table.heirs
                    ),
                )
            )
        elif missing := set(table.primary_key) - set(columns):
            wrong.append(
                (
                    f"the primary key of {qualified} has columns that do not land: {missing}",
                    f"List them for {name} in models/_sources.yml",
                )
            )
    if wrong:
        database = monolith.info.dbname
        raise SourceMismatch(
            "The monolith is not the one that the models were written for:\n"
            + "\n".join(f"  - {what}" for what, _ in wrong),
            where=f"database {database}, schema {project.schema}",
            hint="\n".join(_as_commands([hint for _, hint in wrong], lost, writer, then))
            + "\nor update models/_sources.yml, the models and seeds/column_ownership.csv.",
        )
    return found


def check_written(
    monolith: psycopg.Connection[Any],
    database: psycopg.Connection[Any],
    service: Service,
    names: Mapping[str, tuple[str, ...]],
    mirror: Mapping[str, LiveTable] | None = None,
) -> dict[str, LiveTable]:
    """Do the same for a service that has landed, and perhaps writes these tables; see `check`."""
    mirror = live_tables(database, service.mirror) if mirror is None else mirror
    not_null = {(name, column) for name, table in mirror.items() for column in table.not_null}
    writer = service if _is_switched(database) else None
    return check(service.project, monolith, names, writer=writer, not_null=not_null)


def _is_switched(database: psycopg.Connection[Any]) -> bool:
    row = database.execute("select switched_at is not null from split.service").fetchone()
    return row == (True,)


def _recopied(
    database: psycopg.Connection[Any],
    service: Service,
    qualified: str,
    wanted: Mapping[str, str],
    here: LiveTable | None,
) -> list[str]:
    """Give what gives a mirror's table its columns again; a switched one can't be re-copied."""
    if not _is_switched(database) or here is None:
        return [f"runner.py land {service.role} --recopy"]
    has = here.columns
    changes = [f'DROP COLUMN "{column}"' for column in has if column not in wanted]
    changes += [f'ADD COLUMN "{c}" {kind}' for c, kind in wanted.items() if c not in has]
    changes += [
        f'ALTER COLUMN "{c}" TYPE {kind} USING "{c}"::{kind}'
        for c, kind in wanted.items()
        if has.get(c, kind) != kind
    ]
    statement = f"ALTER TABLE {qualified} {', '.join(changes)}"
    return [
        f"runner.py psql {service.role} -c '{statement}', then runner.py repair"
        f" {service.role} --full"
    ]


def drift(
    monolith: psycopg.Connection[Any],
    database: psycopg.Connection[Any],
    service: Service,
    completed: frozenset[str],
) -> list[str]:
    """Find changes in the monolith's definitions since a service has landed.

    Args:
        monolith: a connection to the monolith.
        database: a connection to the service's database, which has a mirror.
        service: the service.
        completed: the services whose tables are retired in the monolith.

    Returns:
        Notes on changes that don't stop replication: columns that it doesn't copy.

    Raises:
        SourceMismatch: a change stops replication, now or with the next row: see `check`; or the
            mirror's columns, types, keys or NOT NULLs differ from the monolith's.
    """
    names = {
        name: columns
        for name, columns in service.landed_tables.items()
        if service.project.tables[name].owner not in completed
    }
    mirror = live_tables(database, service.mirror)
    source = check_written(monolith, database, service, names, mirror)
    nowhere = goes_nowhere(service.project)
    wrong: list[str] = []
    hint: list[str] = []
    notes: list[str] = []
    for name, columns in names.items():
        there, here, qualified = source[name], mirror.get(name), f"{service.mirror}.{name}"
        added = [
            column
            for column in there.columns
            if column not in service.project.tables[name].columns and column not in there.generated
        ]
        notes += [
            f'{qualified}."{column}" is new in the monolith and goes nowhere: say in'
            " seeds/column_ownership.csv where it shall go"
            for column in added
            if service.project.tables[name].owner == service.database
            and (name, column) not in nowhere
        ]
        if here is None or dict(here.columns) != {c: there.columns[c] for c in columns}:
            wrong.append(f"the mirror {qualified} does not have the columns that have landed")
            wanted = {column: there.columns[column] for column in columns}
            hint += _recopied(database, service, qualified, wanted, here)
            continue
        for column in sorted(here.not_null - there.not_null):
            wrong.append(f'column {qualified}."{column}" may be null in the monolith now')
            hint.append(
                f"runner.py psql {service.role} -c"
                f""" 'ALTER TABLE {qualified} ALTER COLUMN "{column}" DROP NOT NULL'"""
            )
    if wrong:
        raise SourceMismatch(
            f"The mirror in {service.database} differs from the monolith:\n"
            + "\n".join(f"  - {what}" for what in wrong),
            where=f"database {database.info.dbname}, schema {service.mirror}",
            hint="\n".join(dict.fromkeys(hint)),
        )
    return notes
