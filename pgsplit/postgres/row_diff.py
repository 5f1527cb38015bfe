"""Compares what two databases hold of the same rows, without moving the rows.

Each server hashes its own rows into buckets by key, and the buckets are compared. Only those that
differ are looked into: first hashes by key and column, merged as they stream by, then the values of
a few samples. On a living system a row may differ just because it is on its way; such rows are read
again, after they have had time to arrive, until they agree or are proven to differ.

The idea of hashes by range that are narrowed down where they differ is that of Merkle trees, as
Cassandra's repair and the Percona toolkit's table checksums use them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pgsplit.postgres.connect import ALIKE

if TYPE_CHECKING:
    from typing import LiteralString

Connection = psycopg.Connection[Any]
Hashes = tuple[int, ...]
Pair = tuple[Hashes | None, Hashes | None]

# There are far fewer buckets than the planner takes hashes of a key to be: grouping needs no sort.
SESSION = f"""
    {ALIKE}; set search_path = pg_catalog; set default_transaction_read_only = on;
    set lock_timeout = '10s'; set jit = off; set enable_sort = off; set work_mem = '64MB'
"""
ROWS_PER_BUCKET = 256
MOST_BUCKETS = 16_384
BATCH = 2_000
READ_AGAIN = 20_000
AGREEING_READS = 3
MOST_READS = 20
READ_PAUSE_SECONDS = 0.1
MOST_SAMPLES = 5
MOST_CHARACTERS = 200


@dataclass(frozen=True)
class RowSource:
    """One of the two: how to connect to it, and the query that gives its rows."""

    connect: Callable[[], AbstractContextManager[Connection]]
    query: sql.Composable


@dataclass(frozen=True)
class Shape:
    """What the rows of both sides have in common: the key's column and its type, all columns."""

    key: str
    key_type: str
    columns: Sequence[str]


@dataclass(frozen=True)
class Sample:
    """A row that differs: `values` gives by column what was expected and what is there."""

    kind: str
    key: str
    values: dict[str, tuple[str | None, str | None]]


@dataclass
class Comparison:
    """How two sides compare, in rows.

    `rows` is what the second side holds, `columns` counts modified rows by column. `unsettled` rows
    changed faster than they could be read, so nothing is proven of them; `seen_once` are those
    among the differing that were too many to be read again.
    """

    rows: int = 0
    modified: int = 0
    missing: int = 0
    extra: int = 0
    unsettled: int = 0
    seen_once: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Comparison:
        """Take one from the plain data that `dataclasses.asdict` made of it."""
        samples = [
            Sample(one["kind"], one["key"], {k: (v[0], v[1]) for k, v in one["values"].items()})
            for one in data["samples"]
        ]
        return cls(**{**data, "samples": samples})

    @property
    def identical(self) -> int:
        """Rows that are the same on both sides."""
        return self.rows - self.modified - self.extra - self.unsettled

    @property
    def differing(self) -> int:
        """Rows that are not."""
        return self.modified + self.missing + self.extra

    @property
    def proven(self) -> bool:
        """Whether every row was seen to be the same on both sides."""
        return not self.differing and not self.unsettled


def compare(
    expected: RowSource,
    actual: RowSource,
    shape: Shape,
    estimate: int,
    catch_up: Callable[[], None],
) -> Comparison:
    """Compare what one side should yield with what the other holds.

    Reads both at once, each in snapshots of its own. Memory does not grow with the rows.

    Args:
        expected: the side that is right.
        actual: the side that is held against it.
        shape: key and columns of both.
        estimate: about how many rows there are; sets the number of buckets.
        catch_up: brings `actual` to where `expected` stands, and returns when it is there.

    Returns:
        What agrees and what does not.
    """
    started, found = time.monotonic(), Comparison()
    mask = _buckets(estimate) - 1
    with _reader(expected, shape) as left, _reader(actual, shape) as right:
        with ThreadPoolExecutor(2) as both:
            wanted, held = both.map(lambda reader: reader.digests(mask), (left, right))
        found.rows = sum(count for count, _ in held.values())
        differing = sorted(b for b in wanted.keys() | held.keys() if wanted.get(b) != held.get(b))
        if differing:
            # The streams keep their connections busy.
            with (
                _reader(expected, shape) as left_again,
                _reader(actual, shape) as right_again,
                _merged(left, right, mask, differing) as candidates,
            ):
                _settle(candidates, left_again, right_again, catch_up, found)
    found.seconds = time.monotonic() - started
    return found


def differing_keys(expected: RowSource, actual: RowSource, shape: Shape) -> Iterator[str]:
    """Give the keys of rows that differ, or that one side lacks, as both are now.

    Memory does not grow with the rows; each server sorts its own.

    Args:
        expected: the one side.
        actual: the other.
        shape: key and columns of both.
    """
    with (
        _reader(expected, shape) as left,
        _reader(actual, shape) as right,
        _merged(left, right, 0, [0]) as differing,
    ):
        for key, _ in differing:
            yield key


def _buckets(estimate: int) -> int:
    wanted = max(1, min(estimate // ROWS_PER_BUCKET, MOST_BUCKETS))
    return 1 << (wanted - 1).bit_length()


@dataclass(frozen=True)
class _Reader:
    """Reads one side: hashes by bucket, hashes by row, values."""

    connection: Connection
    side: RowSource
    shape: Shape

    def digests(self, mask: int) -> dict[int, tuple[int, int]]:
        """Give rows and hash of each bucket."""
        query = self._render(
            "select {bucket}, count(*), bit_xor(hashtextextended(row({values})::text, 1))"
            " from {rows} group by 1",
            mask,
        )
        found = self.connection.execute(query)
        return {bucket: (count, digest) for bucket, count, digest in found}

    def stream(
        self, mask: int, buckets: Sequence[int]
    ) -> Generator[tuple[str, Hashes], None, None]:
        """Give keys and hashes by column of some buckets' rows, in byte order of the key."""
        query = self._render(
            "select {key}, array[{hashes}] from {rows} where {bucket} = any(%s::bigint[])"
            ' order by {key} collate "C"',
            mask,
        )
        for key, hashes in self.connection.cursor().stream(query, (list(buckets),)):
            yield key, tuple(hashes)

    def hashes(self, keys: Sequence[str]) -> dict[str, Hashes]:
        """Give hashes by column of some rows, one after the other where rows share a key."""
        found: dict[str, Hashes] = {}
        for key, hashes in self._pick("{hashes}", keys):
            found[key] = found.get(key, ()) + tuple(hashes)
        return found

    def texts(self, keys: Sequence[str]) -> dict[str, list[str | None]]:
        """Give the values of some rows as text, long ones cut short."""
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
        return sql.SQL(template).format(
            id=id,
            kind=sql.SQL(self.shape.key_type),
            key=key,
            bucket=sql.SQL("(hashtextextended({}, 0) & {})").format(key, sql.Literal(mask)),
            values=sql.SQL(", ").join(values),
            texts=sql.SQL(", ").join(_short(value) for value in values),
            # As a row of one column: what the text of the whole row tells apart, this does too.
            hashes=sql.SQL(", ").join(
                sql.SQL("hashtextextended(row({})::text, 1)").format(value) for value in values
            ),
            rows=sql.SQL("({}) as compared").format(self.side.query),
        )


def _short(value: sql.Composable) -> sql.Composed:
    return sql.SQL(
        "case when length({text}) <= {most} then {text} else"
        " left({text}, {most}) || '… (' || length({text}) || ', md5 ' || md5({text}) || ')' end"
    ).format(text=sql.SQL("{}::text").format(value), most=sql.Literal(MOST_CHARACTERS))


@contextmanager
def _reader(side: RowSource, shape: Shape) -> Iterator[_Reader]:
    with side.connect() as connection:
        connection.execute(SESSION)
        yield _Reader(connection, side, shape)


@contextmanager
def _merged(
    expected: _Reader, actual: _Reader, mask: int, buckets: Sequence[int]
) -> Iterator[Iterator[tuple[str, Pair]]]:
    """Read both sides at once; a stream that nobody ends would keep its connection for ever."""
    with (
        closing(expected.stream(mask, buckets)) as left,
        closing(actual.stream(mask, buckets)) as right,
    ):
        yield _merge(left, right)


def _merge(
    expected: Iterator[tuple[str, Hashes]], actual: Iterator[tuple[str, Hashes]]
) -> Iterator[tuple[str, Pair]]:
    """Give the keys whose hashes differ, from two streams in byte order of the key."""
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


def _settle(
    candidates: Iterator[tuple[str, Pair]],
    expected: _Reader,
    actual: _Reader,
    catch_up: Callable[[], None],
    found: Comparison,
) -> None:
    """Read rows that seem to differ again; count those that do, and keep samples."""
    while batch := dict(islice(candidates, BATCH)):
        if found.differing < READ_AGAIN:
            batch, moving = _read_again(list(batch), expected, actual, catch_up)
            found.unsettled += moving
        else:
            found.seen_once += len(batch)
        wanted: list[str] = []
        kept = Counter(sample.kind for sample in found.samples)
        for key, pair in batch.items():
            kind = _count(pair, actual.shape, found)
            if kept[kind] < MOST_SAMPLES:
                kept[kind] += 1
                wanted.append(key)
        if wanted:
            left, right = expected.texts(wanted), actual.texts(wanted)
            for key in wanted:
                kind = _kind(batch[key])
                values = _values(left.get(key), right.get(key), actual.shape)
                found.samples.append(Sample(kind, key, values))


def _read_again(
    keys: list[str], expected: _Reader, actual: _Reader, catch_up: Callable[[], None]
) -> tuple[dict[str, Pair], int]:
    """Tell which rows really differ, and how many never held still.

    A row is right if, after catching up, it is as expected both before and after. One that is being
    written is right if it was as expected before or after with two different values: so it moves
    along, and does not just meet a value that comes and goes. It is wrong if several readings in a
    row find the same two values: once might be chance, where a value changes to and fro.
    """
    real: dict[str, Pair] = {}
    seen: dict[str, tuple[Pair, int]] = {}
    met: dict[str, set[Hashes | None]] = {}
    for attempt in range(MOST_READS):
        before = expected.hashes(keys)
        catch_up()
        held = actual.hashes(keys)
        after = expected.hashes(keys)
        undecided = []
        for key in keys:
            pair = (before.get(key), held.get(key))
            still = pair[0] == after.get(key)
            if pair[1] in (pair[0], after.get(key)):
                met.setdefault(key, set()).add(pair[1])
                if not still and len(met[key]) < 2:
                    undecided.append(key)
                continue
            last, times = seen.get(key, (None, 0))
            times = times + 1 if still and last == pair else int(still)
            seen[key] = (pair, times)
            if times >= AGREEING_READS:
                real[key] = pair
            else:
                undecided.append(key)
        keys = undecided
        if not keys:
            break
        time.sleep(READ_PAUSE_SECONDS * min(attempt + 1, 5))
    return real, len(keys)


def _count(pair: Pair, shape: Shape, found: Comparison) -> str:
    """Count a row that differs; give the kind of its difference."""
    expected, actual = pair
    kind = _kind(pair)
    if kind == "missing":
        found.missing += 1
    elif kind == "extra":
        found.extra += (len(actual or ()) - len(expected or ())) // len(shape.columns)
    else:
        found.modified += 1
        for name, one, other in zip(shape.columns, expected or (), actual or (), strict=True):
            if one != other:
                found.columns[name] = found.columns.get(name, 0) + 1
    return kind


def _kind(pair: Pair) -> str:
    """Name a difference; where a key's rows are several, their hashes are more."""
    expected, actual = (len(hashes or ()) for hashes in pair)
    return "modified" if expected == actual else "missing" if expected > actual else "extra"


def _values(
    expected: list[str | None] | None, actual: list[str | None] | None, shape: Shape
) -> dict[str, tuple[str | None, str | None]]:
    nothing = [None] * len(shape.columns)
    pairs = zip(shape.columns, expected or nothing, actual or nothing, strict=True)
    return {name: (one, other) for name, one, other in pairs if one != other}
