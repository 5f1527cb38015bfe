"""Writes the site: a front page, and a page for each service and each table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pgsplit.base.errors import NotReady
from pgsplit.observe.docs.catalogue import LiveTable
from pgsplit.observe.docs.facts import LEDGER, Facts, Way
from pgsplit.observe.docs.graphs import of_columns, of_service, of_services
from pgsplit.observe.docs.models import Model
from pgsplit.observe.docs.places import monolith_href, service_href, table_href, tone
from pgsplit.observe.pages import render, slug
from pgsplit.project.project import Service

FRONT, SEARCH = "index.html", "search.js"
# Says that a folder is a site of ours, and may be replaced.
MARK = ".pgsplit-docs"
HOW = {"value": "", "choice": "decides", "constant": "constant", "": "not in the SQL"}


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
            yield table_href(service.database, model.table), _table(facts, service, model)
    for table in facts.project.tables:
        yield monolith_href(table), _monolith(facts, table)
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


def _page(
    template: str, facts: Facts, root: str, crumbs: Sequence[tuple[str, str]], **data: Any
) -> str:
    example = next((one.table for one in facts.ways), "")
    return render(
        template,
        facts.project.short,
        root=root,
        project=facts.project.name,
        crumbs=crumbs,
        made_at=facts.made_at,
        example=example,
        **data,
    )


def _front(facts: Facts) -> str:
    project, services = facts.project, tuple(facts.project.services.values())
    tables = [(one, model) for one in services for model in facts.tables(one)]
    results = [r for one, model in tables for r in facts.results(one, model) if r.status]
    return _page(
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
                "rows": _rows(facts.monolith_live(name)),
                "description": facts.described(name),
            }
            for name, one in sorted(project.tables.items())
        ],
    )


def _service(facts: Facts, service: Service) -> str:
    database = service.database
    account = facts.accounts.get(database)
    built = account.last("build") if account else None
    return _page(
        "docs_service.html.j2",
        facts,
        "../",
        [(database, "")],
        service=service,
        state=facts.state(service),
        database=facts.databases[database],
        built=built.finished_at if built else None,
        unread=_unread(facts, database),
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


def _table(facts: Facts, service: Service, model: Model) -> str:
    database = service.database
    live = facts.live(database, model.schema, model.table)
    columns = facts.columns(service, model)
    takes = sorted({one.monolith_table for one in facts.ways
                    if (one.service, one.table) == (database, model.table)})  # fmt: skip
    queries = [("The SQL that makes it", model.path, model.sql)]
    for reverse in facts.reverse(service):
        if reverse.lineage and (model.schema, model.table) in reverse.lineage.tables:
            title = f"The SQL that makes the monolith’s {reverse.table} from it"
            queries.append((title, reverse.path, reverse.sql))
    facts_shown = [("rows", _rows(live))]
    facts_shown += [("owner", live.owner)] if live else []
    facts_shown += [
        ("database", facts.databases[database].name or database),
        ("schema", model.schema),
        ("comes from", ", ".join(takes) or "nothing"),
    ]
    return _page(
        "docs_table.html.j2",
        facts,
        "../",
        [(database, service_href(database)), (model.table, "")],
        heading=f"{database}.{model.table}",
        description=model.description,
        shown=facts_shown,
        unread=_unread(facts, database),
        mismatches=[one for one in facts.mismatches
                    if (one.service, one.table) == (database, model.table)],
        drawing=of_columns(facts, columns, (database, model.table), "../"),
        has_faint=any(way.how == "choice" for one in columns for way in one.origins),
        first="from the monolith",
        second="back to the monolith",
        expression_of="first",
        columns=[
            (one, [_origin(way) for way in one.origins], [_return(way) for way in one.returns])
            for one in columns
        ],
        has_tests=any(one.tests for one in columns),
        mirrors=[],
        results=facts.results(service, model),
        proofs=facts.proofs(service, model.table),
        queries=queries,
    )  # fmt: skip


def _monolith(facts: Facts, table: str) -> str:
    known = facts.project.tables[table]
    live, columns = facts.monolith_live(table), facts.monolith_columns(table)
    owner = facts.project.services.get(known.owner)
    reverse = facts.reverse(owner, table) if owner else []
    name = facts.project.name
    unread = {k: v for k, v in facts.unread.items() if k == name}
    return _page(
        "docs_table.html.j2",
        facts,
        "../",
        [("monolith", FRONT + "#monolith"), (table, "")],
        heading=f"{name}.{table}",
        description=facts.described(table),
        shown=[
            ("rows", _rows(live)),
            *([("owner", live.owner)] if live else []),
            ("schema", facts.project.schema),
            ("goes to", known.owner or "nobody"),
        ],
        unread=unread,
        mismatches=[],
        drawing=of_columns(facts, columns, ("", table), "../"),
        has_faint=any(way.how == "choice" for one in columns for way in one.origins),
        first="goes to",
        second="comes back from",
        expression_of="second",
        columns=[(one, [_goes(w) for w in one.origins], [_comes(w) for w in one.returns])
                 for one in columns],
        has_tests=False,
        mirrors=[
            {
                "database": one.database,
                "href": f"../{service_href(one.database)}#mirror-{slug(table)}",
                "live": facts.live(one.database, one.mirror, table),
                "columns": "all" if one.database == known.owner
                else ", ".join(known.columns_for(one.database)),
            }
            for one in facts.project.services.values()
            if known.columns_for(one.database)
        ],
        results=[],
        proofs=[],
        queries=[("The SQL that makes it again", one.path, one.sql) for one in reverse],
    )  # fmt: skip


def _origin(way: Way) -> tuple[str, str, str]:
    """Give the link from a service's column to the monolith's: text, page, and how."""
    name = f"{way.monolith_table}.{way.monolith_column}"
    return name, "../" + monolith_href(way.monolith_table, way.monolith_column), _how(way)


def _return(way: Way) -> tuple[str, str, str]:
    return _origin(way)[:2] + ("",)


def _goes(way: Way) -> tuple[str, str, str]:
    """Give the link from a monolith's column to a service's."""
    name = f"{way.service}.{way.table}.{way.column}"
    return name, "../" + table_href(way.service, way.table, way.column), _how(way)


def _comes(way: Way) -> tuple[str, str, str]:
    return _goes(way)[:2] + ("",)


def _how(way: Way) -> str:
    return ", ".join(filter(None, (HOW[way.how], way.said)))


def _rows(live: LiveTable | None) -> str:
    if live is None or live.rows is None:
        return "unknown"
    return f"{'about ' if live.is_estimate else ''}{live.rows:,}"


def _sum(facts: Facts, service: Service) -> str:
    """Add up the rows of a service's tables."""
    live = [facts.live(service.database, one.schema, one.table) for one in facts.tables(service)]
    known = [one.rows for one in live if one and one.rows is not None]
    if not known:
        return "unknown"
    is_estimate = len(known) < len(live) or any(one and one.is_estimate for one in live)
    return f"{'about ' if is_estimate else ''}{sum(known):,}"


def _unread(facts: Facts, database: str) -> dict[str, str]:
    """Give what a page about a service lacks."""
    lacking = (database, LEDGER)
    return {name: why for name, why in facts.unread.items() if name in lacking}


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
