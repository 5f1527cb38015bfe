"""`psql`: becomes psql on one of the project's databases."""

from __future__ import annotations

import os
from urllib.parse import quote

import rich_click as click
from psycopg.conninfo import conninfo_to_dict

from pgsplit.cli.commands.url import is_monolith, url
from pgsplit.cli.options import complete_target, current_project
from pgsplit.postgres import clients, session_settings


@click.command("psql", context_settings={"ignore_unknown_options": True})
@click.argument("target", shell_complete=complete_target)
@click.option("--service", "as_service", is_flag=True, help="Log in as the service does.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(target: str, as_service: bool, arguments: tuple[str, ...]) -> None:
    """Open psql on TARGET.

    TARGET is "monolith" or a service. Further arguments go to psql.
    """
    options = {} if as_service else _settings(target)
    address = url(target, as_service)
    program = clients.find("psql", clients.needs(address), least=0).path
    password = str(conninfo_to_dict(address).get("password", ""))
    if password:  # in the environment: everybody may read a command line
        options["PGPASSWORD"] = password
        address = address.replace(f":{quote(password, safe='')}@", "@")
    os.execve(program, [program, address, *arguments], {**os.environ, **options})


def _settings(target: str) -> dict[str, str]:
    """Give psql our own settings. In the monolith anybody's functions might be on the path."""
    if is_monolith(target):
        return {"PGOPTIONS": session_settings.options()}
    (service,) = current_project().select((target,))
    path = f"pg_catalog,{service.database},{service.mirror},pg_temp"
    return {"PGOPTIONS": session_settings.options(search_path=path)}
