#!/usr/bin/env python3
"""Split the Blytz Hire monolith into six service databases."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE / ".venv" / "bin" / "python"
if sys.prefix == sys.base_prefix and PYTHON.exists():
    # The project's own environment, for whoever has not activated one.
    os.execv(PYTHON, [str(PYTHON), *sys.argv])

try:
    import click
    import psycopg

    from pgsplit.base.errors import SplitError
    from pgsplit.cli import backups, consistency, follow, phases, proof, server, totals, truth
    from pgsplit.cli import console as screen
    from pgsplit.project.project import SERVICES_BY_NAME
except ModuleNotFoundError as missing:
    sys.exit(f"error: {missing}\n  mend:  make .venv/ready && source .venv/bin/activate")
except KeyboardInterrupt:
    sys.exit(130)

NAMES = ", ".join(service.role for service in SERVICES_BY_NAME.values())


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog=f"Services, in phase order: {NAMES}. Each command also takes names like payments_db."
    " Exit codes: 0 done, 2 mistyped, 3 no connection, 4 not ready, 5 another monolith than"
    " expected, 6 target occupied, 7 build or test failed, 8 embedded server failed, 9 data"
    " differs.",
)
def cli() -> None:
    """Split the Blytz Hire monolith into six service databases.

    The databases are found by BLYTZ_HIRE_URL (the monolith) and, if a service has a server of its
    own, USERS_DB_URL, MARKETPLACE_DB_URL, CONTRACTS_DB_URL, PAYMENTS_DB_URL, COMMUNICATION_DB_URL
    and FILES_DB_URL. With none of them set, all are on a PostgreSQL that this project runs itself.
    """


for module in (server, phases, follow, proof, totals, truth, consistency, backups):
    for found in vars(module).values():
        if isinstance(found, click.Command):
            cli.add_command(found)


def _fail(error: SplitError, as_json: bool) -> int:
    if as_json:
        screen.show_json(
            {
                "error": {"what": error.what, "where": error.where, "mend": error.mend},
                "exit_code": error.exit_code,
            }
        )
    screen.show_error(error)
    return error.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command's name and what follows it; this process's own if none are given.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        cli(list(arguments), prog_name="runner.py", standalone_mode=False)
    except SplitError as error:
        return _fail(error, as_json)
    except psycopg.Error as error:
        return _fail(
            SplitError(
                f"The database refused: {str(error).strip()}",
                mend="Mend what it says; the same command goes on from here.",
            ),
            as_json,
        )
    except click.ClickException as error:
        if as_json:
            found = {"what": error.format_message(), "mend": "runner.py --help"}
            screen.show_json({"error": found, "exit_code": error.exit_code})
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        if as_json:
            screen.show_json({"error": {"what": "stopped"}, "exit_code": 130})
        screen.err.print("stopped; the same command goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    os.chdir(HERE)
    # What ends a runner politely lets it clear up, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
