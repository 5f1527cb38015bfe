"""The control database: ledger and states move out of the monolith, which then may be gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.cutover import move_control
from pgsplit.postgres.connect import connect
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.project.project import Project
from pgsplit.state.control import HERE, mark
from pgsplit.state.schema import prepare_monolith
from tests.support.run_folder import short_folder
from tests.support.sharing import Followers
from tests.support.switching import words
from tests.support.waiting import until
from tests.support.world import MONOLITH, SERVICE, SHOP, World, shop

MOVED = ("ledger", "states", "verifications")
VARIABLE = "SHOP_CONTROL_URL"

# The control database is on 15, and on 18 in test_retire.
ON_15 = ("18", "15")


@pytest.fixture(scope="module")
def shop_world() -> Iterator[World]:
    folder = short_folder("control-")
    with closing(World(folder, shop(folder), ON_15)) as world:
        yield world


@pytest.fixture
def completed(shop_world: World) -> World:
    """Give a shop whose services are completed."""
    shop_world.enter("completed")
    return shop_world


def ran(world: World, *arguments: str, code: int = 0, **environ: str) -> str:
    """Run a command; give all its output."""
    done = world.runner(*arguments, **environ)
    assert done.returncode == code, (arguments, done.stdout)
    return words(done.stdout)


def database(world: World, name: str = "control") -> str:
    """Make an empty database beside the services'; give its URL."""
    node = world.nodes[SERVICE]
    with psycopg.connect(node.url(), autocommit=True) as server:
        server.execute(f"create database {name}")  # type: ignore[arg-type]
    return node.url(name)


def rows(here: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    """Give all that is moved."""
    return {
        table: here.execute(
            f"select row_to_json(t)::text from split.{table} as t order by 1"
        ).fetchall()
        for table in MOVED
    }


def test_control_database_moves_while_followers_run(completed: World) -> None:
    world, url = completed, database(completed)
    there, services = {VARIABLE: url}, list(completed.project.services.values())
    own = world.connections.monolith_url
    with connect(own, "shop") as monolith:
        before = rows(monolith)
    said = ran(world, "control", "--to", url, "--dry-run")
    assert "It can move to database control on" in said and "2 of states" in said
    with connect(url, "control") as control:
        assert mark(control) is None
    with Followers(world, services) as followers:
        ran(world, "control", "--to", url)
        until(lambda: all(tick.lag_bytes is not None for tick in followers.ticks.values()))
        assert not [tick.trouble for tick in followers.ticks.values() if tick.trouble]
    with connect(url, "control") as control:
        after, found = rows(control), mark(control)
        assert found and found.stands == HERE
    assert after["states"] == before["states"]
    assert after["verifications"] == before["verifications"]
    old = {row[0] for row in before["ledger"]}
    assert old < {row[0] for row in after["ledger"]}
    (moved,) = [json.loads(row[0]) for row in after["ledger"] if row[0] not in old]
    assert (moved["step"], moved["outcome"]) == ("control", "done")
    # A runner that still uses the old place is told the line to set.
    for command in (("status",), ("history",), ("backup", "ordering"), ("sync",), ("report",)):
        said = ran(world, *command, code=NotReady.exit_code)
        assert "The control database has moved from here to another one." in said
        assert f"hint: export {VARIABLE}=" in said and "/control" in said
    assert "The control database is database control" in ran(world, "control", "--to", url)
    assert "database control on" in ran(world, "control", **there)
    ran(world, "backup", "ordering", **there)
    with connect(url, "control") as control:  # its numbers go on
        last = control.execute(
            "select max(id) > max(id) filter (where step = 'control') from split.ledger"
        ).fetchone()
        assert last == (True,)
    said = ran(world, "switch", "ordering", code=NotReady.exit_code, **there)
    assert "ordering is completed" in said


def test_everything_that_makes_sense_works_without_a_monolith(completed: World) -> None:
    world, url = completed, database(completed)
    ran(world, "control", "--to", url)
    world.nodes[MONOLITH].end()
    alone = {VARIABLE: url, "SHOP_URL": ""}
    found = json.loads(world.runner("status", "--json", **alone).stdout)["services"]
    assert [(one["state"], one["warnings"]) for one in found.values()] == [("completed", [])] * 2
    for command in (
        ("sync",),
        ("verify", "ordering"),
        ("repair", "ordering", "--full"),
        ("parity",),
        ("reconcile",),
        ("report", "--json"),
        ("health",),
        ("metrics",),
        ("backup", "ordering"),
    ):
        ran(world, *command, **alone)
    for command in (("analyze",), ("backup",)):
        said = ran(world, *command, code=NotReady.exit_code, **alone)
        assert "This needs the monolith, and SHOP_URL is not set" in said


def test_control_database_moves_back(completed: World) -> None:
    world, url = completed, database(completed)
    ran(world, "control", "--to", url)
    ran(world, "backup", "ordering", **{VARIABLE: url})
    own = world.as_people.monolith_url
    said = ran(world, "control", "--to", own, **{VARIABLE: url})
    assert f"unset {VARIABLE}, and take control_url out of split.toml" in said
    ran(world, "backup", "ordering")
    with connect(own, "shop") as monolith:
        kept = monolith.execute("select count(*) from split.ledger where step = 'backup'")
        assert kept.fetchone() == (2,)
    said = ran(world, "status", code=NotReady.exit_code, **{VARIABLE: url})
    assert "has moved from here" in said


def test_control_database_is_restored_from_its_backup_by_a_login_without_rights(
    completed: World,
) -> None:
    """It owns the control database, and is no superuser."""
    world, node = completed, completed.nodes[SERVICE]
    said = ran(world, "backup", "control", code=NotReady.exit_code)
    assert "The control database is the monolith, and is backed up with it." in said
    with psycopg.connect(node.url(), autocommit=True) as server:
        server.execute("create role keeper login")
        for name in ("control", "restored"):
            server.execute(f"create database {name} template template0 owner keeper")
    url, restored = (
        node.url(name).replace("postgres@", "keeper@") for name in ("control", "restored")
    )
    ran(world, "control", "--to", url)
    there = {VARIABLE: url}
    ran(world, "backup", "ordering", **there)
    said = ran(world, "backup", "control", "--json", **there)
    path = json.loads(said[said.index("{") :])["backups"][0]["path"]
    assert "/control-by-hand-" in path
    with psycopg.connect(node.url(), autocommit=True) as server:
        server.execute("drop database control")
    ran(world, "restore", path, restored)
    again = {VARIABLE: restored}
    assert "backup" in ran(world, "history", **again)
    ran(world, "sync", **again)
    ran(world, "status", **again)
    ran(world, "resume", **again)
    with connect(restored, "restored") as control:
        assert mark(control) and rows(control)["states"]
    said = ran(world, "switch", "ordering", code=NotReady.exit_code, **again)
    assert "ordering is completed" in said


def test_move_that_was_interrupted_is_finished(
    completed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, url = completed, database(completed)
    copied = move_control._copy

    def interrupted(here: Any, there: Any, table: str) -> int:
        if table == "verifications":
            raise KeyboardInterrupt
        return copied(here, there, table)

    def say(_: str) -> None:
        """Nobody listens."""

    # While it copies: nothing has moved, and the same command begins again.
    monkeypatch.setattr(move_control, "_copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        move_control.move(url, world.as_people, say, dry_run=False)
    monkeypatch.undo()
    ran(world, "history")
    # After the old place was left, and before the new one says that it is there.
    monkeypatch.setattr(move_control, "ARRIVED", "select 1 / 0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        move_control.move(url, world.as_people, say, dry_run=False)
    monkeypatch.undo()
    said = ran(world, "status", code=NotReady.exit_code, **{VARIABLE: url})
    assert "The move of the control database to control was not finished." in said
    assert "runner.py control --to" in said
    ran(world, "control", "--to", url)
    ran(world, "history", **{VARIABLE: url})


def test_control_database_stays_while_a_service_needs_the_monolith(shop_world: World) -> None:
    shop_world.enter("accounts completed")
    url = database(shop_world)
    said = ran(shop_world, "control", "--to", url, code=NotReady.exit_code)
    assert "The control database can't move:" in said
    assert "ordering is verified, and so needs the monolith" in said
    assert "accounts is" not in said and "Nothing was changed." in said
    with connect(url, "control") as control:
        assert mark(control) is None
    ran(shop_world, "history")


def test_database_that_can_not_be_the_control_database_is_refused(completed: World) -> None:
    world = completed

    def refused(url: str, expected: str) -> None:
        said = ran(world, "control", "--to", url, code=NotReady.exit_code)
        assert expected in said and "Nothing was changed." in said

    refused(world.as_people.urls["ordering"], "This is the database of ordering")
    other = database(world, "other")
    with connect(other, "other") as inside:
        prepare_monolith(inside)
        inside.execute(
            "insert into split.ledger (service, step, intent) values ('some', 'land', '{}')"
        )
    refused(other, "other has a ledger with 1 entries that the present one lacks")
    said = ran(world, "status", code=NotReady.exit_code, **{VARIABLE: other})
    assert "other is not this project's control database: nothing was moved there." in said
    assert f"unset {VARIABLE}, then: runner.py control --to URL" in said
    with connect(other, "other") as inside:
        inside.execute("create role stranger login")
    url = database(world, "empty").replace("postgres@", "stranger@")
    said = ran(world, "control", "--to", url, code=NotReady.exit_code)
    assert "The schema split can't be made in empty: permission denied" in said
    assert 'GRANT CREATE ON DATABASE "empty" TO "stranger";' in said
    ran(world, "history")
    said = ran(world, "control", "--to", "nonsense", code=ConnectionFailed.exit_code)
    assert "--to is no PostgreSQL URL with a database." in said


def test_two_control_databases_are_refused(completed: World) -> None:
    world, url = completed, database(completed)
    ran(world, "control", "--to", url)
    # Somebody restores the monolith as it was before the move.
    with connect(world.as_people.monolith_url, "shop") as monolith:
        monolith.execute("delete from split.control")
    said = ran(world, "control", "--to", url, code=NotReady.exit_code)
    assert "control is a control database already, so there would be two" in said
    assert f"or, if that one is right: export {VARIABLE}=" in said
    said = ran(world, "retire", "--watch", "0", code=NotReady.exit_code)
    assert "the control database is still in it" in said and "Nothing was changed." in said


def test_control_database_that_lacks_something_is_refused(completed: World) -> None:
    world, url = completed, database(completed)
    ran(world, "control", "--to", url)
    with connect(url, "control") as control:
        control.execute("delete from split.ledger where id = (select max(id) from split.ledger)")
    for command in ("status", "retire"):
        said = ran(world, command, code=NotReady.exit_code, **{VARIABLE: url})
        assert "The control database lacks the entries" in said
    with connect(url, "control") as control:
        control.execute("drop table split.states")
    said = ran(world, "sync", code=NotReady.exit_code, **{VARIABLE: url})
    assert "The control database lacks split.states" in said


def test_urls_without_a_monolith() -> None:
    project = Project(SHOP)

    def found(**environ: str) -> Connections:
        return resolve(project, environ)

    services = {"ORDERING_URL": "postgresql://h/o", "ACCOUNTS_URL": "postgresql://h/a"}
    alone = found(**services, **{VARIABLE: "postgresql://c/control"})
    assert alone.control == "shop_control" and not alone.has_monolith
    assert alone.control_url == "postgresql://postgres@c:5432/control"
    with pytest.raises(NotReady, match="This needs the monolith, and SHOP_URL is not set"):
        alone.connect(alone.monolith)
    with pytest.raises(ConnectionFailed, match="ACCOUNTS_URL is not set, and neither is SHOP_URL"):
        found(ORDERING_URL="postgresql://h/o", **{VARIABLE: "postgresql://c/control"})
    with pytest.raises(ConnectionFailed, match="are the same database"):
        found(**services, **{VARIABLE: "postgresql://h/a"})
    same = found(SHOP_URL="postgresql://h/m", **{VARIABLE: "postgresql://h/m"})
    assert same.control == same.monolith
    both = found(SHOP_URL="postgresql://h/m", **{VARIABLE: "postgresql://c/control"})
    assert both.environ()[VARIABLE] == both.control_url
