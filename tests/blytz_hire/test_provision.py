"""Six databases and twelve roles, with only the rights that they need."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest

from demo.project import PROJECT, SERVICES, select
from pgsplit.base.errors import NotReady, TargetOccupied
from pgsplit.load import sample as demo
from pgsplit.load.provision import provision
from pgsplit.postgres.connect import with_database
from pgsplit.routing.env_file import read_url
from pgsplit.state.ledger import State, open_ledger
from tests.support.split import Split
from tests.support.stage import SAMPLE_ROWS


def provision_all(split: Split, *names: str) -> None:
    with open_ledger(split.connections) as ledger:
        for service in select(names):
            provision(service, split.connections, ledger)


def service_url(split: Split, role: str) -> str:
    return read_url(split.connections.folder / f"{role}.env")


def test_provisioning_twice_changes_nothing(split: Split) -> None:
    provision_all(split)
    urls = [service_url(split, service.role) for service in select(())]
    with open_ledger(split.connections) as ledger:
        again = [provision(service, split.connections, ledger) for service in select(())]
        assert {ledger.state(service) for service in select(())} == {State.PROVISIONED}
    assert [one.created for one in again] == [False] * 6
    assert [service_url(split, service.role) for service in select(())] == urls


def test_new_password_replaces_the_old_one(split: Split) -> None:
    provision_all(split, "files")
    before = service_url(split, "files")
    with open_ledger(split.connections) as ledger:
        provision(select(("files",))[0], split.connections, ledger, new_password=True)
    assert service_url(split, "files") != before


def test_env_file_is_accessible_only_to_its_owner(split: Split) -> None:
    provision_all(split, "payments")
    file = split.connections.folder / "payments.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_service_login_reaches_only_its_own_database(split: Split) -> None:
    provision_all(split)
    demo.create(PROJECT, with_database(split.server.socket, "sample"), SAMPLE_ROWS)
    own = service_url(split, "payments")
    for target in SERVICES:
        other = with_database(own, target)
        if target == "payments_db":
            with psycopg.connect(other) as connection:
                assert connection.execute("show search_path").fetchone() == ("payments_db",)
        else:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(other)
    for database in ("postgres", "template1", "sample"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(with_database(own, database))


@pytest.mark.parametrize("schema", ["blytz_hire", "split", "audit", "public"])
def test_service_login_can_use_only_its_own_schema(split: Split, schema: str) -> None:
    provision_all(split, "payments")
    with psycopg.connect(service_url(split, "payments")) as connection:
        row = connection.execute("select has_schema_privilege(%s, 'usage')", (schema,)).fetchone()
        assert row == (False,)
        row = connection.execute("select has_schema_privilege('payments_db', 'create')").fetchone()
        assert row == (False,)


def test_service_can_read_but_not_write_before_its_switch(split: Split) -> None:
    provision_all(split, "payments")
    with split.service("payments_db") as admin:
        admin.execute("set role payments_owner")
        admin.execute("create table payments_db.later (id text)")
    with psycopg.connect(service_url(split, "payments"), autocommit=True) as connection:
        assert connection.execute("select count(*) from later").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("insert into later values ('x')")


def test_database_with_tables_of_others_is_left_alone(split: Split) -> None:
    split.server.execute("create database payments_db")
    with split.service("payments_db") as database:
        database.execute("create table public.ledger_of_somebody_else (id text)")
    with pytest.raises(TargetOccupied) as caught:
        provision_all(split, "payments")
    assert "public.ledger_of_somebody_else" in caught.value.what
    assert "Nothing was changed" in caught.value.what
    assert "PAYMENTS_DB_URL" in caught.value.hint
    with split.service("payments_db") as database:
        assert database.execute("select to_regnamespace('split')").fetchone() == (None,)
    assert split.server.execute("select from pg_roles where rolname = 'payments_owner'") == []


@pytest.mark.parametrize("role", ["payments_service", "payments_owner"])
def test_role_made_by_others_is_refused(split: Split, role: str) -> None:
    split.server.execute(f"create role {role} login createdb")
    with pytest.raises(TargetOccupied) as caught:
        provision_all(split, "payments")
    assert f"There is a role {role} that this project did not make" in caught.value.what
    assert f"DROP ROLE {role};" in caught.value.hint
    assert split.server.execute("select 1 from pg_database where datname = 'payments_db'") == []


def test_database_that_is_not_utf8_is_refused(split: Split) -> None:
    split.server.execute(
        "create database payments_db template template0 encoding 'LATIN1' locale 'C'"
    )
    with pytest.raises(NotReady) as caught:
        provision_all(split, "payments")
    assert "has the encoding LATIN1" in caught.value.what


def test_unwritable_folder_is_reported_before_a_role_is_made(split: Split, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = split.runner(
        "provision", "payments", BLYTZ_HIRE_CONNECTIONS=str(tmp_path / "file" / "connections")
    )
    assert result.returncode == NotReady.exit_code
    assert "The services' own URLs can't be written" in result.stderr
    assert split.server.execute("select 1 from pg_roles where rolname = 'payments_service'") == []


def test_login_that_cannot_create_databases_is_refused_with_a_hint(split: Split) -> None:
    split.server.execute("create role humble login")
    url = with_database(split.connections.urls["payments_db"], "unused", user="humble")
    with split.monolith() as monolith:
        monolith.execute("grant create on database " + monolith.info.dbname + " to humble")
    split.server.execute("grant connect on database postgres to humble")
    changed = {**split.environ, "PAYMENTS_DB_URL": url}
    result = split.runner("provision", "payments", **changed)
    assert result.returncode == NotReady.exit_code, result.stderr
    assert "humble may not create databases and roles" in result.stderr
    assert 'ALTER ROLE "humble" CREATEDB CREATEROLE;' in result.stderr
