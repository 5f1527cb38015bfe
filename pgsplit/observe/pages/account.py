"""The page of `runner.py report`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgsplit.observe.history import Report
from pgsplit.observe.pages import render
from pgsplit.observe.pages.dependencies import tone
from pgsplit.observe.verdict import summary, verdict
from pgsplit.state.ledger import State

# The steps whose durations matter; provision is quick.
PHASES = ("land", "build", "verify")


def page(report: Report, services: Sequence[str]) -> str:
    """Give a report as a page.

    Args:
        report: the history of the services.
        services: all services in phase order; the position gives each its colour.

    Returns:
        A complete HTML page.
    """
    proofs = [proof for account in report.accounts for proof in account.proofs]
    return render(
        "account.html.j2",
        report.accounts[0].service.project.short,
        report=report,
        tones={name: tone(name, services) for name in services},
        phases=PHASES,
        verified=[one for one in report.accounts if one.state.reached(State.VERIFIED)],
        tests=[
            node
            for account in report.accounts
            for node in account.nodes("test", "unit_test", "parity")
        ],
        proofs=proofs,
        lives=_lives(report),
        # A switched service's proofs include the monolith's tables; each row counts once.
        identical=sum(proof.found.identical for proof in proofs if not proof.is_of_monolith),
        switched=[one for one in report.accounts if one.state.reached(State.SWITCHED)],
        verdicts={one.service.database: verdict(one, report.made_at) for one in report.accounts},
        summary=summary(report),
        pauses=[
            pause.seconds
            for account in report.accounts
            for operation in account.operations
            if (pause := operation.pause)
        ],
        unequal=sum(
            totals.detail.get("differs", 0)
            for account in report.accounts
            if (totals := account.totals)
        ),
        landed=[last for account in report.accounts if (last := account.last("land"))],
    )


def _lives(report: Report) -> list[dict[str, Any]]:
    """Give the states of each service over the whole time, for a chart."""
    found = []
    for account in report.accounts:
        stretches = [
            {
                "start": one.begins_at.timestamp(),
                "end": one.ends_at.timestamp(),
                "state": one.state.value,
                "weight": list(State).index(one.state) / (len(State) - 1),
                "text": f"{one.state.value} since {one.begins_at:%Y-%m-%d %H:%M} UTC",
            }
            for one in account.life(report.made_at)
            if one.state is not State.ABSENT
        ]
        if stretches:
            found.append({"label": account.service.database, "stretches": stretches})
    return found
