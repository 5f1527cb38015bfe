"""What an operator does after a fault: wait for the servers, `resume`, then what messages say."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import dataclass, field

from tests.support.world import Done, World

MOST_COMMANDS = 8
# A stream that has lost its server tries again for so long before anybody calls it stopped.
SETTLES_SECONDS = 12.0
HINT = re.compile(r"(?:\./)?runner\.py ([a-z][a-z-]*(?: +[A-Za-z0-9_.=-]+)*)")
# These wait for ever, ask, or belong to whoever reads.
PASSING = ("has stopped", "can't be reached", "did not arrive", "error(s) so far")
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
    """Resume, then do what messages say until `status` is content; give up after some commands.

    An operator follows the hints of the command that has just failed. Only when these are done, or
    there are none, he asks for the status.

    Args:
        world: its servers may be down.
        said: what the operation has said when it failed.

    Returns:
        What was done; `why` is empty if `status` is content.
    """
    world.heal()
    recovery = Recovery()
    done = _give(world, recovery, "resume")
    queue = hints(done.stdout) if done.returncode else []
    warnings = ""
    while len(recovery.given) < MOST_COMMANDS:
        if not queue:
            warnings = _complaints(world)
            queue = (hints(warnings) or hints(said)) if warnings else []
        if not queue:
            break
        done = _give(world, recovery, *queue.pop(0))
        if done.returncode:
            queue = hints(done.stdout)
    warnings = _complaints(world)
    last = recovery.given[-1]
    if warnings:
        recovery.why = f"status is not content: {warnings}\nThe last command said: {done.stdout}"
    elif done.returncode:
        recovery.why = f"{last} failed, and status is content: {done.stdout}"
    return recovery


def _give(world: World, recovery: Recovery, *command: str) -> Done:
    begun = time.monotonic()
    done = world.runner(*command)
    seconds = time.monotonic() - begun
    recovery.given.append(f"{' '.join(command)} → {done.returncode} {seconds:.1f}s")
    return done


def _complaints(world: World) -> str:
    """Ask for the status; streams that have lost their server may need a moment."""
    deadline = time.monotonic() + SETTLES_SECONDS
    while found := "\n".join(world.complaints()):
        if time.monotonic() > deadline or not any(one in found for one in PASSING):
            break
        time.sleep(0.3)
    return found
