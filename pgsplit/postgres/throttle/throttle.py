"""The throttle: a thread that measures, decides, opens and shuts gates, and says what it does.

Time goes in slots. Within a slot, work may go on for the share that `pace` has decided; some are
all rest, in which writes are measured as they are without us.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady, SplitError
from pgsplit.base.text import seconds as spoken
from pgsplit.postgres.connect import describe
from pgsplit.postgres.throttle import gate, pace, priority, probe
from pgsplit.postgres.throttle.pace import Limits, Load
from pgsplit.postgres.throttle.unthrottled import Place, Unthrottled

Connection = psycopg.Connection[Any]

WRITES_PER_SLOT = 5
SLOT_SECONDS = WRITES_PER_SLOT * probe.APART_MS / 1000
SLOTS_TO_DECIDE = 8
SLOTS_OF_A_PAUSE = 10
SLOTS_BETWEEN_RESTS = 10
WRITES_AT_FIRST, FIRST_APART_MS = 50, 20
WRITES_REMEMBERED = 100
SLOTS_BETWEEN_LOOKS = 5  # a second
PATIENCE_SECONDS = 1800.0
LONG_SECONDS = 1.0  # a write that takes longer is worth telling
LOOK_SECONDS = 0.1

NEWS = "pgsplit throttle: "  # what the session is called that says what the throttle does
SETTING = """
    select max_impact, asked_at::text from split.throttle where asked_at >= %s::timestamptz
"""


class Throttle(Unthrottled):
    """Slows and pauses own work while a context lasts; see the module."""

    is_on = True

    def __init__(
        self, monolith: Place, control: Place, limits: Limits | None, max_lag_seconds: float
    ) -> None:
        """Prepare a throttle.

        Args:
            monolith: whose applications shall feel nothing.
            control: where `split.throttle` may be changed meanwhile.
            limits: how much they may feel; without any, only priorities are lowered.
            max_lag_seconds: the limit of a follower's lag, whatever is asked for meanwhile.
        """
        self.monolith, self.control = monolith, control
        self.limits, self.max_lag_seconds = limits, max_lag_seconds
        self.pace, self.load, self.load_at_rest = pace.BEGINNING, Load(), Load()
        self.at_rest: deque[float] = deque(maxlen=WRITES_REMEMBERED)
        self.at_work: list[float] = []
        self.on_news: Callable[[str], None] = lambda said: None
        self.places: dict[str, Place] = {}
        self.gates: dict[str, gate.Gate] = {}
        self.unlowered: dict[str, str] = {}
        self.failure: Exception | None = None
        self.may_go_on, self.ended = threading.Event(), threading.Event()
        self.lock = threading.Lock()
        self.pauses = 0  # slots since the pause began
        self.breathes: dict[str, bool] = {}
        self.said, self.asked = "", ""
        self.slowed_seconds = self.paused_seconds = 0.0

    def __enter__(self) -> Throttle:
        """Measure the monolith before any work, then begin to watch."""
        with ExitStack() as opened:
            self.prober = opened.enter_context(
                self.monolith.connect(application_name="pgsplit throttle")
            )
            self.clerk = opened.enter_context(
                self.control.connect(application_name=f"{NEWS}begins")
            )
            self.began = time.monotonic()
            row = self.clerk.execute("select clock_timestamp()::text").fetchone()
            self.since = str(row[0]) if row else ""
            self.at_rest.extend(probe.writes(self.prober, WRITES_AT_FIRST, FIRST_APART_MS))
            self.load = self.load_at_rest = probe.load(self.prober)
            self.join(self.monolith)
            self.may_go_on.set()
            self.opened = opened.pop_all()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the watching; everything goes on at full speed."""
        self.ended.set()
        self.may_go_on.set()
        self.thread.join()
        self.opened.close()

    def wait(self, stop: threading.Event | None = None) -> None:
        """Return once work may go on.

        Args:
            stop: if it is set, return at once.

        Raises:
            NotReady: work has been paused for too long.
            ConnectionFailed: the monolith can't be reached.
            InterruptedError: the work was stopped.
        """
        while self.failure is None and not self.may_go_on.wait(LOOK_SECONDS):
            if stop and stop.is_set():
                return
        if self.failure:
            raise self.failure

    def stop(self) -> None:
        """Have everybody who waits raise InterruptedError: the work is to end."""
        self.failure = InterruptedError("the work was interrupted")

    def join(self, place: Place) -> None:
        """Note that work goes on in a database, too."""
        with self.lock:
            self.places.setdefault(place.name, place)

    def paced(self, place: Place, query: sql.Composable) -> sql.Composable:
        """Give a query with the same rows that waits between some of them while work shall rest."""
        self.join(place)
        if place.name not in self.breathes:
            with place.connect() as connection:  # one of an earlier version has no such function
                row = connection.execute(gate.CAN_BREATHE).fetchone()
            self.breathes[place.name] = row == (True,)
        return gate.breathing(query) if self.breathes[place.name] else query

    def started(self, process: int) -> None:
        """Lower the priority of a process of ours."""
        priority.lower(process)

    @property
    def summary(self) -> str:
        """How much work was slowed, in a few words."""
        if not self.paused_seconds and not self.slowed_seconds:
            return "went at full speed"
        return f"slowed for {spoken(self.slowed_seconds)}, paused for {spoken(self.paused_seconds)}"

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(1) as measuring:
                slot = 0
                while not self.ended.is_set():
                    self._slot(slot, measuring)
                    if slot % SLOTS_BETWEEN_LOOKS == 0:
                        self._look()
                    self._say(self._news())
                    slot += 1
        except (psycopg.Error, SplitError) as error:
            self.failure = error
        finally:
            self.may_go_on.set()
            if self.failure is None:  # else queries that wait must not go on at full speed
                with suppress(psycopg.Error):
                    self._let(True)

    def _slot(self, slot: int, measuring: ThreadPoolExecutor) -> None:
        """Let work go on for its share of a slot, measure meanwhile, and decide at times."""
        if self.limits is None:
            self._let(True)
            self.ended.wait(SLOT_SECONDS)
            return
        began = time.monotonic()
        is_slow = self.pace.share < pace.MOST
        rests = self.pace.is_paused or (is_slow and slot % SLOTS_BETWEEN_RESTS == 0)
        measured = measuring.submit(probe.writes, self.prober, WRITES_PER_SLOT)
        self._let(not rests)
        if not rests and is_slow:
            self.ended.wait(self.pace.share * SLOT_SECONDS)
            self._let(False)
        took = self._await(measured)
        # The first write of a rest may meet what has not stopped yet.
        if not rests:
            self.at_work += took
        elif all(one.is_quiet(began - self.began) for one in self.gates.values()):
            self.at_rest.extend(took[1:])
        passed = time.monotonic() - began
        self.paused_seconds += passed if self.pace.is_paused else 0
        self.slowed_seconds += passed if is_slow and not self.pace.is_paused else 0
        self._decide(slot)

    def _await(self, measured: Future[list[float]]) -> list[float]:
        """Wait for the writes of a slot; if they hang, work pauses until they are through."""
        began, passed = time.monotonic(), 0.0
        while not wait([measured], SLOT_SECONDS * 2).done:
            self._let(False)
            passed = time.monotonic() - began
            if passed > LONG_SECONDS:
                self._say(f"paused: a write waits for {passed:.0f} s")
            if self.ended.is_set() or passed > PATIENCE_SECONDS:
                self.prober.cancel()
            if passed > PATIENCE_SECONDS:
                raise self._impatient(f"a write waits for {spoken(passed)}")
        self.paused_seconds += 0 if self.pace.is_paused else passed
        try:
            return measured.result()
        except psycopg.errors.QueryCanceled:
            return []

    def _decide(self, slot: int) -> None:
        assert self.limits is not None
        if self.pace.is_paused:
            self.pauses += 1
            if self.pauses * SLOT_SECONDS > PATIENCE_SECONDS:
                raise self._impatient(self.pace.why)
            if self.pauses % SLOTS_OF_A_PAUSE or self._lags():
                return
            self.pace, self.at_work = replace(self.pace, is_paused=False), []
        elif self._lags() or len(self.at_work) >= SLOTS_TO_DECIDE * WRITES_PER_SLOT:
            self.pace = pace.adapt(
                self.pace,
                self.limits,
                self.at_work or [0.0],
                self.at_rest,
                self.load,
                self.load_at_rest,
            )
            self.at_work, self.pauses = [], 0
            self.load_at_rest = replace(self.load_at_rest, checkpoints=self.load.checkpoints)

    def _lags(self) -> bool:
        return self.load.lag_seconds > self.max_lag_seconds

    def _let(self, may_go_on: bool) -> None:
        if may_go_on:
            self.may_go_on.set()
        else:
            self.may_go_on.clear()
        for one in self.gates.values():
            (one.open if may_go_on else one.shut)()

    def _look(self) -> None:
        """Look around, once a second: new databases, new sessions, a new limit."""
        self.load = probe.load(self.prober)
        with self.lock:
            new = [one for name, one in self.places.items() if name not in self.gates]
        for place in new:
            connection = self.opened.enter_context(
                place.connect(application_name="pgsplit throttle")
            )
            self.gates[place.name] = gate.Gate(connection)
        for name, one in self.gates.items():
            if said := one.lower(time.monotonic() - self.began):
                self.unlowered[name] = said
        known = self.clerk.execute("select to_regclass('split.throttle') is not null").fetchone()
        row = self.clerk.execute(SETTING, (self.since,)).fetchone() if known == (True,) else None
        if row and row[1] != self.asked:
            self.asked = row[1]
            self.limits = None if row[0] is None else Limits(row[0], self.max_lag_seconds)
            self.pace, self.at_work = pace.BEGINNING, []

    def _say(self, said: str) -> None:
        """Tell people, and other sessions by this one's name, what the throttle does."""
        if said != self.said:
            self.said = said
            self.on_news(said)
            self.clerk.execute(
                "select set_config('application_name', %s, false)", (f"{NEWS}{said}",)
            )

    def _news(self) -> str:
        if self.limits is None:
            return "off"
        if self.pace.is_paused:
            return f"paused: {self.pace.why}"
        if self.pace.share < pace.MOST:
            return f"slowed to {self.pace.share:.0%}: {self.pace.why}"
        return "full speed"

    def _impatient(self, why: str) -> NotReady:
        return NotReady(
            f"The throttle has paused this for {spoken(PATIENCE_SECONDS)}: {why}.",
            where=describe(self.prober.info.dsn),
            hint="Run the same command later: it continues from here. To go on at once, call it"
            " with a greater --max-impact, or without.",
        )
