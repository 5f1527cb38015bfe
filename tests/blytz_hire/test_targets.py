"""Routing applications: a service's env file, and a real PgBouncer in front of the servers."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest
from psycopg import sql

from demo.project import MONOLITH, PROJECT, ROOT, select
from pgsplit.base.errors import ConnectionFailed, NotReady, SplitError
from pgsplit.load.provision import Provisioned, provision
from pgsplit.postgres.connect import with_database
from pgsplit.postgres.embedded_access import ACCOUNT
from pgsplit.project.endpoints import Connections, resolve
from pgsplit.routing import announce as announcing
from pgsplit.routing import env_file, pgbouncer
from pgsplit.routing.env_file import Routes, Side
from pgsplit.routing.pause import paused
from pgsplit.state.ledger import open_ledger
from tests.support.run_folder import is_at_work, short_folder
from tests.support.servers import PASSWORD, free_port
from tests.support.split import Split
from tests.support.waiting import until

(PAYMENTS,) = select(("payments",))
PGBOUNCER = shutil.which("pgbouncer", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
ODD = """o'dd \\ "p=w" %41;#' ü"""


def provision_payments(connections: Connections, **options: bool) -> Provisioned:
    with open_ledger(connections) as ledger:
        return provision(PAYMENTS, connections, ledger, **options)


def login_of(url: str) -> tuple[Any, ...] | None:
    with psycopg.connect(url) as connection:
        return connection.execute("select current_database(), current_user").fetchone()


def sourced(path: Path) -> dict[str, str]:
    """Read a file as a shell does."""
    command = f"set -a; . {path}; env -0"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env={})
    return dict(line.split("=", 1) for line in ran.stdout.split("\0") if "_URL=" in line)


# The file


def test_applications_use_the_monolith_after_provisioning(split: Split) -> None:
    provision_payments(split.connections)
    target = env_file.read(PAYMENTS, split.connections)
    assert target.read == target.write == split.connections.urls[MONOLITH]
    assert (target.reads_at, target.writes_at) == (Side.MONOLITH, Side.MONOLITH)
    assert login_of(target.own) == ("payments_db", "payments_service")
    path = env_file.file(PAYMENTS, split.connections)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_applications_keep_their_own_login_to_the_monolith(split: Split) -> None:
    application = with_database(split.server.tcp, MONOLITH)
    result = split.runner("provision", "payments", BLYTZ_HIRE_APPLICATION_URL=application)
    assert result.returncode == 0, result.stderr
    assert env_file.read(PAYMENTS, split.connections).write == application
    # It stays, though this time the environment does not say so.
    assert split.runner("provision", "payments").returncode == 0
    assert env_file.read(PAYMENTS, split.connections).write == application
    env_file.route_to(PAYMENTS, split.connections, reads_at=Side.SERVICE)
    env_file.route_to(PAYMENTS, split.connections, reads_at=Side.MONOLITH)
    assert env_file.read(PAYMENTS, split.connections).read == application


@pytest.mark.parametrize("variable", ["BLYTZ_HIRE_APPLICATION_URL", "PGBOUNCER_ADMIN_URL"])
def test_invalid_url_is_refused_without_showing_its_password(variable: str) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        resolve(
            PROJECT, {"BLYTZ_HIRE_URL": "postgresql://a@b/m", variable: "mysql://ann:hunter2@db"}
        )
    assert f"{variable} is no PostgreSQL URL" in caught.value.what
    assert "hunter2" not in str(caught.value)


def test_shell_reads_special_characters_in_passwords_unchanged(split: Split) -> None:
    application = with_database(split.server.tcp, MONOLITH, user="o'hara $HOME", password=ODD)
    provision_payments(replace(split.connections, application_url=application))
    found = sourced(env_file.file(PAYMENTS, split.connections))
    assert found == {
        "PAYMENTS_SERVICE_URL": env_file.own_url(PAYMENTS, split.connections),
        "PAYMENTS_READ_URL": application,
        "PAYMENTS_WRITE_URL": application,
        "PAYMENTS_MONOLITH_URL": application,
    }
    with psycopg.connect(with_database(split.server.tcp, MONOLITH)) as connection:
        assert connection.info.password == PASSWORD


def test_routing_returns_the_previous_routes_and_is_repeatable(split: Split) -> None:
    provision_payments(split.connections)
    first = env_file.read(PAYMENTS, split.connections)
    assert env_file.route_to(PAYMENTS, split.connections, reads_at=Side.SERVICE) == first
    second = env_file.read(PAYMENTS, split.connections)
    assert second == Routes(first.own, first.own, first.write)
    assert env_file.route_to(PAYMENTS, split.connections, writes_at=Side.SERVICE) == second
    third = env_file.read(PAYMENTS, split.connections)
    assert (third.reads_at, third.writes_at) == (Side.SERVICE, Side.SERVICE)
    text = env_file.file(PAYMENTS, split.connections).read_text()
    assert env_file.route_to(PAYMENTS, split.connections, writes_at=Side.SERVICE) == third
    assert env_file.file(PAYMENTS, split.connections).read_text() == text
    back = {"reads_at": Side.MONOLITH, "writes_at": Side.MONOLITH}
    assert env_file.route_to(PAYMENTS, split.connections, **back) == third
    assert env_file.read(PAYMENTS, split.connections) == first


def test_env_file_is_never_seen_half_written(split: Split) -> None:
    provision_payments(split.connections)
    path, texts, over = env_file.file(PAYMENTS, split.connections), set[str](), threading.Event()

    def look() -> None:
        while not over.is_set():
            texts.add(path.read_text())

    reader = threading.Thread(target=look)
    reader.start()
    for place in [Side.SERVICE, Side.MONOLITH] * 30:
        env_file.route_to(PAYMENTS, split.connections, reads_at=place, writes_at=place)
    over.set()
    reader.join()
    assert len(texts) == 2
    assert [len(text.splitlines()) for text in texts] == [7, 7]
    assert [one.name for one in path.parent.iterdir()] == ["payments.env"]


def test_env_file_keeps_its_group_permission_when_rewritten(split: Split) -> None:
    provision_payments(split.connections)
    path = env_file.file(PAYMENTS, split.connections)
    path.chmod(0o640)
    env_file.route_to(PAYMENTS, split.connections, reads_at=Side.SERVICE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_new_password_does_not_change_the_routes(split: Split) -> None:
    provision_payments(split.connections)
    env_file.route_to(PAYMENTS, split.connections, reads_at=Side.SERVICE)
    before = env_file.read(PAYMENTS, split.connections)
    provision_payments(split.connections, new_password=True)
    after = env_file.read(PAYMENTS, split.connections)
    assert after.own != before.own
    assert after == Routes(after.own, after.own, before.write)
    assert login_of(after.read) == ("payments_db", "payments_service")


def let_the_service_know(split: Split) -> None:
    """Record in the service's database, too, that it is switched."""
    with split.service("payments_db") as database:
        database.execute("update split.service set switched_at = now()")


@pytest.mark.parametrize(
    ("state", "place"), [("verified", Side.MONOLITH), ("switched", Side.SERVICE)]
)
def test_lost_env_file_is_rebuilt_from_the_ledger(split: Split, state: str, place: Side) -> None:
    provision_payments(split.connections)
    with split.monolith() as monolith:
        monolith.execute("update split.states set state = %s", (state,))
    if state == "switched":
        let_the_service_know(split)
    env_file.file(PAYMENTS, split.connections).unlink()
    provision_payments(split.connections, new_password=True)
    target = env_file.read(PAYMENTS, split.connections)
    assert (target.reads_at, target.writes_at) == (place, place)


def test_provision_adds_routes_to_an_env_file_without_them(split: Split) -> None:
    provision_payments(split.connections)
    path, whole = (
        env_file.file(PAYMENTS, split.connections),
        env_file.read(PAYMENTS, split.connections),
    )
    path.write_text(f"# How payments connects.\nPAYMENTS_SERVICE_URL='{whole.own}'\n")
    assert env_file.own_url(PAYMENTS, split.connections) == whole.own
    with pytest.raises(NotReady) as caught:
        env_file.read(PAYMENTS, split.connections)
    assert "There are no routes yet for the applications of payments_db" in caught.value.what
    assert caught.value.hint == "runner.py provision payments"
    provision_payments(split.connections)
    assert env_file.read(PAYMENTS, split.connections) == whole


def test_garbled_env_file_is_reported_and_left_alone(split: Split) -> None:
    provision_payments(split.connections)
    path = env_file.file(PAYMENTS, split.connections)
    garbled = path.read_text().replace("WRITE_URL='postgresql", "WRITE_URL='hunter2")
    path.write_text(garbled)
    for attempt in (
        lambda: env_file.read(PAYMENTS, split.connections),
        lambda: env_file.route_to(PAYMENTS, split.connections, reads_at=Side.SERVICE),
        lambda: provision_payments(split.connections, new_password=True),
    ):
        with pytest.raises(NotReady) as caught:
            attempt()
        assert "no PAYMENTS_WRITE_URL that can be understood" in caught.value.what
        assert str(path) in caught.value.where
        assert "runner.py provision payments --new-password" in caught.value.hint
        assert "hunter2" not in str(caught.value)
    assert path.read_text() == garbled
    assert login_of(env_file.own_url(PAYMENTS, split.connections)) is not None


@pytest.mark.parametrize("line", ["export {0}='{1}'", '{0}="{1}"', "  {0} = {1}  # by hand"])
def test_a_file_is_read_as_a_shell_or_docker_compose_reads_it(split: Split, line: str) -> None:
    provision_payments(split.connections)
    path, before = (
        env_file.file(PAYMENTS, split.connections),
        env_file.read(PAYMENTS, split.connections),
    )
    name = "PAYMENTS_WRITE_URL"
    own = next(one for one in path.read_text().splitlines() if one.startswith(name))
    path.write_text(path.read_text().replace(own, line.format(name, before.write)))
    assert env_file.read(PAYMENTS, split.connections) == before


@pytest.mark.parametrize("odd", ["'", "\n", "\\\\"])
def test_a_url_that_readers_could_misread_is_refused(split: Split, odd: str) -> None:
    application = f"postgresql://ann:hunter2{odd}@localhost/blytz_hire"
    with pytest.raises(NotReady) as caught:
        provision_payments(replace(split.connections, application_url=application))
    assert "has a quote, a line break or two backslashes in a row" in caught.value.what
    assert "hunter2" not in str(caught.value)
    assert not env_file.file(PAYMENTS, split.connections).exists()


def test_routing_is_refused_unless_provisioned_for_this_server(split: Split) -> None:
    with pytest.raises(NotReady) as caught:
        env_file.route_to(PAYMENTS, split.connections, reads_at=Side.SERVICE)
    assert caught.value.hint == "runner.py provision payments"
    provision_payments(split.connections)
    elsewhere = {**split.connections.urls, "payments_db": "postgresql://a@elsewhere/payments_db"}
    with pytest.raises(NotReady) as caught:
        env_file.route_to(
            PAYMENTS, replace(split.connections, urls=elsewhere), reads_at=Side.SERVICE
        )
    assert "is for another server; payments_db is elsewhere now" in caught.value.what


# The command after a change


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_at_work(psutil.Process(pid))


def announce(split: Split, command: str, seconds: float = 20) -> str:
    return announcing.announce(PAYMENTS, replace(split.connections, after_change=command), seconds)


def test_after_change_command_receives_the_service_and_its_env_file(
    split: Split, tmp_path: Path
) -> None:
    assert announcing.announce(PAYMENTS, split.connections, 5) == ""
    said = tmp_path / "said"
    assert announce(split, f'echo "$SERVICE $CONNECTIONS_FILE" > {said}') == ""
    path = env_file.file(PAYMENTS, split.connections)
    assert said.read_text() == f"payments {path}\n"


def test_failed_after_change_command_gives_a_warning_with_its_output(split: Split) -> None:
    provision_payments(split.connections)
    warning = announce(split, '. "$CONNECTIONS_FILE"; echo no $PAYMENTS_SERVICE_URL >&2; exit 7')
    assert "the command in BLYTZ_HIRE_AFTER_CHANGE ended with exit code 7: no postgresql" in warning
    assert "SERVICE=payments CONNECTIONS_FILE=" in warning
    own = env_file.own_url(PAYMENTS, split.connections)
    assert psycopg.conninfo.conninfo_to_dict(own)["password"] not in warning
    assert "exit code 127" in announce(split, "nosuchcommand")


@pytest.mark.slow
def test_hanging_after_change_command_is_killed_with_its_children(
    split: Split, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    warning = announce(
        split, f"sleep 600 & echo $! > {pids}; echo waiting; echo $$ >> {pids}; sleep 600", 0.5
    )
    assert "did not end within 0.5 seconds and was stopped: waiting" in warning
    for pid in pids.read_text().split():
        until(lambda pid=int(pid): not runs(pid))  # type: ignore[misc]


def test_background_process_of_after_change_command_is_not_awaited(
    split: Split, tmp_path: Path
) -> None:
    assert announce(split, f"sleep 600 & echo $! > {tmp_path}/pid; echo started") == ""
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    assert is_at_work(left)
    left.kill()


# PgBouncer


@dataclass(frozen=True)
class Bouncer:
    """A PgBouncer in front of a test's databases; both have a table `jot.ting`."""

    home: Path
    port: int
    split: Split
    connections: Connections
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def url(self, name: str = "payments", user: str = "web") -> str:
        return f"postgresql://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{name}"

    def connect(self, name: str = "payments") -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(name), autocommit=True, prepare_threshold=None)

    def where(self, name: str = "payments") -> object:
        with self.connect(name) as connection:
            row = connection.execute("select current_database()").fetchone()
            return row[0] if row else None

    def is_paused(self) -> bool:
        with pgbouncer.console(self.connections.pgbouncer_url) as console:
            return pgbouncer.is_paused(console, "payments")

    def point(self, place: Side) -> Routes:
        return env_file.route_to(PAYMENTS, self.connections, reads_at=place, writes_at=place)

    def jotted(self, database: str) -> list[tuple[int, int]]:
        with self.split.connections.connect(database) as connection:
            return connection.execute(
                "select writer, number from jot.ting order by 2, 1"
            ).fetchall()

    def configure(self, *, include: bool = True) -> None:
        ours = f"%include {self.connections.folder}/pgbouncer.ini" if include else ""
        self.give(
            "main.ini",
            f"""
            [databases]
            {ours}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {self.home}/users
            admin_users = admin
            pool_mode = transaction
            logfile = {self.home}/log
            """,
        )
        self.give("users", "".join(f'"{user}" "{PASSWORD}"\n' for user in ("admin", "web")))

    def give(self, name: str, text: str) -> None:
        path = self.home / name
        path.write_text("\n".join(line.strip() for line in text.splitlines()) + "\n")
        own(path)

    def start(self) -> None:
        assert PGBOUNCER
        account: dict[str, Any] = {}
        if os.geteuid() == 0:  # which PgBouncer refuses to run as
            account = {"user": ACCOUNT, "group": ACCOUNT, "extra_groups": []}
        self.processes.append(
            subprocess.Popen(
                [PGBOUNCER, "-q", str(self.home / "main.ini")],
                cwd=self.home,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **account,
            )
        )
        until(self.answers)

    def answers(self) -> bool:
        try:
            with pgbouncer.console(self.connections.pgbouncer_url):
                return True
        except ConnectionFailed:
            return False

    def stop(self) -> None:
        while self.processes:
            process = self.processes.pop()
            process.kill()
            process.wait()


def own(path: Path) -> None:
    """Give a path to the account that PgBouncer runs as."""
    if os.geteuid() == 0:
        shutil.chown(path, ACCOUNT, ACCOUNT)


@pytest.fixture
def bouncer(split: Split) -> Iterator[Bouncer]:
    if not PGBOUNCER:
        pytest.skip("PgBouncer is not installed; apt-get install pgbouncer")
    home = short_folder("bouncer-")
    folder, port = home / "connections", free_port()
    folder.mkdir(mode=0o700)
    for path in (home, folder):
        own(path)
    connections = replace(
        split.connections,
        folder=folder,
        application_url=with_database(split.server.tcp, MONOLITH),
        pgbouncer_url=with_database(split.server.tcp, "pgbouncer", user="admin", port=str(port)),
    )
    bouncer = Bouncer(home, port, split, connections)
    try:
        notes = provision_payments(connections).notes
        # Its configuration includes a file that is there only now.
        assert any("The server can't be reached" in note for note in notes)
        bouncer.configure()
        bouncer.start()
        for database in (MONOLITH, "payments_db"):
            with connections.connect(database) as connection:
                connection.execute(
                    "create schema jot; create table jot.ting (writer int, number int);"
                    "grant usage on schema jot to payments_service;"
                    "grant insert, select on jot.ting to payments_service"
                )
        yield bouncer
    finally:
        bouncer.stop()
        shutil.rmtree(home)


@dataclass
class Writers:
    """Clients that write row after row, each on its own connection."""

    bouncer: Bouncer
    written: list[tuple[int, int]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    def write(self, writer: int, over: threading.Event) -> None:
        try:
            with self.bouncer.connect() as connection:
                for number in range(1_000_000):
                    if over.is_set():
                        return
                    connection.execute(f"insert into jot.ting values ({writer}, {number})")
                    self.written.append((writer, number))
        except psycopg.Error as error:
            self.failures.append(error)


@contextmanager
def writing(bouncer: Bouncer) -> Iterator[Writers]:
    writers, over = Writers(bouncer), threading.Event()
    threads = [threading.Thread(target=writers.write, args=(n, over)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(writers.written) > 50)
        yield writers
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
def test_paused_clients_wait_and_then_write_to_the_other_database(bouncer: Bouncer) -> None:
    with writing(bouncer) as writers:
        with paused(PAYMENTS, bouncer.connections, 5):
            before = bouncer.jotted(MONOLITH)
            time.sleep(0.5)
            # Nobody writes while they are held, neither before nor after they are pointed.
            assert bouncer.jotted(MONOLITH) == before
            bouncer.point(Side.SERVICE)
            time.sleep(0.2)
            assert bouncer.jotted("payments_db") == []
        count = len(writers.written)
        until(lambda: len(writers.written) > count + 50)
    assert writers.failures == []
    assert bouncer.jotted(MONOLITH) == before
    after = bouncer.jotted("payments_db")
    assert sorted(before + after) == sorted(writers.written)
    for writer in range(4):
        assert max(n for w, n in before if w == writer) < min(n for w, n in after if w == writer)


@pytest.mark.slow
def test_clients_that_log_in_during_a_pause_wait_no_longer_than_others(bouncer: Bouncer) -> None:
    """PAUSE breaks off their server connections; PgBouncer takes that for a server that is down."""
    places, threads = list[object](), list[threading.Thread]()

    def log_in() -> None:
        threads.append(threading.Thread(target=lambda: places.append(bouncer.where())))
        threads[-1].start()
        time.sleep(0.2)

    with paused(PAYMENTS, bouncer.connections, 5):
        log_in()
        bouncer.point(Side.SERVICE)
        log_in()
        log_in()
        assert places == []
    until(lambda: len(places) == 3, 3)
    for thread in threads:
        thread.join()
    assert places == ["payments_db"] * 3
    with pgbouncer.console(bouncer.connections.pgbouncer_url) as console:
        assert pgbouncer.login_retry(console) == "15"


INSERTS = {
    MONOLITH: """insert into blytz_hire.reviews
        select (jsonb_populate_record(one, jsonb_build_object('id', %s::text))).*
        from blytz_hire.reviews as one order by id limit 1""",
    "payments_db": """insert into payments_db.reviews
        select (jsonb_populate_record(one, jsonb_build_object('id', %s::text))).*
        from payments_db.reviews as one order by id limit 1""",
}


@dataclass
class Reviewers(Writers):
    """Clients that write reviews to the database that PgBouncer routes to, in its shape."""

    def write(self, writer: int, over: threading.Event) -> None:
        try:
            with self.bouncer.connect() as connection:
                for number in range(1_000_000):
                    if over.is_set():
                        return
                    with connection.transaction():
                        row = connection.execute("select current_database()").fetchone()
                        assert row is not None
                        connection.execute(INSERTS[row[0]], (f"held-{writer}-{number}",))
                    self.written.append((writer, number))
                    self.places.append(row[0])
                    time.sleep(0.01)
        except psycopg.Error as error:
            self.failures.append(error)

    places: list[str] = field(default_factory=list)


@pytest.mark.slow
def test_switch_and_rollback_behind_pgbouncer_cause_no_client_errors(bouncer: Bouncer) -> None:
    environ = {
        "BLYTZ_HIRE_CONNECTIONS": str(bouncer.connections.folder),
        "BLYTZ_HIRE_APPLICATION_URL": bouncer.connections.application_url,
        "PGBOUNCER_ADMIN_URL": bouncer.connections.pgbouncer_url,
    }
    with bouncer.split.monolith() as monolith:
        # No target is both a profile and a company: a real monolith has dropped one of the keys.
        monolith.execute(
            'alter table blytz_hire.reviews drop constraint "reviews_va_targetId_fkey",'
            ' drop constraint "reviews_company_targetId_fkey"'
        )
    for command in ("run", "verify"):
        ran = bouncer.split.runner(command, "payments", **environ)
        assert ran.returncode == 0, ran.stderr
    reviewers, over = Reviewers(bouncer), threading.Event()
    threads = [threading.Thread(target=reviewers.write, args=(n, over)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        for command, place in (("switch", "payments_db"), ("rollback", MONOLITH)):
            until(lambda: len(reviewers.places) > 20)
            ran = bouncer.split.runner(command, "payments", "--no-backup", **environ)
            assert ran.returncode == 0, ran.stderr
            reviewers.places.clear()
            until(lambda: len(reviewers.places) > 20)
            assert set(reviewers.places[5:]) == {place}
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert reviewers.failures == []
    with bouncer.split.monolith() as monolith:
        found = monolith.execute(
            "select id from blytz_hire.reviews where id like 'held-%' order by id"
        ).fetchall()
    assert [one for (one,) in found] == sorted(f"held-{w}-{n}" for w, n in reviewers.written)


def test_pause_does_nothing_without_pgbouncer(split: Split) -> None:
    provision_payments(split.connections)
    with paused(PAYMENTS, split.connections, 5):
        env_file.route_to(PAYMENTS, split.connections, writes_at=Side.SERVICE)
    assert not (split.connections.folder / "pgbouncer.ini").exists()


def test_rerouting_reads_does_not_disturb_a_running_transaction(bouncer: Bouncer) -> None:
    with bouncer.connect("payments_read") as reader:
        with reader.transaction():
            assert reader.execute("select current_database()").fetchone() == (MONOLITH,)
            env_file.route_to(PAYMENTS, bouncer.connections, reads_at=Side.SERVICE)
            assert reader.execute("select current_database()").fetchone() == (MONOLITH,)
        assert reader.execute("select current_database()").fetchone() == ("payments_db",)
    assert bouncer.where("payments") == MONOLITH


def test_pgbouncer_accepts_passwords_with_special_characters(bouncer: Bouncer) -> None:
    assert bouncer.where() == MONOLITH  # whose password every URL has to quote
    bouncer.split.server.execute(
        sql.SQL("alter role payments_service password {}").format(sql.Literal(ODD))
    )
    own = with_database(bouncer.split.server.tcp, "payments_db", user="payments_service")
    own = with_database(own, "payments_db", password=ODD)
    urls = {**bouncer.connections.urls, "payments_db": own}
    places = (Side.SERVICE, Side.SERVICE)
    moved = replace(bouncer.connections, urls=urls)
    said = env_file.establish(PAYMENTS, moved, own, moved.monolith_url, places)
    assert not any("PgBouncer" in note for note in said)
    assert bouncer.where() == "payments_db"
    path = bouncer.connections.folder / "pgbouncer.ini"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_new_password_reaches_pgbouncer(bouncer: Bouncer) -> None:
    bouncer.point(Side.SERVICE)
    assert bouncer.where() == "payments_db"
    with bouncer.split.monolith() as monolith:
        monolith.execute("update split.states set state = 'switched'")
    let_the_service_know(bouncer.split)
    assert not any(
        "ouncer" in note
        for note in provision_payments(bouncer.connections, new_password=True).notes
    )
    assert bouncer.where() == "payments_db"


def watchdogs(pid: int) -> list[psutil.Process]:
    """Find the watchdogs that a process has started."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):  # it has ended, or is about to
            if "pgsplit.routing.pause" in child.cmdline():
                found.append(child)
    return found


HOLDER = """
import sys, time
from pathlib import Path
from pgsplit.project.endpoints import Connections
from pgsplit.routing.pause import paused
from demo.project import PROJECT, select
url, folder = sys.argv[1:]
(payments,) = select(("payments",))
connections = Connections(PROJECT, {"blytz_hire": url}, False, url, Path(folder), pgbouncer_url=url)
with paused(payments, connections, 5):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_clients_resume_when_the_runner_is_killed(bouncer: Bouncer, number: signal.Signals) -> None:
    connections = bouncer.connections
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, connections.pgbouncer_url, str(connections.folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        assert holder.stdout and holder.stdout.readline() == b"held\n"
        assert bouncer.is_paused()
        (watchdog,) = watchdogs(holder.pid)
        assert PASSWORD not in (words := " ".join(watchdog.cmdline()))
        assert quote(PASSWORD, safe="") not in words
    finally:
        os.killpg(holder.pid, number)
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    until(lambda: not bouncer.is_paused(), 5)
    assert bouncer.where() == MONOLITH
    psutil.wait_procs([watchdog], 5)
    assert not watchdog.is_running() or watchdog.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_clients_resume_though_pgbouncer_hung_while_the_runner_died(bouncer: Bouncer) -> None:
    connections = bouncer.connections
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, connections.pgbouncer_url, str(connections.folder)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
    )
    assert holder.stdout and holder.stdout.readline() == b"held\n"
    (watchdog,) = watchdogs(holder.pid)
    (process,) = bouncer.processes
    process.send_signal(signal.SIGSTOP)  # it does not answer, and keeps its clients waiting
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    time.sleep(1)
    process.send_signal(signal.SIGCONT)
    until(lambda: not bouncer.is_paused(), 20)
    psutil.wait_procs([watchdog], 5)
    assert bouncer.where() == MONOLITH


@pytest.mark.slow
def test_clients_resume_at_the_deadline_though_the_block_still_runs(bouncer: Bouncer) -> None:
    with paused(PAYMENTS, bouncer.connections, 1, longest_seconds=1):
        assert bouncer.is_paused()
        until(lambda: not bouncer.is_paused(), 8)
        assert bouncer.where() == MONOLITH


def test_clients_resume_though_the_watchdog_was_killed(bouncer: Bouncer) -> None:
    with paused(PAYMENTS, bouncer.connections, 5):
        (watchdog,) = watchdogs(os.getpid())
        watchdog.kill()
        assert bouncer.is_paused()
    assert not bouncer.is_paused()


def test_clients_resume_when_the_block_fails(bouncer: Bouncer) -> None:
    with pytest.raises(ZeroDivisionError), paused(PAYMENTS, bouncer.connections, 5):
        raise ZeroDivisionError
    assert bouncer.where() == MONOLITH
    assert watchdogs(os.getpid()) == []


def test_open_transaction_prevents_the_pause_and_is_reported(bouncer: Bouncer) -> None:
    with bouncer.connect() as idle, idle.transaction():
        idle.execute("insert into jot.ting values (1, 1)")
        with pytest.raises(NotReady) as caught, paused(PAYMENTS, bouncer.connections, 0.5):
            pytest.fail("it was held, though a transaction is open")
        assert (
            "The clients of payments did not free their connections within 0.5" in caught.value.what
        )
        assert "web at 127.0.0.1:" in caught.value.what
        assert "They were resumed" in caught.value.what
        assert "pool_mode = transaction" in caught.value.hint
        assert PASSWORD not in str(caught.value)
        assert bouncer.where() == MONOLITH
        idle.execute("insert into jot.ting values (1, 2)")
    assert bouncer.jotted(MONOLITH) == [(1, 1), (1, 2)]


def test_routes_that_pgbouncer_does_not_load_are_reverted(bouncer: Bouncer) -> None:
    path, ini = env_file.file(PAYMENTS, bouncer.connections), bouncer.connections.folder
    before = path.read_text(), (ini / "pgbouncer.ini").read_text()
    bouncer.configure(include=False)
    with pytest.raises(NotReady) as caught:
        bouncer.point(Side.SERVICE)
    assert "it has no database payments" in caught.value.what
    assert f"%include {ini}/pgbouncer.ini" in caught.value.hint
    assert (path.read_text(), (ini / "pgbouncer.ini").read_text()) == before
    bouncer.configure()
    bouncer.point(Side.MONOLITH)
    assert bouncer.where() == MONOLITH


def test_file_that_pgbouncer_cannot_read_is_reported(bouncer: Bouncer) -> None:
    bouncer.connections.folder.chmod(0)
    if os.geteuid() == 0:
        shutil.chown(bouncer.connections.folder, 0, 0)
    else:
        pytest.skip("only root can write where PgBouncer, which runs as the same user, can't read")
    with pytest.raises(NotReady) as caught:
        bouncer.point(Side.SERVICE)
    assert "it has another server for payments" in caught.value.what
    assert "Let PgBouncer's account read that file" in caught.value.hint
    assert env_file.read(PAYMENTS, bouncer.connections).writes_at is Side.MONOLITH
    assert bouncer.where() == MONOLITH


def test_routes_do_not_change_while_pgbouncer_is_down(bouncer: Bouncer) -> None:
    bouncer.stop()
    for attempt in (
        bouncer.point,
        lambda place: paused(PAYMENTS, bouncer.connections, 1).__enter__(),
    ):
        with pytest.raises(ConnectionFailed) as caught:
            attempt(Side.SERVICE)
        assert "PGBOUNCER_ADMIN_URL names its host and port" in caught.value.hint
        assert PASSWORD not in str(caught.value)
    assert env_file.read(PAYMENTS, bouncer.connections).writes_at is Side.MONOLITH
    bouncer.start()
    assert bouncer.where() == MONOLITH


def test_pgbouncer_user_without_admin_rights_is_refused_with_a_hint(bouncer: Bouncer) -> None:
    humble = replace(bouncer.connections, pgbouncer_url=bouncer.url("pgbouncer"))
    with pytest.raises(SplitError) as caught:
        env_file.route_to(PAYMENTS, humble, writes_at=Side.SERVICE)
    assert "does not let this user into its console" in caught.value.what
    assert "admin_users" in caught.value.hint
    assert env_file.read(PAYMENTS, bouncer.connections).writes_at is Side.MONOLITH


def test_url_that_pgbouncer_cannot_express_is_refused() -> None:
    for url, why in (
        ("postgresql://a:b@/m?host=one,two", "several hosts"),
        ("postgresql://a:b%0Ac@one/m", "line break"),
    ):
        with pytest.raises(NotReady, match=why):
            pgbouncer.render(Path("pgbouncer.ini"), {"payments": url})
