"""`docs` without any server, on the shop: what it still shows, and what it refuses."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.project import ROOT
from pgsplit.base.errors import BuildFailed, NotReady
from pgsplit.cli.main import run
from pgsplit.project.ownership import pairs
from tests.support import schemas
from tests.support.servers import free_port
from tests.support.split import Done, command_line, surrounded

SHOP = ROOT / "examples" / "shop"
SEED = Path("seeds") / "column_ownership.csv"
# What a project may have besides: nobody owns it.
VIEW = """
{{ config(materialized='view', contract={'enforced': false}) }}
select id, now() as asked_at from {{ ref('orders') }} where total_cents > 1000
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a copy of the shop whose monolith is gone, and whose services are down."""
    folder = tmp_path_factory.mktemp("docs") / "shop"
    shutil.copytree(SHOP, folder, ignore=shutil.ignore_patterns("target", "logs", ".postgres"))
    (folder / "models" / "ordering" / "dear_orders.sql").write_text(VIEW)
    port = free_port()
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("DBT_", "SHOP_"))
    }
    for name in ("ACCOUNTS_URL", "ORDERING_URL", "SHOP_CONTROL_URL"):
        environ[name] = f"postgresql://reader@127.0.0.1:{port}/{name.lower()}"
    with surrounded(environ):
        yield folder


def docs(shop: Path, *arguments: str) -> Done:
    pairs.cache_clear()  # a command reads the seed once
    return command_line(
        "docs", *arguments, main=lambda them: run(["--project-dir", str(shop), *them], "runner.py")
    )


def test_site_is_complete_without_any_database(shop: Path) -> None:
    ran = docs(shop, "--json")
    assert ran.returncode == 0, ran.stderr
    found = schemas.validate(ran.stdout)
    assert found["unread"].keys() == {"shop", "accounts", "ordering", "the ledger"}
    assert "This needs the monolith" in found["unread"]["shop"]
    assert found["mismatches"] == [] and found["compared"] == 17
    orders = found["services"]["ordering"]["tables"]["orders"]
    assert orders["rows"] is None and orders["owner"] is None
    total = next(one for one in orders["columns"] if one["name"] == "total_cents")
    assert total["data_type"] == "integer"
    assert (
        total["from"]
        == total["back_to"]
        == [{"table": "orders", "column": "totalCents", "how": "value"}]
    )
    name = found["monolith"]["customers"]["columns"][1]
    assert [one["service"] for one in name["goes_to"]] == ["ordering", "accounts"]
    assert [one["service"] for one in name["comes_back_from"]] == ["accounts"]
    (view,) = found["services"]["ordering"]["tables"].keys() & {"dear_orders"}
    front = Path(found["page"])
    assert view in (front.parent / "services" / "ordering.html").read_text("utf-8")
    assert "could not be read" in front.read_text("utf-8")
    assert (front.parent / "tables" / "ordering.orders.html").exists()


def test_seed_and_sql_prove_each_other(shop: Path) -> None:
    seed = shop / SEED
    before = seed.read_text("utf-8")
    try:
        wrong = before.replace(
            "orders,totalCents,ordering,orders,total_cents",
            "orders,placedAt,ordering,orders,total_cents",
        )
        seed.write_text(wrong + "customers,email,ordering,orders,total_cents,same,\n", "utf-8")
        ran = docs(shop)
    finally:
        seed.write_text(before, "utf-8")
        pairs.cache_clear()
    assert ran.returncode == BuildFailed.exit_code
    said = ran.stderr
    assert "seeds/column_ownership.csv say different things" in said
    # What the SQL takes, and no line names; what a line names, and the SQL doesn't take.
    made = "the SQL:  models/ordering/orders.sql makes total_cents from orders.totalCents\n"
    assert (
        "ordering: orders.total_cents\n"
        "    the seed: line 9 of seeds/column_ownership.csv: orders.placedAt goes to"
        " orders.total_cents\n"
    ) in said
    assert said.count(made) == 3
    assert (
        "Add to seeds/column_ownership.csv: orders,totalCents,ordering,orders,total_cents,," in said
    )
    assert "Correct seeds/column_ownership.csv:9, or models/ordering/orders.sql" in said
    assert "customers.email goes to orders.total_cents" in said
    # And what comes back.
    assert re.search(
        r"the monolith's orders.totalCents\n    the seed: no line names it\n    the SQL:  models/"
        r"ordering/reverse/monolith_orders.sql makes totalCents from orders.total_cents",
        said,
    )
    page = shop / "target" / "docs" / "tables" / "ordering.orders.html"
    assert "the SQL and the seed say different things" in page.read_text("utf-8")


def test_what_is_in_the_way_is_never_replaced(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    ran = docs(shop, "--output", str(tmp_path))
    assert ran.returncode == NotReady.exit_code
    assert "something else where the site would go, and it is not replaced" in ran.stderr
    assert "--output DIR" in ran.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]
    index = shop / "target" / "docs" / "index.html"
    before = index.read_text("utf-8") if index.exists() else ""
    (shop / "models" / "broken.sql").write_text("select {{ nothing_of_the_kind() }}")
    try:
        ran = docs(shop)
    finally:
        (shop / "models" / "broken.sql").unlink()
    assert ran.returncode == BuildFailed.exit_code
    assert "nothing_of_the_kind" in ran.stderr and "dbt compile --target ordering" in ran.stderr
    assert (index.read_text("utf-8") if index.exists() else "") == before
