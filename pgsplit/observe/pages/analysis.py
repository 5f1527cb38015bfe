"""The page of `runner.py analyze`."""

from __future__ import annotations

from pgsplit.observe.analyze import SEVERITIES, Analysis, by_owner, grouped
from pgsplit.observe.pages import dependencies, render
from pgsplit.project.project import SERVICES


def page(analysis: Analysis) -> str:
    """Give an analysis as a page.

    Args:
        analysis: what was found.

    Returns:
        HTML that is complete in itself.
    """
    there = [one for one in analysis.tables if one.is_there]
    return render(
        "analysis.html.j2",
        analysis=analysis,
        tables=there,
        services=by_owner(analysis.tables, SERVICES),
        tones={name: dependencies.tone(name, SERVICES) for name in (*SERVICES, None, "nobody")},
        drawing=dependencies.draw(analysis.tables, analysis.references, SERVICES),
        crossing=[one for one in analysis.references if one.crosses],
        groups=grouped(analysis.findings),
        counts={
            severity: sum(one.severity == severity for one in analysis.findings)
            for severity in SEVERITIES
        },
    )
