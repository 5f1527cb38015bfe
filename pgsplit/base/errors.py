"""Errors as types; each says what happened, where, and how to fix it.

SplitError
├── ConnectionFailed    a server can't be reached, or refuses the login          exit 3
├── NotReady            a server lacks a setting, a slot, a privilege, a phase   exit 4
├── SourceMismatch      the monolith is not the one this project was written for exit 5
├── TargetOccupied      a service database holds objects of somebody else        exit 6
├── BuildFailed         a service database can't be built, tested or synced      exit 7
├── EmbeddedFailed      the embedded server can't be started or stopped          exit 8
└── DataDiffers         a service's rows differ from the monolith's              exit 9

Exit 2 is a mistyped command line; exit 1 is a bug.
"""

from __future__ import annotations

import re


class SplitError(Exception):
    """Say what went wrong, where, and how to fix it.

    Args:
        what: one sentence with the names and values that were found.
        where: the database, table or file concerned, without passwords.
        hint: the statement or command that fixes it.
        fields: further names and values, for programs.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "", **fields: object) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.fields = fields

    @property
    def code(self) -> str:
        """The kind of error, such as `not_ready`; it stays when a message changes."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def as_data(self) -> dict[str, object]:
        """Give the error for programs; `mend` is the former name of `hint`."""
        return {
            "code": self.code,
            "what": self.what,
            "where": self.where,
            "hint": self.hint,
            "mend": self.hint,
            **self.fields,
        }

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append("  hint:  " + self.hint.replace("\n", "\n         "))
        return "\n".join(lines)


class ConnectionFailed(SplitError):
    """A server can't be reached, or refuses the login."""

    exit_code = 3


class NotReady(SplitError):
    """A server lacks a setting, a free slot, a privilege or an earlier phase."""

    exit_code = 4


class SourceMismatch(SplitError):
    """The monolith lacks a table, column or key, or has one of another type."""

    exit_code = 5


class TargetOccupied(SplitError):
    """A service database holds objects of somebody else."""

    exit_code = 6


class BuildFailed(SplitError):
    """dbt can't build a service database, a test failed, or rows violate a constraint."""

    exit_code = 7


class EmbeddedFailed(SplitError):
    """The embedded PostgreSQL server can't be started or stopped."""

    exit_code = 8


class DataDiffers(SplitError):
    """A service's rows differ from the monolith's."""

    exit_code = 9


class Busy(NotReady):
    """Somebody else's writes or locks keep a sync from finishing."""
