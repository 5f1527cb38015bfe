"""Puts right what a side has forgotten of a cutover, after a restore or a failover."""

from __future__ import annotations

from pgsplit.cutover.locks import change_definitions, disable_triggers, patiently
from pgsplit.replication.forgotten import switched_at
from pgsplit.replication.session import Session
from pgsplit.replication.subscription import add_tables, drop_tables
from pgsplit.routing import applications, env_file
from pgsplit.routing.announce import AFTER_CHANGE_SECONDS, announce
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import Ledger, State


def record_switch(session: Session, ledger: Ledger) -> None:
    """Tell a monolith of the switch that it has forgotten, and close its write fence; idempotent.

    Args:
        session: the session of the service, which is the source of truth.
        ledger: the monolith's ledger.
    """
    fence, service, monolith = session.monolith_fence, session.service, session.monolith
    since = str(switched_at(session.database))
    with ledger.step(service, "repair", enters=State.SWITCHED, switched_at=since):
        fence.prepare(f"database {service.database}", closed=True)
        change_definitions(monolith, fence.tables, fence.enable_triggers)
        owned = list(service.owned_tables)
        drop_tables(monolith, session.forward.name, service.mirror, owned)


def return_to_monolith(session: Session, ledger: Ledger) -> str:
    """Make the monolith the source of truth for a service that has forgotten its switch.

    It has all that was written before the switch, and what has arrived of the service's writes
    since then; the service's database has neither. Idempotent: the service stays switched until all
    of it is done.

    Args:
        session: the service's session.
        ledger: the monolith's ledger.

    Returns:
        A warning, if the command that runs after a change failed.
    """
    service, monolith, fence = session.service, session.monolith, session.monolith_fence
    with ledger.step(service, "repair", back=True) as step:
        patiently(session.reverse.remove, monolith, session.database)
        with monolith.transaction():
            add_tables(monolith, session.forward.name, service.mirror, service.owned_tables)
            fence.open()
        side = Side.MONOLITH
        env_file.route_to(service, session.connections, reads_at=side, writes_at=side)
        step.detail["routes"] = applications.as_written(service, session.connections)
        disable_triggers(fence)
        step.returns_to = State.BUILT
    return announce(service, session.connections, AFTER_CHANGE_SECONDS)
