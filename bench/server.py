"""Servers of their own for measurements: the embedded one, and Debian's PostgreSQL 15."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo.project import MONOLITH
from pgsplit.postgres import embedded

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
ACCOUNT = "postgres"


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """Run the embedded server for the block.

    Yields:
        The environment in which the runner and dbt find all databases on it.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        embedded.start(root)
        try:
            yield _environment(root, embedded.url(root, MONOLITH))
        finally:
            embedded.wipe(root)


@contextmanager
def server_15() -> Iterator[dict[str, str]]:
    """Run PostgreSQL 15 for the block, with the embedded server's settings: pgcopydb needs it.

    Yields:
        The environment in which the runner and dbt find all databases on it.

    Raises:
        SystemExit: it is not installed.
    """
    if not (DEBIAN_15 / "postgres").exists():
        raise SystemExit("PostgreSQL 15 is not installed. Debian: apt-get install postgresql-15")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        root = Path(folder)
        home = root / "15"
        home.mkdir(mode=0o700)
        account: dict[str, Any] = {}
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            root.chmod(0o711)
            account = {"user": ACCOUNT, "group": pwd.getpwnam(ACCOUNT).pw_gid}
            shutil.chown(home, ACCOUNT)

        def run(program: str, *options: str) -> None:
            command = [str(DEBIAN_15 / program), "-D", f"{home}/data", *options]
            subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **account)

        run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-k")
        given = {**embedded.SETTINGS, "unix_socket_directories": str(home)}
        del given["max_active_replication_origins"]  # since 18
        settings = "".join(f"{name} = '{value}'\n" for name, value in given.items())
        with (home / "data" / "postgresql.conf").open("a") as file:
            file.write(settings)
        try:
            run("pg_ctl", "-w", "-t", "600", "-l", f"{home}/log", "start")
            yield _environment(root, f"postgresql://postgres@/{MONOLITH}?host={home}")
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


def _environment(folder: Path, url: str) -> dict[str, str]:
    """Give the environment without the caller's own databases."""
    return {
        **{name: value for name, value in os.environ.items() if not name.endswith("_URL")},
        "BLYTZ_HIRE_URL": url,
        "BLYTZ_HIRE_CONNECTIONS": str(folder),
        "DBT_TARGET_PATH": f"{folder}/target",
        "DBT_LOG_PATH": f"{folder}/logs",
    }
