"""`config`: shows which settings are in force, and where each comes from."""

from __future__ import annotations

import shlex
from typing import Any

import rich_click as click
from rich.text import Text

from pgsplit.cli import console
from pgsplit.cli.options import current_project, json_option
from pgsplit.project.endpoints import resolve
from pgsplit.project.settings import DEFAULT, Setting, Settings, masked


@click.command("config")
@click.option(
    "--export",
    is_flag=True,
    help="Print export statements, with passwords, for a shell and plain dbt.",
)
@json_option
def command(export: bool, as_json: bool) -> None:
    """Show each setting, and whether it comes from a file, the environment, or by default.

    Settings come from split.toml and .env beside dbt_project.yml, and from the environment, which
    wins. Passwords are hidden. A setting that can't be right is refused.
    """
    project = current_project()
    settings = Settings(project)
    resolve(project)  # which refuses what can't be
    if export:
        if as_json:
            raise click.UsageError("--export and --json exclude each other.")
        for variable in settings.known:
            if settings.source(variable) != DEFAULT:
                console.say(f"export {variable}={shlex.quote(settings[variable])}")
        return
    console.present(settings, as_json, settings_as_data, show_settings)


def settings_as_data(settings: Settings) -> dict[str, Any]:
    """Give settings as plain data for `--json`."""
    listed = [
        {
            "key": one.key,
            "variable": one.variable,
            "value": shown(settings, one),
            "source": settings.source(one.variable),
        }
        for one in settings.known.values()
    ]
    return {"settings": listed, "warnings": settings.doubts}


def shown(settings: Settings, one: Setting) -> str:
    """Give a setting's value without a password; what is meant by default if it isn't set."""
    value = settings.get(one.variable, "")
    if not value:
        return one.default
    if one.is_secret:
        return "***"
    return masked(value) if one.is_url else value


def show_settings(settings: Settings) -> None:
    """Print each setting with its value and its source."""
    rows = console.table("setting", "value", "from")
    for one in settings.known.values():
        rows.add_row(one.key, Text(shown(settings, one)), settings.source(one.variable))
    console.out.print(rows)
    console.say(f"Files: {settings.toml} and {settings.dotenv}; variables: docs/connections.md.")
    console.show_warnings(settings.doubts)
