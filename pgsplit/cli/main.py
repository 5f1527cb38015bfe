"""The command line: finds the project, runs one command, and tells what went wrong."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import psycopg

from pgsplit.base.errors import SplitError
from pgsplit.cli import (
    backups,
    consistency,
    console,
    current_project,
    follow,
    phases,
    proof,
    server,
    totals,
    truth,
)
from pgsplit.project.project import Project

MODULES = (server, phases, follow, proof, totals, truth, consistency, backups)
EXIT_CODES = (
    "Exit codes: 0 done, 2 mistyped, 3 no connection, 4 not ready, 5 another monolith than"
    " expected, 6 target occupied, 7 build or test failed, 8 embedded server failed, 9 data"
    " differs."
)


class _Commands(click.Group):
    """The group of all commands; its help tells of the project that it is asked in."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        try:
            said = _about(current_project())
        except SplitError:
            said = "There is no project here; --project-dir names its folder."
        for text in (said, EXIT_CODES):
            formatter.write_paragraph()
            formatter.write_text(text)


def _about(project: Project) -> str:
    roles = ", ".join(one.role for one in project.services.values())
    variables = ", ".join(project.variable("URL", one) for one in project.services)
    return (
        f"The databases of {project.name} are found by {project.variable('URL')} (the monolith)"
        f" and, if a service has a server of its own, {variables}. With none of them set, all are"
        f" on a PostgreSQL that this project runs itself. Services, in phase order: {roles}."
        f" Each command also takes names like {next(iter(project.services))}."
    )


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.option(
    "--project-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DBT_PROJECT_DIR",
    help="Folder of the project; the working directory if not given.",
)
def cli(project_dir: Path | None) -> None:
    """Split a PostgreSQL monolith into a database per service."""


for module in MODULES:
    for found in vars(module).values():
        if isinstance(found, click.Command):
            cli.add_command(found)


def _fail(error: SplitError, as_json: bool) -> int:
    if as_json:
        console.show_json({"error": error.as_data(), "exit_code": error.exit_code})
    console.show_error(error)
    return error.exit_code


def run(arguments: Sequence[str], program: str) -> int:
    """Run one command.

    Args:
        arguments: the command's name and what follows it.
        program: what people call the program.

    Returns:
        The exit code.
    """
    as_json = "--json" in arguments
    try:
        cli(list(arguments), prog_name=program, standalone_mode=False)
    except SplitError as error:
        return _fail(error, as_json)
    except psycopg.Error as error:
        return _fail(
            SplitError(
                f"The database refused: {str(error).strip()}",
                hint="Fix what it says; the same command goes on from here.",
            ),
            as_json,
        )
    except click.ClickException as error:
        if as_json:
            usage = SplitError(error.format_message(), hint=f"{program} --help")
            console.show_json({"error": usage.as_data(), "exit_code": error.exit_code})
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        if as_json:
            console.show_json({"error": SplitError("stopped").as_data(), "exit_code": 130})
        console.err.print("stopped; the same command goes on from here")
        return 130
    return 0


def main() -> None:
    """Run the command `pgsplit`, and end the process."""
    # What ends a process politely lets it clear up, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:], "pgsplit"))
