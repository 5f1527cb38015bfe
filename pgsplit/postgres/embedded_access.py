"""Whose the embedded server is: the account that it runs as, and who may enter its folders."""

from __future__ import annotations

import fcntl
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pgsplit.base.errors import EmbeddedFailed

ACCOUNT = "embedded_postgres"


def account() -> tuple[int, int]:
    """Look up the user and group that the server runs as: ours, but never root's."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    with suppress(KeyError):
        return pwd.getpwnam(ACCOUNT)[2:4]
    try:
        # Two useradds at once leave one account, with the later one's number: one at a time.
        with open("/etc/shadow", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(KeyError):  # whoever held the lock before may have made it
                return pwd.getpwnam(ACCOUNT)[2:4]
            make = ["useradd", "-s", "/bin/bash", ACCOUNT]
            subprocess.run(make, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or error
        what = f"The account {ACCOUNT}, which runs root's server, can't be created: {why}"
        raise EmbeddedFailed(what, hint="run this as an ordinary user") from error
    return pwd.getpwnam(ACCOUNT)[2:4]


def name_of(uid: int) -> str:
    """Name a user by number."""
    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return f"user {uid}"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the folder's lock for the block; raise EmbeddedFailed where the system refuses."""
    try:
        home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        owner = home.stat().st_uid
        if owner != os.geteuid():
            what = f"This server belongs to {name_of(owner)}, not to {name_of(os.geteuid())}."
            hint = f"run this as {name_of(owner)}, or in a clone of your own"
            raise EmbeddedFailed(what, where=str(home), hint=hint)
        with open_private(home / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                yield
                return
        # The folder was wiped while we waited for the lock, and the lock with it.
        with locked(home):
            yield
    except OSError as error:
        what = f"The server's files can't be used: {error.strerror or error}"
        raise EmbeddedFailed(what, where=str(error.filename or home)) from error


def open_private(path: Path) -> IO[bytes]:
    """Open a file to append to it; a new one is readable by its owner alone."""
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))


def claim(sockets: Path) -> None:
    """Create the socket directory, or check that the existing one is ours alone."""
    uid, gid = account()
    with suppress(FileExistsError):
        sockets.mkdir(mode=0o700)
    found = sockets.lstat()
    mode, owner = stat.filemode(found.st_mode), name_of(found.st_uid)
    if mode != "drwx------" or found.st_uid not in (uid, os.geteuid()):
        what = (
            f"The socket's directory must be drwx------ of {name_of(uid)}; it is {mode} of {owner}."
        )
        hint = f"if no server of {owner} uses it: rm -r {sockets}"
        raise EmbeddedFailed(what, where=str(sockets), hint=hint)
    os.chown(sockets, uid, gid, follow_symlinks=False)


def open_parents(*paths: Path) -> tuple[Path, ...]:
    """Let every account enter the folders above the paths, without listing them."""
    folders = sorted({folder for path in paths for folder in path.resolve().parents})
    closed = tuple(folder for folder in folders if not folder.stat().st_mode & stat.S_IXOTH)
    for folder in closed:
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXOTH)
    return closed
