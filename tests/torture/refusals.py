"""Operations that must be refused: with the documented exit code, and with nothing changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from random import Random

from pgsplit.base.errors import NotReady
from pgsplit.project.project import Service
from pgsplit.routing import env_file
from pgsplit.routing.env_file import Side
from pgsplit.state.saga import left_unfinished
from tests.support.clients import Connection
from tests.support.world import QUICKLY, Done, World

# A transaction is in the way if it has been open for longer than two seconds.
LONG_SECONDS = 2.5
# Clients write meanwhile, and nothing notes it.
A_WHILE = 0.3
COMMANDS = {"switch": QUICKLY, "rollback": ("--no-backup",), "complete": ("--no-backup",)}
MOVES = {"verified": ("switch",), "switched": ("rollback", "complete")}
DROP_SLOT = """
    do $$ begin
        for i in 1..500 loop
            perform pg_terminate_backend(active_pid) from pg_replication_slots
            where slot_name = '{0}' and active;
            begin
                perform pg_drop_replication_slot('{0}');
                return;
            exception when object_in_use then perform pg_sleep(0.01);
            end;
        end loop;
        raise 'the slot {0} is in use all the time';
    end $$
"""
CAPTURES = """
    select tgname, tgenabled = 'R' from pg_trigger
    where tgrelid = %s::regclass and not tgisinternal and tgname like 'split%%'
        and tgenabled <> 'D'
    order by 1
"""
AGE = """
    update split.ledger
    set
        started_at = started_at + make_interval(hours => %(hours)s),
        finished_at = finished_at + make_interval(hours => %(hours)s)
    where service = %(service)s and step = 'verify'
"""
# What an operation records before it changes anything.
BEGUN = "select count(*) from split.ledger where service = %s and step = any(%s)"


@dataclass(frozen=True)
class Where:
    """A service that stands somewhere, and its two databases."""

    service: Service
    stands: str
    monolith: Connection
    database: Connection

    @property
    def source(self) -> Connection:
        """The database whose writes replicate."""
        return self.database if self.stands == "switched" else self.monolith

    @property
    def target(self) -> Connection:
        """The database that follows."""
        return self.monolith if self.stands == "switched" else self.database

    @property
    def stream(self) -> str:
        """The stream's name."""
        reverse = self.stands == "switched"
        return self.service.reverse_replication if reverse else self.service.replication


Put = Callable[[Where, str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Obstacle:
    """Why an operation must be refused; a message has one of the words in `says`.

    It is `put` on one of the service's tables, by its names on both sides, for the block.
    """

    name: str
    put: Put
    says: tuple[str, ...]
    stands: tuple[str, ...] = ("verified", "switched")


@contextmanager
def _another_slot(where: Where, table: str) -> Iterator[None]:
    where.source.execute(DROP_SLOT.format(where.stream).encode())
    time.sleep(A_WHILE)
    where.source.execute(
        "select pg_create_logical_replication_slot(%s, 'pgoutput')", (where.stream,)
    )
    yield


@contextmanager
def _no_capture(where: Where, table: str) -> Iterator[None]:
    """Disable the triggers that note changes for a while."""
    schema = where.service.database if where.stands == "switched" else where.service.mirror
    relation = f"{schema}.{table}"
    found = where.database.execute(CAPTURES, (relation,)).fetchall()
    assert found, f"{relation} has no triggers"
    for name, _ in found:
        where.database.execute(f"alter table {relation} disable trigger {name}".encode())
    time.sleep(A_WHILE)
    for name, is_replica in found:
        how = "replica" if is_replica else ""
        where.database.execute(f"alter table {relation} enable {how} trigger {name}".encode())
    yield


@contextmanager
def _paused(where: Where, table: str) -> Iterator[None]:
    where.target.execute(f"alter subscription {where.stream} disable".encode())
    yield
    where.target.execute(f"alter subscription {where.stream} enable".encode())


@contextmanager
def _writing(where: Where, table: str) -> Iterator[None]:
    """Have a transaction open that has written the table which the operation is to close."""
    schema = where.service.database if where.stands == "switched" else where.service.mirror
    # Both are in use: `complete` retires the one in the monolith.
    sides = [(where.source, schema)]
    if where.stands == "switched":
        sides.append((where.monolith, where.service.mirror))
    for connection, name in sides:
        connection.execute("begin")
        connection.execute(f"lock table {name}.{table} in row exclusive mode".encode())
    time.sleep(LONG_SECONDS)
    yield
    for connection, _ in sides:
        connection.execute("rollback")


@contextmanager
def _lagging(where: Where, table: str) -> Iterator[None]:
    """Keep the stream from writing the table on which it ends."""
    where.target.execute("begin")
    where.target.execute(f"lock table {where.service.mirror}.{table} in share mode".encode())
    yield
    where.target.execute("rollback")


@contextmanager
def _old_proof(where: Where, table: str) -> Iterator[None]:
    for hours in (-30, 30):
        where.monolith.execute(AGE, {"hours": hours, "service": where.service.database})
        if hours < 0:
            yield


OBSTACLES = (
    Obstacle("another slot", _another_slot, ("is not proven any more", "is gone", "re-created")),
    Obstacle("captures nothing for a while", _no_capture, ("is not proven any more",)),
    Obstacle("a paused stream", _paused, ("has paused replication",)),
    Obstacle("an open transaction", _writing, ("process ", "pg_terminate_backend")),
    Obstacle(
        "a stream that lags", _lagging, ("behind", "waits for a lock", "process "), ("switched",)
    ),
    Obstacle("an old proof", _old_proof, ("the limit is 24 hours",), ("verified",)),
    Obstacle("the wrong state", lambda where, table: nullcontext(), (" is verified", " is switch")),
)


def refused(
    world: World,
    random: Random,
    role: str,
    stands: str,
    obstacles: Sequence[Obstacle] = OBSTACLES,
) -> tuple[str, list[str], str] | None:
    """Put an obstacle in the way of an operation, and look whether it is refused.

    Args:
        world: nothing is broken in it.
        random: chooses obstacle and operation.
        role: the service.
        stands: its state.
        obstacles: choose from these.

    Returns:
        What was tried, what is wrong with the answer, and what was printed; None if there is
        nothing to try in this state.
    """
    if stands not in MOVES:
        return None
    service = next(one for one in world.project.services.values() if one.role == role)
    obstacle = random.choice([one for one in obstacles if stands in one.stands])
    is_wrong_state = obstacle.name == "the wrong state"
    moves = [one for one in COMMANDS if (one in MOVES[stands]) is not is_wrong_state]
    operation, table = random.choice(moves), random.choice(sorted(service.owned_tables))
    connect, own = world.connections.connect, {"application_name": "obstacle"}
    with (
        connect(world.connections.monolith, **own) as monolith,
        connect(service.database, **own) as database,
    ):
        where = Where(service, stands, monolith, database)
        with obstacle.put(where, table):
            done, wrong = ask(world, role, operation)
    if not wrong and not any(one in done.stdout for one in obstacle.says):
        wrong.append(f"{operation} {role} does not name {obstacle.name}: {done.stdout}")
    return f"{operation} {role}, with {obstacle.name} → {done.returncode}", wrong, done.stdout


def ask(world: World, role: str, operation: str) -> tuple[Done, list[str]]:
    """Give a command that must be refused.

    Returns:
        How it ended, and what is wrong with that: another exit code, or something was changed.
    """
    service = next(one for one in world.project.services.values() if one.role == role)
    before = _recorded(world, service), world.states()[role], _written(world, role)
    done = world.runner(operation, role, *COMMANDS[operation])
    wrong = []
    if done.returncode != NotReady.exit_code:
        wrong.append(f"{operation} {role} must be refused: {done.returncode}, {done.stdout}")
    after = _recorded(world, service), world.states()[role], _written(world, role)
    if before != after:
        wrong.append(f"{operation} {role} was refused, and changed {before} to {after}")
    return done, wrong


def must_refuse(world: World, role: str) -> str:
    """Tell which operation the state of a service would allow; empty if none."""
    return MOVES.get(world.states()[role], ("",))[0]


def is_unfinished(world: World, role: str) -> bool:
    """Tell whether an operation of a service was neither finished nor undone."""
    service = next(one for one in world.project.services.values() if one.role == role)
    with world.connections.connect(world.connections.monolith) as monolith:
        known = monolith.execute("select to_regclass('split.ledger') is not null").fetchone()
        return known == (True,) and service.database in left_unfinished(monolith)


def _recorded(world: World, service: Service) -> int:
    """Count the operations that were begun."""
    with world.connections.connect(world.connections.monolith) as monolith:
        row = monolith.execute(BEGUN, (service.database, list(COMMANDS))).fetchone()
    assert row is not None
    return int(row[0])


def _written(world: World, role: str) -> Side | None:
    """Tell where applications are routed."""
    service = next(one for one in world.project.services.values() if one.role == role)
    file = env_file.file(service, world.connections)
    return env_file.sides(service, world.connections)[1] if file.exists() else None
