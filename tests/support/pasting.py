"""An operator who does what `check` says: pastes each server's block into psql."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from pgsplit.postgres.connect import with_database
from tests.support.servers import DEBIAN_15
from tests.support.split import Split


def checked(split: Split, *services: str, code: int = 0) -> dict[str, Any]:
    """Run `check --json`; give what it found."""
    done = split.runner("check", *services, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert "servers" in found, found
    listed = [one for server in found["servers"] for one in server["findings"]] + found["machine"]
    lacking = [(one["what"], one["problem"]) for one in listed if one["state"] == "missing"]
    assert done.returncode == found["exit_code"] == code, (lacking, done.stderr)
    return found


def findings(found: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """Give what was found about one thing, at all servers."""
    listed = [one for server in found["servers"] for one in server["findings"]] + found["machine"]
    return [one for one in listed if one["what"] == what]


def paste(statements: list[str], superuser: str) -> str:
    """Paste statements into a superuser's psql; give what it said."""
    done = subprocess.run(
        [
            str(DEBIAN_15 / "psql"),
            "-X",
            "-v",
            "ON_ERROR_STOP=1",
            with_database(superuser, "postgres"),
        ],
        input="\n".join(statements),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def paste_all(found: dict[str, Any], superusers: dict[str, str]) -> None:
    """Paste each server's block, as its superuser; ports name the servers."""
    for server in found["servers"]:
        if server["statements"]:
            paste(server["statements"], superusers[server["server"].rpartition(":")[2]])
