"""Certificates that servers and clients of a test sign themselves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def make_certificate(folder: Path, name: str = "server", subject: str = "localhost") -> None:
    """Make a key and a certificate for it, readable by the folder's owner.

    Args:
        folder: where the files go, such as a server's data directory.
        name: the files' name without its ending.
        subject: whose certificate it is.
    """
    made = ("openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", f"/CN={subject}")
    files = ("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt"))
    subprocess.run([*made, *files], check=True, capture_output=True)
    owner = folder.stat()
    for ending in ("key", "crt"):
        path = folder / f"{name}.{ending}"
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)
