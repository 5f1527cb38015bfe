"""Random lives with random faults, kills between statements, and the checks that judge them.

`make torture` and `make torture-statements` do the same without an end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import psycopg
import pytest

from pgsplit.base.errors import ConnectionFailed
from pgsplit.routing.env_file import Side
from pgsplit.state.ledger import open_ledger
from tests.support import killing
from tests.support.accounting import Loss, account, survivors
from tests.support.client_tables import SHOP_TABLES
from tests.support.clients import Client
from tests.support.killing import OPERATIONS, killed_after
from tests.support.leftovers import leftovers
from tests.support.run_folder import short_folder
from tests.support.servers import DEBIAN_15
from tests.support.world import World, shop, wait_until
from tests.torture.cycle import Cycle
from tests.torture.faults import FAULTS, Fault
from tests.torture.recovery import hints, recover
from tests.torture.refusals import OBSTACLES, Obstacle, ask, refused

VERSIONS = ("15", "18") if (DEBIAN_15 / "postgres").exists() else ("18", "18")
# The last statement of an operation is about this one; each is killed after some on the way.
SAMPLED = [("switch", 110), ("switch", 190), ("rollback", 120), ("abort", 60)]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = short_folder("torture-")
    world = World(folder, shop(folder), VERSIONS)
    with closing(world):
        yield world


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 4])
def test_random_life_ends_with_every_write_in_place(
    world: World, seed: int, tmp_path: Path
) -> None:
    cycle = Cycle(world, SHOP_TABLES, seed, ("verified",))
    cycle.faults = tuple(fault for fault in FAULTS if not fault.prepare)  # a standby takes seconds
    outcome = cycle.run(tmp_path)
    assert outcome.wrong == [], outcome.line()
    assert outcome.writes["acknowledged"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), SAMPLED)
def test_operation_killed_after_a_statement_is_resumed(
    world: World, name: str, number: int
) -> None:
    assert killed_after(world, OPERATIONS[name], number) == (True, [])


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_killed_after_each_statement_is_resumed(world: World, name: str) -> None:
    every = int(os.environ.get("EVERY", "5"))
    listed = killing.statements(world, OPERATIONS[name])
    found = {
        number: wrong
        for number in range(1, len(listed) + 1, every)
        if (wrong := killed_after(world, OPERATIONS[name], number)[1])
    }
    assert found == {}


# A part of the statement after which something was half done once, and the statements after it.
HALF_DONE = [
    ("repair", "set (slot_name", 2),  # before the stream was enabled
    ("abort", "reset all", 3),  # the database had lost what told whose it is
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part", "more"), HALF_DONE)
def test_operation_killed_around_a_statement_is_resumed(
    world: World, name: str, part: str, more: int
) -> None:
    listed = killing.statements(world, OPERATIONS[name])
    first = next(number for number, line in enumerate(listed, 1) if part in line)
    for number in range(first, first + more + 1):
        assert killed_after(world, OPERATIONS[name], number) == (True, [])


@pytest.mark.slow
def test_leftovers_are_found(world: World) -> None:
    """The check that all of the above depend on can fail, in each of its parts."""
    world.enter("switched")
    assert leftovers(world.connections) == []
    connections = world.connections
    with connections.connect("shop") as monolith, connections.connect("accounts") as accounts:
        monolith.execute("create publication stray")
        monolith.execute("select pg_create_logical_replication_slot('stray', 'pgoutput')")
        monolith.execute("select pg_replication_origin_create('stray')")
        monolith.execute("alter table shop.orders disable trigger split_guard")
        monolith.execute(
            "insert into split.gates values ('accounts', false, now() + interval '1 hour', 'x')"
            " on conflict (service) do update set is_open = false, opens_at = excluded.opens_at"
        )
        accounts.execute("alter subscription split_accounts disable")
        accounts.execute("alter subscription split_accounts set (slot_name = none)")
        accounts.execute("drop subscription split_accounts")
        found = "\n".join(leftovers(connections))
    for line in (
        "shop: the publication stray is left over",
        "shop: the slot stray is left over",
        "shop: the replication origin stray is left over",
        "accounts: the subscription split_accounts is missing",
        "accounts: the monolith's fence is closed on a lease",
        "ordering: the monolith's fence lacks triggers",
        "pgsplit idle: ",
    ):
        assert line in found
    monolith_url = connections.monolith_url
    with psycopg.connect(monolith_url, autocommit=True) as monolith:
        monolith.execute("update split.states set state = 'absent' where service = 'ordering'")
    found = "\n".join(leftovers(connections))
    for line in (
        "ordering: its routes are left over",
        "ordering: the monolith's fence is left over",
        "ordering: the trigger shop.orders split_guard_rows is left over",
        "ordering: its database is left over",
        "ordering: the role ordering_service is left over",
    ):
        assert line in found


@pytest.mark.slow
def test_account_finds_lost_and_foreign_rows(world: World) -> None:
    world.enter("verified")
    services = {one.role: one for one in world.project.services.values()}
    client = Client(SHOP_TABLES[0], services["ordering"], world.as_people, "accounted", Random(1))
    client.start()
    assert wait_until(60, lambda: client.counts["acknowledged"] > 30)
    client.stop()
    assert world.complaints() == []
    states = world.states()
    assert list(account([client], world.connections, states)) == []
    lost, changed = [key for key, row in client.rows.items() if row.value is not None][:2]
    with world.connections.connect("shop") as monolith:
        monolith.execute("delete from shop.orders where id = %s", [lost])
        monolith.execute('update shop.orders set "totalCents" = -1 where id = %s', [changed])
        monolith.execute("insert into shop.orders values ('accounted-x', 'customer-1', 5, now())")
    found = "\n".join(account([client], world.connections, states))
    assert "ordering on the monolith side: accounted-x = 5 was never written" in found
    assert f"{lost} is None, and must be {client.rows[lost].value}" in found
    assert f"{changed} is -1, and must be {client.rows[changed].value}" in found


@pytest.mark.slow
def test_account_excuses_only_what_the_dead_server_had_alone(world: World) -> None:
    world.enter("verified")
    services = {one.role: one for one in world.project.services.values()}
    client = Client(SHOP_TABLES[0], services["ordering"], world.as_people, "alone", Random(1))
    client.start()
    assert wait_until(60, lambda: client.counts["acknowledged"] > 30)
    client.stop()
    assert world.complaints() == []
    states, connections = world.states(), world.connections
    urls = [world.nodes[side].url() for side in ("monolith", "service")]
    writes = [write for row in client.rows.values() for write in row.writes]
    times = min(one.begun for one in writes), max(one.ended for one in writes)
    key = next(key for key, row in client.rows.items() if row.value is not None)
    both = survivors(Side.MONOLITH, *times, [client], *urls)
    assert len(both.left["alone"]) == 3  # the standby's table, the mirror, the service's table
    with connections.connect("shop") as monolith:
        monolith.execute("delete from shop.orders where id = %s", [key])
    assert world.complaints() == []
    alone = survivors(Side.MONOLITH, *times, [client], *urls)
    counts = Counter[str]()
    wrong = list(account([client], connections, states, [both], counts))
    assert len(wrong) == 2 and "its standby and the other side had" in wrong[0]
    assert list(account([client], connections, states, [alone], counts)) == []
    assert counts == {"lost with their server": 2}
    later = [Loss(Side.MONOLITH, times[1] + 1, times[1] + 2, alone.left)]
    assert list(account([client], connections, states, later)) != []
    other = [Loss(Side.SERVICE, *times, alone.left)]
    assert list(account([client], connections, states, other)) != []
    # The standby never had it, the other side did: it has to be kept.
    rows = [alone.left["alone"][0], *both.left["alone"][1:]]
    mirrored = [Loss(Side.MONOLITH, *times, {"alone": rows})]
    assert list(account([client], connections, states, mirrored)) != []
    with connections.connect("ordering") as ordering:
        row = "select %s::text as id, %s::integer as total_cents"
        values = (key, client.rows[key].value)
        ordering.execute(f"create table audit.orders_kept as {row}".encode(), values)
        ordering.execute("insert into split.quarantined values ('orders_kept', 'orders', 1)")
    assert list(account([client], connections, states, mirrored, counts := Counter())) == []
    assert counts == {"quarantined": 2}


@pytest.mark.slow
def test_row_that_its_client_does_not_find_is_wrong(world: World) -> None:
    world.enter("verified")
    services = {one.role: one for one in world.project.services.values()}
    client = Client(SHOP_TABLES[0], services["ordering"], world.as_people, "missed", Random(1))
    client.start()
    with world.connections.connect("shop") as monolith:
        for _ in range(100):
            monolith.execute("delete from shop.orders where id like 'missed-%'")
            if wait_until(0.3, lambda: client.counts["missing"] > 0):
                break
    client.stop()
    assert world.complaints() == []
    found = "\n".join(account([client], world.connections, world.states()))
    assert "was not there when its client wrote it once more" in found


@pytest.mark.slow
def test_operator_follows_what_the_last_command_says(world: World) -> None:
    """What `status` says comes after it: `verify`, which finds rows that need a copy."""
    world.enter("verified")
    with world.connections.connect("ordering") as database:
        database.execute("delete from ordering.orders where id = 'order-1'")
        capture = "select tgname from pg_trigger where tgrelid = 'shop.orders'::regclass"
        (name,) = database.execute(f"{capture} and tgenabled = 'R' limit 1".encode()).fetchone()
        database.execute(f"alter table shop.orders disable trigger {name}".encode())
        database.execute(f"alter table shop.orders enable replica trigger {name}".encode())
    recovery = recover(world, "")
    assert recovery.why == ""
    assert [one.split(" → ")[0] for one in recovery.given] == [
        "resume",
        "verify ordering",
        "land ordering --recopy",
        "run ordering",
        "verify ordering",
    ]


OBSTRUCTED = [(stands, one) for one in OBSTACLES for stands in one.stands]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stands", "obstacle"),
    [
        pytest.param(*case, marks=[] if case in OBSTRUCTED[:2] else pytest.mark.faults)
        for case in OBSTRUCTED
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_operation_with_an_obstacle_is_refused(
    world: World, stands: str, obstacle: Obstacle
) -> None:
    world.enter(stands)
    what, wrong, _ = refused(world, Random(1), "ordering", stands, [obstacle]) or ("", [], "")
    assert obstacle.name in what and wrong == []


@pytest.mark.slow
def test_operation_that_is_not_refused_is_noticed(world: World) -> None:
    world.enter("verified")
    done, wrong = ask(world, "ordering", "switch")
    assert done.returncode == 0
    assert "switch ordering must be refused: 0" in wrong[0]
    assert "switch ordering was refused, and changed (" in wrong[1]


@pytest.mark.slow
def test_server_that_dies_under_the_ledger_is_no_bug(world: World) -> None:
    world.enter("verified")
    with (
        pytest.raises(ConnectionFailed, match="The server can't be reached"),
        open_ledger(world.connections) as ledger,
    ):
        world.nodes["monolith"].end()
        ledger.state(next(iter(world.project.services.values())))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.faults
def test_switch_survives_each_fault(world: World, fault: Fault, tmp_path: Path) -> None:
    cycle = Cycle(world, SHOP_TABLES, 1, ("verified",))
    cycle.faults = (fault,)
    outcome = cycle.run(tmp_path)
    assert outcome.wrong == [], outcome.line()


def test_hints_are_found_as_they_are_pasted() -> None:
    said = (
        "error: A slot is gone.\n  where: somewhere\n  hint:  runner.py land payments --recopy\n"
        "         It copies the mirror again.\n"
    )
    assert hints(said) == [["land", "payments", "--recopy"]]
    said = "  hint:  runner.py verify payments, then runner.py switch payments"
    assert hints(said) == [["verify", "payments"], ["switch", "payments"]]
    said = "Not proven.\n  ./runner.py land files --recopy && ./runner.py run files\n"
    assert hints(said) == [["land", "files", "--recopy"], ["run", "files"]]
    assert hints("  hint:  runner.py psql monolith -c 'select 1'") == []
