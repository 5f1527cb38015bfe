"""No value that PostgreSQL holds stops a command, whether or not Python or JSON can hold it."""

from __future__ import annotations

import json
from pathlib import Path

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
# Every odd value where the services' rules allow it, and rows that refer to nothing.
ODD = """
    set session_replication_role = replica;
    insert into blytz_hire.payments
    select odd.*
    from blytz_hire.payments,
        unnest(array['infinity', '-infinity', '0044-03-15 BC', '20000-01-01']) as moment,
        jsonb_populate_record(payments, jsonb_build_object(
            'id', 'odd ' || moment, 'userId', 'nobody', 'stripePaymentIntentId', moment,
            'createdAt', moment
        )) as odd
    where payments.id = (select min(id) from blytz_hire.payments);
    update blytz_hire.users set "createdAt" = 'infinity', "updatedAt" = '0044-03-15 BC'
    where id = (select min(id) from blytz_hire.users);
    update blytz_hire.notifications set "createdAt" = '-infinity'
    where id in (select id from blytz_hire.notifications limit 3);
    update blytz_hire.companies set "updatedAt" = '20000-01-01', "totalSpent" = 'Infinity'
    where id = (select min(id) from blytz_hire.companies);
    update blytz_hire.timesheets set "totalHours" = 'NaN'
    where id = (select min(id) from blytz_hire.timesheets);
    reset session_replication_role
"""


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
def test_odd_values_stop_no_command(six: Split, tmp_path: Path) -> None:
    with six.monolith() as monolith:
        monolith.execute(ODD.encode())
    page = str(tmp_path / "page.html")
    for command, code in (
        (("sync",), 0),
        (("verify",), 0),
        (("verify", "--json"), 0),
        (("parity", "--json"), 0),
        (("parity",), 0),
        (("totals",), 0),
        (("totals", "--json"), 0),
        (("events", "payments", "--since", "0"), 0),
        (("analyze", "--json"), 0),
        (("status", "--json"), 0),
        (("history",), 0),
        (("history", "--json"), 0),
        (("report", "--html", page), 0),
        (("repair", "payments"), 0),
        (("build", "payments", "users"), 0),
        (("reconcile", "payments"), 0),
        (("reconcile", "payments", "--json"), 0),
        (("backup", "payments"), 0),
        (("switch", "payments", "--no-backup", "--wait-for-write", "0"), 0),
        (("verify", "payments"), 0),
        (("rollback", "payments", "--no-backup"), 0),
    ):
        ran = six.runner(*command)
        assert "Traceback" not in ran.stderr and "out of range" not in ran.stderr, command
        assert ran.returncode == code, (command, ran.stdout + ran.stderr)
        if "--json" in command:
            json.loads(ran.stdout, parse_constant=pytest.fail)
