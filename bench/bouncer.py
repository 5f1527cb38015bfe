"""A PgBouncer in transaction mode before a server of the measurements."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo

from pgsplit.postgres.embedded_access import account

PROGRAM = shutil.which("pgbouncer", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
PATIENCE_SECONDS = 30
CONFIGURATION = """\
[databases]
{databases}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 10
"""


@contextmanager
def bouncer(folder: Path, urls: Mapping[str, str]) -> Iterator[Mapping[str, str] | None]:
    """Run PgBouncer for the block.

    Args:
        folder: where its files go; it must not exist.
        urls: the databases behind it, by name.

    Yields:
        The URLs through it, by name; None if it is not installed.
    """
    if PROGRAM is None:
        yield None
        return
    folder.mkdir(mode=0o700)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    databases = "".join(f"{name} = {_route(url)}\n" for name, url in urls.items())
    settings = {"databases": databases, "port": port, "folder": folder}
    (folder / "main.ini").write_text(CONFIGURATION.format(**settings))
    (folder / "users").write_text('"postgres" ""\n')
    options: dict[str, Any] = {}
    if os.geteuid() == 0:  # which PgBouncer refuses to run as
        uid, gid = account()
        for path in (folder, *folder.iterdir()):
            os.chown(path, uid, gid)
        options = {"user": uid, "group": gid, "extra_groups": []}
    through = {name: f"postgresql://postgres@127.0.0.1:{port}/{name}" for name in urls}
    command = [PROGRAM, "-q", f"{folder}/main.ini"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **options) as process:
        try:
            _wait(process, list(through.values()))
            yield through
        finally:
            process.terminate()


def _route(url: str) -> str:
    parts = conninfo.conninfo_to_dict(url)
    return f"host={parts['host']} port={parts.get('port', 5432)} dbname={parts['dbname']}"


def _wait(process: subprocess.Popen[bytes], urls: Sequence[str]) -> None:
    """Wait until all databases answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for url in urls:
        while True:
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"PgBouncer does not answer: {error}") from error
                time.sleep(0.05)
