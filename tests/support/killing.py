"""Kills an operation after each of its SQL statements, and looks whether `resume` puts it right.

python -m tests.support.killing switch [FIRST-LAST] [--every N]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tests.support.accounting import account
from tests.support.client_tables import SHOP_TABLES
from tests.support.clients import Client
from tests.support.leftovers import leftovers
from tests.support.run_folder import run_folder, short_folder
from tests.support.world import QUICKLY, World, shop


def drop_reverse_slot(world: World) -> None:
    """Break the reverse stream of `ordering` for good."""
    with world.connections.connect("ordering") as database:
        database.execute(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
            " where slot_name = 'split_ordering_back' and active"
        )
        for _ in range(200):
            gone = database.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where slot_name = 'split_ordering_back' and not active"
            ).rowcount
            if gone:
                return
            database.execute(
                "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
                " where slot_name = 'split_ordering_back' and active"
            )
            time.sleep(0.01)
    raise AssertionError("the slot is in use all the time")


@dataclass(frozen=True)
class Killed:
    """An operation to kill: where it begins, its command, and the states it may end in.

    One that is not resumed is given again, as its documentation says.
    """

    begins: str
    command: tuple[str, ...]
    ends: tuple[str, ...]
    is_resumed: bool = True
    prepare: Callable[[World], None] = lambda world: None

    @property
    def role(self) -> str:
        """The service."""
        return self.command[1]


OPERATIONS = {
    "switch": Killed("verified", ("switch", "ordering", *QUICKLY), ("verified", "switched")),
    "rollback": Killed(
        "switched", ("rollback", "ordering", "--no-backup"), ("verified", "switched")
    ),
    "complete": Killed(
        "accounts switched", ("complete", "accounts", "--no-backup"), ("switched", "completed")
    ),
    "abort": Killed("verified", ("abort", "ordering"), ("verified", "absent")),
    "repair": Killed("switched", ("repair", "ordering"), ("switched",), False, drop_reverse_slot),
    "land": Killed("provisioned", ("land", "ordering"), ("landed",), False),
    "recopy": Killed("verified", ("land", "ordering", "--recopy"), ("landed",), False),
    "provision": Killed("sample", ("provision", "ordering"), ("provisioned",), False),
}


def statements(world: World, operation: Killed) -> list[str]:
    """Run an operation to its end; give its statements, numbered."""
    world.enter(operation.begins)
    operation.prepare(world)
    listing = world.folder / "statements"
    done = world.runner(*operation.command, SPLIT_STATEMENTS=str(listing))
    assert done.returncode == 0, done.stdout
    return listing.read_text().splitlines()


def killed_after(world: World, operation: Killed, number: int) -> tuple[bool, list[str]]:
    """Kill an operation after a statement, and recover as an operator does.

    Returns:
        Whether it was killed at all: polling makes the number of statements vary. And what is
        wrong afterwards, a line each.
    """
    world.enter(operation.begins)
    operation.prepare(world)
    clients = [
        Client(
            table,
            next(one for one in world.project.services.values() if one.role == table.role),
            world.connections,
            f"k{number}{table.role}",
            Random(number),
        )
        for table in SHOP_TABLES
    ]
    for client in clients:
        client.start()
    done = world.runner(*operation.command, SPLIT_KILL=str(number))
    was_killed = done.returncode == -signal.SIGKILL
    found = list(_recovered(world, operation, was_killed, done.stdout))
    for client in clients:
        client.stop()
        found += client.failures
    if not found:
        found = list(_accounted(world, clients))
    return was_killed, found


def _recovered(world: World, operation: Killed, was_killed: bool, said: str) -> Iterator[str]:
    if not was_killed:
        if "Traceback" in said or "error:" in said:
            yield f"it was not killed, and failed: {said}"
        return
    done = world.runner("resume")
    if done.returncode:
        yield f"resume exited with {done.returncode}: {_brief(done.stdout)}"
        return
    if not operation.is_resumed:
        done = world.runner(*operation.command)
        if done.returncode:
            yield f"the same command exited with {done.returncode}: {_brief(done.stdout)}"
    stands = world.states()[operation.role]
    if stands not in operation.ends:
        yield f"it is {stands}"


def _accounted(world: World, clients: list[Client]) -> Iterator[str]:
    yield from world.complaints()
    yield from leftovers(world.connections)
    yield from account(clients, world.connections, world.states())


def _brief(said: str) -> str:
    return " ".join(said.split())[-700:]


def main() -> int:
    """Kill one operation after all or some of its statements; report what is wrong."""
    parser = argparse.ArgumentParser(prog="tests.support.killing")
    parser.add_argument("operation", choices=OPERATIONS)
    parser.add_argument("numbers", nargs="?", default="1-", help="such as 1-50, or 7")
    parser.add_argument("--every", type=int, default=1, help="only each n-th statement")
    parser.add_argument("--offset", type=int, default=0)
    given = parser.parse_args()
    first, dash, last = given.numbers.partition("-")
    operation, failures, kills, started = OPERATIONS[given.operation], 0, 0, time.monotonic()
    with run_folder():
        folder = short_folder("killing-")
        world = World(folder, shop(folder))
        try:
            listed = statements(world, operation)
            print(f"{given.operation}: {len(listed)} statements", flush=True)
            ends = int(last) if last else len(listed) if dash else int(first)
            for number in range(int(first) + given.offset, ends + 1, given.every):
                was_killed, found = killed_after(world, operation, number)
                kills += was_killed
                failures += bool(found)
                if found:
                    said = listed[number - 1] if number <= len(listed) else ""
                    print(f"{given.operation} killed after {number}: {said}")
                    print(*(f"    {line}" for line in found), sep="\n", flush=True)
        finally:
            world.close()
    seconds = time.monotonic() - started
    print(f"{given.operation}: {kills} kills, {failures} failures, {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
