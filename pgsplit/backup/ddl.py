"""The definitions of a service's own schema as SQL that any migration tool runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pgsplit.backup.scope import LOCKED
from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import LOCK_TIMEOUT, describe, locked
from pgsplit.postgres.programs import errors, program, run, toc
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service

# What a sync and the engine's features hang on the service's tables; it works only beside `split`.
OURS = """
    select 'pg_trigger'::regclass::oid::bigint, triggers.oid::bigint
    from pg_trigger as triggers inner join pg_proc on pg_proc.oid = tgfoid
    where pronamespace = 'split'::regnamespace
    union all
    select 'pg_proc'::regclass::oid::bigint, oid::bigint
    from pg_proc where pronamespace = to_regnamespace(%s) and proname = any(%s)
"""
# Types of extensions, and others that columns of the schema have from elsewhere.
TYPES = """
    select distinct
        extensions.extname, extensions.extnamespace::regnamespace::text,
        format_type(types.oid, null)
    from pg_attribute
    inner join pg_class as class on class.oid = attrelid
    inner join pg_type as columns on columns.oid = atttypid
    inner join pg_type as types
        on types.oid = case when columns.typelem <> 0 and columns.typlen = -1
            then columns.typelem else columns.oid end
    left join pg_depend as member
        on member.classid = 'pg_type'::regclass and member.objid = types.oid
        and member.deptype = 'e'
    left join pg_extension as extensions on extensions.oid = member.refobjid
    where
        class.relnamespace = to_regnamespace(%(schema)s) and class.relkind in ('r', 'p')
        and attnum > 0 and not attisdropped
        and types.typnamespace not in ('pg_catalog'::regnamespace, to_regnamespace(%(schema)s))
    order by 1, 2, 3
"""
ENTRY = re.compile(r"^\d+; (\d+) (\d+) ")
# What only psql knows, and settings that would outlast the migration in the tool's session.
RESTRICTED = re.compile(r"\\(un)?restrict ")
PREAMBLE = re.compile(r"(SET \w+ = .*;|SELECT pg_catalog\.set_config\(.*\);|--.*|)")
HEADING = re.compile(r"^--\n-- .*\n--\n\n?", re.MULTILINE)


@dataclass(frozen=True)
class Definitions:
    """A schema's definitions as SQL, and types of other schemas that it needs and does not make."""

    text: str
    foreign_types: tuple[str, ...]


def definitions(service: Service, connections: Connections) -> Definitions:
    """Dump the definitions of a service's own schema, without roles, rights and what is ours.

    Args:
        service: the service.
        connections: where its database is.

    Returns:
        SQL that makes the schema in an empty database.

    Raises:
        ConnectionFailed: the database can't be reached.
        NotReady: a table is locked, or pg_dump fails.
    """
    known = [*service.project.own_functions]
    with connections.connect(service.database) as database:
        ours = {*database.execute(OURS, (service.database, known)).fetchall()}
        types = database.execute(TYPES, {"schema": service.database}).fetchall()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "schema.dump"
        _run(
            service,
            connections,
            "pg_dump",
            *("--format=custom", "--schema-only", f"--schema={_pattern(service.database)}"),
            *("--no-owner", "--no-privileges", "--no-tablespaces", "--no-security-labels"),
            *("--no-publications", "--no-password", f"--lock-wait-timeout={LOCK_TIMEOUT}"),
            f"--file={path}",
        )
        chosen, plain = Path(folder) / "chosen", Path(folder) / "schema.sql"
        chosen.write_text("\n".join(_without(toc(path), ours)) + "\n", encoding="utf-8")
        _run(
            service,
            connections,
            "pg_restore",
            *("--no-owner", "--no-privileges", f"--use-list={chosen}", f"--file={plain}"),
            str(path),
        )
        text = _plain(plain.read_text(encoding="utf-8"))
    extensions = dict.fromkeys((name, schema) for name, schema, _ in types if name)
    made = [
        f"CREATE SCHEMA IF NOT EXISTS {schema};\n"
        f'CREATE EXTENSION IF NOT EXISTS "{name}" WITH SCHEMA {schema};\n'
        for name, schema in extensions
    ]
    return Definitions("".join(made) + text, tuple(one for name, _, one in types if not name))


def _run(service: Service, connections: Connections, name: str, *options: str) -> None:
    url = connections.urls[service.database]
    command, environ = program(name, url, application="pgsplit handover")
    if name == "pg_restore":  # it writes a file, and connects nowhere
        command = command[:1]
    code, said = run([*command, *options], environ, lambda: None)
    if not code:
        return
    if "lock timeout" in said or "could not obtain lock" in said:
        raise locked(LOCKED, url)
    raise NotReady(
        f"{name} can't write the definitions of {service.database}."
        f" {errors(said) or f'It ended with code {code}.'}",
        where=describe(url),
        hint="Fix that, and call the same command again.",
    )


def _without(listed: str, ours: set[tuple[int, int]]) -> Iterator[str]:
    for line in listed.splitlines():
        entry = ENTRY.match(line)
        if entry is None or (int(entry[1]), int(entry[2])) not in ours:
            yield line


def _plain(text: str) -> str:
    """Leave out headings, settings before the first definition, and what only psql knows."""
    text = HEADING.sub("", text)
    lines = [line for line in text.splitlines() if not RESTRICTED.match(line)]
    while lines and PREAMBLE.fullmatch(lines[0]):
        lines.pop(0)
    return "\n".join(lines).strip() + "\n"


def _pattern(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
