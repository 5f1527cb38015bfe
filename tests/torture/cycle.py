"""One cycle: a random life of some services while clients write, with faults, and its account."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.support.accounting import Loss, account
from tests.support.bouncer import PGBOUNCER
from tests.support.client_tables import Table
from tests.support.clients import NO_ROOM, Client
from tests.support.leftovers import leftovers
from tests.support.world import MONOLITH, QUICKLY, SAMPLE, SERVICE, SYNCED, Done, World
from tests.torture.faults import FAULTS, Fault, Scene, draw
from tests.torture.recovery import recover
from tests.torture.refusals import ask, is_unfinished, must_refuse, refused

# An operation may refuse, and undo itself, when clients or a slow machine keep it waiting.
MAY_REFUSE = (
    "The pause was longer",
    "is locked by",
    "are in use",
    "keeps reading or writing",
    "has not been built: it could not land any more",  # after `land --recopy` of another service
)
# Faults come while an operation is under way: within the time that the last one has taken here.
FAULT_SECONDS = {"run": 5.0}
OTHER_FAULT_SECONDS = 0.8
FAULTY = 0.75
# An abort may refuse then: first a build has to copy them to the schema audit.
MAY_HOLD_ROWS = "may hold rows that the monolith has lost"
POOLED = 0.25
# How often a step is an operation that must be refused, or one that was interrupted is followed by
# another one before `resume`.
REFUSED = 0.2
HASTY = 0.5
# Every code that docs/architecture.md names, and ends by the signals that faults send.
CODES = (0, 2, 3, 4, 5, 6, 7, 8, 9, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
# Followers run beside these; the others end or begin what they follow.
FOLLOWED = ("verify", "switch", "rollback")


@dataclass
class Outcome:
    """How a cycle went: its life with the faults, what is wrong, and how much was written."""

    seed: int
    life: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    writes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    folder: Path | None = None

    def line(self) -> str:
        """Give it in one line."""
        verdict = "FAILED" if self.wrong else "ok"
        counted = ", ".join(f"{count} {what}" for what, count in sorted(self.writes.items()))
        life = "; ".join(self.life)
        return f"{self.seed}: {verdict}, {self.seconds:.1f} s: {life} ({counted})"


class Cycle:
    """One cycle in a world; the same seed draws the same life and faults."""

    def __init__(
        self, world: World, tables: tuple[Table, ...], seed: int, begins: tuple[str, ...]
    ) -> None:
        self.world, self.random, self.outcome = world, Random(seed), Outcome(seed)
        self.faults: tuple[Fault, ...] = FAULTS
        self.losses: list[Loss] = []
        self.follows = self.random.random() < 0.5
        self.begins = self.random.choice(begins)
        self.pools = PGBOUNCER is not None and self.random.random() < POOLED
        services = {one.role: one for one in world.project.services.values()}
        self.roles = [table.role for table in tables]
        self.clients = [
            Client(
                table,
                services[table.role],
                world.as_people,
                f"c{number}{table.role}",
                Random(self.random.random()),
            )
            for table in tables
            for number in range(2)
        ]

    def run(self, keep: Path) -> Outcome:
        """Live through it; keep logs and the clients' records in a folder if anything is wrong."""
        world, outcome = self.world, self.outcome
        world.prepare(self.begins)  # once in a world, so it is not this cycle's time
        started = time.monotonic()
        world.enter(self.begins)
        if self.pools and self.begins != SAMPLE:
            world.pool()
            for client in self.clients[::2]:
                client.pool = world.bouncer.url(client.service.role)
            outcome.life.append("half of the clients by PgBouncer")
        versions = "/".join(world.nodes[side].version for side in (MONOLITH, SERVICE))
        outcome.life.append(
            f"{world.project.name} on {versions}, {self.begins}" + self.follows * ", with followers"
        )
        for client in self.clients:
            client.start()
        try:
            for _ in range(self.random.randint(2, 4)):
                self._step()
                if outcome.wrong:
                    break
            outcome.wrong += self._wrong_at_the_end()
        except Exception as error:  # noqa: BLE001 a cycle that breaks is shown like one that fails
            outcome.wrong.append(f"the cycle broke: {type(error).__name__}: {error}")
        for client in self.clients:
            client.stop()
            outcome.writes += client.counts
        if outcome.wrong:
            outcome.folder = self._keep(keep)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _step(self) -> None:
        """Do one operation, perhaps with a fault, and recover; or one that must be refused."""
        if self.random.random() < REFUSED and self._step_refused():
            return
        command = self._next()
        if not command:
            return
        self._follow(command[0])
        scene = Scene(self.world, self.random, self.clients)
        fault = self._fault()
        takes = self.world.takes.get(command[0], FAULT_SECONDS.get(command[0], OTHER_FAULT_SECONDS))
        delay = self.random.random() * takes
        if fault and fault.prepare:
            fault.prepare(scene)
        begun = time.monotonic()
        scene.process = self.world.start(*command)
        happened: list[str] = []
        if fault:
            self.outcome.faults[fault.name] += 1
            thread = threading.Thread(
                target=lambda: (time.sleep(delay), happened.append(fault.happens(scene)))
            )
            thread.start()
            done = self.world.ended(scene.process)
            thread.join()
        else:
            done = self.world.ended(scene.process)
            self.world.takes[command[0]] = time.monotonic() - begun
        said = f"{' '.join(word for word in command[:3] if word not in QUICKLY)}"
        if fault:
            said += f" [{fault.name}: {', '.join(happened) or 'broke'}, after {delay:.2f} s]"
        said += f" → {done.returncode} {time.monotonic() - begun:.1f}s"
        self.outcome.life.append(said)
        self.losses += scene.losses
        if fault and not happened:
            self.outcome.wrong.append(f"the fault {fault.name} broke")
        self.outcome.wrong += self._judge(command, done, fault)

    def _fault(self) -> Fault | None:
        if self.random.random() >= FAULTY:
            return None
        left = tuple(one for one in self.faults if not (one.loses and self.losses))
        return draw(self.random, left) if left else None

    def _follow(self, operation: str) -> None:
        if self.follows and operation in FOLLOWED:
            self.world.follow()
        else:
            self.world.stop_following()

    def _step_refused(self) -> bool:
        """Try an operation that must be refused, and recover; tell whether there was one."""
        role = self.random.choice(self.roles)
        tried = refused(self.world, self.random, role, self.world.states()[role])
        if tried is None:
            return False
        what, wrong, said = tried
        self.outcome.life.append(what)
        self.outcome.wrong += wrong or self._recover(said)
        return True

    def _judge(self, command: tuple[str, ...], done: Done, fault: Fault | None) -> Iterator[str]:
        # Exit code 1 is a bug; Ctrl-C before Python has started shows its own traceback.
        is_bug = done.returncode not in CODES or "it hung for" in done.stdout
        is_bug |= "Traceback" in done.stdout and done.returncode != -signal.SIGINT
        if is_bug and NO_ROOM not in done.stdout:
            yield f"{' '.join(command)}: {done.stdout}"
        may_refuse = fault or any(one in done.stdout for one in MAY_REFUSE)
        if done.returncode and not may_refuse:
            yield f"{' '.join(command)} failed without a fault: {done.stdout}"
        if fault or done.returncode:
            self.world.heal()
            yield from self._refuses(command, fault)
            yield from self._recover(done.stdout if done.returncode else "")
        if command[0] == "abort" and fault and fault.loses:
            # What a server has that is back in a moment before it, is removed once more.
            again = self.world.runner(*command)
            self.outcome.life.append(f"(abort {command[1]} → {again.returncode})")
            if again.returncode and MAY_HOLD_ROWS not in again.stdout:
                yield f"abort once more: {again.stdout}"

    def _refuses(self, command: tuple[str, ...], fault: Fault | None) -> Iterator[str]:
        """Try what must be refused until the operator has done something about the fault."""
        role = command[1]
        if fault and fault.prepare and command[0] in ("switch", "rollback"):
            # No stream counts as proven on the new server, or the operation is unfinished.
            operation = must_refuse(self.world, role)
        elif self.random.random() < HASTY and is_unfinished(self.world, role):
            operation = must_refuse(self.world, role) or "switch"
        else:
            return
        if operation:
            done, wrong = ask(self.world, role, operation)
            self.outcome.life.append(f"({operation} {role} → {done.returncode})")
            yield from wrong

    def _recover(self, said: str) -> Iterator[str]:
        recovery = recover(self.world, said)
        self.outcome.life.append(f"({', '.join(recovery.given)})")
        if recovery.why:
            yield recovery.why

    def _next(self) -> tuple[str, ...]:
        """Draw a command that a service's state allows."""
        states = {role: one for role, one in self.world.states().items() if role in self.roles}
        going = [role for role, one in states.items() if one != "completed"]
        if not going:
            return ()
        role = self.random.choice(going)
        stands, chance = states[role], self.random.random()
        some_completed = "completed" in states.values()
        if stands in ("absent", "provisioned", "landed"):
            return () if some_completed and stands == "absent" else ("run", role)
        if stands == "built":
            return ("verify", role)
        if stands == "verified":
            # After a failover the service may be the only one that has a row.
            if chance < 0.12 and not some_completed and not self.losses:
                return ("abort", role)
            return ("switch", role, *QUICKLY)
        if chance < 0.2:
            return ("complete", role, "--no-backup")
        return ("rollback", role, "--no-backup")

    def _wrong_at_the_end(self) -> Iterator[str]:
        """Account for every write, prove the rest, and look for what is left over."""
        self.world.stop_following()
        for client in self.clients:
            client.stop()
            yield from client.failures
        if self.outcome.wrong:
            return
        built = [role for role, one in self.world.states().items() if one in SYNCED]
        yield from self.world.complaints()
        if built:
            done = self.world.runner("verify", *built)
            if done.returncode:
                yield f"verify at the end exited with {done.returncode}: {done.stdout}"
        states = self.world.states()
        yield from account(
            self.clients, self.world.connections, states, self.losses, self.outcome.writes
        )
        # A monolith that has lost what made a service can't have it removed either.
        services = self.world.project.services.values() if self.losses else ()
        forgotten = {one.database for one in services if states[one.role] == "absent"}
        yield from (
            one
            for one in leftovers(self.world.connections)
            if one.partition(":")[0] not in forgotten
        )

    def _keep(self, folder: Path) -> Path:
        kept = folder / f"torture-{self.outcome.seed}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for log in self.world.folder.glob("*/log"):
            shutil.copy(log, kept / f"{log.parent.name}.log")
        for client in self.clients:
            client.save(kept)
        (kept / "commands").write_text("\n".join(self.world.said))
        (kept / "outcome").write_text(
            self.outcome.line() + "\n\n" + "\n\n".join(self.outcome.wrong) + "\n"
        )
        return kept
