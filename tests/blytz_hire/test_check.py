"""`check`: everything that servers lack, at once, with statements that fix it when pasted."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from demo.project import MONOLITH, PROJECT
from pgsplit.base.errors import ConnectionFailed
from pgsplit.load import sample
from pgsplit.postgres import embedded, refusals
from pgsplit.postgres.connect import connect, url_of, with_database
from pgsplit.postgres.managed import PROVIDERS, Provider, dialect
from pgsplit.project.endpoints import resolve
from tests.support.bouncer import PGBOUNCER, Bouncer
from tests.support.certificates import make_certificate
from tests.support.pasting import checked, findings, paste, paste_all
from tests.support.servers import PASSWORD, Cluster, Server, free_port, oldest
from tests.support.split import Split
from tests.support.stage import Stage, environment
from tests.support.standby import standby
from tests.support.switching import ran, words
from tests.support.waiting import until

MOVER = "a mover"
ATTRIBUTES = """
    select rolsuper, rolreplication, rolcreatedb, rolcreaterole, rolbypassrls,
        array(
            select roleid::regrole::text from pg_auth_members where member = role.oid order by 1
        )
    from pg_roles as role where rolname = 'a mover'
"""
EVERYTHING = """
    select datname::text from pg_database union all select rolname from pg_roles order by 1
"""
MAY_CONNECT = {
    "nothing": (),
    "postgres": ("postgres",),
    "monolith": (MONOLITH,),
    "both": ("postgres", MONOLITH),
}


@pytest.fixture
def bare(split: Split) -> Split:
    """Give a monolith whose tables have an owner of their own, and a runner that may do nothing."""
    with split.monolith() as monolith:
        make_bare(monolith)
    return as_mover(split)


def make_bare(monolith: psycopg.Connection[Any]) -> None:
    login = sql.SQL("create role {} login password {}")
    monolith.execute(login.format(sql.Identifier(MOVER), sql.Literal(PASSWORD)))
    monolith.execute("create role shop nologin")
    monolith.execute("alter schema blytz_hire owner to shop")
    for (table,) in monolith.execute(
        "select oid::regclass::text from pg_class where relkind = 'r'"
        " and relnamespace = 'blytz_hire'::regnamespace"
    ).fetchall():
        monolith.execute(f"alter table {table} owner to shop")


def as_mover(split: Split, **environ: str) -> Split:
    url = with_database(split.server.tcp, MONOLITH, user=MOVER)
    everything = {**split.environ, "BLYTZ_HIRE_URL": url, **environ}
    return replace(split, connections=resolve(PROJECT, everything), environ=everything)


def superusers(split: Split) -> dict[str, str]:
    port = split.connections.monolith_url.partition("127.0.0.1:")[2].partition("/")[0]
    return {port: split.server.socket}


# Rights


@pytest.mark.parametrize("connects_to", MAY_CONNECT)
def test_one_round_of_pasting_makes_check_content(bare: Split, connects_to: str) -> None:
    for database in MAY_CONNECT[connects_to]:
        bare.server.execute(f'grant connect on database {database} to "{MOVER}"')
    before = bare.server.execute(EVERYTHING)
    found = checked(bare, code=4)
    assert bare.server.execute(EVERYTHING) == before
    paste_all(found, superusers(bare))
    again = checked(bare)
    assert not [server for server in again["servers"] if server["statements"]]
    assert bare.server.execute(EVERYTHING) == before
    reached = [one for server in again["servers"] for one in server["findings"]]
    names = {one["what"] for one in reached if one["what"].startswith("reaches ")}
    assert names == {f"reaches {target}" for target in PROJECT.targets}
    # Exactly what docs/connections.md lists.
    (attributes,) = bare.server.execute(ATTRIBUTES)
    assert attributes == (False, True, True, True, False, ["pg_create_subscription", "shop"])


def test_people_see_one_line_a_finding_and_a_block_to_paste(bare: Split) -> None:
    for database in ("postgres", MONOLITH):
        bare.server.execute(f'grant connect on database {database} to "{MOVER}"')
    done = bare.runner("check", "payments")
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    table = [line for line in lines if line.startswith((" ok ", " no ", " ! "))]
    assert len(table) > 20 and all(len(line) <= 80 for line in table)
    assert any(words(line) == "no right to replicate no yes" for line in table)
    rows = [words(line) for line in table]
    assert (
        rows.count("no USAGE on blytz_hire no yes") == rows.count("no member of shop no yes") == 1
    )
    psql, _ = [n for n, line in enumerate(lines) if line.startswith("psql 'postgresql://")]
    block = lines[psql + 1 : lines.index("", psql + 2)]
    assert block[1] == 'GRANT pg_create_subscription TO "a mover";'
    assert "GRANT shop TO" in done.stdout and '\\connect "blytz_hire"' in block
    assert "GRANT SELECT" not in done.stdout  # the owner's role has it
    assert "Nothing was changed." in done.stderr
    paste(block, bare.server.socket)
    done = bare.runner("check", "payments")
    assert done.returncode == 0, done.stdout
    assert "Nothing is missing." in done.stdout
    assert done.stdout.count("psql 'postgresql") == done.stdout.count("worth having") == 1


def test_superuser_on_a_ready_server_lacks_nothing(split: Split) -> None:
    found = checked(split)
    assert found["is_ready"] and len(found["servers"]) == 1
    assert [one["found"] for one in findings(found, "right to subscribe")] == ["yes"]


def test_what_is_there_already_is_asked_as_it_is(living: Split) -> None:
    found = checked(living, "payments")
    assert [one["found"] for one in findings(found, "database payments_db")] == ["its own"]
    assert findings(found, "slots of others")[0]["found"] == "none"
    living.server.execute("create database somebodys")
    url = with_database(living.server.socket, "somebodys")
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("create table kept ()")
    environ = {**living.environ, "CONTRACTS_DB_URL": url}
    done = replace(living, environ=environ).runner("check", "contracts")
    assert done.returncode == 4
    said = words(done.stdout)
    assert "The database holds objects that this project did not make: public.kept." in said


@pytest.mark.parametrize("provider", PROVIDERS, ids=[one.name for one in PROVIDERS])
def test_managed_server_gets_its_own_statements(bare: Split, provider: Provider) -> None:
    server = bare.server
    for role in filter(None, {provider.role, provider.replicates, provider.subscribes}):
        server.execute(f"create role {role} nologin")
    for database in ("postgres", MONOLITH):
        server.execute(f'grant connect on database {database} to "{MOVER}"')
    found = checked(bare, "payments", code=4)
    (place,) = found["servers"]
    assert place["provider"] == provider.name
    assert provider.replication.format(user=f'"{MOVER}"') in place["statements"]
    assert 'GRANT pg_create_subscription TO "a mover";' in place["statements"]
    paste_all(found, superusers(bare))
    checked(bare, "payments")


def test_parameters_of_managed_servers_replace_alter_system(split: Split) -> None:
    for provider in PROVIDERS:
        split.server.execute(f"create role {provider.role} nologin")
        with connect(split.server.socket, "any") as server:
            here = dialect(server)
            assert here.provider == provider
            for setting in ("wal_level", "max_replication_slots"):
                said = here.setting(setting, 40)
                assert said.startswith(f"-- {provider.name}: ") and "ALTER SYSTEM" not in said
                assert "then restart the server" not in here.in_words(said, server="any")
            assert "rds.logical_replication = 1" in here.setting("wal_level", "logical") or (
                provider.role != "rds_superuser"
            )
        split.server.execute(f"drop role {provider.role}")


def test_what_the_note_revokes_shuts_out_no_runner(bare: Split) -> None:
    """What is pasted keeps the runner in; where it is not, `check` says so for a service, too."""
    paste_all(checked(bare, "payments", code=4), superusers(bare))
    bare.server.execute(f'revoke connect on database postgres from "{MOVER}"')
    bare.server.execute("grant connect on database postgres, template1, blytz_hire to public")
    said = bare.runner("provision", "payments").stdout
    assert "To forbid it in blytz_hire would shut out every login that has no right" in words(said)
    block = [line for line in said.splitlines() if line.endswith(";") and " CONNECT ON" in line]
    assert [line.split() for line in block] == [
        ["GRANT", "CONNECT", "ON", "DATABASE", '"postgres"', "TO", '"a', 'mover";'],
        ["REVOKE", "CONNECT", "ON", "DATABASE", '"postgres",', '"template1"', "FROM", "PUBLIC;"],
    ]
    paste(block, bare.server.socket)
    again = bare.runner("provision", "payments")
    assert again.returncode == 0 and "To forbid it:" not in again.stdout
    bare.server.execute(f'revoke connect on database postgres from "{MOVER}"')
    found = checked(bare, "payments", code=4)
    (one,) = findings(found, "connects to postgres")
    assert one["sql"] == 'GRANT CONNECT ON DATABASE "postgres" TO "a mover";'
    assert bare.runner("provision", "payments").returncode == 3
    paste_all(found, superusers(bare))
    assert findings(checked(bare, "payments"), "extension postgres_fdw")[0]["state"] == "note"
    assert bare.runner("provision", "payments").returncode == 0


def test_what_is_worth_having_has_a_block_of_its_own(bare: Split) -> None:
    paste_all(checked(bare, "payments", code=4), superusers(bare))
    assert bare.runner("provision", "payments").returncode == 0
    lines = bare.runner("check", "payments").stdout.splitlines()
    (title,) = [n for n, line in enumerate(lines) if "worth having; as a superuser, paste" in line]
    block = lines[title + 3 : lines.index("", title + 3)]
    point = 'GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO "a mover";'
    assert block[:3] == ['GRANT pg_monitor TO "a mover";', '\\connect "blytz_hire"', point]
    assert block[3] == '\\connect "payments_db"' and any("CREATE EXTENSION" in o for o in block)
    paste(block, bare.server.socket)
    found = checked(bare, "payments")
    for name in ("extension postgres_fdw", "sees all statistics", "restore points"):
        assert {one["state"] for one in findings(found, name)} == {"ok"}, name
    # What is granted is what backups and health go without otherwise.
    assert "No restore point was made" not in ran(bare, "backup")
    assert "pg_monitor" not in ran(bare, "health", "payments")


@pytest.mark.slow
def test_superuser_that_15_wants_is_for_the_switch_and_comes_last(
    split: Split, tmp_path: Path
) -> None:
    with oldest() as old:
        sample.create(PROJECT, old.url(MONOLITH), 50)
        with psycopg.connect(old.url(MONOLITH), autocommit=True) as monolith:
            make_bare(monolith)
            monolith.execute(f'grant connect on database blytz_hire to "{MOVER}"')
        login = sql.SQL("create role {} login password {}")
        split.server.execute(login.format(sql.Identifier(MOVER), sql.Literal(PASSWORD)))
        split.server.execute(f'grant connect on database postgres to "{MOVER}"')
        port = str(conninfo_to_dict(old.server.tcp)["port"])
        both = as_mover(
            split,
            BLYTZ_HIRE_URL=with_database(old.server.tcp, MONOLITH, user=MOVER),
            PAYMENTS_DB_URL=with_database(split.server.tcp, "payments_db", user=MOVER),
        )
        other = str(conninfo_to_dict(split.server.tcp)["port"])
        servers = {port: old.server.tcp, other: split.server.socket}
        found = checked(both, "payments", code=4)
        assert found["servers"][0]["statements"][-2:] == [
            "-- Only from the switch on: PostgreSQL 15 lets only superusers subscribe; they need"
            " none of the grants.",
            'ALTER ROLE "a mover" SUPERUSER;',
        ]
        assert 'GRANT shop TO "a mover";' in found["servers"][0]["statements"]
        found["servers"][0]["statements"].pop()
        paste_all(found, servers)
        found = checked(both, "payments", code=4)
        assert [one["statements"] for one in found["servers"][1:]] == [[]]
        lacking = [one for one in found["servers"][0]["findings"] if one["state"] == "missing"]
        assert [(one["what"], one["for"]) for one in lacking] == [("right to subscribe", "switch")]
        said = both.runner("check", "payments").stdout
        needed, worth, _ = said.partition("worth having; as a superuser, paste")
        assert worth and "SUPERUSER" in needed and "GRANT" not in needed
        for command in ("run", "verify", "totals"):
            ran(both, command, "payments")
        paste_all(found, servers)
        checked(both, "payments")


# Settings, room, and what others have made


@contextmanager
def small(root: Path, **settings: str) -> Iterator[Split]:
    """Run a server with few of everything, and a monolith on it."""
    address = {"listen_addresses": "127.0.0.1", "port": str(free_port())}
    embedded.start(root, {"fsync": "off", **address, **settings})
    try:
        url = embedded.url(root, MONOLITH)
        sample.create(PROJECT, url, 300)
        environ = environment(url, root, root / "dbt")
        server = Server(embedded.url(root, "postgres"), "")
        yield Split(server, resolve(PROJECT, environ), environ)
    finally:
        embedded.wipe(root)


def test_settings_and_room_are_asked_for_all_services_together(tmp_path: Path) -> None:
    few = {
        "wal_level": "replica",
        "max_replication_slots": "3",
        "max_wal_senders": "3",
        "max_logical_replication_workers": "3",
        "max_active_replication_origins": "3",
        "max_worker_processes": "4",
        "max_connections": "20",
    }
    with small(tmp_path, **few) as split:
        found = checked(split, code=4)
        for name in few:
            (one,) = findings(found, name)
            assert (one["state"], one["sql"].split(" = ")[0]) == (
                "missing",
                f"ALTER SYSTEM SET {name}",
            )
        (place,) = found["servers"]
        assert place["statements"][-1].startswith("-- Then restart the server")
        paste(place["statements"], split.server.socket)
        pending = checked(split, code=4)
        assert findings(pending, "wal_level")[0]["found"] == "replica, restart pending"
        embedded.stop(tmp_path)
        port = str(conninfo_to_dict(split.server.socket)["port"])
        embedded.start(tmp_path, {"fsync": "off", "port": port, **few})  # what was pasted wins
        checked(split)


def test_what_others_set_and_made_is_named(bare: Split) -> None:
    for database in ("postgres", MONOLITH):
        bare.server.execute(f'grant connect on database {database} to "{MOVER}"')
    paste_all(checked(bare, "payments", code=4), superusers(bare))
    with psycopg.connect(with_database(bare.server.socket, MONOLITH), autocommit=True) as monolith:
        for statement in (
            "alter database blytz_hire set lock_timeout = '1s'",
            "alter database blytz_hire set transaction_timeout = '5s'",
            "alter database blytz_hire set statement_timeout = '5s'",
            f'alter role "{MOVER}" connection limit 3',
            f"alter role \"{MOVER}\" valid until '{{}}'",
            "create publication everything for all tables",
            "select pg_create_physical_replication_slot('of_a_tool', true)",
        ):
            monolith.execute(statement.format(in_ten_days(monolith)))
    found = checked(bare, "payments", code=4)
    assert findings(found, "lock_timeout")[0]["state"] == "missing"
    assert findings(found, "transaction_timeout")[0]["found"] == "5s"
    assert findings(found, "login's connections")[0]["found"] == "3"
    assert findings(found, "time-outs")[0]["found"] == "statement_timeout"
    assert findings(found, "password")[0]["state"] == "note"
    (publications,) = findings(found, "publications of others")
    assert publications["state"] == "note"
    assert "everything publishes all tables of blytz_hire" in publications["problem"]
    assert findings(found, "slots of others")[0]["found"] == "1"
    paste_all(found, superusers(bare))
    checked(bare, "payments")


def in_ten_days(database: psycopg.Connection[Any]) -> str:
    row = database.execute("select (now() + interval '10 days')::text").fetchone()
    assert row is not None
    return str(row[0])


def test_types_of_an_extension_are_asked_of_the_services_server(split: Split) -> None:
    with split.monolith() as monolith:
        monolith.execute("create extension citext schema public")
        monolith.execute("alter table blytz_hire.payments alter method type public.citext")
    found = checked(split, "payments", code=4)  # the project calls it text
    (drift,) = findings(found, "tables as expected")
    assert "method" in drift["problem"] and "citext" in drift["problem"]
    (one,) = findings(found, "extension citext")
    assert one["state"] == "note" and "Once a service's database exists" in one["problem"]
    ran(split, "provision", "payments")
    found = checked(split, "payments", code=4)
    (one,) = findings(found, "extension citext")
    assert (one["found"], one["state"]) == ("offered", "missing")
    (place,) = found["servers"]
    wanted = ['\\connect "payments_db"', 'CREATE EXTENSION IF NOT EXISTS "citext";']
    assert place["statements"] == wanted
    paste(place["statements"], split.server.socket)
    found = checked(split, "payments", code=4)
    assert findings(found, "extension citext")[0]["state"] == "ok"


def test_standby_can_be_no_monolith(split: Split, stage: Stage) -> None:
    start = partial(embedded.start, stage.root, stage.settings)
    url_of = partial(with_database, split.server.tcp)
    with standby(Cluster(stage.data, split.server, url_of, start)) as other:
        url = with_database(split.server.tcp, MONOLITH, port=other.port)
        done = split.runner("check", "payments", BLYTZ_HIRE_URL=url)
    assert done.returncode == 4, done.stderr
    said = words(done.stdout)
    assert "is a standby, which can't be written. Give the URL of the primary." in said


def test_monolith_in_another_encoding_is_named(split: Split) -> None:
    split.server.execute(
        "create database latin template template0 encoding 'LATIN1' locale 'C'"
        " locale_provider 'libc'"
    )
    url = with_database(split.server.socket, "latin")
    done = split.runner("check", "payments", BLYTZ_HIRE_URL=url)
    assert done.returncode == 4
    assert "The monolith's encoding is LATIN1; it has to be UTF8." in words(done.stdout)


# Connections


@pytest.mark.parametrize("ignores", ["", "search_path, row_security, ", "options, "])
def test_pooler_is_refused_whatever_it_ignores(
    split: Split, tmp_path_factory: pytest.TempPathFactory, ignores: str
) -> None:
    if not PGBOUNCER:
        pytest.skip("PgBouncer is not installed; apt-get install pgbouncer")
    folder = tmp_path_factory.mktemp("pool")
    folder.chmod(0o755)
    bouncer = Bouncer(folder / "bouncer")
    (folder / "connections").mkdir()
    where = split.server.tcp.partition("@")[2].partition("/")[0].split(":")
    (folder / "connections" / "pgbouncer.ini").write_text(
        f"blytz_hire = host={where[0]} port={where[1]} user=postgres password='{PASSWORD}'\n"
    )
    bouncer.prepare(folder / "connections")
    settings = folder / "bouncer" / "main.ini"
    settings.write_text(
        settings.read_text() + f"ignore_startup_parameters = {ignores}extra_float_digits\n"
    )
    bouncer.start()
    try:
        until(bouncer.answers)
        with pytest.raises(ConnectionFailed) as refused:
            connect(bouncer.url("blytz_hire"), MONOLITH)
        assert "This is a connection pooler" in refused.value.what
        assert refused.value.hint.startswith("Let BLYTZ_HIRE_URL name the server itself")
        # Nothing has reached the session that other clients of the pool get.
        with psycopg.connect(bouncer.url("blytz_hire"), prepare_threshold=None) as client:
            assert client.execute("show search_path").fetchone() != ("pg_catalog,pg_temp",)
        done = split.runner("check", "payments", BLYTZ_HIRE_URL=bouncer.url("blytz_hire"))
        assert done.returncode == 3
        assert "This is a connection pooler" in words(done.stderr)
        assert ".." not in done.stderr
    finally:
        bouncer.stop()


@pytest.mark.parametrize(
    ("host", "port", "wanted"),
    [
        ("aws-0-eu-west-1.pooler.supabase.com", "6543", "db.PROJECT.supabase.co"),
        ("ep-cool-1234-pooler.eu-central-1.aws.neon.tech", "5432", "without -pooler"),
        ("shop.postgres.database.azure.com", "6432", "port 5432"),
        ("mine.proxy-abc.eu-west-1.rds.amazonaws.com", "5432", "own endpoint"),
        ("pool.example.com", "6432", "where PostgreSQL listens"),
    ],
)
def test_known_poolers_are_told_from_their_servers(host: str, port: str, wanted: str) -> None:
    said = refusals.server_itself("BLYTZ_HIRE_URL", {"host": host, "port": port})
    assert said.startswith("Let BLYTZ_HIRE_URL name the server itself") and wanted in said


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ('FATAL:  database "m" does not exist', "The database does not exist", "provision"),
        (
            'FATAL:  permission denied for database "m"\nDETAIL:  User does not have CONNECT',
            "The login may not connect",
            'GRANT CONNECT ON DATABASE "m" TO "me";',
        ),
        ('FATAL:  role "me" is not permitted to log in', "may not log in", 'ROLE "me" LOGIN;'),
        ('FATAL:  role "me" does not exist', "The login does not exist", 'CREATE ROLE "me"'),
        ("fe_sendauth: no password supplied", "asks for a password", ".pgpass"),
        ('FATAL:  password authentication failed for user "me"', "was refused", "rolvaliduntil"),
        ("FATAL:  sorry, too many clients already", "no connection left", "max_connections"),
        ('FATAL:  too many connections for role "me"', "no connection left", "CONNECTION LIMIT"),
        ("FATAL:  connection requires a valid client certificate", "a client certif", "sslcert"),
        ("server does not support SSL, but SSL was required", "TLS was asked for", "sslmode"),
        ("SSL error: certificate verify failed", "vouches for", "Add sslrootcert=/path/to/ca.crt"),
        (
            'root certificate file "/root/.postgresql/root.crt" does not exist',
            "vouches for the server's certificate",
            "Add sslrootcert=/path/to/ca.crt to X_URL",
        ),
        (
            'server certificate for "db" does not match host name "127.0.0.1"',
            "is for another name",
            "that name as its host",
        ),
        ('private key file "/x" has group or world access', "can't be encrypted", "sslkey"),
        ("FATAL:  the database system is starting up", "is not ready", "in a moment"),
        ("failed to resolve host 'x': [Errno -2]", "name is unknown", "name server"),
        ("Connection refused", "The server can't be reached", "names its host and port"),
        (
            "Multiple connection attempts failed. All failures were:\n"
            "- host: 'x', hostaddr: '::1': connection failed: Connection refused\n"
            "- host: 'x', hostaddr: '127.0.0.1': connection failed: FATAL:  database \"m\" does not"
            " exist",
            "The database does not exist",
            "Check the database's name in X_URL",
        ),
    ],
)
def test_refusals_say_what_to_do(said: str, what: str, hint: str) -> None:
    found = refusals.explain(said, "X_URL", {"dbname": "m", "user": "me"})
    assert what in found.what and hint in found.hint
    assert found.said in said


def test_missing_right_to_connect_is_named_and_its_statement_works(bare: Split) -> None:
    url = with_database(bare.server.tcp, MONOLITH, user=MOVER)
    with pytest.raises(ConnectionFailed) as refused:
        connect(url, MONOLITH)
    assert refused.value.what.startswith("The login may not connect to this database")
    bare.server.execute(refused.value.hint.splitlines()[-1])
    connect(url, MONOLITH).close()


def test_function_of_the_application_that_reading_would_run_is_named(split: Split) -> None:
    split.server.execute("create role app")
    with split.monolith() as monolith:
        monolith.execute(
            "create function blytz_hire.is_due(text) returns boolean language sql immutable"
            " return true"
        )
        monolith.execute("alter function blytz_hire.is_due owner to app")
        monolith.execute("create index due on blytz_hire.payments (blytz_hire.is_due(id))")
    (found,) = findings(checked(split, "payments", code=4), "code of others")
    assert "the index blytz_hire.due calls blytz_hire.is_due(text) of app" in found["problem"]
    *_, statement = found["hint"].splitlines()
    with split.monolith() as monolith:
        monolith.execute(statement)
    (found,) = findings(checked(split, "payments"), "code of others")
    assert found["state"] == "ok"


@pytest.mark.parametrize("reached", [True, False])
def test_trial_that_fails_leaves_no_password_in_a_log(
    bare: Split, stage: Stage, reached: bool
) -> None:
    """The login may subscribe and not replicate, and a statement that fails is logged."""
    secret = "nobody-reads-this"
    bare.server.execute(f"alter role \"{MOVER}\" password '{secret}' createdb")
    bare.server.execute(f'grant pg_create_subscription to "{MOVER}"')
    bare.server.execute(f'grant connect, create on database {MONOLITH} to "{MOVER}"')
    url = with_database(bare.server.tcp, MONOLITH, user=MOVER, password=secret)
    elsewhere = {} if reached else {"BLYTZ_HIRE_REPLICATION_URL": re.sub(r":\d+/", ":1/", url)}
    found = checked(as_mover(bare, BLYTZ_HIRE_URL=url, **elsewhere), "payments", code=4)
    (answer,) = findings(found, f"reaches {MONOLITH}")
    assert (answer["state"] == "ok") is reached
    log = (stage.data.parent / "log").read_text(errors="replace")
    assert secret not in log
    assert "split_try_" in log  # it failed, and was logged


def test_server_that_only_this_machine_reaches_is_named(split: Split) -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/blytz_hire"
    before = split.server.execute(EVERYTHING)
    done = split.runner("check", "payments", BLYTZ_HIRE_REPLICATION_URL=nowhere)
    assert done.returncode == 4
    said = words(done.stdout)
    assert "can't reach blytz_hire: " in said and "Connection refused" in said
    assert "export BLYTZ_HIRE_REPLICATION_URL=postgresql://USER:PASSWORD@HOST:1/blytz_hire" in said
    assert split.server.execute(EVERYTHING) == before


def test_file_of_another_server_is_named(split: Split, tmp_path: Path) -> None:
    (tmp_path / "payments.env").write_text(
        "PAYMENTS_SERVICE_URL='postgresql://payments_service:old@/payments_db?host=/tmp/pgsplit-0'\n"
        "PAYMENTS_READ_URL='postgresql://postgres@/blytz_hire?host=/tmp/pgsplit-0'\n"
        "PAYMENTS_WRITE_URL='postgresql://postgres@/blytz_hire?host=/tmp/pgsplit-0'\n"
    )
    done = split.runner("check", "payments", BLYTZ_HIRE_CONNECTIONS=str(tmp_path))
    assert done.returncode == 0
    assert "! file payments.env of another server" in words(done.stdout)
    assert f"{tmp_path}/payments.env is for another server, database payments_db" in words(
        done.stdout
    )
    assert "runner.py provision payments --new-password" in done.stdout


def test_misspelled_database_is_named_as_it_was_given(split: Split) -> None:
    url = with_database(split.server.socket, "blytzhire")
    done = split.runner("check", "payments", BLYTZ_HIRE_URL=url)
    assert done.returncode == 3
    assert "blytz_hire (database blytzhire), payments_db" in done.stdout
    assert "no   connects to blytzhire " in done.stdout
    assert "Check the database's name in BLYTZ_HIRE_URL." in done.stderr
    assert "provision" not in done.stderr
    assert "provision" not in split.runner("status", BLYTZ_HIRE_URL=url).stderr


def test_unreachable_service_is_named_beside_what_others_lack(split: Split) -> None:
    nowhere = "postgresql://postgres@127.0.0.1:1/payments_db"
    done = split.runner("check", "payments", PAYMENTS_DB_URL=nowhere)
    assert done.returncode == 3
    assert "no   connects to payments_db" in done.stdout
    assert "ok   wal_level" in done.stdout
    assert "The server can't be reached" in words(done.stderr)


# What only this machine has


@pytest.fixture
def with_passfile(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """Let a runner that may make no logins take its password from a .pgpass."""
    passfile = tmp_path / ".pgpass"
    passfile.write_text("*:*:*:*:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:") + "\n")
    passfile.chmod(0o600)
    split.server.execute(
        sql.SQL("create role {} login superuser password {}").format(
            sql.Identifier(MOVER), sql.Literal(PASSWORD)
        )
    )
    url = with_database(split.server.tcp, MONOLITH, user=MOVER).replace(quoted_password(), "")
    environ = {**split.environ, "BLYTZ_HIRE_URL": url, "PGPASSFILE": str(passfile)}
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    return replace(split, connections=resolve(PROJECT, environ), environ=environ)


def quoted_password() -> str:
    return ":" + quote(PASSWORD, safe="")


def test_password_file_is_enough_where_streams_get_logins_of_their_own(
    with_passfile: Split,
) -> None:
    checked(with_passfile, "payments")
    ran(with_passfile, "run", "payments")
    ran(with_passfile, "land", "payments", "--recopy")


def test_password_file_alone_is_refused_before_a_mirror_is_removed(
    with_passfile: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = with_passfile
    ran(split, "provision", "payments")
    ran(split, "land", "payments")
    mirror = "select count(*) from blytz_hire.payments"
    streams = "select subname, oid from pg_subscription"
    with split.service("payments_db") as database:
        kept = database.execute(mirror).fetchone(), database.execute(streams).fetchall()
    monkeypatch.setattr("pgsplit.replication.login.may_make", lambda source: False)
    done = split.runner("check", "payments")
    assert done.returncode == 4
    wanted = "BLYTZ_HIRE_URL uses a password from a file or the environment (.pgpass, PGPASSWORD)"
    assert wanted in words(done.stdout)
    assert "BLYTZ_HIRE_REPLICATION_URL" in done.stdout
    said = ran(split, "land", "payments", "--recopy", code=4)
    assert wanted in said and "export BLYTZ_HIRE_REPLICATION_URL=" in said
    with split.service("payments_db") as database:
        assert (database.execute(mirror).fetchone(), database.execute(streams).fetchall()) == kept
    # The URL that the message asks for is enough.
    whole = with_database(split.server.tcp, MONOLITH)
    done = split.runner("land", "payments", "--recopy", BLYTZ_HIRE_REPLICATION_URL=whole)
    assert done.returncode == 0, done.stderr


def test_client_certificate_is_this_machines_own(tmp_path: Path) -> None:
    """The server reads no key of the runner's; a login with a password of its own is enough."""
    with oldest() as old:
        make_certificate(old.data)
        make_certificate(tmp_path, "client", MOVER)
        shutil.copy(tmp_path / "client.crt", old.data / "trusted.crt")
        (old.data / "trusted.crt").chmod(0o644)
        (old.data / "pg_hba.conf").write_text(
            f'hostssl all "{MOVER}" all cert\nhost all all all scram-sha-256\n'
        )
        for statement in (
            "alter system set ssl = on",
            "alter system set ssl_ca_file = 'trusted.crt'",
            f'create role "{MOVER}" login superuser',
            "select pg_reload_conf()",
        ):
            old.server.execute(statement)
        sample.create(PROJECT, old.url(MONOLITH), 300)
        plain = old.url(MONOLITH)
        files = {"sslcert": tmp_path / "client.crt", "sslkey": tmp_path / "client.key"}
        fields = {**conninfo_to_dict(plain), "user": MOVER, "sslmode": "require"}
        del fields["password"]
        url = url_of({**fields, **{key: str(path) for key, path in files.items()}})  # type: ignore[arg-type]
        environ = environment(url, tmp_path, tmp_path / "dbt")
        split = Split(old.server, resolve(PROJECT, environ), environ)
        (one,) = findings(checked(split, "payments", code=4), "reaches blytz_hire")
        wanted = "BLYTZ_HIRE_URL uses a client certificate (sslcert) and a client key (sslkey)"
        assert wanted in one["problem"] and "BLYTZ_HIRE_REPLICATION_URL=" in one["hint"]
        environ["BLYTZ_HIRE_REPLICATION_URL"] = plain
        environ["PAYMENTS_DB_REPLICATION_URL"] = old.url("payments_db")
        checked(replace(split, environ=environ), "payments")


def test_service_file_is_looked_up_once_for_everybody(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = split.server.tcp.partition("@")[2].partition("/")[0].split(":")
    file = tmp_path / "services.conf"
    file.write_text(
        f"# ours\n[old]\nhost={where[0]}\nport={where[1]}\nuser=postgres\npassword={PASSWORD}\n"
        "dbname=blytz_hire\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    environ = {
        **split.environ,
        "BLYTZ_HIRE_URL": "postgresql:///?service=old",
        "PGSERVICEFILE": str(file),
    }
    assert resolve(PROJECT, environ).monolith_url == with_database(split.server.tcp, MONOLITH)
    named = replace(split, connections=resolve(PROJECT, environ), environ=environ)
    checked(named, "payments")
    ran(named, "run", "payments")
    with pytest.raises(ConnectionFailed) as refused:
        resolve(PROJECT, {**environ, "BLYTZ_HIRE_URL": "postgresql:///?service=new"})
    assert "BLYTZ_HIRE_URL takes the service new, which no service file has." in refused.value.what
    assert refused.value.where == str(file)
