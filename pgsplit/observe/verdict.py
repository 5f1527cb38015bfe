"""Go or no-go: whether the ledger has anything against a service's next operation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from pgsplit.cutover.preflight import PROOF_HOURS
from pgsplit.observe.history import Account, Report
from pgsplit.state.ledger import State


@dataclass(frozen=True)
class Verdict:
    """Whether a service may go on to its next operation; `operation` is empty if there is none."""

    operation: str
    reasons: list[str] = field(default_factory=list)

    @property
    def go(self) -> bool:
        """Whether nothing recorded is against it."""
        return not self.reasons

    def __str__(self) -> str:
        if not self.operation:
            return "Done: nothing is left to do"
        if self.go:
            return f"Go: {self.operation}"
        return f"No-go: {self.operation}: {'; '.join(self.reasons)}"


def verdict(account: Account, now: datetime) -> Verdict:
    """Judge one service by what is recorded; only the operation itself asks the servers.

    Args:
        account: what is recorded of it.
        now: the time.
    """
    role = account.service.role
    if account.state is State.COMPLETED:
        return Verdict("")
    operation = "complete" if account.state is State.SWITCHED else "switch"
    operations = account.operations
    if operations and operations[-1].outcome == "interrupted":
        return Verdict(
            operation, [f"the last {operations[-1].name} was interrupted: runner.py resume"]
        )
    if not account.state.reached(State.BUILT):
        return Verdict(operation, [f"it is {account.state.value}: runner.py run {role}"])
    return Verdict(operation, [*_failed(account), *_unproven(account, now)])


def _failed(account: Account) -> Iterator[str]:
    """Say which steps and checks have failed last."""
    role = account.service.role
    for step in ("land", "build"):
        if (newest := account.newest(step)) and newest.outcome == "failed":
            yield f"the last {step} failed: runner.py run {role}"
    tests = account.nodes("test", "unit_test", "parity")
    if failed := sum(node["status"] in ("fail", "error") for node in tests):
        yield f"{failed} {'test' if failed == 1 else 'tests'} failed: runner.py build {role}"
    if (totals := account.totals) and (count := totals.detail.get("differs")):
        said = "total differs" if count == 1 else "totals differ"
        yield f"{count} {said}: runner.py totals {role}"


def _unproven(account: Account, now: datetime) -> list[str]:
    """Say why what is recorded does not prove that the rows are right, now."""
    verify = f"runner.py verify {account.service.role}"
    if account.state is State.BUILT or not account.current:
        return [f"it is not verified: {verify}"]
    if unproven := [one.table for one in account.current if not one.is_proven]:
        return [f"not proven: {', '.join(unproven)}: {verify}"]
    if account.state is State.SWITCHED and account.proven_before_move:
        return [f"it was not verified since the switch: {verify}"]
    oldest = min(one.finished_at for one in account.current)
    hours = (now - oldest).total_seconds() / 3600
    if hours > PROOF_HOURS:
        return [f"last verified {hours:.0f} hours ago; the limit is {PROOF_HOURS} hours: {verify}"]
    return []


def summary(report: Report) -> str:
    """Say in a line whether all services of a report may go on."""
    found = {one.service.role: verdict(one, report.made_at) for one in report.accounts}
    against = {role: one for role, one in found.items() if not one.go}
    if not any(one.operation for one in found.values()):
        return "Done: nothing is left to do"
    if not against:
        ready = [f"{one.operation} {role}" for role, one in found.items() if one.operation]
        return f"Go: {', '.join(ready)}"
    return "No-go: " + "; ".join(f"{role}: {one.reasons[0]}" for role, one in against.items())
