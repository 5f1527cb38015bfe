"""Compensates for deletions that left orphans in other services.

In the monolith, a foreign key refused such a deletion or emptied the referring column. Across
databases nothing enforces this immediately, so it is done afterwards: the owner's row is restored,
or the column is emptied. A reference to a row with a tombstone is not broken.

The ledger records each action before it is done, with everything that undoing it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.prove.compensation import Action, Connection, plan
from pgsplit.prove.parity import Parity, Reference, key_of, parity
from pgsplit.replication.sync import apply_changes
from pgsplit.state.ledger import Ledger

STEP = "reconcile"

EMPTY = """
    update {table} set {column} = null where {key} = any(%s) and {column} = any(%s) returning {key}
"""
REFILL = """
    update {table} set {column} = given.value
    from unnest(%s::text[], %s::text[]) as given (key, value)
    where {key} = given.key and {column} is null
    returning {key}
"""


@dataclass(frozen=True)
class Reconciled:
    """The references, the actions (done if `applied`), and the references beyond repair."""

    parity: Parity
    actions: tuple[Action, ...]
    unrepairable: tuple[Reference, ...]
    applied: tuple[int, ...] = ()


def reconcile(
    services: Sequence[Service],
    connections: Connections,
    ledger: Ledger,
    on_service: Callable[[Service], None] = lambda service: None,
    *,
    apply: bool = False,
) -> Reconciled:
    """Find the orphans that deletions left in other services; compensate for them if told to.

    Idempotent: after a crash, only the rest is found again.

    Args:
        services: services that have been built.
        connections: where the servers are.
        ledger: the monolith's ledger.
        on_service: called with each service that has been checked.
        apply: do the actions instead of only listing them.

    Returns:
        The references, the actions, and the references beyond repair: no copy of the owner's row
        was kept, or it has expired.

    Raises:
        NotReady: a deleted row can't be restored, since another row has taken its place.
    """
    found = parity(services, connections, on_service)
    actions, unrepairable = plan([one for one in found.broken if one.had_key], connections, ledger)
    applied = tuple(_apply(one, connections, ledger) for one in actions) if apply else ()
    return Reconciled(found, tuple(actions), tuple(unrepairable), applied)


def undo(number: int, connections: Connections, ledger: Ledger) -> Action:
    """Undo a compensation, except for rows that somebody has written since.

    Args:
        number: its number in the ledger.
        connections: where the servers are.
        ledger: the monolith's ledger.

    Returns:
        The action that was undone.

    Raises:
        NotReady: the ledger has no such compensation, or other rows refer to a restored row by
            now.
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
        step.detail["rows"] = _change(database, action, connections, REFILL, _remove)
    return action


def _apply(action: Action, connections: Connections, ledger: Ledger) -> int:
    """Do a compensation; the ledger records it before. Give its number in the ledger."""
    service = connections.project.services[action.reference.split(".", 1)[0]]
    with (
        connections.connect(action.place) as database,
        ledger.step(service, STEP, action=asdict(action)) as step,
        _refusals_told(database, action, "runner.py reconcile"),
    ):
        step.detail["rows"] = _change(database, action, connections, EMPTY, _restore)
    return step.id


def _change(
    database: Connection,
    action: Action,
    connections: Connections,
    update: str,
    move: Callable[[Connection, Action], list[str]],
) -> list[str]:
    """Update the action's column or move its rows, in one transaction; name the changed rows."""
    with database.transaction():
        if action.kind == "empty":
            values = (list(action.rows), list(action.rows.values()))
            changed = [key for (key,) in database.execute(_render(update, action), values)]
        else:
            changed = move(database, action)
    if action.place != connections.monolith:
        apply_changes(database)
    return changed


@contextmanager
def _refusals_told(database: Connection, action: Action, again: str) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.IntegrityError as error:
        said = ": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
        raise NotReady(
            f"The rows behind {action.reference} can't be changed: {said}. Nothing was changed.",
            where=describe(database.info.dsn),
            hint=f"Fix that row by hand, or restore what it refers to, then: {again}",
        ) from error


def _restore(database: Connection, action: Action) -> list[str]:
    """Restore missing rows; a row that has taken a place since stays."""
    database.execute("set constraints all deferred")
    restored = []
    for table, rows in action.rows.items():
        relation = sql.Identifier(action.schema, table)
        own = sql.Identifier(key_of(database, action.schema, table))
        for key, row in rows.items():
            done = database.execute(
                sql.SQL(
                    "insert into {} select (jsonb_populate_record(null::{}, %s::jsonb)).*"
                    " on conflict ({}) do nothing returning true"
                ).format(relation, relation, own),
                (_as_json(row),),
            ).fetchone()
            if done:
                restored.append(f"{table} {key}")
    return restored


def _remove(database: Connection, action: Action) -> list[str]:
    """Delete restored rows again, unless they have changed since."""
    database.execute("set constraints all deferred")
    removed = []
    for table, rows in reversed(list(action.rows.items())):
        relation = sql.Identifier(action.schema, table)
        for key, row in rows.items():
            done = database.execute(
                sql.SQL(
                    "delete from {} as one"
                    " where one = jsonb_populate_record(null::{}, %s::jsonb) returning true"
                ).format(relation, relation),
                (_as_json(row),),
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


def _as_json(row: str | dict[str, Any]) -> str | Jsonb:
    """Give a kept row as PostgreSQL wants it; an earlier version has recorded it as an object."""
    return row if isinstance(row, str) else Jsonb(row)
