"""What the monolith loses while a service is switched has its values again after the hint."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from pgsplit.base.errors import NotReady
from tests.blytz_hire.test_routes import pasted
from tests.support.split import Done, Split
from tests.support.switching import as_service, assert_alike, move, ran, words

PAYMENTS = "select * from blytz_hire.payments order by id"
MORE = (
    "update payments_db.payments set amount = amount + 1"
    " where id = (select min(id) from payments_db.payments)"
)


def rows(split: Split) -> list[dict[str, Any]]:
    """Read the monolith's payments, by column name."""
    with split.monolith() as monolith:
        cursor = monolith.execute(PAYMENTS)
        names = [one.name for one in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def lose(split: Split, *statements: str) -> None:
    with split.monolith() as monolith:
        for statement in statements:
            monolith.execute(statement.encode())


def commands(done: Done, after: str) -> str:
    """Give a hint's commands, as whoever pastes them takes them."""
    said = (done.stdout + done.stderr).split(after, 1)[1].split("hint:", 1)[1]
    lines = [line.strip() for line in said.splitlines()]
    return "\n".join(lines[: next(n for n, one in enumerate(lines) if one.startswith("or update"))])


@pytest.mark.parametrize(
    "lost",
    [
        ('alter table blytz_hire.payments drop column amount, drop column "refundedAt"',),
        (
            "alter table blytz_hire.payments alter column status type varchar(2)"
            " using left(status, 2)",
        ),
    ],
    ids=["column", "type"],
)
def test_hint_brings_back_what_a_switched_monolith_lost(
    switched: Split, lost: tuple[str, ...]
) -> None:
    before = rows(switched)
    lose(switched, *lost)
    with as_service(switched) as service:
        service.execute(MORE)
    done = switched.runner("status", "payments")
    assert done.returncode == NotReady.exit_code
    hint = commands(done, "is not the one that the models were written for")
    assert "runner.py repair payments --full" in hint
    refused = switched.runner("rollback", "payments", "--dry-run")
    assert refused.returncode == NotReady.exit_code
    for line in hint.splitlines():
        assert line in refused.stderr
    pasted(switched, hint)
    after = rows(switched)
    first = min(range(len(before)), key=lambda n: str(before[n]["id"]))
    before[first]["amount"] += 100
    before[first]["updatedAt"] = after[first]["updatedAt"]
    assert after == before
    ran(switched, "status", "payments")
    assert_alike(switched)
    with switched.monolith() as monolith:
        nulls = "insert into blytz_hire.payments (id) values ('x')"
        with pytest.raises(Exception, match="null value in column|is written in"):
            monolith.execute(nulls)
    move(switched, "rollback")
    ran(switched, "verify", "payments")


@pytest.mark.parametrize("looks", [True, False])
def test_column_that_was_put_back_empty_is_no_proof(switched: Split, looks: bool) -> None:
    """Whoever leaves the repair out is told, whether or not somebody looked meanwhile."""
    lose(switched, "alter table blytz_hire.payments drop column amount")
    if looks:
        switched.runner("status", "payments")
    lose(switched, "alter table blytz_hire.payments add column amount integer")
    for command in (("status",), ("rollback", "--no-backup"), ("complete", "--no-backup")):
        done = switched.runner(command[0], "payments", *command[1:])
        said = words(done.stdout + done.stderr)
        assert done.returncode == NotReady.exit_code, said
        assert "the column amount of blytz_hire.payments" in said
        assert "runner.py repair payments" in said
    ran(switched, "repair", "payments")
    lose(switched, "alter table blytz_hire.payments alter column amount set not null")
    ran(switched, "status", "payments")
    assert_alike(switched)


def test_repair_before_the_column_is_back_says_so(switched: Split) -> None:
    lose(switched, "alter table blytz_hire.payments drop column amount")
    done = switched.runner("repair", "payments")
    assert done.returncode == 5, done.stdout + done.stderr
    assert 'column blytz_hire.payments."amount" is missing' in done.stderr
    hint = commands(done, "is missing")
    pasted(switched, hint)
    ran(switched, "status", "payments")
    assert_alike(switched)


def test_renamed_column_needs_no_repair(switched: Split) -> None:
    lose(switched, "alter table blytz_hire.payments rename column amount to cents")
    done = switched.runner("status", "payments")
    said = words(done.stdout)
    assert 'ALTER TABLE blytz_hire.payments RENAME COLUMN "cents" TO "amount";' in said
    assert "--full" not in said
    lose(switched, "alter table blytz_hire.payments rename column cents to amount")
    ran(switched, "status", "payments")
    assert_alike(switched)


def test_dropping_a_column_that_goes_nowhere_breaks_nothing(switched: Split) -> None:
    lose(switched, "alter table blytz_hire.payments add column scribble text")
    switched.runner("status", "payments")
    lose(switched, "alter table blytz_hire.payments drop column scribble")
    ran(switched, "status", "payments")


SERVICE = "select * from payments_db.payments order by id"


@pytest.mark.parametrize("state", ["switched", "verified"])
def test_column_that_a_service_lost_is_filled_again(
    request: pytest.FixtureRequest, state: str
) -> None:
    """The mirror still has its values; what the hint adds must not be empty."""
    split: Split = request.getfixturevalue(state)
    with split.service("payments_db") as database:
        before = [(row.id, row.receiver_id) for row in payments(database)]
        assert len(before) > 10 and all(receiver for _, receiver in before)
        database.execute("alter table payments_db.payments drop column receiver_id")
    done = split.runner("status", "payments")
    assert "column payments_db.payments.receiver_id is gone" in words(done.stdout)
    hint = done.stdout.split("receiver_id is gone")[1].split("hint:")[1].strip().splitlines()[0]
    assert "select split.refill(" in hint
    with split.service("payments_db") as database:
        database.execute(hint.encode())
        assert [(row.id, row.receiver_id) for row in payments(database)] == before
        database.execute("alter table payments_db.payments alter receiver_id set not null")
    monolith = rows(split)
    ran(split, "sync", "payments")
    assert rows(split) == monolith
    if state == "switched":
        assert_alike(split)
        move(split, "rollback")
    ran(split, "verify", "payments")


def payments(database: psycopg.Connection[Any]) -> list[Any]:
    with database.cursor(row_factory=namedtuple_row) as cursor:
        return list(cursor.execute(SERVICE))
