"""The ledger's entries, and the switches, rollbacks, completions and aborts that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgsplit.state.saga import OPERATIONS

# The steps of a switch or a rollback during which writers are paused; the last one if it is undone.
IN_PAUSE = ("close", "drain", "decide", "open", "point", "undo close")


@dataclass(frozen=True)
class Entry:
    """An entry of the ledger; without an outcome it was interrupted, or is under way."""

    service: str
    step: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    intent: dict[str, Any]
    detail: dict[str, Any]

    @property
    def seconds(self) -> float | None:
        """How long it took; None if it has not ended."""
        return (self.finished_at - self.started_at).total_seconds() if self.finished_at else None

    @property
    def part_of(self) -> str:
        """The operation that it is a step of, such as switch; nothing if there is none."""
        operation, colon, _ = self.step.partition(": ")
        return operation if colon and operation in OPERATIONS else ""

    @property
    def is_unfinished(self) -> bool:
        """Whether it was neither finished nor undone."""
        return self.outcome is None or bool(self.detail.get("unfinished"))


@dataclass(frozen=True)
class Pause:
    """A pause of writers, with its steps, by the ledger's clock."""

    closed_at: datetime
    opened_at: datetime
    steps: Sequence[Entry]

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.opened_at - self.closed_at).total_seconds()


@dataclass(frozen=True)
class Operation:
    """A switch, a rollback, a completion or an abort.

    `runs` are its entries in the ledger: more than one if it was interrupted and resumed. `parts`
    are the steps of all runs.
    """

    runs: Sequence[Entry]
    parts: Sequence[Entry]

    @property
    def name(self) -> str:
        """The operation's name, such as switch."""
        return self.runs[0].step

    @property
    def outcome(self) -> str:
        """How it ended: done, undone, failed, or interrupted if nobody has resumed it."""
        last = self.runs[-1]
        if last.is_unfinished:
            return "interrupted"
        if last.outcome == "done":
            return "done"
        return "undone" if self.name in ("switch", "rollback") else "failed"

    @property
    def error(self) -> str:
        """The first error, if the operation is not done."""
        said = [str(one.detail["error"]) for one in self.runs if one.detail.get("error")]
        return said[0] if said and self.outcome != "done" else ""

    def detail(self, part: str) -> dict[str, Any]:
        """Give the recorded details of a step that was done, or nothing."""
        done = [one.detail for one in self._named(part) if one.outcome == "done" and one.detail]
        return done[-1] if done else {}

    @property
    def by(self) -> str:
        """Who began it, where and with which commit; nothing if that was not recorded."""
        by = self.runs[0].intent.get("by", {})
        who = "@".join(filter(None, (by.get("operator"), by.get("host"))))
        return ", commit ".join(filter(None, (who, by.get("commit"))))

    @property
    def warnings(self) -> list[str]:
        """What it has warned of, each once."""
        said = [one for part in self.parts for one in part.detail.get("warnings", ())]
        return list(dict.fromkeys(said))

    @property
    def tries(self) -> int | None:
        """How often it tried to close the write fence; None if it never closed."""
        tries = self.detail("close").get("tries")
        return None if tries is None else int(tries)

    @property
    def pause(self) -> Pause | None:
        """The pause of writers; None if there was none, or if it is unknown.

        The two moments come from two servers' clocks. One of them is the ledger's; the times that
        the ledger recorded limit how far the other one can be off.
        """
        closes = [one for one in self._named("close") if "closed_at" in one.detail]
        opens = [one for one in self._named("open") if "opened_at" in one.detail]
        if not closes or not opens:
            return self._undone_pause(closes[-1]) if closes and self.outcome == "undone" else None
        close, last = closes[-1], opens[-1]
        closed, opened = _end(close), _end(last)
        closed_at, opened_at = (
            _moment(close.detail["closed_at"]),
            _moment(last.detail["opened_at"]),
        )
        length = max(opened_at - closed_at, last.started_at - closed)
        length = min(length, opened - close.started_at)
        end = min(max(opened_at, last.started_at), opened)
        return Pause(end - length, end, self._within_pause(close))

    def _undone_pause(self, close: Entry) -> Pause | None:
        """Give an undone operation's pause: until its fence opened, or until the lease expired."""
        undone = [_end(one) for one in self._named("undo close") if one.outcome == "done"]
        most = self.runs[0].intent.get("max_pause")
        moments = undone[:1] + ([_end(close) + timedelta(seconds=float(most))] if most else [])
        return Pause(_end(close), min(moments), self._within_pause(close)) if moments else None

    @property
    def first_write_seconds(self) -> float | None:
        """The seconds from opening the fence to the first write, if one came soon."""
        opened = self.detail("open").get("opened_at")
        first = self.detail("finish").get("first_write_at")
        if not opened or not first or first == "none yet":
            return None
        return (_moment(first) - _moment(opened)).total_seconds()

    @property
    def kept(self) -> dict[str, tuple[str, int]]:
        """By table, where a rollback has quarantined rows for the monolith, and how many."""
        kept = self.detail("finish").get("kept", {})
        return {table: (where, int(rows)) for table, (where, rows) in kept.items()}

    def _named(self, part: str) -> list[Entry]:
        return [one for one in self.parts if one.step == f"{self.name}: {part}"]

    def _within_pause(self, close: Entry) -> list[Entry]:
        """Give the steps from closing the fence to changing the routes, or to the undoing."""
        names = [f"{self.name}: {part}" for part in IN_PAUSE]
        since = [one for one in self.parts if one.started_at >= close.started_at]
        return [one for one in since if one.step in names and one.finished_at]


def _moment(said: str) -> datetime:
    return datetime.fromisoformat(said)


def _end(step: Entry) -> datetime:
    return step.finished_at or step.started_at
