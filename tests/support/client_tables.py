"""The tables that clients write, in the monolith's shape and in the service's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgsplit.routing.env_file import Side


@dataclass(frozen=True)
class Shape:
    """A table by name on one side, the column with a row's number, and how to read that."""

    relation: str
    column: str
    number: str = "{}"


@dataclass(frozen=True)
class Table:
    """How a client writes one table of a service on both sides; a row has an id and a number."""

    role: str
    insert: Mapping[Side, str]
    update: Mapping[Side, str]
    delete: Mapping[Side, str]
    shape: Mapping[Side, Shape]

    def read(self, side: Side, relation: str = "") -> str:
        """Give the query for ids and numbers of the table, or of another one of its shape."""
        shape = self.shape[side]
        source = relation or shape.relation
        number = shape.number.format(f'"{shape.column}"')
        return f"select id, {number} from {source} where id like %(ids)s"


def _both(monolith: str, service: str) -> dict[Side, str]:
    return {Side.MONOLITH: monolith, Side.SERVICE: service}


SHOP_TABLES = (
    Table(
        "ordering",
        _both(
            "insert into shop.orders values (%(id)s, 'customer-1', %(number)s, now())",
            "insert into ordering.orders (id, customer_id, total_cents, placed_at)"
            " values (%(id)s, 'customer-1', %(number)s, now())",
        ),
        _both(
            'update shop.orders set "totalCents" = %(number)s where id = %(id)s',
            "update ordering.orders set total_cents = %(number)s where id = %(id)s",
        ),
        _both(
            "delete from shop.orders where id = %(id)s",
            "delete from ordering.orders where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("shop.orders", "totalCents"),
            Side.SERVICE: Shape("ordering.orders", "total_cents"),
        },
    ),
    Table(
        "accounts",
        _both(
            "insert into shop.customers values (%(id)s, %(number)s::text, %(id)s)",
            "insert into accounts.customers (id, full_name, email)"
            " values (%(id)s, %(number)s::text, %(id)s)",
        ),
        _both(
            'update shop.customers set "fullName" = %(number)s::text where id = %(id)s',
            "update accounts.customers set full_name = %(number)s::text where id = %(id)s",
        ),
        _both(
            "delete from shop.customers where id = %(id)s",
            "delete from accounts.customers where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("shop.customers", "fullName", "{}::integer"),
            Side.SERVICE: Shape("accounts.customers", "full_name", "{}::integer"),
        },
    ),
)

BLYTZ_HIRE_TABLES = (
    Table(
        "payments",
        _both(
            'insert into blytz_hire.payments (id, "userId", "receiverId",'
            ' "stripePaymentIntentId", amount, status, method, "updatedAt")'
            " select %(id)s, (select min(id) from blytz_hire.users), 'nobody', %(id)s,"
            " %(number)s, 'paid', 'card', now()",
            "insert into payments_db.payments (id, sender_id, receiver_id,"
            " stripe_payment_intent_id, amount, status, method, updated_at)"
            " select %(id)s, (select min(sender_id) from payments_db.payments), 'nobody',"
            " %(id)s, %(number)s::numeric / 100, 'paid', 'card', now()",
        ),
        _both(
            "update blytz_hire.payments set amount = %(number)s where id = %(id)s",
            "update payments_db.payments set amount = %(number)s::numeric / 100 where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.payments where id = %(id)s",
            "delete from payments_db.payments where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("blytz_hire.payments", "amount"),
            Side.SERVICE: Shape("payments_db.payments", "amount", "({} * 100)::integer"),
        },
    ),
    Table(
        "communication",
        _both(
            'insert into blytz_hire.notifications (id, "userId", type, title, message)'
            " select %(id)s, (select min(id) from blytz_hire.users), 'note', 'A note',"
            " %(number)s::text",
            "insert into communication_db.notifications (id, user_id, type, title, message)"
            " select %(id)s, (select min(user_id) from communication_db.notifications), 'note',"
            " 'A note', %(number)s::text",
        ),
        _both(
            "update blytz_hire.notifications set message = %(number)s::text where id = %(id)s",
            "update communication_db.notifications set message = %(number)s::text"
            " where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.notifications where id = %(id)s",
            "delete from communication_db.notifications where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("blytz_hire.notifications", "message", "{}::integer"),
            Side.SERVICE: Shape("communication_db.notifications", "message", "{}::integer"),
        },
    ),
)
