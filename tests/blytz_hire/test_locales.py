"""The monolith's encoding and locale: refused at once, given to the services, or named."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from demo.project import PROJECT, select
from pgsplit.base.errors import NotReady
from pgsplit.load.provision import provision
from pgsplit.postgres.connect import connect, with_database
from pgsplit.postgres.locale import (
    Locale,
    create_like,
    difference,
    locale_of,
    offers,
    require_utf8,
)
from pgsplit.project.endpoints import resolve
from pgsplit.state.ledger import open_ledger
from tests.support.servers import Server, oldest
from tests.support.split import Split, command_line, surrounded
from tests.support.stage import environment

(PAYMENTS,) = select(("payments",))
TURKISH = Locale("UTF8", "icu", "C", "C", "tr-TR", "", "")


@pytest.fixture(scope="module")
def old() -> Iterator[Server]:
    """Run Debian's PostgreSQL 15, which has ICU and the system's locales."""
    with oldest() as cluster:
        yield cluster.server


def made(server: Server, name: str, options: str) -> str:
    server.execute(f"drop database if exists {name}")
    server.execute(f"create database {name} template template0 {options}")
    return with_database(server.socket, name)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"])
def test_monolith_in_another_encoding_is_refused_before_anything_is_made(
    split: Split, encoding: str
) -> None:
    url = made(split.server, "latin", f"encoding '{encoding}' locale 'C' locale_provider 'libc'")
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("create schema blytz_hire")
    environ = {"BLYTZ_HIRE_URL": url}
    for command in (("run", "payments"), ("provision", "payments"), ("run", "--dry-run")):
        ran = split.runner(*command, **environ)
        said = " ".join(ran.stderr.split())
        assert ran.returncode == 4, said
        assert f"The monolith's encoding is {encoding}; it has to be UTF8." in said
        assert "Nothing was changed." in said and "createdb --template=template0" in said
        real = "THEIR_REAL_ENCODING" if encoding == "SQL_ASCII" else encoding
        assert f"pg_dump --encoding={real} latin | psql latin_utf8" in said
    assert split.server.execute("select from pg_database where datname like '%\\_db'") == []
    ran = split.runner("analyze", "--json", **environ)
    assert ran.returncode == 0, ran.stderr
    found = [one for one in json.loads(ran.stdout)["findings"] if one["hazard"] == "encoding"]
    assert [(one["severity"], one["found"]) for one in found] == [("blocks", encoding)]


def test_hint_makes_a_monolith_that_can_be_split(split: Split, old: Server) -> None:
    url = made(old, "latin", "encoding 'LATIN1' locale 'C'")
    with connect(url, "any") as database:
        database.execute("create table public.t as select 'é' as word")
        with pytest.raises(NotReady) as refused:
            require_utf8(database)
    old.execute("drop database if exists latin_utf8")
    command = refused.value.hint.split(": ", 1)[1]
    fields = conninfo_to_dict(old.socket)
    names = ("host", "port", "user", "password")
    login = {f"PG{name.upper()}": str(fields[name]) for name in names}
    subprocess.run(command, shell=True, check=True, env={"PATH": "/usr/bin:/bin", **login})
    with connect(with_database(old.socket, "latin_utf8"), "any") as database:
        require_utf8(database)
        assert database.execute("select word from public.t").fetchone() == ("é",)


def test_service_gets_the_monoliths_locale(old: Server, tmp_path: Path) -> None:
    old.execute("drop database if exists payments_db")
    url = made(old, "turkish", "encoding 'UTF8' locale 'C' locale_provider icu icu_locale 'tr-TR'")
    given = {"BLYTZ_HIRE_URL": url, "BLYTZ_HIRE_CONNECTIONS": str(tmp_path)}
    connections = resolve(PROJECT, given)
    with open_ledger(connections) as ledger:
        done = provision(PAYMENTS, connections, ledger)
    assert not [note for note in done.notes if "differently" in note]
    with connections.connect("payments_db") as service:
        assert service.execute("select lower('I')").fetchone() == ("ı",)
        with connections.connect("blytz_hire") as monolith:
            assert locale_of(service) == locale_of(monolith)


def test_locale_that_the_server_lacks_is_named(split: Split, old: Server) -> None:
    """The embedded server has no ICU."""
    url = made(old, "turkish", "encoding 'UTF8' locale 'C' locale_provider icu icu_locale 'tr-TR'")
    with connect(split.server.socket, "any") as server:
        why = create_like(server, "other", "", TURKISH)
    assert "ICU" in why
    with (
        connect(url, "any") as monolith,
        connect(with_database(split.server.socket, "other"), "any") as service,
    ):
        (note,) = difference(monolith, service, why)
        version = locale_of(monolith).version
    assert note.startswith("other may sort texts, and tell capitals, differently than the monolith")
    assert f"the monolith's is icu, tr-TR, version {version}." in note
    assert f"The server refused that one: {why}." in note


def test_earlier_server_sorts_in_the_same_order(split: Split, old: Server) -> None:
    """PostgreSQL 15 has no locale of its own, but libc's, in the order of code points."""
    with split.monolith() as monolith, connect(old.socket, "any") as server:
        old.execute("drop database if exists other")
        why = create_like(server, "other", "", locale_of(monolith))
        assert "builtin" in why
        with connect(with_database(old.socket, "other"), "any") as service:
            (note,) = difference(monolith, service, why)
            assert "its locale is libc, C.UTF-8" in note
            words = (
                "select string_agg(word, '' order by word)"
                " from unnest('{a,B,ä,Ü,ı}'::text[]) as word"
            )
            assert service.execute(words).fetchone() == monolith.execute(words).fetchone()


def test_database_that_exists_with_another_locale_is_named(split: Split) -> None:
    split.server.execute(
        sql.SQL(
            "create database payments_db template template0 encoding 'UTF8' locale 'C'"
            " locale_provider libc"
        )
    )
    ran = split.runner("provision", "payments")
    assert ran.returncode == 0, ran.stderr
    said = " ".join((ran.stdout + ran.stderr).split())
    assert "payments_db may sort texts, and tell capitals, differently" in said
    assert "its locale is libc, C; the monolith's is builtin, C.UTF-8" in said


@pytest.mark.parametrize(
    ("monoliths", "services"), [("C.UTF-8", "C.utf8"), ("C.utf8", "C.UTF-8"), ("POSIX", "C")]
)
def test_one_locale_with_two_spellings_is_one(old: Server, monoliths: str, services: str) -> None:
    """libc spells a codeset in several ways; PostgreSQL keeps the spelling that it was given."""
    with connect(old.socket, "any") as server:
        assert offers(server, of_libc(monoliths))
        assert not offers(server, of_libc("xx_YY.UTF-8"))
    urls = [
        made(old, name, f"encoding 'UTF8' locale '{locale}' locale_provider libc")
        for name, locale in (("one", monoliths), ("other", services))
    ]
    with connect(urls[0], "any") as one, connect(urls[1], "any") as other:
        assert difference(one, other) == []


def test_only_the_codeset_may_be_spelled_in_another_way() -> None:
    assert of_libc("en_US.UTF-8").normal == of_libc("en_US.utf8").normal
    assert of_libc("de_DE.UTF-8@euro").normal == of_libc("de_DE.utf8@euro").normal
    assert of_libc("en_US.UTF-8").normal != of_libc("en_GB.UTF-8").normal
    assert of_libc("de_DE.ISO-8859-1").normal != of_libc("de_DE.ISO-8859-15").normal


def of_libc(name: str) -> Locale:
    return Locale("UTF8", "libc", name, name, "", "", "")


def test_check_finds_the_monoliths_locale_on_its_own_server(old: Server, tmp_path: Path) -> None:
    url = made(old, "monolith", "encoding 'UTF8' locale 'C.UTF-8' locale_provider libc")
    old.execute("drop database if exists payments_db")  # another test's
    done = command_line_at(url, tmp_path)
    found = [one for one in done["servers"][0]["findings"] if one["what"] == "monolith's locale"]
    assert [(one["found"], one["needed"]) for one in found] == [("offered", "libc C.UTF-8")]
    assert found[0]["state"] == "ok"


def command_line_at(url: str, folder: Path) -> dict[str, Any]:
    with surrounded(environment(url, folder, folder / "dbt")):
        return dict(json.loads(command_line("check", "payments", "--json").stdout))
