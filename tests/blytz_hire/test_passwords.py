"""What a server stores to read another one, and what its log gets to know of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from demo.project import MONOLITH, PROJECT
from pgsplit.load import sample as demo
from pgsplit.postgres.connect import connect, with_database
from pgsplit.postgres.quiet import quiet, unquiet
from pgsplit.project.endpoints import resolve
from pgsplit.routing import env_file
from tests.support import state_0
from tests.support.servers import PASSWORD, Cluster, Server, newest, oldest
from tests.support.split import Split
from tests.support.stage import NOTHING, SAMPLE_ROWS, Stage, environment
from tests.support.switching import (
    NEW_PAYMENT,
    PAYMENTS,
    Side,
    as_service,
    assert_alike,
    move,
    one,
    ran,
)

FORWARD, BACK = PAYMENTS.replication, PAYMENTS.reverse_replication
STORED = """
    select subname, subconninfo from pg_subscription
    where subdbid = (select oid from pg_database where datname = current_database())
"""
ROLES = "select rolname from pg_roles order by 1"
LOUD = {
    "log_statement": "all",
    "log_duration": "on",
    "log_min_duration_statement": "0",
    "log_transaction_sample_rate": "1",
    "log_min_messages": "debug1",
}


def over_tcp(split: Split, **environ: str) -> Split:
    """Let the runner log in with a password."""
    everything = {**split.environ, "BLYTZ_HIRE_URL": with_database(split.server.tcp, MONOLITH)}
    everything.update(environ)
    return replace(split, connections=resolve(PROJECT, everything), environ=everything)


def stored(split: Split, database: str) -> dict[str, dict[str, Any]]:
    """Give the connection parameters that a database's subscriptions store, by name."""
    with split.service(database) as connection:
        return {name: conninfo_to_dict(text) for name, text in connection.execute(STORED)}


def roles(split: Split) -> list[str]:
    return [row[0] for row in split.server.execute(ROLES)]


def loud(server: Server) -> None:
    """Let a server log whatever it can."""
    with psycopg.connect(server.socket, autocommit=True) as connection:
        for name, value in LOUD.items():
            connection.execute(f"alter system set {name} = '{value}'")
        connection.execute("select pg_reload_conf()")


@contextmanager
def first_in_hba(server: Server, line: str) -> Iterator[None]:
    """Put a line at the top of a server's pg_hba.conf for the block."""
    ((file,),) = server.execute("show hba_file")
    path = Path(file)
    before = path.read_text()
    path.write_text(line + "\n" + before)
    server.execute("select pg_reload_conf()")
    try:
        yield
    finally:
        path.write_text(before)
        server.execute("select pg_reload_conf()")


def test_subscription_logs_in_with_a_login_of_its_own(split: Split) -> None:
    tcp, before = over_tcp(split), roles(split)
    ran(tcp, "provision", "payments")
    ran(tcp, "land", "payments")
    found = stored(tcp, "payments_db")[FORWARD]
    assert found["user"] == FORWARD
    assert found["password"] not in (PASSWORD, "", None)
    with tcp.monolith() as monolith:
        may = monolith.execute(
            "select rolcanlogin, rolreplication, rolsuper, rolcreatedb, rolcreaterole,"
            " rolbypassrls, rolpassword like 'SCRAM-SHA-256$%%' from pg_authid where rolname = %s",
            (FORWARD,),
        ).fetchall()
        assert may == [(True, True, False, False, False, False, True)]
        of_role = "select count(*) from information_schema.table_privileges where grantee = %s"
        assert one(monolith, of_role, FORWARD) == 0
    url = with_database(split.server.tcp, MONOLITH, user=FORWARD, password=found["password"])
    with connect(url, "m") as login, pytest.raises(psycopg.errors.InsufficientPrivilege):
        login.execute("select * from blytz_hire.payments")
    with pytest.raises(psycopg.OperationalError, match="CONNECT privilege"):
        psycopg.connect(with_database(url, "payments_db"))
    ran(tcp, "status", "payments")
    # A re-copied mirror has another subscription, and so another password.
    ran(tcp, "land", "payments", "--recopy")
    assert stored(tcp, "payments_db")[FORWARD]["password"] != found["password"]
    with tcp.service("payments_db") as database:
        database.execute(f"alter subscription {FORWARD} enable")
    ran(tcp, "abort", "payments")
    assert roles(split) == before


def test_login_with_rights_that_somebody_gave_it_stops_nothing(split: Split) -> None:
    tcp = over_tcp(split)
    ran(tcp, "provision", "payments")
    ran(tcp, "land", "payments")
    with tcp.monolith() as monolith:
        monolith.execute(f"grant select on blytz_hire.users to {FORWARD}")
        ran(tcp, "abort", "payments")
        left = "select rolcanlogin or rolreplication from pg_roles where rolname = %s"
        assert one(monolith, left, FORWARD) is False
    ran(tcp, "provision", "payments")
    ran(tcp, "land", "payments")
    assert stored(tcp, "payments_db")[FORWARD]["user"] == FORWARD


def test_subscription_without_a_password_gets_no_login(landed: Split) -> None:
    assert "password" not in stored(landed, "payments_db")[FORWARD]
    assert not [name for name in roles(landed) if name.startswith("split_")]


def test_login_that_the_operator_names_is_used(split: Split) -> None:
    split.server.execute(f"create role mirrorer login replication password '{PASSWORD}'")
    split.server.execute("grant connect on database blytz_hire to mirrorer")
    named = with_database(split.server.tcp, MONOLITH, user="mirrorer")
    tcp = over_tcp(split, BLYTZ_HIRE_REPLICATION_URL=named)
    ran(tcp, "provision", "payments")
    ran(tcp, "land", "payments")
    assert stored(tcp, "payments_db")[FORWARD]["user"] == "mirrorer"
    assert FORWARD not in roles(split)


def test_login_that_the_server_refuses_is_not_kept_and_status_says_what_lacks(
    stage: Stage, split: Split
) -> None:
    tcp, log = over_tcp(split), stage.data.parent / "log"
    said = log.stat().st_size
    with first_in_hba(split.server, f"host all {FORWARD} all reject"):
        ran(tcp, "provision", "payments")
        ran(tcp, "land", "payments")
        assert stored(tcp, "payments_db")[FORWARD]["user"] == "postgres"
        assert FORWARD not in roles(split)
        found = ran(tcp, "status", "payments")
    assert "The server of payments_db logs in to the monolith as postgres" in found
    assert "`runner.py build payments` gives it a login of its own. If this note stays" in found
    assert f'a line for that login, such as: host "blytz_hire" {FORWARD} ADDRESS' in found
    assert "hint: runner.py build payments" in found
    ran(tcp, "build", "payments")  # the line is there by now, and this is all that it takes
    assert "gives it a login of its own" not in ran(tcp, "status", "payments")
    assert stored(tcp, "payments_db")[FORWARD]["user"] == FORWARD
    text = log.read_bytes()[said:].decode()
    assert f'rejects connection for host "127.0.0.1", user "{FORWARD}"' in text
    assert "password=" not in text and PASSWORD not in text


def test_monolith_that_nobody_may_reach_is_reported_before_anything_is_copied(split: Split) -> None:
    tcp = over_tcp(split)
    ran(tcp, "provision", "payments")
    before = roles(split)
    address = "127.0.0.1/32"
    url = with_database(split.server.socket, MONOLITH)
    environ = {
        **split.environ,
        "BLYTZ_HIRE_URL": with_database(url, MONOLITH, password=PASSWORD),
        "BLYTZ_HIRE_REPLICATION_URL": with_database(split.server.tcp, MONOLITH),
    }
    socket = replace(split, connections=resolve(PROJECT, environ), environ=environ)
    with first_in_hba(split.server, f"host all all {address} reject"):
        said = ran(socket, "land", "payments", code=4)
    assert "The service's server can't reach the monolith" in said
    assert "no pg_hba.conf entry" in said or "rejects connection" in said
    assert PASSWORD not in said
    with socket.service("payments_db") as database:
        assert one(database, "select count(*) from pg_tables where schemaname = 'blytz_hire'") == 0
    assert roles(split) == before


def test_role_of_somebody_else_with_that_name_is_refused(split: Split) -> None:
    tcp = over_tcp(split)
    ran(tcp, "provision", "payments")
    split.server.execute(f"create role {FORWARD} login")
    said = ran(tcp, "land", "payments", code=6)
    assert f"There is a role {FORWARD} that this project did not make" in said
    split.server.execute(f"comment on role {FORWARD} is '{PAYMENTS.mark}'")  # as the hint says
    ran(tcp, "land", "payments")
    assert stored(tcp, "payments_db")[FORWARD]["user"] == FORWARD


def test_login_without_the_right_is_told_the_statements(split: Split) -> None:
    """It works as before, and the statements that are printed work when pasted."""
    mover = sql.Identifier("mover")
    with split.monolith() as monolith:
        for statement in (
            "create role {mover} login superuser password {}",
            "alter role {mover} nosuperuser createdb createrole",
            "grant pg_create_subscription to {mover}",
            "grant connect on database postgres to {mover}",
            "grant connect, create on database blytz_hire to {mover}",
        ):
            monolith.execute(sql.SQL(statement).format(sql.Literal(PASSWORD), mover=mover))
    url = with_database(split.server.tcp, MONOLITH, user="mover", sslmode="prefer")
    tcp = over_tcp(split, BLYTZ_HIRE_URL=url)
    said = noted = ran(tcp, "provision", "payments")
    statements = 'CREATE ROLE "{role}" LOGIN REPLICATION; GRANT CONNECT ON DATABASE "{database}"'
    statements += ' TO "{role}";'
    role = "blytz_hire_replication"
    first = "Once it follows, the server of payments_db logs in to the monolith as mover, whose"
    assert f"{first} password it then stores" in said
    assert "Once it follows, the server of the monolith logs in to payments_db as mover" in said
    let_it = 'To let it, on payments_db: ALTER ROLE "mover" REPLICATION; Or give a login.'
    assert let_it in said
    assert "may log the password by which it reads payments_db: mover may not turn" in said
    port = split.server.tcp.rpartition(":")[2].partition("/")[0]
    place = f"blytz_hire_replication:PASSWORD@127.0.0.1:{port}/blytz_hire?sslmode=prefer"
    assert f"export BLYTZ_HIRE_REPLICATION_URL='postgresql://{place}'" in said
    assert statements.format(role=role, database="payments_db") in said
    pasted = statements.format(role=role, database="blytz_hire")
    assert pasted in said
    with split.monolith() as monolith:
        monolith.execute(pasted.encode())
        # As psql's \\password does.
        secret = monolith.pgconn.encrypt_password(b"chosen", role.encode(), b"scram-sha-256")
        monolith.execute(f"alter role {role} password '{secret.decode()}'")
    named = with_database(url, MONOLITH, user=role, password="chosen")
    said = ran(
        over_tcp(split, BLYTZ_HIRE_URL=url, BLYTZ_HIRE_REPLICATION_URL=named),
        "provision",
        "payments",
    )
    assert "logs in to the monolith" not in said
    psycopg.connect(named).close()
    # And what keeps a password out of that server's log.
    assert "may log the password by which it reads the monolith: mover may not turn" in noted
    assert 'GRANT SET ON PARAMETER log_min_error_statement TO "mover";' in noted
    split.server.execute("alter system set log_statement = 'ddl'")
    split.server.execute("select pg_reload_conf()")
    said = ran(tcp, "provision", "payments")
    grant = 'GRANT SET ON PARAMETER log_min_error_statement, log_statement TO "mover";'
    assert grant in said
    split.server.execute(grant)
    assert "may log the password" not in ran(tcp, "provision", "payments")


def test_statement_that_lets_the_runner_make_logins_is_enough(split: Split) -> None:
    with split.monolith() as monolith:
        for statement in (
            "create role mover login superuser password {}",
            "alter role mover nosuperuser createdb createrole",
            "grant pg_create_subscription to mover",
            "grant connect on database postgres to mover",
            "grant connect, create on database blytz_hire to mover",
        ):
            monolith.execute(sql.SQL(statement).format(sql.Literal(PASSWORD)))
        url = with_database(split.server.tcp, MONOLITH, user="mover")
        tcp = over_tcp(split, BLYTZ_HIRE_URL=url)
        said = ran(tcp, "provision", "payments")
        fix = 'ALTER ROLE "mover" REPLICATION;'
        assert fix in said
        monolith.execute(fix)
    assert "logs in to" not in ran(tcp, "provision", "payments")


def test_streams_of_an_earlier_version_get_logins_of_their_own_by_a_build(stage: Stage) -> None:
    split = stage.enter(NOTHING)
    state_0.restore(split, "switched")
    tcp = over_tcp(split)
    for database, source, name in (
        ("payments_db", MONOLITH, FORWARD),
        (MONOLITH, "payments_db", BACK),
    ):
        with split.service(database) as connection:
            url = tcp.connections.urls[source]
            text = psycopg.conninfo.make_conninfo(url)
            connection.execute(
                sql.SQL("alter subscription {} connection {}").format(
                    sql.Identifier(name), sql.Literal(text)
                )
            )
    ran(tcp, "sync", "payments")
    said = ran(tcp, "status", "payments")
    assert "The server of payments_db logs in to the monolith as postgres" in said
    assert "The server of the monolith logs in to payments_db as postgres" in said
    ran(tcp, "build", "payments")
    assert stored(tcp, "payments_db")[FORWARD]["user"] == FORWARD
    assert stored(tcp, MONOLITH)[BACK]["user"] == BACK
    with as_service(split) as service:
        service.execute(NEW_PAYMENT[Side.SERVICE], {"id": "new"})
    assert_alike(split)
    assert "logs in to" not in ran(tcp, "status", "payments")


def test_backup_holds_no_password_of_a_user_mapping(living: Split) -> None:
    odd = "it's \\ an odd one"
    with living.service("payments_db") as database:
        options = one(database, "select umoptions from pg_user_mappings")
        secret = dict(option.split("=", 1) for option in options)["password"]
        database.execute("create server of_the_team foreign data wrapper postgres_fdw")
        database.execute(
            sql.SQL(
                "create user mapping for public server of_the_team options (password {})"
            ).format(sql.Literal(odd))
        )
    ran(living, "backup", "payments")
    (path,) = Path(living.environ["BLYTZ_HIRE_BACKUPS"]).glob("*/toc.dat")
    text = path.read_bytes()
    assert b"password 'xxxxxxxx" in text
    assert secret.encode() not in text
    assert b"an odd one" not in text


@pytest.mark.parametrize("run", [oldest, newest], ids=["15", "newest"])
def test_statement_in_quiet_reaches_no_log_and_settings_come_back(run: Any, tmp_path: Path) -> None:
    started = run(tmp_path / "server") if run is newest else run()
    with started as cluster:
        loud(cluster.server)
        log = cluster.data.parent / "log"
        with connect(cluster.server.tcp, "m") as connection:
            connection.execute("load 'auto_explain'")
            connection.execute("set auto_explain.log_min_duration = 0")
            connection.execute("create extension pg_stat_statements schema public")
            before = dict(connection.execute("select name, setting from pg_settings").fetchall())
            with quiet(connection):
                connection.execute("select 'hidden 1'")
                with pytest.raises(psycopg.Error):
                    connection.execute("select 'hidden 2' / 0")
                with pytest.raises(psycopg.Error):
                    connection.execute("create role hidden_3 in role hidden_4")
            with pytest.raises(psycopg.Error), quiet(connection), connection.transaction():
                connection.execute("select 'hidden 5'")
                connection.execute("drop table hidden_6")
            connection.execute("set log_transaction_sample_rate = 0")  # chosen when one begins
            with connection.transaction(), quiet(connection):
                connection.execute("select 'hidden 7'")
            with pytest.raises(psycopg.Error), connection.transaction(), quiet(connection):
                connection.execute("select 'hidden 8' / 0")
            connection.execute("reset log_transaction_sample_rate")
            after = dict(connection.execute("select name, setting from pg_settings").fetchall())
            assert {name for name in before if before[name] != after[name]} == set()
            connection.execute("select 'shown'")
            assert unquiet(connection) == []
            connection.execute("create role humble login")
            connection.execute("set role humble")
            names = unquiet(connection)
            assert {"log_statement", "log_min_error_statement"} <= set(names)
            with quiet(connection):
                connection.execute("select 'shown, too'")
            connection.execute("reset role")
            listed = ", ".join(names)
            connection.execute(f"grant set on parameter {listed} to humble".encode())
            connection.execute("set role humble")
            with quiet(connection):
                connection.execute("select 'hidden 9'")
        text = log.read_text(errors="replace")
    assert "select 'shown'" in text and "select 'shown, too'" in text
    # Messages of errors name what they are about; statements are not there.
    said = ("ERROR", "does not exist")
    kept = [line for line in text.splitlines() if "hidden" in line]
    assert [line for line in kept if not any(word in line for word in said)] == []


@dataclass
class Secrets:
    """The passwords that have been in play so far."""

    known: set[str]

    def look(self, split: Split) -> None:
        """Learn those that are stored now."""
        for database in (MONOLITH, "payments_db"):
            with split.service(database) as connection:
                for (text,) in connection.execute("select subconninfo from pg_subscription"):
                    self.known.add(str(conninfo_to_dict(text)["password"]))
                for (options,) in connection.execute(
                    "select umoptions from pg_user_mappings where umoptions is not null"
                ):
                    given = dict(option.split("=", 1) for option in options)
                    self.known.add(given["password"])
        own = env_file.own_url(PAYMENTS, split.connections)
        self.known.add(str(conninfo_to_dict(own)["password"]))


@pytest.fixture(params=["service on 15", "monolith on 15"])
def apart(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Split, list[Cluster], Path]]:
    """Give a monolith and a service on servers that log and count everything."""
    with oldest() as old, newest(tmp_path / "server") as new:
        monolith, service = (new, old) if request.param == "service on 15" else (old, new)
        for cluster in (monolith, service):
            loud(cluster.server)
            cluster.server.execute(
                "alter system set shared_preload_libraries = 'pg_stat_statements', 'auto_explain'"
            )
            cluster.crash()
            cluster.server.execute("create extension pg_stat_statements schema public")
            cluster.server.execute("alter system set auto_explain.log_min_duration = 0")
            cluster.server.execute("select pg_reload_conf()")
        url = monolith.url(MONOLITH)
        demo.create(PROJECT, url, SAMPLE_ROWS)
        environ = {
            **environment(url, tmp_path, tmp_path / "dbt"),
            "PAYMENTS_DB_URL": service.url("payments_db"),
        }
        split = Split(monolith.server, resolve(PROJECT, environ), environ)
        yield split, [monolith, service], tmp_path


@pytest.mark.slow
def test_no_password_is_written_anywhere_in_a_whole_life(
    apart: tuple[Split, list[Cluster], Path],
) -> None:
    split, clusters, folder = apart
    secrets = Secrets({PASSWORD})
    before = [cluster.server.execute(ROLES) for cluster in clusters]
    said = [ran(split, "run", "payments"), ran(split, "verify", "payments")]
    secrets.look(split)
    said.append(ran(split, "switch", "payments", "--wait-for-write", "0"))
    secrets.look(split)
    assert stored(split, "payments_db")[FORWARD]["user"] == FORWARD
    assert stored(split, MONOLITH)[BACK]["user"] == BACK
    said.append(ran(split, "repair", "payments", "--full"))
    secrets.look(split)
    with first_in_hba(clusters[0].server, f"host all {FORWARD} all reject"):
        said.append(ran(split, "repair", "payments", "--full"))
    said.append(ran(split, "build", "payments"))
    secrets.look(split)
    said.append(ran(split, "backup", "payments"))
    said += [ran(split, command, "--json") for command in ("status", "history", "report")]
    said.append(move(split, "rollback"))
    said.append(json.dumps(split.process("status", "--json").stdout))
    with split.monolith() as monolith:
        for table in ("ledger", "states", "verifications"):
            rows = monolith.execute(f"select t::text from split.{table} as t").fetchall()
            said.append(str(rows))
    said.append(ran(split, "abort", "payments"))
    assert [cluster.server.execute(ROLES) for cluster in clusters] == before

    assert len(secrets.known) >= 6
    texts = {f"output {n}": text for n, text in enumerate(said)}
    for cluster in clusters:
        texts[f"log of {cluster.data}"] = (cluster.data.parent / "log").read_text(errors="replace")
        counted = cluster.server.execute("select query from public.pg_stat_statements")
        texts[f"statements of {cluster.data}"] = str(counted)
    for path in folder.rglob("*"):
        private = "connections" in path.parts or "data" in path.parts
        if path.is_file() and not private:
            texts[str(path)] = path.read_bytes().decode(errors="replace")
    assert any("run_results" in name for name in texts)
    assert any("backups" in name for name in texts)
    for name, text in texts.items():
        for secret in secrets.known:
            for written in {secret, secret.replace("'", "''"), shlex.quote(secret)}:
                assert written not in text, name
