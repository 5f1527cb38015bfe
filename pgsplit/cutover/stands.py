"""Whether a service is in the state that an operation begins from."""

from __future__ import annotations

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.replication.forgotten import Forgotten, require_remembered
from pgsplit.replication.session import Session
from pgsplit.state.ledger import Ledger, State
from pgsplit.state.saga import require_finished


def require_state(session: Session, ledger: Ledger, wanted: State, done: str) -> None:
    """Refuse a service that is in another state, or that has an unfinished operation.

    Raises:
        NotReady: the service's state, and the command that comes first.
    """
    service, state = session.service, ledger.state(session.service)
    where = describe(ledger.connection.info.dsn)
    require_finished(service, ledger)
    role = service.role
    # A rollback that only the service knows of is done once more.
    again = Forgotten.ROLLBACK_BY_MONOLITH if done == "rolled back" else None
    require_remembered(service, session.monolith, session.database, but=again)
    if state is wanted:
        return
    if state is State.COMPLETED:
        what, hint = "there is no rollback any more", "runner.py backups"
    elif state.reached(State.SWITCHED):
        what, hint = "it is the source of truth already", f"runner.py status {role}"
    elif wanted is State.SWITCHED:
        what = "the monolith is the source of truth already"
        hint = f"runner.py {'switch' if done == 'completed' else 'status'} {role}"
    else:
        what = f"only what is {wanted.value} can be {done}"
        verify = f"runner.py verify {role}"
        hint = verify if state is State.BUILT else f"runner.py run {role}, then {verify}"
    raise NotReady(
        f"{service.database} is {state.value}: {what}. Nothing was changed.", where=where, hint=hint
    )
