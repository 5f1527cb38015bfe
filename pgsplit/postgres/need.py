"""What a server has to offer, as it was found: one shape for every preflight, and for `check`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgsplit.base.errors import NotReady


@dataclass(frozen=True)
class Need:
    """A setting, a right, or room that an operation needs of a server.

    `name` and `found` and `needed` fill a line of a table; `problem` is the sentence for a message,
    `hint` what fixes it in words. `sql` is the statement that does, for psql in the same database.
    `is_optional` says that nothing stops without it.
    """

    name: str
    found: str
    needed: str
    ok: bool
    problem: str = ""
    hint: str = ""
    sql: str = ""
    is_optional: bool = False
    needs_restart: bool = False


def require(needs: Iterable[Need], where: str) -> None:
    """Raise NotReady for the first need that is not met.

    Args:
        needs: what was found.
        where: the database, for the message.
    """
    for one in needs:
        if not one.ok and not one.is_optional:
            raise NotReady(one.problem, where=where, hint=one.hint or one.sql)
