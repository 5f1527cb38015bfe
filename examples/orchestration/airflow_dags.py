"""The phases of the split as Airflow DAGs: one for each service, and a daily proof of all.

Copy this file into Airflow's folder of DAGs, and set the variable SPLIT_PROJECT to the project's
folder, where its settings are, too: `split.toml` and `.env`. Airflow needs the package
apache-airflow-providers-standard, and pgsplit's own `.venv` stays apart from it. Every command may
be repeated, so a task that has failed is cleared and goes on from where it stopped.
"""

from __future__ import annotations

import csv
import os
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG

PROJECT = Path(os.environ.get("SPLIT_PROJECT", "/srv/split"))
RUNNER = ".venv/bin/python runner.py"
RETRYING = {"retries": 2, "retry_delay": timedelta(minutes=1)}
# A person has a week to approve what the reports say.
APPROVAL = {"response_timeout": timedelta(days=7)}


def command(name: str, *words: str, **options: object) -> BashOperator:
    """Make a task of a command; its output is the task's log."""
    told = " ".join([RUNNER, *words])
    return BashOperator(
        task_id=name, bash_command=told, cwd=str(PROJECT), append_env=True, **options
    )


def split_dag(service: str) -> DAG:
    """Make the DAG of a service, from nothing to completed, with two approvals by a person."""
    with DAG(
        f"split_{service}",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        default_args=RETRYING,
        tags=["split"],
    ) as dag:
        approve_switch = ApprovalOperator(
            task_id="approve_switch",
            subject=f"Switch {service}? The report and the dry run are in the logs.",
            **APPROVAL,
        )
        approve_completion = ApprovalOperator(
            task_id="approve_completion",
            subject=f"Complete {service}? After that there is no rollback any more.",
            **APPROVAL,
        )
        (
            command("check", "check", service)
            >> command("run", "run", service)
            >> command("verify", "verify", service)
            >> command("rehearse", "switch", service, "--dry-run")
            >> approve_switch
            # Not repeated by itself: a switch that was undone is looked at by a person.
            >> command("switch", "switch", service, retries=0)
            >> command("verify_switched", "verify", service)
            >> approve_completion
            >> command("complete", "complete", service, retries=0)
        )
    return dag


with (PROJECT / "seeds" / "services.csv").open(newline="") as listed:
    for one in csv.DictReader(listed):
        globals()[f"split_{one['role']}"] = split_dag(one["role"])

with DAG(
    "split_proof",
    schedule="0 5 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args=RETRYING,
    tags=["split"],
) as split_proof:
    (
        command("verify", "verify")
        >> command("parity", "parity")
        >> command("report", "report", "--html", "report.html")
    )
