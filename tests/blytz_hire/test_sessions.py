"""What databases and roles set for their sessions never reaches a session of this project."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
import yaml

from demo.project import ROOT
from pgsplit.postgres import programs
from pgsplit.postgres.connect import connect, with_database
from pgsplit.postgres.session_settings import SETTINGS
from tests.support.servers import Cluster, Server, newest, oldest
from tests.support.split import Split

# What the owner of a database may set for everybody, and PostgreSQL 17 also.
HOSTILE = {
    "search_path": "public",
    "role": "stranger",
    "local_preload_libraries": "no_such_library",
    "row_security": "on",
    "check_function_bodies": "off",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "1",
    "exit_on_error": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "standard_conforming_strings": "off",
    "backslash_quote": "on",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "client_min_messages": "error",
    "client_encoding": "LATIN1",
    "timezone": "Asia/Tokyo",
    "datestyle": "German",
    "intervalstyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "xmloption": "document",
    # none of SETTINGS
    "default_text_search_config": "german",
    "gin_fuzzy_search_limit": "1",
    "password_encryption": "md5",
}
SINCE_17 = {
    "transaction_timeout": "100ms",
    "createrole_self_grant": "set",
    "debug_parallel_query": "on",
}
# Those that PostgreSQL's own workers, which apply what is replicated, can live with.
LIVEABLE = ("search_path", "statement_timeout", "idle_in_transaction_session_timeout")
READ = """
    select current_user = session_user, name, setting
    from pg_catalog.pg_settings where name = any(%s)
"""


@pytest.fixture(scope="module", params=[15, 18])
def hostile(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give a server with a database whose owner sets for everybody all that it may."""
    folder = tmp_path_factory.getbasetemp() / "hostile"
    with oldest() if request.param == 15 else newest(folder) as cluster:
        cluster.server.execute("create role stranger")
        cluster.server.execute("create database theirs owner stranger")
        make_hostile(cluster.server, "theirs")
        cluster.server.execute("create database plain")
        yield cluster


def make_hostile(server: Server, database: str) -> None:
    version = server.execute("select current_setting('server_version_num')::integer")[0][0]
    for name, value in {**HOSTILE, **(SINCE_17 if version >= 170000 else {})}.items():
        server.execute(
            f"begin; set local role stranger; alter database {database} set {name} = '{value}'; end"
        )


def seen(connection: psycopg.Connection) -> dict[str, str]:
    names = [*HOSTILE, *SINCE_17]
    rows = connection.execute(READ, (names,)).fetchall()
    assert {own for own, _, _ in rows} == {True}
    return {name: setting for _, name, setting in rows}


def test_runner_session_has_its_own_settings_in_a_hostile_database(hostile: Cluster) -> None:
    with connect(hostile.url("plain"), "x") as plain, connect(hostile.url("theirs"), "x") as theirs:
        # of these the server's own value is not known, so they get PostgreSQL's
        undone = {"default_text_search_config": "pg_catalog.simple"}
        assert seen(theirs) == {**seen(plain), **undone}
        assert theirs.execute("show search_path").fetchone() == ("pg_catalog,pg_temp",)


def test_every_hostile_setting_reaches_a_session_that_does_not_undo_it(hostile: Cluster) -> None:
    """Else the tests around it would prove nothing."""
    with pytest.raises(psycopg.OperationalError, match="no_such_library"):
        psycopg.connect(hostile.url("theirs"))
    kept = [name for name in HOSTILE if re.search("preload|exit|timeout|row_security", name)]
    options = " ".join(f"-c {name}={SETTINGS[name]}" for name in kept)
    with (
        psycopg.connect(hostile.url("theirs"), options=options, autocommit=True) as theirs,
        connect(hostile.url("plain"), "x") as plain,
    ):
        rows = theirs.execute("select name, setting, current_user from pg_settings").fetchall()
        reached = {name: setting for name, setting, _ in rows}
        assert {user for _, _, user in rows} == {"stranger"}
        for name, setting in seen(plain).items():
            assert name in kept or reached[name] != setting, name


def test_walsender_has_its_own_settings(hostile: Cluster) -> None:
    with connect(hostile.url("theirs"), "x", replication="database") as walsender:
        for name in ("search_path", "statement_timeout", "datestyle", "row_security"):
            found = walsender.pgconn.exec_(f"show {name}".encode()).get_value(0, 0)
            assert found is not None
            assert found.decode().replace(" ", "") == SETTINGS[name]
        assert walsender.pgconn.exec_(b"select current_user").get_value(0, 0) == b"postgres"


def test_settings_of_the_url_come_second(hostile: Cluster) -> None:
    url = with_database(
        hostile.url("theirs"), "theirs", options="-c search_path=public -c work_mem=5MB"
    )
    with connect(url, "x") as theirs:
        assert theirs.execute("show search_path").fetchone() == ("pg_catalog,pg_temp",)
        assert theirs.execute("show work_mem").fetchone() == ("5MB",)


def test_programs_run_with_the_same_settings(hostile: Cluster, tmp_path: Path) -> None:
    look = "select name || '=' || setting from pg_settings where name ~ 'search_path|_timeout'"
    target = tmp_path / "seen"
    options = ("-Atqc", look, "-c", "select current_user", "-o", str(target))
    command, environ = programs.program("psql", hostile.url("theirs"), *options)
    assert programs.run(command, environ, lambda: None) == (0, "")
    said = target.read_text().splitlines()
    assert "search_path=pg_catalog,pg_temp" in said
    assert "idle_in_transaction_session_timeout=0" in said
    assert said[-1] == "postgres"


@pytest.mark.parametrize("profile", ["profiles/profiles.yml", "examples/shop/profiles.yml"])
def test_dbt_profile_has_the_settings_of_the_runner(profile: str) -> None:
    (path, *others) = yaml.safe_load((ROOT / profile).read_text())["database"]["search_path"].split(
        "\t-c\t"
    )
    others[-1], _, added = others[-1].partition("{{")
    assert {"search_path": path, **dict(one.split("=", 1) for one in others)} == SETTINGS
    assert "PGSPLIT_SETTINGS" in added


def be_hostile(split: Split, database: str, settings: Mapping[str, str]) -> None:
    split.server.execute("create role stranger")
    for name, value in settings.items():
        split.server.execute(f"alter database {database} set {name} = '{value}'")


def test_build_is_untouched_by_what_the_database_sets(landed: Split) -> None:
    be_hostile(landed, "payments_db", {name: HOSTILE[name] for name in LIVEABLE})
    built = landed.runner("build", "payments")
    assert built.returncode == 0, built.stderr
    verified = landed.runner("verify", "payments")
    assert verified.returncode == 0, verified.stderr


def test_every_thread_of_dbt_has_the_settings(living: Split) -> None:
    """Plain dbt, without the runner."""
    be_hostile(living, "payments_db", {name: HOSTILE[name] for name in (*LIVEABLE, "role")})
    ran = living.dbt("build", "--target", "payments_db")
    assert ran.returncode == 0, ran.stdout
    with living.service("payments_db") as database:
        owners = database.execute("select distinct pg_get_userbyid(relowner) from pg_class")
        assert ("stranger",) not in owners.fetchall()


def test_plain_dbt_says_what_it_can_not_undo(living: Split) -> None:
    living.server.execute("alter database payments_db set transaction_timeout = '1min'")
    ran = living.dbt("build", "--target", "payments_db")
    assert ran.returncode != 0
    assert "transaction_timeout in payments_db on " in ran.stdout
    assert "runner.py build payments_db" in ran.stdout
    assert living.runner("build", "payments").returncode == 0


FUNCTIONS = """
    select proc.oid::regprocedure::text, proc.proconfig
    from pg_proc as proc
    inner join pg_language as language on language.oid = proc.prolang
    where
        proc.pronamespace::regnamespace::text not in ('pg_catalog', 'information_schema')
        and language.lanname in ('plpgsql', 'sql')
        and not exists (select from pg_depend where objid = proc.oid and deptype = 'e')
"""


def test_every_function_that_is_made_has_its_own_search_path(switched: Split) -> None:
    made = 0
    for connection in (switched.monolith(), switched.service("payments_db")):
        with connection:
            for name, settings in connection.execute(FUNCTIONS).fetchall():
                made += 1
                assert "search_path=pg_catalog, pg_temp" in (settings or []), name
    assert made > 20


def test_role_that_may_create_in_public_gets_nothing_run(landed: Split) -> None:
    """Its functions and operators fit better than those of pg_catalog; nobody calls them."""
    trap = """
        create function public.{name} returns {result} language plpgsql as $$ begin
            execute 'alter role stranger superuser'; raise 'trapped'; end $$
    """
    landed.server.execute("create role stranger")
    for connection in (landed.monolith(), landed.service("payments_db")):
        with connection:
            connection.execute("grant usage, create on schema public to stranger")
            connection.execute("set role stranger")
            for name, result in (
                ("quote_ident(name)", "text"),
                ("format(text, name, name)", "text"),
                ("hashtextextended(varchar, bigint)", "bigint"),
                ("count(varchar)", "bigint"),
                ("equal(text, varchar)", "boolean"),
                ("equal(name, text)", "boolean"),
                ("lower(varchar)", "text"),
                ("to_jsonb(varchar)", "jsonb"),
            ):
                connection.execute(trap.format(name=name, result=result))
            for left, right in (("text", "varchar"), ("name", "text")):
                connection.execute(
                    f"create operator public.= (leftarg = {left}, rightarg = {right},"
                    " function = public.equal)"
                )
    for command in (
        ("build", "payments"),
        ("verify", "payments"),
        ("status", "payments"),
        ("sync", "payments"),
    ):
        ran = landed.runner(*command)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert landed.server.execute("select rolsuper from pg_roles where rolname = 'stranger'") == [
        (False,)
    ]
