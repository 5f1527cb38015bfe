"""Reads rows of a query as hashes, so that two databases can be compared without moving rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from typing import LiteralString

Connection = psycopg.Connection[Any]
Hashes = tuple[int, ...]
Pair = tuple[Hashes | None, Hashes | None]

# There are far fewer buckets than the planner expects, so grouping needs no sort.
SESSION = """
    set default_transaction_read_only = on;
    set lock_timeout = '10s'; set enable_sort = off; set work_mem = '64MB'
"""
MOST_CHARACTERS = 200
# Types whose values are equal only if their texts are, by oid; they are hashed as they are, which
# takes half the time: bool, bigint, smallint, integer, date, timestamp, timestamptz, uuid.
EXACT = frozenset({16, 20, 21, 23, 1082, 1114, 1184, 2950})
# text, json, varchar, numeric, jsonb: nobody can give them another cast to text than their own.
TEXTS = frozenset({25, 114, 1043, 1700, 3802})
UNKNOWN = 0


@dataclass(frozen=True)
class RowSource:
    """One side of a comparison: how to connect, and the query that gives its rows."""

    connect: Callable[[], AbstractContextManager[Connection]]
    query: sql.Composable


@dataclass(frozen=True)
class Shape:
    """The columns of both sides, and which is the key; the oids of their types, if known."""

    key: str
    key_type: str
    columns: Sequence[str]
    types: Sequence[int] = ()


@contextmanager
def reader(side: RowSource, shape: Shape) -> Iterator[Reader]:
    """Open a read-only session on one side."""
    with side.connect() as connection:
        connection.execute(SESSION)
        yield Reader(connection, side, shape)


@dataclass(frozen=True)
class Reader:
    """Reads one side: hashes by bucket, hashes by row, and values."""

    connection: Connection
    side: RowSource
    shape: Shape

    def digests(self, mask: int) -> dict[int, tuple[int, int]]:
        """Give the number of rows and the hash of each bucket."""
        query = self._render(
            "select {bucket}, count(*), bit_xor(hash_record_extended(row({exactly}), 1))"
            " from {rows} group by 1",
            mask,
        )
        found = self.connection.execute(query)
        return {bucket: (count, digest) for bucket, count, digest in found}

    def stream(
        self, mask: int, buckets: Sequence[int]
    ) -> Generator[tuple[str, Hashes], None, None]:
        """Give some buckets' rows in byte order of the key: keys and columns' hashes."""
        query = self._render(
            "select {key}, array[{hashes}] from {rows} where {bucket} = any(%s::bigint[])"
            ' order by {key} collate "C"',
            mask,
        )
        for key, hashes in self.connection.cursor().stream(query, (list(buckets),)):
            yield key, tuple(hashes)

    def hashes(self, keys: Sequence[str]) -> dict[str, Hashes]:
        """Give the columns' hashes of some rows; the hashes of rows with the same key follow on."""
        found: dict[str, Hashes] = {}
        for key, hashes in self._pick("{hashes}", keys):
            found[key] = found.get(key, ()) + tuple(hashes)
        return found

    def texts(self, keys: Sequence[str]) -> dict[str, list[str | None]]:
        """Give the values of some rows as text; long ones are shortened."""
        return dict(self._pick("{texts}", keys))

    def _pick(self, what: LiteralString, keys: Sequence[str]) -> list[tuple[str, Any]]:
        query = self._render(
            "select {key}, array[" + what + "] from {rows}"
            " where compared.{id} = any(%s::text[]::{kind}[])"
        )
        return self.connection.execute(query, (list(keys),)).fetchall()

    def _render(self, template: LiteralString, mask: int = 0) -> sql.Composed:
        id = sql.Identifier(self.shape.key)
        key = sql.SQL("(compared.{}::text)").format(id)
        values = [sql.Identifier("compared", name) for name in self.shape.columns]
        types = self.shape.types or [UNKNOWN] * len(values)
        return sql.SQL(template).format(
            id=id,
            kind=sql.SQL(self.shape.key_type),
            key=key,
            bucket=sql.SQL("(hashtextextended({}, 0) & {})").format(key, sql.Literal(mask)),
            exactly=sql.SQL(", ").join(map(_exactly, values, types)),
            texts=sql.SQL(", ").join(_short(value) for value in values),
            # As a row of one column, a value has the same text as in the whole row.
            hashes=sql.SQL(", ").join(
                sql.SQL("hashtextextended(row({})::text, 1)").format(value) for value in values
            ),
            rows=sql.SQL("({}) as compared").format(self.side.query),
        )


def _exactly(value: sql.Composable, type: int) -> sql.Composable:
    """Give a value in a form that has a hash, and is equal only if the value is the same.

    The collation "C" tells A from a, which another may not.
    """
    if type in EXACT:
        return value
    text = "{}::text" if type in TEXTS else "row({})::text"
    return sql.SQL(text + ' collate "C"').format(value)


def _short(value: sql.Composable) -> sql.Composed:
    return sql.SQL(
        "case when length({text}) <= {most} then {text} else"
        " left({text}, {most}) || '… (' || length({text}) || ', md5 ' || md5({text}) || ')' end"
    ).format(text=sql.SQL("{}::text").format(value), most=sql.Literal(MOST_CHARACTERS))


@contextmanager
def differing_rows(
    expected: Reader, actual: Reader, mask: int, buckets: Sequence[int]
) -> Iterator[Iterator[tuple[str, Pair]]]:
    """Give the rows of some buckets whose hashes differ: the key, and the hashes of both sides.

    Streams from both sides at once. The block ends the streams: an open one blocks its connection.
    """
    with (
        closing(expected.stream(mask, buckets)) as left,
        closing(actual.stream(mask, buckets)) as right,
    ):
        yield _merge(left, right)


def _merge(
    expected: Iterator[tuple[str, Hashes]], actual: Iterator[tuple[str, Hashes]]
) -> Iterator[tuple[str, Pair]]:
    """Merge two streams in byte order of the key; give what differs."""
    left, right = next(expected, None), next(actual, None)
    while left or right:
        if right is None or (left is not None and left[0].encode() < right[0].encode()):
            assert left is not None
            yield left[0], (left[1], None)
            left = next(expected, None)
        elif left is None or right[0].encode() < left[0].encode():
            yield right[0], (None, right[1])
            right = next(actual, None)
        else:
            if left[1] != right[1]:
                yield left[0], (left[1], right[1])
            left, right = next(expected, None), next(actual, None)
