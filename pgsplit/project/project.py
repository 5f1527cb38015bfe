"""The monolith and its six services, in the order in which they are split off."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from pgsplit.base.errors import SplitError

ROOT = Path(__file__).resolve().parents[2]
MONOLITH = "blytz_hire"
MIRROR_SCHEMA = "blytz_hire"


@dataclass(frozen=True)
class Service:
    """One service database: its name, its place in the order, and its two roles."""

    database: str
    phase: int
    role: str
    holds: str

    @property
    def owner(self) -> str:
        """The role that owns the database and all that is in it; nobody logs in as it."""
        return f"{self.role}_owner"

    @property
    def login(self) -> str:
        """The role that the service itself connects as."""
        return f"{self.role}_service"

    @property
    def mark(self) -> str:
        """The comment on the schema `split` of the database that was provisioned for it."""
        return f"made by the blytz_hire split for {self.database}"

    @property
    def replication(self) -> str:
        """The name of the service's publication, slot and subscription."""
        return f"split_{self.database}"

    @property
    def way_back(self) -> str:
        """The name of those three on the way back to the monolith."""
        return f"{self.replication}_back"


def _read() -> dict[str, Service]:
    with (ROOT / "seeds" / "services.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["phase"]))
    return {
        row["database"]: Service(row["database"], int(row["phase"]), row["role"], row["holds"])
        for row in rows
    }


SERVICES_BY_NAME = _read()
SERVICES = tuple(SERVICES_BY_NAME)


class UnknownService(SplitError):
    """A name was given that is no service."""

    exit_code = 2


def select(names: tuple[str, ...]) -> list[Service]:
    """Find services by the names that people use, in phase order.

    Args:
        names: database names (`payments_db`) or short names (`payments`); none means all six.

    Returns:
        The services, each once, in the order of their phases.

    Raises:
        UnknownService: a name is no service; the message lists those that exist.
    """
    by_any_name = {**SERVICES_BY_NAME, **{s.role: s for s in SERVICES_BY_NAME.values()}}
    for name in names:
        if name not in by_any_name:
            raise UnknownService(
                f"There is no service called {name!r}.",
                where="the command line",
                mend=f"Choose from: {', '.join(s.role for s in SERVICES_BY_NAME.values())}.",
            )
    wanted = {by_any_name[name] for name in names} or set(SERVICES_BY_NAME.values())
    return [service for service in SERVICES_BY_NAME.values() if service in wanted]
