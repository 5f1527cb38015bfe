"""The vital signs as Prometheus' metrics, asked again at each scrape.

Names follow https://prometheus.io/docs/practices/naming: seconds and bytes, `_total` for what only
grows, and a moment as `_timestamp_seconds`. `docs/metrics.md` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from pgsplit import __version__
from pgsplit.observe.vitals.ask import Answer
from pgsplit.observe.vitals.gather import Health, Look, Watch
from pgsplit.observe.vitals.vitals import StreamVitals, Vitals
from pgsplit.state.ledger import State

WAL_STATUSES = ("reserved", "extended", "unreserved", "lost")
STREAM = ("service", "stream", "kind", "source", "target")

Labels = tuple[str, ...]
# A value for some labels; None is left out.
Samples = Iterable[tuple[Labels, float | datetime | None]]
OF_STREAM: Mapping[str, tuple[str, Callable[[StreamVitals], float | None]]] = {
    "stream_running": (
        "Whether a stream's worker applies what arrives.",
        lambda one: one.is_running and not one.is_blocked,
    ),
    "stream_enabled": (
        "Whether a stream's subscription is enabled, and not paused.",
        lambda one: one.is_enabled,
    ),
    "stream_complete": (
        "Whether a stream has its slot, publication and subscription.",
        lambda one: not one.missing,
    ),
    "stream_broken": (
        "Whether a stream may have left something out since it was last proven.",
        lambda one: one.broken_at is not None,
    ),
    "stream_lag_seconds": ("The age of what has arrived.", lambda one: one.lag_seconds),
    "stream_lag_bytes": ("WAL that has not arrived yet.", lambda one: one.lag_bytes),
    "slot_wal_bytes": ("WAL that the source keeps.", lambda one: one.kept_bytes),
    "slot_wal_limit_bytes": (
        "How much WAL the source keeps before it gives the slot up.",
        lambda one: one.limit_bytes,
    ),
}


class VitalSigns(Collector):
    """Collects the metrics of all that a `Watch` looks at."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def describe(self) -> Iterable[Metric]:
        """Give nothing, so that no server is asked before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Look, and give everything that was seen."""
        found = self.watch.look()
        yield InfoMetricFamily("pgsplit_build", "Which pgsplit this is.", {"version": __version__})
        yield _gauge("look_seconds", "How long this look took.", (), [((), found.seconds)])
        limit = [((), self.watch.max_lag)]
        yield _gauge("max_lag_seconds", "The setting max_lag.", (), limit)
        yield from _of_databases(found)
        yield from _of_services(found.services)
        yield from _of_tables([one.vitals for one in found.services])
        yield from _of_streams([one.vitals for one in found.services])
        yield from _of_proofs([one.vitals for one in found.services])
        yield from _of_cutovers([one.vitals for one in found.services])
        yield from _of_pauses([one.vitals for one in found.services])


def registry(watch: Watch) -> CollectorRegistry:
    """Give a registry with these metrics and no others, such as those of this process."""
    made = CollectorRegistry()
    made.register(VitalSigns(watch))
    return made


def _gauge(name: str, about: str, labels: Labels, samples: Samples) -> Metric:
    made = GaugeMetricFamily(f"pgsplit_{name}", about, labels=labels)
    for values, value in samples:
        if value is not None:
            made.add_metric(values, value.timestamp() if isinstance(value, datetime) else value)
    return made


def _of_databases(found: Look) -> Iterator[Metric]:
    asked: dict[Labels, Answer] = {(one.target,): one for one in found.databases}
    provisioned = {one.vitals.service.database for one in found.services if _has_database(one)}
    # One that was never made is not down.
    asked = {
        labels: one
        for labels, one in asked.items()
        if one is found.control or one.target in provisioned
    }
    labels = ("database",)
    yield _gauge(
        "database_up",
        "Whether a database answers all questions.",
        labels,
        ((key, not one.error) for key, one in asked.items()),
    )
    yield _gauge(
        "database_answer_seconds",
        "How long a database took to answer.",
        labels,
        ((key, one.seconds) for key, one in asked.items()),
    )
    yield _gauge(
        "database_size_bytes",
        "The size of a database on its server's disk.",
        labels,
        ((key, one.only("about").get("bytes")) for key, one in asked.items()),
    )


def _has_database(one: Health) -> bool:
    return one.vitals.state is not State.ABSENT


def _of_services(services: Iterable[Health]) -> Iterator[Metric]:
    all_of_them = {(one.vitals.service.database,): one for one in services}
    states = StateSetMetricFamily(
        "pgsplit_service_state", "Where a service stands.", labels=["service"]
    )
    for key, one in all_of_them.items():
        if one.vitals.state:
            states.add_metric(key, {state.value: state is one.vitals.state for state in State})
    yield states
    labels = ("service",)
    yield _gauge(
        "service_healthy",
        "Whether `health` finds nothing wrong with a service.",
        labels,
        ((key, one.is_well) for key, one in all_of_them.items()),
    )
    pages = {key: one.page for key, one in all_of_them.items() if one.page}
    yield _gauge(
        "service_page_up",
        "Whether the health page of a service's application says that all is well.",
        labels,
        ((key, not one.wrong) for key, one in pages.items()),
    )
    yield _gauge(
        "service_page_seconds",
        "How long the health page of a service's application took.",
        labels,
        ((key, one.seconds) for key, one in pages.items()),
    )


def _of_tables(services: Iterable[Vitals]) -> Iterator[Metric]:
    labels, found = ("service",), _by_service(services)
    yield _gauge(
        "lag_seconds",
        "The age of what a service's tables show.",
        labels,
        ((key, one.lag_seconds) for key, one in found.items()),
    )
    yield _gauge(
        "pending_changes",
        "Changes that have arrived and wait to be applied to a service's tables.",
        labels,
        ((key, one.pending) for key, one in found.items()),
    )
    yield _gauge(
        "follower_seen_timestamp_seconds",
        "When a service's tables were last synced: the follower's last sign of life.",
        labels,
        ((key, one.seen_at) for key, one in found.items()),
    )
    yield _gauge(
        "sync_failing",
        "Whether every sync of a service fails.",
        labels,
        (
            (key, one.failed_at is not None)
            for key, one in found.items()
            if one.answer.only("service")
        ),
    )


def _of_streams(services: Iterable[Vitals]) -> Iterator[Metric]:
    found: dict[Labels, StreamVitals] = {
        (one.service.database, stream.course.name, stream.course.kind)
        + (stream.course.source, stream.course.target): stream
        for one in services
        for stream in one.streams
        if stream.is_known
    }
    for name, (about, of) in OF_STREAM.items():
        yield _gauge(name, about, STREAM, ((key, of(one)) for key, one in found.items()))
    errors = CounterMetricFamily(
        "pgsplit_stream_errors", "Transactions that could not be applied.", labels=STREAM
    )
    for key, one in found.items():
        errors.add_metric(key, one.errors)
    yield errors
    yield _wal_statuses(found)


def _wal_statuses(found: Mapping[Labels, StreamVitals]) -> Metric:
    made = StateSetMetricFamily(
        "pgsplit_slot_wal_status", "Whether the WAL of a slot is still there.", labels=STREAM
    )
    for key, one in found.items():
        if one.wal_status:
            made.add_metric(key, {status: status == one.wal_status for status in WAL_STATUSES})
    return made


def _of_proofs(services: Iterable[Vitals]) -> Iterator[Metric]:
    labels, found = ("service",), {key: one.proofs for key, one in _by_service(services).items()}
    for name, about, of in (
        ("verify_timestamp_seconds", "When the oldest proof of a table was made.", "verified_at"),
        ("verify_proven", "Whether the last verification proved all rows.", "is_proven"),
        ("totals_timestamp_seconds", "When totals were last compared.", "totals_at"),
        ("totals_differing_columns", "Columns whose totals differed then.", "differing"),
        ("parity_timestamp_seconds", "When references were last checked.", "parity_at"),
        ("parity_broken_references", "Orphans that had a foreign key.", "broken"),
        ("parity_tolerated_references", "Orphans that never had one.", "tolerated"),
    ):
        yield _gauge(name, about, labels, ((key, getattr(one, of)) for key, one in found.items()))


def _of_cutovers(services: Iterable[Vitals]) -> Iterator[Metric]:
    found = _by_service(services)
    sides = [(key, side, one) for key, one in found.items() for side in one.closed]
    yield _gauge(
        "fence_closed",
        "Whether the write fence of a side is closed.",
        ("service", "side"),
        (((*key, side), one.closed[side]) for key, side, one in sides),
    )
    yield _gauge(
        "fence_closed_timestamp_seconds",
        "When a cutover last closed the write fence of a side.",
        ("service", "side"),
        (
            ((*key, side), one.closed_at.get(side) if one.closed[side] else None)
            for key, side, one in sides
        ),
    )
    yield _gauge(
        "writers_blocked_seconds",
        "How long writers have been blocked on both sides; 0 if they are not.",
        ("service",),
        ((key, one.blocked_seconds) for key, one in found.items() if one.closed),
    )
    working = {key: one for key, one in found.items() if one.operation}
    for name, about, is_under_way in (
        ("operation_in_progress", "An operation that is under way.", True),
        ("operation_interrupted", "An operation that was neither finished nor undone.", False),
    ):
        yield _gauge(
            name,
            about,
            ("service", "operation"),
            (
                ((*key, one.operation), 1)
                for key, one in working.items()
                if one.is_under_way is is_under_way
            ),
        )


def _of_pauses(services: Iterable[Vitals]) -> Iterator[Metric]:
    found = _by_service(services)
    pauses = {(*key, one.pause[0].name): one.pause[1] for key, one in found.items() if one.pause}
    cutover = ("service", "operation")
    yield _gauge(
        "last_pause_seconds",
        "How long the last cutover paused writers.",
        cutover,
        ((key, one.seconds) for key, one in pauses.items()),
    )
    yield _gauge(
        "last_pause_timestamp_seconds",
        "When the last cutover paused writers.",
        cutover,
        ((key, one.closed_at) for key, one in pauses.items()),
    )


def _by_service(services: Iterable[Vitals]) -> dict[Labels, Vitals]:
    return {(one.service.database,): one for one in services}
