"""Column lineage, read off SQL: where values come from, and what only decides on them."""

from __future__ import annotations

import pytest

from pgsplit.base.errors import BuildFailed
from pgsplit.observe.docs.lineage import Lineage, lineage

TABLES = {
    ("shop", "orders"): ("id", "customerId", "cents", "notes"),
    ("shop", "customers"): ("id", "fullName", "email"),
}
ORDERS = 'with o as (select * from "db"."shop"."orders"), c as (select * from "shop"."customers")\n'


def read(query: str) -> Lineage:
    return lineage(ORDERS + query, TABLES, "models/a.sql")


def values(found: Lineage, column: str) -> set[str]:
    return {f"{table}.{name}" for _, table, name in found.columns[column].values}


def chosen_by(found: Lineage, column: str) -> set[str]:
    return {f"{table}.{name}" for _, table, name in found.columns[column].chosen_by}


def rows_by(found: Lineage) -> set[str]:
    return {f"{table}.{name}" for _, table, name in found.rows_by}


def test_values_are_told_from_what_decides_on_them() -> None:
    found = read("""
        select
            o.id, round(o.cents / 100.0, 2) as amount, 'EUR'::text as currency,
            case when c.email is null then c."fullName" else o.notes end as name,
            count(*) filter (where o.cents > 0) over (partition by o."customerId") as n
        from o left join c on o."customerId" = c.id where o.notes <> ''
    """)
    assert values(found, "id") == {"orders.id"} and not found.columns["id"].expression
    assert values(found, "amount") == {"orders.cents"}
    assert found.columns["amount"].expression == "round(cents / 100.0, 2)"
    assert values(found, "currency") == set()
    assert found.columns["currency"].expression == "CAST('EUR' AS TEXT)"
    assert values(found, "name") == {"customers.fullName", "orders.notes"}
    assert chosen_by(found, "name") == {"customers.email"}
    assert values(found, "n") == set()
    assert chosen_by(found, "n") == {"orders.cents", "orders.customerId"}
    assert rows_by(found) == {"orders.customerId", "customers.id", "orders.notes"}
    assert found.tables == {("shop", "orders"), ("shop", "customers")}


def test_columns_are_followed_through_unions_values_functions_and_subqueries() -> None:
    found = read("""
        select field.name, field.text, part.word, part.place, last.cents
        from o
        cross join lateral (values ('notes', o.notes), ('id', o.id)) as field (name, text)
        cross join lateral string_to_table(o.notes, ' ') with ordinality as part (word, place)
        cross join lateral (select max(x.cents) as cents from o as x where x.id = o.id) as last
        union all
        select 'email', (select email from c where c.id = 'x'), null, 0, 0
    """)
    assert values(found, "name") == set()
    assert values(found, "text") == {"orders.notes", "orders.id", "customers.email"}
    assert values(found, "word") == values(found, "place") == {"orders.notes"}
    assert values(found, "cents") == {"orders.cents"}
    assert {"customers.id", "orders.id"} <= rows_by(found)


@pytest.mark.parametrize(
    "query", ["select missing from o", "select o.missing from o", "select id frm o", "drop table o"]
)
def test_what_can_not_be_read_is_never_passed_over(query: str) -> None:
    with pytest.raises(BuildFailed, match=r"The SQL of models/a.sql can't be read: "):
        read(query)
