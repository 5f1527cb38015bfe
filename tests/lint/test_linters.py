"""Linters and conventions, one test each, so that they run in parallel with all others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.project import ROOT
from tests.support.split import Split

# What sqlfluff and dbt need of the project to compile the engine's own tests and analyses.
PROJECT_FILES = (".sqlfluff", "dbt_project.yml", "packages.yml", "profiles.yml")
PROJECT_FOLDERS = ("dbt_packages", "macros", "models", "seeds")
LINT = ("sqlfluff", "lint", "--disable-progress-bar")


def says(*command: str, **options: object) -> str:
    """Run a linter, which must succeed; give its output."""
    program = str(Path(sys.executable).parent / command[0])
    done = subprocess.run(  # type: ignore[call-overload]
        [program, *command[1:]], capture_output=True, text=True, **{"cwd": ROOT, **options}
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), ("lint-imports",)],
    ids=["ruff check", "ruff format", "mypy", "lint-imports"],
)
def test_python_passes_the_linters(command: tuple[str, ...]) -> None:
    assert says(*command)


@pytest.mark.slow
def test_sql_passes_sqlfluff(landed: Split) -> None:
    """sqlfluff compiles models with dbt, which needs a server."""
    assert says(*LINT, "models", "tests", "analyses", env=landed.environ)


@pytest.mark.slow
def test_sql_of_the_package_is_as_agreed(landed: Split, tmp_path: Path) -> None:
    """sqlfluff only finds files of the root project; so here they are those of one."""
    for name in (*PROJECT_FILES, *PROJECT_FOLDERS):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("tests", "analyses"):
        (tmp_path / name).symlink_to(ROOT / "pgsplit" / "dbt" / name)
    said = says(*LINT, "tests", "analyses", env=landed.environ, cwd=tmp_path)
    assert "not found in dbt project" not in said


def test_static_sql_is_as_agreed() -> None:
    assert says(
        *LINT, "--templater", "raw", "pgsplit/state", "pgsplit/replication", "pgsplit/observe"
    )


@pytest.mark.slow
def test_models_follow_the_conventions(landed: Split) -> None:
    from tests.conventions import MANIFEST  # dbt_score takes its time

    everything = ("--vars", "everything: true", "--target-path", str(MANIFEST.parent))
    parsed = landed.dbt("parse", "--target", "payments_db", *everything)
    assert parsed.returncode == 0, parsed.stdout
    says("dbt-score", "lint", "--manifest", str(MANIFEST))
