"""No value that PostgreSQL holds stops a command, whether or not Python or JSON can hold it."""

from __future__ import annotations

import json

import pytest

from pgsplit.postgres.connect import connect
from tests.support.split import Split

VALUES = {
    "timestamptz 'infinity'": "infinity",
    "date '-infinity'": "-infinity",
    "timestamp '0044-03-15 BC'": "0044-03-15 00:00:00 BC",
    "date '20000-01-01'": "20000-01-01",
    "time '24:00'": "24:00:00",
    "interval 'infinity'": "infinity",
    "interval '178000000 years'": "178000000 years",
    "float8 'NaN'": "NaN",
    "float4 '-Infinity'": "-Infinity",
    "array[timestamp 'infinity']": ["infinity"],
    "upper(daterange('0044-03-15 BC', 'infinity'))": "infinity",
}
# Odd times, in rows that also refer to nothing.
ODD = """
    set session_replication_role = replica;
    insert into blytz_hire.payments
    select odd.*
    from blytz_hire.payments,
        unnest(array['infinity', '-infinity', '0044-03-15 BC', '20000-01-01']) as moment,
        jsonb_populate_record(payments, jsonb_build_object(
            'id', 'odd ' || moment, 'userId', 'nobody', 'jobId', 'no job',
            'stripePaymentIntentId', moment, 'createdAt', moment
        )) as odd
    where payments.id = (select min(id) from blytz_hire.payments);
    update blytz_hire.users set "createdAt" = 'infinity', "updatedAt" = '0044-03-15 BC'
    where id = (select min(id) from blytz_hire.users);
    update blytz_hire.companies set "updatedAt" = '20000-01-01', "totalSpent" = 'Infinity'
    where id = (select min(id) from blytz_hire.companies);
    update blytz_hire.timesheets set "totalHours" = 'NaN'
    where id = (select min(id) from blytz_hire.timesheets);
    reset session_replication_role
"""
COMMANDS = (
    "sync payments",
    "verify payments",
    "verify payments --json",
    "parity payments",
    "parity payments --json",
    "totals payments",
    "totals payments --json",
    "events payments --since 0 --json",
    "analyze",
    "analyze --json",
    "status --json",
    "history --json",
    "report payments --json",
    "reconcile payments",
    "reconcile payments --json",
    "switch payments --no-backup --wait-for-write 0",
    "verify payments",
    "repair payments",
    "rollback payments --no-backup",
)


@pytest.mark.parametrize(("value", "text"), VALUES.items())
def test_value_that_python_cannot_hold_comes_as_text(
    split: Split, value: str, text: object
) -> None:
    with split.monolith() as monolith:
        assert monolith.execute(f"select {value}".encode()).fetchone() == (text,)


def test_other_times_stay_times(split: Split) -> None:
    with connect(split.server.socket, "any") as database:
        row = database.execute("select now() - now(), date '2026-01-01', 1.5::float8").fetchone()
    assert row is not None
    assert [type(one).__name__ for one in row] == ["timedelta", "date", "float"]


@pytest.mark.slow
def test_odd_values_stop_no_command(verified: Split) -> None:
    with verified.monolith() as monolith:
        monolith.execute(ODD.encode())
    for command in COMMANDS:
        ran = verified.runner(*command.split())
        said = ran.stdout + ran.stderr
        assert "Traceback" not in said and "out of range" not in said, (command, said)
        assert "too large" not in said and "can't parse" not in said, (command, said)
        # Orphans are a finding of these two, and a service of its own can't be made up for here.
        allowed = (0, 4, 9) if command.split()[0] in ("parity", "reconcile") else (0,)
        assert ran.returncode in allowed, (command, said)
        if "--json" in command:
            assert_json(ran.stdout)


def assert_json(printed: str) -> None:
    """Check that all documents are JSON as any program reads it, without NaN and Infinity."""
    decoder, rest = json.JSONDecoder(parse_constant=pytest.fail), printed.strip()
    while rest.startswith("{"):
        _, end = decoder.raw_decode(rest)
        rest = rest[end:].strip()
