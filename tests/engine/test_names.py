"""The engine names no customer: what only concerns Blytz Hire is in its own project."""

from __future__ import annotations

import re
import subprocess

from demo.project import PROJECT, ROOT
from pgsplit.state.schema import VERSION

# Tables may be examples in comments; databases, the customer and the number of services may not.
FORBIDDEN = re.compile(
    rf"blytz|\bsix\b|_db\b|\b({'|'.join(map(re.escape, PROJECT.services))})\b", re.IGNORECASE
)


def test_engine_names_no_project() -> None:
    listed = ["git", "ls-files", "pgsplit"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in files.stdout.split()
        for number, line in enumerate((ROOT / name).read_text("utf-8").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


def test_dbt_expects_the_version_that_the_runner_makes() -> None:
    macro = (ROOT / "pgsplit" / "dbt" / "macros" / "state" / "state_version.sql").read_text("utf-8")
    assert f"return({VERSION})" in macro
