"""The page of `runner.py analyze`."""

from __future__ import annotations

from collections.abc import Sequence

from pgsplit.observe.analyze import SEVERITIES, Analysis, by_owner, grouped
from pgsplit.observe.pages import dependencies, render


def page(analysis: Analysis, services: Sequence[str]) -> str:
    """Give an analysis as a page.

    Args:
        analysis: the findings.
        services: all services in phase order; the position gives each its colour.

    Returns:
        A complete HTML page.
    """
    there = [one for one in analysis.tables if one.is_there]
    return render(
        "analysis.html.j2",
        analysis=analysis,
        tables=there,
        services=by_owner(analysis.tables, services),
        tones={name: dependencies.tone(name, services) for name in (*services, None, "nobody")},
        drawing=dependencies.draw(analysis.tables, analysis.references, services),
        crossing=[one for one in analysis.references if one.crosses],
        groups=grouped(analysis.findings),
        counts={
            severity: sum(one.severity == severity for one in analysis.findings)
            for severity in SEVERITIES
        },
    )
