"""A PgBouncer in transaction mode before a world's servers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg

from pgsplit.postgres.embedded_access import account
from tests.support.servers import free_port

PGBOUNCER = shutil.which("pgbouncer", path=os.defpath + ":/usr/sbin:/usr/local/sbin")
# Without passwords; the routes say as whom the servers see its clients.
CONFIGURATION = """\
[databases]
%include {connections}/pgbouncer.ini
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
admin_users = admin
pool_mode = transaction
logfile = {folder}/log
server_login_retry = 1
"""


class Bouncer:
    """A PgBouncer that routes as `connections/pgbouncer.ini` says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> str:
        """The URL of its console."""
        return f"postgresql://admin@127.0.0.1:{self.port}/pgbouncer"

    def url(self, name: str) -> str:
        """Give the URL of one of its databases."""
        return f"postgresql://web@127.0.0.1:{self.port}/{name}"

    def prepare(self, connections: Path) -> None:
        """Write its configuration, and let it read the routes that are written from now on."""
        self.folder.mkdir(exist_ok=True)
        settings = {"connections": connections, "port": self.port, "folder": self.folder}
        (self.folder / "main.ini").write_text(CONFIGURATION.format(**settings))
        (self.folder / "users").write_text('"admin" ""\n"web" ""\n')
        if os.geteuid() == 0:  # which PgBouncer refuses to run as
            for path in (self.folder, *self.folder.iterdir(), connections):
                os.chown(path, *account())

    def start(self) -> None:
        """Start it."""
        assert PGBOUNCER
        options: dict[str, object] = {}
        if os.geteuid() == 0:
            uid, gid = account()
            options = {"user": uid, "group": gid, "extra_groups": []}
        self.process = subprocess.Popen(
            [PGBOUNCER, "-q", str(self.folder / "main.ini")],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **options,  # type: ignore[call-overload]
        )

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        try:
            psycopg.connect(self.console, autocommit=True, prepare_threshold=None).close()
        except psycopg.Error:
            return False
        return True

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
