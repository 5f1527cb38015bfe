"""Continuity: whether a stream has been unbroken since it was last proven.

A proof says that both ends of a stream held the same rows. It goes on holding only as long as
nothing was left out since. What was left out shows in two ways: a part of the stream is another one
than before, or something that only grows has become less. Both ends keep a record of that in
`split.streams`, so that a server that has lost its recent past is found out by the other.

Whoever looks compares first, and then renews the record. What is found stays recorded until a new
proof clears it, or the stream is removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe
from pgsplit.replication import evidence
from pgsplit.replication.evidence import End
from pgsplit.replication.slot import Connection

if TYPE_CHECKING:
    from pgsplit.replication.stream import BaseStream

# Somebody else may renew the record between our looks at both ends; the next look then agrees.
TRIES = 4
FRESH_SECONDS = 1.0
BETWEEN_TRIES_SECONDS = 0.05

LOOK = """
    select
        split.stream_identity(%(name)s), split.stream_counters(%(name)s, %(key)s),
        kept.identity, kept.seen, kept.broken_at, kept.reason
    from (values (true)) as here (is_here)
    left join split.streams as kept on kept.stream = %(name)s
"""
LAST = """
    select broken_at, reason, seen_at > clock_timestamp() - make_interval(secs => %s)
    from split.streams where stream = %s
"""
# A crash may lose it; the record before it is still true. What a stream consists of is only
# recorded if nobody, such as a switch, has done so meanwhile; and a record that somebody, such as a
# repair, has removed meanwhile doesn't come back, since it would say what the stream was before.
RENEW = """
    insert into split.streams as kept (stream, identity, seen)
    select %(name)s, %(identity)s, %(seen)s
    from (select set_config('synchronous_commit', 'off', true)) as quickly
    where
        %(before)s::jsonb = 'null'
        or exists (select from split.streams where stream = %(name)s for no key update)
    on conflict (stream) do update
    set
        identity = case
            when kept.identity = %(before)s then excluded.identity else kept.identity
        end,
        seen = excluded.seen,
        seen_at = default
    where kept.broken_at is null
"""
WRITE = """
    insert into split.streams (stream, identity, seen, broken_at, reason)
    values (%(name)s, %(identity)s, %(seen)s, %(at)s, %(reason)s)
    on conflict (stream) do update
    set
        identity = excluded.identity,
        seen = excluded.seen,
        seen_at = default,
        broken_at = excluded.broken_at,
        reason = excluded.reason
"""
RECORD = """
    insert into split.ledger (service, step, intent, finished_at, outcome, detail)
    values (%s, 'stream broken', %s, clock_timestamp(), 'failed', %s)
"""


@dataclass(frozen=True)
class Breach:
    """Since when a stream proves nothing, and why."""

    stream: BaseStream
    at: datetime
    reason: str

    def error(self) -> NotReady:
        """Say so, with the command after which it proves something again."""
        stream, (source, target) = self.stream, self.stream.labels
        return NotReady(
            f"{stream.name} is not proven any more, as found on {self.at:%Y-%m-%d %H:%M:%S %Z}:"
            f" {self.reason}. Changes of {source} may be missing in {target}.",
            where=describe(stream.target.info.dsn),
            hint=stream.proven_by,
        )


def look(stream: BaseStream) -> Breach | None:
    """Compare a stream with its record, and renew the record if nothing is wrong.

    Args:
        stream: a stream; one that lacks a part and has no record is not looked at.

    Returns:
        What was found, now or earlier; None if the stream is unbroken.
    """
    try:
        return _look(stream)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        return None  # one end's schema is of an older version; the next build upgrades it


def look_if_due(stream: BaseStream) -> Breach | None:
    """Look at a stream unless somebody has done so within the last second.

    Returns:
        What was found, now or earlier; None if the stream is unbroken.
    """
    try:
        row = stream.target.execute(LAST, (FRESH_SECONDS, stream.name)).fetchone()
    except psycopg.errors.UndefinedTable:
        return None  # see `look`
    if row and row[0]:
        return Breach(stream, row[0], row[1])
    return None if row and row[2] else look(stream)


def require_unbroken(streams: Iterable[BaseStream]) -> None:
    """Refuse streams that may have been broken since they were last proven.

    Raises:
        NotReady: one may; the message says when and why, and what proves it again.
    """
    for stream in streams:
        breach = look(stream)
        require_parts(stream, breach)
        if breach:
            raise breach.error()


def require_parts(stream: BaseStream, breach: Breach | None) -> None:
    """Refuse a stream that lacks a part, and tell what else was found: that has another remedy.

    Raises:
        NotReady: see `BaseStream.require_unbroken`.
    """
    try:
        stream.require_unbroken()
    except NotReady as error:
        if breach is None:
            raise
        raise NotReady(
            f"{error.what} Found on {breach.at:%Y-%m-%d %H:%M:%S %Z}: {breach.reason}.",
            where=error.where,
            hint=error.hint,
        ) from error


def begin_proof(stream: BaseStream) -> Breach | None:
    """Record how a broken stream is now: whatever happens to it from here counts against the proof.

    Returns:
        The breach, for `end_proof`.
    """
    if found := look(stream):
        source, target = _ends(stream)
        lost = evidence.source_lost(source, target)  # which nothing shows after this
        seen = {**evidence.first(source, target), "source_lost": lost}
        _write(stream, source, target, seen, found)
    return found


def source_lost(stream: BaseStream) -> bool:
    """Tell whether a stream's target may be the only one that has rows of its source.

    Returns:
        True if the source has failed over or was restored, and no proof has come after that.
    """
    try:
        return evidence.source_lost(*_ends(stream))
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        return False  # see `look`


def end_proof(stream: BaseStream) -> None:
    """Let a stream count as unbroken, since a proof that began with `begin_proof` has ended well.

    Raises:
        NotReady: it was broken meanwhile, so the proof doesn't hold.
    """
    try:
        source, target = _ends(stream)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction):
        return  # see `look`
    if reason := _breach(stream, source, target):
        raise _record(stream, source, target, reason).error()
    _write(stream, source, target, evidence.renewed(source, target), None)


def suspend(stream: BaseStream) -> None:
    """Record that a stream is being removed, so that no remains of it prove anything."""
    for database in (stream.source, stream.target):
        if _has_record(database):
            database.execute(
                "update split.streams set broken_at = clock_timestamp(), reason = %s"
                " where stream = %s and broken_at is null",
                ("it was being removed", stream.name),
            )


def forget(stream: BaseStream) -> None:
    """Forget the record of a stream that has been removed; idempotent."""
    for database in (stream.source, stream.target):
        if _has_record(database):
            database.execute("delete from split.streams where stream = %s", (stream.name,))


def _look(stream: BaseStream) -> Breach | None:
    for tries in range(TRIES):
        source, target = _ends(stream)
        for end in (source, target):
            if end.broken_at:
                return Breach(stream, end.broken_at, end.reason or "")
        if (reason := _breach(stream, source, target)) is None:
            break
        if tries == TRIES - 1:
            return _record(stream, source, target, reason)
        time.sleep(BETWEEN_TRIES_SECONDS)
    # One that is being created has no slot yet, and is another one once it has.
    has_slot = f" {stream.name} " in (target.identity.get("subscription") or "")
    is_complete = source.identity.get("slot") and target.counters["subscription"]
    if is_complete and has_slot and "publication" in source.identity:
        if not source.counters["slot"]["reset"] and _mark(stream):
            source, target = _ends(stream)
        _renew(stream, source, target)
    return None


def _mark(stream: BaseStream) -> bool:
    """Give the slot's counters a time by which it is known again; False if we may not."""
    try:
        stream.source.execute("select pg_stat_reset_replication_slot(%s)", (stream.name,))
    except psycopg.errors.InsufficientPrivilege:
        return False  # docs/connections.md says which right it takes; the rest is evidence, too
    return True


def _breach(stream: BaseStream, source: End, target: End) -> str | None:
    return evidence.breach(stream.name, source, target)


def _ends(stream: BaseStream) -> tuple[End, End]:
    """Ask both ends, the target first: so the source knows every heartbeat that is there."""
    asked, (source, target) = {"name": stream.name, "key": stream.heartbeat_key}, stream.labels
    there = stream.target.execute(LOOK, asked).fetchone()
    here = stream.source.execute(LOOK, asked).fetchone()
    assert here is not None and there is not None
    return End(source, *here), End(target, *there)


def _renew(stream: BaseStream, source: End, target: End) -> None:
    seen = Jsonb(evidence.renewed(source, target))
    for database, end in ((stream.target, target), (stream.source, source)):
        database.execute(
            RENEW,
            {
                "name": stream.name,
                "identity": Jsonb(end.identity),
                "before": Jsonb(end.kept),
                "seen": seen,
            },
        )


def _record(stream: BaseStream, source: End, target: End, reason: str) -> Breach:
    """Record a breach at both ends and in the ledger; what was recorded before stays."""
    row = (stream.control or stream.source).execute("select clock_timestamp()").fetchone()
    assert row is not None
    breach = Breach(stream, row[0], reason)
    # Rows may be nowhere else now; whatever replaces them keeps a copy.
    stream.database.execute("update split.service set keeps_replaced = true")
    for database, end in ((stream.target, target), (stream.source, source)):
        _put(stream, database, end.kept or end.identity, end.seen or {}, breach)
    if stream.control:
        what, why = Jsonb({"stream": stream.name}), Jsonb({"error": reason})
        stream.control.execute(RECORD, (stream.service.database, what, why))
    return breach


def _write(
    stream: BaseStream, source: End, target: End, seen: dict[str, Any], breach: Breach | None
) -> None:
    for database, end in ((stream.target, target), (stream.source, source)):
        _put(stream, database, end.identity, seen, breach)


def _put(
    stream: BaseStream, database: Connection, identity: Any, seen: Any, breach: Breach | None
) -> None:
    database.execute(
        WRITE,
        {
            "name": stream.name,
            "identity": Jsonb(identity),
            "seen": Jsonb(seen),
            "at": breach and breach.at,
            "reason": breach and breach.reason,
        },
    )


def _has_record(database: Connection) -> bool:
    row = database.execute("select to_regclass('split.streams') is not null").fetchone()
    return row == (True,)
