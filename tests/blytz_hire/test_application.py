"""The application's typical queries, on the monolith and on the services that have its rows."""

from __future__ import annotations

from typing import Any

import psycopg

from bench import advice, application
from demo.project import MONOLITH, SERVICES
from tests.support.split import Split

CALLS = 20
SENDERS = "select indexrelid::regclass::text from pg_index, pg_attribute where indrelid = attrelid"
SENDERS += " and attnum = indkey[0] and attname = 'sender_id'"
# A table of a hundred rows needs no index.
MORE = """
    insert into payments_db.payments
    select filled.*
    from
        (select payments from payments_db.payments limit 1) as one (row),
        generate_series(1, 5000) as i,
        jsonb_populate_record(
            one.row,
            jsonb_build_object('id', i::text, 'sender_id', i, 'stripe_payment_intent_id', i)
        ) as filled
"""
PERSON = 'select "userId" from blytz_hire.payments order by id limit 1'


def value(database: psycopg.Connection[Any], query: str) -> Any:
    (row,) = database.execute(query.encode()).fetchall()
    return row[0]


def test_typical_queries_give_the_same_rows_before_and_after(six: Split) -> None:
    urls = {name: six.connections.urls[name] for name in (MONOLITH, *SERVICES)}
    queries = application.read()
    assert len(queries) >= 15
    with application.connected(urls, None) as databases:
        for query in queries:
            application.draw(query, databases, CALLS)
            application.run(query, databases, databases)
            assert len(query.seconds["after"]) == len(query.seconds["pooled before"]) > 0
            found = [application.ask(databases, query.after, call)[1] for call in query.calls]
            # They are not the same because there are none.
            assert any(any(rows) for rows in found), query.name


def test_missing_index_is_named_and_one_that_is_there_is_not(six: Split) -> None:
    (query,) = (one for one in application.read() if one.name == "a user's last payments")
    ((database, statement),) = query.after
    with six.service(database) as service, six.monolith() as monolith:
        call = {"person": value(monolith, PERSON)}
        service.execute("set session_replication_role = replica")
        service.execute(MORE)
        service.execute("analyze payments_db.payments")
        assert advice.indexes(service, statement, call) == []
        service.execute(f"drop index {value(service, SENDERS)}".encode())
        for _ in range(2):  # it is tried, and not left there
            assert advice.indexes(service, statement, call) == ["payments: {columns: [sender_id]}"]
        assert advice.shares(service, statement, call) == ["payments", "shared_users"]
        assert advice.planning(service, statement, call) > 0
        by_cache = "select name from payments_db.get_shared_user(%(person)s)"
        assert advice.copies(service, by_cache, call) == ["payments_db.shared_users"]
