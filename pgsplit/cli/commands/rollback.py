"""`rollback`: makes the monolith the source of truth again."""

from __future__ import annotations

import rich_click as click

from pgsplit.backup.dump import can_dump
from pgsplit.cli import console
from pgsplit.cli.commands.switch import as_data, pause, show_moved, show_reads, show_ready
from pgsplit.cli.options import (
    connect_project,
    dry_run,
    json_option,
    max_pause,
    no_backup,
    one_service,
)
from pgsplit.cutover import rollback, switch
from pgsplit.project.project import Service
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import State, open_ledger


@click.command("rollback")
@one_service
@dry_run
@max_pause
@no_backup
@json_option
def command(
    service: Service, dry_run: bool, max_pause: float, no_backup: bool, as_json: bool
) -> None:
    """Make the monolith the source of truth again.

    The monolith keeps everything that SERVICE wrote. Readers that were moved with switch --reads
    are moved back too.
    """
    connections = connect_project()
    with open_ledger(connections) as ledger, console.watching() as watcher:
        only_reads = (
            not dry_run
            and ledger.state(service) is not State.SWITCHED
            and env_file.sides(service, connections)[0] is Side.SERVICE
        )
        if not no_backup and ledger.state(service) is State.SWITCHED:
            can_dump(service.database, connections)
        with watcher.step(f"{service.role}: {'check' if dry_run else 'rollback'}") as step:
            if dry_run:
                report = switch.check(
                    service, "rollback", connections, ledger, step.say, with_backup=not no_backup
                )
            elif only_reads:
                warning = switch.move_reads(service, connections, ledger, Side.MONOLITH)
            else:
                moved = rollback.rollback(
                    service, connections, ledger, max_pause, step.say, with_backup=not no_backup
                )
                step.say(pause(moved))
    if dry_run:
        show_ready(service, "rollback", report, as_json)
    elif only_reads:
        show_reads(service, connections, warning, as_json)
    else:
        console.present(moved, as_json, as_data, show_moved)
