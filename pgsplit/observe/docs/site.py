"""Writes the site: a front page, and a page for each service and each table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pgsplit.base.errors import NotReady
from pgsplit.observe.docs.common import FRONT, page, rows_of, unread_of
from pgsplit.observe.docs.facts import Facts
from pgsplit.observe.docs.graphs import of_service, of_services
from pgsplit.observe.docs.models import Model
from pgsplit.observe.docs.places import monolith_href, service_href, table_href, tone
from pgsplit.observe.docs.tables import monolith_page, table_page
from pgsplit.observe.pages import render
from pgsplit.project.project import Service

SEARCH = "search.js"
# Says that a folder is a site of ours, and may be replaced.
MARK = ".pgsplit-docs"


def pages(facts: Facts) -> Iterator[tuple[str, str]]:
    """Give the site's files.

    Args:
        facts: what it says.

    Yields:
        Each file's path in the site, and its text.
    """
    yield FRONT, _front(facts)
    for service in facts.project.services.values():
        yield service_href(service.database), _service(facts, service)
        for model in facts.tables(service):
            yield table_href(service.database, model.table), table_page(facts, service, model)
    for table in facts.project.tables:
        yield monolith_href(table), monolith_page(facts, table)
    yield SEARCH, render("docs_search.js.j2", index=list(_index(facts)))


def check_writable(folder: Path) -> None:
    """Check that the site can be written, before the work for it is done.

    Args:
        folder: the site's folder. What is in it is replaced if it is an earlier site.

    Raises:
        NotReady: there is something else, or it can't be made.
    """
    folder = folder.resolve()
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / MARK).is_file():
        raise NotReady(
            "There is something else where the site would go, and it is not replaced.",
            where=str(folder),
            hint="Name another folder: runner.py docs --output DIR",
        )


def write(folder: Path, facts: Facts) -> int:
    """Write the site beside its place, then put it there.

    Args:
        folder: the site's folder, as `check_writable` has checked it.
        facts: what it says.

    Returns:
        How many files were written.

    Raises:
        NotReady: the folder can't be written to.
    """
    folder = folder.resolve()
    check_writable(folder)
    made: Path | None = None
    count = 0
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        made.chmod(0o755)
        (made / MARK).touch()
        for name, text in pages(facts):
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_text(text, encoding="utf-8")
            count += 1
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError as error:
        raise NotReady(
            f"The site can't be written: {error.strerror or error}.",
            where=str(folder),
            hint="Name a folder that you may write to: runner.py docs --output DIR",
        ) from error
    finally:
        if made and made.exists():
            shutil.rmtree(made, ignore_errors=True)
    return count


def _front(facts: Facts) -> str:
    project, services = facts.project, tuple(facts.project.services.values())
    tables = [(one, model) for one in services for model in facts.tables(one)]
    results = [r for one, model in tables for r in facts.results(one, model) if r.status]
    return page(
        "docs_front.html.j2",
        facts,
        "",
        [],
        unread=facts.unread,
        mismatches=facts.mismatches,
        columns=sum(len(model.columns) for _, model in tables),
        tables=len(tables),
        compared=facts.compared,
        ran=len(results),
        passed=sum(one.status in ("pass", "success") for one in results),
        warned=sum(one.status == "warn" for one in results),
        schema=project.schema,
        drawing=of_services(facts),
        services=[
            {
                "database": one.database,
                "href": service_href(one.database),
                "tone": tone(facts, one.database),
                "holds": one.holds,
                "state": facts.state(one),
                "tables": len(facts.tables(one)),
                "rows": _sum(facts, one),
                "where": facts.databases[one.database].where.partition(" on ")[2] or "not read",
            }
            for one in services
        ],
        monolith_tables=[
            {
                "name": name,
                "href": monolith_href(name),
                "owner": one.owner,
                "owner_href": service_href(one.owner) if one.owner else "",
                "tone": tone(facts, one.owner),
                "columns": len(one.columns),
                "rows": rows_of(facts.monolith_live(name)),
                "description": facts.described(name),
            }
            for name, one in sorted(project.tables.items())
        ],
    )


def _service(facts: Facts, service: Service) -> str:
    database = service.database
    account = facts.accounts.get(database)
    built = account.last("build") if account else None
    return page(
        "docs_service.html.j2",
        facts,
        "../",
        [(database, "")],
        service=service,
        state=facts.state(service),
        database=facts.databases[database],
        built=built.finished_at if built else None,
        unread=unread_of(facts, database),
        mismatches=[one for one in facts.mismatches if one.service == database],
        drawing=of_service(facts, service, "../"),
        tables=[_summary(facts, service, model) for model in facts.tables(service)],
        mirror=[
            {
                "name": name,
                "href": "../" + monolith_href(name),
                "of": facts.project.tables[name].owner,
                "live": facts.live(database, service.mirror, name),
                "is_whole": len(columns) == len(facts.project.tables[name].columns),
                "columns": columns,
            }
            for name, columns in service.landed_tables.items()
        ],
    )


def _summary(facts: Facts, service: Service, model: Model) -> dict[str, Any]:
    """Give the line of a table on its service's page."""
    ran = [one for one in facts.results(service, model) if one.status]
    passed = sum(one.status in ("pass", "success") for one in ran)
    warned = sum(one.status == "warn" for one in ran)
    words = [f"{passed} of {len(model.tests)} passed"] if ran else [f"{len(model.tests)} not run"]
    return {
        "name": model.table,
        "href": "../" + table_href(service.database, model.table),
        "live": facts.live(service.database, model.schema, model.table),
        "columns": len(model.columns),
        "tests": ", ".join(words + ([f"{warned} warned"] if warned else [])),
        "grade": "" if not ran else "fine" if passed == len(ran)
        else "warn" if passed + warned == len(ran) else "bad",
        "description": model.description,
    }  # fmt: skip


def _sum(facts: Facts, service: Service) -> str:
    """Add up the rows of a service's tables."""
    live = [facts.live(service.database, one.schema, one.table) for one in facts.tables(service)]
    known = [one.rows for one in live if one and one.rows is not None]
    if not known:
        return "unknown"
    is_estimate = len(known) < len(live) or any(one and one.is_estimate for one in live)
    return f"{'about ' if is_estimate else ''}{sum(known):,}"


def _index(facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Give what the search finds: a name, what it is, and its page."""
    for service in facts.project.services.values():
        database = service.database
        yield database, f"service: {service.holds}", service_href(database)
        for model in facts.tables(service):
            name = f"{database}.{model.table}"
            yield name, f"table: {model.description}", table_href(database, model.table)
            for column in facts.columns(service, model):
                origins = ", ".join(
                    f"{one.monolith_table}.{one.monolith_column}" for one in column.origins[:3]
                )
                about = f"{column.data_type}{', from ' + origins if origins else ''}"
                yield f"{name}.{column.name}", about, table_href(database, model.table, column.name)
    name = facts.project.name
    for table, known in facts.project.tables.items():
        yield f"{name}.{table}", f"monolith: {facts.described(table)}", monolith_href(table)
        for column_name, data_type in known.columns.items():
            about = f"monolith: {data_type}"
            yield f"{name}.{table}.{column_name}", about, monolith_href(table, column_name)
