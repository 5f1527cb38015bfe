"""A service's vital signs, put together from what the databases around it answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgsplit.observe.history import Account
from pgsplit.observe.operations import Entry, Operation, Pause
from pgsplit.observe.vitals.ask import Answer, Row
from pgsplit.project.project import Service
from pgsplit.replication.shared import owners, stream_name
from pgsplit.state.ledger import State

# A follower writes a heartbeat at least every three seconds. An old one says nothing of a stream.
HEARTBEAT_SECONDS = 30.0
SIDES = ("monolith", "service")


@dataclass(frozen=True)
class Course:
    """A stream that a service has to have: its name, its heartbeat, and where it leads.

    `kind` is `forward`, `shared` or `reverse`; `source` and `target` are databases.
    """

    kind: str
    name: str
    heartbeat: str
    source: str
    target: str


@dataclass(frozen=True)
class StreamVitals:
    """How a stream is. A number is None if its end did not answer or the part is gone.

    `missing` names the part that is gone. `lag_seconds` is the age of what has arrived, at most.
    """

    course: Course
    is_known: bool
    missing: str = ""
    is_enabled: bool = False
    is_running: bool = False
    is_blocked: bool = False
    errors: int = 0
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    kept_bytes: int | None = None
    limit_bytes: int | None = None
    wal_status: str = ""
    broken_at: datetime | None = None
    reason: str = ""

    @property
    def is_stopped(self) -> bool:
        """Whether it is enabled and does not go on; one that is about to start is not stopped."""
        has_cause = self.is_blocked or self.errors > 0
        return self.is_enabled and (self.is_blocked or (not self.is_running and has_cause))


@dataclass(frozen=True)
class Proofs:
    """What was compared last, when, and with what result; None if it never was."""

    verified_at: datetime | None = None
    is_proven: bool | None = None
    totals_at: datetime | None = None
    differing: int | None = None
    parity_at: datetime | None = None
    broken: int | None = None
    tolerated: int | None = None


@dataclass(frozen=True)
class Vitals:
    """The vital signs of a service; see `Status` for what has the same name there.

    `state` is None if the control database did not answer. `closed` tells by side whether the
    write fence is closed, and `closed_at` since when, if a cutover has closed it. `seen_at` is the
    follower's last sign of life, by the service's clock. `operation` is one that is not finished;
    unless it `is_under_way`, it was interrupted.
    """

    service: Service
    answer: Answer
    control: Answer
    state: State | None = None
    since: datetime | None = None
    streams: Sequence[StreamVitals] = ()
    lag_seconds: float | None = None
    pending: int | None = None
    seen_at: datetime | None = None
    failed_at: datetime | None = None
    failure: str = ""
    proofs: Proofs = Proofs()
    closed: Mapping[str, bool] = field(default_factory=dict)
    closed_at: Mapping[str, datetime] = field(default_factory=dict)
    operation: str = ""
    is_under_way: bool = False
    is_runner_at_work: bool = False
    pause: tuple[Operation, Pause] | None = None

    @property
    def now(self) -> datetime | None:
        """The time by the service's clock, or by the control database's."""
        now = self.answer.only("about") or self.control.only("about")
        return now.get("now")

    @property
    def blocked_seconds(self) -> float:
        """How long writers have been blocked on both sides; 0 if they are not, or nobody knows.

        That is since the later one of the fences was closed.
        """
        if not all(self.closed.get(side) for side in SIDES):
            return 0.0
        return max(0.0, min((self._ago(at) for at in self.closed_at.values()), default=0.0))

    @property
    def silent_seconds(self) -> float | None:
        """How long ago the last sync was; 0 during one, None before the first."""
        return None if self.seen_at is None else max(0.0, self._ago(self.seen_at))

    @property
    def stream_lag_seconds(self) -> float | None:
        """How far the mirror is behind, by the latest of its streams."""
        lags = [one.lag_seconds for one in self.streams if one.course.kind != "reverse"]
        return max((one for one in lags if one is not None), default=None)

    @property
    def reverse_lag_seconds(self) -> float | None:
        """How far the monolith is behind a switched service."""
        lags = [one.lag_seconds for one in self.streams if one.course.kind == "reverse"]
        return max((one for one in lags if one is not None), default=None)

    def _ago(self, moment: datetime) -> float:
        return (self.now - moment).total_seconds() if self.now else 0.0


def vitals(service: Service, answers: Mapping[str, Answer], control: str) -> Vitals:
    """Put together what the databases said of a service.

    Args:
        service: the service.
        answers: what each database said, by target.
        control: the control database's target.
    """
    here, there = answers[service.database], answers[control]
    if there.error:
        return Vitals(service, here, there, **_tables(here))
    states = {name: State(row["state"]) for name, row in there.named("states").items()}
    stands = states.get(service.database, State.ABSENT)
    entries = [Entry(**row) for row in there.rows.get("ledger", ())]
    account = Account(service, stands, [e for e in entries if e.service == service.database], ())
    operations = account.operations
    latest = operations[-1].runs[-1] if operations else None
    unfinished = latest if latest and latest.is_unfinished else None
    courses = _courses(service, stands, states, there)
    streams = tuple(
        _stream(one, answers[one.source], answers[one.target], stands) for one in courses
    )
    found = _tables(here)
    incoming = [one.lag_seconds for one in streams if one.course.kind != "reverse"]
    found["lag_seconds"] = _lag(found, here, there, incoming)
    return Vitals(
        service,
        here,
        there,
        stands,
        there.named("states").get(service.database, {}).get("since"),
        streams,
        proofs=_proofs(account, here, there),
        closed=_closed(service, here, there),
        closed_at=_closed_at(account.steps),
        operation=unfinished.step if unfinished else "",
        is_under_way=bool(unfinished and _is_at_work(there, unfinished.started_at)),
        is_runner_at_work=bool(there.rows.get("runner")),
        pause=account.last_pause,
        **found,
    )


def _is_at_work(there: Answer, since: datetime) -> bool:
    """Tell whether the runner that is at work has begun what began then."""
    if not there.rows.get("runner"):
        return False
    begun = there.only("runner").get("since")
    return begun is None or begun <= since


def _courses(
    service: Service, stands: State, states: Mapping[str, State], there: Answer
) -> Iterator[Course]:
    """Give the streams that a service has to have in its state.

    A landing that is under way, or was interrupted, has a slot that keeps WAL.
    """
    name, database, control = service.replication, service.database, there.target
    if not stands.reached(State.LANDED):
        if name in there.named("slots"):
            yield Course("forward", name, database, control, database)
        return
    completed = [one for one in owners(service) if states.get(one.database) is State.COMPLETED]
    if stands is not State.COMPLETED or len(completed) < len(owners(service)):
        yield Course("forward", name, database, control, database)
    for owner in completed:
        beat = f"{database} from {owner.database}"
        yield Course("shared", stream_name(service, owner), beat, owner.database, database)
    if stands is State.SWITCHED:
        back = service.reverse_replication
        yield Course("reverse", back, f"{database} back", database, control)


def _stream(course: Course, source: Answer, target: Answer, stands: State) -> StreamVitals:
    """Look at both ends of a stream; before the service is built, it is meant to rest."""
    if source.error or target.error:
        return StreamVitals(course, is_known=False)
    slot = source.named("slots").get(course.name, {})
    subscription = target.named("subscriptions").get(course.name, {})
    records = [end.named("streams").get(course.name) for end in (source, target)]
    record = next(filter(None, records), {})
    return StreamVitals(
        course,
        True,
        _missing(course, slot, subscription) if stands.reached(State.LANDED) else "",
        bool(subscription.get("is_enabled")),
        bool(subscription.get("is_running")),
        bool(subscription.get("is_blocked")),
        subscription.get("errors", 0),
        _age(course, slot, source, target) if stands.reached(State.BUILT) else None,
        slot.get("behind_bytes"),
        slot.get("kept_bytes"),
        slot.get("limit_bytes"),
        slot.get("wal_status") or "",
        record.get("broken_at"),
        record.get("reason") or "",
    )


def _missing(course: Course, slot: Row, subscription: Row) -> str:
    """Name the part of a stream that is gone, and from where; nothing if all are there."""
    if not subscription:
        return f"The subscription {course.name} is gone from {course.target}"
    if not subscription["has_slot"]:
        return f"The subscription {course.name} of {course.target} is incomplete"
    if not slot:
        return f"The slot {course.name} is gone from {course.source}"
    if slot["wal_status"] == "lost":
        return f"{course.source} has given up the slot {course.name}"
    if not slot["has_publication"]:
        return f"The publication {course.name} is gone from {course.source}"
    return ""


def _age(course: Course, slot: Row, source: Answer, target: Answer) -> float | None:
    """Tell how old what has arrived is, at most; without a heartbeat of our own.

    All that was committed before a heartbeat has arrived with it. If no follower writes any, the
    server's own measure counts, which it has for as long as the slot is read.
    """
    now = source.only("about")["now"]
    sent = source.named("heartbeats").get(course.heartbeat, {}).get("at")
    arrived = target.named("heartbeats").get(course.heartbeat, {}).get("at")
    if slot and not slot["behind_bytes"]:
        return 0.0
    if arrived is None:
        return None
    age = float((now - arrived).total_seconds())
    is_old = sent is None or (now - sent).total_seconds() > HEARTBEAT_SECONDS
    if is_old and (sent is None or arrived >= sent) and slot.get("is_active"):
        return float(slot["replay_seconds"] or 0.0)
    return max(0.0, age)


def _tables(here: Answer) -> dict[str, Any]:
    """Give what a service's database alone knows of its tables."""
    row, now = here.only("service"), here.only("about").get("now")
    return {
        "pending": here.only("changes").get("pending"),
        "seen_at": now if row.get("is_syncing") else row.get("synced_at"),
        "failed_at": row.get("failed_at"),
        "failure": row.get("failure") or "",
    }


def _lag(
    found: Mapping[str, Any], here: Answer, there: Answer, incoming: Sequence[float | None]
) -> float | None:
    """Give the age of what a service's tables show; the mirror's once everything is applied."""
    as_of, pending = here.only("service").get("as_of"), found["pending"]
    if as_of is None:
        return None
    known = [one for one in incoming if one is not None]
    if not pending and not here.only("stale").get("is_stale") and len(known) == len(incoming):
        return max(known, default=0.0)
    return max(0.0, float((there.only("about")["now"] - as_of).total_seconds()))


def _proofs(account: Account, here: Answer, there: Answer) -> Proofs:
    """Give the last results of verify, totals and parity."""
    rows = there.named("verifications").get(account.service.database, {})
    totals, parity = account.newest("totals"), here.only("parity_tests")
    return Proofs(
        rows.get("at"),
        rows.get("is_proven"),
        totals.finished_at if totals else None,
        int(totals.detail.get("differs", 0)) if totals and totals.finished_at else None,
        parity.get("at"),
        parity.get("broken") if parity.get("at") else None,
        parity.get("tolerated") if parity.get("at") else None,
    )


def _closed(service: Service, here: Answer, there: Answer) -> dict[str, bool]:
    """Tell by side whether the write fence is closed; a side without a fence is left out."""
    sides = dict(zip(SIDES, (there, here), strict=True))
    rows = {side: end.named("gates").get(service.database) for side, end in sides.items()}
    return {side: bool(row["is_closed"]) for side, row in rows.items() if row}


def _closed_at(entries: Sequence[Entry]) -> dict[str, datetime]:
    """Tell by side when a cutover last closed its write fence, or began to."""
    closers = {"switch: close": "monolith", "rollback: close": "service"}
    found = {}
    for entry in entries:
        if entry.step in closers:
            said = entry.detail.get("closed_at")  # nothing while it is at it
            found[closers[entry.step]] = datetime.fromisoformat(said) if said else entry.started_at
    return found
