"""The sample monolith: it has the expected tables and the promised oddities."""

from __future__ import annotations

import pytest

from demo.project import MIRROR_SCHEMA, PROJECT
from pgsplit.base.errors import TargetOccupied
from pgsplit.load import sample as demo
from pgsplit.postgres.catalog import live_tables
from pgsplit.postgres.connect import connect, with_database
from tests.support.servers import Server
from tests.support.split import Split
from tests.support.stage import SAMPLE, SAMPLE_ROWS, Stage

# What real data contains, each as a question that the sample answers with at least one row.
ODDITIES = {
    "unicode text": "select 1 from blytz_hire.notifications where message ~ '[^[:ascii:]]'",
    "a usable chat message": "select 1 from blytz_hire.notifications"
    " where type = 'chat_message' and data ->> 'senderId' <> ''",
    "an unusable chat message": "select 1 from blytz_hire.notifications"
    " where type = 'chat_message' and data ->> 'senderId' is null",
    "a message to oneself": "select 1 from blytz_hire.notifications"
    " where type = 'chat_message' and data ->> 'senderId' = \"userId\"",
    "a refund without a time": "select 1 from blytz_hire.payments"
    ' where "refundAmount" is not null and "refundedAt" is null',
    "a refund without an amount": "select 1 from blytz_hire.payments"
    ' where "refundAmount" is null and "refundedAt" is not null',
    "a dispute": "select 1 from blytz_hire.payments where metadata ->> 'disputeReason' <> ''",
    "an orphaned receiver": "select 1 from blytz_hire.payments as p where not exists"
    ' (select 1 from blytz_hire.users as u where u.id = p."receiverId")',
    "an orphaned milestone": 'select 1 from blytz_hire.payments as p where "milestoneId" is not'
    ' null and not exists (select 1 from blytz_hire.milestones as m where m.id = p."milestoneId")',
    "colliding invoice numbers": 'select 1 from blytz_hire.invoices group by "invoiceNumber"'
    " having count(*) > 1",
    "a review of a profile": "select 1 from blytz_hire.reviews where \"targetType\" = 'va'",
    "a review of a company": "select 1 from blytz_hire.reviews where \"targetType\" = 'company'",
    "a URL that is no object-store URL": "select 1 from blytz_hire.portfolio_items"
    " where \"fileUrl\" not like '%amazonaws.com%'",
    "a rate range that doesn't parse": "select 1 from blytz_hire.job_postings"
    " where \"rateRange\" = 'negotiable'",
    "an empty array": "select 1 from blytz_hire.va_profiles where skills = '{}'",
    "an array of documents": "select 1 from blytz_hire.contracts"
    " where cardinality(deliverables) > 1",
    "a double with 17 digits": "select 1 from blytz_hire.contracts"
    " where length(regexp_replace(amount::text, '[^0-9]', '', 'g')) >= 17",
    "milliseconds": "select 1 from blytz_hire.payments"
    ' where extract(milliseconds from "createdAt")::integer % 1000 <> 0',
}


@pytest.fixture(scope="module")
def found(stage: Stage) -> dict[str, bool]:
    """Ask for every oddity at once."""
    with stage.enter(SAMPLE).monolith() as monolith:
        return {
            oddity: monolith.execute(question).fetchone() == (1,)
            for oddity, question in ODDITIES.items()
        }


@pytest.mark.parametrize("oddity", ODDITIES)
def test_sample_contains_the_oddity(found: dict[str, bool], oddity: str) -> None:
    assert found[oddity]


def test_sample_has_the_tables_that_the_models_expect(split: Split) -> None:
    with split.monolith() as monolith:
        live = live_tables(monolith, MIRROR_SCHEMA)
        keys = monolith.execute(
            "select contype, count(*) from pg_constraint"
            " where connamespace = 'blytz_hire'::regnamespace and contype in ('p', 'f') group by 1"
        ).fetchall()
        unique = monolith.execute(
            "select count(*) from pg_index inner join pg_class on oid = indexrelid"
            " where indisunique and not indisprimary"
            " and relnamespace = 'blytz_hire'::regnamespace"
        ).fetchone()
    assert {name: dict(table.columns) for name, table in live.items()} == {
        name: dict(table.columns) for name, table in PROJECT.tables.items()
    }
    assert sum(len(table.columns) for table in live.values()) == 269
    assert dict(keys) == {"p": 18, "f": 32}
    assert unique == (6,)


def test_every_nullable_column_has_nulls_and_values(split: Split) -> None:
    with split.monolith() as monolith:
        nullable = monolith.execute(
            "select table_name, column_name from information_schema.columns"
            " where table_schema = 'blytz_hire' and is_nullable = 'YES'"
        ).fetchall()
        assert len(nullable) > 90
        for table, column in nullable:
            row = monolith.execute(
                f'select count("{column}") between 1 and count(*) - 1 from blytz_hire."{table}"'
            ).fetchone()
            assert row == (True,), f"{table}.{column}"


def test_samples_of_the_same_size_are_identical(server: Server, split: Split) -> None:
    def fingerprint(url: str) -> list[tuple[object, ...]]:
        with connect(url, "blytz_hire") as monolith:
            return [
                monolith.execute(
                    f"select '{table}', count(*), md5(string_agg(t::text, '|' order by id))"
                    f" from blytz_hire.{table} as t"
                ).fetchone()
                or ()
                for table in sorted(PROJECT.tables)
            ]

    url = with_database(server.socket, "sample_again")
    try:
        demo.create(PROJECT, url, SAMPLE_ROWS)
        assert fingerprint(url) == fingerprint(split.connections.urls["blytz_hire"])
    finally:
        server.execute("drop database sample_again with (force)")


def test_sample_has_the_requested_number_of_rows(server: Server) -> None:
    counts = demo.create(PROJECT, with_database(server.socket, "sample"), SAMPLE_ROWS)
    assert sum(counts.values()) == SAMPLE_ROWS
    assert len(counts) == 18


def test_existing_sample_of_another_size_is_left_alone(split: Split) -> None:
    with pytest.raises(TargetOccupied) as caught:
        demo.create(PROJECT, split.connections.urls["blytz_hire"], 5000)
    assert "The schema blytz_hire already holds 18 tables" in caught.value.what
    assert "runner.py down --wipe" in caught.value.hint
