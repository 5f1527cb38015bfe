#!/usr/bin/env python3
"""Split the Blytz Hire monolith into six service databases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".venv" / "bin" / "python"
if sys.prefix == sys.base_prefix and PYTHON.exists():
    # The project's own environment, for whoever has not activated one.
    os.execv(PYTHON, [str(PYTHON), *sys.argv])

try:
    import click
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}\n  mend:  make .venv/ready && source .venv/bin/activate")

from migration import build as building
from migration import demo as sample
from migration import embedded, screen
from migration import land as landing
from migration import provision as provisioning
from migration import run as running
from migration import status as looking
from migration import sync as syncing
from migration.connections import describe, resolve
from migration.errors import NotReady, SplitError
from migration.ledger import open_ledger
from migration.services import MONOLITH, ROOT, SERVICES_BY_NAME, Service, select

Command = TypeVar("Command", bound=Callable[..., Any])

NAMES = ", ".join(service.role for service in SERVICES_BY_NAME.values())


def services_argument(command: Command) -> Command:
    """Give a command the argument SERVICE…; none means all six, in phase order."""
    return click.argument("names", metavar="[SERVICE]...", nargs=-1)(command)


def json_option(command: Command) -> Command:
    """Give a command the option --json."""
    option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return option(command)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=f"Services, in phase order: {NAMES}. Each command also takes names like payments_db."
    " Exit codes: 0 done, 2 mistyped, 3 no connection, 4 not ready, 5 another monolith than"
    " expected, 6 target occupied, 7 build or test failed, 8 embedded server failed.",
)
def cli() -> None:
    """Split the Blytz Hire monolith into six service databases.

    The databases are found by BLYTZ_HIRE_URL (the monolith) and, if a service has a server of its
    own, USERS_DB_URL, MARKETPLACE_DB_URL, CONTRACTS_DB_URL, PAYMENTS_DB_URL, COMMUNICATION_DB_URL
    and FILES_DB_URL. With none of them set, all are on a PostgreSQL that this project runs itself.
    """


@cli.command()
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

    Starts the embedded server, fills a monolith of 18 tables, and runs all phases of all six
    services. With BLYTZ_HIRE_URL set, the sample goes there instead. Doing it again goes on
    from what is there.
    """
    connections = resolve()
    with screen.watching() as watcher:
        opened: tuple[Path, ...] = ()
        if connections.embedded:
            with watcher.step("server: start"):
                opened = embedded.start(ROOT).opened
        with watcher.step(f"monolith: {rows:,} sample rows") as step:
            sample.create(connections.urls[MONOLITH], rows, on_step=step.finished_node)
        report = running.run(select(()), connections, watcher)
    if as_json:
        screen.show_json(screen.run_as_data(report))
        return
    screen.show_notes(map(_opened, opened))
    screen.show_run(report)
    screen.out.print(
        "\nThe six databases are up. Look inside:\n"
        "  ./runner.py psql payments -xc 'table payments limit 1'\n"
        "  source .venv/bin/activate && dbt build --target payments_db\n"
        "Let them follow the monolith, and see how far they are:\n"
        "  ./runner.py sync --follow\n"
        "  ./runner.py status\n"
        + ("Stop the server:\n  ./runner.py down" if connections.embedded else "")
    )


@cli.command()
def up() -> None:
    """Start the embedded server, or find it running."""
    connections = resolve()
    if not connections.embedded:
        where = describe(connections.urls[MONOLITH])
        screen.out.print(f"Nothing to start: the monolith is {where}.")
        return
    server = embedded.start(ROOT)
    screen.show_notes(map(_opened, server.opened))
    screen.out.print(f"The server is up; its data is in {server.data_directory}.", soft_wrap=True)


def _opened(folder: Path) -> str:
    return f"{folder} now lets the server's account pass through (chmod o+x)"


@cli.command()
@click.option("--wipe", is_flag=True, help="Also delete its data. There is no way back.")
def down(wipe: bool) -> None:
    """Stop the embedded server; its data stays unless --wipe is given."""
    was_running = embedded.stop(ROOT)
    if wipe:
        embedded.wipe(ROOT)
    screen.out.print(
        ("The server is stopped" if was_running else "The server was not running")
        + (" and its data is deleted." if wipe else ".")
    )


@cli.command()
@click.argument("target")
@click.option("--service", "as_service", is_flag=True, help="The service's own login instead.")
def url(target: str, as_service: bool) -> None:
    """Print the connection URL of TARGET: monolith, or a service.

    With --service it is the one that the service itself uses. Either may hold a password.
    """
    click.echo(_url(target, as_service))


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("target")
@click.option("--service", "as_service", is_flag=True, help="Log in as the service does.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def psql(target: str, as_service: bool, arguments: tuple[str, ...]) -> None:
    """Open psql on TARGET (monolith, or a service); further arguments go to psql."""
    program = embedded.binary("psql")
    options = {} if as_service or target in ("monolith", MONOLITH) else _search_path(target)
    address = _url(target, as_service)
    password = str(conninfo_to_dict(address).get("password", ""))
    if password:  # in the environment: everybody may read a command line
        options["PGPASSWORD"] = password
        address = address.replace(f":{quote(password, safe='')}@", "@")
    os.execve(program, [program, address, *arguments], {**os.environ, **options})


def _url(target: str, as_service: bool) -> str:
    connections = resolve()
    if target in ("monolith", MONOLITH):
        return connections.urls[MONOLITH]
    (service,) = select((target,))
    if as_service:
        return provisioning.own_url(service, connections)
    return connections.urls[service.database]


def _search_path(target: str) -> dict[str, str]:
    (service,) = select((target,))
    return {"PGOPTIONS": f"-c search_path={service.database},blytz_hire"}


@cli.command()
@services_argument
@click.option("--new-password", is_flag=True, help="Give each service's login a new password.")
@json_option
def provision(names: tuple[str, ...], new_password: bool, as_json: bool) -> None:
    """Make each SERVICE's database, owner role and login role.

    The login's URL is written to connections/SERVICE.env, for you alone to read. What exists is
    left as it is.
    """
    services, connections = select(names), resolve()
    with open_ledger(connections) as ledger:
        made = [
            provisioning.provision(service, connections, ledger, new_password=new_password)
            for service in services
        ]
    if as_json:
        screen.show_json(
            {
                one.service.database: {
                    "created": one.created,
                    "file": one.connection_file,
                    "notes": one.notes,
                }
                for one in made
            }
        )
        return
    rows = screen.table("service", "database", "login")
    for one in made:
        was = "created" if one.created else "there already"
        rows.add_row(one.service.role, was, one.service.login)
    screen.out.print(rows)
    screen.out.print(f"Each login's URL is in {connections.folder}/SERVICE.env.", soft_wrap=True)
    screen.show_notes(note for one in made for note in one.notes)


@cli.command()
@services_argument
@click.option("--again", is_flag=True, help="Copy anew what has landed before.")
@json_option
def land(names: tuple[str, ...], again: bool, as_json: bool) -> None:
    """Copy into each SERVICE's mirror what it owns or may see.

    One instant of the living monolith, and a replication slot that begins just there. --again is
    for when that slot was lost: the mirror is copied anew, and the service's tables, which stay,
    are compared with it by the next build.
    """
    services, connections = select(names), resolve()
    with open_ledger(connections) as ledger, screen.watching() as watcher:
        landed = {}
        for service in services:
            with watcher.step(f"{service.role}: land") as step:
                how = (connections, ledger, step.copied)
                landed[service] = landing.land(service, *how, again=again)
    if as_json:
        screen.show_json({service.database: vars(one) for service, one in landed.items()})
        return
    rows = screen.table("service", ">tables", ">rows", ">copied", ">seconds")
    for service, one in landed.items():
        rows.add_row(
            service.database,
            str(len(one.rows)),
            f"{sum(one.rows.values()):,}",
            screen.size(one.bytes),
            "landed before" if one.already else f"{one.seconds:.1f}",
        )
    screen.out.print(rows)


@cli.command()
@services_argument
@json_option
def build(names: tuple[str, ...], as_json: bool) -> None:
    """Build and test each SERVICE's tables with dbt."""
    services, connections = select(names), resolve()
    with open_ledger(connections) as ledger, screen.watching() as watcher:
        built: dict[Service, building.Built] = {}
        for service in services:
            with watcher.step(f"{service.role}: build and test") as step:
                built[service] = building.build(service, connections, ledger, step.finished_node)
    if as_json:
        screen.show_json(
            {
                service.database: {**vars(one), "tests": vars(one.tests)}
                for service, one in built.items()
            }
        )
        return
    rows = screen.table("service", ">tables", ">rows", "tests", ">seconds")
    for service, one in built.items():
        rows.add_row(
            service.database,
            str(len(one.tables)),
            f"{sum(one.tables.values()):,}",
            str(one.tests),
            f"{one.seconds:.1f}",
        )
    screen.out.print(rows)


@cli.command()
@services_argument
@json_option
def run(names: tuple[str, ...], as_json: bool) -> None:
    """Provision, land and build each SERVICE, in phase order.

    What is done already is not done again: a run that was cut short goes on where it stood.
    """
    services, connections = select(names), resolve()
    with screen.watching() as watcher:
        report = running.run(services, connections, watcher)
    if as_json:
        screen.show_json(screen.run_as_data(report))
    else:
        screen.show_run(report)


@cli.command()
@services_argument
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.05, max=3600),
    default=0.5,
    show_default=True,
    help="Seconds between two looks of a follower.",
)
@json_option
def sync(names: tuple[str, ...], follow: bool, interval: float, as_json: bool) -> None:
    """Bring each SERVICE's tables to where the monolith stands now.

    Without a name it is every service that has been built. With --follow they stay in step: a
    table shows how far behind each is. It may be stopped and started at will; what changes
    meanwhile is kept.
    """
    connections = resolve()
    services = select(names) if names else syncing.built(connections)
    if follow:
        with screen.following(as_json) as view, suppress(KeyboardInterrupt):
            syncing.follow_all(services, connections, view.tick, interval)
        return
    with screen.watching() as watcher:
        synced = {}
        for service in services:
            with watcher.step(f"{service.role}: sync") as step:
                synced[service] = syncing.sync(service, connections)
                step.say(f"{synced[service].rows:,} rows")
    if as_json:
        screen.show_json({service.database: vars(one) for service, one in synced.items()})
        return
    rows = screen.table("service", ">upserted", ">deleted", ">seconds")
    for service, one in synced.items():
        upserted, deleted = sum(one.upserted.values()), sum(one.deleted.values())
        rows.add_row(service.database, f"{upserted:,}", f"{deleted:,}", f"{one.seconds:.2f}")
    screen.out.print(rows)


@cli.command()
@services_argument
@json_option
def status(names: tuple[str, ...], as_json: bool) -> None:
    """Tell where each SERVICE stands and how far it is behind.

    Exits with 4 if something is wrong, and says what mends it.
    """
    services, connections = select(names), resolve()
    found = [looking.status(service, connections) for service in services]
    if as_json:
        screen.show_json(screen.status_as_data(found))
    else:
        screen.show_status(found)
    if any(one.warnings for one in found):
        sys.exit(NotReady.exit_code)


def _fail(error: SplitError) -> int:
    if "--json" in sys.argv:
        screen.show_json(
            {
                "error": {"what": error.what, "where": error.where, "mend": error.mend},
                "exit_code": error.exit_code,
            }
        )
    screen.show_error(error)
    return error.exit_code


def main() -> int:
    """Run the command line; give its exit code."""
    # What ends a runner politely lets it clear up, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli(prog_name="runner.py", standalone_mode=False)
    except SplitError as error:
        return _fail(error)
    except psycopg.Error as error:
        return _fail(
            SplitError(
                f"The database refused: {str(error).strip()}",
                mend="Mend what it says; the same command goes on from here.",
            )
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        screen.err.print("stopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    os.chdir(HERE)
    sys.exit(main())
