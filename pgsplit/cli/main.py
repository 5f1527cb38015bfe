"""The command line's entry: finds the project, runs one command, and reports what went wrong."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

import psycopg
import rich_click as click
from rich.text import Text

from pgsplit import __version__
from pgsplit.base.errors import ConnectionFailed, SplitError
from pgsplit.cli import console
from pgsplit.cli.options import current_project
from pgsplit.postgres.connect import held_lock, is_lost

# In the order of a split. `commands/NAME.py` has the command NAME.
GROUPS = {
    "Try it": ("demo", "up", "down", "url", "psql"),
    "Set up": ("config", "check"),
    "Look": ("analyze", "status", "health", "metrics", "history", "report", "docs"),
    "Load": ("provision", "land", "build", "run", "throttle"),
    "Follow": ("sync", "events"),
    "Prove": ("verify", "totals", "parity", "reconcile"),
    "Applications": ("prisma", "rollout", "handover"),
    "Move": ("switch", "rollback", "complete", "abort", "repair", "resume", "retire"),
    "Keep": ("control", "backup", "backups", "restore"),
}
COMMANDS = [name for group in GROUPS.values() for name in group]
EXIT_CODES = """\
Exit codes:
    0  done                    5  unexpected monolith
    1  a bug                   6  target occupied
    2  wrong command line      7  build or test failed
    3  no connection           8  embedded server failed
    4  not ready               9  data differs
                             130  stopped by Ctrl-C
                             141  nobody reads the output
"""
NOBODY_READS = 141  # what a shell gives for a program that SIGPIPE ends
HELP = click.RichHelpConfiguration(
    theme="default-slim",  # no boxes: it reads the same in a pipe
    max_width=80,
    force_terminal=None,  # Rich decides; rich-click would colour pipes in some build servers
    text_markup=None,
    text_paragraph_linebreaks="\n\n",
    padding_helptext_first_line=(0, 0, 1, 0),
    options_table_help_sections=["help", "required", "default", "deprecated"],
    default_string="\\[default: {}]",
    command_groups={"*": [{"name": name, "commands": [*GROUPS[name]]} for name in GROUPS]},
)


class Commands(click.RichGroup):
    """All commands, each imported when it is called; the help describes the current project."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of a split."""
        return COMMANDS

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"pgsplit.cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; of one that is mistyped, name the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0].lower(), COMMANDS, 1)
            if not near:
                raise
            raise click.UsageError(
                f"No such command {args[0]!r}. Did you mean {near[0]}?", ctx
            ) from error

    def format_epilog(self, ctx: click.RichContext, formatter: click.RichHelpFormatter) -> None:  # type: ignore[override]
        """Print how the project's databases are found, and the exit codes."""
        self.epilog = _about()
        super().format_epilog(ctx, formatter)
        formatter.write(Text(EXIT_CODES))


def _about() -> str:
    try:
        project = current_project()
    except SplitError:
        return "There is no project here; name its folder with --project-dir."
    roles = ", ".join(one.role for one in project.services.values())
    variables = ", ".join(project.variable("URL", one) for one in project.services)
    return (
        f"{project.variable('URL')} is the URL of {project.name}, the monolith. A service on a"
        f" server of its own needs a URL too: {variables}. If none is set, all databases are on a"
        f" PostgreSQL server that this project runs itself. Services, in phase order: {roles}."
        f" Commands also take names like {next(iter(project.services))}."
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.rich_config(help_config=HELP)
@click.version_option(__version__, message="pgsplit %(version)s")
@click.option(
    "--project-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DBT_PROJECT_DIR",
    help="The project's folder; the working directory if not given.",
)
def cli(project_dir: Path | None) -> None:
    """Split a PostgreSQL monolith into a database per service.

    Commands are listed in the order of a split; COMMAND --help explains each.
    """


def run(arguments: Sequence[str], program: str) -> int:
    """Run one command.

    Args:
        arguments: the command's name and what follows it.
        program: what people call the program; messages name it.

    Returns:
        The exit code.
    """
    try:
        return _documented(arguments, program)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try to write the rest
        return NOBODY_READS
    finally:
        gc.freeze()  # the process ends soon: nothing is worth a look by Python's collector


def _documented(arguments: Sequence[str], program: str) -> int:
    """Run one command and print its document, if it was asked for one."""
    console.begin(program, as_json="--json" in arguments)
    code = SplitError.exit_code
    try:
        code = _run(arguments, program)
    except BrokenPipeError:
        console.document.begin(False)
        raise
    except Exception as bug:
        console.document.fail(SplitError(f"{type(bug).__name__}: {bug}"))
        raise
    finally:
        console.end(code)
    return code


def _run(arguments: Sequence[str], program: str) -> int:
    try:
        # Completion's variable has this name in it.
        code = cli(list(arguments), prog_name=Path(program).name, standalone_mode=False)
        return code if isinstance(code, int) else 0  # what `ctx.exit` was given
    except SystemExit as end:
        return int(end.code or 0)
    except SplitError as error:
        return console.show_error(error)
    except psycopg.errors.LockNotAvailable as error:
        return console.show_error(held_lock(error, "a table of the monolith"))
    except psycopg.Error as error:
        said = str(error).strip()
        refused = SplitError(
            f"The database refused: {said}",
            hint="Fix the cause, then run the same command: it continues from here.",
        )
        lost = ConnectionFailed(
            f"The connection to a server was lost: {said.splitlines()[0] if said else 'no answer'}",
            hint="Once the server answers, run the same command: it continues from here.",
        )
        return console.show_error(lost if is_lost(error) else refused)
    except click.ClickException as error:
        ctx = getattr(error, "ctx", None)
        usage = SplitError(
            error.format_message(), hint=f"{ctx.command_path if ctx else program} --help"
        )
        return console.show_error(usage, error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        console.document.fail(SplitError("stopped"))
        console.err.print("stopped; run the same command to continue from here")
        return 130


def main() -> None:
    """Run the command `pgsplit`, and end the process."""
    # SIGTERM lets the process clean up, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:], "pgsplit"))


if __name__ == "__main__":
    main()
