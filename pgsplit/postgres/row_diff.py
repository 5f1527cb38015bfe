"""Compares the same rows in two databases, without moving the rows.

Each server hashes its rows into buckets by key. Where buckets differ, hashes by key and column are
streamed and merged, and then a few samples' values are read. On a living system a row may differ
only because its change has not arrived yet. Such rows are read again after it has had time to
arrive, until they agree or are proven to differ.

Merkle trees narrow down differences in the same way, as in Cassandra's repair and the Percona
Toolkit's table checksums.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pgsplit.postgres.row_hashes import (
    Hashes,
    Pair,
    Reader,
    RowSource,
    Shape,
    differing_rows,
    reader,
)

ROWS_PER_BUCKET = 256
MOST_BUCKETS = 16_384
BATCH = 2_000
READ_AGAIN = 20_000
AGREEING_READS = 3
MOST_READS = 20
READ_PAUSE_SECONDS = 0.1
MOST_SAMPLES = 5


@dataclass(frozen=True)
class Sample:
    """A row that differs: `values` gives by column the expected and the actual value."""

    kind: str
    key: str
    values: dict[str, tuple[str | None, str | None]]


@dataclass
class Comparison:
    """How two sides compare, in rows.

    `rows` counts the second side's rows, `columns` the modified rows by column. `unsettled` rows
    are in flux: they changed faster than they could be read, so nothing is proven. `seen_once`
    counts the unconfirmed among the differing rows: too many differed to read them all again.
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
        """Restore a comparison from what `dataclasses.asdict` gave."""
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
        """Rows that differ."""
        return self.modified + self.missing + self.extra

    @property
    def proven(self) -> bool:
        """Whether every row is known to be the same on both sides."""
        return not self.differing and not self.unsettled


def compare(
    expected: RowSource,
    actual: RowSource,
    shape: Shape,
    estimate: int,
    catch_up: Callable[[], None],
    changed: tuple[RowSource, RowSource] | None = None,
) -> Comparison:
    """Compare the rows that one side should hold with those of the other.

    Reads both sides at once, each in its own snapshots. Memory use doesn't grow with the rows.

    Args:
        expected: the side that is right.
        actual: the side to check.
        shape: key and columns of both.
        estimate: the approximate number of rows, from which the number of buckets follows.
        catch_up: brings `actual` up to date with `expected`, and returns when that is done.
        changed: both sides, but only with the rows to compare; all, if None.

    Returns:
        The rows that agree and those that differ.
    """
    started, found = time.monotonic(), Comparison()
    mask = _buckets(estimate) - 1
    sides = changed or (expected, actual)
    with reader(sides[0], shape) as left, reader(sides[1], shape) as right:
        with ThreadPoolExecutor(2) as both, _ending((left, right)):
            wanted, held = both.map(lambda reader: reader.digests(mask), (left, right))
        found.rows = sum(count for count, _ in held.values())
        differing = sorted(b for b in wanted.keys() | held.keys() if wanted.get(b) != held.get(b))
        if differing:
            # The streams need connections of their own.
            with (
                reader(expected, shape) as left_again,
                reader(actual, shape) as right_again,
                differing_rows(left, right, mask, differing) as candidates,
            ):
                _settle(candidates, left_again, right_again, catch_up, found)
    found.seconds = time.monotonic() - started
    return found


@contextmanager
def _ending(readers: Sequence[Reader]) -> Iterator[None]:
    """End the readers' queries if the block is left before they are done, as by Ctrl-C."""
    try:
        yield
    except BaseException:
        for one in readers:
            one.connection.cancel()
        raise


def differing_keys(expected: RowSource, actual: RowSource, shape: Shape) -> Iterator[str]:
    """Give the keys of rows that differ at present, or that one side lacks.

    Memory use doesn't grow with the rows: each server sorts its own.

    Args:
        expected: one side.
        actual: the other side.
        shape: key and columns of both.
    """
    with (
        reader(expected, shape) as left,
        reader(actual, shape) as right,
        differing_rows(left, right, 0, [0]) as differing,
    ):
        for key, _ in differing:
            yield key


def _buckets(estimate: int) -> int:
    wanted = max(1, min(estimate // ROWS_PER_BUCKET, MOST_BUCKETS))
    return 1 << (wanted - 1).bit_length()


def _settle(
    candidates: Iterator[tuple[str, Pair]],
    expected: Reader,
    actual: Reader,
    catch_up: Callable[[], None],
    found: Comparison,
) -> None:
    """Read the rows again that seem to differ; count those that do, and keep samples."""
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
    keys: list[str], expected: Reader, actual: Reader, catch_up: Callable[[], None]
) -> tuple[dict[str, Pair], int]:
    """Give the rows that really differ, and the number of rows in flux.

    The expected side is read before and after catching up. A row is right if it agrees with both
    readings. If these differ, the row is being written; it is right if it agreed with one of them
    twice, with two different values, so that it follows and did not agree by chance. A row is
    wrong if several readings in succession find the same two values.
    """
    real: dict[str, Pair] = {}
    unconfirmed: dict[str, tuple[Pair, int]] = {}
    observed: dict[str, set[Hashes | None]] = {}
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
                observed.setdefault(key, set()).add(pair[1])
                if not still and len(observed[key]) < 2:
                    undecided.append(key)
                continue
            last, times = unconfirmed.get(key, (None, 0))
            times = times + 1 if still and last == pair else int(still)
            unconfirmed[key] = (pair, times)
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
    """Count a row that differs; give the kind of difference."""
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
    """Name the kind of difference; several rows with one key have more hashes."""
    expected, actual = (len(hashes or ()) for hashes in pair)
    return "modified" if expected == actual else "missing" if expected > actual else "extra"


def _values(
    expected: list[str | None] | None, actual: list[str | None] | None, shape: Shape
) -> dict[str, tuple[str | None, str | None]]:
    nothing = [None] * len(shape.columns)
    pairs = zip(shape.columns, expected or nothing, actual or nothing, strict=True)
    return {name: (one, other) for name, one, other in pairs if one != other}
