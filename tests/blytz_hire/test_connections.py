"""URLs from the environment: the runner and dbt's profile must find the same databases."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict

from demo.project import MONOLITH, PROJECT, ROOT, SERVICES
from pgsplit.base.errors import ConnectionFailed
from pgsplit.postgres.connect import connect, with_database
from pgsplit.project.endpoints import resolve
from tests.support.servers import PASSWORD, Server
from tests.support.split import Split

URLS = [
    "postgresql://ann@db.example.com/blytz",
    "postgres://ann:secret@db.example.com:6543/blytz?sslmode=require",
    "postgresql://an%40n:p%40s%C3%A9s%2F%3F@[2001:db8::1]:5433/bl%20ytz?sslmode=verify-full&sslrootcert=/etc/ca%20x.pem",
    "postgresql://ann:pw@/blytz?host=/var/run/postgresql&port=5433",
    "postgresql://%2Fvar%2Frun%2Fpostgresql/blytz",
    "postgresql://db.example.com",
    "postgresql:///blytz?host=db.example.com&user=ann&password=p%26q",
    "postgresql://ann:a%25b%5Cc@db.example.com/blytz",
    "postgresql://ann:a:b?\\x41é@db.example.com:/blytz?sslcert=/c%20c&sslkey=/k",
    "postgresql://ann:12345@db.example.com/007?host=&port=",
]

# Renders every output of the profile as dbt does, once for each environment on standard input. One
# renderer for all of an environment's outputs: none may see what another has left behind.
PROBE = """
import json, sys, yaml
from argparse import Namespace
from pathlib import Path
from dbt.config.profile import Profile
from dbt.config.renderer import ProfileRenderer
from dbt.exceptions import DbtProfileError
from dbt.flags import set_from_args
from dbt_common.context import set_invocation_context
raw = yaml.safe_load(Path('profiles/profiles.yml').read_text())['blytz_hire']
for line in sys.stdin:
    environ = json.loads(line)
    set_invocation_context(environ)
    folder = environ.pop('PROFILES', str(Path.cwd()))
    set_from_args(Namespace(PROFILES_DIR=folder), None)
    renderer = ProfileRenderer({})
    try:
        outputs = {
            target: Profile.from_raw_profile_info(
                raw, 'blytz_hire', renderer, target_override=target
            ).credentials.to_dict()
            for target in raw['outputs']
        }
    except DbtProfileError as error:
        outputs = str(error)
    print(json.dumps(outputs))
"""


def profiles_for(environs: list[dict[str, str]]) -> list[Any]:
    ran = subprocess.run(
        [sys.executable, "-c", PROBE],
        input="\n".join(map(json.dumps, environs)),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_every_database_has_a_profile_output_of_its_name() -> None:
    profile = yaml.safe_load((ROOT / "profiles" / "profiles.yml").read_text())["blytz_hire"]
    assert {target: output["name"] for target, output in profile["outputs"].items()} == {
        target: f"{{% do context.update(name='{target}') %}}" for target in (MONOLITH, *SERVICES)
    }


@pytest.mark.slow
def test_profile_and_runner_read_every_url_the_same_way() -> None:
    environs = [{"BLYTZ_HIRE_URL": url} for url in URLS]
    environs += [{"BLYTZ_HIRE_URL": "postgresql://x@y/z", "PAYMENTS_DB_URL": url} for url in URLS]
    for environ, seen in zip(environs, profiles_for([*environs]), strict=True):
        assert set(seen) == {MONOLITH, *SERVICES}
        for target, resolved in resolve(PROJECT, environ).urls.items():
            wanted = {k: str(v) for k, v in conninfo_to_dict(resolved).items()}
            has = {name: str(seen[target][name]) for name in ("host", "port", "user", "dbname")}
            assert has == {name: wanted[name] for name in has}, (environ, target)
            assert seen[target]["pass"] == wanted.get("password", ""), (environ, target)
            assert seen[target]["sslmode"] == wanted.get("sslmode", "prefer"), (environ, target)
            for name in ("sslrootcert", "sslcert", "sslkey"):
                assert seen[target][name] == wanted.get(name, ""), (environ, target)


@pytest.mark.slow
def test_profile_and_runner_find_the_same_embedded_server() -> None:
    """Wherever dbt is called, and whichever of the two profiles it is given."""
    root, above = str(ROOT), str(ROOT.parent)
    called = [(root, folder) for folder in (root, ".", "./", "profiles", "profiles/", "./profiles")]
    called += [(above, ROOT.name), (above, f"./{ROOT.name}//profiles/."), (f"{root}/models", "..")]
    called += [(f"{root}/models/shared", "../../profiles"), ("/", f"{root}/models/../profiles/")]
    environs = [{"PWD": here, "PROFILES": folder} for here, folder in called]
    for seen, how in zip(profiles_for(environs), called, strict=True):
        for target, url in resolve(PROJECT, {}, ROOT).urls.items():
            assert seen[target]["host"] == conninfo_to_dict(url)["host"], how
            assert seen[target]["dbname"] == conninfo_to_dict(url)["dbname"] == target


@pytest.mark.slow
def test_profile_refuses_an_invalid_url_without_showing_its_password() -> None:
    urls = ["mysql://ann:hunter2@db/mono", "host=db user=ann password=hunter2"]
    urls += ["postgresql://ann:hunter2%@db/mono", "postgresql://ann:hunter2@db:port/mono"]
    environs = [{"BLYTZ_HIRE_URL": url} for url in urls]
    for url, seen in zip(urls, profiles_for(environs), strict=True):
        assert isinstance(seen, str), (url, seen)
        assert "hunter2" not in seen, url


def test_services_default_to_the_server_of_the_monolith() -> None:
    connections = resolve(PROJECT, {"BLYTZ_HIRE_URL": "postgresql://ann:pw@db:5433/mono"})
    assert connections.urls["payments_db"] == "postgresql://ann:pw@db:5433/payments_db"
    assert connections.urls[MONOLITH] == "postgresql://ann:pw@db:5433/mono"
    assert not connections.embedded


def test_all_seven_databases_default_to_the_embedded_server(tmp_path: Path) -> None:
    connections = resolve(PROJECT, {}, tmp_path)
    assert connections.embedded
    hosts = {conninfo_to_dict(url)["host"] for url in connections.urls.values()}
    assert len(hosts) == 1
    assert {conninfo_to_dict(url)["dbname"] for url in connections.urls.values()} == {
        MONOLITH,
        *SERVICES,
    }


def test_service_url_without_a_monolith_url_is_refused() -> None:
    with pytest.raises(ConnectionFailed) as caught:
        resolve(PROJECT, {"PAYMENTS_DB_URL": "postgresql://ann@db/payments"})
    assert "PAYMENTS_DB_URL is set but BLYTZ_HIRE_URL is not" in caught.value.what
    assert "export BLYTZ_HIRE_URL=" in caught.value.hint


def test_monolith_and_service_in_one_database_are_refused() -> None:
    url = "postgresql://ann@db/mono"
    with pytest.raises(ConnectionFailed) as caught:
        resolve(PROJECT, {"BLYTZ_HIRE_URL": url, "FILES_DB_URL": url})
    assert "blytz_hire and files_db are the same database, mono" in caught.value.what
    assert "Give FILES_DB_URL a database of its own" in caught.value.hint


@pytest.mark.parametrize("name", ["postgres", "template1", "o'hara"])
def test_reserved_or_quoted_database_name_is_refused(name: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        resolve(
            PROJECT,
            {"BLYTZ_HIRE_URL": "postgresql://a@b/m", "FILES_DB_URL": f"postgresql://a@b/{name}"},
        )
    assert f"files_db can't be the database {name}" in caught.value.what


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@db:port/mono",
        "postgresql://ann:hunter2@db/mono?nosuch=1",
        "postgresql://ann:hunter2@db/mono?schema=blytz_hire",
        "postgresql://ann:p@hunter2/word@db/mono",
        "mysql://ann:hunter2@db/mono",
        "ann hunter2",
    ],
)
def test_invalid_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        resolve(PROJECT, {"BLYTZ_HIRE_URL": url})
    assert "BLYTZ_HIRE_URL is no PostgreSQL URL" in caught.value.what
    assert "hunter2" not in str(caught.value)


def test_unreachable_server_is_reported(split: Split) -> None:
    url = "postgresql://ann:hunter2@127.0.0.1:1/mono"
    result = split.runner("land", "payments", BLYTZ_HIRE_URL=url)
    assert result.returncode == ConnectionFailed.exit_code
    assert "The server can't be reached" in result.stderr
    assert "database mono on 127.0.0.1:1 as ann" in result.stderr
    assert "Check that it runs and that BLYTZ_HIRE_URL names its host and port" in result.stderr
    assert "hunter2" not in result.stderr


def test_wrong_password_is_reported(server: Server) -> None:
    with connect(with_database(server.tcp, "postgres"), MONOLITH) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(ConnectionFailed) as caught:
        connect(with_database(server.tcp, "postgres", password="hunter2"), MONOLITH)
    assert "The login was refused" in caught.value.what
    assert "Check user and password in BLYTZ_HIRE_URL" in caught.value.hint
    assert "hunter2" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_missing_database_is_reported(server: Server) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        connect(with_database(server.socket, "nowhere"), "payments_db")
    assert "The database does not exist" in caught.value.what
    assert "runner.py provision" in caught.value.hint


def test_stopped_embedded_server_is_reported(tmp_path: Path) -> None:
    connections = resolve(PROJECT, {}, tmp_path)
    with pytest.raises(ConnectionFailed) as caught:
        connections.connect(MONOLITH)
    assert "The embedded server is not running" in caught.value.what
    assert caught.value.hint == "runner.py up"


def test_connection_uses_the_password_in_the_url(server: Server) -> None:
    """The password in the test has every character that a URL has to quote."""
    with psycopg.connect(server.tcp) as connection:
        assert connection.info.password == PASSWORD
