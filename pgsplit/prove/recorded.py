"""What is recorded of each table's verification, in the monolith: `split.verifications`."""

from __future__ import annotations

from dataclasses import asdict

from psycopg.types.json import Jsonb

from pgsplit.postgres.row_diff import Comparison
from pgsplit.postgres.row_hashes import Connection
from pgsplit.project.project import Service
from pgsplit.prove.checks import Check
from pgsplit.state.ledger import Ledger


def interrupted_since(ledger: Ledger, service: Service, *, is_whole: bool) -> str | None:
    """Tell since when tables are proven, if the last verification was interrupted.

    Proofs that are older than an hour don't count, nor those of only changed rows for all rows.
    """
    row = ledger.connection.execute(
        "select (outcome is null or (outcome = 'failed' and not detail ? 'differing'))"
        " and not (%s and coalesce(intent ->> 'compares' = 'changed rows', false)),"
        " greatest(coalesce((intent ->> 'goes_on_from')::timestamptz, started_at),"
        " now() - interval '1 hour')::text"
        " from split.ledger where service = %s and step in ('verify', 'build', 'land')"
        " order by id desc limit 1",
        (is_whole, service.database),
    ).fetchone()
    return str(row[1]) if row and row[0] else None


def proven_since(
    monolith: Connection, service: Service, found: list[Check], since: str | None
) -> dict[str, Comparison]:
    """Give the tables that are proven since then, with how they compared."""
    rows = monolith.execute(
        "select table_name, result from split.verifications"
        " where service = %s and started_at >= %s::timestamptz and is_proven"
        " and (table_name, definition) in (select * from unnest(%s::text[], %s::text[]))",
        (service.database, since, [one.name for one in found], [one.digest for one in found]),
    )
    return {name: Comparison.of(result) for name, result in rows}


def record(ledger: Ledger, service: Service, check: Check, found: Comparison) -> None:
    """Record how a table compared; of one that is still proven, the result of all rows stays."""
    ledger.connection.execute(
        "insert into split.verifications"
        " (service, table_name, definition, started_at, is_proven, result)"
        " values (%s, %s, %s, clock_timestamp() - make_interval(secs => %s), %s, %s)"
        " on conflict (service, table_name) do update"
        " set definition = excluded.definition, started_at = excluded.started_at,"
        " finished_at = default, is_proven = excluded.is_proven,"
        " result = case when %s then verifications.result else excluded.result end",
        (
            service.database,
            check.name,
            check.digest,
            found.seconds,
            found.proven,
            Jsonb(asdict(found)),
            found.proven and check.changed is not None,
        ),
    )
