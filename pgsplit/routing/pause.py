"""Pauses a service's clients in PgBouncer for a moment, and resumes them whatever happens.

A watchdog process is started first. It RESUMEs the clients when the runner dies, or at a deadline:
`python -m pgsplit.routing.pause`, with a JSON line on standard input, which then stays open while
the clients are paused.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.base.text import few
from pgsplit.postgres.connect import describe
from pgsplit.project.endpoints import Connections
from pgsplit.project.project import Service
from pgsplit.routing import pgbouncer

LONGEST_SECONDS = 60.0
PATIENCE_SECONDS = 15.0
# While PgBouncer is down it pauses nobody; after a day somebody has removed it.
GIVE_UP_SECONDS = 86_400


@contextmanager
def paused(
    service: Service,
    connections: Connections,
    budget_seconds: float,
    longest_seconds: float = LONGEST_SECONDS,
) -> Iterator[None]:
    """Pause a service's writing clients for the block; without PgBouncer, do nothing.

    Clients wait and get no error, unless it takes longer than PgBouncer's `query_wait_timeout`.
    They resume when the block ends, when this process dies, or when the time is up.

    Args:
        service: a provisioned service.
        connections: where PgBouncer is.
        budget_seconds: how long running statements and transactions may take to end.
        longest_seconds: how long the block may take; then clients resume although it still runs.

    Raises:
        ConnectionFailed: PgBouncer can't be reached.
        NotReady: clients kept their connections for longer than the budget, and were resumed; or
            PgBouncer refuses to PAUSE or RESUME.
    """
    url, name = connections.pgbouncer_url, service.role
    if not url:
        yield
        return
    with pgbouncer.console(url) as control, pgbouncer.console(url) as pausing:
        retry = pgbouncer.login_retry(control)
        with _watched(url, name, retry, budget_seconds + longest_seconds):
            try:
                if not pgbouncer.pause(pausing, name, budget_seconds):
                    raise _busy(control, service, budget_seconds)
                yield
            finally:
                # If this fails, the watchdog does it when the block has ended.
                with suppress(SplitError):
                    pgbouncer.release(control, name, retry)


def _busy(control: pgbouncer.Console, service: Service, seconds: float) -> NotReady:
    clients = pgbouncer.busy(control, service.role)
    names = few(clients, 5)
    return NotReady(
        f"The clients of {service.role} did not free their connections within {seconds:g} seconds"
        f"{f': {names}' if names else ''}. They were resumed.",
        where=describe(control.info.dsn),
        hint="Let their transactions end, or allow more time. With pool_mode = session a client"
        "\nkeeps its connection until it disconnects: set pool_mode = transaction.",
    )


@contextmanager
def _watched(url: str, name: str, retry: str, seconds: float) -> Iterator[None]:
    """Run the watchdog for the block; it resumes the clients when the block ends, or before."""
    order = {"url": url, "name": name, "retry": retry, "seconds": seconds}
    process = subprocess.Popen(
        [sys.executable, "-m", "pgsplit.routing.pause"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        # Killing the runner's process group must not kill the watchdog.
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        with suppress(BrokenPipeError):  # its output, read below, says why
            # Not on the command line, which everybody can read: it has a password.
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        said = process.stdout.readline()
        if said != "ready\n":
            said = (said + process.stdout.read()).strip().rpartition("\n")[2]
            raise NotReady(
                f"The watchdog that resumes the clients did not start: {said or 'no message'}",
                where=describe(url),
                hint="No client was paused. Try again.",
            )
        yield
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code: int | None = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        process.stdout.close()
        if code != 0 and not _goes_on(url, name, retry):
            raise NotReady(
                f"The clients of {name} may still be paused in PgBouncer.",
                where=describe(url),
                hint=f'psql "$PGBOUNCER_ADMIN_URL" -c "RESUME {name}"',
            )


def _goes_on(url: str, name: str, retry: str) -> bool:
    try:
        with pgbouncer.console(url) as control:
            pgbouncer.release(control, name, retry)
    except SplitError:
        return False
    return True


def watch() -> int:
    """Wait for the end of standard input or the deadline, then RESUME until it succeeds."""
    for one in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # it ends by itself when the runner does
    order = json.loads(sys.stdin.readline())
    url, name, retry = order["url"], order["name"], order["retry"]
    deadline = time.monotonic() + order["seconds"]
    try:
        with pgbouncer.console(url) as control:
            print("ready", flush=True)
            select.select([sys.stdin], [], [], max(0.0, deadline - time.monotonic()))
            with suppress(SplitError):
                pgbouncer.release(control, name, retry)
                return 0
    except SplitError as error:
        print(error.what, flush=True)
        return 1
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < give_up:
        if _goes_on(url, name, retry):
            return 0
        time.sleep(0.5)
    return 1


if __name__ == "__main__":
    sys.exit(watch())
