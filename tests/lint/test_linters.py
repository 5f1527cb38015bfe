"""Linters and conventions, one test each, so that they run beside all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.project import ROOT
from tests.support.split import Split

SQL = ("models", "tests", "analyses")


def says(*command: str, **options: object) -> str:
    """Run a linter, which has to be content; give what it said."""
    program = str(Path(sys.executable).parent / command[0])
    done = subprocess.run(  # type: ignore[call-overload]
        [program, *command[1:]], cwd=ROOT, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_python_is_as_agreed(command: tuple[str, ...]) -> None:
    assert says(*command)


@pytest.mark.slow
def test_sql_is_as_agreed(landed: Split) -> None:
    """sqlfluff compiles models with dbt, which asks a server."""
    assert says("sqlfluff", "lint", "--disable-progress-bar", *SQL, env=landed.environ)


@pytest.mark.slow
def test_models_keep_the_conventions(landed: Split) -> None:
    from tests.conventions import MANIFEST  # dbt_score takes its time

    everything = ("--vars", "everything: true", "--target-path", str(MANIFEST.parent))
    parsed = landed.dbt("parse", "--target", "payments_db", *everything)
    assert parsed.returncode == 0, parsed.stdout
    says("dbt-score", "lint", "--manifest", str(MANIFEST))
