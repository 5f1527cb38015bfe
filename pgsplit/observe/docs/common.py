"""What all pages of the site have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgsplit.observe.docs.catalogue import LiveTable
from pgsplit.observe.docs.facts import LEDGER, Facts
from pgsplit.observe.pages import render

FRONT = "index.html"


def page(
    template: str, facts: Facts, root: str, crumbs: Sequence[tuple[str, str]], **data: Any
) -> str:
    """Fill in a page of the site.

    Args:
        template: its file.
        facts: what the site says.
        root: the way to the front page.
        crumbs: the texts and pages that lead here.
        data: the template's variables.
    """
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


def rows_of(live: LiveTable | None) -> str:
    """Say how many rows a table has."""
    if live is None or live.rows is None:
        return "unknown"
    return f"{'about ' if live.is_estimate else ''}{live.rows:,}"


def unread_of(facts: Facts, database: str) -> dict[str, str]:
    """Give what a page about a service lacks."""
    lacking = (database, LEDGER)
    return {name: why for name, why in facts.unread.items() if name in lacking}
