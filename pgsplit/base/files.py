"""Writes files so that neither a crash nor a reader ever meets half of one."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def replace(path: Path, text: str) -> None:
    """Replace a file; atomic and durable. The new file keeps the old one's owner and readers.

    A file that did not exist is for the folder's owner alone. An existing one may have been given
    to a group, which can go on reading it.

    Args:
        path: the file; its folder has to exist.
        text: what it shall hold.
    """
    folder, draft = path.parent.stat(), path.with_name(path.name + ".new")
    before = path.stat() if path.exists() else folder
    mode = stat.S_IMODE(before.st_mode) & 0o640 if before is not folder else 0o600
    owner = before.st_uid if os.geteuid() == 0 else -1
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            try:
                os.chown(out.fileno(), owner, before.st_gid)
            except PermissionError:
                mode = 0o600  # we are not in that group, and no other group may read the file
            os.fchmod(out.fileno(), mode)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable: a file that was created or renamed survives a crash."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
