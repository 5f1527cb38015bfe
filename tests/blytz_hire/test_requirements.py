"""Servers that can't follow a monolith are reported before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.project import MONOLITH, PROJECT, select
from pgsplit.base.errors import ConnectionFailed, NotReady
from pgsplit.load import sample as demo
from pgsplit.load.land import land
from pgsplit.load.provision import provision
from pgsplit.postgres import embedded
from pgsplit.postgres.connect import connect, with_database
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.replication import requirements
from pgsplit.state.ledger import open_ledger
from tests.support.split import Split


@contextmanager
def provisioned(root: Path, **settings: str) -> Iterator[Connections]:
    """Run a server with these settings, a small monolith, and payments_db provisioned."""
    embedded.start(root, {"fsync": "off", **settings})
    try:
        connections = resolve(
            PROJECT,
            {"BLYTZ_HIRE_URL": embedded.url(root, MONOLITH), "BLYTZ_HIRE_CONNECTIONS": str(root)},
        )
        demo.create(PROJECT, connections.urls[MONOLITH], 500)
        with open_ledger(connections) as ledger:
            provision(select(("payments",))[0], connections, ledger)
        yield connections
    finally:
        embedded.wipe(root)


def refusal(connections: Connections) -> NotReady:
    with open_ledger(connections) as ledger, pytest.raises(NotReady) as caught:
        land(select(("payments",))[0], connections, ledger)
    with connections.connect(MONOLITH) as monolith:
        assert monolith.execute("select pubname from pg_publication").fetchall() == []
    return caught.value


def test_wal_level_other_than_logical_is_reported(tmp_path: Path) -> None:
    with provisioned(tmp_path, wal_level="replica") as connections:
        error = refusal(connections)
    assert "wal_level is replica; following the monolith needs logical" in error.what
    assert "ALTER SYSTEM SET wal_level = 'logical'" in error.hint


def test_monolith_without_free_slots_is_reported(tmp_path: Path) -> None:
    with provisioned(tmp_path, max_replication_slots="1") as connections:
        with connections.connect(MONOLITH) as monolith:
            monolith.execute("select pg_create_physical_replication_slot('of_somebody_else')")
        error = refusal(connections)
        assert "No replication slot is free: 1 of 1 are in use" in error.what
        assert "ALTER SYSTEM SET max_replication_slots = 21" in error.hint
        with connections.connect(MONOLITH) as monolith:
            slots = monolith.execute("select slot_name from pg_replication_slots").fetchall()
    assert slots == [("of_somebody_else",)]


def test_monolith_without_free_wal_senders_is_reported(tmp_path: Path) -> None:
    with provisioned(tmp_path, max_wal_senders="0") as connections:
        error = refusal(connections)
    assert "No WAL sender is free: 0 of 0 are in use" in error.what
    assert "ALTER SYSTEM SET max_wal_senders = 20" in error.hint


def test_service_server_without_free_workers_is_reported(tmp_path: Path) -> None:
    with provisioned(tmp_path, max_logical_replication_workers="0") as connections:
        error = refusal(connections)
    assert "No logical replication worker is free: 0 subscriptions share 0" in error.what
    assert "ALTER SYSTEM SET max_logical_replication_workers = 10" in error.hint


def test_login_that_cannot_subscribe_is_reported(tmp_path: Path) -> None:
    with provisioned(tmp_path) as connections:
        with connections.connect(MONOLITH) as monolith:
            monolith.execute("create role humble login")
            monolith.execute("grant connect on database payments_db to humble")
        url = with_database(connections.urls["payments_db"], "payments_db", user="humble")
        urls = {**connections.urls, "payments_db": url}
        humble = Connections(PROJECT, urls, False, connections.replication_url, connections.folder)
        error = refusal(humble)
    assert "humble may not create a subscription" in error.what
    assert 'GRANT pg_create_subscription TO "humble";' in error.hint


@pytest.mark.slow
def test_monolith_unreachable_from_the_service_server_is_reported(tmp_path: Path) -> None:
    with provisioned(tmp_path) as connections:
        unreachable = Connections(
            PROJECT,
            connections.urls,
            False,
            "postgresql://postgres@127.0.0.1:1/x",
            connections.folder,
        )
        error = refusal(unreachable)
        with connections.connect("payments_db") as database:
            assert database.execute("select subname from pg_subscription").fetchall() == []
    assert "The service's server can't reach the monolith" in error.what
    assert "BLYTZ_HIRE_REPLICATION_URL" in error.hint


@pytest.mark.slow
def test_monolith_that_stops_during_landing_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stops midway: a message, no traceback; the next landing cleans up."""
    with provisioned(tmp_path) as connections:

        def die(*_: object) -> None:
            embedded.stop(tmp_path)
            with connections.connect(MONOLITH):
                raise AssertionError("the server still runs")

        with monkeypatch.context() as patch:
            patch.setattr("pgsplit.load.land.subscribe", die)
            with pytest.raises(ConnectionFailed) as caught, open_ledger(connections) as ledger:
                land(select(("payments",))[0], connections, ledger)
        assert caught.value.hint == "runner.py up"
        embedded.start(tmp_path, {"fsync": "off"})
        with open_ledger(connections) as ledger:
            landed = land(select(("payments",))[0], connections, ledger)
        assert landed.rows["payments"] > 0


def test_databases_with_different_encodings_are_refused(split: Split) -> None:
    name = "latin"
    split.server.execute(
        f"create database {name} template template0 encoding 'LATIN1'"
        " locale_provider libc locale 'C'"
    )
    with (
        connect(with_database(split.server.socket, name), name) as monolith,
        split.monolith() as database,
    ):
        requirements.same_encoding(database, database)
        with pytest.raises(NotReady, match="encoded in LATIN1 .* in UTF8") as caught:
            requirements.same_encoding(monolith, database)
    assert "createdb --template template0 --encoding UTF8" in caught.value.hint
