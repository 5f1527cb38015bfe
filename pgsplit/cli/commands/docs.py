"""`docs`: writes a site about every table and column, from the monolith and back."""

from __future__ import annotations

import webbrowser
from dataclasses import asdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import rich_click as click

from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.cli import console
from pgsplit.cli.options import connect_project, json_option
from pgsplit.observe.docs import facts, site
from pgsplit.observe.docs.common import FRONT
from pgsplit.observe.docs.facts import Column, Facts, Way
from pgsplit.project.project import OWNERSHIP_FILE

HOST = "127.0.0.1"


@click.command("docs")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the site to DIR. [default: target/docs in the project]",
)
@click.option("--open", "opens", is_flag=True, help="Show the front page in a browser.")
@click.option("--serve", is_flag=True, help="Serve the site until Ctrl-C, to this machine only.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8090, show_default=True,
    help="Serve it on this port; 0 is any that is free.",
)  # fmt: skip
@json_option
def command(output: Path | None, opens: bool, serve: bool, port: int, as_json: bool) -> None:
    """Write a site about every table and column, from the monolith and back.

    It shows all databases as they are: types, rows, owners, tests and their last results, and for
    each column where it comes from and how it goes back. That is read off the models' SQL, and
    compared with the ownership seed; if they disagree, the site says so, and the exit code is 7.
    It only reads: a login that can connect is enough. Databases that are down are shown as the
    models have them. The site needs no network.
    """
    connections = connect_project()
    folder = output or connections.project.root / "target" / "docs"
    site.check_writable(folder)
    with console.watching() as watcher, watcher.step("docs: compile and read") as step:
        found = facts.gather(connections, step.finished_node)
    count = site.write(folder, found)
    page = folder.resolve() / FRONT
    console.show_json({**as_data(found), "page": page}) if as_json else _say(found, page, count)
    if serve:
        _serve(folder, port, opens)
    elif opens:
        webbrowser.open(page.as_uri())
    if found.mismatches:
        raise _differs(found)


def _say(found: Facts, page: Path, count: int) -> None:
    services = found.project.services.values()
    tables = [table for one in services for table in found.tables(one)]
    columns = sum(len(one.columns) for one in tables)
    of_monolith = sum(len(one.columns) for one in found.project.tables.values())
    console.say(
        f"{len(services)} services, {len(tables)} tables, {columns} columns;"
        f" {of_monolith} columns of the monolith."
    )
    if not found.mismatches:
        console.say(
            f"The SQL and {OWNERSHIP_FILE} agree: {found.compared} columns compared, both ways."
        )
    console.show_notes(f"{name} could not be read: {why}" for name, why in found.unread.items())
    console.say(f"The site has {count} files; the front page is {page}.")


def _differs(found: Facts) -> BuildFailed:
    said = "\n".join(f"  - {one}" for one in found.mismatches)
    return BuildFailed(
        f"The SQL and {OWNERSHIP_FILE} say different things:\n{said}",
        where=str(found.project.root / OWNERSHIP_FILE),
        hint="Correct what is wrong, then: runner.py docs",
    )


class _Handler(SimpleHTTPRequestHandler):
    """Serves the site's files, and doesn't log who asks."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def _serve(folder: Path, port: int, opens: bool) -> None:
    """Serve the site until Ctrl-C."""
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise NotReady(
            f"The port {port} can't be used: {error.strerror}.",
            where=HOST,
            hint="Name another one: runner.py docs --serve --port 0",
        ) from error
    url = f"http://{HOST}:{server.server_port}/"
    with server:
        console.err.print(f"Serving {url} until Ctrl-C.")
        if opens:
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.err.print("stopped")


def as_data(found: Facts) -> dict[str, Any]:
    """Give what the site says as plain data for `--json`."""
    services = {
        service.database: {
            "state": found.state(service),
            "database": found.databases[service.database].name,
            "tables": {
                model.table: {
                    "description": model.description,
                    "rows": live.rows if live else None,
                    "is_estimate": live.is_estimate if live else None,
                    "owner": live.owner if live else None,
                    "columns": [_column(one) for one in found.columns(service, model)],
                }
                for model in found.tables(service)
                for live in [found.live(service.database, model.schema, model.table)]
            },
        }
        for service in found.project.services.values()
    }
    return {
        "made_at": found.made_at,
        "services": services,
        "monolith": {
            table: {
                "description": found.described(table),
                "owner": known.owner or None,
                "columns": [_of_monolith(one) for one in found.monolith_columns(table)],
            }
            for table, known in found.project.tables.items()
        },
        "compared": found.compared,
        "mismatches": [asdict(one) for one in found.mismatches],
        "unread": dict(found.unread),
    }


def _column(one: Column) -> dict[str, Any]:
    return {
        "name": one.name,
        "data_type": one.data_type,
        "description": one.description,
        "expression": one.expression,
        "from": [_way(way) for way in one.origins],
        "back_to": [_way(way) for way in one.returns],
        "tests": [
            {"name": result.test.name, "kind": result.test.kind, "status": result.status}
            for result in one.tests
        ],
    }


def _of_monolith(one: Column) -> dict[str, Any]:
    return {
        "name": one.name,
        "data_type": one.data_type,
        "description": one.description,
        "expression": one.expression,
        "goes_to": [_there(way) for way in one.origins],
        "comes_back_from": [_there(way) for way in one.returns],
        "dropped": one.dropped or None,
    }


def _there(way: Way) -> dict[str, str]:
    return {
        "service": way.service, "table": way.table, "column": way.column, "how": way.how
    }  # fmt: skip


def _way(way: Way) -> dict[str, str]:
    return {"table": way.monolith_table, "column": way.monolith_column, "how": way.how}
