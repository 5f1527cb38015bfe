"""What an operator does after a fault: wait for the servers, `resume`, then what messages say."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support.world import Done, World

MOST_COMMANDS = 8
# A stream that has lost its server tries again for so long before anybody calls it stopped.
SETTLES_SECONDS = 12.0
HINT = re.compile(r"(?:\./)?runner\.py ([a-z][a-z-]*(?: +[A-Za-z0-9_.=-]+)*)")
# These wait for ever, ask, or belong to whoever reads.
NOT_FOR_US = ("psql", "history", "up", "demo", "backups", "report")
# Commands that a message may name, which change nothing if they are not needed.
UNFIT = ("--follow", "--max-pause")


@dataclass
class Recovery:
    """The commands that an operator has given, with their exit codes, and how it ended."""

    given: list[str] = field(default_factory=list)
    why: str = ""


def hints(said: str) -> list[list[str]]:
    """Find the commands that a message's hints name, in order, each once."""
    found: list[list[str]] = []
    for line in said.splitlines():
        if "hint:" in line or line.startswith((" ", "To re-copy")):
            for match in HINT.finditer(line):
                words = [one for one in shlex.split(match[1]) if one not in UNFIT]
                words = [one.rstrip(".,;") for one in words]
                if words and words[0] not in NOT_FOR_US and words not in found:
                    found.append(_plain(words))
    return found


def _plain(words: list[str]) -> list[str]:
    """Leave out prose that follows a command."""
    kept = words[:1]
    for word in words[1:]:
        if word in ("or", "then", "and", "as", "if", "in", "to", "it", "gives", "may", "builds"):
            break
        kept.append(word)
    return kept


def recover(world: World, said: str) -> Recovery:
    """Resume, then follow the hints until `status` has nothing to say; give up after some.

    Args:
        world: its servers may be down.
        said: what the operation has said when it failed.

    Returns:
        What was done; `why` is empty if `status` is content.
    """
    world.heal()
    recovery = Recovery()
    done = _give(world, recovery, "resume")
    queue = [] if done.returncode == 0 else hints(done.stdout)
    status = _status(world, recovery)
    while status.returncode and len(recovery.given) < MOST_COMMANDS:
        queue = hints(status.stdout) or queue or hints(said)
        if not queue:
            break
        before = len(recovery.given)
        for command in queue[:3]:
            done = _give(world, recovery, *command)
            if done.returncode:
                queue = hints(done.stdout)
                break
        else:
            queue = []
        if len(recovery.given) == before:
            break
        status = _status(world, recovery)
    if status.returncode:
        recovery.why = (
            f"status is not content (exit {status.returncode}) after"
            f" {', '.join(recovery.given)}: {status.stdout}\n{done.stdout}"
        )
    elif done.returncode and recovery.given[-1].startswith("resume"):
        recovery.why = f"resume failed, and status is content: {done.stdout}"
    return recovery


def _give(world: World, recovery: Recovery, *command: str) -> Done:
    begun = time.monotonic()
    done = world.runner(*command)
    seconds = time.monotonic() - begun
    recovery.given.append(f"{' '.join(command)} → {done.returncode} {seconds:.1f}s")
    return done


def _status(world: World, recovery: Recovery) -> Done:
    """Sync what is built, as followers do all the time, then ask; streams may need a moment."""
    deadline = time.monotonic() + SETTLES_SECONDS
    while True:
        if built := list(_followed(world)):
            world.runner("sync", *built)
        done = world.runner("status")
        if done.returncode == 0 or time.monotonic() > deadline or not _is_passing(done.stdout):
            return done
        time.sleep(0.3)


def _is_passing(said: str) -> bool:
    return "has stopped" in said or "can't be reached" in said or "starting" in said


def _followed(world: World) -> Iterator[str]:
    for role, stands in world.states().items():
        if stands in ("built", "verified", "switched", "completed"):
            yield role
