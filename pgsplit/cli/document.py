"""What a command prints with --json: exactly one document; with --follow, one on each line.

A command hands over its result, and `end` prints it with the exit code, and with the error if there
is one. So whatever happens, standard output has one document, and nothing else. `docs/schemas/`
describes each document; its `schema` is the `$id` of its description.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from pgsplit.base.errors import SplitError
from pgsplit.base.text import printable_json, rfc3339

VERSION = 1  # of all descriptions; new fields don't change it
AS_TEXT = (date, time, Decimal, Path, UUID)


def schema_id(kind: str) -> str:
    """Name the schema of a kind of document, such as `status`."""
    return f"urn:pgsplit:schema:{kind}:{VERSION}"


class Document:
    """The document of the command that runs; empty if nobody has asked for JSON."""

    def __init__(self) -> None:
        self.is_wanted = self.is_streaming = False
        self.kind, self.data = "", dict[str, Any]()

    def begin(self, is_wanted: bool) -> None:
        """Begin a command's document, if it was asked for one."""
        self.__init__()  # type: ignore[misc]
        self.is_wanted = is_wanted

    def hold(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a command's result, or a part of it."""
        self.kind = self.kind or kind
        self.data.update(data)

    def fail(self, error: SplitError) -> None:
        """Take what ends the command."""
        self.data["error"] = error.as_data()

    def line(self, kind: str, data: Mapping[str, Any]) -> None:
        """Print one of many documents at once, on a line of its own."""
        self.is_streaming = True
        print(_text({"schema": schema_id(kind), **data}, indent=None), flush=True)

    def end(self, exit_code: int) -> None:
        """Print the document, if there is one to print.

        Args:
            exit_code: the command's. One that has failed and said nothing was stopped.
        """
        if not self.is_wanted:
            return
        if exit_code and not self.data and not self.is_streaming:
            self.fail(SplitError("stopped"))
        if self.data:
            whole = {"schema": schema_id(self.kind or "error"), **self.data, "exit_code": exit_code}
            print(_text(whole, indent=None if self.is_streaming else 2), flush=True)


def _text(data: Mapping[str, Any], indent: int | None) -> str:
    text = json.dumps(data, indent=indent, default=_plain, ensure_ascii=False, allow_nan=False)
    return printable_json(text)


def _plain(value: object) -> object:
    """Give what JSON has no type for: times as RFC 3339, in UTC."""
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, AS_TEXT):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
