"""What cascades did between services: finds dependants that an owner's deletion has left behind.

Within the monolith a foreign key refused such a deletion, or emptied the column that referred.
Across databases nobody does, at once; here the same is done afterwards, as compensation. What was
to be refused is taken back: the owner's row returns as it was. What was to be emptied is emptied.
What refers to a row that keeps a tombstone leads somewhere.

Each action is an entry of the ledger with all that undoing it takes, recorded before it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.ownership import pairs
from pgsplit.project.project import Project, Service
from pgsplit.prove.parity import Parity, Reference, key_of, parity
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger, State

Connection = psycopg.Connection[Any]

STEP = "reconcile"

ORPHANS = """
    select {key}::text, {column}::text from {orphans}
"""
EMPTY = """
    update {table} set {column} = null where {key} = any(%s) and {column} = any(%s) returning {key}
"""
REFILL = """
    update {table} set {column} = given.value
    from unnest(%s::text[], %s::text[]) as given (key, value)
    where {key} = given.key and {column} is null
    returning {key}
"""
# The newest copy of each row that was deleted; a table's rows of one key come back together.
KEPT = """
    select distinct on (table_name, key) table_name, key, row
    from split.deleted_rows where key = any(%s) and table_name = any(%s)
    order by table_name, key, deleted_at desc
"""
TABLES = """
    select split_part(followed, '.', 2) from split.mirror_tables, unnest(follows) as followed
    where table_name = %s
"""
# What a table's rows refer to within the service, and the tables in which a row of that is spread.
PARENTS = """
    select child.relname, own.attname, parent.relname, its.attname, array(
        select distinct split_part(followed, '.', 2)
        from split.mirror_tables as mirror, unnest(mirror.follows) as followed
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

    `rows` gives by key what is emptied, or what is restored, table by table. `place` is the
    database in which that is the truth. `reference` names what led nowhere, for people.
    """

    kind: str
    place: str
    schema: str
    table: str
    key: str
    column: str
    rows: Mapping[str, Any]
    reference: str


@dataclass(frozen=True)
class Reconciled:
    """What was found, what is or was to be done about it, and what can't be."""

    parity: Parity
    actions: tuple[Action, ...]
    helpless: tuple[Reference, ...]
    applied: tuple[int, ...] = ()


def reconcile(
    services: Sequence[Service],
    connections: Connections,
    ledger: Ledger,
    on_service: Callable[[Service], None] = lambda service: None,
    *,
    apply: bool = False,
) -> Reconciled:
    """Find what deletions have left behind in other services; told to, make up for it.

    Idempotent: what was done before a crash is not found again, and what was not is.

    Args:
        services: services that have been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_service: called with each service that has been looked at.
        apply: do it, rather than say what would be done.

    Returns:
        The references, the actions, and those that nothing can be done about: the owner's row was
        deleted before anybody kept it, or too long ago.

    Raises:
        NotReady: what was deleted can't return, since another row has taken its place.
    """
    found = parity(services, connections, on_service)
    actions, helpless = _plan([one for one in found.broken if one.had_key], connections, ledger)
    applied = tuple(_apply(one, connections, ledger) for one in actions) if apply else ()
    return Reconciled(found, tuple(actions), tuple(helpless), applied)


def undo(number: int, connections: Connections, ledger: Ledger) -> Action:
    """Take a compensation back, as far as nobody has written the same rows since.

    Args:
        number: its number in the ledger.
        connections: where the servers are.
        ledger: the monolith's ledger.

    Returns:
        The action that was taken back.

    Raises:
        NotReady: the ledger has no such compensation, or others refer by now to what it brought
            back.
    """
    row = ledger.connection.execute(
        "select service, intent from split.ledger where id = %s and step = %s", (number, STEP)
    ).fetchone()
    if row is None:
        raise NotReady(
            f"The ledger has no compensation {number}.",
            where=describe(ledger.connection.info.dsn),
            hint="runner.py history --json",
        )
    service, action = connections.project.services[row[0]], Action(**row[1]["action"])
    with (
        connections.connect(action.place) as database,
        ledger.step(service, f"{STEP}: undo", undoes=number) as step,
        _refusals_told(database, action, f"runner.py reconcile --undo {number}"),
    ):
        with database.transaction():
            if action.kind == "empty":
                changed = database.execute(
                    _render(REFILL, action), (list(action.rows), list(action.rows.values()))
                )
                step.detail["rows"] = [key for (key,) in changed]
            else:
                step.detail["rows"] = _remove(database, action)
        if action.place != connections.monolith:
            apply_changes(database)
    return action


def _plan(
    broken: Sequence[Reference], connections: Connections, ledger: Ledger
) -> tuple[list[Action], list[Reference]]:
    """Plan what makes up for each reference; what is restored for one is not emptied for another.

    A deletion that one key would have refused never would have emptied what another refers by.
    """
    orphans = {one: _orphans(one, connections) for one in broken}
    restored: dict[tuple[str, str], set[str]] = {}
    actions, helpless = list[Action](), list[Reference]()
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
                helpless.append(replace(one, orphans=left))
    for one in broken:
        if one.on_delete == "set null":
            back = restored.get((one.owner, one.owner_table), set())
            key, rows = orphans[one]
            rows = {row: value for row, value in rows.items() if value not in back}
            if rows:
                actions.append(_emptying(one, key, rows, connections, ledger))
    return actions, helpless


def _orphans(reference: Reference, connections: Connections) -> tuple[str, dict[str, str]]:
    """Give the referring table's key, and by it what each row refers to that is not there."""
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
    """Plan to empty a column where it is the truth: in the service, or still in the monolith."""
    named, project = _named(reference), connections.project
    if ledger.state(project.services[reference.service]).reached(State.SWITCHED):
        place = reference.service
        return Action("empty", place, place, reference.table, key, reference.column, rows, named)
    table, column = _in_monolith(reference, project)
    return Action("empty", project.name, project.schema, table, "id", column, rows, named)


def _restoring(
    references: Sequence[Reference], keys: set[str], connections: Connections, ledger: Ledger
) -> Action | None:
    """Plan to bring back what the owner has deleted; None if nothing of it is kept."""
    owner, table = connections.project.services[references[0].owner], references[0].owner_table
    if not ledger.state(owner).reached(State.SWITCHED):
        return None  # the monolith's own key has seen to it, or it was never there
    with connections.connect(owner.database) as database:
        tables = [row[0] for row in database.execute(TABLES, (table,))]
        rows: dict[str, dict[str, Any]] = {}
        for key in sorted(keys):
            found = _kept(database, tables, [key])
            if key in found.get(table, {}) and _with_parents(database, owner.database, found):
                for name, ones in found.items():
                    rows.setdefault(name, {}).update(ones)
    if not rows:
        return None
    # The table itself first: the others refer to it.
    ordered = dict(sorted(rows.items(), key=lambda item: item[0] != table))
    named = ", ".join(map(_named, references))
    return Action("restore", owner.database, owner.database, table, "", "", ordered, named)


def _kept(
    database: Connection, tables: Sequence[str], keys: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Give what is kept of deleted rows, by table and key."""
    rows: dict[str, dict[str, Any]] = {}
    for name, key, row in database.execute(KEPT, (list(keys), list(tables))):
        rows.setdefault(name, {})[key] = row
    return rows


def _with_parents(database: Connection, schema: str, rows: dict[str, dict[str, Any]]) -> bool:
    """Add what kept rows refer to within the service and is gone, too; False if it is not kept.

    Within the monolith, what would have kept a row from being deleted kept its parents from it.
    """
    references = database.execute(PARENTS, {"schema": schema}).fetchall()
    is_whole = False
    while not is_whole:
        is_whole = True
        for child, column, parent, parent_key, tables in references:
            wanted = {row[column] for row in rows.get(child, {}).values()} - {None}
            query = sql.SQL(MISSING).format(
                table=sql.Identifier(schema, parent), key=sql.Identifier(parent_key)
            )
            missing = {
                key
                for (key,) in database.execute(query, (sorted(wanted),))
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


def _apply(action: Action, connections: Connections, ledger: Ledger) -> int:
    """Do it, recorded; give its number in the ledger."""
    service = connections.project.services[action.reference.split(".", 1)[0]]
    with (
        connections.connect(action.place) as database,
        ledger.step(service, STEP, action=asdict(action)) as step,
        _refusals_told(database, action),
    ):
        with database.transaction():
            if action.kind == "empty":
                changed = database.execute(
                    _render(EMPTY, action), (list(action.rows), list(set(action.rows.values())))
                )
                step.detail["rows"] = [key for (key,) in changed]
            else:
                step.detail["rows"] = _restore(database, action)
        if action.place != connections.monolith:
            apply_changes(database)
    return step.id


@contextmanager
def _refusals_told(
    database: Connection, action: Action, again: str = "runner.py reconcile"
) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.IntegrityError as error:
        said = ": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
        raise NotReady(
            f"What {action.reference} refers to can't be changed so: {said}. Nothing was changed.",
            where=describe(database.info.dsn),
            hint=f"Mend that row by hand, or put back what it refers to, then: {again}",
        ) from error


def _restore(database: Connection, action: Action) -> list[str]:
    """Put rows back that are not there; whoever came in their place since stays."""
    database.execute("set constraints all deferred")
    restored = []
    for table, rows in action.rows.items():
        relation = sql.Identifier(action.schema, table)
        own = sql.Identifier(key_of(database, action.schema, table))
        for key, row in rows.items():
            done = database.execute(
                sql.SQL(
                    "insert into {} select (jsonb_populate_record(null::{}, %s)).*"
                    " on conflict ({}) do nothing returning true"
                ).format(relation, relation, own),
                (Jsonb(row),),
            ).fetchone()
            if done:
                restored.append(f"{table} {key}")
    return restored


def _remove(database: Connection, action: Action) -> list[str]:
    """Delete restored rows again that are still as they were restored."""
    database.execute("set constraints all deferred")
    removed = []
    for table, rows in reversed(list(action.rows.items())):
        relation = sql.Identifier(action.schema, table)
        for key, row in rows.items():
            done = database.execute(
                sql.SQL(
                    "delete from {} as one"
                    " where one = jsonb_populate_record(null::{}, %s) returning true"
                ).format(relation, relation),
                (Jsonb(row),),
            ).fetchone()
            if done:
                removed.append(f"{table} {key}")
    return removed


def _render(template: Any, action: Action) -> sql.Composed:
    return sql.SQL(template).format(
        table=sql.Identifier(action.schema, action.table),
        column=sql.Identifier(action.column),
        key=sql.Identifier(action.key),
    )


def _in_monolith(reference: Reference, project: Project) -> tuple[str, str]:
    service_column = (reference.service, reference.table, reference.column)
    (found,) = (
        (pair.monolith_table, pair.monolith_column)
        for pair in pairs(project)
        if (pair.service, pair.service_table, pair.service_column) == service_column
        and pair.total == "same"
    )
    return found
