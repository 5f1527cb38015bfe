"""What proves that a stream is unbroken, and what shows that it may not be.

Nothing here asks a server: both ends are compared with what was recorded of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """One end of a stream as it is, and as its own record says that it was.

    `seen` is what both ends had counted; `broken_at` and `reason` are an earlier breach.
    """

    label: str
    identity: Facts
    counters: Facts
    kept: Facts | None
    seen: Facts | None
    broken_at: datetime | None
    reason: str | None

    @property
    def server(self) -> list[str]:
        """The server's identity and history."""
        return [self.identity["server"], self.identity["timeline"], self.identity["database"]]


def first(source: End, target: End) -> dict[str, Any]:
    """Give what is recorded of a stream that nothing was recorded of before."""
    return {
        "source": source.counters,
        "target": target.counters,
        "servers": {"source": source.server, "target": target.server},
        # A heartbeat that the target can't lose in a crash.
        "durable": None,
        # As many failed attempts have led to a success.
        "settled": (target.counters["subscription"] or {}).get("errors", 0),
    }


def renewed(source: End, target: End) -> dict[str, Any]:
    """Give what is recorded of a stream that is found unbroken."""
    found = first(source, target)
    if not (seen := newest(source, target)):
        return found
    before, now = seen["target"], target.counters
    slot, was, sub = source.counters["slot"], before["subscription"], now["subscription"]
    # What the target had received then it has confirmed, and so written to its disk.
    is_durable = slot["confirmed"] >= seen["source"]["written"]
    found["durable"] = before["heartbeat"] if is_durable else seen["durable"]
    if not was or sub["errors"] < was["errors"]:
        found["settled"] = 0
    elif sub != was or (now["heartbeat"] or 0) <= (before["heartbeat"] or 0):
        found["settled"] = seen["settled"]
    return found


def newest(source: End, target: End) -> Facts | None:
    """Give the newer one of both ends' records; None if there is none."""
    records = [one for one in (source.seen, target.seen) if one]
    return max(records, key=lambda one: one["source"]["at"], default=None)


def breach(name: str, source: End, target: End) -> str | None:
    """Say why a stream may have left something out since it was recorded; None if it has not.

    Args:
        name: the stream's name.
        source: its source; asked after the target, so that it knows every heartbeat there.
        target: its target.
    """
    return next(_breaches(name, source, target), None)


def source_lost(source: End, target: End) -> bool:
    """Tell whether a source has lost its recent past since the target recorded it.

    It has failed over, or was restored; so the target may be the only one that has some rows.
    """
    if not (seen := target.seen):
        return False
    found = (*_server(source, seen["servers"]["source"]), *_past(source, seen["source"]))
    return bool(found) or bool(seen.get("source_lost"))


def _breaches(name: str, source: End, target: End) -> Iterator[str]:
    records = [one for one in (target.seen, source.seen) if one]
    for end, side in ((source, "source"), (target, "target")):
        for seen in records:
            yield from _server(end, seen["servers"][side])
            yield from _past(end, seen[side])
    s, t = source.counters, target.counters
    for heartbeat in [t["heartbeat"], *(seen["target"]["heartbeat"] for seen in records)]:
        if heartbeat is not None and (s["heartbeat"] is None or s["heartbeat"] < heartbeat):
            yield _lost(source, f"{target.label} has received a later heartbeat than it has sent")
    for seen in records:
        durable = seen["durable"]
        if durable is not None and (t["heartbeat"] is None or t["heartbeat"] < durable):
            yield _lost(target, "it had confirmed a later heartbeat than it has")
    for end, other in ((source, target), (target, source)):
        if end.kept:
            yield from _parts(name, end.kept, end.identity)
            yield from _dropped(end.kept, end.identity, other.identity)
    if last := newest(source, target):  # a crash may have taken the last one from one end
        yield from _slot(name, last, source, target)
        yield from _skipped(name, last, t["subscription"])


def _lost(end: End, how: str) -> str:
    return f"{end.label} has lost its recent past, in a failover or a restore: {how}"


def _server(end: End, was: list[str]) -> Iterator[str]:
    (server, timeline, database), (old_server, old_timeline, old_database) = end.server, was
    if server != old_server:
        yield f"{end.label} is on another server than before"
    if timeline != old_timeline:
        yield (
            f"the server of {end.label} has failed over, or was restored: its timeline is"
            f" {int(timeline, 16)}, and it was {int(old_timeline, 16)}"
        )
    if database != old_database:
        yield f"the database of {end.label} was re-created"


def _past(end: End, was: Facts) -> Iterator[str]:
    if (missing := int(was["flushed"]) - int(end.counters["written"])) > 0:
        yield _lost(end, f"its WAL ends {missing:,} bytes before where it had been")


def _parts(name: str, was: Facts, now: Facts) -> Iterator[str]:
    """Compare what one end consists of; what has been added does no harm."""
    if "publication" in was and was["publication"] != now.get("publication"):
        yield f"the publication {name} was altered or re-created"
    if was.get("slot") and was["slot"] != now.get("slot"):
        yield f"the slot {name} is gone" if not now.get("slot") else f"the slot {name} was replaced"
    if "subscription" in was and was["subscription"] != now.get("subscription"):
        yield f"the subscription {name} was re-created, or given another slot or publication"
    tables = now.get("published") or {}
    for table, member in (was.get("published") or {}).items():
        yield from _published(name, table, member, tables.get(table))
    tables = now.get("subscribed") or {}
    for table, member in (was.get("subscribed") or {}).items():
        if tables.get(table) != member:
            yield f"the table {table} was renamed or re-created where {name} ends"
    for table, parts in (was.get("columns") or {}).items():
        yield from _columns(table, parts, (now.get("columns") or {}).get(table))
    # A record of an older version has none.
    known = was.get("altered_by", now.get("altered_by")) or []
    for what in now.get("altered_by") or []:
        if what not in known:
            yield f"the {what} may have altered what arrived where {name} ends"
    for trigger, row in was["triggers"].items():
        if now["triggers"].get(trigger) != row:
            yield f"the trigger on {trigger} was disabled, altered or re-created"


def _published(name: str, table: str, was: Facts, now: Facts | None) -> Iterator[str]:
    if now is None or now["oid"] != was["oid"]:
        yield f"the table {table} was renamed, re-created, or taken out of the publication {name}"
        return
    if now["member"] != was["member"]:
        yield f"{table} was taken out of the publication {name} for a while, or published again"
    # PostgreSQL refuses to rewrite a column that a publication lists.
    parts = now["parts"]
    attached = [one for one, is_born in parts.items() if one not in was["parts"] and not is_born]
    if attached or any(one not in parts for one in was["parts"]):
        yield (
            f"partitions of {table} were attached or detached, or tables inherit from it, which"
            " isn't replicated"
        )


def _columns(table: str, was: Facts, now: Facts | None) -> Iterator[str]:
    """Compare a table's columns: definitions can change all values, and nothing replicates that."""
    if now is None:
        return  # said already, or taken out on purpose
    for column, row in was["rows"].items():
        if not (found := now["rows"].get(column)) or found == row:
            continue
        if found.split()[0] != row.split()[0]:
            yield f"the column {column} of {table} is another one than before"
        elif now["file"] != was["file"]:
            yield f"the column {column} of {table} was rewritten, which isn't replicated"


def _dropped(was: Facts, now: Facts, other: Facts) -> Iterator[str]:
    """Find columns that are gone, and not only renamed, at one end; their values are, too."""
    for table, parts in (was.get("columns") or {}).items():
        rows = ((now.get("columns") or {}).get(table) or {}).get("rows")
        there = ((other.get("columns") or {}).get(table) or {}).get("rows") or {}
        numbers = {row.split()[0] for row in (rows or {}).values()}
        for column, row in parts["rows"].items():
            if rows and column not in rows and column in there and row.split()[0] not in numbers:
                yield f"the column {column} of {table} was dropped"


def _slot(name: str, seen: Facts, source: End, target: End) -> Iterator[str]:
    """A slot has no identity; what its server has counted for it tells whether it is the same one.

    Its counters bear the time at which we reset them. A new slot has new ones, and a crash discards
    them.
    """
    was, now, s = seen["source"]["slot"], source.counters["slot"], seen["source"]
    before, after = seen["target"]["subscription"], target.counters["subscription"]
    if not now or now["lost"]:
        yield f"the slot {name} is gone" if not now else f"the server gave the slot {name} up"
        return
    if not was or not before or not after or (now["reader"] and now["reader"] == was["reader"]):
        return  # whoever reads it has kept it in use ever since
    is_altered = before["row"] != after["row"]
    if not (now["reader"] or was["reader"] or after["enabled"] or is_altered):
        if now["confirmed"] != was["confirmed"]:
            yield f"the slot {name} was moved on by hand"
        return
    if now["reset"] and now["reset"] == was["reset"]:
        return
    if source.counters["statistics"] == s["statistics"] and not now["reset"]:
        if was["reset"] or now["sent"] < was["sent"] or now["bytes"] < was["bytes"]:
            yield f"the slot {name} was dropped and created again: it has sent less than before"
            return
        if now["sent"] > source.counters["transactions"] - s["transactions"]:
            return  # so many transactions there were not since
    if min(now["restart"], now["confirmed"]) > s["written"] and is_altered:
        yield (
            f"the subscription {name} was altered, and nothing tells whether its slot is still the"
            " same one: it begins after the last time that somebody looked"
        )


def _skipped(name: str, seen: Facts, now: Facts | None) -> Iterator[str]:
    was = seen["target"]["subscription"]
    if not was or not now or was["row"] == now["row"]:
        return
    settled = seen["settled"] if now["errors"] >= was["errors"] else 0
    if now["errors"] > settled:
        yield (
            f"a transaction could not be applied, and the subscription {name} was altered after"
            " that: the transaction may have been skipped"
        )
