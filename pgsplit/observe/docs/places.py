"""Where each page of the site is."""

from __future__ import annotations

from pgsplit.observe.docs.facts import Facts
from pgsplit.observe.pages import slug

TONES = 6


def service_href(database: str) -> str:
    """Give the page of a service."""
    return f"services/{slug(database)}.html"


def table_href(database: str, table: str, column: str = "") -> str:
    """Give the page of a service's table, or the place of a column on it."""
    return f"tables/{slug(database)}.{slug(table)}.html" + _column(column)


def monolith_href(table: str, column: str = "") -> str:
    """Give the page of a table of the monolith, or the place of a column on it."""
    return f"monolith/{slug(table)}.html" + _column(column)


def _column(name: str) -> str:
    return f"#column-{slug(name)}" if name else ""


def tone(facts: Facts, database: str) -> int:
    """Give the number of a service's colour; 0 means no service."""
    services = list(facts.project.services)
    return services.index(database) % TONES + 1 if database in services else 0
