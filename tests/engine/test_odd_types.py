"""A monolith with columns of types that have no `=`, or one that is coarser than the value.

The shop with such columns is split, written on both sides, switched and rolled back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from demo.project import ROOT
from pgsplit.cli.main import run as cli
from tests.support.run_folder import short_folder
from tests.support.servers import newest, oldest
from tests.support.split import command_line, surrounded
from tests.support.stage import Stage

SHOP = ROOT / "examples" / "shop"
# By type: a value, and one that `=` may not tell from it.
TYPES = {
    "xml": ("<a/>", "<a></a>"),
    "json": ('{"a": 1}', '{"a":1}'),
    "jsonb": ('{"a": 1}', '{"a": 1.0}'),
    "json[]": ('{"[1]","[2]"}', '{"[1]","[ 2]"}'),
    "point": ("(1,2)", "(1,3)"),
    "box": ("(1,4),(0,0)", "(4,1),(0,0)"),
    "circle": ("<(0,0),1>", "<(5,5),1>"),
    "polygon": ("((0,0),(1,1),(2,0))", "((0,0),(1,2),(2,0))"),
    "line": ("{1,2,3}", "{2,4,6}"),
    "lseg": ("[(0,0),(1,1)]", "[(1,1),(0,0)]"),
    "path": ("((0,0),(1,1))", "((5,5),(9,9))"),
    "numeric": ("5", "5.00"),
    "numeric[]": ("{5,NaN}", "{5.0,NaN}"),
    "double precision": ("0", "-0"),
    "real": ("NaN", "Infinity"),
    "timestamp with time zone": ("infinity", "-infinity"),
    "timestamp without time zone": ("2026-01-01 00:00:00.123456", "4713-01-01 BC"),
    "interval": ("1 day", "24 hours"),
    "numrange": ("[1,2)", "[1.0,2.0)"),
    "int4multirange": ("{[1,3)}", "{[1,2),[5,6)}"),
    "bytea": ("\\x00ff", "\\x00"),
    "character(3)": ("a", "b"),
    "inet": ("10.0.0.1/8", "10.0.0.1/16"),
    "time with time zone": ("12:00+00", "13:00+01"),
    "tsvector": ("'a':1", "'a':2"),
    "bit varying": ("01", "010"),
}
COLUMNS = {f"odd_{number}": kind for number, kind in enumerate(TYPES)}


@dataclass(frozen=True)
class Shop:
    """The shop with odd columns, and its monolith's server."""

    project: Path
    url: str
    environ: dict[str, str] = field(repr=False)

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a command; give what it printed, without line breaks."""
        with surrounded(self.environ):
            done = command_line(
                *arguments,
                main=lambda them: cli(["--project-dir", str(self.project), *them], "pgsplit"),
            )
        assert done.returncode == code, done.stdout + done.stderr
        return " ".join((done.stdout + done.stderr).split())

    def monolith(self) -> psycopg.Connection:
        """Connect to the monolith."""
        return psycopg.connect(self.url, autocommit=True)

    def service(self) -> psycopg.Connection:
        """Connect to the service's database, as its login does."""
        return psycopg.connect(self.run("url", "ordering", "--service"), autocommit=True)


def add_columns(project: Path) -> None:
    """Give the shop's orders the odd columns, in the project's files."""
    listed = "".join(f",\n    {name}" for name in COLUMNS)
    files = {
        "models/ordering/orders.sql": (
            '"placedAt" as placed_at',
            '"placedAt" as placed_at' + listed,
        ),
        "models/ordering/orders.yml": (
            "      - {name: total_cents",
            yml("      ") + "      - {name: total_cents",
        ),
        "models/_sources.yml": (
            "          - {name: totalCents",
            yml("          ") + "          - {name: totalCents",
        ),
        "seeds/column_ownership.csv": (
            "orders,totalCents",
            "".join(f"orders,{name},ordering,orders,{name},same,\n" for name in COLUMNS)
            + "orders,totalCents",
        ),
    }
    for path, (old, new) in files.items():
        text = (project / path).read_text()
        assert old in text
        (project / path).write_text(text.replace(old, new, 1))


def yml(indent: str) -> str:
    return "".join(
        f'{indent}- {{name: {name}, data_type: "{kind}"}}\n' for name, kind in COLUMNS.items()
    )


def set_odd(connection: psycopg.Connection, table: str, which: int, where: str) -> None:
    """Give rows one of the two values of each type; none of a type that the server lacks."""
    values = {name: (kind, TYPES[kind][which]) for name, kind in COLUMNS.items()}
    try:
        connection.execute("select '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:  # built without libxml
        values = {name: value for name, value in values.items() if value[0] != "xml"}
    listed = ", ".join(f"{name} = %s::{kind}" for name, (kind, _) in values.items())
    given = [value for _, value in values.values()]
    connection.execute(f"update {table} set {listed} where {where}", given)


def fill(url: str) -> None:
    """Make the monolith: the shop's own, the odd columns, and one that is generated."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select set_config('demo.rows', '40', false)")
        for path in ("schema.sql", "rows/10_rows.sql", "keys.sql"):
            connection.execute((SHOP / "demo" / path).read_bytes())
        for name, kind in COLUMNS.items():
            connection.execute(f"alter table shop.orders add column {name} {kind}")
        connection.execute(
            "alter table shop.orders add column doubled integer"
            ' generated always as ("totalCents" * 2) stored'
        )
        set_odd(connection, "shop.orders", 0, "true")


@pytest.fixture(params=[newest, oldest], ids=["newest", "oldest"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, stage: Stage) -> Iterator[Shop]:
    """Split the shop with a dbt that has started already, as the stage provides."""
    with ExitStack() as stack:
        folder = [] if request.param is oldest else [tmp_path / "server"]
        cluster = stack.enter_context(request.param(*folder))
        cluster.server.execute("create database shop")
        url = cluster.url("shop")
        fill(url)
        project = short_folder("odd-") / "shop"
        stack.callback(shutil.rmtree, project.parent)
        shutil.copytree(SHOP, project)
        add_columns(project)
        environ = {name: value for name, value in os.environ.items() if "DBT" not in name}
        yield Shop(project, url, {**environ, "SHOP_URL": url, "COLUMNS": "80"})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_odd_types_go_there_and_back(shop: Shop) -> None:
    shop.run("run", "ordering")
    with shop.monolith() as monolith:  # each change is seen, however alike the values are
        set_odd(monolith, "shop.orders", 1, "id = 'order-1'")
    shop.run("verify", "ordering")
    shop.run("switch", "ordering", "--no-backup", "--wait-for-write", "0")
    with shop.service() as service:
        set_odd(service, "ordering.orders", 1, "id = 'order-2'")
        service.execute("update ordering.orders set total_cents = 21 where id = 'order-2'")
    shop.run("sync", "ordering")
    shop.run("verify", "ordering")
    moved = shop.run("rollback", "ordering", "--no-backup", "--json")
    assert '"kept": {}' in moved
    shop.run("verify", "ordering")
    with shop.monolith() as monolith:
        listed = ", ".join(f"{name}::text" for name in COLUMNS)
        two = monolith.execute(
            f"select array[{listed}] from shop.orders where id in ('order-1', 'order-2')"
        ).fetchall()
        assert two[0] == two[1]
        doubled = "select doubled from shop.orders where id = 'order-2'"
        assert monolith.execute(doubled).fetchone() == (42,)
