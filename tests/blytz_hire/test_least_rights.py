"""A migration by a login with only the rights that docs/connections.md lists."""

from __future__ import annotations

from dataclasses import replace

import pytest
from psycopg import sql

from demo.project import MONOLITH, PROJECT
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from pgsplit.replication.sync import sync
from pgsplit.routing.env_file import Side
from tests.support.servers import PASSWORD
from tests.support.split import Split
from tests.support.switching import (
    NEW_PAYMENT,
    PAYMENTS,
    as_service,
    assert_alike,
    move,
    one,
    ran,
    stands,
)

MOVER = "some mover"


@pytest.fixture
def humble(split: Split) -> Split:
    """Give a monolith whose tables belong to their own role, and a login that may migrate them."""
    mover, password = sql.Identifier(MOVER), sql.Literal(PASSWORD)
    with split.monolith() as monolith:
        for statement in (
            "create role {mover} login nosuperuser createdb createrole replication password {}",
            "grant pg_create_subscription to {mover}",
            "grant connect on database postgres to {mover}",
            "create role shop nologin",
            "grant shop to {mover}",
            "grant connect, create on database blytz_hire to {mover}, shop",
            "alter schema blytz_hire owner to shop",
        ):
            monolith.execute(sql.SQL(statement).format(password, mover=mover))
        for (table,) in monolith.execute(
            "select oid::regclass::text from pg_class where relkind = 'r'"
            " and relnamespace = 'blytz_hire'::regnamespace"
        ).fetchall():
            monolith.execute(f"alter table {table} owner to shop")
    url = with_database(split.server.tcp, MONOLITH, user=MOVER)
    environ = {**split.environ, "BLYTZ_HIRE_URL": url}
    return replace(split, connections=resolve(PROJECT, environ), environ=environ)


@pytest.mark.slow
def test_documented_rights_are_enough_for_a_whole_migration(humble: Split) -> None:
    services = ("contracts", "payments")
    ran(humble, "run", *services, "--nice")
    ran(humble, "verify", *services, "--max-impact", "1000%")
    ran(humble, "parity", *services)
    move(humble, "switch")
    with as_service(humble) as payments:
        payments.execute(NEW_PAYMENT[Side.SERVICE], {"id": "humble"})
    move(humble, "rollback")
    assert_alike(humble)
    move(humble, "switch")
    assert "is re-created" in ran(humble, "repair", "payments", "--full")

    ran(humble, "switch", "contracts", "--no-backup")
    ran(humble, "complete", "contracts", "--no-backup")
    with humble.service("contracts_db") as contracts:
        contracts.execute(
            "insert into contracts_db.contracts select (jsonb_populate_record(one,"
            """ '{"id": "made by its owner"}')).* from contracts_db.contracts as one limit 1"""
        )
    sync(PAYMENTS, humble.connections)
    with humble.service("payments_db") as payments:
        known = "select count(*) from blytz_hire.contracts where id = 'made by its owner'"
        assert one(payments, known) == 1

    said = ran(humble, "complete", "payments", "--no-backup")
    assert stands(humble) == "completed" and "The mirror gave back" in said
