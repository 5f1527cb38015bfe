"""The server and what is on it: demo, up, down, url, psql."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import click
from psycopg.conninfo import conninfo_to_dict

from pgsplit import rehearse as rehearsing
from pgsplit.cli import connect_project, console, current_project, json_option
from pgsplit.cli.phases import note_opened, run_as_data, show_run
from pgsplit.load import run as running
from pgsplit.load import sample
from pgsplit.postgres import embedded, programs
from pgsplit.postgres.connect import describe
from pgsplit.routing import env_file as env_file


@click.command()
@click.option(
    "--rows",
    type=click.IntRange(min=500),
    default=50_000,
    show_default=True,
    help="Rows of the sample monolith.",
)
@json_option
def demo(rows: int, as_json: bool) -> None:
    """Make a sample monolith and split it: the whole job, to watch.

    Starts the embedded server, fills a monolith, and runs all phases of all services. With the
    monolith's URL set, the sample goes there instead. Doing it again goes on from what is there.
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
        report = running.run(connections.project.select(()), connections, watcher)
    if as_json:
        console.show_json(run_as_data(report))
        return
    console.show_notes(map(note_opened, opened))
    show_run(report)
    console.out.print(
        "\nThe databases are up. Look inside:\n"
        "  ./runner.py psql payments -xc 'table payments limit 1'\n"
        "  source .venv/bin/activate && dbt build --target payments_db\n"
        "Prove that nothing was lost, and write it down:\n"
        "  ./runner.py verify\n"
        "  ./runner.py report\n"
        "Let them follow the monolith, and see how far they are:\n"
        "  ./runner.py sync --follow\n"
        "  ./runner.py status\n"
        "Make a service's own database the truth, and go back:\n"
        "  ./runner.py verify payments && ./runner.py switch payments\n"
        "  ./runner.py rollback payments\n"
        + ("Stop the server:\n  ./runner.py down" if connections.embedded else "")
    )


@click.command()
def up() -> None:
    """Start the embedded server, or find it running."""
    connections = connect_project()
    if not connections.embedded:
        where = describe(connections.monolith_url)
        console.out.print(f"Nothing to start: the monolith is {where}.")
        return
    project = connections.project
    server = embedded.start(project.root, name=project.name)
    console.show_notes(map(note_opened, server.opened))
    console.out.print(f"The server is up; its data is in {server.data_directory}.", soft_wrap=True)


@click.command()
@click.option("--wipe", is_flag=True, help="Also delete its data. There is no way back.")
def down(wipe: bool) -> None:
    """Stop the embedded server; its data stays unless --wipe is given."""
    project = current_project()
    was_running = embedded.stop(project.root, project.name)
    if wipe:
        embedded.wipe(project.root, project.name)
        if rehearsing.folder(project).exists():  # a dry run that was killed leaves a copy behind
            with rehearsing.held(rehearsing.folder(project), project):
                pass
    console.out.print(
        ("The server is stopped" if was_running else "The server was not running")
        + (" and its data is deleted." if wipe else ".")
    )


@click.command()
@click.argument("target")
@click.option("--service", "as_service", is_flag=True, help="The service's own login instead.")
def url(target: str, as_service: bool) -> None:
    """Print the connection URL of TARGET: monolith, or a service.

    With --service it is the one that the service itself uses. Either may hold a password.
    """
    click.echo(_url(target, as_service))


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("target")
@click.option("--service", "as_service", is_flag=True, help="Log in as the service does.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(target: str, as_service: bool, arguments: tuple[str, ...]) -> None:
    """Open psql on TARGET (monolith, or a service); further arguments go to psql."""
    program = programs.find("psql")
    options = {} if as_service or _is_monolith(target) else _search_path(target)
    address = _url(target, as_service)
    password = str(conninfo_to_dict(address).get("password", ""))
    if password:  # in the environment: everybody may read a command line
        options["PGPASSWORD"] = password
        address = address.replace(f":{quote(password, safe='')}@", "@")
    os.execve(program, [program, address, *arguments], {**os.environ, **options})


def _is_monolith(target: str) -> bool:
    return target in ("monolith", current_project().name)


def _url(target: str, as_service: bool) -> str:
    connections = connect_project()
    if _is_monolith(target):
        return connections.monolith_url
    (service,) = connections.project.select((target,))
    if as_service:
        return env_file.own_url(service, connections)
    return connections.urls[service.database]


def _search_path(target: str) -> dict[str, str]:
    (service,) = current_project().select((target,))
    return {"PGOPTIONS": f"-c search_path={service.database},{service.mirror}"}
