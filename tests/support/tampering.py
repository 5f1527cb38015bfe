"""What people and accidents do to streams: what breaks a proof, and what does no harm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psycopg import sql

from tests.support.split import Split
from tests.support.waiting import until

STREAM = "split_payments_db"
LOST = (
    "update blytz_hire.payments set status = status || '!'"
    " where id = (select min(id) from blytz_hire.payments)"
)
# The slot may be read at this moment.
DROP_SLOT = """
    do $$ begin
        for i in 1..200 loop
            perform pg_terminate_backend(active_pid) from pg_replication_slots
            where slot_name = '{name}' and active;
            begin
                perform pg_drop_replication_slot('{name}');
                return;
            exception when object_in_use then perform pg_sleep(0.01);
            end;
        end loop;
    end $$
"""
MAKE_SLOT = "select pg_create_logical_replication_slot('{name}', 'pgoutput')"


@dataclass(frozen=True)
class Deed:
    """Statements on the monolith (M) and the service's database (S), and what is said of them."""

    name: str
    statements: tuple[tuple[str, str], ...]
    says: str = ""


def on_monolith(name: str, says: str, *statements: str) -> Deed:
    return Deed(name, tuple(("M", one) for one in statements), says)


def on_service(name: str, says: str, *statements: str) -> Deed:
    return Deed(name, tuple(("S", one) for one in statements), says)


def replaced_slot(stream: str) -> tuple[str, ...]:
    """Give the statements that drop a stream's slot and make another one of the same name."""
    return DROP_SLOT.format(name=stream), LOST, MAKE_SLOT.format(name=stream)


DISABLE, ENABLE = f"alter subscription {STREAM} disable", f"alter subscription {STREAM} enable"
PAYMENTS = "blytz_hire.payments"

BREAKS = [
    Deed(
        "another slot while the subscription is disabled",
        (("S", DISABLE), *(("M", one) for one in replaced_slot(STREAM)), ("S", ENABLE)),
        "was dropped and created again",
    ),
    on_monolith(
        "another slot between two tries of the worker",
        "was dropped and created again",
        *replaced_slot(STREAM),
    ),
    on_monolith("no slot", "is gone", DROP_SLOT.format(name=STREAM)),
    Deed(
        "a slot moved on by hand, seen while it stood still",
        (
            ("S", DISABLE),
            ("look", ""),
            ("M", LOST),
            ("M", f"select pg_replication_slot_advance('{STREAM}', pg_current_wal_lsn())"),
        ),
        "was moved on by hand",
    ),
    on_monolith(
        "two tables swap their names",
        "blytz_hire.payments was renamed, re-created, or taken out",
        f"create table blytz_hire.payments_new (like {PAYMENTS} including all);"
        f" insert into blytz_hire.payments_new select * from {PAYMENTS};"
        f" alter table {PAYMENTS} rename to payments_old;"
        " alter table blytz_hire.payments_new rename to payments",
    ),
    on_monolith(
        "a table goes to another schema and comes back as a copy",
        "blytz_hire.reviews was renamed",
        "alter table blytz_hire.reviews set schema public;"
        " create table blytz_hire.reviews (like public.reviews including all)",
    ),
    on_monolith(
        "a table out of the publication and in again",
        "was taken out of the publication",
        f"alter publication {STREAM} drop table {PAYMENTS}",
        LOST,
        f"alter publication {STREAM} add table {PAYMENTS}",
    ),
    on_monolith(
        "a table out of the publication",
        "taken out of the publication",
        f"alter publication {STREAM} drop table {PAYMENTS}",
    ),
    on_monolith(
        "a row filter",
        "blytz_hire.jobs was renamed, re-created, or taken out of the publication",
        f"alter publication {STREAM} set table {PAYMENTS} (id, amount) where (amount > 0),"
        " blytz_hire.users (id), split.heartbeats",
    ),
    on_monolith(
        "inserts only for a while",
        "the publication split_payments_db was altered",
        f"alter publication {STREAM} set (publish = 'insert')",
        LOST,
        f"alter publication {STREAM} set (publish = 'insert, update, delete, truncate')",
    ),
    on_monolith(
        "another publication of the same name",
        "the publication split_payments_db was altered or re-created",
        f"drop publication {STREAM}; create publication {STREAM} for table {PAYMENTS},"
        " split.heartbeats",
    ),
    on_service(
        "capture disabled for a while",
        "the trigger on blytz_hire.payments: split_capture",
        f"alter table {PAYMENTS} disable trigger all",
        f"alter table {PAYMENTS} enable trigger all",
    ),
    on_service(
        "the mirror edited by hand",
        "the trigger on blytz_hire.payments: split_refuse_edits was disabled",
        f"alter table {PAYMENTS} disable trigger split_refuse_edits",
        f"update {PAYMENTS} set status = status || '?'",
        f"alter table {PAYMENTS} enable trigger split_refuse_edits",
    ),
    on_service(
        "capture dropped and made again",
        "the trigger on blytz_hire.payments: split_capture was disabled",
        f"drop trigger split_capture on {PAYMENTS}",
        f"create trigger split_capture after insert or update or delete on {PAYMENTS} for each row"
        " execute function split.capture_blytz_hire_payments();"
        f" alter table {PAYMENTS} enable replica trigger split_capture",
    ),
    on_service(
        "mirror tables swap their names",
        "was renamed or re-created where split_payments_db ends",
        f"create table blytz_hire.payments_new (like {PAYMENTS} including all);"
        f" alter table {PAYMENTS} rename to payments_old;"
        " alter table blytz_hire.payments_new rename to payments",
    ),
    on_service(
        "a subscription refreshed without a table",
        "the subscription split_payments_db was re-created",
        DISABLE,
        f"alter subscription {STREAM} set publication elsewhere with (refresh = false)",
    ),
    on_service(
        "a subscription re-created",
        "the subscription split_payments_db was re-created",
        DISABLE,
        f"alter subscription {STREAM} set (slot_name = none)",
        "do $$ declare url text := (select subconninfo from pg_subscription where subname ="
        f" '{STREAM}'); begin execute 'drop subscription {STREAM}'; execute format('create"
        f" subscription {STREAM} connection %L publication {STREAM} with (create_slot = false,"
        f" slot_name = {STREAM}, copy_data = false, enabled = false)', url); end $$",
        ENABLE,
    ),
    on_monolith(
        "the source's past gone",
        "the monolith has lost its recent past",
        "delete from split.heartbeats where service = 'payments_db'",
    ),
    on_service(
        "the target's past gone",
        "payments_db has lost its recent past",
        "set session_replication_role = replica;"
        " update split.heartbeats set at = at - interval '1 h'"
        " where service = 'payments_db'",
    ),
]

HARMLESS = [
    Deed("nothing", ()),
    Deed("disabled and enabled", (("S", DISABLE), ("M", LOST), ("S", ENABLE))),
    Deed(
        "disabled and enabled with looks",
        (("S", DISABLE), ("look", ""), ("M", LOST), ("S", ENABLE)),
    ),
    on_monolith(
        "upkeep",
        "",
        f"vacuum full {PAYMENTS}",
        f"cluster {PAYMENTS} using payments_pkey",
        f"reindex table {PAYMENTS}",
        f"analyze {PAYMENTS}",
        "vacuum freeze pg_publication_rel",
        "vacuum full pg_publication_rel",
        "vacuum full pg_trigger",
        "vacuum full pg_attribute",
    ),
    on_service(
        "upkeep of the mirror",
        "",
        f"vacuum full {PAYMENTS}",
        f"analyze {PAYMENTS}",
        "vacuum full pg_trigger",
        f"create index on {PAYMENTS} (amount)",
    ),
    on_monolith("truncate", "", "truncate blytz_hire.reviews"),
    on_monolith(
        "an index, a default, a column, a comment",
        "",
        f"create index on {PAYMENTS} (amount)",
        f"alter table {PAYMENTS} alter amount set default 7",
        f"alter table {PAYMENTS} alter amount set statistics 200",
        f"comment on table {PAYMENTS} is 'ours'",
    ),
    on_monolith("WAL", "", "select pg_switch_wal()", "checkpoint", "select pg_switch_wal()"),
    on_monolith(
        "statistics reset",
        "",
        "select pg_stat_reset()",
        f"select pg_stat_reset_replication_slot('{STREAM}')",
        "select pg_stat_reset_shared('wal')",
    ),
    on_service(
        "statistics of the subscription reset", "", "select pg_stat_reset_subscription_stats(null)"
    ),
    on_monolith("a bulk change", "", f"update {PAYMENTS} set status = status || '?'"),
    on_monolith(
        "another publication",
        "",
        "drop publication if exists other; create publication other for all tables",
    ),
    on_monolith(
        "a worker ended",
        "",
        "select pg_terminate_backend(active_pid) from"
        f" pg_replication_slots where slot_name = '{STREAM}'",
        LOST,
    ),
]


def do(split: Split, deed: Deed, look: Callable[[], object]) -> None:
    """Do it, and wait until the subscription streams again if it can."""
    for where, statement in deed.statements:
        if where == "look":
            look()
            continue
        with split.monolith() if where == "M" else split.service("payments_db") as connection:
            connection.execute(sql.SQL(statement))  # type: ignore[arg-type]
    if deed in HARMLESS:
        until(lambda: _streams(split))


def _streams(split: Split) -> bool:
    slot = f"select active from pg_replication_slots where slot_name = '{STREAM}'"
    return split.server.execute(slot) == [(True,)]
