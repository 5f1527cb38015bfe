"""From `check` to `complete`, and to `abort`: two clusters, two versions, least rights, TLS.

PostgreSQL 15 takes the runner by TLS only. The server from the wheel has no TLS: it is reached, and
reaches others, without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from demo.project import MONOLITH, PROJECT
from pgsplit.load import sample as demo
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from tests.support.certificates import make_certificate
from tests.support.pasting import checked, findings, paste_all
from tests.support.servers import PASSWORD, Cluster, newest, oldest
from tests.support.split import Split
from tests.support.stage import SAMPLE_ROWS, Stage, environment
from tests.support.switching import assert_alike, move, ran, stands

MOVER, FOLLOWER, OWNER = "mover", "follower", "old shop"
# In order: the runner's login by TLS only; what another server logs in as, also without.
RULES = """\
hostssl all mover 127.0.0.1/32 scram-sha-256
host all mover all reject
host all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True)
class Apart:
    """A split over two clusters, and their superusers' URLs by port."""

    split: Split
    superusers: dict[str, str]
    is_monolith_old: bool


@pytest.fixture(params=["monolith on 15", "services on 15"])
def apart(request: pytest.FixtureRequest, stage: Stage, tmp_path: Path) -> Iterator[Apart]:
    is_monolith_old = request.param == "monolith on 15"
    with oldest() as old, newest(tmp_path / "server") as new:
        make_certificate(old.data)
        (old.data / "pg_hba.conf").write_text(RULES)
        for statement in ("alter system set ssl = on", "select pg_reload_conf()"):
            old.server.execute(statement)
        monolith, service = (old, new) if is_monolith_old else (new, old)
        demo.create(PROJECT, monolith.url(MONOLITH), SAMPLE_ROWS)
        for cluster in (old, new):
            login(cluster, MOVER)
        own_tables(monolith)
        # Who follows the server that demands TLS has none, so it gets a login of its own.
        login(old, FOLLOWER)
        old.server.execute(f"alter role {FOLLOWER} replication")
        variable = "BLYTZ_HIRE" if is_monolith_old else "PAYMENTS_DB"
        name = MONOLITH if is_monolith_old else "payments_db"
        plain = with_database(old.url(name), name, user=FOLLOWER, sslmode="disable")
        environ = {
            **environment(url_of_mover(monolith, MONOLITH, old), tmp_path, tmp_path / "dbt"),
            "PAYMENTS_DB_URL": url_of_mover(service, "payments_db", old),
            f"{variable}_REPLICATION_URL": plain,
        }
        split = Split(monolith.server, resolve(PROJECT, environ), environ)
        urls = {str(conninfo_to_dict(one.server.tcp)["port"]): one.server.tcp for one in (old, new)}
        yield Apart(split, urls, is_monolith_old)


def login(cluster: Cluster, name: str) -> None:
    """Make a login that may do nothing."""
    statement = sql.SQL("create role {} login password {}")
    cluster.server.execute(statement.format(sql.Identifier(name), sql.Literal(PASSWORD)))


def url_of_mover(cluster: Cluster, database: str, old: Cluster) -> str:
    mode = {"sslmode": "require"} if cluster is old else {}
    return with_database(cluster.url(database), database, user=MOVER, **mode)


def own_tables(monolith: Cluster) -> None:
    """Give the monolith's tables to a role of their own, as on most servers."""
    with psycopg.connect(monolith.url(MONOLITH), autocommit=True) as database:
        owner = sql.Identifier(OWNER)
        database.execute(sql.SQL("create role {} nologin").format(owner))
        database.execute(sql.SQL("alter schema blytz_hire owner to {}").format(owner))
        for (table,) in database.execute(
            "select relname from pg_class where relkind = 'r'"
            " and relnamespace = 'blytz_hire'::regnamespace"
        ).fetchall():
            name = sql.Identifier("blytz_hire", table)
            database.execute(sql.SQL("alter table {} owner to {}").format(name, owner))


def first_hour(apart: Apart) -> None:
    """Paste once what check prints."""
    paste_all(checked(apart.split, "payments", code=4), apart.superusers)
    if apart.is_monolith_old:
        let_the_follower_in(apart)


def let_the_follower_in(apart: Apart) -> None:
    """A login that the operator has made is let into a database once that has rules of its own."""
    found = checked(apart.split, "payments", code=4)
    listed = [one for server in found["servers"] for one in server["findings"]]
    missing = {one["what"] for one in listed if one["state"] == "missing"}
    source = MONOLITH if apart.is_monolith_old else "payments_db"
    assert missing == {f"reaches {source}", f"{FOLLOWER} to {source}"}
    paste_all(found, apart.superusers)


def roles(apart: Apart) -> dict[str, bool]:
    """Say on which port the runner's login is a superuser."""
    found = {}
    for port, url in apart.superusers.items():
        with psycopg.connect(url) as server:
            row = server.execute(
                "select rolsuper from pg_roles where rolname = %s", (MOVER,)
            ).fetchone()
            found[port] = row == (True,)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_service_is_completed_with_the_rights_that_check_prints(apart: Apart) -> None:
    split = apart.split
    first_hour(apart)
    found = checked(split, "payments")
    versions = {one["version"].split(".")[0]: one for one in found["servers"]}
    assert sorted(versions) == ["15", "18"]
    assert [one["found"] for one in findings(found, "client programs")].count("15 with TLS") == 1
    # Only 15 needs a superuser to subscribe.
    assert sorted(roles(apart).values()) == [False, True]
    ran(split, "run", "payments")
    if not apart.is_monolith_old:
        let_the_follower_in(apart)
    ran(split, "verify", "payments")
    checked(split, "payments")
    ran(split, "switch", "payments", "--wait-for-write", "0")
    move(split, "rollback")
    assert_alike(split)
    move(split, "switch")
    assert "is re-created" in ran(split, "repair", "payments", "--full")
    checked(split, "payments")
    said = ran(split, "complete", "payments", "--no-backup")
    assert stands(split) == "completed" and "The mirror gave back" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_service_is_aborted_with_the_rights_that_check_prints(apart: Apart) -> None:
    split = apart.split
    first_hour(apart)
    ran(split, "run", "payments")
    ran(split, "abort", "payments")
    assert stands(split) == "absent"
    checked(split, "payments")
