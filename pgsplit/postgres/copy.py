"""Copies tables from an exported snapshot: binary COPY, several workers, big tables in ranges.

Rows are streamed in blocks, not stored. Each range is one transaction on either side.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, Lock
from typing import Any, NoReturn

import psycopg
from psycopg import sql
from psycopg.abc import Buffer

from pgsplit.postgres.catalog import LiveTable

Connect = Callable[[], psycopg.Connection[Any]]

WORKERS = min(4, os.cpu_count() or 1)
# Copies that run side by side have no more workers than one has.
AT_WORK = BoundedSemaphore(WORKERS)
PAGES_PER_RANGE = 16384  # 128 MiB: long enough to stream, short enough to share evenly
BLOCK_BYTES = 64 * 1024  # some milliseconds of work; larger blocks fall out of the cache
TRAILER_BYTES = 2  # the last message of a binary COPY; every row is longer


@dataclass(frozen=True)
class Progress:
    """The progress of a copy: rows and bytes so far, and the estimated total of rows."""

    rows: int
    bytes: int
    rows_estimate: int


@dataclass
class Copied:
    """What was copied: rows by table, and bytes in COPY's binary format."""

    rows: dict[str, int] = field(default_factory=dict)
    bytes: int = 0


@dataclass(frozen=True)
class _Range:
    """Some pages of a table; `last` is None for the last range, since the table may have grown."""

    schema: str
    table: str
    columns: tuple[str, ...]
    first: int
    last: int | None


def copy(
    source: Connect,
    target: Connect,
    snapshot: str,
    schema: str,
    tables: Mapping[str, tuple[tuple[str, ...], LiveTable]],
    on_progress: Callable[[Progress], None],
    wait: Callable[[Event], None] = lambda stop: None,
) -> Copied:
    """Copy columns of tables from a snapshot of one database into tables of another.

    Args:
        source: opens a connection to the database that exported the snapshot.
        target: opens a connection to the database with empty tables of the same names.
        snapshot: the name from `pg_export_snapshot` or from a new slot; stays exported meanwhile.
        schema: the schema on both sides.
        tables: by name, the columns to copy and the table's definition.
        on_progress: called often, by one thread at a time.
        wait: called between blocks; returns once the copy may go on, or the event is set.

    Returns:
        Rows by table and bytes.

    Raises:
        psycopg.Error: the first worker's error; the other workers are stopped.
    """
    estimate = sum(live.rows_estimate for _, live in tables.values())
    copied = Copied(dict.fromkeys(tables, 0))
    lock, stop = Lock(), Event()
    under_way: set[psycopg.Connection[Any]] = set()
    moving = {"rows": 0}

    def add(rows: int, size: int) -> None:
        with lock:
            moving["rows"] += rows
            copied.bytes += size
            on_progress(Progress(moving["rows"], copied.bytes, estimate))
        wait(stop)
        if stop.is_set():
            raise InterruptedError("another worker has failed")

    def work(part: _Range) -> None:
        with AT_WORK, source() as reader, target() as writer:
            if stop.is_set():
                return
            under_way.update((reader, writer))
            try:
                rows = _copy_range(reader, writer, snapshot, part, add)
            finally:
                under_way.difference_update((reader, writer))
        with lock:
            copied.rows[part.table] += rows

    parts = [
        part
        for table, (columns, live) in tables.items()
        for part in _cut(schema, table, columns, live)
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        futures = [pool.submit(work, part) for part in parts]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            # A worker that waits for a lock or a stalled server would not see the event.
            for connection in list(under_way):
                connection.cancel()
            pool.shutdown(cancel_futures=True)
            raise
    return copied


def _cut(schema: str, table: str, columns: tuple[str, ...], live: LiveTable) -> list[_Range]:
    firsts = range(0, max(live.pages, 1), PAGES_PER_RANGE)
    lasts = [*firsts[1:], None]
    return [_Range(schema, table, columns, *pages) for pages in zip(firsts, lasts, strict=True)]


def _copy_range(
    reader: psycopg.Connection[Any],
    writer: psycopg.Connection[Any],
    snapshot: str,
    part: _Range,
    add: Callable[[int, int], None],
) -> int:
    relation = sql.Identifier(part.schema, part.table)
    columns = sql.SQL(", ").join(map(sql.Identifier, part.columns))
    condition = sql.SQL("ctid >= {}").format(f"({part.first},0)")
    if part.last is not None:
        condition = sql.SQL("{} and ctid < {}").format(condition, f"({part.last},0)")
    read = sql.SQL("copy (select {} from {} where {}) to stdout (format binary)")
    write = sql.SQL("copy {} ({}) from stdin (format binary)")
    with reader.transaction(), writer.transaction():
        reader.execute("set transaction isolation level repeatable read, read only")
        reader.execute(sql.SQL("set transaction snapshot {}").format(snapshot))
        # If a policy hides rows from this login, that is an error.
        reader.execute("set local row_security = off")
        # The last commit of a landing flushes the WAL, and so these rows too.
        writer.execute("set local synchronous_commit = off")
        into = writer.cursor()
        with (
            reader.cursor().copy(read.format(columns, relation, condition)) as rows,
            into.copy(write.format(relation, columns)) as out,
        ):
            reported = 0
            for block, count in _blocks(rows, reader):
                out.write(block)
                add(count, len(block))
                reported += count
        # The trailer is a message too, but not a row; so COPY's own count is used.
        add(into.rowcount - reported, 0)
        return into.rowcount


def _blocks(rows: psycopg.Copy, reader: psycopg.Connection[Any]) -> Iterator[tuple[bytes, int]]:
    """Give what a binary COPY sends in blocks, with the number of messages in each.

    Only a message that has to be waited for goes through psycopg. Those that have arrived already
    are taken from libpq, which halves the time that a row takes here.
    """
    arrived = reader.pgconn.get_copy_data
    block: list[Buffer] = []
    size = 0
    while message := rows.read():
        length = len(message)
        while length:  # 0: nothing else has arrived
            block.append(message)
            size += length
            if size >= BLOCK_BYTES:
                yield b"".join(block), len(block)
                block, size = [], 0
            if length == TRAILER_BYTES:
                break
            length, message = arrived(1)
            if length < 0:
                _raise_error(reader)
    yield b"".join(block), len(block)


def _raise_error(reader: psycopg.Connection[Any]) -> NoReturn:
    """Raise the error with which the server has ended a COPY before its trailer."""
    results = list(iter(reader.pgconn.get_result, None))
    raise psycopg.errors.error_from_result(results[0], reader.info.encoding)
