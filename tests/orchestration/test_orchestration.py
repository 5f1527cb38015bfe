"""The phases as an Airflow DAG and as Dagster jobs, run by the tools: make test-orchestration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from demo.project import ROOT
from tests.support.split import Done, Split

pytestmark = pytest.mark.orchestration
EXAMPLES = ROOT / "examples" / "orchestration"
AIRFLOW = """
import airflow_dags
names = [name for name in vars(airflow_dags) if name.startswith("split_")]
assert {"split_payments", "split_users", "split_proof"} <= set(names), names
run = airflow_dags.split_payments.test(mark_success_pattern="approve_.*")
assert run.state == "success", run.state
"""
DAGSTER = """
import dagster_jobs
def run(name):
    return dagster_jobs.defs.resolve_job_def(name).execute_in_process(raise_on_error=False)
assert run("switch_payments").success
assert run("complete_payments").success
refused = run("switch_payments")
assert not refused.success
said = refused.failure_data_for_node("move_payments").user_failure_data.metadata["output"].value
assert "there is no rollback any more" in said, said
"""


def in_tool(tool: str, code: str, split: Split, home: Path) -> Done:
    """Run code in the environment of a tool, which finds the examples and the split's databases."""
    return subprocess.run(
        [ROOT / f".venv-{tool}" / "bin" / "python", "-c", code],
        cwd=home,
        env={
            **split.environ,
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
            "PYTHONPATH": str(EXAMPLES),
            "SPLIT_PROJECT": str(ROOT),
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
    )


def state(split: Split) -> str:
    with split.monolith() as monolith:
        row = monolith.execute(
            "select state from split.states where service = 'payments_db'"
        ).fetchone()
    assert row
    return str(row[0])


def test_airflow_takes_a_service_from_nothing_to_completed(split: Split, tmp_path: Path) -> None:
    migrate = "from airflow.utils.db import initdb; initdb()"
    made = in_tool("airflow", migrate, split, tmp_path)
    assert made.returncode == 0, made.stderr
    done = in_tool("airflow", AIRFLOW, split, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(split) == "completed"


def test_dagster_switches_and_completes_and_tells_what_a_command_refuses(
    verified: Split, tmp_path: Path
) -> None:
    done = in_tool("dagster", DAGSTER, verified, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(verified) == "completed"
