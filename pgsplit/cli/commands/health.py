"""`health`: tells in a line for each service whether all is well with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import rich_click as click

from pgsplit.base.errors import NotReady
from pgsplit.base.text import ago, seconds, size
from pgsplit.cli import console, serving
from pgsplit.cli.options import Duration, connect_project, json_option, services_argument
from pgsplit.cli.serving import Address, Page
from pgsplit.observe.vitals.gather import Health, Look, Watch
from pgsplit.observe.vitals.vitals import StreamVitals

WELL, ILL = "✓", "✗"


@click.command("health")
@services_argument
@click.option(
    "--max-lag", type=Duration(most=86400.0), help="A longer lag is unhealthy [default: 5min]."
)
@click.option(
    "--serve", type=Address(), help="Serve /healthz and /readyz; without HOST, on this machine."
)
@json_option
def command(
    names: tuple[str, ...],
    max_lag: float | None,
    serve: tuple[str, int] | None,
    as_json: bool,
) -> None:
    """Tell whether each SERVICE is well: its page, database, streams, lag, proofs and WAL.

    All are asked at once, and nothing is written. Exits with 4 if anything is unhealthy, and says
    how to fix it.
    """
    if serve and as_json:
        raise click.UsageError("--serve and --json exclude each other.")
    connections = connect_project()
    limit = connections.max_lag_seconds if max_lag is None else max_lag
    watch = Watch(connections, connections.project.select(names), limit)
    if serve:
        serving.serve(serve, {"/healthz": _lives, "/readyz": lambda _: _ready(watch)})
        return
    found = watch.look()
    console.present(found, as_json, health_as_data, show_health)
    watch.close()
    if not found.is_well:
        sys.exit(NotReady.exit_code)


def _lives(_: str) -> Page:
    return Page(b"ok\n")


def _ready(watch: Watch) -> Page:
    """Answer a probe: 503 with the reasons if anything is unhealthy."""
    found = watch.look()
    said = [console.named(one) for one in found.problems] or ["ok"]
    return Page("".join(f"{one}\n" for one in said).encode(), 200 if found.is_well else 503)


def health_as_data(found: Look) -> dict[str, Any]:
    """Give a look at all services as plain data for `--json`."""
    return {
        "healthy": found.is_well,
        "seconds": round(found.seconds, 3),
        "control": {
            "database": found.control.target,
            "answered_seconds": _rounded(found.control.seconds),
            "problems": _named([str(found.control.error)] if found.control.error else []),
        },
        "services": {one.vitals.service.database: _as_data(one) for one in found.services},
        "notes": _named(found.notes),
    }


def _as_data(one: Health) -> dict[str, Any]:
    signs, proofs, page = one.vitals, one.vitals.proofs, one.page
    return {
        "healthy": one.is_well,
        "state": signs.state and signs.state.value,
        "page": page and {"url": page.url, "code": page.code, "seconds": _rounded(page.seconds)},
        "database": {
            "answers": not signs.answer.error,
            "answered_seconds": _rounded(signs.answer.seconds),
            "bytes": signs.answer.only("about").get("bytes"),
        },
        "streams": {stream.course.name: _stream_as_data(stream) for stream in signs.streams},
        "lag_seconds": signs.lag_seconds,
        "pending": signs.pending,
        "follower_seen_at": signs.seen_at,
        "proofs": vars(proofs),
        "fences_closed": dict(signs.closed),
        "operation": signs.operation,
        "operation_is_under_way": signs.is_under_way,
        "problems": _named(one.problems),
    }


def _stream_as_data(stream: StreamVitals) -> dict[str, Any]:
    course = stream.course
    return {
        "kind": course.kind,
        "source": course.source,
        "target": course.target,
        "status": _status(stream),
        "lag_seconds": stream.lag_seconds,
        "lag_bytes": stream.lag_bytes,
        "wal_kept_bytes": stream.kept_bytes,
        "wal_limit_bytes": stream.limit_bytes,
        "wal_status": stream.wal_status,
    }


def _status(stream: StreamVitals) -> str:
    """Give the word that `status` has for a stream."""
    if not stream.is_known:
        return "unknown"
    if stream.missing:
        return "broken"
    if not stream.is_enabled:
        return "paused"
    if stream.is_stopped:
        return "stopped"
    if not stream.is_running:
        return "starting"
    return "unproven" if stream.broken_at else "follows"


def _rounded(length: float) -> float:
    return round(length, 4)


def _named(said: list[str] | Any) -> list[str]:
    return [console.named(one) for one in said]


def show_health(found: Look) -> None:
    """Print a line for each service, and what is wrong with hints."""
    console.say(_control_line(found))
    width = max(len(one.vitals.service.database) for one in found.services)
    for one in found.services:
        mark = WELL if one.is_well else ILL
        console.say(f"{mark} {one.vitals.service.database:<{width}}  {', '.join(_facts(one))}")
    console.show_notes(found.notes)
    console.show_warnings(found.problems)


def _control_line(found: Look) -> str:
    if found.control.error:
        return f"{ILL} {found.control.target}: {found.control.error.what}"
    kept = sum(slot["kept_bytes"] for slot in found.control.rows["slots"])
    return (
        f"{WELL} {found.control.target}: answers in {found.control.seconds * 1000:.0f} ms,"
        f" its slots keep {size(kept)} of WAL"
    )


def _facts(one: Health) -> Iterator[str]:
    """Say what there is to say of a service in a line."""
    signs = one.vitals
    yield signs.state.value if signs.state else "state unknown"
    if one.page:
        yield f"page {one.page.code or 'silent'}"
    if signs.answer.error and one.problems:
        yield "no database" if signs.answer.error.exit_code == 3 else "database refuses"
    words = dict.fromkeys(map(_status, signs.streams))
    if words:
        yield "/".join(words)
    if signs.lag_seconds is not None:
        yield f"lag {seconds(signs.lag_seconds)}"
    if signs.pending is not None:
        yield f"{signs.pending:,} pending"
    if signs.proofs.verified_at:
        how = "proven" if signs.proofs.is_proven else "NOT proven"
        yield f"{how} {ago(signs.proofs.verified_at)}"
    if kept := sum(stream.kept_bytes or 0 for stream in signs.streams):
        yield f"{size(kept)} of WAL"
    if signs.operation:
        yield f"{signs.operation} {'under way' if signs.is_under_way else 'interrupted'}"
