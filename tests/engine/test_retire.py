"""Retire: the monolith becomes read-only once nobody needs it, and can be dropped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import connect
from tests.engine.test_control import VARIABLE, database, ran
from tests.support.run_folder import short_folder
from tests.support.schemas import validate
from tests.support.world import MONOLITH, World, shop


@pytest.fixture(scope="module")
def shop_world() -> Iterator[World]:
    folder = short_folder("retire-")
    with closing(World(folder, shop(folder))) as world:
        yield world


@pytest.fixture
def moved(shop_world: World) -> tuple[World, dict[str, str]]:
    """Give a shop whose services are completed, with its control database elsewhere."""
    shop_world.enter("completed")
    url = database(shop_world)
    ran(shop_world, "control", "--to", url)
    return shop_world, {VARIABLE: url}


def write(world: World) -> None:
    """Write into the monolith, as a forgotten application would."""
    with psycopg.connect(world.connections.monolith_url) as monolith:
        monolith.execute("create table public.late (id integer)")
        monolith.rollback()


def test_monolith_is_archived_then_read_only_then_gone(
    moved: tuple[World, dict[str, str]],
) -> None:
    world, there = moved
    write(world)
    said = ran(world, "retire", "--watch", "1s", "--dry-run", **there)
    assert "can be retired. Nothing was changed." in said
    write(world)
    done = world.runner("retire", "--watch", "1s", "--json", **there)
    assert done.returncode == 0, done.stdout
    found = validate(done.stdout[done.stdout.index("{") :])
    assert found["did"] == "retired" and "retire" in found["backup"]["path"]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        write(world)
    assert "was read-only already" in ran(world, "retire", **there)
    assert "can be written again" in ran(world, "retire", "--undo", **there)
    write(world)
    world.nodes[MONOLITH].end()
    alone = {**there, "SHOP_URL": ""}
    ran(world, "sync", **alone)
    said = ran(world, "retire", code=NotReady.exit_code, **alone)
    assert "This needs the monolith, and SHOP_URL is not set" in said


def test_monolith_that_somebody_uses_is_not_retired(moved: tuple[World, dict[str, str]]) -> None:
    world, there = moved
    url = world.connections.monolith_url
    with connect(url, "shop", application_name="a report"):
        said = ran(world, "retire", "--watch", "0", code=NotReady.exit_code, **there)
        assert "connected: a report of postgres" in said and "Nothing was changed." in said
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.wait(0.3):
            psycopg.connect(url).close()

    visitor = threading.Thread(target=come_and_go)
    visitor.start()
    try:
        said = ran(world, "retire", "--watch", "2s", code=NotReady.exit_code, **there)
    finally:
        stop.set()
        visitor.join()
    assert "sessions that came within 2.00 s:" in said
    write(world)


def test_whatever_still_needs_the_monolith_is_named(moved: tuple[World, dict[str, str]]) -> None:
    world, there = moved
    url = world.connections.monolith_url
    with connect(url, "shop") as monolith:
        monolith.execute("select pg_create_logical_replication_slot('theirs', 'pgoutput')")
        monolith.execute("create publication theirs")
        monolith.execute(
            "create subscription theirs connection 'dbname=nowhere' publication theirs"
            " with (connect = false)"
        )
    with world.connections.connect("ordering") as ordering:
        node = world.nodes[MONOLITH]
        ordering.execute("create extension if not exists postgres_fdw")
        ordering.execute(
            "create server theirs foreign data wrapper postgres_fdw options"
            f" (host '{node.url('shop').split('@')[1].split(':')[0]}',"
            f" port '{world.links['people to monolith'].port}', dbname 'shop')"
        )
    said = ran(world, "retire", "--watch", "0", code=NotReady.exit_code, **there)
    for what in (
        "the slot theirs is there",
        "the publication theirs is there",
        "the subscription theirs is there",
        "the foreign server theirs in ordering reads from it",
        "select pg_drop_replication_slot('theirs');",
        "drop subscription theirs;",
        "Nothing was changed.",
    ):
        assert what in said, said
    write(world)


def test_monolith_with_the_control_database_or_a_service_is_not_retired(shop_world: World) -> None:
    shop_world.enter("accounts completed")
    said = ran(shop_world, "retire", "--watch", "0", code=NotReady.exit_code)
    for what in (
        "ordering is verified, and so needs the monolith",
        "the control database is still in it",
        "the slot split_ordering is there",
        "runner.py control --to URL",
    ):
        assert what in said, said
