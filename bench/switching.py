"""Measures the pause of writers in a switch or rollback: `python -m bench switching`.

Splits off the payments of two monoliths, one ten times as large as the other, each on its own
server. Then it switches and rolls back both in turn, while clients write a steady 200 times a
second and a follower runs. The gap is what clients see: from the last write that the old side
accepts to the first that the new side accepts, by the server's clock. Last, it times syncs of the
service's own writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.result import Result
from bench.splitting import SOON_SECONDS, Split, following, milliseconds, say, split
from demo.clients import KINDS, Client, Known, acknowledged, acquaint, read, writing, wrong
from demo.project import MONOLITH, ROOT
from pgsplit.observe.history import history
from pgsplit.replication.follow import Tick
from pgsplit.replication.session import Session, open_session
from pgsplit.replication.sync import apply_changes

CLIENTS = 4
PER_SECOND = 200.0
WRITES = 300
CHANGED = 1000
PATIENCE_SECONDS = 120
INSIDE_THE_PAUSE = ("close", "drain", "decide", "open", "point")

CHANGE = """
    update payments_db.payments
    set
        amount = amount + 0.01,
        status = case status when 'changed' then 'changed again' else 'changed' end,
        updated_at = clock_timestamp() at time zone 'utc'
    where id = any(%s)
"""


@dataclass(frozen=True)
class Move:
    """One switch or rollback, in seconds: its checks alone, the gap, the pause, and its steps."""

    checks: float
    gap: float
    said_gap: float | None
    said_paused: float
    steps: dict[str, float]


@dataclass
class Side:
    """A size: its servers, all clients that wrote there, and the measurements."""

    split: Split
    known: Known
    clients: list[Client] = field(default_factory=list)
    moves: dict[str, list[Move]] = field(default_factory=lambda: {"switch": [], "rollback": []})
    syncs: list[float] = field(default_factory=list)

    @property
    def database(self) -> str:
        """The service's database."""
        return self.split.service.database

    def runner(self, *arguments: str) -> dict[str, Any]:
        """Run runner.py, as a person does; give its report."""
        command = [sys.executable, str(ROOT / "runner.py"), *arguments, "--json"]
        ran = subprocess.run(
            command, env=self.split.environ, cwd=ROOT, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)  # type: ignore[no-any-return]

    def new_clients(self) -> list[Client]:
        """Make clients, not started yet."""
        service, folder = self.split.service, self.split.connections.folder
        first = len(self.clients) + 1
        made = [
            Client(service, folder, self.known, number, PER_SECOND / CLIENTS)
            for number in range(first, first + CLIENTS)
        ]
        self.clients += made
        return made


def there_and_back(place: Side) -> None:
    """Switch and roll back while clients write."""
    clients = place.new_clients()
    with writing(clients):
        for operation, old, new in (
            ("switch", MONOLITH, place.database),
            ("rollback", place.database, MONOLITH),
        ):
            wait_for_writes(clients, old)
            place.moves[operation].append(move(place, operation, clients, old, new))


def require_follower(ticks: Sequence[tuple[float, Tick]]) -> None:
    """Wait for the follower's next look: it has to outlive a switch and a rollback."""
    looks, deadline = len(ticks), time.monotonic() + PATIENCE_SECONDS
    while len(ticks) == looks:
        assert time.monotonic() < deadline, "The follower has ended."
        time.sleep(SOON_SECONDS)


def wait_for_writes(clients: Sequence[Client], database: str) -> None:
    """Wait until so many more writes are accepted there."""
    enough = acknowledged(clients, lambda one: one.database == database) + WRITES
    deadline = time.monotonic() + PATIENCE_SECONDS
    while acknowledged(clients, lambda one: one.database == database) < enough:
        assert time.monotonic() < deadline, f"Nobody writes in {database}."
        assert all(client.works for client in clients), "A client has failed."
        time.sleep(SOON_SECONDS)


def move(place: Side, operation: str, clients: Sequence[Client], old: str, new: str) -> Move:
    """Move the source of truth once."""
    before = [len(client.accepted) for client in clients]
    role = place.split.service.role
    started = time.monotonic()
    place.runner(operation, role, "--dry-run")
    checks = time.monotonic() - started
    moved = place.runner(operation, role, "--no-backup", "--max-pause", "20s")["services"]
    said = moved[place.database]
    wait_for_writes(clients, new)
    since = [
        one
        for client, count in zip(clients, before, strict=True)
        for one in client.accepted[count:]
    ]
    last = max(one.at for one in since if one.database == old)
    first = min(one.at for one in since if one.database == new)
    assert isinstance(said, dict)
    return Move(
        checks,
        (first - last).total_seconds(),
        said["gap_seconds"],
        said["paused_seconds"],
        last_steps(place, operation),
    )


def last_steps(place: Side, operation: str) -> dict[str, float]:
    """Give the durations of the last such operation's steps."""
    return {
        step.step.removeprefix(f"{operation}: "): step.seconds
        for step in history([place.split.service], place.split.connections)
        if step.step.startswith(f"{operation}: ") and step.seconds is not None
    }


def measure_syncs_back(places: Sequence[Side], runs: int) -> None:
    """Switch, then time syncs of changes in the service's tables, in turns."""
    with ExitStack() as stack:
        pairs = []
        for place in places:
            say(f"syncs back, of {place.split.rows:,}")
            place.runner("switch", place.split.service.role, "--no-backup")
            both = stack.enter_context(open_session(place.split.service, place.split.connections))
            pairs.append((place, both))
            sync_back(place, both)  # a connection's first sync makes the plans
        for _ in range(runs):
            for place, session in pairs:
                place.syncs.append(sync_back(place, session))


def sync_back(place: Side, session: Session) -> float:
    """Change some payments and apply the changes to the mirror; give the seconds."""
    picked = random.sample(range(1, place.split.last + 1), CHANGED)
    ids = [f"c{hashlib.md5(f'following{i}'.encode()).hexdigest()[:24]}" for i in picked]
    changed = session.database.execute(CHANGE, (ids,)).rowcount
    assert changed == CHANGED, changed
    done = apply_changes(session.database)
    assert done.rows == CHANGED, done
    session.reverse.arrive()
    return done.seconds


def wrong_rows(place: Side) -> list[str]:
    """Compare the clients' records with the service's tables and the monolith's."""
    kinds, connections = KINDS[place.database], place.split.connections
    with connections.connect(place.database) as database, connections.connect(MONOLITH) as monolith:
        return [
            *wrong(place.clients, read(database, kinds, place.database, as_service=True)),
            *wrong(place.clients, read(monolith, kinds, MONOLITH)),
        ]


def show(places: Sequence[Side], result: Result) -> None:
    """Print all figures."""
    for operation in ("switch", "rollback"):
        for place in places:
            moves = place.moves[operation]
            of = f"of {place.split.rows:,}"
            result.add_row(
                f"{operation} {of}: gap by the clients", figures(moves, lambda m: m.gap), "< 300 ms"
            )
            if any(one.said_gap for one in moves):
                result.add_row("… gap that it told", figures(moves, lambda m: m.said_gap))
            result.add_row("… its checks: --dry-run", figures(moves, lambda m: m.checks), "≤ 2 s")
            result.add_row("… pause that it told", figures(moves, lambda m: m.said_paused))
            for step in INSIDE_THE_PAUSE:
                result.add_row(f"    {step}", figures(moves, lambda m, s=step: m.steps.get(s)))
        result.add_row(
            f"{operation}: gap of the last as against the first",
            ratio([[one.gap for one in place.moves[operation]] for place in places]),
            "≤ 1.5",
        )
        result.add_section()
    for place in places:
        result.add_row(
            f"sync back of {CHANGED:,} changed, of {place.split.rows:,}", milliseconds(place.syncs)
        )
    result.add_row("… the last as against the first", ratio([p.syncs for p in places]))


def figures(moves: Iterable[Move], of: Callable[[Move], float | None]) -> str:
    """Give the median and range of the known values."""
    known = [seconds for seconds in map(of, moves) if seconds is not None]
    return milliseconds(known) if known else ""


def ratio(seconds: Sequence[Sequence[float]]) -> str:
    """Compare the last median with the first."""
    return f"{statistics.median(seconds[-1]) / statistics.median(seconds[0]):.2f}"


def keep(places: Sequence[Side], result: Result) -> None:
    """Keep what the goals name: checks by operation, and the gap of the larger size's switches."""
    for operation in ("switch", "rollback"):
        small, large = (
            statistics.median(one.checks for one in place.moves[operation]) for place in places
        )
        result.values[f"{operation}_checks"] = large
        result.values[f"{operation}_checks_growth"] = large / small
    gaps = [one.gap * 1000 for one in places[-1].moves["switch"]]
    result.values |= {"gap_ms": statistics.median(gaps), "worst_gap_ms": max(gaps)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this measurement's options."""
    parser.add_argument("--rows", type=int, default=2_000_000, help="payments of the larger one")
    parser.add_argument("--rounds", type=int, default=20, help="switches and rollbacks of each")


def measure(given: argparse.Namespace) -> Result:
    """Measure both sizes."""
    if given.rows < 150_000:
        raise SystemExit("--rows: 150000 at least; the smaller one has a tenth, and 1,000 change")
    result = Result(values={"rows": given.rows})
    with ExitStack() as opened_places:
        places = []
        for rows in (given.rows // 10, given.rows):
            one = opened_places.enter_context(split(rows))
            with one.connections.connect(MONOLITH) as monolith:
                places.append(Side(one, acquaint(monolith)))
            say("runner.py verify payments")
            places[-1].runner("verify", "payments")
        with ExitStack() as followers:
            looks = [followers.enter_context(following(place.split, 0.5)) for place in places]
            for number in range(given.rounds):
                for place, ticks in zip(places, looks, strict=True):
                    say(f"round {number + 1} of {place.split.rows:,}")
                    there_and_back(place)
                    require_follower(ticks)
        measure_syncs_back(places, given.rounds)
        result.wrong += [line for place in places for line in wrong_rows(place)]
    show(places, result)
    keep(places, result)
    result.add_section()
    written = sum(len(client.accepted) for place in places for client in place.clients)
    result.add_row("writes acknowledged", f"{written:,}")
    result.add_row("… of which lost, doubled or changed", f"{len(result.wrong):,}", "0")
    return result
