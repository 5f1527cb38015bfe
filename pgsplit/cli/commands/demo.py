"""`demo`: makes a sample monolith and splits it."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from pgsplit.cli import console
from pgsplit.cli.commands.run import run_as_data, show_run
from pgsplit.cli.commands.up import note_opened
from pgsplit.cli.options import connect_project, json_option
from pgsplit.load import run, sample
from pgsplit.postgres import embedded

NEXT = """
The databases are up. Look inside:
  ./runner.py psql {role} -xc 'table {table} limit 1'
  source .venv/bin/activate && dbt build --target {database}
Prove that nothing was lost, and write a report:
  ./runner.py verify
  ./runner.py report
Keep the services in sync with the monolith, and see how far they lag behind:
  ./runner.py sync --follow
  ./runner.py status
Make a service's own database the source of truth, and go back:
  ./runner.py verify {role} && ./runner.py switch {role}
  ./runner.py rollback {role}"""


@click.command("demo")
@click.option(
    "--rows",
    type=click.IntRange(min=500),
    metavar="NUMBER",
    default=50_000,
    show_default=True,
    help="Rows of the sample monolith, at least 500.",
)
@json_option
def command(rows: int, as_json: bool) -> None:
    """Create a sample monolith and split it, from start to finish.

    Starts the embedded server, fills a monolith, and runs all phases of all services. If the
    monolith's URL is set, the sample goes there instead. Run it again to continue from what exists.
    """
    connections = connect_project()
    project = connections.project
    with console.watching() as watcher:
        opened: tuple[Path, ...] = ()
        if connections.embedded:
            with watcher.step("server: start"):
                opened = embedded.start(project.root, name=project.name).opened
        with watcher.step(f"monolith: {rows:,} sample rows") as step:
            sample.create(project, connections.monolith_url, rows, on_step=step.finished_node)
        report = run.run(project.select(()), connections, watcher)
    if as_json:
        console.show_json(run_as_data(report))
        return
    note_opened(opened)
    show_run(report)
    first = report.services[0]
    role, database = first.service.role, first.service.database
    console.say(NEXT.format(role=role, database=database, table=next(iter(first.built.tables))))
    if connections.embedded:
        console.say("Stop the server:\n  ./runner.py down")
