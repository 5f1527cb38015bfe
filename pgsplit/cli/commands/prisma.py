"""`prisma`: writes a schema.prisma for a service's database, with the names that code knows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import rich_click as click

from pgsplit.base.text import printable
from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option, one_service
from pgsplit.observe.prisma import schema_file
from pgsplit.observe.prisma.schema_file import SchemaFile
from pgsplit.project.project import Service


@click.command("prisma")
@one_service
@click.option(
    "--from",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The application's present schema.prisma, or its folder: names and defaults come from it.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the schema to FILE; on standard output if not given.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE even if somebody has edited it.")
@json_option
def command(
    service: Service, source: Path | None, output: Path | None, force: bool, as_json: bool
) -> None:
    """Write a schema.prisma for SERVICE's database.

    Models and fields keep the names that code has for the monolith's, so code that uses them works
    unchanged where the values are the same. What has changed is listed, in the file and here: an
    amount in units instead of cents, a column that became a table, tables of other services.
    """
    made = schema_file.make(service, connect_project(), source)
    if output:
        schema_file.save(output, made, force=force)
    if as_json:
        console.show_json(_as_data(made, output))
    elif output:
        console.say(
            f"{output}: {len(made.models)} models; {made.kept_fields} of {made.fields} fields have"
            " the monolith's names and values."
        )
        _show_changes(made, to_error=False)
    else:
        click.echo(made.text, nl=False)
        _show_changes(made, to_error=True)


def _as_data(made: SchemaFile, output: Path | None) -> dict[str, object]:
    return {
        "service": made.service.database,
        "file": str(output) if output else None,
        "models": list(made.models),
        "kept_fields": made.kept_fields,
        "fields": made.fields,
        "changes": [asdict(one) for one in made.changes],
        "text": made.text,
    }


def _show_changes(made: SchemaFile, *, to_error: bool) -> None:
    """List what code finds changed; not among the schema itself if that goes to the output."""
    place = console.err if to_error else console.out
    if made.changes:
        place.print("Code has to change where it uses these:", markup=False)
    for one in made.changes:
        place.print(f"  {printable(f'{one.where}: {one.what}')}", markup=False, soft_wrap=True)
