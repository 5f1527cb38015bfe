"""Says what is wrong with a service, by its vital signs; each with a hint."""

from __future__ import annotations

from collections.abc import Iterator

from pgsplit.base.text import rfc3339, seconds
from pgsplit.observe import complaints, lag
from pgsplit.observe.vitals.page import Reply
from pgsplit.observe.vitals.vitals import StreamVitals, Vitals
from pgsplit.state.ledger import State

# A cutover blocks writers for some milliseconds. After so long, the runner has probably died.
BLOCKED_SECONDS = 30.0


def problems(found: Vitals, page: Reply | None, max_lag: float) -> list[str]:
    """Say what is wrong with a service.

    Args:
        found: its vital signs.
        page: what its health page said; None if it has none.
        max_lag: the longest lag in seconds that is none.

    Returns:
        What is wrong, the worst first; nothing if all is well.
    """
    said = list[str]()
    if page and page.wrong:
        said.append(
            f"The application of {found.service.role} is not well: {page.wrong}.\n"
            f"  hint:  curl -i {page.url}"
        )
    if found.state is State.ABSENT:
        return said
    if found.answer.error:
        return [str(found.answer.error), *said]
    return [*_of_operation(found), *_of_streams(found), *_of_tables(found, max_lag), *said]


def _of_operation(found: Vitals) -> Iterator[str]:
    database, operation = found.service.database, found.operation
    if operation and not found.is_under_way:
        yield (
            f"The last {operation} of {database} was interrupted. Until it is finished, writers may"
            " be blocked on both sides.\n  hint:  runner.py resume"
        )
    if found.blocked_seconds > BLOCKED_SECONDS:
        yield (
            f"Writers of {database} have been blocked on both sides for"
            f" {seconds(found.blocked_seconds)}.\n  hint:  runner.py resume"
        )


def _of_streams(found: Vitals) -> Iterator[str]:
    if found.operation:
        return  # it takes streams apart and makes them
    if found.state is State.PROVISIONED and found.streams and not found.is_runner_at_work:
        yield complaints.half_landed(found.service)
        return
    for one in found.streams:
        if one.is_known and (problem := _of_stream(found, one)):
            yield problem
        if one.kept_bytes is not None:
            course = one.course
            yield from complaints.kept(course.name, one.kept_bytes, one.limit_bytes, course.source)


def _of_stream(found: Vitals, one: StreamVitals) -> str:
    course, role = one.course, found.service.role
    more = f"runner.py status {role}"
    if one.missing:
        return (
            f"{one.missing}: what has changed since then can't reach {course.target}.\n"
            f"  hint:  {more}"
        )
    if one.broken_at:
        return (
            f"{course.name} is not proven any more, as found on"
            f" {rfc3339(one.broken_at, 'seconds')}: {one.reason}.\n  hint:  {more}"
        )
    if not one.is_enabled and found.state and found.state.reached(State.BUILT):
        place = found.service.project.short(course.target)
        place = "monolith" if course.kind == "reverse" else place
        return (
            f"Somebody has paused replication from {course.source} to {course.target}.\n"
            f"  hint:  runner.py psql {place} -c 'alter subscription {course.name} enable'"
        )
    if one.is_stopped:
        why = "a lock" if one.is_blocked else f"{one.errors} error(s) so far"
        return (
            f"Replication from {course.source} to {course.target} has stopped: {why}.\n"
            f"  hint:  {more}"
        )
    return ""


def _of_tables(found: Vitals, max_lag: float) -> Iterator[str]:
    service, proofs = found.service, found.proofs
    if found.failed_at:
        yield complaints.failing(service, rfc3339(found.failed_at, "seconds"), found.failure)
    silent = found.silent_seconds
    is_written = found.state is not None and found.state.reached(State.SWITCHED)
    has_none = bool(
        is_written
        and found.pending
        and silent is not None
        and silent > complaints.FOLLOWER_IS_AT_WORK_SECONDS
    )
    if has_none and silent is not None:
        yield complaints.no_follower(service, found.pending or 0, silent)
    yield from lag.warnings(
        service,
        max_lag,
        mirror=found.stream_lag_seconds,
        tables=None if has_none else found.lag_seconds,
        pending=found.pending,
        monolith=found.reverse_lag_seconds,
    )
    role, database = service.role, service.database
    if proofs.is_proven is False:
        yield (
            f"The last verification of {database} found rows that differ.\n"
            f"  hint:  runner.py verify {role}"
        )
    if proofs.differing:
        yield (f"{proofs.differing} totals of {database} differ.\n  hint:  runner.py totals {role}")
    if proofs.broken:
        yield (
            f"{proofs.broken:,} references of {database} that had a foreign key lead nowhere.\n"
            f"  hint:  runner.py parity {role}"
        )
