"""The phases of the split as Dagster jobs: three for each service, and a daily proof of all.

    SPLIT_PROJECT=/srv/split dagster dev -f examples/orchestration/dagster_jobs.py

A person starts `prepare_SERVICE`, reads the report, and starts `switch_SERVICE`, and weeks later
`complete_SERVICE`. The settings are those of the project's folder, `split.toml` and `.env`. Every
command may be repeated: an op that has failed is run again and goes on from where it stopped.
"""

import csv
import os
import subprocess
from pathlib import Path

from dagster import (
    Definitions,
    Failure,
    In,
    JobDefinition,
    MetadataValue,
    Nothing,
    OpDefinition,
    OpExecutionContext,
    RetryPolicy,
    ScheduleDefinition,
    job,
    op,
)

PROJECT = Path(os.environ.get("SPLIT_PROJECT", "/srv/split"))
RUNNER = (".venv/bin/python", "runner.py")
RETRYING = RetryPolicy(max_retries=2, delay=60)


def command(name: str, *words: str, retries: RetryPolicy | None = RETRYING) -> OpDefinition:
    """Make an op of a command; its output goes to the op's log."""

    @op(name=name, ins={"after": In(Nothing)}, retry_policy=retries)
    def run(context: OpExecutionContext) -> None:
        done = subprocess.run([*RUNNER, *words], cwd=PROJECT, capture_output=True, text=True)
        said = done.stdout + done.stderr
        context.log.info(said)
        if done.returncode:
            raise Failure(
                f"runner.py {' '.join(words)} exited with {done.returncode}",
                {"output": MetadataValue.text(said)},
            )

    return run


def one_after_the_other(name: str, *ops: OpDefinition) -> JobDefinition:
    """Make a job of ops that wait for each other."""

    @job(name=name)
    def made() -> None:
        after = None
        for one in ops:
            after = one(after) if after else one()

    return made


def jobs(service: str) -> list[JobDefinition]:
    """Make the jobs of a service."""
    return [
        one_after_the_other(
            f"prepare_{service}",
            command(f"check_{service}", "check", service),
            command(f"run_{service}", "run", service),
            command(f"verify_{service}", "verify", service),
            command(f"rehearse_{service}", "switch", service, "--dry-run"),
        ),
        one_after_the_other(
            # Not repeated by itself: a switch that was undone is looked at by a person.
            f"switch_{service}",
            command(f"move_{service}", "switch", service, retries=None),
            command(f"verify_{service}_switched", "verify", service),
        ),
        one_after_the_other(
            f"complete_{service}",
            command(f"finish_{service}", "complete", service, retries=None),
        ),
    ]


proof = one_after_the_other(
    "proof",
    command("verify", "verify"),
    command("parity", "parity"),
    command("report", "report", "--html", "report.html"),
)
with (PROJECT / "seeds" / "services.csv").open(newline="") as listed:
    roles = [one["role"] for one in csv.DictReader(listed)]

defs = Definitions(
    jobs=[proof, *(one for role in roles for one in jobs(role))],
    schedules=[ScheduleDefinition(job=proof, cron_schedule="0 5 * * *")],
)
