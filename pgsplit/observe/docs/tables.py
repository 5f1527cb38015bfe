"""The pages of tables: of a service's, and of the monolith's."""

from __future__ import annotations

from pgsplit.observe.docs.common import FRONT, page, rows_of, unread_of
from pgsplit.observe.docs.facts import Facts, Way
from pgsplit.observe.docs.graphs import of_columns
from pgsplit.observe.docs.models import Model
from pgsplit.observe.docs.places import monolith_href, service_href, table_href
from pgsplit.observe.pages import slug
from pgsplit.project.project import Service

# What `evidence` found, in words.
HOW = {"value": "", "choice": "decides", "constant": "constant", "": "not in the SQL"}


def table_page(facts: Facts, service: Service, model: Model) -> str:
    """Give the page of a service's table."""
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
    facts_shown = [("rows", rows_of(live))]
    facts_shown += [("owner", live.owner)] if live else []
    facts_shown += [
        ("database", facts.databases[database].name or database),
        ("schema", model.schema),
        ("comes from", ", ".join(takes) or "nothing"),
    ]
    return page(
        "docs_table.html.j2",
        facts,
        "../",
        [(database, service_href(database)), (model.table, "")],
        heading=f"{database}.{model.table}",
        description=model.description,
        shown=facts_shown,
        unread=unread_of(facts, database),
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


def monolith_page(facts: Facts, table: str) -> str:
    """Give the page of a table of the monolith."""
    known = facts.project.tables[table]
    live, columns = facts.monolith_live(table), facts.monolith_columns(table)
    owner = facts.project.services.get(known.owner)
    reverse = facts.reverse(owner, table) if owner else []
    name = facts.project.name
    unread = {k: v for k, v in facts.unread.items() if k == name}
    return page(
        "docs_table.html.j2",
        facts,
        "../",
        [("monolith", FRONT + "#monolith"), (table, "")],
        heading=f"{name}.{table}",
        description=facts.described(table),
        shown=[
            ("rows", rows_of(live)),
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
