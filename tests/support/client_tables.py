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

# With these all six services have a client.
OTHER_BLYTZ_HIRE_TABLES = (
    Table(
        "marketplace",
        _both(
            'insert into blytz_hire.skills_assessments (id, "vaProfileId", "skillName", category,'
            ' score, difficulty, "assessmentType")'
            " select %(id)s, (select min(id) from blytz_hire.va_profiles), 'SQL', 'technical',"
            " %(number)s, 'hard', 'quiz'",
            "insert into marketplace_db.skills_assessments"
            " (id, va_profile_id, skill_name, category, score, difficulty, assessment_type)"
            " select %(id)s, (select min(id) from marketplace_db.shared_va_profiles), 'SQL',"
            " 'technical', %(number)s, 'hard', 'quiz'",
        ),
        _both(
            "update blytz_hire.skills_assessments set score = %(number)s where id = %(id)s",
            "update marketplace_db.skills_assessments set score = %(number)s where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.skills_assessments where id = %(id)s",
            "delete from marketplace_db.skills_assessments where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("blytz_hire.skills_assessments", "score"),
            Side.SERVICE: Shape("marketplace_db.skills_assessments", "score"),
        },
    ),
    Table(
        "contracts",
        _both(
            'insert into blytz_hire.milestones (id, "contractId", "jobId", title, amount,'
            ' "updatedAt")'
            " select %(id)s, id, \"jobId\", 'Half', %(number)s, now()"
            " from (select * from blytz_hire.contracts order by id limit 1) as contract",
            "insert into contracts_db.milestones (id, contract_id, job_id, title, amount,"
            " updated_at) select %(id)s, id, job_id, 'Half', %(number)s, now()"
            " from (select * from contracts_db.contracts order by id limit 1) as contract",
        ),
        _both(
            "update blytz_hire.milestones set amount = %(number)s where id = %(id)s",
            "update contracts_db.milestones set amount = %(number)s where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.milestones where id = %(id)s",
            "delete from contracts_db.milestones where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("blytz_hire.milestones", "amount", "{}::integer"),
            Side.SERVICE: Shape("contracts_db.milestones", "amount", "{}::integer"),
        },
    ),
    Table(
        "files",
        _both(
            'insert into blytz_hire.portfolio_items (id, "vaProfileId", title, description,'
            ' "fileUrl", "fileType")'
            " select %(id)s, (select min(id) from blytz_hire.va_profiles), 'A logo',"
            " %(number)s::text, 'https://example.com/logo.png', 'image'",
            "insert into files_db.portfolio_items (id, va_profile_id, title, description,"
            " file_url, file_type)"
            " select %(id)s, (select min(va_profile_id) from files_db.portfolio_items), 'A logo',"
            " %(number)s::text, 'https://example.com/logo.png', 'image'",
        ),
        _both(
            "update blytz_hire.portfolio_items set description = %(number)s::text"
            " where id = %(id)s",
            "update files_db.portfolio_items set description = %(number)s::text where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.portfolio_items where id = %(id)s",
            "delete from files_db.portfolio_items where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("blytz_hire.portfolio_items", "description", "{}::integer"),
            Side.SERVICE: Shape("files_db.portfolio_items", "description", "{}::integer"),
        },
    ),
    # The number is in the address, which five services share.
    Table(
        "users",
        _both(
            'insert into blytz_hire.users (id, email, role, "lastSeenAt", "updatedAt")'
            " values (%(id)s, %(number)s::text || '@' || %(id)s, 'va', now(), now())",
            "insert into users_db.users (id, email, role, last_seen_at, updated_at)"
            " values (%(id)s, %(number)s::text || '@' || %(id)s, 'va', now(), now())",
        ),
        _both(
            "update blytz_hire.users set email = %(number)s::text || '@' || id where id = %(id)s",
            "update users_db.users set email = %(number)s::text || '@' || id where id = %(id)s",
        ),
        _both(
            "delete from blytz_hire.users where id = %(id)s",
            "delete from users_db.users where id = %(id)s",
        ),
        {
            Side.MONOLITH: Shape("blytz_hire.users", "email", "split_part({}, '@', 1)::integer"),
            Side.SERVICE: Shape("users_db.users", "email", "split_part({}, '@', 1)::integer"),
        },
    ),
)
