"""The page of `runner.py report`."""

from __future__ import annotations

from migration.ledger import State
from migration.pages import render
from migration.pages.dependencies import tone
from migration.report import Report
from migration.services import SERVICES

# What an engineer asks of a step; provision and release only make room.
PHASES = ("land", "build", "verify")


def page(report: Report) -> str:
    """Give a report as a page.

    Args:
        report: what the ledger tells.

    Returns:
        HTML that is complete in itself.
    """
    return render(
        "account.html.j2",
        report=report,
        tones={name: tone(name, SERVICES) for name in SERVICES},
        phases=PHASES,
        verified=[one for one in report.accounts if one.state.reached(State.VERIFIED)],
        tests=[
            node
            for account in report.accounts
            for node in account.nodes("test", "unit_test", "parity")
        ],
        proofs=[proof for account in report.accounts for proof in account.proofs],
        unequal=sum(
            totals.detail.get("differs", 0)
            for account in report.accounts
            if (totals := account.totals)
        ),
        landed=[last for account in report.accounts if (last := account.last("land"))],
    )
