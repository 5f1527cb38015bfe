"""A service is split off from a completed service, whose database is the monolith of a project."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from demo.project import select
from pgsplit.base.errors import NotReady
from pgsplit.routing.env_file import Side
from tests.support.clients import Client
from tests.support.seventh import ASSESSMENTS, PLACES, Seventh
from tests.support.sharing import Followers
from tests.support.split import Split
from tests.support.switching import one, ran, words
from tests.support.waiting import until

FOLLOWERS = select(("users", "marketplace", "contracts"))
SOURCES = """\
sources:
  - name: market
    schema: marketplace_db
    tables:
      - name: {name}
        config: {{meta: {{owner: skills_db}}}}
        columns:
          - {{name: id, data_type: text}}
"""
QUICKLY = ("--no-backup", "--wait-for-write", "0")


def did(seventh: Seventh, *arguments: str, code: int = 0) -> str:
    """Run a command of the new project; give all its output."""
    done = seventh.runner(*arguments)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return words(done.stdout + " " + done.stderr)


@pytest.mark.slow
def test_service_is_split_off_from_a_completed_service(
    marketplace_completed: Split, tmp_path: Path
) -> None:
    """Writers, followers and shared streams of the first project go on, and nothing is mixed."""
    split, seventh = marketplace_completed, Seventh(marketplace_completed, tmp_path)
    sources = seventh.folder / "models" / "_sources.yml"
    right = sources.read_text()
    did(seventh, "provision", "skills")
    for name, why in (
        ("jobs", "others share columns of it: contracts_db, payments_db"),
        ("shared_users", "it has rows of other services, which a sync writes"),
    ):
        sources.write_text(SOURCES.format(name=name))
        said = did(seventh, "land", "skills", code=NotReady.exit_code)
        assert "made by the blytz_hire split for marketplace_db, which needs these tables" in said
        assert f"marketplace_db.{name}: {why}" in said, said
        assert "let nobody share" in said, said
    sources.write_text(right)

    with Followers(split, FOLLOWERS) as followers:
        did(seventh, "run")
        did(seventh, "verify")
        client = Client(ASSESSMENTS, seventh.service, seventh.connections, "seventh", Random(7))
        client.start()
        for command in (
            ("switch", "skills", *QUICKLY),
            ("rollback", "skills", "--no-backup"),
            ("switch", "skills", *QUICKLY),
        ):
            before = client.counts.total()
            until(lambda before=before: client.counts.total() > before + 20)
            did(seventh, *command)
        before = client.written_at[Side.SERVICE]
        until(lambda: client.written_at[Side.SERVICE] > before + 20)
        did(seventh, "complete", "skills", "--no-backup")
        client.stop()
        with split.service("marketplace_db") as market, split.service("users_db") as users:
            posting = one(
                market,
                "insert into marketplace_db.job_postings select (jsonb_populate_record(one,"
                """ '{"id": "seventh"}')).* from marketplace_db.job_postings as one limit 1"""
                " returning id",
            )
            users.execute(
                "update users_db.users set email = 'seventh@example.com'"
                " where id = (select min(id) from users_db.users)"
            )
            with split.service("contracts_db") as contracts:
                arrived = "select count(*) from blytz_hire.job_postings where id = %s"
                until(lambda: one(contracts, arrived, posting) == 1)
            shared = "select count(*) from marketplace_db.shared_users where email = %s"
            until(lambda: one(market, shared, "seventh@example.com") == 1)
        assert not [tick.trouble for tick in followers.ticks.values() if tick.trouble]

    assert not client.failures
    with seventh.connections.connect("skills_db") as skills:
        rows = dict(skills.execute(ASSESSMENTS.read(Side.SERVICE), {"ids": "seventh%"}).fetchall())
    assert len(rows) > 20
    assert not [key for key, row in client.rows.items() if not row.may_be(rows.get(key))]

    status = json.loads(seventh.runner("status", "--json").stdout)["services"]
    assert {name: one["state"] for name, one in status.items()} == {"skills_db": "completed"}
    status = json.loads(split.runner("status", "--json").stdout)["services"]
    assert "skills_db" not in status and status["marketplace_db"]["state"] == "completed"
    assert status["marketplace_db"]["warnings"] == status["contracts_db"]["warnings"] == []
    with split.service("marketplace_db") as market:
        assert one(market, f"select to_regclass('{PLACES[Side.MONOLITH]}')") is None
        assert one(market, "select count(*) from marketplace_db_retired.skills_assessments") > 0
        assert market.execute("select distinct service from split.ledger").fetchall() == [
            ("skills_db",)
        ]
    built = split.dbt("build", "--target", "marketplace_db")
    assert built.returncode == 0 and "ERROR=0 SKIP=0" in built.stdout, built.stdout
    for command in ("sync", "parity", "verify", "complete"):
        ran(split, command, "marketplace")

    settings = seventh.folder / "dbt_project.yml"
    settings.write_text(settings.read_text().replace("name: market", "name: bazaar"))
    sources.write_text(right.replace("name: market", "name: bazaar"))
    seventh.environ["BAZAAR_URL"] = seventh.environ["MARKET_URL"]
    said = did(seventh, "provision", "skills", code=NotReady.exit_code)
    assert "The ledger in marketplace_db is another project's: made by the market split" in said
