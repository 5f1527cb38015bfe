"""Plans the compensations for orphans: what a deletion in another service has left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.project.endpoints import Connections
from pgsplit.project.ownership import pairs
from pgsplit.project.project import Project
from pgsplit.prove.parity import Reference, key_of
from pgsplit.state.ledger import Ledger, State

Connection = psycopg.Connection[Any]

ORPHANS = """
    select {key}::text, {column}::text from {orphans}
"""
# The newest copy of each deleted row; a table's rows with one key are restored together. As text:
# Python knows numbers of few digits only.
KEPT = """
    select distinct on (table_name, key) table_name, key, row::text
    from split.deleted_rows where key = any(%s) and table_name = any(%s)
    order by table_name, key, deleted_at desc
"""
TABLES = """
    select split_part(one, '.', 2) from split.mirror_tables, unnest(follows) as one
    where table_name = %s
"""
# What a table's rows refer to within the service, and the tables over which such a row is spread.
PARENTS = """
    select child.relname, own.attname, parent.relname, its.attname, array(
        select distinct split_part(one, '.', 2)
        from split.mirror_tables as mirror, unnest(mirror.follows) as one
        where format('%%s.%%s', %(schema)s::text, parent.relname) = any(mirror.follows)
    )
    from pg_constraint as reference
    inner join pg_class as child on child.oid = reference.conrelid
    inner join pg_class as parent on parent.oid = reference.confrelid
    inner join pg_attribute as own
        on own.attrelid = reference.conrelid and own.attnum = reference.conkey[1]
    inner join pg_attribute as its
        on its.attrelid = reference.confrelid and its.attnum = reference.confkey[1]
    where
        reference.contype = 'f'
        and reference.connamespace = to_regnamespace(%(schema)s)
        and cardinality(reference.conkey) = 1
"""
MISSING = """
    select given from unnest(%s::text[]) as given
    where not exists (select from {table} where {key} = given)
"""


@dataclass(frozen=True)
class Action:
    """A compensation: `empty` a column of some rows, or `restore` an owner's rows.

    `rows` gives by key the emptied values, or by table the restored rows. `place` is the database
    that is the source of truth. `reference` names the broken reference, for people.
    """

    kind: str
    place: str
    schema: str
    table: str
    key: str
    column: str
    rows: Mapping[str, Any]
    reference: str


def plan(
    broken: Sequence[Reference], connections: Connections, ledger: Ledger
) -> tuple[list[Action], list[Reference]]:
    """Plan the compensations for broken references.

    If a row is restored for one reference, no column is emptied because of it: the monolith would
    have refused the deletion, and so not emptied anything.

    Returns:
        The actions, and the references that nothing can repair.
    """
    orphans = {one: _orphans(one, connections) for one in broken}
    restored: dict[tuple[str, str], set[str]] = {}
    actions, unrepairable = list[Action](), list[Reference]()
    refusing = [one for one in broken if one.on_delete != "set null"]
    for place in dict.fromkeys((one.owner, one.owner_table) for one in refusing):
        group = [one for one in refusing if (one.owner, one.owner_table) == place]
        keys = {value for one in group for value in orphans[one][1].values()}
        action = _restoring(group, keys, connections, ledger)
        back = restored[place] = set(action.rows[action.table]) if action else set()
        if action:
            actions.append(action)
        for one in group:
            left = sum(value not in back for value in orphans[one][1].values())
            if left:
                unrepairable.append(replace(one, orphans=left))
    for one in broken:
        if one.on_delete == "set null":
            back = restored.get((one.owner, one.owner_table), set())
            key, rows = orphans[one]
            rows = {row: value for row, value in rows.items() if value not in back}
            if rows:
                actions.append(_emptying(one, key, rows, connections, ledger))
    return actions, unrepairable


def _orphans(reference: Reference, connections: Connections) -> tuple[str, dict[str, str]]:
    """Give the referring table's key column, and by key the missing row that each orphan names."""
    schema, audit = reference.stored_in.split(".", 1)
    with connections.connect(reference.service) as database:
        key = key_of(database, reference.service, reference.table)
        query = sql.SQL(ORPHANS).format(
            key=sql.Identifier(key),
            column=sql.Identifier(reference.column),
            orphans=sql.Identifier(schema, audit),
        )
        return key, dict(database.execute(query).fetchall())


def _emptying(
    reference: Reference,
    key: str,
    rows: dict[str, str],
    connections: Connections,
    ledger: Ledger,
) -> Action:
    """Plan to empty a column at its source of truth: the service, or still the monolith."""
    named, project = _named(reference), connections.project
    if ledger.state(project.services[reference.service]).reached(State.SWITCHED):
        place = reference.service
        return Action("empty", place, place, reference.table, key, reference.column, rows, named)
    table, column = _in_monolith(reference, project)
    return Action("empty", project.name, project.schema, table, "id", column, rows, named)


def _restoring(
    references: Sequence[Reference], keys: set[str], connections: Connections, ledger: Ledger
) -> Action | None:
    """Plan to restore what the owner has deleted; None if no copy is kept."""
    owner, table = connections.project.services[references[0].owner], references[0].owner_table
    if not ledger.state(owner).reached(State.SWITCHED):
        return None  # the monolith's own foreign key applies, or the row never existed
    with connections.connect(owner.database) as database:
        tables = [row[0] for row in database.execute(TABLES, (table,))]
        rows: dict[str, dict[str, str]] = {}
        for key in sorted(keys):
            found = _kept(database, tables, [key])
            if key in found.get(table, {}) and _with_parents(database, owner.database, found):
                for name, ones in found.items():
                    rows.setdefault(name, {}).update(ones)
    if not rows:
        return None
    # The table itself comes first: the others refer to it.
    ordered = dict(sorted(rows.items(), key=lambda item: item[0] != table))
    named = ", ".join(map(_named, references))
    return Action("restore", owner.database, owner.database, table, "", "", ordered, named)


def _kept(
    database: Connection, tables: Sequence[str], keys: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Give the kept copies of deleted rows, as JSON, by table and key."""
    rows: dict[str, dict[str, str]] = {}
    for name, key, row in database.execute(KEPT, (list(keys), list(tables))):
        rows.setdefault(name, {})[key] = row
    return rows


def _with_parents(database: Connection, schema: str, rows: dict[str, dict[str, str]]) -> bool:
    """Add the deleted rows to which kept rows refer within the service; False if one is not kept.

    In the monolith, the foreign key that protected a row protected its parents too.
    """
    references = database.execute(PARENTS, {"schema": schema}).fetchall()
    is_whole = False
    while not is_whole:
        is_whole = True
        for child, column, parent, parent_key, tables in references:
            wanted = {_value(row, column) for row in rows.get(child, {}).values()} - {None}
            query = sql.SQL(MISSING).format(
                table=sql.Identifier(schema, parent), key=sql.Identifier(parent_key)
            )
            missing = {
                key
                for (key,) in database.execute(query, (list(wanted),))
                if key not in rows.get(parent, {})
            }
            if not missing:
                continue
            found = _kept(database, tables, sorted(missing))
            if found.get(parent, {}).keys() != missing:
                return False
            for name, ones in found.items():
                rows.setdefault(name, {}).update(ones)
            is_whole = False
    return True


def _named(reference: Reference) -> str:
    return f"{reference.service}.{reference.table}.{reference.column}"


def _in_monolith(reference: Reference, project: Project) -> tuple[str, str]:
    service_column = (reference.service, reference.table, reference.column)
    (found,) = (
        (pair.monolith_table, pair.monolith_column)
        for pair in pairs(project)
        if (pair.service, pair.service_table, pair.service_column) == service_column
        and pair.total == "same"
    )
    return found


def _value(row: str, column: str) -> str | None:
    """Read a key's column of a row that is JSON; numbers stay as they are written."""
    value: str | None = json.loads(row, parse_int=str, parse_float=str)[column]
    return value
