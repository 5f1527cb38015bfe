"""`verify`: proves row by row that services hold what the monolith yields."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.markup import escape

from pgsplit.base.errors import DataDiffers
from pgsplit.cli import console
from pgsplit.cli.console import out
from pgsplit.cli.options import connect_project, json_option, select_built, services_argument
from pgsplit.cli.throttling import Asked, throttle_options, throttled
from pgsplit.postgres.row_diff import Comparison, Sample
from pgsplit.prove import verify
from pgsplit.prove.verify import Verified
from pgsplit.state.ledger import open_ledger

MOST_CHARACTERS = 60  # of a value that is shown


@click.command("verify")
@services_argument
@click.option("--table", metavar="NAME", help="Compare only this table.")
@click.option("--whole", is_flag=True, help="Compare all rows, not only changed ones.")
@throttle_options
@json_option
def command(
    names: tuple[str, ...], table: str | None, whole: bool, asked: Asked, as_json: bool
) -> None:
    """Prove row by row that each SERVICE equals the monolith.

    It runs the models' SQL on the monolith itself, and compares the result with the service's
    tables by hashes. It reads rows only where hashes differ. Both sides may be in use.

    Once all rows were proven, it compares only those that have changed since, unless something
    has broken that proof.

    Without a name it verifies every service that has been built. Exits with 9 if a row differs.
    """
    connections = connect_project()
    services = select_built(connections, names)
    verified = []
    with (
        open_ledger(connections) as ledger,
        console.watching() as watcher,
        throttled(connections, asked, watcher) as connections,
    ):
        for service in services:
            with watcher.step(f"{service.role}: verify") as step:
                found = verify.verify(service, connections, ledger, table, step.say, whole=whole)
                if found.proven:
                    step.say(f"{found.compared:,}{'' if found.is_whole else ' changed'} rows")
                else:
                    step.fail(found.complaint)
                verified.append(found)
    console.present(verified, as_json, verified_as_data, show_verified)
    if not all(one.proven for one in verified):
        sys.exit(DataDiffers.exit_code)


def verified_as_data(verified: Sequence[Verified]) -> dict[str, Any]:
    """Give verifications as plain data for `--json`."""
    return {"services": {one.service.database: _as_data(one) for one in verified}}


def _as_data(one: Verified) -> dict[str, Any]:
    return {
        "proven": one.proven,
        "seconds": round(one.seconds, 3),
        "proven_by_a_run_cut_short": one.earlier,
        "own_changes": one.own_changes,
        "whole": one.is_whole,
        "compared": one.told,
        "whole_because": (one.before and one.before.broken) or None,
        "whole_proof_at": one.before and one.before.proven_at,
        "tables": {
            name: {"identical": found.identical, **asdict(found)}
            for name, found in one.tables.items()
        },
    }


def show_verified(verified: Sequence[Verified], *, thrown_away: bool = False) -> None:
    """Print how tables were found, then what differs, with samples, and what to do.

    Args:
        verified: what was found, by service.
        thrown_away: the services were copies of a dry run, which nobody can repair.
    """
    _show_tables(verified)
    for one in verified:
        for name, found in one.tables.items():
            if not found.proven:
                qualified = name if "." in name else f"{one.service.database}.{name}"
                _show_differences(qualified, found)
    for one in verified:
        if one.earlier:
            out.print(
                f"note: {one.service.role}: an interrupted verification had already proven"
                f" {', '.join(one.earlier)}; they were not compared again."
            )
    _show_before(verified)
    console.show_notes(f"this may be why: {said}" for one in verified for said in one.own_changes)
    differing = [one for one in verified if _differs(one)]
    if differing and thrown_away:
        out.print("[bold red]Not proven.[/] These rows differ from what the monolith yields.")
    elif differing:
        out.print("[bold red]Not proven.[/] Nothing was changed. To re-copy and compare:")
        for one in differing:
            _show_fix(one)
    elif not all(one.proven for one in verified):
        out.print("Not proven: verify again when the rows above change less often.")
    else:
        total = sum(one.compared for one in verified)
        others = not all(one.is_whole for one in verified)
        out.print(
            f"[green]Proven:[/] {total:,} rows are what {_source_of_truth(verified)}"
            + others * "; the others have not changed since they were proven"
            + "."
        )


def _show_before(verified: Sequence[Verified]) -> None:
    """Say of which services only changed rows were compared, and of which not, and why."""
    console.show_notes(
        f"{one.service.role}: compared {one.told}."
        for one in verified
        if one.before and one.before.proven_at
    )


def _show_tables(verified: Sequence[Verified]) -> None:
    rows = console.table("table", ">rows", ">identical", ">modified", ">missing", ">extra", ">sec")
    for one in verified:
        rows.add_row(f"[bold]{one.service.database}[/]")
        for name, found in one.tables.items():
            figures = (found.modified, found.missing, found.extra)
            rows.add_row(
                f"  {name}",
                f"{found.rows:,}",
                f"{found.identical:,}",
                *(f"[bold red]{n:,}[/]" if n else "0" for n in figures),
                "before" if name in one.earlier else f"{found.seconds:.2f}",
            )
    out.print(rows)


def _show_fix(one: Verified) -> None:
    role = one.service.role
    if one.is_switched:
        console.say(f"  ./runner.py repair {role} --full")
    else:
        console.say(f"  ./runner.py land {role} --recopy && ./runner.py run {role}")
    console.say(f"  ./runner.py verify {role}")


def _source_of_truth(verified: Sequence[Verified]) -> str:
    """Say whose rows were the right ones in a comparison."""
    is_any_switched = any(one.is_switched for one in verified)
    return "their owners yield" if is_any_switched else "the monolith yields"


def _differs(verified: Verified) -> bool:
    return any(found.differing for found in verified.tables.values())


def _show_differences(name: str, found: Comparison) -> None:
    out.print(f"[bold]{escape(name)}[/]")
    if found.columns:
        counts = ", ".join(f"{column} {n:,}" for column, n in found.columns.items())
        console.indent(f"modified columns: {counts}", 2)
    for sample in found.samples:
        _show_sample(sample)
    shown = len(found.samples)
    if found.differing > shown:
        console.indent(f"and {found.differing - shown:,} more rows", 2)
    if found.seen_once:
        console.indent(f"{found.seen_once:,} of them are unconfirmed: too many to read twice", 2)
    if found.unsettled:
        console.indent(f"{found.unsettled:,} rows in flux: they changed faster than the reads", 2)


def _show_sample(sample: Sample) -> None:
    console.indent(f"{sample.kind} {sample.key}", 2)
    if sample.kind == "modified":
        for column, (expected, actual) in sample.values.items():
            console.indent(f"{column}: expected {_value(expected)}, found {_value(actual)}", 4)


def _value(text: str | None) -> str:
    if text is None:
        return "null"
    return repr(text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "…")
