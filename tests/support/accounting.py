"""Compares what clients know of their rows with what is there: on both sides, and in quarantine.

After a failover to a standby that lagged behind, the last write of a row may be lost. That is
excused only if nobody but the dead server had it; else it has to be in place, or in quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field

import psycopg

from pgsplit.base.errors import ConnectionFailed
from pgsplit.project.endpoints import Connections
from pgsplit.routing.env_file import Side
from tests.support.clients import Client, Connection, Row, Write

SHOWN = 3  # rows of a client that are wrong
QUARANTINED = """
    select format('audit.%%I', kept_in), exists (
        select from pg_attribute
        where attrelid = to_regclass(format('audit.%%I', kept_in)) and attname = %s
    )
    from split.quarantined
    where table_name = %s and to_regclass(format('audit.%%I', kept_in)) is not null
"""


@dataclass
class Loss:
    """What was left when a standby that lagged took over from the server of a side.

    The standby's last news was from `since`, and it took over at `until`. `left` has the numbers of
    each client's rows, by key, for each table that has them: on the standby first, then on the
    other side's server, in its mirror and its own tables.
    """

    side: Side
    since: float
    until: float
    left: dict[str, list[dict[str, int]]] = field(default_factory=dict)

    def had(self, key: str) -> list[int | None]:
        """Give what a row was in each table that had its like."""
        return [rows.get(key) for rows in self.left.get(key.rsplit("-", 1)[0], ())]

    def hit(self, write: Write) -> bool:
        """Tell whether a write may have reached the dead server alone."""
        return write.side is self.side and self.concerns(write) and write.begun <= self.until

    def concerns(self, write: Write) -> bool:
        """Tell whether a write came after the standby's last news."""
        return write.ended >= self.since

    def was_alone_with(self, key: str, write: Write) -> bool:
        """Tell whether nobody but the dead server had what a write has made of a row."""
        return self.hit(write) and write.value not in self.had(key)

    def may_leave(self, key: str, row: Row) -> set[int | None]:
        """Give what a row that was hit may be in the end."""
        return {*self.had(key), *(one.value for one in row.writes if self.concerns(one))}


def survivors(
    side: Side, since: float, until: float, clients: Sequence[Client], standby: str, other: str
) -> Loss:
    """Read what is left of the clients' rows when a server has died.

    Args:
        side: whose server it was.
        since: when its standby got its last news.
        until: when it died.
        clients: who wrote.
        standby: the URL of the standby, which has taken over.
        other: the URL of the other side's server.

    Returns:
        The rows on the standby, and on the other server.
    """
    loss = Loss(side, since, until)
    for client in clients:
        monolith, service = client.connections.monolith, client.service.database
        places = [(standby, service, Side.SERVICE), (other, monolith, Side.MONOLITH)]
        if side is Side.MONOLITH:
            mirror = (other, service, Side.MONOLITH)
            places = [(standby, monolith, Side.MONOLITH), mirror, (other, service, Side.SERVICE)]
        found = [_there(client, *place) for place in places]
        loss.left[client.tag] = [rows for rows in found if rows is not None]
    return loss


def _there(client: Client, url: str, database: str, shape: Side) -> dict[str, int] | None:
    with closing(psycopg.connect(url, autocommit=True)) as server:
        known = server.execute("select from pg_database where datname = %s", (database,))
        if not known.rowcount:
            return None
    try:
        with closing(psycopg.connect(url, dbname=database, autocommit=True)) as connection:
            return _rows(client, connection, shape)
    except psycopg.errors.UndefinedTable:
        return None


def _rows(client: Client, connection: Connection, side: Side, relation: str = "") -> dict[str, int]:
    query = client.table.read(side, relation)
    return dict(connection.execute(query.encode(), {"ids": f"{client.tag}-%"}).fetchall())


def account(
    clients: Sequence[Client],
    connections: Connections,
    states: Mapping[str, str],
    losses: Sequence[Loss] = (),
    counts: Counter[str] | None = None,
) -> Iterator[str]:
    """Compare every row that clients have written with what is there, on both sides.

    Args:
        clients: they write no more.
        connections: where the servers are; all that was written has arrived everywhere.
        states: where each service stands, by its role.
        losses: failovers to standbys that lagged.
        counts: counts the rows that such a failover has cost, and those in quarantine.

    Yields:
        A line for each row that is wrong.
    """
    counts = Counter() if counts is None else counts
    for client in clients:
        kept = _quarantined(client, connections, states) if losses else {}
        for side in _sides(states[client.service.role]):
            target = connections.monolith if side is Side.MONOLITH else client.service.database
            with connections.connect(target) as connection:
                found = _rows(client, connection, side)
            judge = _Judge(client, side, found, losses, kept, counts)
            wrong = list(judge.wrong())
            yield from wrong[:SHOWN]
            if len(wrong) > SHOWN:
                yield f"and {len(wrong) - SHOWN} more rows of client {client.tag}"


def _sides(stands: str) -> Iterator[Side]:
    if stands != "completed":
        yield Side.MONOLITH
    if stands in ("built", "verified", "switched", "completed"):
        yield Side.SERVICE


def _quarantined(
    client: Client, connections: Connections, states: Mapping[str, str]
) -> dict[str, set[int]]:
    """Give the numbers of a client's rows in the schema audit of either side, by key."""
    found: dict[str, set[int]] = {}
    targets, stands = [connections.monolith], states[client.service.role]
    if stands != "absent":
        targets.append(client.service.database)
    # The next build compares the service's tables with the mirror, and keeps what differs. If the
    # monolith has forgotten all of the service, nobody lands there, and its mirror is left, too.
    untouched = {"absent": tuple(Side), "provisioned": (Side.SERVICE,), "landed": (Side.SERVICE,)}
    with suppress(ConnectionFailed):
        for side in untouched.get(stands, ()):
            with connections.connect(client.service.database) as connection:
                table = client.table.shape[side].relation
                if connection.execute("select to_regclass(%s)", (table,)).fetchone() != (None,):
                    for key, number in _rows(client, connection, side).items():
                        found.setdefault(key, set()).add(number)
    for target in targets:
        with connections.connect(target) as connection:
            for side in Side:
                shape = client.table.shape[side]
                tables = connection.execute(
                    QUARANTINED, (shape.column, shape.relation.split(".")[1])
                ).fetchall()
                for relation, has_shape in tables:
                    if has_shape:
                        for key, number in _rows(client, connection, side, relation).items():
                            found.setdefault(key, set()).add(number)
    return found


@dataclass(frozen=True)
class _Judge:
    client: Client
    side: Side
    found: Mapping[str, int]
    losses: Sequence[Loss]
    kept: Mapping[str, set[int]]
    counts: Counter[str]

    def wrong(self) -> Iterator[str]:
        client, found = self.client, self.found
        where = f"{client.service.database} on the {self.side.value} side"
        for key in sorted(found.keys() - client.rows.keys()):
            yield f"{where}: {key} = {found[key]} was never written"
        for key, row in client.rows.items():
            if row.missing and not self._hit(row):
                yield f"{where}: {key} was not there when its client wrote it once more"
        for key, row in client.rows.items():
            loss = self._hit(row)
            if not row.may_be(found.get(key)) and not (loss and self._is_excused(loss, key, row)):
                yield (
                    f"{where}: {key} is {found.get(key)}, and must be {row.value}"
                    + (f" or one of {row.unknown}" if row.unknown else "")
                    + (f"; {self._evidence(loss, key)}" if loss else "")
                )
        for new, old in client.pairs:
            if self._hit(client.rows[new]) or self._hit(client.rows[old]):
                continue
            halves = (found.get(new) is not None, found.get(old) in client.rows[old].unknown)
            if halves[0] is not halves[1]:
                yield f"{where}: of one transaction with {new} and {old}, only one half is there"

    def _hit(self, row: Row) -> Loss | None:
        """Find the failover that may have cost a row's last write."""
        return next(
            (loss for loss in self.losses if any(map(loss.concerns, row.writes[-1:]))), None
        )

    def _is_excused(self, loss: Loss, key: str, row: Row) -> bool:
        """Tell whether a row may differ: its last write was lost for good, or is in quarantine."""
        last = row.last
        if last is None or self.found.get(key) not in loss.may_leave(key, row):
            return False
        if last.value in self.kept.get(key, ()):
            self.counts["quarantined"] += 1
            return True
        if loss.was_alone_with(key, last) or (last.value is None and loss.hit(last)):
            self.counts["lost with their server"] += 1
            return True
        return False

    def _evidence(self, loss: Loss, key: str) -> str:
        had = ", ".join(map(str, loss.had(key)))
        return (
            f"when the {loss.side.value} failed over, its standby and the other side had {had}; in"
            f" quarantine: {sorted(self.kept.get(key, ()))}"
        )
